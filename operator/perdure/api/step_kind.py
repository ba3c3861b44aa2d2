"""The manifest side of a step kind: what parsing, the CRDs, lint and the drawing of a graph ask of it.

A kind is one folder under `perdure.steps`. Nothing here or in the rest of `api` knows which kinds there are:
they arrive as a parameter, as a tuple of `StepSpec`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from perdure.api.base import JsonObject, Model
from perdure.api.raw_spec import Found, Raw

#: Fields of a step that have no type in the CRD, so that its CEL rules cannot see them. What a kind excludes
#: of these is refused by the chart's ValidatingAdmissionPolicy.
FREE_FORM: tuple[str, ...] = ("forEach", "input")


@dataclass(frozen=True, slots=True, kw_only=True)
class Excluded:
    """Fields of a step that a kind does not take, and the remedy.

    The CEL rules of the CRD, the admission policy, the cross-field checks and admission all read this.
    """

    fields: tuple[str, ...]
    #: What to do about one of the fields, such as `give it in workflow.inputs`.
    remedy: str
    #: The same said of all the fields in one sentence, for the CRD's rule.
    remedy_for_all: str = "remove them"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRepair:
    """What error recovery puts into a faulty block, so that the rest of the block can still be checked."""

    #: Values for fields that are faulty or missing.
    fields: Mapping[str, Any] = field(default_factory=dict)
    #: Fields of which a block needs one. Of several the first is kept; if none is left, the first is added
    #: with its value in `fields`.
    one_of: tuple[str, ...] = ()


class StepSpec(Protocol):
    """The manifest side of one step kind. Attributes without a value are required of every kind."""

    #: The field of a step that holds the kind's block, which is also the kind's name for people.
    field: ClassVar[str]
    #: The kind in a sentence, such as `an agent`.
    noun: ClassVar[str]
    #: The model of the block.
    block: ClassVar[type[Model]]
    #: What `kubectl explain` and the reference say of the field.
    description: ClassVar[str]
    #: True for the one kind of a step that has no block at all, because `spec.defaults` may say everything.
    implied: ClassVar[bool] = False
    #: A block with which nothing is wrong, in place of a faulty one.
    stand_in: ClassVar[JsonObject]
    repair: ClassVar[BlockRepair] = BlockRepair()
    excludes: ClassVar[tuple[Excluded, ...]] = ()
    #: Why fields are excluded, such as `which runs nothing`; empty if it needs no reason.
    excludes_because: ClassVar[str] = ""
    #: The remedy for a block of another kind in the same step.
    other_block_remedy: ClassVar[str] = "remove one, or make a step of each"
    #: CEL rules over a step `s` that may or may not have this kind, each with its message.
    cel_rules: ClassVar[tuple[tuple[str, str], ...]] = ()
    #: Messages about fields that people put into the step; a field of the block itself needs no entry.
    misplaced: ClassVar[Mapping[str, str]] = {}
    #: The brackets of the kind's node in a Mermaid flowchart.
    shape: ClassVar[tuple[str, str]] = ("[", "]")

    def takes(self, name: str) -> bool:
        """True if a step of this kind may have the common field `name`."""
        return not any(name in excluded.fields for excluded in self.excludes)

    def graph_rule(self, every: Callable[[str], str], others: Sequence[StepSpec]) -> tuple[str, str] | None:
        """A CEL rule over the graph `self`, and its message; None if there is none.

        `every` makes the rule that an expression holds for each step `s`; `others` are the other kinds.
        """
        return None

    def check_block(self, block: Raw, found: Found) -> None:
        """Cross-field checks of a raw block of this kind. Reports to `found`."""
        return

    def step_checker(self, graph: Raw, found: Found) -> Callable[[Raw], None]:
        """The cross-field check of each raw step of this kind in a raw graph. Reports to `found`."""
        return lambda step: None

    def inner_workflows(self, block: Raw) -> Iterator[Raw]:
        """The specs of workflows that a raw block writes out; some may be missing or no objects."""
        return iter(())

    def marks(self, block: Any) -> Iterator[str]:
        """Notes under the step's name in a drawing of the graph, such as `of child`."""
        return iter(())


def kind_of(given: Callable[[str], bool], kinds: Sequence[StepSpec]) -> StepSpec:
    """The kind of a step: the first that is not implied and whose field is given, else the implied kind.

    A faulty step may have several blocks; the implied kind yields, because its block may also be a leftover.
    """
    for kind in kinds:
        if not kind.implied and given(kind.field):
            return kind
    return implied_kind(kinds)


def implied_kind(kinds: Sequence[StepSpec]) -> StepSpec:
    """The kind of a step without a block. Raises ValueError unless there is exactly one."""
    (implied,) = (kind for kind in kinds if kind.implied)
    return implied


def excluded_fields(kind: StepSpec, kinds: Sequence[StepSpec]) -> Iterator[tuple[str, str]]:
    """Each field that does not go together with a kind, blocks of other kinds included, with the message."""
    because = f", {kind.excludes_because}" if kind.excludes_because else ""
    for other in kinds:
        if other is not kind:
            yield other.field, f"does not go together with {kind.field}{because}: {kind.other_block_remedy}"
    for excluded in kind.excludes:
        for name in excluded.fields:
            yield name, f"does not go together with {kind.field}{because}: {excluded.remedy}"


def joined(words: Sequence[str], last: str) -> str:
    """`a, b and c` for the words a, b and c, and `last` = `and`."""
    return f" {last} ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)
