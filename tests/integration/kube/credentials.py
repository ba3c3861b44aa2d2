"""Users of the test run's API server, with certificates of its own authority."""

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from tests.integration.apiserver import ApiServer


def kubeconfig_with_certificate(apiserver: ApiServer, folder: Path, *, user: str, groups: list[str]) -> str:
    """The path of a kubeconfig whose user authenticates with a certificate."""
    pki = apiserver.cluster.state_dir / "pki"
    authority = x509.load_pem_x509_certificate((pki / "ca.crt").read_bytes())
    signer = load_pem_private_key((pki / "ca.key").read_bytes(), None)
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.NameAttribute(NameOID.COMMON_NAME, user)]
    names += [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(names))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(signer, hashes.SHA256())  # type: ignore[arg-type]
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = folder / "kubeconfig"
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "it",
                "contexts": [{"name": "it", "context": {"cluster": "it", "user": user}}],
                "clusters": [
                    {
                        "name": "it",
                        "cluster": {
                            "server": apiserver.cluster.server,
                            "certificate-authority": str(pki / "ca.crt"),
                        },
                    }
                ],
                "users": [
                    {
                        "name": user,
                        "user": {
                            "client-certificate-data": _data(certificate.public_bytes(Encoding.PEM)),
                            "client-key-data": _data(private),
                        },
                    }
                ],
            }
        )
    )
    return str(path)


def _data(pem: bytes) -> str:
    return base64.b64encode(pem).decode()
