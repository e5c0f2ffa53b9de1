"""The daemon under load, failures and attack: `pytest -rP tests/load` prints figures."""
