"""Makes the keys, certificates and tokens of one cluster, and its kubeconfigs.

Why: each boot has its own authority, so that a kubeconfig of an earlier cluster
cannot reach this one by mistake. Components use static tokens: a certificate
for each of them would cost boot time and prove nothing.
"""

import base64
import json
import secrets
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .errors import ClusterError

# The system's own openssl.cnf would add extensions of its choice. A strict
# verifier (Python 3.13) refuses an authority without keyUsage.
_CONFIG = """
[req]
distinguished_name = name
prompt = no
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign, digitalSignature
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature, keyEncipherment
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = {names}
[client]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""

_USERS = {
    "admin": ("kubernetes-admin", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "proxy": ("system:kube-proxy", ""),
    "coredns": ("system:coredns", ""),
    "kwok": ("system:kwok", "system:masters"),
    "node": ("system:node:node-1", "system:nodes"),
}


@dataclass(frozen=True)
class Pki:
    folder: Path

    def file(self, name: str) -> str:
        return str(self.folder / name)

    @property
    def authority(self) -> Path:
        return self.folder / "ca.crt"

    def token(self, user: str) -> str:
        return (self.folder / f"{user}.token").read_text()

    def write_kubeconfig(self, target: Path, user: str, server: str) -> Path:
        """A kubeconfig that stands on its own: it may be copied anywhere."""
        authority = base64.b64encode(self.authority.read_bytes()).decode()
        text = _KUBECONFIG.format(
            server=server, authority=authority, user=_USERS[user][0], token=self.token(user)
        )
        unfinished = target.with_name(f".{target.name}.new")
        unfinished.touch(mode=0o600)
        unfinished.write_text(text)
        unfinished.rename(target)
        return target


_KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: perdure
contexts:
- name: perdure
  context: {{cluster: perdure, user: {user}}}
clusters:
- name: perdure
  cluster:
    server: {server}
    certificate-authority-data: {authority}
users:
- name: {user}
  user: {{token: {token}}}
"""


def create(folder: Path, addresses: list[str]) -> Pki:
    """Everything for an API server that is reached under these addresses."""
    if not shutil.which("openssl"):
        raise ClusterError(
            "The cluster's certificates are made by openssl: install it (Debian: apt-get install openssl)."
        )
    folder.mkdir(mode=0o700)
    pki = Pki(folder)
    hosts = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    hosts += ["kubernetes.default.svc.cluster.local"]
    names = [f"DNS:{host}" for host in hosts] + [f"IP:{address}" for address in addresses]
    (folder / "openssl.cnf").write_text(_CONFIG.format(names=", ".join(names)))

    def certificate(name: str, subject: str, profile: str, *signer: str) -> None:
        _openssl(
            *("req", "-x509", "-config", pki.file("openssl.cnf"), "-extensions", profile, "-days", "3650"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-subj", subject),
            *("-keyout", pki.file(f"{name}.key"), "-out", pki.file(f"{name}.crt"), *signer),
        )

    with ThreadPoolExecutor(4) as pool:
        # RSA, because nearly every cluster signs its tokens with RSA.
        accounts = pool.submit(_openssl, "genrsa", "-out", pki.file("accounts.key"), "2048")
        certificate("ca", "/CN=perdure-cluster", "authority")
        signer = ("-CA", pki.file("ca.crt"), "-CAkey", pki.file("ca.key"))
        server = pool.submit(certificate, "server", "/CN=kube-apiserver", "server", *signer)
        kubelet = "/O=system:masters/CN=kube-apiserver-kubelet-client"
        client = pool.submit(certificate, "kubelet-client", kubelet, "client", *signer)
        for job in (accounts, server, client):
            job.result()
    _openssl("rsa", "-in", pki.file("accounts.key"), "-pubout", "-out", pki.file("accounts.pub"))
    rows = []
    for user, (name, groups) in _USERS.items():
        token = secrets.token_urlsafe(24)
        (folder / f"{user}.token").write_text(token)
        rows.append(",".join([token, name, user, json.dumps(groups)] if groups else [token, name, user]))
    (folder / "tokens.csv").write_text("\n".join(rows) + "\n")
    return pki


def _openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise ClusterError(
            f"openssl (3.0 or newer is needed) refused `openssl {' '.join(arguments)}`:\n{done.stderr}"
        )
