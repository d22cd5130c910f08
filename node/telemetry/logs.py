"""Log lines: one event, one line; `event` is `<area>.<what_happened>`, values are fields (STYLE §12).

    log.info("election won", extra={"event": "raft.election_won", "node_id": me, "term": 9})

As JSON for machines, or plain for people:

    {"time":"2026-01-02T03:04:05.678Z","level":"info","event":"raft.election_won","msg":"election won","term":9}
    03:04:05.678 info  election won  term=9
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, Final, Literal, TextIO

LogFormat = Literal["plain", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

# A field with a long value is cut: a line must stay a line.
_value_chars_max: Final = 2000
_OF_EVERY_RECORD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure_logs(*, form: LogFormat, level: LogLevel, stream: TextIO | None = None) -> None:
    """All logging of the process goes to `stream` (standard error) in this form. Called once, at start."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else PlainFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What was passed as `extra`, without the event's name."""
    return {
        name: _short(value)
        for name, value in vars(record).items()
        if name not in _OF_EVERY_RECORD and name != "event"
    }


def _short(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _value_chars_max:
        return value[:_value_chars_max] + "…"
    return value


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        document: dict[str, Any] = {
            "time": _time_text(record.created, "%Y-%m-%dT%H:%M:%S") + "Z",
            "level": record.levelname.lower(),
            "event": getattr(record, "event", record.name),
            "msg": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            document["traceback"] = self.formatException(record.exc_info)
        return json.dumps(document, ensure_ascii=False, default=str)


class PlainFormatter(logging.Formatter):
    """A line for people; a traceback follows on its own lines."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        fields = "".join(
            f"  {name}={value}" for name, value in fields_of(record).items() if value is not None
        )
        level = record.levelname.lower()
        line = f"{_time_text(record.created, '%H:%M:%S')} {level:<7} {record.getMessage()}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _time_text(moment: float, form: str) -> str:
    return f"{time.strftime(form, time.gmtime(moment))}.{int(moment * 1000) % 1000:03d}"
