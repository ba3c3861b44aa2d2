"""Authentication of requests, as the endpoints see it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar

IdentityT_co = TypeVar("IdentityT_co", covariant=True)


class Authenticator(Protocol[IdentityT_co]):
    """The way from a request's headers to the caller's identity.

    The model is starlette's `AuthenticationBackend`, typed in the identity and without a request object: an
    endpoint authenticates before the body is read.
    """

    @property
    def challenge(self) -> str:
        """The `WWW-Authenticate` header of every response with status 401, which RFC 9110 requires."""
        ...

    async def identify(self, headers: Mapping[bytes, bytes]) -> IdentityT_co:
        """The caller. Header names are lower case, as in the ASGI scope.

        Raises Problem, of a type of the family with status 401 if the credentials are missing or not valid.
        """
        ...
