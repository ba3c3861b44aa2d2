"""Values as parameters of a statement: JSON and text that Postgres can hold."""

from __future__ import annotations

from typing import Any, Final

import orjson

_OPTIONS: Final = orjson.OPT_NON_STR_KEYS


def dumps(value: Any) -> bytes:
    """JSON for a json parameter. Datetimes must be aware.

    Postgres cannot hold U+0000, and UTF-8 has no surrogates; agents' output may carry either. Both become
    U+FFFD, because a value that can never be written would stop its run for good.
    """
    try:
        encoded = orjson.dumps(value, _plain, _OPTIONS)
    except TypeError:
        # orjson raises TypeError for a surrogate; if the cause is another, the second call raises it again.
        return orjson.dumps(_clean(value), _plain, _OPTIONS)
    if b"\\u0000" in encoded:
        return orjson.dumps(_clean(value), _plain, _OPTIONS)
    return encoded


def text(value: str) -> str:
    """The same replacement for a text parameter."""
    if "\0" in value:
        value = value.replace("\0", "\ufffd")
    try:
        value.encode()
    except UnicodeEncodeError:
        value = "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in value)
    return value


def _plain(value: Any) -> Any:
    # Mappings that are no dicts, such as a frozen spec.
    if hasattr(value, "items"):
        return dict(value.items())
    raise TypeError(f"not JSON: {type(value).__name__}")


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return text(str(value))
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    if hasattr(value, "items"):
        return {_clean(key): _clean(item) for key, item in value.items()}
    return value
