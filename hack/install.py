"""`make install`: builds the images and installs the chart, with everything it needs, into a cluster.

python3 hack/install.py                     into the cluster under .cluster (boot it with `make cluster`)
CLUSTER=kind python3 hack/install.py        into a kind cluster
CLUSTER=current IMAGE_REPOSITORY=registry.example/perdure IMAGE_TAG=dev python3 hack/install.py
                                            wherever kubectl points; says first what is missing
"""

import argparse
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from hack import diagnosis  # noqa: E402 (the import needs the path above)
from hack.target import (  # noqa: E402
    IMAGE_BUILDER,
    NAMESPACE,
    RELEASE,
    ROOT,
    Problem,
    Target,
    run,
    say,
)

CHART = ROOT / "charts" / "perdure"
#: Seconds for everything to become ready.
DEADLINE = 300
#: The oldest Kubernetes that the chart accepts: see kubeVersion in Chart.yaml.
OLDEST = (1, 30)
#: What the chart creates outside its namespace, and the namespace itself.
RIGHTS = (
    ("create", "namespaces"),
    ("create", "customresourcedefinitions"),
    ("create", "clusterroles"),
    ("create", "clusterrolebindings"),
    ("create", "validatingadmissionpolicies"),
)


def install(target: Target) -> None:
    """Images into the cluster, then the chart. Does little when nothing has changed. Raises Problem."""
    if target.kind == "current":
        check_needs(target)
    image_id = _images(target)
    _namespace(target)
    _chart(target, image_id)
    say(target.kubectl("get", "pods", "-n", NAMESPACE).rstrip())


def check_needs(target: Target) -> None:
    """Say what a cluster that was not built here must have, and check all of it before anything is changed.

    Raises Problem, which lists everything that is missing with its remedy.
    """
    image = f"{os.environ.get('IMAGE_REPOSITORY') or 'IMAGE_REPOSITORY'}:{os.environ.get('IMAGE_TAG', 'dev')}"
    major, minor = OLDEST
    say("==> what this cluster needs")
    missing = []
    if not os.environ.get("IMAGE_REPOSITORY"):
        missing.append(
            "an image in a registry that the cluster reaches, in IMAGE_REPOSITORY and IMAGE_TAG (dev):\n"
            "    docker build -t REGISTRY/perdure:TAG . && docker push REGISTRY/perdure:TAG\n"
            "    CLUSTER=current IMAGE_REPOSITORY=REGISTRY/perdure IMAGE_TAG=TAG make install"
        )
    say(f"    the image {image}, pushed to a registry from which its nodes pull")
    say(f"    Kubernetes {major}.{minor} or newer")
    server = json.loads(target.kubectl("version", "-o", "json"))["serverVersion"]
    found = (int(server["major"]), int("".join(filter(str.isdecimal, server["minor"]))))
    if found < OLDEST:
        missing.append(f"Kubernetes {major}.{minor} or newer; the cluster has {found[0]}.{found[1]}")
    for verb, resource in RIGHTS:
        say(f"    the right to {verb} {resource}")
        if not target.kubectl_may(verb, resource):
            missing.append(f"the right to {verb} {resource}: ask an administrator of the cluster")
    if missing:
        raise Problem("this cluster lacks what the chart needs; nothing was changed", "\n".join(missing))


def _images(target: Target) -> str:
    """Build and load the images. Returns the id of the operator's image, so that a new one is rolled out."""
    if target.kind == "current":
        return f"{os.environ['IMAGE_REPOSITORY']}:{os.environ.get('IMAGE_TAG', 'dev')}"
    say("==> images")
    # kind users have docker; without it the images are made from Debian packages and wheels.
    engine = "docker" if target.kind == "kind" else "buildah"
    command = [
        sys.executable,
        str(IMAGE_BUILDER),
        "all",
        "--state-dir",
        str(target.state),
        "--engine",
        engine,
    ]
    archives = run(command, deadline=3600, shown=True).split()
    _load(target, [Path(archive) for archive in archives])
    return str(json.loads((target.state / "images" / "perdure.json").read_text())["id"])


def _load(target: Target, archives: list[Path]) -> None:
    """Load the images into the cluster's nodes, except images that the cluster has already."""
    note = target.state / "images" / "loaded.json"
    cluster = target.get("namespace", "kube-system")["metadata"]["uid"]
    known = json.loads(note.read_text()) if note.exists() else {}
    now = {
        archive.name: [cluster, archive.stat().st_mtime_ns, archive.stat().st_size] for archive in archives
    }
    missing = [archive for archive in archives if known.get(archive.name) != now[archive.name]]
    if missing:
        load = [sys.executable, str(IMAGE_BUILDER), "load", "--state-dir", str(target.state)]
        run([*load, "--cluster", target.kind, *missing], deadline=600, shown=True)
        note.write_text(json.dumps(now, indent=2) + "\n")


