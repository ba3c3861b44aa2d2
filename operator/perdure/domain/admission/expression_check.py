"""The static check of expressions: the steps that they refer to, and their problems.

Which names are known differs from field to field, and a name that is known elsewhere is the commonest
mistake. So each field has a scope of known names, and each name has a remedy of its own.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final

from perdure.api.validation.problems import ManifestProblem
from perdure.domain.expressions.cel import Expression, ExpressionError
from perdure.domain.expressions.templating import Text, has_expression, parse_text, walk_strings
from perdure.domain.expressions.tokens import Token, tokenize

#: Names that every expression of a workflow may use.
WORKFLOW_NAMES: Final = frozenset({"inputs", "steps", "workflow"})
#: The fields of a step, of the run, and of an attempt that failed.
STEP_FIELDS: Final = tuple(
    "phase reason message output outputs exitCode attempts startedAt finishedAt".split()
)
WORKFLOW_FIELDS: Final = ("name", "namespace", "uid", "phase")
ATTEMPT_FIELDS: Final = ("number", "exitCode", "reason", "message", "disruptions")

_SINGLE: Final = "one ${} expression and nothing else, such as ${inputs.x}"
_REMEDIES: Final = {
    "item": "only a step with forEach has it",
    "index": "only a step with forEach or repeat has it",
    "last": "only a step with repeat has it",
    "attempt": "only retry.on has it",
}


#: Names of one object that are compared with those of steps, to suggest one. With 500 steps that takes 5 ms.
MAX_SUGGESTIONS: Final = 20


@dataclass(slots=True)
class Suggestions:
    """How many more names of an object are compared with known ones."""

    left: int = MAX_SUGGESTIONS

    def spend(self) -> bool:
        """Count a comparison. False if it is one too many."""
        self.left -= 1
        return self.left >= 0


class Findings:
    """Problems, each reported once however many steps share the field that has it."""

    def __init__(self, suggestions: Suggestions | None = None) -> None:
        self._found: dict[tuple[str, str], str] = {}
        #: Shared by all checks of one object.
        self.suggestions = suggestions or Suggestions()

    def add(self, path: str, message: str, *, step: str = "") -> None:
        """Add a problem; `step` is the step that takes the field from there, if it is not its own."""
        self._found.setdefault((path, message), step)

    def extend(self, problems: Iterable[ManifestProblem]) -> None:
        for problem in problems:
            self.add(problem.path, problem.message)

    def moved(self, where: Callable[[str], str]) -> Iterator[ManifestProblem]:
        """The problems, their paths translated by `where`."""
        for problem in self.problems:
            yield ManifestProblem(where(problem.path), problem.message)

    @property
    def problems(self) -> tuple[ManifestProblem, ...]:
        return tuple(
            ManifestProblem(path, f"{message} (step {step!r} takes it from here)" if step else message)
            for (path, message), step in self._found.items()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What the expressions of one field may use."""

    names: frozenset[str] = WORKFLOW_NAMES
    #: Steps that expressions may refer to, and whether each has `forEach` (None: that is not known); None
    #: instead of the mapping if any step may be referred to, as in a template.
    steps: Mapping[str, bool | None] | None = field(default_factory=dict)
    #: False if there may be steps whose names could not be read.
    complete: bool = True
    #: Finally steps, where expressions must not refer to them.
    too_late: Collection[str] = ()
    #: Whether `workflow.failures` is there.
    failures: bool = False
    #: The remedy for names that are known further in, such as `item` in the `when` of a step with `forEach`.
    later: str = ""
    #: The step whose expressions these are, and its path.
    step: str = ""
    place: str = ""

    def plus(self, *names: str) -> Scope:
        """The same, with more names."""
        return replace(self, names=self.names | set(names), later="")


def check_value(value: Any, path: str, scope: Scope, findings: Findings) -> dict[str, str]:
    """Check every string in JSON. Returns the steps referred to, each with the field that does."""
    needed: dict[str, str] = {}
    for where, text in walk_strings(value, path):
        needed |= check_text(text, where, scope, findings)
    return needed


def check_text(text: str, path: str, scope: Scope, findings: Findings) -> dict[str, str]:
    """Check the expressions in a string. Returns as above."""
    if not has_expression(text):
        return {}
    try:
        parsed = parse_text(text)
    except ExpressionError as error:
        findings.add(path, str(error))
        return {}
    return _check_parsed(parsed, path, scope, findings)


def _check_parsed(parsed: Text, path: str, scope: Scope, findings: Findings) -> dict[str, str]:
    needed: dict[str, str] = {}
    for part in parsed.parts:
        if isinstance(part, str):
            continue
        taken = "" if path.startswith(scope.place) else scope.step
        for message in _faults(part, scope, findings.suggestions):
            findings.add(path, f"${{{part.source}}}: {message}", step=taken)
        if "steps" in scope.names:
            known = part.steps if scope.steps is None else part.steps & scope.steps.keys()
            needed |= dict.fromkeys(sorted(known), path)
    return needed


