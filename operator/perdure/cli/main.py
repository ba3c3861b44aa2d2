"""The command line: the two processes, the ledger's schema, and the commands for people.

The program is installed twice: as `perdure`, and as `kubectl-perdure`, which kubectl runs as `kubectl
perdure`. Heavy modules are imported by the command that needs them, so that `perdure version` stays fast.
"""

from __future__ import annotations

import asyncio
import gc
import platform
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Annotated, Any, NoReturn, TypeVar
from urllib.parse import urlsplit

import typer
from pydantic import SecretStr, ValidationError

from perdure import __version__
from perdure.cli.arguments import (
    GraphFormat,
    LintOutput,
    Output,
    UnclearRun,
    program_name,
    run_kind,
    run_name,
    seconds,
)
from perdure.cli.output import print_error, print_line, print_table, print_warning
from perdure.domain.records import LedgerError, LedgerUnavailable, RunKind
from perdure.settings import Settings, load

T = TypeVar("T")

#: The exit code that a shell gives a program ended by Ctrl-C.
_INTERRUPTED = 130
_MASK = "***"


class _App(typer.Typer):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        kwargs.setdefault("prog_name", program_name(sys.argv[0]))
        return super().__call__(*args, **kwargs)


app = _App(
    name="perdure",
    help="Durable agent workflows for Kubernetes.",
    no_args_is_help=True,
    add_completion=False,
    # A pretty traceback shows local variables, and with them credentials.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def operator() -> None:
    """Run the operator: watches Kubernetes, decides, makes pods, relays events."""
    settings = _settings()
    _require(settings, "database_url", "nats_url")
    # Most objects are small, long-lived and created by imports: fewer collections save a tenth of the CPU.
    gc.set_threshold(50_000, 50, 100)
    from perdure import logs
    from perdure.main import run_operator

    logs.configure(settings)
    _serve(run_operator(settings))


@app.command()
def gateway() -> None:
    """Run the gateway: the HTTP service that agents talk to."""
    settings = _settings()
    _require(settings, "database_url")
    from perdure import logs
    from perdure.main import run_gateway

    logs.configure(settings)
    _serve(run_gateway(settings))


@app.command()
def migrate(
    wait: Annotated[str, typer.Option(metavar="DURATION", help="How long to wait for the database.")] = "60s",
) -> None:
    """Bring the ledger's schema up to date. Safe to run again, and by several at once."""
    settings, patience = _settings(), seconds(wait)
    _require(settings, "database_url")
    _quiet(settings)
    try:
        applied = _run(_migrate(settings, patience))
    except LedgerUnavailable as error:
        _fail(f"the database could not be reached within {patience:g} s: {error}", remedy=_DATABASE_REMEDY)
    except LedgerError as error:
        _fail(str(error))
    for name in applied:
        print_line(f"applied {name}")
    if not applied:
        print_line("the schema is up to date")


@app.command()
def config() -> None:
    """Show the settings in force, with secrets masked."""
    settings = _settings()
    rows = [(_variable(name), _shown(getattr(settings, name))) for name in Settings.model_fields]
    print_table(("setting", "value"), rows)


@app.command()
def version() -> None:
    """Show the version."""
    print_line(f"perdure {__version__} (Python {platform.python_version()})")


@app.command()
def events(
    workflow: Annotated[
        str,
        typer.Argument(metavar="NAMESPACE/WORKFLOW", help="The run: a Workflow, or an AgentTask by itself."),
    ],
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="The namespace, if the argument is the name only.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what happens, until the run has ended.")
    ] = False,
    output: Annotated[
        Output, typer.Option("--output", "-o", help="Lines for people, or one CloudEvent a line.")
    ] = Output.TEXT,
    after: Annotated[
        int, typer.Option(min=0, help="Only events with numbers above this; 0 for all.", metavar="N")
    ] = 0,
    kind: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="Workflow or AgentTask, where both have runs of that name."),
    ] = None,
    headers: Annotated[bool, typer.Option("--headers/--no-headers", help="Print column names.")] = True,
) -> None:
    """Show what happened to a run, from the ledger; with --follow also what happens next."""
    settings = _settings()
    try:
        where, name = run_name(workflow, namespace)
    except UnclearRun as error:
        raise typer.BadParameter(str(error), param_hint="NAMESPACE/WORKFLOW") from error
    only = run_kind(kind)
    _require(settings, "database_url")
    _quiet(settings)
    try:
        found = _run(
            _events(
                settings,
                where,
                name,
                kind=only,
                after=after,
                output=output,
                headers=headers,
                follow=follow,
            )
        )
    except LedgerUnavailable as error:
        _fail(f"the ledger cannot be read: {error}", remedy=_DATABASE_REMEDY)
    if not found:
        _fail(
            f"the ledger knows no run {where}/{name}",
            remedy=f"See what there is: kubectl get workflows.perdure.dev,agenttasks.perdure.dev -n {where}\n"
            "A run that was just applied is known once the operator has accepted it.",
        )


@app.command()
def lint(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="Manifests, folders of them, or - for standard input."),
    ],
    strict: Annotated[
        bool, typer.Option("--strict", help="Templates that are not in the files are a fault.")
    ] = False,
    output: Annotated[
        LintOutput, typer.Option("--output", "-o", help="Lines for people, JSON, or annotations for GitHub.")
    ] = LintOutput.TEXT,
) -> None:
    """Check manifests without a cluster: all that the API server and the operator would say of them."""
    from perdure.cli.files import Unreadable, read_files
    from perdure.cli.lint import lint_files
    from perdure.steps.schema import MODELS

    try:
        found = read_files(files)
    except Unreadable as error:
        print_error(str(error))
        raise typer.Exit(2) from None
    if not lint_files(found, MODELS, strict=strict, output=output):
        raise typer.Exit(1)


