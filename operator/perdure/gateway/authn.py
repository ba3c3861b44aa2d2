"""Authentication of requests, as the endpoints see it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol, TypeVar

IdentityT = TypeVar("IdentityT")


class Owner(NamedTuple):
    """The caller of a request, for shares and rates: its namespace, and the caller within it."""

    namespace: str
    caller: str


class Authenticator(Protocol[IdentityT]):
    """The way from a request's headers to the caller's identity.

    The model is starlette's `AuthenticationBackend`, typed in the identity and without a request object: an
    endpoint authenticates before the body is read.
    """

    @property
    def challenge(self) -> str:
        """The `WWW-Authenticate` header of every response with status 401, which RFC 9110 requires."""
        ...

    async def identify(self, headers: Mapping[bytes, bytes]) -> IdentityT:
        """The caller. Header names are lower case, as in the ASGI scope.

        Raises Problem, of a type of the family with status 401 if the credentials are missing or not valid.
        """
        ...

    def owner(self, identity: IdentityT) -> Owner:
        """Whose share of memory, uploads and requests the caller uses."""
        ...
