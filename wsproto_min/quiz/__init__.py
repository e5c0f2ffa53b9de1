"""A quiz about frames: close code, byte and rule of each violation."""
