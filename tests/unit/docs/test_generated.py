"""Generated documentation: fresh, complete, and refusing what it cannot say."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from types import ModuleType

import pytest
from hack.docs import enums, events, policy, semantics
from hack.docs import reference as reference_page

from perdure.api.codegen import generated
from perdure.api.codegen.reference import reference
from perdure.domain.events import EventType
from perdure.domain.phases import Phase, Reason, Trigger, successors
from perdure.steps.schema import RESOURCES

ROOT = Path(__file__).resolve().parents[3]


def test_the_page_of_events_names_each_line_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert events.missing_lines({"a", "b"}, {"a": ("x",)}, {"y": "The y."}) == [
        "event type b: add its line to DATA in operator/perdure/domain/events.py",
        "data x: add its meaning to FIELDS in operator/perdure/domain/events.py",
        "data y: no event has it; remove it from FIELDS in operator/perdure/domain/events.py",
    ]
    monkeypatch.setattr(
        events, "FIELDS", {name: text for name, text in events.FIELDS.items() if name != "pod"}
    )
    assert events.main(["--check"]) == 1
    assert "data pod: add its meaning to FIELDS" in capsys.readouterr().err


@pytest.mark.parametrize("module", [reference_page, semantics, events, policy])
def test_the_committed_file_is_fresh(module: ModuleType) -> None:
    assert module.main(["--check", "--output", str(ROOT / module.FILE)]) == 0


def test_a_stale_file_is_reported_and_not_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "page.md"
    file.write_text("old")
    assert generated.command("some.module", file, lambda before: before + " and new", ["--check"]) == 1
    assert "make crds docs" in capsys.readouterr().err
    assert file.read_text() == "old"
    assert generated.command("some.module", file, lambda before: before + " and new", []) == 0
    assert file.read_text() == "old and new"


def test_a_block_is_replaced_between_its_markers_only() -> None:
    page = "a\n<!-- generated: x -->\nold\n<!-- end: x -->\nz\n"
    once = generated.replace_block(page, "x", "new")
    assert once == "a\n<!-- generated: x -->\n\nnew\n\n<!-- end: x -->\nz\n"
    assert generated.replace_block(once, "x", "new") == once
    with pytest.raises(ValueError, match="generated: y"):
        generated.replace_block(page, "y", "new")


def test_lines_are_replaced_between_their_comments_only() -> None:
    text = "a:\n  # generated: x\n  - old\n  # end: x\n  - z\n"
    once = generated.replace_lines(text, "x", "  - new\n")
    assert once == "a:\n  # generated: x\n  - new\n  # end: x\n  - z\n"
    assert generated.replace_lines(once, "x", "  - new\n") == once
    with pytest.raises(ValueError, match="generated: y"):
        generated.replace_lines(text, "y", "")


def test_the_reference_has_every_field_of_every_kind() -> None:
    page = reference(RESOURCES)
    for kind in RESOURCES:
        assert f"## {kind.kind}\n" in page
        for model in (kind.spec, kind.status):
            for name, field in (model.model_fields if model else {}).items():
                assert f"| `{field.alias or name}` |" in page
        assert all(f"| {column.name} |" in page for column in kind.columns)


def test_every_link_of_the_reference_has_a_heading() -> None:
    page = reference(RESOURCES)
    headings = {line.lstrip("# ").lower() for line in page.splitlines() if line.startswith("#")}
    links = {part.partition(")")[0] for part in page.split("](#")[1:]}
    assert links <= headings


def test_no_row_of_the_reference_lacks_its_meaning() -> None:
    rows = [line for line in reference(RESOURCES).splitlines() if line.startswith("| `")]
    assert [row for row in rows if row.endswith("|  |")] == []


def test_every_phase_and_its_transitions_are_in_the_table() -> None:
    lines = semantics.phases().splitlines()[2:]
    assert len(lines) == len(Phase)
    for line in lines:
        name, _, *columns = (cell.strip() for cell in line.strip("|").split("|"))
        for table, after in zip(semantics.TABLES.values(), columns, strict=True):
            wanted = {phase.value for phase in successors(table, Phase(name))}
            assert after == "–" or set(after.split(", ")) == (wanted or {"nothing: it is final"})
            assert (after == "–") == (Phase(name) is not Phase.PENDING and name not in table.values())


def test_every_transition_is_in_a_diagram_and_every_trigger_has_its_meaning() -> None:
    text = semantics.triggers()
    assert text.count("stateDiagram-v2") == 3
    for table, diagram in zip(semantics.TABLES.values(), text.split("```mermaid")[1:], strict=True):
        drawn = [line.strip() for line in diagram.partition("```")[0].splitlines() if ": " in line]
        assert drawn == [f"{before} --> {after}: {trigger}" for (before, trigger), after in table.items()]
    assert [value for _, value, _ in enums.meanings(Trigger)] == [trigger.value for trigger in Trigger]


def test_every_reason_is_in_one_table() -> None:
    listed = [value for _, value, _ in enums.meanings(Reason)]
    assert listed == [reason.value for reason in Reason]
    assert semantics.reasons().count("| because |") == 4


def test_every_event_type_is_on_its_page_with_a_subject_that_matches() -> None:
    page = events.page()
    for type_ in EventType:
        assert f"| `{type_}` | " in page
    assert "`perdure.events.team-a.audit.task.retrying`" in page


def test_an_attribute_that_the_page_does_not_explain_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    known = events._ATTRIBUTES
    monkeypatch.setattr(events, "_ATTRIBUTES", {name: known[name] for name in known if name != "id"})
    with pytest.raises(ValueError, match="attributes"):
        events.page()


class _Mute(StrEnum):
    SILENT = "Silent"


def test_a_member_without_a_meaning_is_refused() -> None:
    with pytest.raises(ValueError, match="Silent has no comment"):
        enums.meanings(_Mute)
