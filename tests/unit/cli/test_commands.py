"""The command line without a ledger: names, settings, mistakes and their remedies."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from perdure import __version__
from perdure.cli.arguments import UnclearRun, program_name, run_kind, run_name, seconds
from perdure.cli.main import app


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "NATS_URL", "ENV_FILE", "WORKERS"):
        monkeypatch.delenv(f"PERDURE_{name}", raising=False)


def run(*arguments: str, **settings: str) -> tuple[int, str, str]:
    """(exit code, output, errors)."""
    environment = {f"PERDURE_{name.upper()}": value for name, value in settings.items()}
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200", **environment}, prog_name="perdure")
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize(
    ("name", "namespace", "expected"),
    [("a/b", None, ("a", "b")), ("b", "a", ("a", "b")), ("a/b", "a", ("a", "b"))],
)
def test_a_run_is_named_either_way(name: str, namespace: str | None, expected: tuple[str, str]) -> None:
    assert run_name(name, namespace) == expected


@pytest.mark.parametrize(
    ("name", "namespace", "reported"),
    [
        ("audit", None, "NAMESPACE/audit"),
        ("a/audit", "b", "--namespace says 'b'"),
        ("/audit", None, "NAMESPACE/WORKFLOW"),
        ("a/", None, "NAMESPACE/WORKFLOW"),
        ("a/b/c", None, "NAMESPACE/WORKFLOW"),
    ],
)
def test_an_unclear_name_is_refused_with_the_remedy(name: str, namespace: str | None, reported: str) -> None:
    with pytest.raises(UnclearRun, match=reported):
        run_name(name, namespace)
    arguments = ["events", name] + (["-n", namespace] if namespace else [])
    code, output, errors = run(*arguments, database_url="postgresql://localhost/x")
    assert (code, output) == (2, "")
    assert reported in " ".join(errors.split())


@pytest.mark.parametrize(
    ("text", "expected"), [("60", 60), ("60s", 60), ("1.5m", 90), ("500ms", 0.5), ("1h", 3600), (" 2 ", 2)]
)
def test_durations(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "s", "-1s", "1 day", "1d", "inf"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="60s"):
        seconds(text)


def test_kinds_are_taken_as_kubectl_takes_them() -> None:
    assert run_kind(None) is None
    assert run_kind("Workflow") == run_kind("workflows") == "Workflow"
    assert run_kind("agenttask") == "AgentTask"
    with pytest.raises(typer.BadParameter, match="AgentTask"):
        run_kind("pod")


def test_as_a_plugin_we_are_called_by_kubectl() -> None:
    assert program_name("/usr/local/bin/kubectl-perdure") == "kubectl perdure"
    assert program_name("/app/.venv/bin/perdure") == "perdure"
    assert program_name("__main__.py") == "perdure"


def test_usage_under_kubectl_says_kubectl(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/local/bin/kubectl-perdure", "events", "--help"])
    with pytest.raises(SystemExit) as ended:
        app()
    assert ended.value.code == 0
    assert "kubectl perdure events" in capsys.readouterr().out


def test_version() -> None:
    code, output, _ = run("version")
    assert code == 0
    assert output.startswith(f"perdure {__version__} ")


def test_config_shows_what_is_in_force_without_secrets() -> None:
    code, output, _ = run(
        "config",
        database_url="postgresql://someone:hidden@db:5432/ledger?password=hidden&sslmode=require",
        nats_url="nats://hidden@n1:4222, tls://u:hidden@n2:4222",
        workers="7",
        watch_namespaces="a,b",
    )
    rows = dict(line.split(None, 1) for line in output.splitlines() if len(line.split(None, 1)) == 2)
    assert code == 0
    assert "hidden" not in output
    assert "someone" not in output
    assert rows["PERDURE_DATABASE_URL"] == "postgresql://***@db:5432/ledger"
    assert rows["PERDURE_NATS_URL"] == "nats://***@n1:4222,tls://***@n2:4222"
    assert rows["PERDURE_WORKERS"] == "7"
    assert rows["PERDURE_WATCH_NAMESPACES"] == "a,b"


def test_config_masks_what_it_cannot_read() -> None:
    code, output, _ = run("config", database_url="host=db password=hidden", nats_url="hidden")
    assert code == 0
    assert "hidden" not in output


def test_a_bad_setting_is_named_without_its_value() -> None:
    code, output, errors = run("config", workers="hidden")
    assert (code, output) == (2, "")
    assert "PERDURE_WORKERS" in errors
    assert "hidden" not in errors


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        (["operator"], ["PERDURE_DATABASE_URL", "PERDURE_NATS_URL"]),
        (["gateway"], ["PERDURE_DATABASE_URL"]),
        (["migrate"], ["PERDURE_DATABASE_URL"]),
        (["events", "a/b"], ["PERDURE_DATABASE_URL"]),
    ],
)
def test_a_missing_setting_is_named_with_an_example(command: list[str], missing: list[str]) -> None:
    code, output, errors = run(*command)
    assert (code, output) == (2, "")
    for name in missing:
        assert f"{name} is not set" in errors
        assert f"{name}=" in errors
