"""Random runs: graphs with every construct of the language, some of whose expressions fail."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Choose(Protocol):
    """Picks one of some: by a seed, or as hypothesis likes. What comes first is the simplest."""

    def __call__(self, options: Sequence[T], /) -> T: ...


WAITS = [
    {"duration": "10s"},
    {"duration": "0s"},
    {"duration": "${'1' + '0s'}"},
    {"until": "2024-05-01T12:01:00Z"},
    {"until": "${timestamp('2024-05-01T11:00:00Z')}"},
    {"until": "2024-05-01T12:00:40Z"},
    {"until": "soon"},
]
BAD = ["${3}", "${inputs.gone}"]


def once_in(choose: Choose, times: int) -> bool:
    return choose([*[False] * (times - 1), True])


def some(choose: Choose, options: Sequence[T], most: int) -> list[T]:
    """Some of these, each at most once."""
    found: list[T] = []
    for _ in range(choose(range(most + 1))):
        left = [option for option in options if option not in found]
        if left:
            found.append(choose(left))
    return found


def make_spec(choose: Choose) -> dict[str, Any]:
    """A graph of up to six main and two finally steps, as `view_of_plan` takes it."""
    main: list[dict[str, Any]] = []
    for number in range(choose(range(1, 7))):
        main.append(_step(choose, f"s{number}", [step["name"] for step in main], []))
    last: list[dict[str, Any]] = []
    for number in range(choose([0, 0, 1, 2])):
        names = [step["name"] for step in last], [step["name"] for step in main]
        last.append(_step(choose, f"f{number}", *names))
    spec: dict[str, Any] = {
        # The order of the manifest means nothing.
        "steps": main[::-1] if once_in(choose, 2) else main,
        "finally_": tuple(last),
        "inputs": {"items": choose([["x", "y"], [], [1], [3, 3, 3]])},
        "parallelism": choose([None, None, 1, 2, 3]),
        "failurePolicy": choose(["FinishRunning", "CancelRunning", "RunAll"]),
    }
    if once_in(choose, 5):
        spec["timeout"] = choose(["2h", "100s", "20s"])
    if once_in(choose, 3):
        first = choose(["${steps.s0.phase}", "${steps.s0.output.n}", "${workflow.failures}"])
        spec["outputs"] = {"first": first}
    return spec


def _step(choose: Choose, name: str, before: list[str], main: list[str]) -> dict[str, Any]:
    """A step that may wait for those before it, and see those of `main`."""
    needed = some(choose, before, 2)
    step: dict[str, Any] = {"name": name, "dependsOn": needed}
    seen = [*needed, *main[:1]]
    kind = choose(["agent", "agent", "agent", "agent", "wait", "workflow", "echo"])
    if once_in(choose, 3):
        step |= _for_each(choose, seen)
    elif kind != "wait" and once_in(choose, 3):
        step["repeat"] = {
            "until": _expression(
                choose,
                ["${index >= 1}", "${index >= 2}", "${last == {'n': 1}}", "${last == 'text'}", "${false}"],
            ),
            "maxIterations": choose(range(1, 4)),
        }
    if once_in(choose, 3):
        step["when"] = _expression(choose, _conditions(seen))
    if once_in(choose, 3):
        step["continueOnFailure"] = True
    if kind == "wait":
        step["wait"] = choose(WAITS)
        return step
    if kind == "echo":
        step["echo"] = {"signal": choose(["go", "go", "${inputs.nothing}"])}
        if once_in(choose, 3):
            step["timeout"] = "60s"
        if once_in(choose, 3):
            step["cache"] = {"key": name}
        return step
    step |= _effort(choose)
    if once_in(choose, 3):
        keys = ["${item}", "${index}"] if "forEach" in step else ["k", name]
        step["cache"] = {"key": _expression(choose, keys)}
    if kind == "workflow":
        step["workflow"] = {"templateRef": "child", "inputs": _expression(choose, _inputs(step, seen))}
        return step
    step["input"] = _expression(choose, _inputs(step, seen))
    if once_in(choose, 6):
        step["agent"] = {"image": "agent", "result": "Required"}
    for field, seconds in (("pendingTimeout", "30s"), ("idleTimeout", "20s")):
        if once_in(choose, 6):
            step[field] = seconds
    return step


def _for_each(choose: Choose, seen: list[str]) -> dict[str, Any]:
    lists: list[Any] = [list(range(choose(range(1, 6)))), ["x", "x", "y"], "${inputs.items}", {}]
    if seen:
        lists.append(f"${{has(steps.{seen[0]}.output) ? steps.{seen[0]}.output : ['x']}}")
        lists.append(f"${{has(steps.{seen[0]}.outputs) ? steps.{seen[0]}.outputs : ['x']}}")
    fields: dict[str, Any] = {"forEach": _expression(choose, lists)}
    if once_in(choose, 3):
        fields["parallelism"] = choose(range(1, 3))
    if once_in(choose, 3):
        fields["maxFailures"] = choose([0, 1, 2, "0%", "34%", "50%", "100%"])
    return fields


def _effort(choose: Choose) -> dict[str, Any]:
    fields: dict[str, Any] = {"retry": {"limit": choose([0, 0, 1, 2])}}
    if once_in(choose, 6):
        conditions = ["${attempt.number < 2}", "${attempt.reason != 'ExitCode'}"]
        fields["retry"]["on"] = _expression(choose, conditions)
    if once_in(choose, 6):
        fields["retry"]["backoff"] = {"initial": choose(["0s", "5s"]), "max": "7s"}
    if once_in(choose, 6):
        fields["disruptions"] = {"limit": choose(range(3))}
    if once_in(choose, 6):
        fields["timeout"] = "40s"
    return fields


def _conditions(seen: list[str]) -> list[str]:
    found = ["${true}", "${inputs.items.size() < 3}"]
    for name in seen:
        found += [
            f"${{steps.{name}.phase != 'Succeeded'}}",
            f"${{steps.{name}.phase == 'Succeeded'}}",
            f"${{steps.{name}.attempts < 2}}",
        ]
    return found


def _inputs(step: dict[str, Any], seen: list[str]) -> list[Any]:
    found: list[Any] = [{}, {"all": "${inputs}", "run": "${workflow.phase}"}]
    if seen:
        found += [{"step": f"${{steps.{seen[-1]}}}"}]
    if "forEach" in step:
        found += [{"item": "${item}", "index": "${index}"}, "${item == 'y' ? item.n : index}"]
    if "repeat" in step:
        found += [{"last": "${last}", "index": "${index}"}, "${index == 1 ? last.n : 0}"]
    return found


def _expression(choose: Choose, good: list[Any]) -> Any:
    """One of these, or once in a while one that fails, or gives what cannot be used."""
    return choose(BAD) if once_in(choose, 25) else choose(good)
