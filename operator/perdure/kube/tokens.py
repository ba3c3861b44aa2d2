"""Who an agent is, told from its ServiceAccount token without asking the API server.

The token that the kubelet puts into an agent's pod is signed by the cluster and names the pod. Checking the
signature against the published keys lets agents write checkpoints while the API server is away, and costs
no request. What it cannot show is that the pod still lives; the ledger fences dead attempts by themselves.
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

#: Asymmetric only: with HMAC among them, anybody could sign with the public key.
ALGORITHMS = ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512")

#: Seconds that the clocks of signer and verifier may differ.
LEEWAY = 30.0
#: Seconds after which keys are fetched again, though every token's key was known.
KEYS_LIFETIME = 3600.0
#: Seconds between two fetches, so that forged key ids cannot turn us against the API server.
REFETCH_INTERVAL = 10.0
#: The same while there are no keys at all.
FIRST_FETCH_INTERVAL = 1.0
#: Verified tokens that are remembered.
REMEMBERED = 10_000
#: Longer ones are not looked at. Real ones have about 1,200 characters.
MAX_TOKEN_LENGTH = 16_384

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class AgentIdentity:
    """The pod that a token was made for."""

    namespace: str
    pod_name: str
    pod_uid: str
    service_account: str


class InvalidToken(Exception):
    """The token proves nothing. `reason` may be shown to whoever sent it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class KeysUnavailable(Exception):
    """The cluster's keys could not be had, so nothing can be said about the token. Ask again later."""


@dataclass(frozen=True, slots=True)
class _Keys:
    issuer: str
    by_id: Mapping[str, jwt.PyJWK]
    #: The key set as published, to tell whether it has changed.
    published: Any


class TokenVerifier:
    """Checks tokens against the keys that the cluster publishes.

    `fetch` gets a JSON document by its path from the API server (`KubeClient.raw_get`) and raises ApiError.
    Safe for any number of callers at once in one event loop.
    """

    def __init__(self, fetch: Callable[[str], Awaitable[Any]], *, audience: str) -> None:
        self._fetch = fetch
        self._audience = audience
        self._keys: _Keys | None = None
        #: Seconds since the epoch; of the last try, and of the last one that succeeded.
        self._tried_at = float("-inf")
        self._fetched_at = float("-inf")
        self._lock = asyncio.Lock()
        self._verified: OrderedDict[bytes, tuple[AgentIdentity, float]] = OrderedDict()

    async def verify(self, token: str, *, now: datetime) -> AgentIdentity:
        """The identity that `token` proves at `now` (with a time zone).

        Raises InvalidToken, or KeysUnavailable if there never were keys to check it with.
        """
        at = now.timestamp()
        if len(token) > MAX_TOKEN_LENGTH:
            raise InvalidToken("the token is too long")
        # The cache holds digests, so that a dump of our memory gives nobody a token.
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
        """Fetch the keys if there are none, for a readiness check. Raises KeysUnavailable."""
        await self._current_keys(now.timestamp())

    # --- the token

    @staticmethod
    def _signed_claims(token: str, key: jwt.PyJWK) -> dict[str, Any]:
        try:
            # The claims are checked by _identity, against the caller's clock.
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
            # The cluster may have begun to sign with a new key.
            keys = await self._refetch(at, newer_than=keys)
        if key_id not in keys.by_id:
            raise InvalidToken("the token is signed by a key that this cluster does not publish")
        return keys.by_id[key_id]

    async def _keys_of_issuer(self, issuer: object, at: float) -> _Keys:
        keys = await self._current_keys(at)
        if issuer != keys.issuer:
            # Issuers are renamed, keeping their keys.
            keys = await self._refetch(at, newer_than=keys)
        return keys

    async def _current_keys(self, at: float) -> _Keys:
        keys = self._keys
        # A clock that was set back must not make keys good for longer.
        if keys is not None and abs(at - self._fetched_at) < KEYS_LIFETIME:
            return keys
        return await self._refetch(at, newer_than=keys)

    async def _refetch(self, at: float, *, newer_than: _Keys | None) -> _Keys:
        """Fetch, unless somebody just did: then what they got. Old keys stay good if fetching fails."""
        async with self._lock:
            interval = FIRST_FETCH_INTERVAL if self._keys is None else REFETCH_INTERVAL
            recently = abs(at - self._tried_at) < interval
            # Whoever waited for the lock finds that the keys have changed, or that trying failed just now.
            if self._keys is newer_than and not recently:
                self._tried_at = at
                try:
                    fetched = await self._fetch_keys()
                except ApiError as error:
                    _log.warning("cluster keys not fetched", error=str(error))
                else:
                    if self._keys is not None and fetched.published != self._keys.published:
                        # A key that was withdrawn takes with it what it had signed.
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
                continue  # A kind of key that we do not know; others may do.
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
    """The identity in verified claims, and until when it holds, in seconds since the epoch."""
    if claims.get("iss") != issuer:
        raise InvalidToken("the token is of another issuer")
    audiences = claims.get("aud")
    if audience not in (audiences if isinstance(audiences, list) else [audiences]):
        raise InvalidToken(f"the token is not for the audience {audience!r}")
    expires_at = _time(claims, "exp") + LEEWAY
    if at >= expires_at:
        raise InvalidToken("the token has expired")
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
    return AgentIdentity(*map(str, identity)), expires_at


def _time(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidToken(f"the token has no usable {name!r}")
    return float(value)
