"""What holds for every test: how the property tests draw their examples."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "quick",
    deadline=None,  # a busy machine is no fault of a property
    suppress_health_check=[HealthCheck.too_slow],
    max_examples=60,
    derandomize="KTBENCH_CI" in os.environ,  # a failure there is the same failure here
)
settings.load_profile("quick")
