"""How hypothesis searches here: wide on a developer's machine, the same examples every time in CI."""

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
settings.load_profile("ci" if os.environ.get("CI") == "true" else "perdure")
