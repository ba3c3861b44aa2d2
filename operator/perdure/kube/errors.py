"""Exception of the Kubernetes calls.

In a module of its own, since code that only distinguishes errors need not import the client.
"""

from __future__ import annotations


class ApiError(Exception):
    """A failed call. `status` is the HTTP status, or 0 without an answer."""

    def __init__(self, status: int, reason: str, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(f"{status} {reason}: {message}" if status else f"no answer: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after

    @property
    def not_found(self) -> bool:
        return self.status == 404

    @property
    def conflict(self) -> bool:
        return self.status == 409

    @property
    def transient(self) -> bool:
        """True if the same call may succeed later without any change."""
        return self.status == 0 or self.status == 429 or self.status >= 500
