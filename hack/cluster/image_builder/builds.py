"""Building images with buildah, without a daemon, or with an engine on request."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from .common import (
    BASE,
    CACHE,
    Failure,
    copy_or_link,
    key_of,
    locked,
    megabytes,
    replacing,
    run,
    say,
    shown,
    step,
)
from .contexts import fingerprint
from .host import need
from .standins import archive_id, stand_in


@functools.cache
def buildah() -> tuple[str, ...]:
    need("buildah")
    policy = CACHE / "policy.json"
    if not policy.exists():
        policy.parent.mkdir(parents=True, exist_ok=True)
        policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}\n')
    for driver in ("overlay", "vfs"):
        # A storage root of our own: no other buildah or podman on the machine sees these images.
        place = ("--root", CACHE / "storage" / driver, "--runroot", CACHE / "storage" / f"{driver}-run")
        command = ("buildah", *map(str, place), "--storage-driver", driver)
        try:
            run([*command, "info"])
        except Failure as failure:
            if driver == "vfs":
                raise
            reason = str(failure).splitlines()[-1]
            say(f"    no {driver} storage here, going on with vfs, which is slower: {reason}")
        else:
            return command
    raise AssertionError


def full_tag(tag: str) -> str:
    """The name as a container runtime completes it."""
    first, slash, _ = tag.partition("/")
    if not slash:
        tag = f"docker.io/library/{tag}"
    elif not (set(first) & set(".:") or first == "localhost"):
        tag = f"docker.io/{tag}"
    return tag if ":" in tag.rsplit("/", 1)[-1] else f"{tag}:latest"


def short_name(tag: str) -> str:
    return full_tag(tag).rsplit("/", 1)[-1].split(":")[0]


def missing_images(dockerfile: Path) -> list[str]:
    """Images that a Dockerfile starts from and that no stand-in provides."""
    stages: set[str] = set()
    arguments: dict[str, str] = {}
    missing: list[str] = []
    for line in dockerfile.read_text().splitlines():
        if match := re.match(r"\s*ARG\s+(\w+)=(\S+)", line, re.IGNORECASE):
            arguments[match[1]] = match[2].strip("\"'")
        elif match := re.match(r"\s*FROM\s+(?:--\S+\s+)*(\S+)(?:\s+AS\s+(\S+))?", line, re.IGNORECASE):
            image = re.sub(r"\$\{?(\w+)\}?", lambda found: arguments.get(found[1], found[0]), match[1])
            if image not in stages and image != "scratch" and full_tag(image) != BASE:
                missing.append(image)
            stages.add(match[2] or "")
    return missing


def build(
    tag: str,
    files: Mapping[str, Path],
    target: Path,
    *,
    engine: str,
    arguments: Sequence[str] = (),
    refresh: bool = False,
) -> Path:
    tag = full_tag(tag)
    base = stand_in("python") if engine == "buildah" else None
    with locked(f"build-{short_name(tag)}"):
        key = key_of(tag, engine, arguments, fingerprint(files), base.name if base else None)
        record = target.with_suffix(".json")
        with contextlib.suppress(OSError, ValueError, KeyError):
            if target.exists() and json.loads(record.read_text())["key"] == key and not refresh:
                say(f"==> {tag}: unchanged, {megabytes(target)}")
                return target
        context = CACHE / "contexts" / short_name(tag)
        with replacing(context) as unfinished:
            for name, path in files.items():
                if path.is_symlink():
                    (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
                    (unfinished / name).symlink_to(path.readlink())
                else:
                    copy_or_link(path, unfinished / name)
        with step(f"{tag}: {engine} build"):
            options = [word for value in arguments for word in ("--build-arg", value)]
            record.unlink(missing_ok=True)
            if base is None:
                run(["docker", "build", "--quiet", "--tag", tag, *options, context])
                with replacing(target) as unfinished:
                    run(["docker", "save", "--output", unfinished, tag])
            else:
                build_without_engine(tag, context, target, base, options)
            say(f"    {shown(target)}, {megabytes(target)}")
        facts = {"key": key, "tag": tag, "engine": engine, "id": archive_id(target)}
        record.write_text(json.dumps(facts) + "\n")
    return target


def build_without_engine(tag: str, context: Path, target: Path, base: Path, options: Sequence[str]) -> None:
    if missing := missing_images(context / "Dockerfile"):
        raise Failure(
            f"the Dockerfile of {tag} starts from {', '.join(missing)}, and this build can start from "
            f"{BASE} only. Use that, or build with --engine docker."
        )
    command = [*buildah()]
    policy = ["--signature-policy", str(CACHE / "policy.json")]
    with locked("storage"):
        listed = run([*command, "images", "--quiet", "--no-trunc"]).split()
        if f"sha256:{archive_id(base)}" not in listed:
            with step("the base, into buildah's storage"):
                run([*command, "pull", "--quiet", *policy, f"docker-archive:{base}"])
        # chroot isolation needs neither namespaces nor cgroups nor a runtime, which many machines lack.
        how = [
            "--isolation",
            "chroot",
            "--pull-never",
            "--layers",
            "--force-rm",
            "--format",
            "docker",
            *options,
        ]
        run([*command, "build", *policy, *how, "--tag", tag, "--file", context / "Dockerfile", context])
        with replacing(target) as unfinished:
            run([*command, "push", "--quiet", *policy, tag, f"docker-archive:{unfinished}:{tag}"])
        # The images that this build replaced.
        with contextlib.suppress(Failure):
            run([*command, "rmi", "--prune"])


def pick_engine(name: str) -> str:
    if name == "docker":
        if shutil.which("docker") is None:
            raise Failure("--engine docker: there is no docker on PATH; install it, or leave the option away")
        try:
            run(["docker", "info", "--format", "{{.ServerVersion}}"])
        except Failure as failure:
            raise Failure(
                "--engine docker: the engine cannot be reached. Start it, or leave the option away.\n"
                f"{failure}"
            ) from None
    return name
