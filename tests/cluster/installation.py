"""A real cluster with Perdure installed by Helm, as `make install` does it, and what tests do to it."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hack.cluster import Cluster, containers
from hack.install import CHART
from hack.target import NAMESPACE, RELEASE, Target

from tests.cluster.waiting import until

Object = dict[str, Any]
#: Parts of the chart that may be killed: component, which is also the container's name.
COMPONENTS = ("operator", "gateway", "nats", "postgres")
#: Seconds for what a busy machine does in a few.
DEADLINE = 120.0


@dataclass(frozen=True)
class Said:
    """The result of a command."""

    code: int
    output: str
    error: str


@dataclass
class Installation:
    """Perdure in a cluster of its own."""

    cluster: Cluster
    target: Target
    #: Namespaces that tests made, newest last.
    namespaces: list[str] = field(default_factory=list)

    # --- kubectl

    def kubectl(self, *arguments: str, stdin: str | None = None, seconds: float = 60) -> Said:
        """Run kubectl, whatever comes of it."""
        return _said(self.target.kubectl_line(*arguments), self.target.environment, stdin, seconds)

    def ok(self, *arguments: str, stdin: str | None = None, seconds: float = 60) -> str:
        """The output of kubectl; AssertionError unless it succeeded."""
        said = self.kubectl(*arguments, stdin=stdin, seconds=seconds)
        assert said.code == 0, f"kubectl {' '.join(arguments)}\n{said.error}{said.output}"
        return said.output

    def get(self, *arguments: str) -> Any:
        """`kubectl get … -o json`."""
        return json.loads(self.ok("get", *arguments, "-o", "json"))

    def items(self, *arguments: str) -> list[Object]:
        """The objects of a list."""
        items: list[Object] = self.get(*arguments)["items"]
        return items

    def apply(self, namespace: str, *objects: Mapping[str, Any]) -> Said:
        """`kubectl apply` of these objects."""
        # As JSON: kubectl reads YAML 1.1, in which a key such as `n` or `on` is a boolean.
        text = "\n---\n".join(json.dumps(item) for item in objects)
        return self.kubectl("apply", "-n", namespace, "-f", "-", stdin=text)

    def make_namespace(self, prefix: str) -> str:
        """A fresh namespace in which pods can be created."""
        name = f"{prefix}-{secrets.token_hex(2)}"
        self.ok("create", "namespace", name)
        self.namespaces.append(name)
        account = ("get", "serviceaccount", "default", "-n", name, "--ignore-not-found", "-o", "name")
        until(lambda: self.ok(*account).strip(), seconds=DEADLINE, what=f"the ServiceAccount of {name}")
        return name

    def execute(self, namespace: str, pod: str, *command: str, stdin: str | None = None) -> str:
        """The output of a command in a running container."""
        interactive = ("-i",) if stdin is not None else ()
        return self.ok("exec", *interactive, "-n", namespace, pod, "--", *command, stdin=stdin)

    def python(self, component: str, source: str, *arguments: str) -> str:
        """The output of a Python program in the pod of a component."""
        return self.execute(NAMESPACE, f"deploy/{RELEASE}-{component}", "python", "-c", source, *arguments)

    # --- helm

    def helm(self, *arguments: str, seconds: float = 300) -> Said:
        """Run helm in the release's namespace."""
        line = [self.target.program("helm"), *arguments, "--namespace", NAMESPACE]
        return _said(line, self.target.environment, None, seconds)

    def upgrade(self, *settings: str) -> None:
        """`helm upgrade` with the values in force, and these (`name=value`); waits until all is ready."""
        options = [option for setting in settings for option in ("--set", setting)]
        said = self.helm(
            "upgrade", RELEASE, str(CHART), "--reuse-values", *options, "--wait", "--timeout", "240s"
        )
        assert said.code == 0, said.error + said.output

    # --- parts of the chart

    def pods(self, component: str) -> list[Object]:
        """The component's pods that are not being deleted."""
        selector = f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component={component}"
        found = self.items("pods", "-n", NAMESPACE, "-l", selector)
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def restarts(self, component: str) -> int:
        """How often containers of the component were started again."""
        return sum(_container(pod, component)["restartCount"] for pod in self.pods(component))

    def signal(self, component: str, number: signal.Signals) -> None:
        """A real signal to process 1 of the component's container."""
        (pod,) = self.pods(component)
        containers.kill(self.cluster, NAMESPACE, pod["metadata"]["name"], component, number)

    def until_back(self, component: str, *, restarts: int) -> None:
        """Wait until the component has been started again, as often as that, and is ready."""

        def back() -> bool:
            ready = all(_container(pod, component)["ready"] for pod in self.pods(component))
            return ready and self.restarts(component) >= restarts

        until(back, seconds=DEADLINE, what=f"{component} to come back")

    def kill_agent(self, namespace: str, pod: str) -> None:
        """SIGKILL for the agent in a pod."""
        containers.kill(self.cluster, namespace, pod, "agent", signal.SIGKILL)


def ready(pod: Mapping[str, Any]) -> bool:
    """Whether a pod is ready."""
    conditions = pod["status"].get("conditions", ())
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def _container(pod: Mapping[str, Any], name: str) -> Object:
    return next(status for status in pod["status"]["containerStatuses"] if status["name"] == name)


def _said(line: Sequence[str], environment: Mapping[str, str], stdin: str | None, seconds: float) -> Said:
    done = subprocess.run(
        line,
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        env={**os.environ, **environment},
    )
    return Said(done.returncode, done.stdout, done.stderr)
