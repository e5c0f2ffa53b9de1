"""How hard Hypothesis tries: `pytest --hypothesis-profile=thorough`, or `quick`."""

from __future__ import annotations

from hypothesis import settings

# Examples at random, others each time; a failure prints how to have it again.
settings.register_profile(
    "thorough", max_examples=600, deadline=None, derandomize=False, print_blob=True
)
# A few, the same each time: for tests that are run thousands of times over.
settings.register_profile("quick", max_examples=20, deadline=None, derandomize=True, database=None)
