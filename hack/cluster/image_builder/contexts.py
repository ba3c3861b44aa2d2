"""Build contexts: all files of an image build, wheels included, so that the build needs no network."""

from __future__ import annotations

import functools
import os
import re
import shutil
import time
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

from .common import (
    CACHE,
    EPOCH,
    KEY_LENGTH,
    PYTHON,
    ROOT,
    WHEELHOUSE_DAYS,
    Failure,
    digest,
    key_of,
    locked,
    machine,
    remove_others,
    replacing,
    run,
    say,
    step,
)
from .host import download, uv


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
    """The files that a wheel of this project is built from."""
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
