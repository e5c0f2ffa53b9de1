"""Sockets around the protocol: a server on one selector, and a blocking client.

The path of received bytes through the server:

1. `event_loop` finds the socket ready and calls the peer's `transport`.
2. `transport` reads the bytes, through `tls` if the listener uses it.
3. `session` passes them to the opening handshake (`opening`), or to the `Connection`.
4. `session` takes each event from the `Connection` and calls the application with messages.
5. The application sends with a `peer` or with a group (`broadcast`). The frames wait in
   `write_coalescer` for the end of the iteration. `outgoing_stream` sends a message in fragments,
   and `message_order` lets other messages wait for its end.
6. `transport` writes the frames; `write_buffer` keeps the bytes that the socket does not take.

`listener` accepts connections, `timers` and `keepalive` end dead ones, and `server` ties all
of it together. `connector`, `client`, `reconnect` and `url` belong to the
client.
"""
