"""The result of checking a manifest: its problems, and a spec that is fit for further checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from perdure.api.base import Model
from perdure.api.raw_spec import Repair
from perdure.api.validation.cross_field import StepNames
from perdure.api.validation.problems import InvalidManifest, ManifestProblem

S = TypeVar("S", bound=Model, covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked(Generic[S]):
    """A manifest that was checked, faulty or not.

    If there are problems, the spec is a repaired one, fit to be checked further, never to be run: faulty
    parts are left out, or replaced by values with which nothing is wrong (a step without a usable name gets
    a name, a step without a usable agent the image `unknown`). Two fields keep later checks from reporting
    the repair:

    - `where` gives the manifest's path for a path in the spec, which differs after a part was left out.
    - `names` has the names of steps as they are written: a name that is not in the spec is not unknown. If
      `names.complete` is false, any name may be that of a step whose own could not be read.
    """

    #: None if nothing in the manifest could be understood.
    spec: S | None
    #: In the order of the manifest, those of inner workflows included.
    problems: tuple[ManifestProblem, ...]
    names: StepNames = field(default_factory=StepNames)
    #: Workflows written out in the manifest, by the path of their spec: those that a step writes out, such as
    #: `spec.steps[2].workflow.spec`, and that of a schedule, `spec.workflow.spec`.
    inner: Mapping[str, Checked[Any]] = field(default_factory=dict)
    #: The path of the spec in the manifest.
    root: str = "spec"
    repair: Repair | None = None

    @property
    def valid(self) -> bool:
        """True if the manifest has no problems."""
        return not self.problems

    def where(self, path: str) -> str:
        """The path in the manifest of what is at `path` in `spec`; both begin with `root`."""
        if self.repair is None or not path.startswith(self.root):
            return path
        return self.root + self.repair.origin_of_path(path.removeprefix(self.root))

    def require(self) -> S:
        """The spec of a manifest without problems. Raises InvalidManifest."""
        if self.problems or self.spec is None:
            raise InvalidManifest(self.problems)
        return self.spec
