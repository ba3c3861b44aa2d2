"""What a hostile tenant applies: objects of every kind that has hurt an operator, generated from a seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any, Final

from tests.cluster.manifests import API_VERSION, IMAGE

Object = dict[str, Any]
#: The most that the API server takes in one request is 3 MiB, and in one object some 1.5 MB.
_OBJECT = 1_300_000

_PAUSE: Final[Object] = {"image": IMAGE, "command": ["python", "-c", "pass"]}


def objects(chance: Random) -> Iterator[tuple[str, Object]]:
    """Objects without end, each with the name of its sort; every sort comes once per round."""
    number = 0
    while True:
        sorts = list(SORTS)
        chance.shuffle(sorts)
        for sort in sorts:
            number += 1
            made = SORTS[sort](chance)
            made["metadata"] = {"name": f"h{number}-{sort}", **made.get("metadata", {})}
            yield sort, {"apiVersion": API_VERSION, **made}


def _workflow(*steps: Object, **spec: Any) -> Object:
    return {"kind": "Workflow", "spec": {"steps": list(steps), **spec}}


def _agent(name: str = "s", **fields: Any) -> Object:
    return {"name": name, "agent": dict(_PAUSE), **fields}


def _in_some_field(chance: Random, expression: str) -> Object:
    """A Workflow that evaluates the expression in one field or another."""
    text = f"${{{expression}}}"
    fields: list[Object] = [
        {"input": {"x": text}},
        {"when": text},
        {"forEach": text},
        {"agent": {**_PAUSE, "args": [text]}},
        {"agent": {**_PAUSE, "env": [{"name": "X", "value": text}]}},
        {"cache": {"key": text}},
        {"repeat": {"until": text, "maxIterations": 3}},
        {"retry": {"limit": 1, "on": text}},
    ]
    more: Object = chance.choice(fields)
    step = {"name": "s", "agent": dict(_PAUSE), **more}
    if chance.random() < 0.2:
        step = {"name": "s", "wait": {"until": text}}
    outputs = {"outputs": {"o": text}} if chance.random() < 0.1 else {}
    return _workflow(step, inputs={"s": "a" * 60_000, "n": list(range(200))}, **outputs)


def _long_chain(chance: Random) -> Object:
    unit = chance.choice(["1+", '"a"+', "1==1||", "[1]+", "-", "!", "(", "[", "{'a':"])
    tail = chance.choice([".trim()", ".a", "[0]", ".map(x,x)", "?1:1"])
    length = chance.choice([900, 1_100, 8_000, 15_000, 200_000])
    expression = unit * length + "1" if chance.random() < 0.6 else "inputs.s" + tail * length
    return _in_some_field(chance, expression[:_OBJECT])


def _macros(chance: Random) -> Object:
    size = chance.choice([100, 1_000, 3_000, 10_000])
    depth = chance.choice([2, 3, 4])
    macro = chance.choice(["exists", "all", "map", "filter", "exists_one"])
    inner = "+".join(f"a{level}" for level in range(depth)) + " < 0"
    for level in range(depth):
        inner = f"lists.range({size}).{macro}(a{level}, {inner})"
    return _in_some_field(chance, inner)


def _big_strings(chance: Random) -> Object:
    return _in_some_field(
        chance,
        chance.choice(
            [
                'inputs.s.replace("a", inputs.s.substring(0,20000))',
                "inputs.s" + "+inputs.s" * 400,
                'inputs.n.map(x, inputs.s).join("")',
                'inputs.n.map(x, inputs.s).map(y, y.replace("a", "bb"))',
                'inputs.n.map(x, "x".matches("(a{900}){90}"))',
                'inputs.s.split("")',
                'inputs.s.matches("(a*)*b")',
                "lists.range(1000).map(a, lists.range(10000))",
                "base64.encode(bytes(inputs.s))",
            ]
        ),
    )


def _big_numbers(chance: Random) -> Object:
    digits = "9" * chance.choice([19, 20, 400, 4_301, 100_000])
    return _in_some_field(
        chance,
        chance.choice(
            [digits, f"-{digits}", f"int('{digits}')", f"duration('{digits}h')", f"1e{digits[:5]}"]
        ),
    )


def _odd_annotations(chance: Random) -> Object:
    names = ["depth", "retention", "created-by", "reconcile", "workflow", "attempt", "shard", "x" * 63]
    values = ["9" * 4_301, "-1", "\u202e", "null", "{" * 10_000, "a" * 100_000, "", "0x10", "1e9"]
    annotations = {f"perdure.dev/{name}": chance.choice(values) for name in chance.sample(names, 4)}
    labels = {f"perdure.dev/{name}": "x" for name in ("workflow", "step", "task", "attempt", "index")}
    labels["app.kubernetes.io/managed-by"] = "perdure"
    metadata = {"annotations": annotations, "labels": labels if chance.random() < 0.5 else {}}
    if chance.random() < 0.5:
        return {"kind": "AgentTask", "spec": {"agent": dict(_PAUSE)}, "metadata": metadata}
    return {**_workflow(_agent()), "metadata": metadata}


def _odd_text(chance: Random) -> Object:
    text = chance.choice(
        [
            "\u202e\u0000",
            "\ufffe\uffff",
            "\U0001f4a3" * 5_000,
            "e\u0301" * 9_000,
            "\x1b[2J",
            "\r\n\r\n",
            "${",
            "$${",
        ]
    )
    return _workflow(
        {"name": "s", "agent": {**_PAUSE, "args": [text[:30_000]]}, "input": {text[:50]: text}},
        outputs={"o": text},
    )


def _unknown_fields(chance: Random) -> Object:
    count = chance.choice([50, 10_000, 30_000])
    spec = {"steps": [_agent()], **{f"unknown{number}": number for number in range(count)}}
    return _workflow({"name": "s", "workflow": {"spec": spec}})


def _many_faults(chance: Random) -> Object:
    steps = [{"name": f"s{number}", "agent": {}, "dependsOn": ["nowhere"]} for number in range(3_000)]
    return _workflow({"name": "s", "workflow": {"spec": {"steps": steps[: chance.choice([3, 3_000])]}}})


def _deep(chance: Random) -> Object:
    value: Any = "x"
    for level in range(chance.choice([50, 120, 900])):
        value = {"k": value} if level % 2 else [value]
    return _workflow(_agent(input={"x": value}))


def _nested_workflows(chance: Random) -> Object:
    spec: Object = {"steps": [_agent()]}
    for _ in range(chance.choice([4, 9, 40])):
        spec = {"steps": [{"name": "s", "workflow": {"spec": spec}}]}
    return {"kind": "Workflow", "spec": spec}


def _wide_inputs(chance: Random) -> Object:
    items = chance.choice([100, 10_000])
    return _workflow(
        _agent(forEach=f"${{lists.range({items})}}", input="${index}" + "${inputs.x}" * 17),
        inputs={"x": "a" * 60_000},
    )


def _wide_children(chance: Random) -> Object:
    child = {"steps": [{"name": "w", "wait": {"duration": "300s"}}]}
    return _workflow(
        {"name": "s", "forEach": f"${{lists.range({chance.choice([50, 300])})}}", "workflow": {"spec": child}}
    )


def _self_calling(chance: Random) -> Object:
    """A template that calls itself; the Workflow that starts it is one of `starts`."""
    step = {"name": "s", "forEach": "${lists.range(3)}", "workflow": {"templateRef": "again"}}
    return {"kind": "WorkflowTemplate", "metadata": {"name": "again"}, "spec": {"steps": [step]}}


def _starts(chance: Random) -> Object:
    return {"kind": "Workflow", "spec": {"templateRef": chance.choice(["again", "nowhere"])}}


def _large_literals(chance: Random) -> Object:
    literal = "[" + ",".join("1" for _ in range(chance.choice([400, 4_000, 40_000]))) + "]"
    strings = [f"${{{literal}.size() + {number}}}" for number in range(chance.choice([1, 16]))]
    return _workflow(_agent(input={"x": strings}))


def _schemas(chance: Random) -> Object:
    schema: Object = {"type": "string", "pattern": "(a|aa)+$"}
    for level in range(chance.choice([5, 60])):
        schema = {"type": "object", "properties": {"a": schema, "b": schema}} if level < 12 else schema
        schema = {"anyOf": [schema, {"not": {"const": level}}]}
    return {
        "kind": "WorkflowTemplate",
        "spec": {"steps": [_agent()], "parameters": {"type": "object", "properties": {"x": schema}}},
    }


def _schedules(chance: Random) -> Object:
    spec = chance.choice(
        [
            {"schedule": "* * * * *", "workflow": {"spec": {"steps": [_agent(when="${1 + 'a'}")]}}},
            {"schedule": "0 0 31 2 *", "workflow": {"spec": {"steps": [_agent()]}}},
            {"schedule": "1" * 10_000, "workflow": {"spec": {"steps": [_agent()]}}},
            {"schedule": "* * * * *", "timeZone": "Mars/Phobos", "workflow": {"spec": {"steps": [_agent()]}}},
        ]
    )
    return {"kind": "WorkflowSchedule", "spec": spec}


def _impossible_pods(chance: Random) -> Object:
    agent: Object = chance.choice(
        [
            {"image": "A B C"},
            {"image": "x" * 5_000},
            {**_PAUSE, "resources": {"requests": {"cpu": "9999"}}},
            {**_PAUSE, "args": ["y" * 30_000] * 30},
            {**_PAUSE, "podTemplate": {"spec": {"nodeSelector": {"no": "where"}}}},
            {**_PAUSE, "podTemplate": {"spec": {"schedulingGates": [{"name": "example.com/never"}]}}},
            {**_PAUSE, "podTemplate": {"metadata": {"labels": {"perdure.dev/task": "other"}}}},
            {**_PAUSE, "podTemplate": {"spec": {"hostNetwork": True, "hostPID": True}}},
            {**_PAUSE, "serviceAccountName": "nobody-has-made-it"},
            {**_PAUSE, "executor": "Job", "podTemplate": {"spec": {"restartPolicy": "Always"}}},
        ]
    )
    return _workflow({"name": "s", "agent": agent, "pendingTimeout": "20s", "retry": {"limit": 3}})


def _many_steps(chance: Random) -> Object:
    count = chance.choice([200, 1_500])
    steps = [
        {"name": f"s{number}", "wait": {"duration": "1s"}, "dependsOn": [f"s{number - 1}"] if number else []}
        for number in range(count)
    ]
    return _workflow(*steps)


def _timers(chance: Random) -> Object:
    until = chance.choice(["9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "yesterday", "1e9"])
    return _workflow({"name": "s", "wait": {"until": until}}, {"name": "t", "wait": {"duration": "1ms"}})


SORTS: Final[dict[str, Callable[[Random], Object]]] = {
    "long-chain": _long_chain,
    "macros": _macros,
    "big-strings": _big_strings,
    "big-numbers": _big_numbers,
    "odd-annotations": _odd_annotations,
    "odd-text": _odd_text,
    "unknown-fields": _unknown_fields,
    "many-faults": _many_faults,
    "deep": _deep,
    "nested-workflows": _nested_workflows,
    "wide-inputs": _wide_inputs,
    "wide-children": _wide_children,
    "self-calling": _self_calling,
    "starts": _starts,
    "large-literals": _large_literals,
    "schemas": _schemas,
    "schedules": _schedules,
    "impossible-pods": _impossible_pods,
    "many-steps": _many_steps,
    "timers": _timers,
}
