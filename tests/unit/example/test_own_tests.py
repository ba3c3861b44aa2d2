"""The example's own tests, which a reader runs next to the agent."""

from __future__ import annotations

import importlib.util

from .conftest import EXAMPLE

_spec = importlib.util.spec_from_file_location("code_audit_tests", EXAMPLE / "test_agent.py")
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
# pytest collects tests and fixtures by the names of this module.
globals().update({name: value for name, value in vars(_module).items() if name.startswith("test_")})
scanned = _module.scanned
