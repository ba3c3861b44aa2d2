"""What docs/security.md says of the supply chain: all that an index provides has a version and a hash."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def commands(text: str) -> list[str]:
    """Lines of a Dockerfile, with continued ones joined."""
    return [line for line in text.replace("\\\n", " ").splitlines() if not line.startswith("#")]


def build_tools() -> dict[str, str]:
    """Packages of build-tools.txt and their versions."""
    text = (ROOT / "build-tools.txt").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all("--hash=sha256:" in line for line in lines)
    found = (re.match(r"([\w-]+)==(\S+)", line) for line in lines)
    return {match[1]: match[2] for match in found if match}


def test_what_builds_the_image_is_pinned() -> None:
    tools = build_tools()
    assert {"uv", "hatchling"} <= tools.keys()
    for project in ("pyproject.toml", "sdk/pyproject.toml"):
        backend = tomllib.loads((ROOT / project).read_text())["build-system"]["requires"]
        assert backend == [f"hatchling=={tools['hatchling']}"]


def test_the_image_installs_nothing_without_a_hash() -> None:
    text = "\n".join(commands((ROOT / "Dockerfile").read_text()))
    installs = re.findall(r"pip (?:--python \S+ )?install [^;]*", text)
    assert len(installs) >= 4
    for install in installs:
        assert "--require-hashes" in install or "--no-index" in install, install
    wheels = re.findall(r"pip wheel [^;]*", text)
    assert wheels
    # Build isolation would fetch the build backend without a hash.
    assert all("--no-build-isolation" in wheel for wheel in wheels)


def test_base_images_are_arguments() -> None:
    lines = commands((ROOT / "Dockerfile").read_text())
    stages = {match[1] for line in lines if (match := re.search(r"^FROM \S+ AS (\S+)", line))}
    sources = {match[1] for line in lines if (match := re.match(r"FROM (\S+)", line))}
    assert sources - stages == {"${PYTHON_IMAGE}"}


def test_every_package_of_the_lock_has_hashes() -> None:
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    fetched = [package for package in packages if "registry" in package["source"]]
    assert len(fetched) > 50
    for package in fetched:
        files = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
        assert files and all(file["hash"].startswith("sha256:") for file in files), package["name"]
