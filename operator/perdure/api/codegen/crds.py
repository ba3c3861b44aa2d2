"""The CustomResourceDefinitions, generated from the models.

The models are the one source of the schema. The files are committed, so that reviewers see what a change of a
model means to users, and CI fails when a file is stale.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from perdure.api import GROUP, VERSION
from perdure.api.base import rule, rules_of_control
from perdure.api.codegen.schema import spec_schema, status_schema
from perdure.api.custom_resources import CATEGORY, Column, CustomResource

#: Where the files are committed. Helm packs only what lies in the chart, hence the second copy.
FOLDERS = (Path("crds"), Path("charts/perdure/files/crds"))

_HEADER = "# Generated from the models in operator/perdure/api by `make crds`: change those.\n"


def crd(kind: CustomResource) -> dict[str, Any]:
    """The CustomResourceDefinition of one resource."""
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
    """A dumper without anchors, which Kubernetes tools read and people do not."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def files(resources: Iterable[CustomResource]) -> dict[str, str]:
    """The generated files, by name."""
    return {
        f"{GROUP}_{kind.plural}.yaml": _HEADER
        + yaml.dump(crd(kind), Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)
        for kind in resources
    }


def stale(folder: Path, wanted: Mapping[str, str]) -> list[str]:
    """Names of files in `folder` that differ from `wanted`, are missing, or belong to no resource."""
    present = {path.name for path in folder.glob(f"{GROUP}_*.yaml")}
    return sorted(
        (present - wanted.keys())
        | {
            name
            for name, text in wanted.items()
            if name not in present or (folder / name).read_text(encoding="utf-8") != text
        }
    )


def write(folder: Path, wanted: Mapping[str, str]) -> None:
    """Bring `folder` up to date with `wanted`. Files of other groups stay as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob(f"{GROUP}_*.yaml"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (folder / name).write_text(text, encoding="utf-8")
