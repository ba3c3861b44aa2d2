"""Profiles of hypothesis: random examples on a developer's machine, fixed ones in CI, few in `make check`."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "perdure",
    # A busy machine makes an example slow without anything being wrong.
    deadline=None,
    print_blob=True,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("ci", parent=settings.get_profile("perdure"), derandomize=True)
# `make check` is the inner loop; the other examples run with the whole tier.
settings.register_profile("check", parent=settings.get_profile("perdure"), max_examples=15)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") == "true" else "perdure")
)
