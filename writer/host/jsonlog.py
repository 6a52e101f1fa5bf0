"""Log records as JSON objects, one a line: the key=value pairs of our messages become fields."""

import ast
import json
import logging
import re
import time

# A bare value, or one written with %r.
_PAIR = re.compile(r"""([A-Za-z_]\w*)=('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\S*)""", re.ASCII)
_INTEGER = re.compile(r"0|-?[1-9][0-9]*")
# What a JSON reader that keeps numbers as floats still holds exactly.
_MAX_INTEGER = 1 << 53

RESERVED = ("time", "level", "logger", "exception", "message")


def fields_of(message: str) -> dict[str, str | int] | None:
    """The pairs of `a=1 b=two c='three, quoted'`; None when the message is anything else.

    Decimal integers up to 2**53 are integers; quotes and their escapes are taken off.
    """
    found: dict[str, str | int] = {}
    position = 0
    while position < len(message):
        match = _PAIR.match(message, position)
        if match is None or match[1] in found:
            return None
        position = match.end()
        if position < len(message):
            if message[position] != " ":
                return None
            position += 1
        found[match[1]] = _value(match[2])
    return found or None


def _value(text: str) -> str | int:
    if text[:1] in ("'", '"') and text[-1:] == text[:1] and len(text) > 1:
        return str(ast.literal_eval(text))
    if _INTEGER.fullmatch(text) and abs(int(text)) <= _MAX_INTEGER:
        return int(text)
    return text


class JsonFormatter(logging.Formatter):
    """`time`, `level`, `logger`, then the message's pairs, or `message` where it has none.

    A pair named like a field of ours keeps its name with a `_` behind. `exception` is the traceback.
    """

    def format(self, record: logging.LogRecord) -> str:
        """One line; what is not UTF-8 is escaped."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        shown: dict[str, str | int] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
        }
        message = record.getMessage()
        fields = fields_of(message)
        if fields is None:
            shown["message"] = message
        else:
            for name, value in fields.items():
                shown[f"{name}_" if name in RESERVED else name] = value
        if record.exc_info:
            shown["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:
            shown["exception"] = record.exc_text
        return json.dumps(shown)
