"""The check of the prose: what it finds, what it allows, and where."""

from __future__ import annotations

from pathlib import Path

from hack.lint.words import DIALECT, find


def _words(path: Path, text: str) -> list[str]:
    path.write_text(text)
    return [finding.removeprefix(f"{path}:").partition(" ==> ")[0] for finding in find([str(path)])]


def test_words_and_phrases_are_found_with_their_lines(tmp_path: Path) -> None:
    text = "fine\nNobody heard of it.\nThe pod is no more.\n"
    assert _words(tmp_path / "page.md", text) == ["2: Nobody", "2: heard", "3: is no more"]


def test_the_name_of_a_test_is_read_as_a_sentence(tmp_path: Path) -> None:
    text = "import os\n\n\nasync def test_the_agent_is_told():\n    pass\n"
    assert _words(tmp_path / "test_agent.py", text) == ["4: told"]


def test_honest_uses_are_allowed(tmp_path: Path) -> None:
    text = (
        'user = "nobody"\nlook_up(key)  # looks the key up; lookup\nfile.tell()\nThere is no more than one.\n'
    )
    assert _words(tmp_path / "code.py", text) == []


def test_every_word_of_the_dictionary_has_a_remedy_and_is_found(tmp_path: Path) -> None:
    lines = DIALECT.read_text().splitlines()
    words = [line.partition("->")[0] for line in lines]
    assert lines == sorted(lines)
    assert all(line.partition("->")[2] for line in lines)
    text = "".join(f"{word}.\n" for word in words)
    assert _words(tmp_path / "all.md", text) == sorted(
        (f"{number}: {word}" for number, word in enumerate(words, start=1)), key=lambda line: f"{line} "
    )
