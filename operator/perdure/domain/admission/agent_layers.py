"""The agent of a step: its own fields, its template's and the run's defaults, merged in layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from perdure.api.agent import Agent, AgentContainer
from perdure.api.base import JsonObject
from perdure.domain.admission.expression_check import Findings, Scope, check_plain, check_text

#: Fields whose strings may hold expressions: the arguments of the container.
_FILLED_IN: Final = ("command", "args")
#: Fields without expressions. (A `podTemplate` may hold the `${HOME}` of another container's shell.)
_FIXED: Final = ("image", "model")
_REMEDY: Final = "use env, args or input for values"


@dataclass(frozen=True, slots=True)
class ResolvedAgent:
    """An agent block, merged with its template if that exists and with the defaults."""

    block: JsonObject
    #: The path in a manifest of each field and each variable (`env.NAME`), and so of each expression.
    origins: Mapping[str, str]
    #: Name of the template that it needs, if any.
    template: str | None
    found: bool


def template_of(defaults: Agent | None, own: Agent | None) -> str | None:
    """The template of an agent block: its own, else that of the defaults."""
    if own is not None and own.template_ref is not None:
        return own.template_ref
    return defaults.template_ref if defaults is not None else None


def resolve_agent(
    defaults: Agent | None,
    own: Agent | None,
    find: Callable[[str, str], AgentContainer | None],
    *,
    path: str,
    defaults_path: str,
) -> ResolvedAgent:
    """Merge the layers of an agent. `find` gives a template by its name and the path of the reference.

    The layer that names a template decides its place: a template of the step covers the fields of the
    defaults, a template of the defaults lies under them.
    """
    name = template_of(defaults, own)
    named_here = own is not None and own.template_ref is not None
    reference = f"{path if named_here else defaults_path}.templateRef"
    template = find(name, reference) if name is not None else None
    layers = [
        ({} if template is None else template.manifest(), f"AgentTemplate {name}: spec"),
        (_fields(defaults), defaults_path),
        (_fields(own), path),
    ]
    if named_here:
        layers[:2] = reversed(layers[:2])
    block: JsonObject = {}
    origins: dict[str, str] = {}
    for layer, layer_path in layers:
        block = _merge(block, layer)
        origins |= {field: f"{layer_path}.{field}" for field in layer}
        for position, variable in enumerate(layer.get("env") or ()):
            origins[f"env.{variable['name']}"] = f"{layer_path}.env[{position}]"
    return ResolvedAgent(block, origins, name, name is None or template is not None)


def check_agent(agent: ResolvedAgent, scope: Scope, findings: Findings) -> dict[str, str]:
    """Check an agent's expressions. Returns the steps that they refer to, each with the field that does."""
    block, origins = agent.block, agent.origins
    needed: dict[str, str] = {}
    for field in _FIXED:
        check_plain(block.get(field), origins.get(field, ""), _REMEDY, findings)
    for field in _FILLED_IN:
        for position, text in enumerate(block.get(field) or ()):
            needed |= check_text(text, f"{origins[field]}[{position}]", scope, findings)
    for variable in block.get("env") or ():
        where = origins[f"env.{variable['name']}"]
        needed |= check_text(variable.get("value") or "", f"{where}.value", scope, findings)
        check_plain({**variable, "value": None}, where, _REMEDY, findings)
    return needed


def _fields(agent: Agent | None) -> JsonObject:
    """The fields of an agent block, except the name of its template."""
    block = agent.manifest() if agent is not None else {}
    block.pop("templateRef", None)
    return block


def _merge(below: JsonObject, above: JsonObject) -> JsonObject:
    """`above`, with missing fields taken from `below`. Environments are joined by name."""
    merged = {**below, **above}
    if "env" in below and "env" in above:
        names = {variable["name"] for variable in above["env"]}
        kept = [variable for variable in below["env"] if variable["name"] not in names]
        merged["env"] = kept + above["env"]
    if "podTemplate" in below and "podTemplate" in above:
        merged["podTemplate"] = _merge_pods(below["podTemplate"], above["podTemplate"])
    # A command without arguments of its own replaces both, as in a pod.
    if "command" in above and "args" not in above:
        merged.pop("args", None)
    return merged


def _merge_pods(below: JsonObject, above: JsonObject) -> JsonObject:
    """Labels and annotations are joined by name, and so are the fields of the pod's spec, each one whole."""
    merged: JsonObject = {}
    for part in ("metadata", "spec"):
        lower, upper = below.get(part) or {}, above.get(part) or {}
        joined: dict[str, Any] = {**lower, **upper}
        if part == "metadata":
            joined = {field: {**lower.get(field, {}), **upper.get(field, {})} for field in joined}
        if joined:
            merged[part] = joined
    return merged
