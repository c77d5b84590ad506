"""The NBD protocol as state machines without I/O: bytes in, buffers out."""
