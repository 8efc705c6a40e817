"""Pages as files of a directory that the processes of a service share."""
