"""Log lines: one event, one line, values as fields."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from node.telemetry.logs import LogFormat, configure_logs


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:], logger.level = handlers, level


def lines(form: LogFormat, root: logging.Logger) -> list[str]:
    stream = io.StringIO()
    configure_logs(form=form, level="info", stream=stream)
    log = logging.getLogger("node.test")
    log.debug("too quiet")
    log.info(
        "election won", extra={"event": "raft.election_won", "term": 9, "note": None, "long": "x" * 5000}
    )
    try:
        raise ValueError("why")
    except ValueError:
        log.exception("a step broke")
    return stream.getvalue().splitlines()


def test_json_lines_have_time_level_event_and_fields(root: logging.Logger) -> None:
    won, broke = map(json.loads, lines("json", root))
    assert (won["level"], won["event"], won["msg"], won["term"]) == (
        "info",
        "raft.election_won",
        "election won",
        9,
    )
    assert won["time"].endswith("Z")
    assert len(won["long"]) == 2001
    assert (broke["event"], "ValueError: why" in broke["traceback"]) == ("node.test", True)


def test_plain_lines_are_for_people_and_a_traceback_follows(root: logging.Logger) -> None:
    won, broke, *trace = lines("plain", root)
    assert won[13:].startswith("info    election won  term=9  long=xxx")
    assert "note" not in won
    assert broke.endswith("error   a step broke")
    assert trace[-1] == "ValueError: why"
