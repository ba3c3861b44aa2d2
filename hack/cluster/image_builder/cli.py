"""Container images for the clusters of the demo and the tests, made where no image registry can be reached.

Why: a machine without a registry has neither `python:3.13-slim` nor `postgres` nor `nats`. So this tool makes
stand-ins for them out of Debian packages and Python wheels, under the very names that Dockerfiles and charts
use, and builds the project's own images on top with buildah, without a daemon. The same Dockerfiles work
online with the official images.

    python3 hack/cluster/image_builder all            every image, into .cluster/images/
    python3 hack/cluster/image_builder build --tag perdure/perdure:dev
    python3 hack/cluster/image_builder load .cluster/images/perdure.tar

Everything is kept by content hash under ${XDG_CACHE_HOME:-~/.cache}/perdure/images, so a second run only
compares hashes. PERDURE_DEBIAN_MIRROR names another mirror than Debian's own.

Build contexts
    An image build needs no network: what it installs lies in its context as wheels. The context is assembled
    in a staging folder (nothing is written into the tree) from what .dockerignore lets through, and from
        wheelhouse/   third-party wheels for CPython 3.13 on this architecture, and pins.txt, which lists them
        dist/         wheels of the project's own distributions, built from this checkout
    Where the requirements come from:
    - A context with uv.lock and pyproject.toml: the locked versions of that project; dist/ holds its wheel,
      and its sources are left out of the context.
    - Otherwise requirements.txt next to the Dockerfile, one requirement per line (pinned with ==, no --hash).
      The project's own distributions (perdure, perdure-agent) stand in it like any other, without version.
    - Neither: the context is built as it is.
    A Dockerfile copies them with a glob (`COPY requirements.txt wheelhous[e] /build/wheelhouse/`), so that an
    ordinary online build, where the folder does not exist, finds nothing to copy and installs from the index
    instead. Or it mounts the context (`RUN --mount=type=bind,target=/context`) and tests whether they are
    there, which keeps the wheels out of the layers; it then copies what decides them (uv.lock,
    requirements.txt) before, because the contents of a mount are no part of the key of buildah's cache.

Recipes of the stand-ins: hack/cluster/image_recipes/<name>/
    rootfs.toml   a first layer, made by mmdebstrap: suite, variant, packages, dpkg_options; customize.sh
                  finishes it.
    image.toml    tag; rootfs: whose first layer; [[wheel]]: requirement, copy (prefix in the wheel = path in
                  the image), exclude (globs); [[file]]: source, path, mode; [[directory]]: path, mode, uid,
                  gid; [config]: as in the image specification.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from .builds import build, full_tag, pick_engine, short_name
from .common import (
    CACHE,
    EXAMPLE_CONTEXT,
    EXAMPLE_TAG,
    OPERATOR_TAG,
    RECIPES,
    ROOT,
    Failure,
    copy_or_link,
    replacing,
    run,
    say,
    shown,
    step,
)
from .contexts import assemble
from .standins import stand_in


def into(state: Path, name: str) -> Path:
    return state.resolve() / "images" / f"{name}.tar"


def publish(archive: Path, target: Path) -> Path:
    """A stand-in's archive from the cache, to where `load` and `make` expect it."""
    target.parent.mkdir(parents=True, exist_ok=True)

    def identity(path: Path) -> tuple[int, int]:
        return path.stat().st_size, path.stat().st_mtime_ns

    if not target.exists() or identity(target) != identity(archive):
        with replacing(target) as unfinished:
            copy_or_link(archive, unfinished)
    return target


def load(state: Path, archives: Sequence[Path], cluster: str) -> None:
    for archive in archives:
        if not archive.is_file():
            raise Failure(f"no {archive}: make it with `python3 hack/cluster/image_builder all`, or `build`")
    names = ", ".join(archive.stem for archive in archives)
    if cluster == "native":
        with step(f"load into the cluster under {shown(state)}: {names}"):
            command = [sys.executable, str(RECIPES.parent), "import-image", "--state-dir", str(state)]
            run([*command, *(str(archive.resolve()) for archive in archives)])
    elif cluster == "kind":
        name = os.environ.get("KIND_CLUSTER", "kind")
        with step(f"load into the kind cluster {name}: {names}"):
            for archive in archives:
                run(["kind", "load", "image-archive", "--name", name, archive])
    elif cluster == "current":
        raise Failure(
            "the cluster of your current kubeconfig context takes its images from a registry. Push them to "
            "one that it can reach, and say so to the chart:\n"
            + "".join(f"  docker load --input {archive}\n" for archive in archives)
            + "  docker tag perdure/perdure:dev REGISTRY/perdure:TAG && docker push REGISTRY/perdure:TAG\n"
            "  make demo CLUSTER=current IMAGE_REPOSITORY=REGISTRY/perdure IMAGE_TAG=TAG"
        )
    else:
        raise Failure(f"CLUSTER={cluster} is not known: use native, kind or current")


