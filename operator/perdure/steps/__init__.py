"""The step kinds: one folder each, and the one registry.

`<kind>/spec.py` is the manifest side of a kind, `rules.py` its part in decisions, and `executor.py` what acts
for it in the cluster, imported late because `perdure lint` needs none of that. No other package
imports this one, except the programs (`main`, `cli`) that hand the registry to what they start.
"""

from __future__ import annotations

from typing import Final

from perdure.steps.agent import AgentKind
from perdure.steps.wait import WaitKind
from perdure.steps.workflow import WorkflowKind

#: Every step kind, in the order in which `kubectl explain` and the reference show their fields.
KINDS: Final = (AgentKind(), WaitKind(), WorkflowKind())
