"""A small chat daemon on wsproto_min: `python -m chatd`, open the page, chat."""
