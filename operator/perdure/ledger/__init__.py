"""The ledger: runs in Postgres. Only this package imports asyncpg."""

from perdure.ledger.ledger import Ledger
from perdure.ledger.migrate import MigrationError, migrate
from perdure.ledger.requirements import DatabaseRefused, Unmet, require_server, watch_start
from perdure.ledger.types import AgentSession, Checkpoint, CorruptCheckpoint

__all__ = [
    "AgentSession",
    "Checkpoint",
    "CorruptCheckpoint",
    "DatabaseRefused",
    "Ledger",
    "MigrationError",
    "Unmet",
    "migrate",
    "require_server",
    "watch_start",
]
