"""How hard Hypothesis tries: `HYPOTHESIS_PROFILE=thorough` for many more examples."""

from __future__ import annotations

import os

from hypothesis import settings

# Examples at random, others each time; a failure prints how to have it again.
settings.register_profile(
    "thorough", max_examples=600, deadline=None, derandomize=False, print_blob=True
)
# A few, the same each time: for tests that are run thousands of times over.
settings.register_profile("quick", max_examples=20, deadline=None, derandomize=True, database=None)
if profile := os.environ.get("HYPOTHESIS_PROFILE"):
    settings.load_profile(profile)