def make_all(options: argparse.Namespace) -> list[Path]:
    state: Path = options.state_dir
    made: list[Path] = []
    with ThreadPoolExecutor(1) as thread:
        # Wheels take network time and root filesystems CPU time, so both are built at the same time.
        contexts: list[tuple[str, Future[dict[str, Path]]]] = []
        for tag, context in ((OPERATOR_TAG, ROOT), (EXAMPLE_TAG, ROOT / EXAMPLE_CONTEXT)):
            dockerfile = context / "Dockerfile"
            if dockerfile.exists():
                files = thread.submit(assemble, context, dockerfile, refresh=options.refresh)
                contexts.append((tag, files))
            else:
                say(f"==> {full_tag(tag)}: left out, there is no {dockerfile.relative_to(ROOT)}")
        if options.engine == "buildah":
            stand_in("python", refresh=options.refresh)
            for name in ("postgres", "nats"):
                made.append(publish(stand_in(name, refresh=options.refresh), into(state, name)))
    for tag, files in contexts:
        target = into(state, short_name(tag))
        made.append(build(tag, files.result(), target, engine=options.engine, refresh=options.refresh))
    return made


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="image_builder",
        description="Container images for the demo's and the tests' clusters, without a registry.",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.add_argument(
            "--state-dir",
            type=Path,
            default=ROOT / ".cluster",
            help="the cluster's state folder (default: .cluster)",
        )
        return made

    def makes(made: argparse.ArgumentParser) -> None:
        made.add_argument("--refresh", action="store_true", help="build it again although nothing changed")

    def engine(made: argparse.ArgumentParser) -> None:
        made.add_argument(
            "--engine", choices=("buildah", "docker"), default="buildah",
            help="docker: build with a reachable engine and the official base image (default: buildah)",
        )  # fmt: skip

    for name, recipe in (("base", "python"), ("postgres", "postgres"), ("nats", "nats")):
        tag = tomllib.loads((RECIPES / recipe / "image.toml").read_text())["tag"]
        makes(command(name, f"make the stand-in for {tag}"))

    made = command("build", "build an image from a Dockerfile, as an archive")
    made.add_argument("--tag", required=True)
    made.add_argument("--file", type=Path, help="default: Dockerfile in the context")
    made.add_argument("--context", type=Path, default=ROOT, help="default: the checkout")
    made.add_argument("--output", type=Path, help="default: STATE-DIR/images/NAME.tar")
    made.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    makes(made)
    engine(made)

    made = command("load", "make archives known to the cluster's nodes")
    made.add_argument("archives", nargs="+", type=Path, metavar="ARCHIVE")
    made.add_argument(
        "--cluster",
        default=os.environ.get("CLUSTER") or "native",
        help="native, kind or current (default: $CLUSTER or native)",
    )

    made = command("all", "make every image of the demo")
    makes(made)
    engine(made)

    command("clean", "remove the cache and the archives")
    return top


def clean(state: Path) -> None:
    for folder in (CACHE, state.resolve() / "images"):
        if not folder.exists():
            continue
        say(f"==> remove {folder}")
        # buildah mounts its storage onto itself and leaves it so. The longest path first: mounts nest.
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for mount in sorted(mounts, reverse=True):
            if Path(mount).is_relative_to(folder):
                run(["umount", mount])
        shutil.rmtree(folder)


def main(words: Sequence[str] | None = None) -> int:
    options = parser().parse_args(words)
    started = time.monotonic()
    made: list[Path] = []
    try:
        if options.command in {"base", "postgres", "nats"}:
            name = "python" if options.command == "base" else options.command
            made.append(publish(stand_in(name, refresh=options.refresh), into(options.state_dir, name)))
        elif options.command == "build":
            context = options.context.resolve()
            made.append(
                build(
                    options.tag,
                    assemble(
                        context, (options.file or context / "Dockerfile").resolve(), refresh=options.refresh
                    ),
                    (options.output or into(options.state_dir, short_name(options.tag))).resolve(),
                    engine=pick_engine(options.engine),
                    arguments=options.build_arg,
                    refresh=options.refresh,
                )
            )
        elif options.command == "load":
            load(options.state_dir.resolve(), options.archives, options.cluster)
        elif options.command == "all":
            pick_engine(options.engine)
            made += make_all(options)
        elif options.command == "clean":
            clean(options.state_dir)
    except Failure as failure:
        say(f"image_builder: {failure}")
        return 1
    except KeyboardInterrupt:
        say("image_builder: interrupted; what was finished is kept")
        return 130
    say(f"    {options.command}: {time.monotonic() - started:.1f} s in all")
    for archive in made:
        print(shown(archive))
    return 0


if __name__ == "__main__":
    sys.exit(main())
