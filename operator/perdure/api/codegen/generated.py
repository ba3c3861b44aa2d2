"""The command of a generator: one file, generated in whole or in part, is written or compared.

Generated files are committed, so that people read them where they read everything else; CI runs the command
with `--check`, which fails when a file is stale.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def command(
    module: str, path: Path, made: Callable[[str], str], arguments: Sequence[str] | None = None
) -> int:
    """`python -m MODULE [--check] [--output FILE]`; returns its exit code.

    `made` gives the file's new text, given the text that it has; '' if there is no such file. `path` is where
    the file is committed, from the top of the checkout.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=f"Generates {path}.")
    parser.add_argument("--output", type=Path, default=path, help=f"the file ({path})")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the file is stale")
    options = parser.parse_args(arguments)
    file: Path = options.output
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    after = made(before)
    if after == before:
        return 0
    if options.check:
        print(f"{file} is stale; run `make crds docs`", file=sys.stderr)
        return 1
    file.write_text(after, encoding="utf-8")
    return 0


def replace_block(text: str, name: str, content: str) -> str:
    """Markdown with new content between its markers of that name. Raises ValueError if it has none."""
    head, start, end, tail = _split(text, f"<!-- generated: {name} -->\n", f"<!-- end: {name} -->\n")
    return f"{head}{start}\n{content.strip()}\n\n{end}{tail}"


def replace_lines(text: str, name: str, content: str) -> str:
    """YAML with new lines between its comments of that name. Raises ValueError likewise."""
    head, start, end, tail = _split(text, f"# generated: {name}\n", f"# end: {name}\n")
    indent = head[head.rindex("\n") + 1 :]
    return f"{head}{start}{content.rstrip()}\n{indent}{end}{tail}"


def _split(text: str, start: str, end: str) -> tuple[str, str, str, str]:
    head, found, rest = text.partition(start)
    _, closed, tail = rest.partition(end)
    if not (found and closed):
        raise ValueError(
            f"has no lines {start.strip()!r} and {end.strip()!r}: put them where the block belongs"
        )
    return head, start, end, tail
