"""Benchmarks: this package beside other libraries, in one run on one machine.

`python -m tests.benchmarks` runs all of them; `--help` lists the options.
"""
