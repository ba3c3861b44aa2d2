"""Logging: one line per event to standard error, JSON for machines or coloured text for people.

Records that libraries log through the standard library take the same way. No credential leaves the process:
passwords in URLs, bearer tokens and values under the name of a credential are masked.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, TextIO

import orjson

from perdure.import_guards import absent

with absent("rich"):  # tracebacks are written as they are, or as JSON
    import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from perdure.settings import Settings

MASK = "***"
_CREDENTIAL_NAME = re.compile(
    r"password|passwd|secret|token$|authorization|credential|api_?key|^(database|nats)_url$", re.I
)
_URL_LOGIN = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*://)[^\s/@'\"]*@", re.I)
_PARAMETER = re.compile(r"\b((?:password|passwd|secret|token)=)[^&\s'\"]+", re.I)
_BEARER = re.compile(r"\b(bearer)\s+[\w.~+/=-]+", re.I)
_JWT = re.compile(r"\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*")
#: Loggers whose INFO is of use in a debugger only.
_QUIET = ("kopf.objects", "nats", "nats.aio.client", "uvicorn.access", "asyncio")


def configure(settings: Settings, *, stream: TextIO | None = None) -> None:
    """Set logging up for this process, to `stream` (standard error). Calling again replaces what was set."""
    target = stream or sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        # Bound loggers are made at import, before this is called.
        cache_logger_on_first_use=False,
    )
    if settings.log_format == "json":
        render: Processor = structlog.processors.JSONRenderer(serializer=_to_json)
    else:
        render = structlog.dev.ConsoleRenderer(
            colors=target.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.StackInfoRenderer(),
            # Text before masking: a traceback quotes what failed.
            structlog.processors.format_exc_info,
            mask,
            render,
        ],
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    level = getattr(logging, settings.log_level.upper())
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def mask(logger: WrappedLogger, method: str, event: EventDict) -> MutableMapping[str, Any]:
    """A structlog processor that hides credentials, at any depth."""
    return {key: _masked(value, str(key)) for key, value in event.items()}


def mask_text(text: str) -> str:
    """The text without logins and passwords in URLs, bearer tokens and JWTs."""
    text = _URL_LOGIN.sub(rf"\g<scheme>{MASK}@", text)
    text = _PARAMETER.sub(rf"\1{MASK}", text)
    text = _BEARER.sub(rf"\1 {MASK}", text)
    return _JWT.sub(MASK, text)


def _masked(value: object, name: str = "") -> object:
    if name and _CREDENTIAL_NAME.search(name) and value not in (None, "", False, True):
        return MASK
    if isinstance(value, str):
        return mask_text(value)
    if isinstance(value, Mapping):
        return {key: _masked(item, str(key)) for key, item in value.items()}
    if isinstance(value, bytes | bytearray):
        return mask_text(value.decode(errors="replace"))
    if isinstance(value, Sequence | set | frozenset):
        return [_masked(item) for item in value]
    if isinstance(value, int | float | None):
        return value
    # An object's own text may quote the URL it was made from.
    return mask_text(str(value))


def _to_json(value: Any, **_: Any) -> str:
    return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
