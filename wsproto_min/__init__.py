"""RFC 6455 by hand: a WebSocket codec, connection and selectors server to learn from."""
