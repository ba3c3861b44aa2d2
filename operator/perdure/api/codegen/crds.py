"""Writes the CustomResourceDefinitions: `python -m perdure.api.codegen.crds [--check] [--output FOLDER]`.

The models are the one source of the schema. The files are committed, so that reviewers see what a change of a
model means to users, and `--check` tells CI when they are stale.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from perdure.api import GROUP, VERSION
from perdure.api.base import rule, rules_of_control
from perdure.api.codegen.schema import spec_schema, status_schema
from perdure.api.custom_resources import CATEGORY, KINDS, Column, CustomResource

#: Where the files are committed. Helm packs only what lies in the chart, hence the second copy.
FOLDERS = (Path("crds"), Path("charts/perdure/files/crds"))

_HEADER = "# Generated from the models in operator/perdure/api by `make crds`: change those.\n"


def crd(kind: CustomResource) -> dict[str, Any]:
    """The CustomResourceDefinition of one kind."""
    properties: dict[str, Any] = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
        "spec": spec_schema(kind.spec),
    }
    root: dict[str, Any] = {"description": kind.description, "type": "object", "required": ["spec"]}
    rules = list(rules_of_control(kind.fixed, kind.kind)) if kind.fixed else []
    if kind.max_name is not None:
        rules.append(
            rule(
                f"self.metadata.name.size() <= {kind.max_name} && !self.metadata.name.contains('.')",
                f"metadata.name: the name of {_article(kind.kind)} {kind.kind} has at most {kind.max_name}"
                " characters and no dots",
            )
        )
    if rules:
        root["x-kubernetes-validations"] = rules
    version: dict[str, Any] = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [_column(column) for column in kind.columns],
        "schema": {"openAPIV3Schema": root},
    }
    if kind.status is not None:
        properties["status"] = status_schema(kind.status)
        version["subresources"] = {"status": {}}
    root["properties"] = properties
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": kind.crd_name},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind.kind,
                "listKind": f"{kind.kind}List",
                "plural": kind.plural,
                "singular": kind.singular,
                "shortNames": [kind.short_name],
                "categories": [CATEGORY],
            },
            "scope": "Namespaced",
            "versions": [version],
        },
    }


def _article(word: str) -> str:
    return "an" if word[0] in "AEIOU" else "a"


def _column(column: Column) -> dict[str, Any]:
    made: dict[str, Any] = {"name": column.name, "type": column.type, "jsonPath": column.path}
    if column.description:
        made["description"] = column.description
    if column.wide:
        made["priority"] = 1
    return made


class _Dumper(yaml.SafeDumper):
    """Without anchors: Kubernetes tools read them, people do not."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def files() -> dict[str, str]:
    """The generated files, by name."""
    return {
        f"{GROUP}_{kind.plural}.yaml": _HEADER
        + yaml.dump(crd(kind), Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)
        for kind in KINDS
    }


def stale(folder: Path) -> list[str]:
    """Names of files in `folder` that are missing, differ, or belong to no kind any more."""
    wanted = files()
    present = {path.name for path in folder.glob(f"{GROUP}_*.yaml")}
    return sorted(
        (present - wanted.keys())
        | {
            name
            for name, text in wanted.items()
            if name not in present or (folder / name).read_text(encoding="utf-8") != text
        }
    )


def write(folder: Path) -> None:
    """Bring `folder` up to date, leaving files that are not ours alone."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = files()
    for path in folder.glob(f"{GROUP}_*.yaml"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (folder / name).write_text(text, encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m perdure.api.codegen.crds", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--output",
        type=Path,
        action="append",
        help=f"folder of the files; may be repeated ({' and '.join(map(str, FOLDERS))})",
    )
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a file is stale")
    options = parser.parse_args(arguments)
    failed = False
    for folder in options.output or FOLDERS:
        if not options.check:
            write(folder)
        elif names := stale(folder):
            failed = True
            print(f"stale in {folder}: {', '.join(names)}; run `make crds`", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
