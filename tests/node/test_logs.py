"""Logs: what is not on the list is not written, whoever logs it."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from keycairn.errors import Code, KeycairnError
from keycairn.node.logs import configure_logs, exception_fields, logger

CANARY = "5ec7e7-canary"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    out = io.StringIO()
    configure_logs("info", node=3, vault="v", out=out)
    yield out
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def test_fields_by_allow_list(lines: io.StringIO) -> None:
    logger().info("request", status=200, body=CANARY, authorization=CANARY, share=CANARY)
    line = json.loads(lines.getvalue())
    assert CANARY not in lines.getvalue()
    assert line["status"] == 200
    assert (line["node"], line["vault"], line["level"]) == (3, "v", "info")
    assert line["at_us"] > 1_600_000_000_000_000


def test_library_messages_are_dropped(lines: io.StringIO) -> None:
    logging.getLogger("some.library").warning("got %s", CANARY)
    logging.getLogger("keycairn.links.tls").warning("refused %s", CANARY, extra={"peer": 2})
    assert CANARY not in lines.getvalue()
    library, ours = map(json.loads, lines.getvalue().splitlines())
    assert library["event"] == "library"
    assert ours["peer"] == 2


def test_exceptions_give_places_not_values(lines: io.StringIO) -> None:
    try:
        secret = CANARY
        raise RuntimeError(secret)
    except RuntimeError as exc:
        logger().error("unexpected", **exception_fields(exc))
    assert CANARY not in lines.getvalue()
    line = json.loads(lines.getvalue())
    assert line["exception"] == "RuntimeError"
    assert "test_logs.py" in line["where"][-1]
    known = exception_fields(KeycairnError(Code.POLICY, "no"))
    assert known["code"] == "E_POLICY"


def test_objects_are_named_not_printed(lines: io.StringIO) -> None:
    logger().info("odd", reason={"key": CANARY}, message=b"raw " + CANARY.encode())
    assert CANARY not in lines.getvalue()


def test_level_is_kept(lines: io.StringIO) -> None:
    logger().debug("small")
    assert lines.getvalue() == ""
