"""Signing key of a cluster, and tokens as its kubelets write them into pods."""

from __future__ import annotations

import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from perdure.kube.tokens import DISCOVERY_PATH, KEYS_PATH

ISSUER = "https://cluster.test"
AUDIENCE = "perdure"


class ClusterKeys:
    """One key pair. `documents` are the API server's documents about the pair."""

    def __init__(self) -> None:
        self._private = ec.generate_private_key(ec.SECP256R1())
        public: dict[str, Any] = jwt.algorithms.ECAlgorithm.to_jwk(self._private.public_key(), as_dict=True)
        self.documents: dict[str, Any] = {
            DISCOVERY_PATH: {"issuer": ISSUER},
            KEYS_PATH: {"keys": [{**public, "kid": "one", "alg": "ES256", "use": "sig"}]},
        }

    async def fetch(self, path: str) -> Any:
        return self.documents[path]

    def token(self, pod_uid: str, *, namespace: str = "team-a", lifetime: float = 3600) -> str:
        claims = {
            "iss": ISSUER,
            "aud": [AUDIENCE],
            "exp": time.time() + lifetime,
            "kubernetes.io": {
                "namespace": namespace,
                "pod": {"name": f"name-of-{pod_uid}", "uid": pod_uid},
                "serviceaccount": {"name": "default", "uid": "account"},
            },
        }
        return jwt.encode(claims, self._private, algorithm="ES256", headers={"kid": "one"})

    def dump(self) -> str:
        """The key set for a gateway in a process of its own: see `process`."""
        return json.dumps(self.documents)
