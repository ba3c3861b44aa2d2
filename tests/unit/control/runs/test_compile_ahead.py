"""Expressions are compiled ahead of the acceptance, and the event loop has turns meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

from perdure.api.expression_limits import MAX_EXPRESSION_TEXT
from perdure.control.runs.admission import SLICE, compile_ahead
from perdure.domain.expressions.cel import COMPILED


async def turns_of(manifest: Any) -> int:
    """The turns of other tasks while the expressions of a manifest are compiled."""
    turns = 0
    compiling = asyncio.create_task(compile_ahead(manifest))
    while not compiling.done():
        await asyncio.sleep(0)
        turns += 1
    compiling.result()
    return turns


async def test_other_tasks_have_turns_while_many_expressions_are_compiled() -> None:
    COMPILED.clear()
    texts = ["${" + "+".join(str(number * 1000 + one) for one in range(240)) + "}" for number in range(60)]
    size = sum(map(len, texts))
    assert size < MAX_EXPRESSION_TEXT
    assert await turns_of({"spec": {"steps": [{"input": [{"x": texts}]}]}}) >= size // SLICE
    assert all(COMPILED.get(text[2:-1]) is not None for text in texts)
    COMPILED.clear()


async def test_a_common_manifest_costs_no_turn_of_its_own() -> None:
    assert await turns_of({"spec": {"steps": [{"input": "${1 + 1}"}]}}) <= 2
    assert await turns_of(None) <= 2


async def test_no_more_is_compiled_than_a_manifest_may_have() -> None:
    COMPILED.clear()
    texts = ["${" + f"{number}+" * 2000 + "1}" for number in range(1, 100)]
    await compile_ahead({"spec": texts})
    assert COMPILED.characters <= MAX_EXPRESSION_TEXT
    await compile_ahead({"spec": ["${(", "${x", 7, None]})
    COMPILED.clear()
