"""A check of the prose: words that this project has replaced by the words of its field.

`dialect.txt` maps each word, or phrase of several words, to its remedies; codespell finds the words in
files. Names of tests are checked too, each as a sentence. A summary says how many findings each folder has.

Not found: a phrase that a line break divides; words inside other identifiers (`was_told`), in file names,
and in what is generated or may not change (`SKIPPED`); and plain words in a sense that is a riddle ("made",
"shown", "wants", "goes", a sentence whose subject is "it"), which have honest uses too. Those are for the
reviewer.

    python hack/lint/words.py [FOLDER…]     exits with 1 if there is any finding
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[1]
DIALECT: Final = HERE / "dialect.txt"
SEARCHED: Final = ("operator", "sdk", "tests", "hack", "docs", "examples", "charts", "Makefile", "*.md")

#: Generated from sources that are checked themselves; applied migrations, whose checksums are stored in
#: databases; statements of an old version, kept for the upgrade test; programs whose sources are part of the
#: cache key of the compiled Kubernetes; hashes and figures; the dictionary.
SKIPPED: Final = re.compile(
    r"charts/perdure/files/crds/|docs/reference\.md|docs/performance\.json|.*\.(svg|sum|json)$"
    r"|operator/perdure/ledger/migrations/000[1-8]_|tests/integration/ledger/statements_|hack/lint/|hack/cluster/tools/|tests/unit/docs/test_words\.py"
)

#: Uses that are the field's own: to look something up, the user "nobody", `tell` of files. And the column of
#: old names in docs/architecture.md.
ALLOWED: Final = (
    r"\b[Ll]ook(s|ed|ing)? ([a-z]+ ){0,3}up\b|\bnobody:|[`\"']nobody[`\"']|\.tell\(|\b(is|are) no more than\b"
    r"|^\| `[\w/]+\.py` \|"
)
_TEST: Final = re.compile(r"^ *(?:async )?def (test_\w+)", re.MULTILINE)


def _pattern() -> str:
    """The pattern of a word for codespell: a phrase of the dictionary, or letters, digits, `_-'`."""
    keys = (line.partition("->")[0] for line in DIALECT.read_text().splitlines())
    phrases = sorted((key for key in keys if " " in key), key=len, reverse=True)
    return rf"\b(?i:{'|'.join(phrases)})\b|[\w\-'’]+"


def _codespell(*arguments: str, text: str | None = None) -> list[str]:
    command = [
        sys.executable,
        "-m",
        "codespell_lib",
        "-D",
        str(DIALECT),
        "--regex",
        _pattern(),
        "--disable-colors",
    ]
    done = subprocess.run(
        [*command, "--ignore-regex", ALLOWED, *arguments],
        cwd=ROOT,
        input=text,
        capture_output=True,
        text=True,
    )
    if done.stderr:
        raise SystemExit(done.stderr)
    return done.stdout.splitlines()


def _names_of_tests(files: list[str]) -> list[str]:
    """Findings in the names of tests, each read as a sentence."""
    places, sentences = [], []
    for file in files:
        if file.endswith(".py"):
            text = (ROOT / file).read_text()
            for match in _TEST.finditer(text):
                places.append(f"{file}:{text.count(chr(10), 0, match.start(1)) + 1}")
                sentences.append(match[1].replace("_", " "))
    findings = []
    for line in _codespell("-", text="\n".join(sentences)):
        # codespell says the line, then that line's text, then the finding without a place.
        if found := re.match(r"(\d+): (.*)", line):
            place = places[int(found[1]) - 1]
        else:
            findings.append(f"{place}: {line.strip()} (name of a test)")
    return findings


def find(files: list[str]) -> list[str]:
    """Findings in files (paths in the repository, or absolute), each as `file:line: word ==> remedies`."""
    return sorted(_codespell(*files) + _names_of_tests(files))


def _folder(finding: str) -> str:
    parts = Path(finding.partition(":")[0]).parts
    return "/".join(parts[: min(3, len(parts) - 1)]) or parts[0]


def main(arguments: list[str]) -> int:
    listed = subprocess.run(
        ["git", "ls-files", "--", *(arguments or SEARCHED)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    files = [
        file for file in listed.stdout.splitlines() if not SKIPPED.match(file) and (ROOT / file).is_file()
    ]
    if not files:
        raise SystemExit(f"no file to check in {', '.join(arguments)}")
    findings = find(files)
    for finding in findings:
        print(finding)
    counts = Counter(map(_folder, findings))
    for folder, count in sorted(counts.items()):
        print(f"{count:6} {folder}", file=sys.stderr)
    print(f"{len(findings):6} words of the dialect in {len(files)} files", file=sys.stderr)
    return bool(findings)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