@app.command()
def graph(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="The manifest, a folder, or - for standard input.")
    ],
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="The Workflow or WorkflowTemplate, if there are several."),
    ] = None,
    form: Annotated[
        GraphFormat | None,
        typer.Option("--format", help="Levels for a terminal, or a Mermaid flowchart (default in a pipe)."),
    ] = None,
) -> None:
    """Draw the steps of a Workflow or WorkflowTemplate, and what waits for what."""
    from perdure.cli.files import Unreadable, read_files
    from perdure.cli.graph import NothingToDraw, print_graph
    from perdure.steps.schema import MODELS

    form = form or (GraphFormat.TEXT if sys.stdout.isatty() else GraphFormat.MERMAID)
    try:
        valid = print_graph(read_files([file]), MODELS, name=name, form=form)
    except (Unreadable, NothingToDraw) as error:
        print_error(str(error))
        raise typer.Exit(2) from None
    if not valid:
        raise typer.Exit(1)


async def _migrate(settings: Settings, wait: float) -> list[str]:
    """Check what Postgres must be, print what is to be warned of, and migrate."""
    from perdure.ledger import migrate as bring_up_to_date
    from perdure.ledger import require_server

    url = settings.database_url.get_secret_value()
    enforce = settings.database_checks == "enforce"
    for unmet in await require_server(url, enforce=enforce, wait=wait):
        print_warning(unmet.what, remedy=unmet.remedy)
    return await bring_up_to_date(url, wait=wait)


async def _events(
    settings: Settings,
    namespace: str,
    name: str,
    *,
    kind: RunKind | None,
    after: int,
    output: Output,
    headers: bool,
    follow: bool,
) -> bool:
    """Print a run's events. False if there is no such run."""
    from perdure.bus.connection import Bus
    from perdure.cli.events import print_events
    from perdure.ledger import Ledger

    async with AsyncExitStack() as stack:
        ledger = await stack.enter_async_context(
            Ledger(settings.database_url.get_secret_value(), pool_size=2)
        )
        run = await ledger.find_run(namespace, name, kind=kind)
        if run is None:
            return False
        bus = None
        if follow and settings.nats_url.get_secret_value():
            bus = await stack.enter_async_context(
                Bus(settings.nats_url.get_secret_value(), name="perdure-cli")
            )
        await print_events(ledger, run, after=after, output=output, headers=headers, bus=bus, live=follow)
    return True


_DATABASE_REMEDY = (
    "Check PERDURE_DATABASE_URL (postgresql://user:password@host:5432/database), and that the server is up."
)
_EXAMPLES = {
    "database_url": "postgresql://user:password@host:5432/database",
    "nats_url": "nats://host:4222",
}


def _settings() -> Settings:
    try:
        return load()
    except ValidationError as error:
        for problem in error.errors(include_input=False, include_url=False):
            field = ".".join(str(part) for part in problem["loc"])
            print_error(f"{_variable(field)}: {problem['msg']}")
        raise typer.Exit(2) from None


def _require(settings: Settings, *names: str) -> None:
    missing = [name for name in names if not getattr(settings, name).get_secret_value()]
    for name in missing:
        print_error(
            f"{_variable(name)} is not set", remedy=f"For example: {_variable(name)}={_EXAMPLES[name]}"
        )
    if missing:
        raise typer.Exit(2)


def _variable(name: str) -> str:
    return f"PERDURE_{name.upper()}"


def _shown(value: object) -> str:
    if isinstance(value, SecretStr):
        return ",".join(_without_login(url.strip()) for url in value.get_secret_value().split(","))
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "" if value is None else str(value)


def _without_login(url: str) -> str:
    """A URL's scheme, host and path: user, password and parameters may all be secret."""
    if not url:
        return ""
    parts = urlsplit(url)
    if not parts.scheme or not parts.netloc:
        return _MASK
    login, at, host = parts.netloc.rpartition("@")
    return f"{parts.scheme}://{_MASK + at if login else ''}{host}{parts.path}"


def _quiet(settings: Settings) -> None:
    """Logging for commands that people run: their output is what matters."""
    from perdure import logs

    level = "debug" if settings.log_level == "debug" else "error"
    logs.configure(settings.model_copy(update={"log_format": "console", "log_level": level}))


def _serve(work: Coroutine[Any, Any, None]) -> None:
    from perdure.ledger import DatabaseRefused

    try:
        _run(work, serves=True)
    except DatabaseRefused as error:
        _fail(str(error))


def _run(work: Coroutine[Any, Any, T], *, serves: bool = False) -> T:
    """Run `work` to its end. A program that `serves` runs for long, so it gets uvloop where that exists."""
    try:
        with asyncio.Runner(loop_factory=_fast_loop() if serves else None) as runner:
            return runner.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(_INTERRUPTED) from None


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # Windows
        return None
    return uvloop.new_event_loop


def _fail(message: str, *, remedy: str = "") -> NoReturn:
    print_error(message, remedy=remedy)
    raise typer.Exit(1)
