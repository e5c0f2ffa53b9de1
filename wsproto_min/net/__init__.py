"""Sockets: the event loop, the server, its peers and the blocking client."""
