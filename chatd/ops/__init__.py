"""Operation: metrics, health, the access log and the log handler."""
