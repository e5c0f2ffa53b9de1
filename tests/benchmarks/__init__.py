"""Benchmarks: each of ours beside its rivals, in the same run on the same machine.

`python -m tests.benchmarks` runs them all; `--help` says what else there is.
"""
