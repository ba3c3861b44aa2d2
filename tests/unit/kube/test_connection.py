"""Configuration from a pod's files and from kubeconfigs."""

import json
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.kube.authority import certificate_authority

from perdure.kube import connection as module
from perdure.kube.connection import ConnectionConfigError, in_cluster, load_connection

ENVIRONMENT = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ca.crt").write_bytes(certificate_authority())
    (tmp_path / "token").write_text("first\n")
    return tmp_path


async def test_a_pod_connects_with_its_service_account(folder: Path) -> None:
    found = in_cluster(ENVIRONMENT, folder)
    assert found.host == "https://10.96.0.1:443"
    assert await found.authorization(False) == "Bearer first"
    assert found.tls is not None
    assert found.tls.verify_mode is ssl.CERT_REQUIRED
    assert found.tls.check_hostname


def test_a_pod_does_not_load_a_thousand_model_classes(folder: Path) -> None:
    program = (
        "import sys, pathlib, perdure.kube.client, perdure.kube.connection as c;"
        f"c.in_cluster({ENVIRONMENT!r}, pathlib.Path({str(folder)!r}));"
        "sys.exit('kubernetes_asyncio' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0


def test_ipv6_addresses_are_put_in_brackets(folder: Path) -> None:
    assert (
        in_cluster(ENVIRONMENT | {"KUBERNETES_SERVICE_HOST": "fd00::1"}, folder).host
        == "https://[fd00::1]:443"
    )


async def test_a_renewed_token_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    found = in_cluster(ENVIRONMENT, folder)
    (folder / "token").write_text("second")
    assert await found.authorization(False) == "Bearer first"
    assert await found.authorization(True) == "Bearer second"
    (folder / "token").write_text("third")
    now += module.CREDENTIAL_INTERVAL + 1
    assert await found.authorization(False) == "Bearer third"


async def test_a_token_whose_file_vanishes_stays_in_use(folder: Path) -> None:
    found = in_cluster(ENVIRONMENT, folder)
    (folder / "token").unlink()
    assert await found.authorization(True) == "Bearer first"


@pytest.mark.parametrize(("missing", "named"), [("token", "token"), ("ca.crt", r"ca\.crt")])
def test_a_missing_variable_or_file_is_named(folder: Path, missing: str, named: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(ConnectionConfigError, match=named):
        in_cluster(ENVIRONMENT, folder)


def test_an_empty_token_is_refused(folder: Path) -> None:
    (folder / "token").write_text("\n")
    with pytest.raises(ConnectionConfigError, match="empty"):
        in_cluster(ENVIRONMENT, folder)


def test_a_process_outside_a_pod_is_refused(folder: Path) -> None:
    with pytest.raises(ConnectionConfigError, match="KUBERNETES_SERVICE_HOST"):
        in_cluster({}, folder)


def kubeconfig(path: Path, *, user: dict[str, object], cluster: dict[str, object] | None = None) -> str:
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "it",
                "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
                "clusters": [
                    {"name": "it", "cluster": {"server": "https://198.51.100.1:6443"} | (cluster or {})}
                ],
                "users": [{"name": "it", "user": user}],
            }
        )
    )
    return str(path)


async def test_a_kubeconfig_with_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = kubeconfig(tmp_path / "config", user={"token": "t"}, cluster={"insecure-skip-tls-verify": True})
    found = await load_connection(path)
    assert found.host == "https://198.51.100.1:6443"
    assert await found.authorization(False) == "Bearer t"
    assert found.tls is not None
    assert found.tls.verify_mode is ssl.CERT_NONE
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'absent'}:{path}")
    assert (await load_connection()).host == found.host


async def test_an_exec_plugin_runs_again_after_its_credentials_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = tmp_path / "plugin"
    plugin.write_text(
        "#!/bin/sh\n"
        f"echo x >> {tmp_path}/asked\n"
        'printf \'{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential",'
        f'"status":{{"token":"t%d"}}}}\' $(wc -l < {tmp_path}/asked)\n'
    )
    plugin.chmod(0o755)
    user: dict[str, object] = {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": str(plugin),
            "interactiveMode": "Never",
        }
    }
    found = await load_connection(kubeconfig(tmp_path / "config", user=user))
    assert await found.authorization(False) == "Bearer t1"
    monkeypatch.setattr(module, "REFRESH_INTERVAL", 0.0)
    assert await found.authorization(True) == "Bearer t2"
    plugin.write_text("#!/bin/sh\necho secret-output; echo log in first >&2; exit 1\n")
    with pytest.raises(ConnectionConfigError, match=r"exec plugin .* log in first") as caught:
        await found.authorization(True)
    assert "secret-output" not in str(caught.value)


async def test_a_missing_kubeconfig_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConnectionConfigError, match="absent"):
        await load_connection(str(tmp_path / "absent"))


@pytest.mark.parametrize("text", ["contexts: []", "{", "[]", "", "current-context: it\ncontexts: it"])
async def test_an_unusable_kubeconfig_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(ConnectionConfigError, match=str(path)):
        await load_connection(str(path))


async def test_the_proxy_of_the_environment_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = kubeconfig(tmp_path / "config", user={"token": "t"})
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "")
    assert (await load_connection(path)).proxy == "http://proxy.example:3128"
    monkeypatch.setenv("no_proxy", "198.51.100.1")
    assert (await load_connection(path)).proxy is None