def check_single(
    text: str, path: str, scope: Scope, findings: Findings, *, wanted: str = _SINGLE
) -> dict[str, str]:
    """Check a string that must be one expression and nothing else. Returns as above."""
    try:
        parsed = parse_text(text)
    except ExpressionError as error:
        findings.add(path, str(error))
        return {}
    if parsed.whole is None:
        findings.add(path, f"must be {wanted}")
    return _check_parsed(parsed, path, scope, findings)


def check_plain(value: Any, path: str, remedy: str, findings: Findings) -> None:
    """Report expressions in a field that is never evaluated."""
    for where, text in walk_strings(value, path):
        if has_expression(text):
            findings.add(where, f"takes no expressions; {remedy}")


def unknown_step(name: str, names: Collection[str], suggestions: Suggestions) -> str:
    """The message about a step that does not exist."""
    close = difflib.get_close_matches(name, names, n=1) if suggestions.spend() else ()
    hint = f"; did you mean {close[0]!r}?" if close else "; name a step of this workflow"
    return f"there is no step {name!r}{hint}"


def too_late(name: str) -> str:
    """The message about a reference to a finally step."""
    return f"{name!r} is a finally step, which starts when all others have ended: nothing can wait for it"


def _faults(expression: Expression, scope: Scope, suggestions: Suggestions) -> Iterator[str]:
    for name in sorted(expression.names - scope.names):
        if name in _REMEDIES:
            remedy = scope.later or _REMEDIES[name]
        elif not scope.names:
            remedy = "no names are known here"
        else:
            remedy = f"known here are {', '.join(sorted(scope.names))}; a literal ${{ is written $${{"
        yield f"unknown name {name!r}: {remedy}"
    if "steps" in scope.names and scope.steps is not None and scope.complete:
        for name in sorted(expression.steps.difference(scope.steps)):
            dashed = next((other for other in scope.steps if other.startswith(f"{name}-")), None)
            if name in scope.too_late:
                yield too_late(name)
            elif dashed is not None:
                yield f'there is no step {name!r}; for {dashed!r} write steps["{dashed}"]'
            else:
                yield unknown_step(name, scope.steps, suggestions)
    if expression.names & scope.names & {"steps", "workflow", "attempt"}:
        yield from dict.fromkeys(_field_faults(expression, scope))


def _field_faults(expression: Expression, scope: Scope) -> Iterator[str]:
    tokens = _tokens(expression.source)
    for position, token in enumerate(tokens):
        if token.kind != "name" or token.text not in expression.names & scope.names:
            continue
        if position and tokens[position - 1].text == ".":
            continue  # A field of that name.
        if token.text == "workflow":
            name = _field(tokens, position + 1)
            if name == "failures" and not scope.failures:
                yield "only finally steps see workflow.failures"
            elif name and name not in (*WORKFLOW_FIELDS, "failures"):
                yield _no_field("workflow", name, WORKFLOW_FIELDS)
        elif token.text == "attempt":
            if (name := _field(tokens, position + 1)) and name not in ATTEMPT_FIELDS:
                yield _no_field("attempt", name, ATTEMPT_FIELDS)
        elif token.text == "steps":
            yield from _step_faults(tokens, position, scope)


#: Tokenizing a text costs more than all other checks of it.
_tokens = lru_cache(maxsize=1024)(tokenize)


def _step_faults(tokens: list[Token], position: int, scope: Scope) -> Iterator[str]:
    """Faults of the field in `steps.<step>.<field>`."""
    dotted = tokens[position + 1].text == "."
    step = tokens[position + 2].text if dotted else tokens[position + 2].plain_string
    name = _field(tokens, position + (3 if dotted else 4))
    for_each = (scope.steps or {}).get(step or "")
    if not name:
        return
    if name not in STEP_FIELDS:
        yield _no_field("a step", name, STEP_FIELDS)
    elif for_each is None or [token.text for token in tokens[max(position - 2, 0) : position]] == [
        "has",
        "(",
    ]:
        return
    elif for_each and name == "output":
        yield f"step {step!r} has forEach: what its tasks gave is the list `outputs`"
    elif not for_each and name == "outputs":
        yield f"step {step!r} has no forEach: what it gave is `output`"


def _field(tokens: list[Token], position: int) -> str:
    """The name in `.name` at a position; '' for anything else, a call included."""
    texts = [token.text for token in tokens[position : position + 3]]
    if len(texts) < 2 or texts[0] != "." or tokens[position + 1].kind != "name" or texts[2:] == ["("]:
        return ""
    return texts[1]


def _no_field(what: str, name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
    return f"{what} has no {name!r}; {hint}"
