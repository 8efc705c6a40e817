"""A small HTTP/1.1 server that knows nothing of metrics; only code that serves metrics imports it.

The server is our own, because it runs inside of someone else's process. A whole request and a whole
response have one deadline each, however slowly their bytes are spread, where the standard library
limits each read. When there is no room, the client that has kept the server waiting longest is
disconnected, so that scrapes go on whatever other clients do. After a fork, the child lets go of
sockets and locks without touching the parent's connections. And there is no dependency that could
clash with the application's own version of, say, h11.

The media types that a scraper may ask for are all that it knows of its purpose.
"""
