"""Logging: one form for ours and theirs, and no credentials in it."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
import structlog

from perdure import logs
from perdure.settings import Settings

JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ.c2lnbmF0dXJl"

Configure = Callable[..., Callable[[], list[dict[str, Any]]]]


@pytest.fixture
def configure() -> Iterator[Configure]:
    """Sets logging up to a buffer; returns what reads the lines back. Undone at the end."""
    root = logging.getLogger()
    handlers, level, levels = root.handlers[:], root.level, {}
    for name in logs._QUIET:
        levels[name] = logging.getLogger(name).level

    def set_up(**settings: Any) -> Callable[[], list[dict[str, Any]]]:
        buffer = io.StringIO()
        logs.configure(Settings(**settings), stream=buffer)
        return lambda: [orjson.loads(line) for line in buffer.getvalue().splitlines()]

    yield set_up
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, old in levels.items():
        logging.getLogger(name).setLevel(old)
    structlog.reset_defaults()


def test_ours_and_the_libraries_lines_have_the_same_form(configure: Configure) -> None:
    lines = configure()
    structlog.get_logger("ours").info("relay_waits", events=3)
    logging.getLogger("theirs").warning("slow: %s", "query", extra={"took": 2})
    ours, theirs = lines()
    assert ours.pop("timestamp").endswith("Z")
    assert theirs.pop("timestamp").endswith("Z")
    assert ours == {"event": "relay_waits", "events": 3, "level": "info", "logger": "ours"}
    assert theirs == {"event": "slow: query", "took": 2, "level": "warning", "logger": "theirs"}


def test_the_level_holds_for_both(configure: Configure) -> None:
    lines = configure(log_level="warning")
    structlog.get_logger("ours").info("quiet")
    logging.getLogger("theirs").info("quiet")
    structlog.get_logger("ours").warning("loud")
    assert [line["event"] for line in lines()] == ["loud"]


def test_kopf_and_nats_are_held_back(configure: Configure) -> None:
    lines = configure()
    logging.getLogger("kopf.objects").info("Handler succeeded.")
    logging.getLogger("nats.aio.client").info("connected")
    assert lines() == []


def test_configuring_again_prints_each_line_once(configure: Configure) -> None:
    configure()
    lines = configure()
    structlog.get_logger("ours").info("once")
    assert len(lines()) == 1


def test_console_lines_are_for_people(configure: Configure) -> None:
    buffer = io.StringIO()
    configure()
    logs.configure(Settings(log_format="console"), stream=buffer)
    structlog.get_logger("ours").warning("relay_waits", url="nats://user:hidden@host")
    assert "relay_waits" in buffer.getvalue()
    assert "hidden" not in buffer.getvalue()
    assert "\x1b" not in buffer.getvalue()


@pytest.mark.parametrize(
    "value",
    [
        "postgresql://user:hidden@db/ledger",
        "cannot connect to nats://hidden@host:4222",
        "Authorization: Bearer hidden.hidden",
        "postgresql://db/ledger?password=hidden&x=1",
        {"password": "hidden", "nested": [{"api_key": "hidden"}]},
        ["tls://a:hidden@host"],
        b"nats://a:hidden@host",
        ValueError("bad url postgresql://u:hidden@db"),
        ("a", {"client_secret": "hidden"}),
    ],
    ids=str,
)
def test_credentials_are_masked_wherever_they_hide(configure: Configure, value: object) -> None:
    lines = configure()
    structlog.get_logger("ours").error("failed", detail=value)
    logging.getLogger("theirs").error("failed: %s", value if isinstance(value, str) else "-")
    assert "hidden" not in str(lines())
    assert "***" in str(lines())


@pytest.mark.parametrize(
    "name", ["password", "token", "database_url", "Authorization", "nats_url", "api_key"]
)
def test_values_under_names_of_secrets_are_masked(configure: Configure, name: str) -> None:
    lines = configure()
    structlog.get_logger("ours").info("settings", **{name: "hidden"})
    assert lines()[0][name] == "***"


def test_a_traceback_is_masked_too(configure: Configure) -> None:
    lines = configure()
    try:
        raise RuntimeError(f"postgresql://u:hidden@db refused {JWT}")
    except RuntimeError:
        structlog.get_logger("ours").exception("failed")
        logging.getLogger("theirs").exception("failed")
    text = str(lines())
    assert "RuntimeError" in text
    assert "hidden" not in text
    assert JWT not in text


def test_harmless_values_stay_as_they_are(configure: Configure) -> None:
    lines = configure()
    structlog.get_logger("ours").info(
        "sized", tokens=5, ratio=0.5, ok=True, none=None, url="http://host/path", subject="a@b"
    )
    line = lines()[0]
    assert line["tokens"] == 5
    assert line["ratio"] == 0.5
    assert line["ok"] is True
    assert line["none"] is None
    assert line["url"] == "http://host/path"
    assert line["subject"] == "a@b"
