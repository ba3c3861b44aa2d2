"""The API server's own metrics, read."""

from __future__ import annotations

from tests.bench.counts import OPERATOR_FLOW, parse

TEXT = f"""
# HELP apiserver_request_total [STABLE] Counter of apiserver requests.
apiserver_request_total{{code="201",resource="pods",subresource="",verb="POST"}} 7
apiserver_request_total{{code="409",resource="pods",subresource="",verb="POST"}} 2
apiserver_request_total{{code="200",resource="workflows",subresource="status",verb="PATCH"}} 5
apiserver_request_total{{code="201",resource="tokenreviews",subresource="",verb="POST"}} 3
apiserver_request_total{{code="200",resource="pods",subresource="",verb="LIST"}} 4
apiserver_flowcontrol_dispatched_requests_total{{flow_schema="{OPERATOR_FLOW}",priority_level="x"}} 20
apiserver_flowcontrol_dispatched_requests_total{{flow_schema="system",priority_level="x"}} 90
"""


def test_writes_are_those_that_changed_something() -> None:
    counts = parse(TEXT)
    assert counts.requests["POST", "pods"] == 9
    assert counts.writes == {("POST", "pods"): 7, ("PATCH", "workflows/status"): 5}


def test_requests_of_the_operator_besides_its_writes_are_counted_as_other() -> None:
    found = parse(TEXT).of_operator()
    assert (found["POST pods"], found["PATCH workflows/status"], found["other"]) == (9, 5, 6)


def test_only_requests_since_the_last_count_are_counted() -> None:
    before = parse(TEXT)
    after = parse(
        TEXT.replace('verb="POST"}} 7', 'verb="POST"}} 8').replace('verb="POST"} 7', 'verb="POST"} 8')
    )
    assert after.since(before).requests == {("POST", "pods"): 1}
