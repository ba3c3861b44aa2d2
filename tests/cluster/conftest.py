"""One installation for all tests of the tier, and its state when a test failed."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import sys
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from hack import diagnosis
from hack.cluster import start_full
from hack.install import install
from hack.target import NAMESPACE, RELEASE, Target

from tests.cluster.installation import Installation
from tests.cluster.leftovers import Belongings, Machine

#: Takes the installation away, so that it comes after everything else.
LAST = "test_uninstall"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the order, but for what must be last."""
    items.sort(key=lambda item: LAST in item.nodeid)


@pytest.fixture(scope="session")
def perdure(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """The chart, installed into a cluster that ends with this process, in whatever way that ends.

    Builds what is not there yet, which takes minutes on a new machine, and says so as it goes.
    """
    state = tmp_path_factory.mktemp("cluster")
    before = Machine.now()
    capture = request.config.pluginmanager.getplugin("capturemanager")
    target = Target("native", state)
    with capture.global_and_fixture_disabled():
        print("\n==> a cluster for the tests", file=sys.stderr, flush=True)
        cluster = start_full(state)
    belongings = None
    try:
        with capture.global_and_fixture_disabled():
            install(target)
        yield Installation(cluster, target)
    finally:
        belongings = Belongings.of(cluster)
        left = cluster.stop(keep_logs=request.session.testsfailed > 0)
        shutil.rmtree(state / "images", ignore_errors=True)
    left += belongings.left(before)
    assert not left, f"the cluster left these behind: {'; '.join(left)}"


@pytest.fixture
def namespace(request: pytest.FixtureRequest, perdure: Installation) -> str:
    """A fresh namespace, named like the test."""
    readable = re.sub("[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower())
    return perdure.make_namespace(readable[:40].strip("-"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Print the state of the installation after a failed test, before the next test changes it."""
    report = yield
    funcargs: dict[str, Any] = getattr(item, "funcargs", {})
    installation = funcargs.get("perdure")
    if report.failed and isinstance(installation, Installation) and installation.cluster.init.alive:
        report.sections.append(("state of the cluster", _state(installation)))
    return report


def _state(installation: Installation) -> str:
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        diagnosis.show(installation.target, NAMESPACE)
        diagnosis.logs(
            installation.target, NAMESPACE, f"deploy/{RELEASE}-operator", f"deploy/{RELEASE}-gateway"
        )
        for name in installation.namespaces[-2:]:
            print(f"\n--- namespace {name}")
            print(installation.kubectl("get", "pods,perdure", "-o", "wide", "-n", name).output)
            print(installation.kubectl("get", "events", "-n", name, "--field-selector=type=Warning").output)
    return text.getvalue()
