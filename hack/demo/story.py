"""The story of the demo, from `kubectl apply` to the report."""

import os
import time
from pathlib import Path

from hack import diagnosis
from hack.demo import events, proof
from hack.demo.events import Event
from hack.demo.killing import kill
from hack.demo.proof import Kill
from hack.target import NAMESPACE, RELEASE, ROOT, Problem, Target, say

MANIFEST = ROOT / "examples" / "code-audit" / "workflow.yaml"
IMAGE = "perdure/code-audit:dev"
NAME = "audit"
WORKFLOW = f"workflows.perdure.dev/{NAME}"
#: Seconds for the whole run.
DEADLINE = float(os.environ.get("DEMO_TIMEOUT", "600"))
#: The kill comes when an agent has saved this many.
CHECKPOINTS = 2
REPORT_LINES = 24


class Story:
    """One run of the example in `namespace` of a cluster with Perdure."""

    def __init__(self, target: Target, namespace: str) -> None:
        self._target = target
        self._namespace = namespace
        self._run = f"{namespace}/{NAME}"
        self._kill: Kill | None = None

    def play(self) -> bool:
        """Run the example, kill an agent, print the evidence. True if every promise holds. Raises Problem."""
        try:
            self._clear()
            uid = self._apply()
            self._live(uid)
            self._kubectl("wait", "--for=condition=Complete", WORKFLOW, "--timeout=30s")
            return self._evidence(uid)
        except Problem:
            diagnosis.show(self._target, NAMESPACE, self._namespace)
            self._describe()
            diagnosis.logs(self._target, NAMESPACE, f"deploy/{RELEASE}-operator", f"deploy/{RELEASE}-gateway")
            raise

    def _kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self._target.kubectl(*arguments, "-n", self._namespace, deadline=120, stdin=stdin)

    def _clear(self) -> None:
        """A finished run never changes, so that a second demo needs a new object of the same name."""
        if not self._target.exists(WORKFLOW, "-n", self._namespace):
            return
        say("==> the workflow of an earlier demo goes first (its history stays in the ledger)")
        self._kubectl("delete", WORKFLOW, "--timeout=60s")
        ours = ("-l", f"perdure.dev/workflow={NAME}")
        for kind in ("agenttasks.perdure.dev", "pods"):
            self._kubectl("wait", kind, *ours, "--for=delete", "--timeout=90s")

    def _apply(self) -> str:
        """Returns the new run's uid."""
        manifest = MANIFEST.read_text()
        if image := os.environ.get("EXAMPLE_IMAGE"):
            manifest = manifest.replace(IMAGE, image)
        elif self._target.kind == "current":
            raise Problem(
                "your cluster takes the example's image from a registry: EXAMPLE_IMAGE must say which",
                "Build and push it as examples/code-audit/README.md says, "
                "and set EXAMPLE_IMAGE=REGISTRY/code-audit:TAG.",
            )
        say(f"\n==> kubectl apply -f {_shown(MANIFEST)}")
        say(self._kubectl("apply", "-f", "-", stdin=manifest).rstrip())
        return str(self._target.get(WORKFLOW, "-n", self._namespace)["metadata"]["uid"])

    def _live(self, uid: str) -> None:
        """Show the run's events as they come, and kill an agent on the way."""
        say("\n==> live")
        start = ""
        for event in events.follow(self._target, self._run, uid, deadline=time.monotonic() + DEADLINE):
            start = start or event["time"]
            if event["type"] != "task.progress":
                say(events.line(event, start=start))
            if self._kill is None and self._ripe(event):
                self._strike(event)
            if event["type"] in {"workflow.failed", "workflow.cancelled"}:
                raise Problem(f"the workflow ended with {event['type']}", "The state of its parts is above.")

    @staticmethod
    def _ripe(event: Event) -> bool:
        return event["type"] == "task.checkpointed" and int(event["data"]["sequence"]) == CHECKPOINTS

    def _strike(self, event: Event) -> None:
        task, attempt = event["task"], int(event["attempt"])
        selector = f"perdure.dev/task={task},perdure.dev/attempt={attempt}"
        found = self._target.get("pods", "-n", self._namespace, "-l", selector)["items"]
        pods = [pod["metadata"]["name"] for pod in found]
        if not pods:
            return  # the next agent that saves enough will do
        try:
            how = kill(self._target, self._namespace, pods[0])
        except Problem as problem:
            say(f"          (not killed: {problem})")
            return
        self._kill = Kill(task, attempt, how)
        say(f"\n    >>> pod {pods[0]}, after checkpoint {CHECKPOINTS}: {how}\n")

    def _evidence(self, uid: str) -> bool:
        say("\n==> kubectl get workflows -o wide")
        say(self._kubectl("get", "workflows.perdure.dev", NAME, "-o", "wide").rstrip())
        ours = ("-l", f"perdure.dev/workflow={NAME}")
        for kind in ("agenttasks.perdure.dev", "pods"):
            say(f"\n==> kubectl get {kind.partition('.')[0]}")
            say(self._kubectl("get", kind, *ours).rstrip())
        say(f"\n==> perdure events {self._run}")
        say(events.printed(self._target, self._run).rstrip())
        self._report()
        return self._proof(uid)

    def _report(self) -> None:
        report = self._kubectl("get", WORKFLOW, "-o", "jsonpath={.status.outputs.report}")
        lines = report.splitlines()
        say(f"\n==> the report (the first {min(REPORT_LINES, len(lines))} of {len(lines)} lines)")
        for line in lines[:REPORT_LINES]:
            say(f"    {line}")

    def _proof(self, uid: str) -> bool:
        if self._kill is None:
            raise Problem("no agent could be killed while it worked", "Run `make demo` again.")
        log = events.history(self._target, self._run, uid)
        workflow = self._target.get(WORKFLOW, "-n", self._namespace)
        tasks = self._target.get(
            "agenttasks.perdure.dev", "-n", self._namespace, "-l", f"perdure.dev/workflow={NAME}"
        )["items"]
        checks = proof.examine(log, proof.batches(workflow, tasks), self._kill)
        say("\n==> what the ledger's events and the agents' own journals say about the kill")
        for check in checks:
            say(f"    [{'ok' if check.holds else 'NO'}] {check.text}")
        if busy := proof.in_hand(log, self._kill):
            say(
                f"    When it was killed, attempt {self._kill.attempt} was {busy}: "
                "not saved yet, that was begun again. Nothing that was saved was."
            )
        return all(check.holds for check in checks)

    def _describe(self) -> None:
        say(f"\n--- {self._run}")
        try:
            say(self._kubectl("describe", WORKFLOW).rstrip())
        except Problem as problem:
            say(str(problem))


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT))
