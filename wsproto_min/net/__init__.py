"""Sockets around the protocol: a server on one selector, and a blocking client.

Path of a received byte through the server: `event_loop` finds the socket ready, `transport`
reads it (through `tls` if needed), `session` passes the bytes to the handshake or the
connection and the messages to the application. Path of a sent byte: `peer` or `broadcast`
passes frames to `write_coalescer`, which writes them to `transport` at the end of the
iteration; `write_buffer` keeps the bytes that the socket does not take.
"""
