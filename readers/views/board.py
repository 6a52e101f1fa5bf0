"""What a live view shows and how keys change it, as lines of text; knows nothing of any terminal library."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from arena.layouts.protocols import PROTOCOL_NAMES
from arena.readers.views.lines import Line, Part, fill, fit, line
from arena.readers.views.listing import Pools
from arena.readers.views.monitor import View
from arena.readers.views.order import COLUMNS, STATUSES, Choice, arrange
from arena.readers.views.pool_page import pool_page
from arena.readers.views.summary import MOST_LINES, summary
from arena.readers.views.table import columns, heading, rows
from arena.readers.views.text import count, harmless

_TABLE_LINES = 5  # the summary leaves so many to the table, where there are as many
_ZOOM = 12
_SEARCH = 128  # characters
HELP = """
up, down, page up, page down, home, end, j, k, g, G   move
enter       open the pool under the cursor; escape or enter closes it
/           search: words in symbols, pool, token addresses, protocol
            enter keeps what was found, escape shows all again
1 to 6      sort by that column; again: the other way; again: not at all
r           turn the order round
t           pools touched by the newest block (marked *) first
f           only live, syncing, stale pools; then all again
p           only pools of one protocol; then all again
+ and -     of an open pool: closer to its price, or further away
escape      no search and no filter
Ctrl-L      paint the window again
q, Ctrl-C   quit
""".strip().split("\n")


class Board:
    """The state of a live view. `press` takes a key, `picture` gives the lines for a window's size."""

    def __init__(self, choice: Choice | None = None) -> None:
        self.choice = choice or Choice()
        self.opened: str | None = None  # key of the pool that is open
        self._mode = "table"  # search, help
        self._zoom = 0
        self._top = 0  # first row shown
        self._height = 1  # rows of the table in the last picture
        self._chosen: int | None = (
            None  # reference of the pool under the cursor; None: the first row
        )
        self._pools: Pools | None = None
        self._places: npt.NDArray[np.intp] = np.zeros(0, np.intp)
        self._arranged_for: Choice | None = None

    # Keys

    def press(self, key: str, character: str | None = None) -> bool:
        """Take a key by its name ("up", "enter", "q") and what it types; False when it quits."""
        if key == "ctrl+j":  # what some terminals send for enter
            key = "enter"
        if self._mode == "search":
            self._type(key, character)
        elif self._mode == "help":
            self._mode = "table"
        elif character == "q":
            return False
        elif character == "?":
            self._mode = "help"
        elif self.opened is not None:
            self._press_opened(key, character)
        elif not self._move(key, character):
            self._choose(key, character)
        return True

    @property
    def is_typing(self) -> bool:
        """Whether keys are characters of a search."""
        return self._mode == "search"

    def _type(self, key: str, character: str | None) -> None:
        search = self.choice.search
        if key == "enter":
            self._mode = "table"
        elif key == "escape":
            self._mode, search = "table", ""
        elif key in ("backspace", "ctrl+h"):
            search = search[:-1]
        elif key == "ctrl+u":
            search = ""
        elif character and character.isprintable() and len(search) < _SEARCH:
            search += character
        self.choice = replace(self.choice, search=search)

    def _press_opened(self, key: str, character: str | None) -> None:
        if key in ("escape", "enter", "backspace", "left"):
            self.opened = None
        elif character in ("+", "="):
            self._zoom = min(_ZOOM, self._zoom + 1)
        elif character == "-":
            self._zoom = max(-_ZOOM, self._zoom - 1)

    def _move(self, key: str, character: str | None) -> bool:
        last = len(self._places) - 1
        row = self._row()
        page = max(1, self._height - 1)
        to = {
            "up": row - 1,
            "down": row + 1,
            "pageup": row - page,
            "pagedown": row + page,
            "home": 0,
            "end": last,
        }.get(key)
        if to is None:
            to = {"k": row - 1, "j": row + 1, "g": 0, "G": last}.get(character or "")
        if to is None:
            return False
        if last >= 0 and self._pools is not None:
            place = self._places[max(0, min(to, last))]
            self._chosen = int(self._pools.listing.references[place])
        return True

    def _choose(self, key: str, character: str | None) -> None:
        choice = self.choice
        if key == "enter":
            if len(self._places) and self._pools is not None:
                place = int(self._places[self._row()])
                self._chosen = int(self._pools.listing.references[place])
                self.opened, self._zoom = self._pools.listing.keys[place], 0
        elif key == "escape":
            self.choice = replace(choice, search="", status="", protocol="")
        elif character == "/":
            self._mode = "search"
        elif character and character in "123456":
            self.choice = choice.by(COLUMNS[int(character) - 1])
        elif character == "r" and choice.column is not None:
            self.choice = replace(choice, is_reversed=not choice.is_reversed)
        elif character == "t":
            self.choice = replace(choice, touched_first=not choice.touched_first)
        elif character == "f":
            self.choice = replace(choice, status=_next(choice.status, STATUSES))
        elif character == "p" and self._pools is not None:
            numbers = np.unique(self._pools.listing.protocol).tolist()
            names = tuple(PROTOCOL_NAMES[each] for each in numbers if each in PROTOCOL_NAMES)
            self.choice = replace(choice, protocol=_next(choice.protocol, names))

    def _row(self) -> int:
        """Row of the pool under the cursor; the first one when it is not shown."""
        if self._chosen is None or self._pools is None:
            return 0
        shown = self._pools.listing.references[self._places]
        found = np.flatnonzero(shown == self._chosen)
        return int(found[0]) if len(found) else 0

    # Lines

    def picture(self, view: View, width: int, height: int) -> list[Line]:
        """Exactly `height` lines of exactly `width` cells."""
        if width < 1 or height < 1:
            return []
        self._arrange(view.pools)
        most = max(1, min(MOST_LINES, height - _TABLE_LINES))
        lines = summary(view, width, most if height > 1 else 1)
        room = height - len(lines) - 1
        if self._mode == "help":
            lines += [line(each) for each in HELP[: max(0, room)]]
        elif self.opened is not None:
            if view.opened is not None and view.opened.key == self.opened:
                page = pool_page(view, view.opened, width, max(0, room), self._zoom)
                lines += page[: max(0, room)]
        elif room > 0:
            lines += self._table(view.pools, width, room)
        return [*fill(lines, width, height - 1), fit(self._footer(view), width)][:height]

    def _arrange(self, pools: Pools) -> None:
        if pools is not self._pools or self.choice != self._arranged_for:
            self._places = arrange(pools, self.choice)
        self._pools, self._arranged_for = pools, self.choice

    def _table(self, pools: Pools, width: int, room: int) -> list[Line]:
        shown = columns(width)
        self._height = max(1, room - 1)
        row = self._row()
        last_top = max(0, len(self._places) - self._height)
        self._top = min(max(self._top, row - self._height + 1), row, last_top)
        visible = self._places[self._top : self._top + self._height]
        if not len(visible):
            text = "no pool is as asked for" if len(pools) else "no pools yet"
            return [heading(shown, self.choice), line((text, Part.FAINT))]
        return [heading(shown, self.choice), *rows(pools, visible, shown, int(self._places[row]))]

    def _footer(self, view: View) -> Line:
        if self._mode == "search":
            found = f"  {count(len(self._places))} found"
            return line(("/" + harmless(self.choice.search) + "_", Part.TITLE), (found, Part.FAINT))
        if self._mode == "help":
            return line(("any key: back", Part.FAINT))
        if self.opened is not None:
            return line(("escape back  + - zoom  ? help  q quit", Part.FAINT))
        words = [harmless(each) for each in self.choice.words]
        if self.choice.touched_first:
            words.append("touched first")
        total = int(view.pools.is_there.sum())
        shown = f"{count(len(self._places))} of {count(total)}" if words else count(total)
        said = f"{shown} pools" + "".join(f", {each}" for each in words)
        keys = "  q quit ? help / search enter open 1-6 sort t touched f p filter"
        return line((said, Part.TITLE), (keys, Part.FAINT))


def _next(current: str, names: tuple[str, ...]) -> str:
    """The name after `current`, the empty one after the last."""
    around = ("", *names)
    return around[(around.index(current) + 1) % len(around)] if current in around else ""
