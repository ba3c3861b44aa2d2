"""Product code starts no threads: everything is a coroutine of one event loop.

Threads would make every read of shared state a race that no test finds. The heartbeat of the SDK is the
exception: it goes on while synchronous code of an agent keeps the event loop busy.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = {"threading", "_thread", "multiprocessing", "concurrent", "queue", "janus", "anyio", "sched"}
#: Functions that run their argument in a thread, wherever they are imported from.
CALLS = {
    "ProcessPoolExecutor",
    "ThreadPoolExecutor",
    "fork",
    "forkpty",
    "run_coroutine_threadsafe",
    "run_in_executor",
    "run_in_threadpool",
    "run_sync",
    "set_default_executor",
    "start_new_thread",
    "to_thread",
}
ALLOWED = {"sdk/perdure_agent/_heartbeat_thread.py": {"threading", "call_soon_threadsafe"}}


def threads(source: str) -> set[str]:
    """The names by which a module can start a thread."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.partition(".")[0] in MODULES}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            module = node.module.partition(".")[0]
            found |= {node.module} if module in MODULES else set()
            found |= {alias.name for alias in node.names if alias.name in CALLS}
        elif isinstance(node, ast.Call) and _name(node.func) in CALLS | {"__import__", "import_module"}:
            name = _name(node.func)
            arguments = [item.value for item in node.args if isinstance(item, ast.Constant)]
            if name in CALLS or any(str(value).partition(".")[0] in MODULES for value in arguments):
                found.add(name)
    return found


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize("folder", ["operator", "sdk"])
def test_product_code_starts_no_threads(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert len(files) > 10
    found = {str(file.relative_to(ROOT)): threads(file.read_text()) for file in files}
    assert {file: names - ALLOWED.get(file, set()) for file, names in found.items() if names} == {
        file: set() for file in ALLOWED if file.startswith(folder)
    }


@pytest.mark.parametrize(
    "source",
    [
        "import threading",
        "from threading import Thread as Worker",
        "import concurrent.futures as futures",
        "from multiprocessing.pool import ThreadPool",
        "import asyncio\nasync def f(): await asyncio.to_thread(print)",
        "from asyncio import to_thread as later",
        "async def f(loop): await loop.run_in_executor(None, print)",
        "import importlib\nimportlib.import_module('threading')",
        "import os\nos.fork()",
    ],
)
def test_each_way_is_found(source: str) -> None:
    assert threads(source)


def test_names_that_are_similar_are_not_found() -> None:
    assert not threads("import asyncio\nfrom perdure.control.queue import slots\nq = asyncio.Queue()")
