"""Configuration of the connection to the API server: address, TLS and credentials.

Inside a cluster the configuration is three files and two variables, which this module reads: an import of
kubernetes_asyncio would cost every start seconds of CPU and 75 MB, for its thousand model classes. A
kubeconfig may name exec plugins and identity providers. Only then kubernetes_asyncio is imported, and loads
the file.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

#: Seconds after which credentials that may change are read again. The kubelet renews a token when a fifth of
#: its life is left, which is minutes at least.
CREDENTIAL_INTERVAL = 60.0

#: The same interval after the API server has refused the credentials.
REFRESH_INTERVAL = 5.0

#: Seconds for an exec plugin to answer.
PLUGIN_TIMEOUT = 15.0

#: Returns the value of the Authorization header, or None. The argument True forbids cached credentials.
Authorization = Callable[[bool], Awaitable[str | None]]


class ConnectionConfigError(Exception):
    """No usable configuration. The message names the missing item and the places that were searched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Address, TLS and credentials of one API server."""

    #: Scheme, host and port, perhaps with a path; no slash at the end.
    host: str
    authorization: Authorization
    #: None for plain HTTP.
    tls: ssl.SSLContext | None = None
    #: Name in the server's certificate, if different from the name in `host`.
    server_hostname: str | None = None
    proxy: str | None = None


async def load_connection(kubeconfig: str | None = None) -> Connection:
    """The connection of a kubeconfig, or without one the connection of this process's pod.

    Outside a pod `KUBECONFIG` and `~/.kube/config` are tried. Raises ConnectionConfigError.
    """
    if kubeconfig is None and os.environ.get("KUBERNETES_SERVICE_HOST"):
        return in_cluster(os.environ, SERVICE_ACCOUNT)
    return await _from_kubeconfig(kubeconfig)


def in_cluster(environment: Mapping[str, str], folder: Path) -> Connection:
    """The connection of a pod, from its environment and its ServiceAccount's folder.

    Raises ConnectionConfigError.
    """
    host = environment.get("KUBERNETES_SERVICE_HOST", "")
    port = environment.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port:
        raise ConnectionConfigError("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not both set")
    authority = folder / "ca.crt"
    if not authority.is_file():
        raise ConnectionConfigError(
            f"{authority} does not exist: the pod needs automountServiceAccountToken, or PERDURE_KUBECONFIG"
        )
    token = _TokenFile(folder / "token")
    token.read()
    address = f"[{host}]" if ":" in host else host
    return Connection(
        host=f"https://{address}:{port}", authorization=token.authorization, tls=_tls(str(authority))
    )


class _TokenFile:
    """A bearer token in a file that the kubelet renews."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._header = ""
        self._read_at = 0.0

    def read(self) -> None:
        try:
            token = self._path.read_text().strip()
        except OSError as error:
            raise ConnectionConfigError(f"cannot read the ServiceAccount token: {error}") from error
        if not token:
            raise ConnectionConfigError(f"{self._path} is empty")
        self._header = f"Bearer {token}"
        self._read_at = time.monotonic()

    async def authorization(self, refresh: bool) -> str:
        if refresh or time.monotonic() - self._read_at > CREDENTIAL_INTERVAL:
            try:
                self.read()
            except ConnectionConfigError:
                # The file is being replaced, or its volume is gone. The old token may still be valid; if not,
                # the server answers 401.
                self._read_at = time.monotonic()
        return self._header


async def _from_kubeconfig(path: str | None) -> Connection:
    from kubernetes_asyncio.client import Configuration
    from kubernetes_asyncio.config import load_kube_config

    tried = path or os.environ.get("KUBECONFIG") or "~/.kube/config"
    if not _any_file(tried):
        raise ConnectionConfigError(f"no kubeconfig at {tried}: name one in PERDURE_KUBECONFIG or KUBECONFIG")
    # A call of Configuration() would return the process-wide default, shared with all other users.
    configuration = type.__call__(Configuration)
    try:
        async with asyncio.timeout(PLUGIN_TIMEOUT):
            loader = await load_kube_config(config_file=tried, client_configuration=configuration)
    except Exception as error:
        # A malformed file makes the loader raise exceptions of many types.
        raise ConnectionConfigError(f"{tried}: {_words(error)}") from error
    host: str = configuration.host
    secure = host.startswith("https://")
    return Connection(
        host=host,
        authorization=_LoadedCredentials(loader, configuration).authorization,
        tls=_tls(
            configuration.ssl_ca_cert,
            certificate=configuration.cert_file,
            key=configuration.key_file,
            verify=configuration.verify_ssl,
        )
        if secure
        else None,
        server_hostname=configuration.tls_server_name,
        proxy=configuration.proxy or _proxy_from_environment(host),
    )


def _any_file(paths: str) -> bool:
    return any(Path(part).expanduser().is_file() for part in paths.split(os.pathsep) if part)


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


class _LoadedCredentials:
    """Credentials that kubernetes_asyncio has loaded, renewed where an exec plugin provides them."""

    def __init__(self, loader: Any, configuration: Any) -> None:
        self._loader = loader
        self._configuration = configuration
        user = loader._user
        self._renewable = user is not None and "exec" in user
        self._renewed_at = time.monotonic()
        self._lock = asyncio.Lock()

    async def authorization(self, refresh: bool) -> str | None:
        # Many requests are refused, or find the renewal due, at once. Only one of them runs the plugin.
        interval = REFRESH_INTERVAL if refresh else CREDENTIAL_INTERVAL
        if self._renewable and time.monotonic() - self._renewed_at > interval:
            async with self._lock:
                if time.monotonic() - self._renewed_at > interval:
                    await self._renew()
                    self._renewed_at = time.monotonic()
        header: str | None = self._configuration.api_key.get("BearerToken")
        return header

    async def _renew(self) -> None:
        try:
            async with asyncio.timeout(PLUGIN_TIMEOUT):
                await self._loader.load_from_exec_plugin()
        except Exception as error:
            # A plugin is an arbitrary program, and the loader passes on whatever goes wrong with it.
            raise ConnectionConfigError(
                f"the kubeconfig's exec plugin gave no credentials: {_words(error)}"
            ) from error
        if hasattr(self._loader, "token"):
            self._configuration.api_key["BearerToken"] = self._loader.token


def _tls(
    authority: str | None, *, certificate: str | None = None, key: str | None = None, verify: bool = True
) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority)
    # Python 3.13 requires extensions that the certificates of many clusters lack, and that kubectl does not
    # require.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if certificate:
        context.load_cert_chain(certificate, keyfile=key)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _proxy_from_environment(host: str) -> str | None:
    # Read once: aiohttp's trust_env would read the environment and ~/.netrc on every request.
    parts = urlsplit(host)
    if parts.hostname is None or urllib.request.proxy_bypass(parts.hostname):
        return None
    return urllib.request.getproxies().get(parts.scheme)
