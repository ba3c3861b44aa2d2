"""Exception of the Kubernetes calls.

In a module of its own, since code that only distinguishes errors need not import the client.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorCause:
    """An entry of `details.causes` in a `Status` object."""

    reason: str = ""
    message: str = ""
    #: Path of the field that the cause is about; '' if the cause names none.
    field: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorDetails:
    """`details` of a `Status` object: the object or resource that was refused, and the causes."""

    name: str = ""
    #: A kind such as `Pod` where the object was invalid, a resource such as `pods` where it was forbidden.
    kind: str = ""
    causes: tuple[ErrorCause, ...] = ()


class ApiError(Exception):
    """A failed call. `status` is the HTTP status, or 0 without an answer; `details` those of the answer."""

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        *,
        retry_after: float | None = None,
        details: ErrorDetails | None = None,
    ) -> None:
        super().__init__(f"{status} {reason}: {message}" if status else f"no answer: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after
        self.details = details

    @property
    def not_found(self) -> bool:
        return self.status == 404

    @property
    def conflict(self) -> bool:
        return self.status == 409

    @property
    def already_exists(self) -> bool:
        """True if an object of this name exists. A quota that changed, and a webhook, answer 409 as well."""
        return self.status == 409 and self.reason == "AlreadyExists"

    @property
    def transient(self) -> bool:
        """True if the same call may succeed later without any change."""
        return self.status == 0 or self.status == 429 or self.status >= 500
