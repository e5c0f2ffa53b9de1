"""Hypothesis profiles: `pytest --hypothesis-profile=NAME`.

`default` has few examples, so that the plain test command is fast. `thorough` is for
`.ci/run`, `quick` for mutation testing.
"""

from __future__ import annotations

import signal

from hypothesis import settings

settings.register_profile("default", max_examples=30, deadline=None, print_blob=True)
settings.register_profile("thorough", max_examples=600, deadline=None, print_blob=True)
# The same examples in every run, so that a mutant cannot survive by chance.
settings.register_profile("quick", max_examples=20, deadline=None, derandomize=True, database=None)
settings.load_profile("default")

# A script starts its background jobs with SIGINT ignored, but tests end servers with it.
signal.signal(signal.SIGINT, signal.default_int_handler)
