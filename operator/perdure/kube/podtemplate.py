"""Strategic merge of pod specs, as the API server does it for `kubectl patch`.

A `podTemplate` contains only differences: the template is merged over Perdure's defaults and under the fields
that Perdure controls. Lists such as containers are merged by the names of their items. Patch directives
(`$patch` and the like) are refused, because the API server would drop them silently. A template needs none:
null removes a default.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

#: Beginnings of the field names that are patch directives.
_DIRECTIVES = ("$patch", "$retainKeys", "$setElementOrder/", "$deleteFromPrimitiveList/")

#: `dict` first: `isinstance` of an abstract class takes several times as long, and nearly all maps are dicts.
_MAPPING = (dict, Mapping)


class PodTemplateError(ValueError):
    """A template that cannot be merged. The message names the field."""


@dataclass(frozen=True, slots=True)
class _Items:
    """A merged list: the key field of its items, and the merged lists inside the items."""

    key: str
    lists: Mapping[str, _Items] = field(default_factory=dict)


#: Lists without an entry are replaced as a whole: commands, arguments, tolerations, envFrom.
_CONTAINER: Mapping[str, _Items] = {
    "env": _Items("name"),
    "ports": _Items("containerPort"),
    "volumeDevices": _Items("devicePath"),
    "volumeMounts": _Items("mountPath"),
}
_POD: Mapping[str, _Items] = {
    "containers": _Items("name", _CONTAINER),
    "initContainers": _Items("name", _CONTAINER),
    "ephemeralContainers": _Items("name", _CONTAINER),
    "hostAliases": _Items("ip"),
    "imagePullSecrets": _Items("name"),
    "resourceClaims": _Items("name"),
    "schedulingGates": _Items("name"),
    "topologySpreadConstraints": _Items("topologyKey"),
    "volumes": _Items("name"),
}


def merge_pod_spec(base: Mapping[str, Any], patch: Any, path: str = "spec") -> dict[str, Any]:
    """A new pod spec: `base` with `patch` merged over it. Both arguments stay unchanged and unshared.

    A null in `patch` removes the field. Raises PodTemplateError with the path of the field, below `path`: for
    a directive, and for a merged list whose items are not objects with keys.
    """
    refuse_directives(patch, path)
    return _merge(base, patch, _POD, path)


def refuse_directives(value: Any, path: str) -> None:
    """Raise PodTemplateError for a patch directive anywhere in the value."""
    if isinstance(value, _MAPPING):
        for name, item in value.items():
            if str(name).startswith(_DIRECTIVES):
                raise PodTemplateError(
                    f"{path}.{name}: directives of patches are not supported; null removes a default"
                )
            refuse_directives(item, f"{path}.{name}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            refuse_directives(item, f"{path}[{index}]")


def _merge(base: Any, patch: Any, lists: Mapping[str, _Items], path: str) -> dict[str, Any]:
    if not isinstance(patch, _MAPPING):
        raise PodTemplateError(f"{path}: must be an object")
    merged = {name: _copy(value) for name, value in base.items()} if isinstance(base, _MAPPING) else {}
    for name, value in patch.items():
        place = f"{path}.{name}"
        if value is None:
            merged.pop(name, None)
        elif name in lists:
            merged[name] = _merge_list(merged.get(name) or (), value, lists[name], place)
        elif isinstance(value, _MAPPING):
            merged[name] = _merge(merged.get(name), value, {}, place)
        else:
            merged[name] = _copy(value)
    return merged


def _merge_list(base: Iterable[Mapping[str, Any]], patch: Any, items: _Items, path: str) -> list[Any]:
    """The items of `base` in their order, then the new items in theirs."""
    if not isinstance(patch, (list, tuple)):
        raise PodTemplateError(f"{path}: must be a list")
    merged: dict[Any, Mapping[str, Any]] = {item[items.key]: item for item in base}
    for index, item in enumerate(patch):
        place = f"{path}[{index}]"
        key = item.get(items.key) if isinstance(item, _MAPPING) else None
        if not isinstance(key, (str, int)):
            raise PodTemplateError(f"{place}.{items.key}: required")
        merged[key] = _merge(merged.get(key), item, items.lists, place)
    return list(merged.values())


def _copy(value: Any) -> Any:
    if isinstance(value, _MAPPING):
        return {name: _copy(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_copy(item) for item in value]
    return value
