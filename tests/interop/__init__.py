"""wsproto_min and chatd against other WebSocket implementations."""
