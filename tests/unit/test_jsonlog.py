"""Log lines as JSON: the same facts as the text lines, quotes taken off, and nothing lost."""

import json
import logging
import sys
from typing import Any

import pytest

from arena.writer.host.jsonlog import JsonFormatter, fields_of


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        ("event=live pools=5", {"event": "live", "pools": 5}),
        ("reason='it''s'", None),
        ('reason="it\'s" x=1', {"reason": "it's", "x": 1}),
        ("reason='a \"b\" \\'c\\' = d' x=1", {"reason": "a \"b\" 'c' = d", "x": 1}),
        (r"reason='a\nb\\' x=1", {"reason": "a\nb\\", "x": 1}),
        ("pool=0x00 tip=- empty= x=-3", {"pool": "0x00", "tip": "-", "empty": "", "x": -3}),
        ("number=007 float=1.5", {"number": "007", "float": "1.5"}),
        (f"big={1 << 53} bigger={(1 << 53) + 1}", {"big": 1 << 53, "bigger": str((1 << 53) + 1)}),
        ("a=1 a=2", None),
        ("a=1  b=2", None),
        ("a=1 b", None),
        ("words, no pairs", None),
        ("", None),
        ("url=http://x/?a=b", {"url": "http://x/?a=b"}),
    ],
)
def test_pairs_become_fields_and_anything_else_does_not(message: str, fields: Any) -> None:
    assert fields_of(message) == fields


@pytest.mark.parametrize(
    "reason", ["", "'", '"', "'\"", "\\", "a=b c='d'", "\n\t\0", "é\u2028\U0001f600", "\ud800"]
)
def test_whatever_was_written_with_repr_comes_back(reason: str) -> None:
    assert fields_of(f"event=x reason={reason!r} last=1") == {
        "event": "x",
        "reason": reason,
        "last": 1,
    }


def formatted(message: str, *values: object, exc_info: Any = None) -> dict[str, Any]:
    record = logging.LogRecord("a.b", logging.WARNING, "", 0, message, values, exc_info)
    record.created, record.msecs = 1_700_000_000.25, 250.0
    line = JsonFormatter().format(record)
    assert "\n" not in line
    found: dict[str, Any] = json.loads(line)
    return found


def test_a_line_has_time_level_and_logger_first() -> None:
    found = formatted("event=%s reason=%r", "gap", "a\nb")
    assert list(found) == ["time", "level", "logger", "event", "reason"]
    assert found["time"] == "2023-11-14T22:13:20.250Z"
    assert (found["level"], found["logger"], found["reason"]) == ("WARNING", "a.b", "a\nb")


def test_a_pair_does_not_replace_a_field_of_the_record() -> None:
    found = formatted("level=debug time=5 message=x")
    assert (found["level"], found["level_"], found["time_"]) == ("WARNING", "debug", 5)
    assert found["message_"] == "x"


def test_other_messages_stay_whole_and_exceptions_are_a_field() -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        found = formatted("Task was destroyed", exc_info=sys.exc_info())
    assert found["message"] == "Task was destroyed"
    assert found["exception"].startswith("Traceback")
    assert "first\nsecond" in found["exception"]
