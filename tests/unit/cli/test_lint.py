"""`perdure lint`: every fault once, on its line, and nothing else."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from perdure.cli.checks import check_files
from perdure.cli.documents import Document, read_documents
from perdure.cli.lint import github_line, summary, text_line
from perdure.cli.main import app
from perdure.steps.schema import MODELS

EXAMPLES = Path(__file__).parents[3] / "examples"

#: Each fault stands on a line of its own, which says in a comment what is to be said of it. Two faults of one
#: line are separated by ';'.
FAULTY = r"""
apiVersion: perdure.dev/v1alpha1
kind: Workflow
metadata: {name: audit}
spec:
  inputs: {files: [a.py]}
  timeout: 2 hours                        # timeout: '2 hours' is not a duration
  parallelism: 0                          # parallelism: is 0; it must be at least 1
  priorty: 3                              # priorty: unknown field; did you mean priority?
  defaults:
    agent: {serviceAccountName: auditor}
    retry: {limit: many}                  # limit: must be a whole number
  steps:
  - name: fetch
    agent: {image: fetch:1}
    dependsOn: [fetsh]                    # dependsOn[0]: there is no step 'fetsh'; did you mean 'fetch'?
  - name: analyse
    agent: {image: analyse:1, args: ["${item}"]}
    forEach: ${inputs.files}
    repeat:                               # repeat: does not go together with forEach
      until: ${last.done}
      maxIterations: 5000                 # maxIterations: is 5000; it must be at most 1000
    maxFailures: 120%                     # maxFailures: must be a whole number from 0 to 10000
  - name: first
    agent: {image: x}
    input: {b: "${steps.second.output}"}  # input.b: the steps wait for each other: first -> second -> first
  - name: second
    agent: {image: x}
    dependsOn: [first]
  - name: report
    agent: {image: report:1}
    when: ${steps.fetch.output.n > }      # when: ${steps.fetch.output.n >}: Syntax error
    input:
      size: ${len(inputs.files)}          # input.size: ${len(inputs.files)}: unknown function 'len'
      who: ${user.name}                   # input.who: ${user.name}: unknown name 'user'
      each: ${item}                       # input.each: ${item}: unknown name 'item': only a step with forEach
      typo: ${steps.fetch.outptu}         # a step has no 'outptu'; did you mean 'output'?
      many: ${steps.fetch.outputs}        # step 'fetch' has no forEach
      open: ${inputs.files                # without '}'
  - name: fetch                           # name: 'fetch' is the name of spec.steps[0] already
    agent: {image: other:1}
  - name: bare                            # steps[6]*: image
  - name: rest
    wait: {duration: soon}                # duration: 'soon' is not a duration
    agent: {image: x}                     # agent: does not go together with wait
  - name: child
    workflow:
      inputs: {x: "${steps.nemo.phase}"}  # inputs.x: ${steps.nemo.phase}: there is no step 'nemo'
      spec:
        steps:
        - name: one
          agent: {image: x}
          tmeout: 3s                      # spec.steps[0].tmeout: unknown field; did you mean timeout?
          input: ${steps.fetch.output}    # spec.steps[0].input: ${steps.fetch.output}: there is no step
  - name: again
    agent: {image: x, image: z}           # agent.image: is given twice
    timeout: 0s                           # timeout: must be longer than 0s
    dependsOn: [notify]                   # dependsOn[0]: 'notify' is a finally step
    retry:
      on: ${attempt.exitcode}             # attempt has no 'exitcode'; did you mean 'exitCode'?
  finally:
  - name: notify
    agent: {image: curl:1, args: ["${workflow.failures}", "${workflow.fase}"]}  # workflow has no 'fase'
  outputs:
    all: ${steps.gone.output}             # outputs.all: ${steps.gone.output}: there is no step 'gone'
"""


def lint(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
    """(exit code, output, errors)."""
    result = CliRunner().invoke(app, ["lint", *arguments], input=stdin, prog_name="perdure")
    return result.exit_code, result.stdout, result.stderr


def expected(text: str) -> list[tuple[int, str]]:
    return [
        (number, reported)
        for number, line in enumerate(text.splitlines(), 1)
        if (match := re.search(r"\s{2}# (.*)$", line))
        for reported in [match[1]]
    ]


def test_every_fault_is_reported_once_on_its_line() -> None:
    findings = check_files([("audit.yaml", FAULTY)], MODELS).findings
    wanted = expected(FAULTY)
    assert [finding.line for finding in findings] == [line for line, _ in wanted]
    assert len(wanted) >= 25
    for finding, (_, reported) in zip(findings, wanted, strict=True):
        field, star, rest = reported.partition("*: ")
        text = f"{finding.path}: {finding.message}"
        assert (field in text and rest in text) if star else reported in text, (text, reported)
        assert (finding.kind, finding.name, finding.note) == ("Workflow", "audit", False)


def test_an_expression_beyond_the_limits_is_refused_as_by_the_operator() -> None:
    long, wide = "'" + "x" * 8191 + "'", "1" + "+1" * 500
    text = f"""
apiVersion: perdure.dev/v1alpha1
kind: Workflow
metadata: {{name: audit}}
spec:
  steps:
  - name: a
    agent:
      image: x
      args: ["${{{long}}}"]
    input: ${{{wide}}}
"""
    findings = check_files([("audit.yaml", text)], MODELS).findings
    assert sorted((finding.line, finding.path) for finding in findings) == [
        (10, "spec.steps[0].agent.args[0]"),
        (11, "spec.steps[0].input"),
    ]
    messages = {finding.path: finding.message for finding in findings}
    assert "8,193 characters, and the limit is 8,192; split it" in messages["spec.steps[0].agent.args[0]"]
    assert "1,001 tokens" in messages["spec.steps[0].input"]


def test_the_same_without_the_faults() -> None:
    sound = FAULTY
    for before, after in (
        ("2 hours", "2h"),
        ("parallelism: 0", "parallelism: 1"),
        ("priorty", "priority"),
        ("limit: many", "limit: 2"),
        ("[fetsh]", "[bare]"),
        ("    repeat:", "    input:"),
        ("5000", "5"),
        ("${last.done}", "${item}"),
        ("120%", "20%"),
        ("${steps.second.output}", "${steps.fetch.output}"),
        ("n > }", "n > 1}"),
        ("len(inputs.files)", "size(inputs.files)"),
        ("user.name", "inputs.name"),
        ("each: ${item}", "each: ${1}"),
        ("outptu", "output"),
        ("many: ${steps.fetch.outputs}", "many: ${steps.analyse.outputs}"),
        ("open: ${inputs.files ", "open: $${inputs.files "),
        ("name: fetch                           #", "name: other    #"),
        ("- name: bare  ", "- {name: bare, agent: {image: x}}  "),
        ("soon", "1h"),
        ("    agent: {image: x}                     # agent: does", "    # agent: does"),
        ("nemo", "other"),
        ("tmeout: 3s", "timeout: 3s"),
        ("${steps.fetch.output}    # spec", "${inputs.x}  # spec"),
        (", image: z}", "}"),
        ("0s  ", "9s  "),
        ("[notify]", "[bare]"),
        ("exitcode}", "exitCode == 2}"),
        ("workflow.fase", "workflow.phase"),
        ("steps.gone", "steps.other"),
    ):
        assert before in sound, before
        sound = sound.replace(before, after, 1)
    checkup = check_files([("audit.yaml", sound)], MODELS)
    assert [text_line(finding) for finding in checkup.findings] == []
    assert summary(checkup) == "no faults in 1 object"


def test_our_own_examples_have_no_faults_but_those_on_purpose() -> None:
    files = [(str(path), path.read_text()) for path in sorted(EXAMPLES.rglob("*.yaml"))]
    checkup = check_files(files, MODELS)
    assert len(checkup.objects) > 50
    assert {finding.name for finding in checkup.findings} <= {"greet-wrongly"}


def test_a_field_that_is_null_is_a_note_since_kubectl_drops_it() -> None:
    text = """\
apiVersion: perdure.dev/v1alpha1
kind: Workflow
metadata: {name: a}
spec:
  inputs: {kept: [null], dropped: null}
  steps:
  - name: s
    agent: {image: i}
    input: {deep: {also: ~}}
"""
    findings = check_files([("a.yaml", text)], MODELS).findings
    assert [(finding.path, finding.line, finding.note) for finding in findings] == [
        ("spec.inputs.dropped", 5, True),
        ("spec.steps[0].input.deep.also", 9, True),
    ]
    assert "--server-side" in findings[0].message


# --- templates

AGENTS = """\
apiVersion: perdure.dev/v1alpha1
kind: AgentTemplate
metadata: {name: auditor}
spec:
  image: audit:1
  args: ["${item}"]
"""
RUN = """\
apiVersion: perdure.dev/v1alpha1
kind: Workflow
metadata: {name: run}
spec:
  steps:
  - name: a
    agent: {templateRef: auditor}
    forEach: [1]
"""
TEMPLATE = """\
apiVersion: perdure.dev/v1alpha1
kind: WorkflowTemplate
metadata: {name: greet}
spec:
  parameters:
    required: [name]
    properties: {name: {type: string}}
  steps:
  - {name: a, agent: {image: x}, input: "${inputs.name}"}
"""


def lines(*files: str, strict: bool = False) -> list[str]:
    named = [(f"{number}.yaml", text) for number, text in enumerate(files)]
    return [text_line(finding) for finding in check_files(named, MODELS, strict=strict).findings]


def test_templates_of_other_files_are_used() -> None:
    assert lines(RUN, AGENTS) == []
    assert lines(RUN.replace("forEach: [1]", ""), AGENTS) == [
        "1.yaml:6: AgentTemplate/auditor: spec.args[0]: ${item}: unknown name 'item': only a step with"
        " forEach has it (step 'a' takes it from here)"
    ]


def test_a_template_that_is_not_given_is_noted() -> None:
    assert lines(RUN) == [
        "0.yaml:7: Workflow/run: note: spec.steps[0].agent.templateRef: there is no AgentTemplate 'auditor'"
        " in the given files"
    ]
    assert "note" not in lines(RUN, strict=True)[0]
    elsewhere = AGENTS.replace("name: auditor", "name: auditor, namespace: other")
    here = RUN.replace("name: run", "name: run, namespace: here")
    assert len(lines(here, elsewhere)) == 1
    assert lines(here, elsewhere.replace("other", "here")) == []


def test_faults_of_a_template_are_reported_once_however_many_use_it() -> None:
    faulty = AGENTS.replace("${item}", "${1 +}").replace("image:", "imag:")
    again = RUN.replace("name: run", "name: other")
    found = lines(RUN, again, faulty)
    assert [line.partition(": ")[0] for line in found] == ["2.yaml:5", "2.yaml:6"]


def test_the_parameters_of_a_template_may_be_faulty_where_a_step_uses_it() -> None:
    """The validator of JSON Schema raises for a type that it does not know."""
    faulty = TEMPLATE.replace("required: [name]", "type: {a: b}")
    parent = """\
apiVersion: perdure.dev/v1alpha1
kind: Workflow
metadata: {name: parent}
spec:
  steps:
  - {name: a, workflow: {templateRef: greet, inputs: {name: x}}}
"""
    found = lines(parent, faulty)
    assert {line.partition(": spec")[0] for line in found} == {"1.yaml:6: WorkflowTemplate/greet"}
    assert any("spec.parameters.type" in line for line in found)


def test_a_template_is_checked_though_no_step_uses_it() -> None:
    assert [line[:8] for line in lines(AGENTS.replace("${item}", "${nope}"))] == ["0.yaml:6"]
    faulty = TEMPLATE.replace("required: [name]", "requried: [name]").replace("inputs.name", "inptus.name")
    assert [line[:8] for line in lines(faulty)] == ["0.yaml:6", "0.yaml:9"]


def test_inputs_are_judged_by_the_template() -> None:
    run = (
        "apiVersion: perdure.dev/v1alpha1\nkind: Workflow\nmetadata: {name: g}\nspec:\n  templateRef: greet\n"
    )
    assert lines(TEMPLATE, f"{run}  inputs:\n    name: x\n") == []
    (found,) = lines(TEMPLATE, f"{run}  inputs:\n    name: 1\n")
    assert found == "1.yaml:7: Workflow/g: spec.inputs.name: must be text; it is 1"
    (found,) = lines(TEMPLATE, run)
    assert found == "1.yaml:4: Workflow/g: spec.inputs.name: is required: give text"
    child = RUN.replace("agent: {templateRef: auditor}", "workflow: {templateRef: greet, inputs: {name: %s}}")
    assert lines(TEMPLATE, child % '"${item}"') == []
    assert lines(TEMPLATE, child % "[]") == [
        "1.yaml:7: Workflow/run: spec.steps[0].workflow.inputs.name: must be text; it is a list"
    ]


def test_the_workflow_of_a_schedule_is_checked_too() -> None:
    text = """\
apiVersion: perdure.dev/v1alpha1
kind: WorkflowSchedule
metadata: {name: nightly}
spec:
  schedule: 61 * * * *
  workflow:
    spec:
      steps:
      - name: a
        agent: {image: x}
        input: ${nope}
"""
    assert [line[:9] for line in lines(text)] == ["0.yaml:5:", "0.yaml:11"]


# --- what is no object of ours, or no object


def test_other_documents_are_skipped_and_counted() -> None:
    text = f"apiVersion: v1\nkind: ConfigMap\ndata: {{a: 1, a: 2}}\n---\nreplicas: 3\n---\n{RUN}---\n- 1\n"
    checkup = check_files([("x.yaml", text), ("t.yaml", AGENTS)], MODELS)
    assert checkup.findings == []
    assert summary(checkup) == "no faults in 2 objects; 3 documents of other kinds skipped"


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        (
            "apiVersion: perdure.dev/v1\nkind: Workflow\nmetadata: {name: x}\nspec: {steps: []}",
            ":1: Workflow/x: apiV",
        ),
        ("apiVersion: perdure.dev/v1alpha1\nkind: Workflw\nmetadata: {name: x}", "did you mean Workflow?"),
        (RUN.replace("{name: run}", "{}"), ":3: Workflow/?: metadata.name: is required"),
        (RUN.replace("spec:\n", "spec:\n  nothing: 1\n"), ":5: Workflow/run: spec.nothing: unknown field"),
        (RUN + "statsu: {}\n", ":9: Workflow/run: statsu: unknown field; did you mean status?"),
        (RUN + "a: [\n", "0.yaml:9: is not YAML: "),
        (RUN.replace("name: a", "name: a\n    on: 1"), "[0].on: unknown field"),
    ],
)
def test_faults_around_the_spec(text: str, reported: str) -> None:
    assert any(reported in line for line in lines(text, AGENTS)), lines(text, AGENTS)


def test_a_bare_key_that_yaml_takes_for_a_truth_value() -> None:
    spec = "spec:\n  inputs: {x: 1, y: 2}\n"
    (found,) = lines(RUN.replace("spec:\n", spec), AGENTS)
    assert found.startswith("0.yaml:5: Workflow/run: spec.inputs.y: in YAML the bare key 'y' means true")


def test_deep_values_are_reported_and_no_more() -> None:
    deep = "[" * 150 + "]" * 150
    (found,) = lines(RUN.replace("forEach: [1]", f"forEach: [1]\n    input: {deep}"), AGENTS)
    assert "nested deeper than 100 levels" in found


# --- the command


def test_the_command(tmp_path: Path) -> None:
    good, bad, other = tmp_path / "good.yaml", tmp_path / "sub" / "bad.yml", tmp_path / "other.txt"
    bad.parent.mkdir()
    good.write_text(RUN + "---\n" + AGENTS)
    bad.write_text(RUN.replace("forEach: [1]", "forEach: 1"))
    other.write_text("{")
    assert lint(str(good)) == (0, "", "no faults in 2 objects\n")
    code, output, errors = lint(str(tmp_path))
    assert code == 1
    assert output.startswith(f"{bad}:8: Workflow/run: spec.steps[0].forEach: must be a list")
    assert errors == "1 fault in 3 objects\n"
    assert lint(str(bad), str(good))[1] == output


def test_notes_fail_only_if_asked(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(RUN)
    code, output, errors = lint(str(file))
    assert (code, output.count("\n"), errors) == (0, 1, "no faults in 1 object; 1 note\n")
    assert lint("--strict", str(file))[0] == 1


def test_standard_input() -> None:
    code, output, _ = lint("-", stdin=RUN.replace("forEach: [1]", "forEach: 1") + "---\n" + AGENTS)
    assert code == 1
    assert output.startswith("stdin:8: ")


def test_json_with_tabs(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    manifest = {"apiVersion": "perdure.dev/v1alpha1", "kind": "Workflow", "metadata": {"name": "x"}}
    file.write_text(json.dumps({**manifest, "spec": {"steps": [{"name": "a"}]}}, indent="\t"))
    code, output, _ = lint(str(file))
    assert code == 1
    assert output.startswith(f"{file}:9: Workflow/x: spec.steps[0].agent: names no container")


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "gone.yaml"
    if content is not None:
        file.write_bytes(content)
    code, output, errors = lint(str(file))
    assert (code, output) == (2, "")
    assert str(file) in errors


def test_wrong_usage(tmp_path: Path) -> None:
    assert lint()[0] == 2
    assert lint("-o", "xml", str(tmp_path))[0] == 2
    code, _, errors = lint(str(tmp_path))
    assert code == 2
    assert "there is no *.yaml, *.yml or *.json in this folder" in errors


def test_json_output() -> None:
    code, output, errors = lint("-", "-o", "json", stdin=RUN.replace("forEach: [1]", "forEach: 1"))
    found: dict[str, Any] = json.loads(output)
    assert (code, errors) == (1, "")
    assert [(finding["line"], finding["note"]) for finding in found["findings"]] == [(7, True), (8, False)]
    assert found["findings"][1] == {
        "file": "stdin",
        "line": 8,
        "kind": "Workflow",
        "name": "run",
        "path": "spec.steps[0].forEach",
        "message": found["findings"][1]["message"],
        "note": False,
    }
    assert (found["files"], found["objects"], found["faults"], found["skipped"]) == (1, 1, 1, 0)


def test_annotations_for_github() -> None:
    text = RUN.replace("name: run", "name: run").replace("forEach: [1]", 'input: "${1 +\\n}"')
    note, fault = check_files([("a,b:c%.yaml", text)], MODELS).findings
    assert github_line(note).startswith(
        "::notice file=a%2Cb%3Ac%25.yaml,line=7,title=Workflow/run::spec.steps[0]"
    )
    assert github_line(fault).startswith(
        "::error file=a%2Cb%3Ac%25.yaml,line=8,title=Workflow/run::spec.steps[0]"
    )
    assert "\n" not in github_line(fault)
    assert "\n" not in text_line(fault)


# --- whatever the manifest


def _sound_manifests() -> list[Any]:
    texts = [path.read_text() for path in sorted(EXAMPLES.rglob("*.yaml")) if "expected" not in path.name]
    documents = [part for text in texts for part in read_documents(text)]
    return [it.value for it in documents if isinstance(it, Document) and "spec" in (it.value or {})]


MANIFESTS = _sound_manifests()
STRANGE = [
    None,
    1,
    0.5,
    True,
    "",
    "${",
    "${x}",
    "${steps.a.output}",
    [],
    {},
    [None],
    {"name": "q"},
    "a" * 300,
]
FIELDS = [
    "steps",
    "finally",
    "forEach",
    "repeat",
    "agent",
    "wait",
    "workflow",
    "spec",
    "templateRef",
    "on",
    "?",
]


def _places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, part in parts for found in [(*place, key), *_places(part, (*place, key))]]


@given(st.randoms(use_true_random=False))
def test_any_manifest_can_be_checked(random: Random) -> None:
    manifest = copy.deepcopy(random.choice(MANIFESTS))
    for _ in range(random.randint(1, 3)):
        place = random.choice(_places(manifest["spec"]) or [()])
        if not place:
            break
        parent = manifest["spec"]
        for key in place[:-1]:
            parent = parent[key]
        chance = random.random()
        if chance < 0.5:
            parent[place[-1]] = copy.deepcopy(random.choice(STRANGE))
        elif chance < 0.8 and isinstance(parent, dict):
            parent[random.choice(FIELDS)] = parent.pop(place[-1])
        else:
            del parent[place[-1]]
    checkup = check_files([("x.yaml", json.dumps(manifest, indent=1))], MODELS)
    reported = [(finding.path, finding.message) for finding in checkup.findings]
    assert len(set(reported)) == len(reported)
    last = json.dumps(manifest, indent=1).count("\n") + 1
    assert all(1 <= finding.line <= last for finding in checkup.findings)
