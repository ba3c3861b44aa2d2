"""What starting the operator leaves out, and that nothing of it is missing afterwards."""

import os
import ssl
import subprocess
import sys

import pytest

from perdure.imports import without_authorities


def test_the_operator_is_ready_to_decide_without_kopf_and_without_reading_authorities() -> None:
    program = (
        "import sys, perdure.main\n"
        "from aiohttp import connector\n"
        "read = connector._SSL_CONTEXT_VERIFIED.cert_store_stats()['x509']\n"
        "sys.exit(f'kopf: {\"kopf\" in sys.modules}, authorities: {read}')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "kopf: False, authorities: 0"


@pytest.mark.parametrize("set_before", [None, "/somewhere"])
def test_authorities_are_found_again_afterwards(
    monkeypatch: pytest.MonkeyPatch, set_before: str | None
) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        if set_before is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, set_before)
    before = dict(os.environ)
    with without_authorities():
        assert ssl.create_default_context().cert_store_stats()["x509"] == 0
    assert dict(os.environ) == before
