"""Access control: who may connect, join and speak."""