def _namespace(target: Target) -> None:
    """Make a namespace that refuses any pod that is not restricted, as the chart promises."""
    if not target.exists("namespace", NAMESPACE):
        target.kubectl("create", "namespace", NAMESPACE)
        target.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")


def _chart(target: Target, image_id: str) -> None:
    helm = [target.program("helm"), "--namespace", NAMESPACE]
    _free_release(target, helm)
    values = {
        "evaluation.enabled": "true",
        "image.tag": os.environ.get("IMAGE_TAG", "dev"),
        # The tag stays the same: the annotation changes with the image, and so rolls the pods.
        "operator.podAnnotations.perdure\\.dev/image": image_id,
        "gateway.podAnnotations.perdure\\.dev/image": image_id,
    }
    if target.kind == "current":
        values |= {"image.registry": "", "image.repository": os.environ["IMAGE_REPOSITORY"]}
    command = [*helm, "upgrade", "--install", RELEASE, str(CHART), "--wait", "--timeout", f"{DEADLINE}s"]
    for name, value in values.items():
        command += ["--set" if name == "evaluation.enabled" else "--set-string", f"{name}={value}"]
    say("==> helm upgrade --install")
    started = time.monotonic()
    with subprocess.Popen(
        command,
        env={**os.environ, **target.environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as helm_process:
        try:
            _watch(target, helm_process, deadline=started + DEADLINE + 60)
        finally:
            if helm_process.poll() is None:
                helm_process.terminate()
                helm_process.wait()
        assert helm_process.stdout is not None
        said = helm_process.stdout.read()
    if helm_process.returncode != 0:
        diagnosis.show(target, NAMESPACE)
        raise Problem(
            f"the chart could not be installed:\n{said.strip()}",
            "The state of its pods is above. Put the cause right and run the same command again.",
        )
    say(f"    ready after {time.monotonic() - started:.0f} s")


def _watch(target: Target, process: "subprocess.Popen[str]", *, deadline: float) -> None:
    """Say how the pods come along until the process ends."""
    before = ""
    # The API server's times have whole seconds.
    since = datetime.now(UTC).replace(microsecond=0)
    while time.monotonic() < deadline:
        try:
            process.wait(2)
            return
        except subprocess.TimeoutExpired:
            pass
        try:
            now = diagnosis.summary(target, NAMESPACE)
            if crashing := diagnosis.crashing(target, NAMESPACE, since=since):
                say(f"    giving up: {', '.join(crashing)} ended again and again")
                return
        except Problem:
            continue
        if now and now != before:
            say(f"    {now}")
        before = now


def _free_release(target: Target, helm: list[str]) -> None:
    """Helm refuses to touch a release that an earlier helm left half-way when it was killed."""
    try:
        text = run([*helm, "status", RELEASE, "-o", "json"], deadline=60, environment=target.environment)
    except Problem:
        return  # there is none
    status = json.loads(text)["info"]["status"]
    if status in {"pending-install", "uninstalling"}:
        say(f"    an earlier install was interrupted ({status}): removing it first")
        run([*helm, "uninstall", RELEASE, "--wait"], deadline=180, environment=target.environment)
    elif status.startswith("pending-"):
        say(f"    an earlier upgrade was interrupted ({status}): rolling it back first")
        run([*helm, "rollback", RELEASE], deadline=180, environment=target.environment)


def main() -> int:
    parser = argparse.ArgumentParser(description="Install Perdure into a cluster.")
    parser.add_argument("--cluster", help="native, kind or current (default: $CLUSTER or native)")
    parser.add_argument(
        "--state-dir", type=Path, help="the cluster's state folder (default: $STATE_DIR or .cluster)"
    )
    options = parser.parse_args()
    try:
        target = Target.from_environment(options.cluster, options.state_dir)
        target.up()
        install(target)
        if hint := target.hint():
            say(f"\nNext:\n  {hint}\n  kubectl apply -f examples/code-audit/workflow.yaml")
    except Problem as problem:
        print(f"error: {problem}", file=sys.stderr)
        if problem.remedy:
            print(problem.remedy, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
