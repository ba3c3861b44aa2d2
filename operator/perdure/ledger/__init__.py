"""The ledger: runs in Postgres. Only this package imports asyncpg."""

from perdure.ledger.ledger import Ledger
from perdure.ledger.migrate import MigrationError, migrate
from perdure.ledger.types import AgentSession, Checkpoint, CorruptCheckpoint

__all__ = [
    "AgentSession",
    "Checkpoint",
    "CorruptCheckpoint",
    "Ledger",
    "MigrationError",
    "migrate",
]
