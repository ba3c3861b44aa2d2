"""How many requests the API server answered, from its own metrics.

`apiserver_request_total` has verbs and resources but not the client. Writes of the operator alone are
recognised by the resource; all of its requests are counted by the flow that the rig gives its ServiceAccount.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

#: Flow of the operator's requests: see `cluster.py`.
OPERATOR_FLOW = "perdure-operator"
#: Written by the operator alone in the rig.
OPERATOR_WRITES = (
    ("POST", "agenttasks"),
    ("PATCH", "agenttasks/status"),
    ("POST", "pods"),
    ("PATCH", "workflows/status"),
)
_WRITING = frozenset({"POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"})
#: Reviews are posted but written nowhere.
_UNWRITTEN = frozenset({"tokenreviews", "subjectaccessreviews", "serviceaccounts/token"})
_LINE = re.compile(
    r"^(apiserver_request_total|apiserver_flowcontrol_dispatched_requests_total)\{([^}]*)\} (\S+)$"
)
_LABEL = re.compile(r'(\w+)="([^"]*)"')

Request = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Counts:
    """Requests since the API server started, or between two moments."""

    #: By verb, and resource with its subresource.
    requests: Counter[Request]
    #: Requests that changed something in etcd.
    writes: Counter[Request]
    #: By flow.
    flows: Counter[str]

    def since(self, before: Counts) -> Counts:
        """The requests since `before`."""
        return Counts(self.requests - before.requests, self.writes - before.writes, self.flows - before.flows)

    def of_operator(self) -> dict[str, int]:
        """The operator's requests by verb and resource; reads, leases and Kubernetes Events are `other`."""
        known = {" ".join(request): self.requests[request] for request in OPERATOR_WRITES}
        return {**known, "other": max(0, self.flows[OPERATOR_FLOW] - sum(known.values()))}


def parse(text: str) -> Counts:
    """The counts in the text of `/metrics`."""
    requests, writes, flows = Counter[Request](), Counter[Request](), Counter[str]()
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        labels = dict(_LABEL.findall(match[2]))
        number = int(float(match[3]))
        if match[1] != "apiserver_request_total":
            flows[labels["flow_schema"]] += number
            continue
        resource = labels["resource"] + (f"/{labels['subresource']}" if labels["subresource"] else "")
        request = (labels["verb"], resource)
        requests[request] += number
        if labels["verb"] in _WRITING and labels["code"].startswith("2") and resource not in _UNWRITTEN:
            writes[request] += number
    return Counts(requests, writes, flows)
