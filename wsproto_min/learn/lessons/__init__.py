"""The lessons of the path, one module for each step. A docstring is the page of its step."""
