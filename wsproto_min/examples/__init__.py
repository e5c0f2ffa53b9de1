"""Runnable programs: `python -m wsproto_min.examples.NAME`."""
