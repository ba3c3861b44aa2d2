"""Every example of the workflow language, on the real cluster, against its expected outcome.

Each example has a namespace of its own. The next batch is applied while the previous one is compared, so that
the node is busy, and yet no pod waits so long that an example with times in it would end differently.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import pytest
from hack.target import IMAGE_BUILDER, run

from tests.cluster.installation import DEADLINE, Installation, Object
from tests.cluster.language import RESOURCES, Example, Expected, Moment, Namespace, differences, due, examples
from tests.cluster.waiting import until

EXAMPLES = {example.name: example for example in examples()}
#: Examples that are applied together; those of one batch run while the previous batch is compared.
BATCH = 8
#: Seconds in which all that are under way are through with their pods, on a slow machine.
ALL = 300.0
#: Seconds for pods to leave after the end of their run, the default grace of half a minute included.
SETTLING = 60.0
ENDED = frozenset({"Succeeded", "Failed", "Cancelled"})


class Batches:
    """The examples' namespaces, filled batch by batch."""

    def __init__(self, perdure: Installation) -> None:
        self._perdure = perdure
        self._namespaces = {name: f"language-{name}-{secrets.token_hex(2)}" for name in EXAMPLES}
        self._applied: set[str] = set()
        self._make_namespaces()
        # Their first run comes with the next minute: long before the rest is done.
        self._apply(example for example in EXAMPLES.values() if example.scheduled)

    def namespace(self, name: str) -> str:
        """The namespace of an example, in which it is by now, as is the batch after its own."""
        names = list(EXAMPLES)
        end = (names.index(name) // BATCH + 2) * BATCH
        self._apply(EXAMPLES[other] for other in names[:end])
        return self._namespaces[name]

    def _make_namespaces(self) -> None:
        wanted = set(self._namespaces.values())
        self._kubectl_apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in sorted(wanted)
        )

        def accounts() -> bool:
            listed = self._perdure.items("serviceaccounts", "-A", "--field-selector=metadata.name=default")
            return wanted <= {item["metadata"]["namespace"] for item in listed}

        until(accounts, seconds=DEADLINE, what="the ServiceAccounts of the namespaces")

    def _apply(self, examples: Iterable[Example]) -> None:
        new = [example for example in examples if example.name not in self._applied]
        self._applied |= {example.name for example in new}
        self._kubectl_apply(
            {**manifest, "metadata": {**manifest["metadata"], "namespace": self._namespaces[example.name]}}
            for example in new
            for manifest in example.manifests
        )

    def _kubectl_apply(self, objects: Iterable[Object]) -> None:
        items = list(objects)
        if items:
            text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
            said = self._perdure.kubectl("apply", "-f", "-", stdin=text, seconds=120)
            # The test of a refused example fails by itself; the others can continue.
            print(said.error, end="", file=sys.stderr)


@pytest.fixture(scope="module")
def batches(perdure: Installation) -> Batches:
    """The examples, in namespaces of their own."""
    _load_image(perdure)
    return Batches(perdure)


def _load_image(perdure: Installation) -> None:
    """Make the image that the examples use known to the node, which can pull nothing."""
    state = ("--state-dir", str(perdure.target.state))
    archive = run([sys.executable, IMAGE_BUILDER, "base", *state], deadline=600).strip()
    run([sys.executable, IMAGE_BUILDER, "load", *state, archive], deadline=300)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_has_its_expected_outcome(perdure: Installation, batches: Batches, name: str) -> None:
    example, namespace = EXAMPLES[name], batches.namespace(name)
    with _explained(perdure, namespace):
        for expected in example.expected:
            _check(perdure, namespace, example, expected)


def _check(perdure: Installation, namespace: str, example: Example, expected: Expected) -> None:
    manifest = example.manifest(expected)
    name = manifest["metadata"]["name"]

    def see() -> Namespace:
        return Namespace(tuple(perdure.items(",".join(RESOURCES), "-n", namespace)))

    for action in expected.actions:
        when = action.when
        what = f"{name} to be {when.model_dump(exclude_defaults=True)}"
        until(partial(_is_due, when, name, expected.kind, see), seconds=ALL, what=what)
        resource = f"{expected.kind.lower()}s.perdure.dev/{name}"
        patch = json.dumps({"spec": action.patch})
        perdure.ok("patch", resource, "-n", namespace, "--type=merge", "-p", patch)

    def ended() -> bool:
        found = see().run(expected.kind, name)
        return found is not None and found.get("status", {}).get("phase") in ENDED

    until(ended, seconds=ALL, what=f"the end of {name}")
    found: list[str] = []

    def settled() -> bool:
        found[:] = differences(expected, name, see())
        return not found

    with contextlib.suppress(AssertionError):
        # Statuses of tasks may come a moment after their run's, and pods take their time to leave.
        until(settled, seconds=SETTLING, what="statuses and pods")
    assert not found, "\n".join([f"{example.name}, {expected.kind} {name}:", *found])


def _is_due(when: Moment, name: str, kind: str, see: Callable[[], Namespace]) -> bool:
    return due(when, name, kind, see())


@contextlib.contextmanager
def _explained(perdure: Installation, namespace: str) -> Iterator[None]:
    """Show what is in the namespace if the test fails there."""
    try:
        yield
    except AssertionError as error:
        resources = ("workflows.perdure.dev,agenttasks.perdure.dev,pods", "-o", "wide", "-n", namespace)
        error.add_note(perdure.kubectl("get", *resources).output)
        for item in perdure.items("workflows.perdure.dev,agenttasks.perdure.dev", "-n", namespace):
            found = {"name": item["metadata"]["name"], "status": item.get("status")}
            error.add_note(json.dumps(found, indent=1))
        warnings = ("events", "-n", namespace, "--field-selector=type=Warning")
        error.add_note(perdure.kubectl("get", *warnings).output)
        raise
