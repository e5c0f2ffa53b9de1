"""A small chat server on wsproto_min: run `python -m chatd` and open the page."""
