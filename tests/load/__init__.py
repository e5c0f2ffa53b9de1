"""Load, faults and attack against the real daemon: `pytest -rP tests/load` prints figures."""
