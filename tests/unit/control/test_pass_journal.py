"""The mark of the pass that computes: present in its turns alone, and after the death of the process."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from perdure.control.pass_journal import SIZE, PassJournal, Subject, continued

A, B = (Subject("Workflow", "team", name, f"uid-{name}", "1-00000000") for name in "ab")


def marked(buffer: bytearray) -> Subject | None:
    """The mark as the next process would read it."""
    left = PassJournal(bytearray(buffer)).left
    return None if left is None else left.subject


async def test_a_pass_is_marked_while_it_computes_and_not_while_it_waits() -> None:
    buffer = bytearray(SIZE)
    journal = PassJournal(buffer)
    seen: list[Subject | None] = []
    goes_on = asyncio.Event()

    async def work() -> str:
        seen.append(marked(buffer))
        await goes_on.wait()
        seen.append(marked(buffer))
        return "done"

    passes = [asyncio.create_task(started(journal, subject, work())) for subject in (A, B)]
    await asyncio.sleep(0)
    assert seen == [A, B] and marked(buffer) is None
    goes_on.set()
    assert await asyncio.gather(*passes) == ["done", "done"]
    assert seen == [A, B, A, B] and marked(buffer) is None


async def started(journal: PassJournal, subject: Subject | None, work: object) -> object:
    return await journal.watch(subject, work)  # type: ignore[arg-type]


async def test_parts_in_tasks_of_their_own_are_marked_like_the_pass() -> None:
    buffer = bytearray(SIZE)
    journal = PassJournal(buffer)

    async def part() -> Subject | None:
        await asyncio.sleep(0)
        return marked(buffer)

    async def work() -> list[Subject | None]:
        return await asyncio.gather(*(continued(part()) for _ in range(3)))

    assert await journal.watch(A, work()) == [A, A, A]
    assert await continued(part()) is None


@pytest.mark.parametrize("error", [ValueError("odd"), KeyboardInterrupt()])
async def test_an_error_of_the_pass_arrives_and_leaves_no_mark(error: BaseException) -> None:
    buffer = bytearray(SIZE)
    journal = PassJournal(buffer)

    async def work() -> None:
        await asyncio.sleep(0)
        raise error

    with pytest.raises(type(error)):
        await journal.watch(A, work())
    assert marked(buffer) is None


async def test_a_cancellation_reaches_the_pass() -> None:
    buffer = bytearray(SIZE)
    journal = PassJournal(buffer)
    cleaned: list[Subject | None] = []

    async def work() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            cleaned.append(marked(buffer))

    task = asyncio.create_task(started(journal, A, work()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned == [A] and marked(buffer) is None


@pytest.mark.parametrize("content", [b"", b"\xff" * SIZE, b"\0\5abcde", b"\0\x0c1\n2\n3\n4\n5\n6\n7"])
def test_a_file_of_another_content_is_no_mark(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal"
    path.write_bytes(content)
    assert PassJournal.open(path).left is None


def test_a_file_that_cannot_be_used_is_done_without(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"mine")
    (tmp_path / "journal").symlink_to(target)
    journal = PassJournal.open(tmp_path / "journal")
    journal.mark(journal.encoded(A))
    assert target.read_bytes() == b"mine"
    assert PassJournal.open(tmp_path / "missing" / "journal").left is None


PROGRAM = """
import asyncio, ctypes, os, sys, time
from pathlib import Path
from perdure.control.pass_journal import PassJournal, Subject

journal = PassJournal.open(Path(sys.argv[1]))

async def work():
    await asyncio.sleep(0.01)
    if sys.argv[2] == "crash":
        ctypes.string_at(0)
    print("waiting", flush=True)
    await asyncio.sleep(60)

async def main():
    await journal.watch(Subject("Workflow", "team", "a", "uid-a", "1-00000000"), work())

asyncio.run(main())
"""


def test_a_process_that_dies_in_a_pass_leaves_its_mark(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    died = subprocess.run([sys.executable, "-c", PROGRAM, str(path), "crash"], check=False, timeout=60)
    assert died.returncode == -signal.SIGSEGV
    journal = PassJournal.open(path)
    assert journal.left is not None and journal.left.subject == A
    assert PassJournal.open(path).left is None, "of two processes one has the file"


def test_a_process_that_is_killed_while_its_pass_waits_leaves_none(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    command = [sys.executable, "-c", PROGRAM, str(path), "wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "waiting\n"
        # The line is printed within the turn, which ends a moment later.
        while PassJournal(bytearray(path.read_bytes())).left is not None:
            pass
        process.kill()
    assert PassJournal.open(path).left is None
