"""The authority of the gateway's certificate, from its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure.kube.authority_file import MAX_AUTHORITY_BYTES, AuthorityFile, BadAuthority

PEM = "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n"


def test_a_rotated_authority_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "ca.crt"
    path.write_text(PEM.format("first"))
    authority = AuthorityFile(path)
    assert authority.read() == PEM.format("first")
    path.write_text(PEM.format("the second"))
    assert authority.read() == PEM.format("the second")
    path.unlink()
    assert authority.read() == PEM.format("the second")
    path.write_text("no certificate")
    assert authority.read() == PEM.format("the second")


def test_an_authority_at_the_limit_is_read_and_one_beyond_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ca.crt"
    filler = "x" * (MAX_AUTHORITY_BYTES - len(PEM.format("")))
    path.write_text(PEM.format(filler))
    assert len(AuthorityFile(path).read()) == MAX_AUTHORITY_BYTES
    path.write_text(PEM.format(filler + "x"))
    with pytest.raises(BadAuthority, match="at most 65536 bytes"):
        AuthorityFile(path)


@pytest.mark.parametrize("content", [b"", b"text", b"\xff" * 40])
def test_an_unusable_authority_is_refused_with_its_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ca.crt"
    path.write_bytes(content)
    with pytest.raises(BadAuthority, match=r"ca\.crt: not a bundle of PEM certificates"):
        AuthorityFile(path)
    with pytest.raises(BadAuthority, match=r"none\.crt: No such file"):
        AuthorityFile(tmp_path / "none.crt")
