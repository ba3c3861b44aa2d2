"""The authority of the gateway's certificate, as the operator gives it to agents."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import structlog

#: Bytes of the file: it stands in an annotation of every pod, next to the input. All annotations of an object
#: have at most 256 KiB.
MAX_AUTHORITY_BYTES: Final = 64 * 1024
_BEGIN: Final = "-----BEGIN CERTIFICATE-----"

_log = structlog.get_logger(__name__)


class BadAuthority(Exception):
    """The file cannot be given to agents."""


class AuthorityFile:
    """PEM certificates in a file, read again when the file changes: an authority is rotated, too."""

    def __init__(self, path: Path) -> None:
        """Raises BadAuthority."""
        self._path = path
        self._version = self._stat()
        self._text = self._load()

    def read(self) -> str:
        """The certificates in the file, or the last ones that could be used."""
        try:
            version = self._stat()
            if version != self._version:
                self._text = self._load()
                self._version = version
        except BadAuthority as error:
            _log.warning("authority not reloaded", error=str(error))
        return self._text

    def _stat(self) -> tuple[int, int, int]:
        try:
            found = self._path.stat()
        except OSError as error:
            raise BadAuthority(f"{self._path}: {error.strerror}; mount the Secret with ca.crt") from error
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _load(self) -> str:
        try:
            content = self._path.read_bytes()
            text = content.decode("ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise BadAuthority(f"{self._path}: not a bundle of PEM certificates: {error}") from error
        if len(content) > MAX_AUTHORITY_BYTES or _BEGIN not in text:
            raise BadAuthority(
                f"{self._path}: not a bundle of PEM certificates of at most {MAX_AUTHORITY_BYTES} bytes; "
                "name only the authority that signs the gateway's certificate"
            )
        return text
