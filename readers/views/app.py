"""The live view in a terminal, with Textual: keys in, lines out. What they mean is the board's."""

import asyncio
import os
import select
import sys
from collections.abc import Callable
from typing import Any

from rich.segment import Segment
from rich.style import Style
from textual.app import App, ComposeResult
from textual.events import Key, Paste, Resize
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from arena.readers.views.board import Board
from arena.readers.views.lines import Line, Part
from arena.readers.views.monitor import Monitor, View

EXIT_HUNG_UP = 1

# The terminal's own colours, so that they suit its background; NO_COLOR leaves bold, faint and reverse.
_STYLES = {
    Part.PLAIN: Style(),
    Part.TITLE: Style(bold=True),
    Part.FAINT: Style(),
    Part.GOOD: Style(color="green"),
    Part.WARNING: Style(color="yellow", bold=True),
    Part.BAD: Style(color="red", bold=True),
    Part.MARKED: Style(bold=True, color="cyan"),
    Part.CURSOR: Style(reverse=True),
}


class Picture(Widget, can_focus=True):
    """The whole window: lines of text, of which only those that changed are painted."""

    DEFAULT_CSS = "Picture { width: 100%; height: 100%; background: ansi_default; }"

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[Line] = []

    def show(self, lines: list[Line]) -> None:
        """Paint these lines from now on."""
        before, self._lines = self._lines, lines
        if len(before) != len(lines):
            self.refresh()
            return
        changed = [index for index, each in enumerate(lines) if each != before[index]]
        if changed:
            self.refresh(*(Region(0, index, self.size.width, 1) for index in changed))

    def render_line(self, y: int) -> Strip:
        """One line of the window."""
        width = self.size.width
        if y >= len(self._lines):
            return Strip.blank(width)
        strip = Strip([Segment(text, _STYLES[part]) for text, part in self._lines[y] if text])
        return strip.adjust_cell_length(width)


class TopApp(App[None]):
    """Looks at an arena every `interval` seconds and shows it until q. The monitor stays the caller's."""

    CSS = "Screen { background: ansi_default; overflow: hidden; }"
    TITLE = "arena-top"
    ENABLE_COMMAND_PALETTE = False

    def __init__(
        self,
        monitor: Monitor,
        board: Board,
        *,
        interval: float,
        is_hung_up: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(ansi_color=True)
        self.monitor = monitor
        self.board = board
        self.view: View | None = None
        self._picture = Picture()
        self._interval = interval
        self._is_hung_up = is_hung_up
        self._wake = asyncio.Event()

    def compose(self) -> ComposeResult:
        """One widget, that is the window."""
        yield self._picture

    def on_mount(self) -> None:
        """Begin to look."""
        self._picture.focus()
        self.run_worker(self._look_on())

    async def _look_on(self) -> None:
        while not self._is_hung_up():
            self.view = await asyncio.to_thread(self.monitor.look, self.board.opened)
            self.paint()
            try:
                await asyncio.wait_for(self._wake.wait(), self._interval)
            except TimeoutError:
                continue
            self._wake.clear()
        # The terminal is gone: nothing is left to put right, and an orderly end would write to it.
        os._exit(EXIT_HUNG_UP)

    def paint(self) -> None:
        """Show what was seen last, as the board has it now."""
        if self.view is not None:
            width, height = self.size
            self._picture.show(self.board.picture(self.view, width, height))

    def on_key(self, event: Key) -> None:
        """Every key is the board's."""
        event.prevent_default()
        event.stop()
        if event.key == "ctrl+c":
            self.exit()
            return
        if event.key == "ctrl+l":  # something else wrote into the terminal
            self._picture.refresh()
            return
        opened = self.board.opened
        if not self.board.press(event.key, event.character):
            self.exit()
            return
        if self.board.opened != opened:
            self._wake.set()
        self.paint()

    def on_paste(self, event: Paste) -> None:
        """An address is pasted rather than typed."""
        event.stop()
        if self.board.is_typing:
            for each in event.text:
                self.board.press(each, each)
            self.paint()

    def on_resize(self, event: Resize) -> None:
        """Paint for the new size."""
        self.call_after_refresh(self.paint)


def _watch_terminal() -> Callable[[], bool]:
    """Asks whether the terminal is gone, which a process that ignores its signal (nohup) is not told."""
    assert sys.__stdin__ is not None
    poll = select.poll()
    poll.register(sys.__stdin__.fileno(), 0)
    return lambda: bool(poll.poll(0))


def run(monitor: Monitor, board: Board, *, interval: float) -> Any:
    """Show the arena until somebody quits; the exit code."""
    app = TopApp(monitor, board, interval=interval, is_hung_up=_watch_terminal())
    app.run(mouse=False)
    return app.return_code
