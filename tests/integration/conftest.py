"""Fixtures that all integration tests may use."""

from tests.integration.apiserver import apiserver, kube, namespace
from tests.integration.nats import nats_server
from tests.integration.postgres import database_url, ledger_url, postgres_server

__all__ = ["apiserver", "database_url", "kube", "ledger_url", "namespace", "nats_server", "postgres_server"]
