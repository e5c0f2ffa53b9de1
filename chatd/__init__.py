"""A small chat server on wsproto_min: run `python -m chatd` and open the page."""

__version__ = "0.1.0"
