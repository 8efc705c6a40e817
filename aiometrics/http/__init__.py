"""A small HTTP/1.1 server that knows nothing of metrics."""
