"""Verification of ServiceAccount tokens."""

import asyncio
import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from perdure.kube import tokens
from perdure.kube.errors import ApiError
from perdure.kube.tokens import AgentIdentity, ExpiredToken, InvalidToken, KeysUnavailable, TokenVerifier

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
ISSUER = "https://kubernetes.default.svc.cluster.local"
AGENT = AgentIdentity("team", "audit-a-1", "pod-uid", "default")

RSA = {name: rsa.generate_private_key(public_exponent=65537, key_size=2048) for name in ("one", "two")}
ECDSA = ec.generate_private_key(ec.SECP256R1())


def public(key_id: str) -> dict[str, Any]:
    if key_id == "curve":
        return ECAlgorithm.to_jwk(ECDSA.public_key(), as_dict=True) | {"kid": key_id, "alg": "ES256"}
    return RSAAlgorithm.to_jwk(RSA[key_id].public_key(), as_dict=True) | {
        "kid": key_id,
        "alg": "RS256",
        "use": "sig",
    }


class Cluster:
    """The documents that a cluster publishes, with a count of their fetches."""

    def __init__(self, *key_ids: str) -> None:
        self.keys = [public(key_id) for key_id in key_ids]
        self.issuer = ISSUER
        self.asked = 0
        self.away = False

    async def fetch(self, path: str) -> Any:
        await asyncio.sleep(0)
        if self.away:
            raise ApiError(0, "NoAnswer", "connection refused")
        if path == tokens.DISCOVERY_PATH:
            return {"issuer": self.issuer, "jwks_uri": "https://elsewhere.example/keys"}
        assert path == tokens.KEYS_PATH
        self.asked += 1
        return {"keys": list(self.keys)}


@pytest.fixture
def cluster() -> Cluster:
    return Cluster("one")


@pytest.fixture
def verifier(cluster: Cluster) -> TokenVerifier:
    return TokenVerifier(cluster.fetch, audience="perdure")


def claims(**changes: Any) -> dict[str, Any]:
    issued = int(NOW.timestamp())
    whole = {
        "iss": ISSUER,
        "aud": ["perdure"],
        "iat": issued,
        "nbf": issued,
        "exp": issued + 3600,
        "sub": "system:serviceaccount:team:default",
        "kubernetes.io": {
            "namespace": "team",
            "pod": {"name": "audit-a-1", "uid": "pod-uid"},
            "serviceaccount": {"name": "default", "uid": "account-uid"},
        },
    } | changes
    return {name: value for name, value in whole.items() if value is not None}


def signed(key_id: str = "one", **changes: Any) -> str:
    key, algorithm = (ECDSA, "ES256") if key_id == "curve" else (RSA[key_id], "RS256")
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers={"kid": key_id})


def segment(value: Any) -> bytes:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=")


async def refused(verifier: TokenVerifier, token: str, now: datetime = NOW) -> str:
    with pytest.raises(InvalidToken) as caught:
        await verifier.verify(token, now=now)
    assert token == "" or token not in caught.value.reason
    return caught.value.reason


async def test_a_pods_token_proves_the_pod(verifier: TokenVerifier) -> None:
    assert await verifier.verify(signed(), now=NOW) == AGENT


async def test_elliptic_curves_and_single_audiences_are_accepted() -> None:
    verifier = TokenVerifier(Cluster("one", "curve").fetch, audience="perdure")
    assert await verifier.verify(signed("curve", aud="perdure"), now=NOW) == AGENT


@pytest.mark.parametrize("audience", [["https://kubernetes.default.svc"], [], "perdure2", None, "perdur"])
async def test_another_audience_is_refused(verifier: TokenVerifier, audience: Any) -> None:
    assert "audience 'perdure'" in await refused(verifier, signed(aud=audience))


async def test_an_expired_token_is_refused_after_the_leeway(verifier: TokenVerifier) -> None:
    token = signed()
    end = NOW + timedelta(seconds=3600)
    assert await verifier.verify(token, now=end + timedelta(seconds=29)) == AGENT
    # The token was cached a moment ago, which must not extend its life.
    assert await refused(verifier, token, end + timedelta(seconds=30)) == "the token has expired"


async def test_an_expired_token_is_distinguished_only_if_all_else_is_sound(verifier: TokenVerifier) -> None:
    late = NOW + timedelta(hours=2)
    with pytest.raises(ExpiredToken):
        await verifier.verify(signed(), now=late)
    forged = jwt.encode(claims(), RSA["two"], algorithm="RS256", headers={"kid": "one"})
    for token in (signed(aud=["other"]), signed(iss="https://other.example"), forged):
        with pytest.raises(InvalidToken) as caught:
            await verifier.verify(token, now=late)
        assert not isinstance(caught.value, ExpiredToken)


