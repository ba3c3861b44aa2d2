"""Verifier of ServiceAccount tokens, without a request to the API server for each token.

The token that the kubelet writes into an agent's pod is signed by the cluster and names the pod. Verification
against the published keys lets agents write checkpoints while the API server is unavailable. A signature does
not prove that the pod still exists; the ledger fences closed attempts independently.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import jwt
import structlog

from perdure.kube.errors import ApiError

KEYS_PATH = "/openid/v1/jwks"
DISCOVERY_PATH = "/.well-known/openid-configuration"

#: Asymmetric algorithms only: with HMAC in the list, the public key would be a secret with which
#: any client could sign.
ALGORITHMS = ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512")

#: Tolerated difference, in seconds, between the clocks of signer and verifier.
LEEWAY = 30.0
#: Seconds after which keys are fetched again even if no token had an unknown key.
KEYS_LIFETIME = 3600.0
#: Longest time of one fetch. Agents' requests wait for it, and an API server that accepts connections and
#: does not answer must not stop their checkpoints. Seconds.
FETCH_TIME = 3.0
#: Least seconds between two fetches: forged key ids must not turn into load on the API server.
REFETCH_INTERVAL = 10.0
#: The same interval until the first fetch has succeeded.
FIRST_FETCH_INTERVAL = 1.0
#: Size of the LRU cache of verified tokens.
REMEMBERED = 10_000
#: Longer tokens are refused unread. Real tokens have about 1,200 characters.
MAX_TOKEN_LENGTH = 16_384

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class AgentIdentity:
    """The pod to which a token is bound."""

    namespace: str
    pod_name: str
    pod_uid: str
    service_account: str


class InvalidToken(Exception):
    """The token is not valid. `reason` is safe to send to the client."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ExpiredToken(InvalidToken):
    """The token is sound in every other respect, and its time is over.

    The kubelet renews the file before that, unless it cannot reach the API server: the agent has done nothing
    wrong, and waits for the renewed token. An expired token is never accepted, also not while the API server
    is away: otherwise a token that a client has read from a log or the network would work for longer than
    its signer allowed.
    """


class KeysUnavailable(Exception):
    """The cluster's keys cannot be fetched, so the token can be neither accepted nor refused. Retry later."""


@dataclass(frozen=True, slots=True)
class _Keys:
    issuer: str
    by_id: Mapping[str, jwt.PyJWK]
    #: The key set as published, for the comparison with the next fetch.
    published: Any


