"""Authentication of agents by the service account token of their pod."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import ClassVar, Final

from perdure.gateway.agent_api.ports import Verifier
from perdure.gateway.agent_api.problems import AgentProblem
from perdure.gateway.authn import Owner
from perdure.gateway.http.problems import Problem
from perdure.kube.tokens import AgentIdentity, ExpiredToken, InvalidToken, KeysUnavailable

#: Seconds after which an agent whose token has expired should read the file and ask again. The kubelet tries
#: to renew a token each minute or so.
EXPIRED_RETRY_AFTER: Final = 5


class PodAuthenticator:
    """Authenticator whose identity is a pod.

    The pod's uid is the whole credential: the kubelet writes a token that is bound to the uid into the pod,
    the operator records the uid with the attempt, and the ledger fences by the attempt. No secret per task
    exists.
    """

    challenge: ClassVar[str] = 'Bearer realm="perdure"'

    def __init__(self, verifier: Verifier, *, clock: Callable[[], datetime]) -> None:
        self._verifier = verifier
        self._clock = clock

    def owner(self, identity: AgentIdentity) -> Owner:
        """See Authenticator."""
        return Owner(identity.namespace, identity.pod_uid)

    async def identify(self, headers: Mapping[bytes, bytes]) -> AgentIdentity:
        """The pod that sent the request.

        Raises Problem (unauthenticated, token-expired, keys-unavailable).
        """
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not token.strip():
            raise Problem(
                AgentProblem.UNAUTHENTICATED,
                "Authorization: send `Bearer` and the token in the file that PERDURE_TOKEN_FILE names",
            )
        try:
            return await self._verifier.verify(token.strip().decode("latin-1"), now=self._clock())
        except ExpiredToken:
            raise Problem(
                AgentProblem.TOKEN_EXPIRED,
                "Authorization: the token has expired and the kubelet has not renewed it, most often because "
                "the API server is away; read the file that PERDURE_TOKEN_FILE names again, and repeat the "
                "call after Retry-After",
                headers={"Retry-After": str(EXPIRED_RETRY_AFTER)},
            ) from None
        except InvalidToken as error:
            raise Problem(
                AgentProblem.UNAUTHENTICATED,
                f"Authorization: {error}; read the file that PERDURE_TOKEN_FILE names again at each use",
            ) from None
        except KeysUnavailable:
            raise Problem(
                AgentProblem.KEYS_UNAVAILABLE,
                "Authorization: the cluster's keys cannot be fetched; send it again",
            ) from None