async def test_a_cached_token_of_a_withdrawn_key_is_refused_once_the_keys_are_old(
    cluster: Cluster, verifier: TokenVerifier
) -> None:
    day = int(NOW.timestamp()) + 86_400
    token = signed(exp=day)
    assert await verifier.verify(token, now=NOW) == AGENT
    cluster.keys = [public("two")]
    fresh = NOW + timedelta(seconds=tokens.KEYS_LIFETIME - 1)
    assert await verifier.verify(token, now=fresh) == AGENT
    old = NOW + timedelta(seconds=tokens.KEYS_LIFETIME)
    assert "does not publish" in await refused(verifier, token, old)


async def test_cached_tokens_are_accepted_while_the_api_server_is_away(
    cluster: Cluster, verifier: TokenVerifier
) -> None:
    token = signed(exp=int(NOW.timestamp()) + 86_400)
    await verifier.verify(token, now=NOW)
    cluster.away = True
    assert await verifier.verify(token, now=NOW + timedelta(hours=23)) == AGENT


async def test_an_api_server_that_does_not_answer_delays_one_request_only(cluster: Cluster) -> None:
    hangs = asyncio.Event()
    entered = asyncio.Event()
    away = False

    async def fetch(path: str) -> Any:
        if away:
            entered.set()
            await hangs.wait()
        return await cluster.fetch(path)

    verifier = TokenVerifier(fetch, audience="perdure")
    token = signed(exp=int(NOW.timestamp()) + 86_400)
    await verifier.verify(token, now=NOW)
    away = True
    later = NOW + timedelta(hours=2)
    first = asyncio.create_task(verifier.verify(token, now=later))
    await entered.wait()
    assert await verifier.verify(token, now=later) == AGENT
    assert not first.done()
    hangs.set()
    assert await first == AGENT


async def test_a_fetch_without_an_answer_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_: str) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(tokens, "FETCH_TIME", 0.01)
    silent = TokenVerifier(never, audience="perdure")
    with pytest.raises(KeysUnavailable):
        await silent.verify(signed(), now=NOW)


async def test_a_future_token_is_refused_before_the_leeway(verifier: TokenVerifier) -> None:
    token = signed()
    assert "not valid yet" in await refused(verifier, token, NOW - timedelta(seconds=31))
    assert await verifier.verify(token, now=NOW - timedelta(seconds=29)) == AGENT


@pytest.mark.parametrize("exp", [None, "never", True])
async def test_a_token_without_expiry_is_refused(verifier: TokenVerifier, exp: Any) -> None:
    assert "'exp'" in await refused(verifier, signed_raw(claims(exp=exp)))


def signed_raw(body: dict[str, Any]) -> str:
    return jwt.api_jws.encode(
        json.dumps(body).encode(), RSA["one"], algorithm="RS256", headers={"kid": "one"}
    )


async def test_another_issuer_is_refused(verifier: TokenVerifier) -> None:
    assert "another issuer" in await refused(verifier, signed(iss="https://other.example"))


async def test_a_renamed_issuer_is_fetched(cluster: Cluster, verifier: TokenVerifier) -> None:
    await verifier.verify(signed(), now=NOW)
    cluster.issuer = "https://new.example"
    later = NOW + timedelta(seconds=11)
    assert await verifier.verify(signed(iss="https://new.example"), now=later) == AGENT


@pytest.mark.parametrize(
    ("bound", "reason"),
    [
        (None, "not bound to a pod"),
        ({"namespace": "team", "serviceaccount": {"name": "default"}}, "not bound to a pod"),
        ({"namespace": "team", "pod": "x"}, "not bound to a pod"),
        ({"namespace": "team", "pod": {"name": "p"}, "serviceaccount": {"name": "d"}}, "whose it is"),
        ({"namespace": 7, "pod": {"name": "p", "uid": "u"}, "serviceaccount": {"name": "d"}}, "whose it is"),
        ({"namespace": "team", "pod": {"name": "p", "uid": "u"}}, "whose it is"),
    ],
)
async def test_a_token_without_a_pod_is_refused(verifier: TokenVerifier, bound: Any, reason: str) -> None:
    assert reason in await refused(verifier, signed(**{"kubernetes.io": bound}))


async def test_a_changed_claim_breaks_the_signature(verifier: TokenVerifier) -> None:
    head, _, signature = signed().split(".")
    forged = claims(**{"kubernetes.io": {"namespace": "victim"}})
    token = f"{head}.{segment(forged).decode()}.{signature}"
    assert "signature is wrong" in await refused(verifier, token)


async def test_a_key_of_the_same_id_from_elsewhere_is_refused(verifier: TokenVerifier) -> None:
    token = jwt.encode(claims(), RSA["two"], algorithm="RS256", headers={"kid": "one"})
    assert "signature is wrong" in await refused(verifier, token)


async def test_unsigned_tokens_are_refused(cluster: Cluster, verifier: TokenVerifier) -> None:
    token = jwt.encode(claims(), None, algorithm="none", headers={"kid": "one"})
    assert "algorithm is not accepted" in await refused(verifier, token)
    assert cluster.asked == 0


