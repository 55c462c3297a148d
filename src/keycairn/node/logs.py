"""Structured logs on stderr: one JSON object a line, fields by allow-list (R-55).

What is not on the list is not written, whoever logs it: a new field in a log call shows up only
after somebody decided here that it can't hold a secret. Library loggers go the same way: their
message text is dropped (it may quote what a peer or client sent), level and logger name stay.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import MutableMapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import structlog

from keycairn.errors import KeycairnError

#: Fields that may be written. Names of things, numbers, codes; never bodies, keys or headers.
ALLOWED = frozenset(
    {
        "event", "level", "at_us", "node", "vault", "logger", "where", "exception", "code",
        "message", "method", "route", "status", "milliseconds", "application", "session_id",
        "request_id", "peer", "peers", "player", "players", "key_id", "count", "state", "why",
        "incarnation", "sha256", "size", "listen", "version", "policy", "kind", "finding",
        "signal", "next", "reason", "seconds",
    }
)  # fmt: skip
_MAX = 500


def configure_logs(level: str, *, node: int, vault: str, out: TextIO | None = None) -> None:
    """Send structlog and the standard library's loggers to ``out`` (stderr) in this form."""
    stream = sys.stderr if out is None else out
    numeric = getattr(logging, level.upper())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt=None, utc=True, key="at"),
            _node_fields(node, vault),
            allow_list,
            structlog.processors.JSONRenderer(sort_keys=True),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(numeric),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_Bridge()]
    root.setLevel(numeric)
    # These say on every request what the edge already says once, and with the raw path.
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "httpx", "httpcore", "websockets"):
        logging.getLogger(name).handlers[:] = []
        logging.getLogger(name).setLevel(max(numeric, logging.WARNING))
        logging.getLogger(name).propagate = True


def logger() -> Any:
    """The structured logger; call ``logger().info("event", field=…)``."""
    return structlog.get_logger()


def allow_list(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """structlog processor: keep allowed fields, plain types, bounded length."""
    at = event.pop("at", None)
    if isinstance(at, float):
        event["at_us"] = int(at * 1_000_000)
    return {k: _plain(v) for k, v in event.items() if k in ALLOWED}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return value[:_MAX]
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(v) for v in list(value)[:64]]
    return f"<{type(value).__name__}>"


def _node_fields(node: int, vault: str) -> Any:
    def add(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Any:
        event["node"] = node
        event["vault"] = vault
        return event

    return add


def exception_fields(exc: BaseException) -> dict[str, Any]:
    """What may be logged of an unexpected exception: type and places, not its text or locals."""
    fields: dict[str, Any] = {"exception": type(exc).__name__, "where": _frames(exc.__traceback__)}
    if isinstance(exc, KeycairnError):
        fields |= {"code": exc.code.value, "message": exc.message}
    return fields


def _frames(tb: TracebackType | None) -> list[str]:
    frames = traceback.extract_tb(tb)[-12:]
    return [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frames]


class _Bridge(logging.Handler):
    """Standard library records into the same stream, without their message text.

    Loggers of this project log typed events only, so their template (not the arguments) is kept.
    """

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = {
            k: v for k, v in record.__dict__.items() if k in ALLOWED and k != "message"
        }
        fields |= {"logger": record.name}
        if record.exc_info and record.exc_info[1] is not None:
            fields |= exception_fields(record.exc_info[1])
        own = record.name.startswith("keycairn")
        event = str(record.msg) if own else "library"
        fields.pop("event", None)
        logger().log(record.levelno, event, **fields)
