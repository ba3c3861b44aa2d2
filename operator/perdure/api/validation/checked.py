"""What comes of looking at a manifest: all that is wrong with it, and what can be made of the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from perdure.api.base import Model
from perdure.api.validation.cross_field import Names
from perdure.api.validation.problems import InvalidManifest, ManifestProblem
from perdure.api.validation.repair import Draft

S = TypeVar("S", bound=Model, covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked(Generic[S]):
    """A manifest that was looked at, faulty or not.

    With problems the spec is a mended one, fit to be looked at further, never to be run: faulty parts are
    left out of it, or replaced by something with which nothing is wrong (a step without a usable name gets
    one, a step without a usable agent the image `unknown`). So that nobody complains of the mending:

    - `where` gives the manifest's path for a path in the spec, which differs after something was left out.
    - `names` has the steps' names as they are written: one that is not in the spec is no unknown one. If
      `names.complete` is false, any name may be that of a step whose own could not be read.
    """

    #: None if nothing could be made of it.
    spec: S | None
    #: In the order of the manifest; those of workflows inside it are among them.
    problems: tuple[ManifestProblem, ...]
    names: Names = field(default_factory=Names)
    #: Workflows written out inside it, by the manifest's path of their spec: those of `workflow` steps, such
    #: as `spec.steps[2].workflow.spec`, and that of a schedule, `spec.workflow.spec`.
    inner: Mapping[str, Checked[Any]] = field(default_factory=dict)
    #: The path at which the spec stands, such as `spec`.
    root: str = "spec"
    draft: Draft | None = None

    @property
    def sound(self) -> bool:
        """True if nothing is wrong with it."""
        return not self.problems

    def where(self, path: str) -> str:
        """The path in the manifest of what is at `path` in `spec`; both begin with `root`."""
        if self.draft is None or not path.startswith(self.root):
            return path
        return self.root + self.draft.origin_of_path(path.removeprefix(self.root))

    def require(self) -> S:
        """The spec of a sound manifest. Raises InvalidManifest."""
        if self.problems or self.spec is None:
            raise InvalidManifest(self.problems)
        return self.spec