@pytest.mark.parametrize("algorithm", ["HS256", "RS256"])
async def test_the_public_key_as_a_shared_secret_is_refused(verifier: TokenVerifier, algorithm: str) -> None:
    pem = RSA["one"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signing = segment({"alg": algorithm, "kid": "one"}) + b"." + segment(claims())
    digest = hmac.digest(pem, signing, hashlib.sha256)
    await refused(verifier, (signing + b"." + segment(digest)).decode())


async def test_another_algorithm_than_the_keys_is_refused(verifier: TokenVerifier) -> None:
    token = jwt.encode(claims(), RSA["one"], algorithm="RS512", headers={"kid": "one"})
    assert "another algorithm" in await refused(verifier, token)


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "..", "é.é.é", "\ud800", "a" * 20_000, "e30.e30.e30"])
async def test_text_that_is_no_token_is_refused(
    cluster: Cluster, verifier: TokenVerifier, token: str
) -> None:
    await refused(verifier, token)
    assert cluster.asked == 0


async def test_a_token_without_key_id_is_refused(verifier: TokenVerifier) -> None:
    assert "does not name its key" in await refused(
        verifier, jwt.encode(claims(), RSA["one"], algorithm="RS256")
    )


async def test_symmetric_and_unknown_keys_among_the_published_are_ignored(cluster: Cluster) -> None:
    cluster.keys += [
        {"kty": "oct", "kid": "shared", "k": "AAAA"},
        {"kty": "new", "kid": "later"},
        {"kty": "RSA"},
    ]
    verifier = TokenVerifier(cluster.fetch, audience="perdure")
    assert await verifier.verify(signed(), now=NOW) == AGENT
    token = jwt.encode(claims(), b"\0" * 32, algorithm="HS256", headers={"kid": "shared"})
    await refused(verifier, token)


async def test_an_unknown_key_is_fetched(cluster: Cluster, verifier: TokenVerifier) -> None:
    await verifier.verify(signed(), now=NOW)
    cluster.keys = [public("two")]
    later = NOW + timedelta(seconds=11)
    assert await verifier.verify(signed("two"), now=later) == AGENT
    assert cluster.asked == 2
    # The old key was withdrawn: its tokens are refused, cached or not.
    assert "does not publish" in await refused(verifier, signed(), later)


async def test_forged_key_ids_cannot_cause_more_fetches_than_the_interval_allows(
    cluster: Cluster, verifier: TokenVerifier
) -> None:
    for number in range(50):
        token = jwt.encode(claims(), RSA["two"], algorithm="RS256", headers={"kid": f"forged-{number}"})
        assert "does not publish" in await refused(verifier, token, NOW + timedelta(seconds=number / 10))
    assert cluster.asked == 1


async def test_concurrent_verifications_share_one_fetch(cluster: Cluster, verifier: TokenVerifier) -> None:
    found = await asyncio.gather(*(verifier.verify(signed(jti=str(n)), now=NOW) for n in range(20)))
    assert set(found) == {AGENT}
    assert cluster.asked == 1


async def test_keys_are_fetched_again_every_hour(cluster: Cluster, verifier: TokenVerifier) -> None:
    await verifier.verify(signed(), now=NOW)
    await verifier.verify(signed(jti="2"), now=NOW + timedelta(minutes=59))
    assert cluster.asked == 1
    later = NOW + timedelta(minutes=61)
    exp = int(later.timestamp()) + 600
    await verifier.verify(signed(jti="3", exp=exp), now=later)
    assert cluster.asked == 2


async def test_known_keys_serve_while_the_api_server_is_unavailable(
    cluster: Cluster, verifier: TokenVerifier
) -> None:
    await verifier.verify(signed(), now=NOW)
    cluster.away = True
    later = NOW + timedelta(hours=2)
    assert await verifier.verify(signed(exp=int(later.timestamp()) + 600), now=later) == AGENT


async def test_a_token_is_neither_accepted_nor_refused_without_keys(
    cluster: Cluster, verifier: TokenVerifier
) -> None:
    cluster.away = True
    with pytest.raises(KeysUnavailable):
        await verifier.verify(signed(), now=NOW)
    with pytest.raises(KeysUnavailable):
        await verifier.warm(now=NOW)
    cluster.away = False
    later = NOW + timedelta(seconds=1)
    await verifier.warm(now=later)
    assert await verifier.verify(signed(), now=later) == AGENT


async def test_an_answer_that_is_no_key_set_counts_as_no_answer(verifier: TokenVerifier) -> None:
    async def fetch(path: str) -> Any:
        return ["surprise"]

    with pytest.raises(KeysUnavailable):
        await TokenVerifier(fetch, audience="perdure").verify(signed(), now=NOW)


async def test_a_cached_token_costs_no_signature_check(
    verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = signed()
    await verifier.verify(token, now=NOW)
    monkeypatch.setattr(jwt, "decode", lambda *_, **__: pytest.fail("checked again"))
    assert await verifier.verify(token, now=NOW + timedelta(minutes=5)) == AGENT


async def test_the_cache_of_tokens_is_bounded(
    verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "REMEMBERED", 3)
    for number in range(5):
        await verifier.verify(signed(jti=str(number)), now=NOW)
    assert len(verifier._verified) == 3
