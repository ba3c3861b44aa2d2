"""The command line: `python3 hack/demo [up|down]`."""

import argparse
import shutil
import sys
import time
from pathlib import Path

from hack.demo.story import MANIFEST, Story
from hack.install import install
from hack.target import NAMESPACE, RELEASE, Problem, Target, run, say


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python3 hack/demo", description=__doc__)
    parser.add_argument("command", nargs="?", choices=("up", "down"), default="up")
    parser.add_argument("--cluster", help="native, kind or current (default: $CLUSTER or native)")
    parser.add_argument(
        "--state-dir", type=Path, help="the cluster's state folder (default: $STATE_DIR or .cluster)"
    )
    parser.add_argument("--namespace", default="default", help="where the workflow runs (default: default)")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    try:
        target = Target.from_environment(options.cluster, options.state_dir)
        if options.command == "down":
            down(target, options.namespace)
            return 0
        say("==> cluster")
        target.up()
        install(target)
        holds = Story(target, options.namespace).play()
        farewell(target, options.namespace, holds=holds, seconds=time.monotonic() - started)
        return 0 if holds else 1
    except Problem as problem:
        print(f"\nerror: {problem}", file=sys.stderr)
        if problem.remedy:
            print(problem.remedy, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; `make demo` continues, `make demo-down` removes everything", file=sys.stderr)
        return 130


def down(target: Target, namespace: str) -> None:
    """Remove everything that the demo created. Raises Problem."""
    if target.kind == "current":
        # The user's own cluster: the demo's objects are removed; the CRDs stay, as they may hold other runs.
        target.kubectl(
            "delete", "-f", str(MANIFEST), "-n", namespace, "--ignore-not-found", "--timeout=60s", deadline=90
        )
        helm = [target.program("helm"), "uninstall", RELEASE, "--namespace", NAMESPACE]
        run([*helm, "--ignore-not-found", "--wait"], deadline=180, environment=target.environment)
        target.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=120s", deadline=150)
        say(
            "gone from the cluster; its CRDs stay, because they would take all workflows with them:\n"
            "  kubectl delete crd workflows.perdure.dev agenttasks.perdure.dev agenttemplates.perdure.dev"
        )
        return
    target.down()
    if target.kind == "native" and target.state.exists() and not any(target.state.iterdir()):
        shutil.rmtree(target.state)


def farewell(target: Target, namespace: str, *, holds: bool, seconds: float) -> None:
    """Commands to explore the cluster, and to remove everything."""
    say(f"\n==> {'done' if holds else 'NOT as it should be'}, {seconds:.0f} s in all")
    workflow = f"workflows.perdure.dev audit -n {namespace}"
    gateway = f"kubectl exec -n {NAMESPACE} deploy/{RELEASE}-gateway -c gateway --"
    lines = [
        target.hint(),
        f"kubectl get workflows.perdure.dev,agenttasks.perdure.dev,pods -n {namespace}",
        f"kubectl describe {workflow}",
        f"kubectl get {workflow} -o jsonpath='{{.status.outputs.report}}'",
        f"{gateway} perdure events {namespace}/audit",
        f"kubectl logs -n {NAMESPACE} deploy/{RELEASE}-operator",
    ]
    say("Explore:")
    for line in filter(None, lines):
        say(f"  {line}")
    say("Tear down:\n  make demo-down" + ("" if target.kind == "native" else f" CLUSTER={target.kind}"))
