"""Lines of a picture: pieces of plain text, each with the part it plays, which a terminal may colour.

No part is told by colour alone: without any the picture says the same.
"""

from collections.abc import Iterable
from enum import Enum

from arena.readers.views.text import cells, cut


class Part(Enum):
    """What a piece of a line is to whoever looks at it."""

    PLAIN = "plain"
    TITLE = "title"
    FAINT = "faint"
    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"
    MARKED = "marked"
    CURSOR = "cursor"


Piece = tuple[str, Part]
Line = tuple[Piece, ...]


def line(*pieces: str | Piece) -> Line:
    """A line of harmless pieces, plain where nothing is said."""
    return tuple((each, Part.PLAIN) if isinstance(each, str) else each for each in pieces)


def fit(found: Line, width: int) -> Line:
    """Cut or padded to exactly `width` cells."""
    kept: list[Piece] = []
    room = width
    for text, part in found:
        size = cells(text)
        if size > room:
            text = cut(text, room)
            size = cells(text)
            kept.append((text, part))
            room -= size
            break
        kept.append((text, part))
        room -= size
    return (*kept, (" " * room, Part.PLAIN)) if room > 0 else tuple(kept)


def plain(found: Line) -> str:
    """The text alone, nothing behind its end."""
    return "".join(text for text, _ in found).rstrip()


def fill(found: Iterable[Line], width: int, height: int) -> list[Line]:
    """Exactly `height` lines of exactly `width` cells."""
    lines = [fit(each, width) for each in found][:height]
    return lines + [fit((), width)] * (height - len(lines))


def wrapped(text: str, part: Part, width: int, most: int) -> list[Line]:
    """Words on up to `most` lines, the last one cut."""
    found: list[str] = []
    for word in text.split():
        if found and (cells(found[-1]) + 1 + cells(word) <= width or len(found) == most):
            found[-1] += " " + word
        else:
            found.append(word)
    return [((each, part),) for each in found]
