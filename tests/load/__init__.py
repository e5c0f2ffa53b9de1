"""The daemon under load, faults and attack: `pytest -rP tests/load` prints figures."""
