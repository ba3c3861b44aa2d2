"""`perdure graph`: what waits for what, drawn for Markdown and for a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from perdure.cli.main import app

HEAD = "apiVersion: perdure.dev/v1alpha1\n"
WORKFLOW = f"""\
{HEAD}kind: Workflow
metadata: {{name: audit}}
spec:
  defaults: {{agent: {{image: x}}}}
  steps:
  - name: analyse
    forEach: [1, 2]
  - name: end
    when: ${{steps.analyse.outputs.exists(o, o.bad)}}
    input: ${{steps.check.output}}
  - name: check
    dependsOn: [analyse]
    repeat: {{until: "${{last.done}}", maxIterations: 5}}
  - name: both
    when: ${{steps.analyse.phase == "Failed"}}
    dependsOn: [analyse]
  - name: rest
    wait: {{duration: 1h}}
  - name: inner
    dependsOn: [rest]
    workflow: {{templateRef: child}}
  finally:
  - name: notify
    input: ${{steps.check.phase}}
  - name: clean
    when: ${{steps.analyse.phase == "Failed"}}
    dependsOn: [notify]
"""


def graph(*arguments: str, stdin: str = WORKFLOW) -> tuple[int, list[str], str]:
    """(exit code, lines, errors)."""
    result = CliRunner().invoke(app, ["graph", "-", *arguments], input=stdin, prog_name="perdure")
    return result.exit_code, result.stdout.splitlines(), result.stderr


def test_a_flowchart() -> None:
    code, lines, errors = graph()
    assert (code, errors) == (0, "")
    assert (
        "\n".join(lines)
        == """\
---
title: Workflow audit
---
flowchart TD
  subgraph steps
    s0["analyse<br/>forEach"]
    s1["end<br/>when"]
    s2["check<br/>repeat ≤ 5"]
    s3["both<br/>when"]
    s4(["rest"])
    s5[["inner<br/>of child"]]
    s0 -.-> s1
    s2 --> s1
    s0 --> s2
    s0 --> s3
    s4 --> s5
  end
  subgraph finally
    f0["notify"]
    f1["clean<br/>when"]
    f0 --> f1
  end
  steps ==> finally
  s2 --> f0
  s0 -.-> f1"""
    )


def test_levels_for_a_terminal() -> None:
    code, lines, _ = graph("--format", "text")
    assert code == 0
    assert (
        "\n".join(lines)
        == """\
Workflow audit
1  analyse  agent forEach
   rest     wait
2  check    agent repeat ≤ 5   <- analyse
   both     agent when         <- analyse
   inner    workflow of child  <- rest
3  end      agent when         <- analyse?, check

finally
1  notify  agent       <- check
2  clean   agent when  <- notify, analyse?"""
    )


def test_without_finally_steps_there_is_one_graph() -> None:
    _, lines, _ = graph(stdin=WORKFLOW.partition("  finally:")[0])
    assert not [line for line in lines if "subgraph" in line]
    assert "  s4 --> s5" in lines


def test_a_faulty_manifest_is_drawn_as_far_as_it_can_be() -> None:
    faulty = (
        WORKFLOW.replace("dependsOn: [analyse]", "dependsOn: [analyse, gone, end]")
        .replace("maxIterations: 5", "maxIterations: no")
        .replace("name: inner", "name: Inner")
    )
    code, lines, errors = graph("--format", "text", stdin=faulty)
    assert code == 1
    assert [line.split(": ")[2] for line in errors.splitlines()] == [
        "spec.steps[1].input",  # the cycle
        "spec.steps[2].dependsOn[1]",
        "spec.steps[2].repeat.maxIterations",
        "spec.steps[3].dependsOn[1]",
        "spec.steps[5].name",
    ]
    assert [line[3:].split()[0] for line in lines[1:7]] == [
        "analyse",
        "rest",
        "Inner",
        "end",
        "check",
        "both",
    ]


@pytest.mark.parametrize("name", [["greet"], ["WorkflowTemplate/greet"], ["nightly"], ["run"]])
def test_other_kinds_with_a_graph(name: list[str]) -> None:
    spec = "  steps: [{name: hello, agent: {image: x}}]\n"
    template = f"{HEAD}kind: WorkflowTemplate\nmetadata: {{name: greet}}\nspec:\n{spec}"
    run = f"{HEAD}kind: Workflow\nmetadata: {{name: run}}\nspec: {{templateRef: greet}}\n"
    inner = "".join(f"    {line}" for line in spec.splitlines(keepends=True))
    schedule = (
        f"{HEAD}kind: WorkflowSchedule\nmetadata: {{name: nightly}}\nspec:\n"
        f"  schedule: '@daily'\n  workflow:\n    spec:\n{inner}"
    )
    code, lines, errors = graph("--format", "text", *name, stdin=f"{template}---\n{run}---\n{schedule}")
    assert (code, errors) == (0, "")
    assert lines[1:] == ["1  hello  agent"]


@pytest.mark.parametrize(
    ("stdin", "arguments", "reported"),
    [
        (WORKFLOW, ["other"], "there is no 'other'; there are Workflow/audit"),
        (f"{WORKFLOW}---\n{WORKFLOW.replace('audit', 'again')}", [], "one of Workflow/audit, Workflow/again"),
        ("a: 1\n", [], "there is no Workflow or WorkflowTemplate to draw"),
        ("a: [\n", [], "stdin:1: is not YAML"),
        (
            f"{HEAD}kind: Workflow\nmetadata: {{name: run}}\nspec: {{templateRef: gone}}\n",
            [],
            "its steps are those of WorkflowTemplate gone, which is not in the file",
        ),
        (f"{HEAD}kind: Workflow\nmetadata: {{name: run}}\n", [], "it has no steps that can be read"),
    ],
)
def test_nothing_to_draw(stdin: str, arguments: list[str], reported: str) -> None:
    code, lines, errors = graph(*arguments, stdin=stdin)
    assert (code, lines) == (2, [])
    assert reported in errors


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["graph", str(tmp_path / "gone.yaml")], prog_name="perdure")
    assert result.exit_code == 2
    assert "gone.yaml: No such file" in result.stderr
