"""Explanation of captured handshakes and frames, field by field, and the command for it."""