class TokenVerifier:
    """Verifier with the keys that the cluster publishes (OpenID Connect discovery).

    `fetch` returns the JSON document at a path of the API server (`KubeClient.raw_get`) and raises ApiError.
    Safe for concurrent calls in one event loop.
    """

    def __init__(self, fetch: Callable[[str], Awaitable[Any]], *, audience: str) -> None:
        self._fetch = fetch
        self._audience = audience
        self._keys: _Keys | None = None
        #: Seconds since the epoch of the last fetch, and of the last successful fetch.
        self._tried_at = float("-inf")
        self._fetched_at = float("-inf")
        self._lock = asyncio.Lock()
        self._verified: OrderedDict[bytes, tuple[AgentIdentity, float]] = OrderedDict()

    async def verify(self, token: str, *, now: datetime) -> AgentIdentity:
        """The identity that `token` proves at `now` (with a time zone).

        Raises ExpiredToken, InvalidToken, or KeysUnavailable until the first fetch of the keys has succeeded.
        """
        at = now.timestamp()
        if len(token) > MAX_TOKEN_LENGTH:
            raise InvalidToken("the token is too long")
        # Before the cache: a token whose key was withdrawn must not be accepted until it expires.
        if self._keys is not None:
            await self._current_keys(at)
        # The cache holds digests: a dump of the process's memory must not contain usable tokens.
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._verified.get(digest)
        if known is not None:
            identity, expires_at = known
            if at < expires_at:
                self._verified.move_to_end(digest)
                return identity
            del self._verified[digest]
        key_id, algorithm = _header(token)
        key = await self._key(key_id, at)
        if key.algorithm_name != algorithm:
            raise InvalidToken("the token is signed with another algorithm than its key is for")
        claims = self._signed_claims(token, key)
        keys = await self._keys_of_issuer(claims.get("iss"), at)
        identity, expires_at = _identity(claims, issuer=keys.issuer, audience=self._audience, at=at)
        self._remember(digest, identity, expires_at)
        return identity

    async def warm(self, *, now: datetime) -> None:
        """Fetch the keys unless they are cached, for a readiness check. Raises KeysUnavailable."""
        await self._current_keys(now.timestamp())

    # --- the token

    @staticmethod
    def _signed_claims(token: str, key: jwt.PyJWK) -> dict[str, Any]:
        try:
            # `_identity` checks the claims, against the caller's clock.
            return jwt.decode(
                token,
                key=key,
                algorithms=[key.algorithm_name],
                options={
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "verify_aud": False,
                    "verify_iss": False,
                    "verify_sub": False,
                    "verify_jti": False,
                },
            )
        except jwt.InvalidSignatureError:
            raise InvalidToken("the token's signature is wrong") from None
        except jwt.PyJWTError:
            raise InvalidToken("the token cannot be read") from None

    def _remember(self, digest: bytes, identity: AgentIdentity, expires_at: float) -> None:
        self._verified[digest] = (identity, expires_at)
        if len(self._verified) > REMEMBERED:
            self._verified.popitem(last=False)

    # --- the keys

    async def _key(self, key_id: str, at: float) -> jwt.PyJWK:
        keys = await self._current_keys(at)
        if key_id not in keys.by_id:
            # The cluster may have rotated its signing key.
            keys = await self._refetch(at, newer_than=keys)
        if key_id not in keys.by_id:
            raise InvalidToken("the token is signed by a key that this cluster does not publish")
        return keys.by_id[key_id]

    async def _keys_of_issuer(self, issuer: object, at: float) -> _Keys:
        keys = await self._current_keys(at)
        if issuer != keys.issuer:
            # The issuer may have been renamed without a change of its keys.
            keys = await self._refetch(at, newer_than=keys)
        return keys

    async def _current_keys(self, at: float) -> _Keys:
        keys = self._keys
        # Keys must not live longer because the clock was set back.
        if keys is not None and abs(at - self._fetched_at) < KEYS_LIFETIME:
            return keys
        if keys is not None and self._lock.locked():
            # Another caller fetches. Old keys serve until the new ones are here: an API server that does not
            # answer delays one request in ten seconds, not all of them.
            return keys
        return await self._refetch(at, newer_than=keys)

    async def _refetch(self, at: float, *, newer_than: _Keys | None) -> _Keys:
        """New keys, of this fetch or of a concurrent one. The old keys, if the fetch fails."""
        async with self._lock:
            interval = FIRST_FETCH_INTERVAL if self._keys is None else REFETCH_INTERVAL
            recently = abs(at - self._tried_at) < interval
            # A caller that waited for the lock may find new keys, or a fetch that failed a moment ago.
            if self._keys is newer_than and not recently:
                self._tried_at = at
                try:
                    async with asyncio.timeout(FETCH_TIME):
                        fetched = await self._fetch_keys()
                except (ApiError, TimeoutError) as error:
                    _log.warning("cluster keys not fetched", error=str(error) or "no answer in time")
                else:
                    if self._keys is not None and fetched.published != self._keys.published:
                        # The tokens of a withdrawn key must be refused from now on.
                        self._verified.clear()
                    self._keys = fetched
                    self._fetched_at = at
            if self._keys is None:
                raise KeysUnavailable("the cluster's token keys cannot be fetched from the API server")
            return self._keys

    async def _fetch_keys(self) -> _Keys:
        discovery = await self._fetch(DISCOVERY_PATH)
        published = await self._fetch(KEYS_PATH)
        try:
            issuer = discovery["issuer"]
            entries = [entry for entry in published["keys"] if entry.get("kid")]
        except (KeyError, TypeError, AttributeError) as error:
            raise ApiError(0, "BadAnswer", f"{KEYS_PATH}: not a key set: {error!r}") from error
        by_id: dict[str, jwt.PyJWK] = {}
        for entry in entries:
            try:
                key = jwt.PyJWK.from_dict(entry)
            except jwt.PyJWTError:
                # An unknown type of key. Other keys of the set may be usable.
                continue
            if key.algorithm_name in ALGORITHMS:
                by_id[entry["kid"]] = key
        return _Keys(issuer, by_id, published)


def _header(token: str) -> tuple[str, str]:
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError):
        raise InvalidToken("not a JSON web token") from None
    algorithm, key_id = header.get("alg"), header.get("kid")
    if algorithm not in ALGORITHMS:
        raise InvalidToken("the token's signature algorithm is not accepted")
    if not isinstance(key_id, str) or not key_id:
        raise InvalidToken("the token does not name its key")
    return key_id, algorithm


def _identity(
    claims: Mapping[str, Any], *, issuer: str, audience: str, at: float
) -> tuple[AgentIdentity, float]:
    """The identity in verified claims, and its expiry in seconds since the epoch."""
    if claims.get("iss") != issuer:
        raise InvalidToken("the token is of another issuer")
    audiences = claims.get("aud")
    if audience not in (audiences if isinstance(audiences, list) else [audiences]):
        raise InvalidToken(f"the token is not for the audience {audience!r}")
    expires_at = _time(claims, "exp") + LEEWAY
    if "nbf" in claims and at < _time(claims, "nbf") - LEEWAY:
        raise InvalidToken("the token is not valid yet")
    bound = claims.get("kubernetes.io")
    if not isinstance(bound, Mapping) or not isinstance(bound.get("pod"), Mapping):
        raise InvalidToken("the token is not bound to a pod: use the one mounted at PERDURE_TOKEN_FILE")
    account = bound.get("serviceaccount")
    identity = (
        bound.get("namespace"),
        bound["pod"].get("name"),
        bound["pod"].get("uid"),
        account.get("name") if isinstance(account, Mapping) else None,
    )
    if not all(isinstance(part, str) and part for part in identity):
        raise InvalidToken("the token does not say whose it is")
    # Last: only a token that proves an agent's pod in every other respect is distinguished as expired.
    if at >= expires_at:
        raise ExpiredToken("the token has expired")
    return AgentIdentity(*map(str, identity)), expires_at


def _time(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidToken(f"the token has no usable {name!r}")
    return float(value)
