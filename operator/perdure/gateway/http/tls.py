"""The gateway's certificate, which is read again when its files change.

An issuer in the cluster (cert-manager, for one) rotates a certificate every few weeks, and the kubelet then
replaces the files of the mounted Secret. The gateway must use the new certificate without a restart, since a
restart interrupts every connection.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

#: Seconds between two checks of the files. The kubelet itself takes up to two minutes to replace them.
RELOAD_INTERVAL: Final = 5.0

_log = structlog.get_logger(__name__)
#: Of each file: inode, size in bytes, and time of the last change in nanoseconds.
_Version = tuple[tuple[int, int, int], ...]


class BadCertificate(Exception):
    """The files of certificate and key cannot be used."""


class Certificate:
    """The context for the handshakes of new connections: see `acceptor.TlsContext`."""

    def __init__(self, certificate: Path, key: Path, *, clock: Callable[[], float]) -> None:
        """PEM files: the certificate with its intermediates, and its key. `clock` is monotonic, in seconds.

        Raises BadCertificate.
        """
        self._files = (certificate, key)
        self._clock = clock
        self._version = self._stat()
        self._context = self._load()
        self._next_check = clock() + RELOAD_INTERVAL

    def current(self) -> ssl.SSLContext:
        """The context of the certificate in the files, or of the last one that could be used."""
        now = self._clock()
        if now >= self._next_check:
            self._next_check = now + RELOAD_INTERVAL
            try:
                version = self._stat()
                if version != self._version:
                    self._context = self._load()
                    # Only now: files that were replaced one after the other are read again.
                    self._version = version
                    _log.info("certificate reloaded", file=str(self._files[0]))
            except BadCertificate as error:
                _log.warning("certificate not reloaded", error=str(error))
        return self._context

    def _stat(self) -> _Version:
        try:
            found = [path.stat() for path in self._files]
        except OSError as error:
            raise BadCertificate(f"{error.filename}: {error.strerror}; mount the Secret with it") from error
        return tuple((each.st_ino, each.st_size, each.st_mtime_ns) for each in found)

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # A client could otherwise demand handshakes without end on one connection.
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        certificate, key = self._files
        try:
            # Without a password of its own, OpenSSL would ask for that of an encrypted key on the terminal.
            context.load_cert_chain(certificate, key, password="")
        except (OSError, ValueError) as error:
            raise BadCertificate(
                f"{certificate} and {key} are no certificate and its key without password, in PEM: {error}"
            ) from error
        return context
