"""The pod's ServiceAccount token, in a file that the kubelet renews."""

from __future__ import annotations

from pathlib import Path

from perdure_agent.errors import AgentError


class TokenFile:
    """Reader of the file that `PERDURE_TOKEN_FILE` names. One reader belongs to one thread."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._token = ""
        #: Inode, modification time and size of the file that the token is from; None to read it again.
        self._version: tuple[int, int, int] | None = None

    def renewed(self) -> bool:
        """True if the file now has another token than the last request had. Raises AgentError."""
        before = self._token
        self._version = None
        self._read()
        return self._token != before

    def authorization(self) -> dict[str, str]:
        """The request header with the file's token; none without a file. Raises AgentError."""
        if self._path is None:
            return {}
        self._read()
        return {"Authorization": f"Bearer {self._token}"}

    def _read(self) -> None:
        if self._path is None:
            return
        # Checked before each call: the kubelet replaces the file long before the token in it expires.
        try:
            found = self._path.stat()
            version = (found.st_ino, found.st_mtime_ns, found.st_size)
            if version != self._version:
                self._token = self._path.read_text().strip()
                self._version = version
        except OSError as error:
            raise AgentError(
                f"cannot read the token at {self._path}: {error.strerror}; check PERDURE_TOKEN_FILE"
            ) from error
