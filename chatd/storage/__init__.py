"""Message storage: the interface, its SQLite engine and the write batcher."""
