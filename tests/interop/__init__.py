"""wsproto_min and chatd with the WebSockets of others."""
