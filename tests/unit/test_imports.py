"""What starting the operator leaves out, and that nothing of it is missing afterwards."""

import os
import ssl
import subprocess
import sys

import pytest

from perdure.import_guards import without_authorities


def test_the_operator_decides_before_it_loads_what_it_needs_later_and_reads_no_authorities() -> None:
    program = (
        "import sys, perdure.main\n"
        "from aiohttp import connector\n"
        "read = connector._SSL_CONTEXT_VERIFIED.cert_store_stats()['x509']\n"
        "early = [name for name in ('kopf', 'nats', 'aiohttp.web') if name in sys.modules]\n"
        "sys.exit(f'early: {early}, authorities: {read}')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "early: [], authorities: 0"


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
