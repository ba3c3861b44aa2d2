"""Values as parameters of a statement: JSON and text that Postgres can hold."""

from __future__ import annotations

from perdure.domain.payloads import clean_text as text
from perdure.domain.payloads import encode as dumps

__all__ = ["dumps", "text"]
