"""The dissector: explains the bytes of handshakes and frames, field by field."""
