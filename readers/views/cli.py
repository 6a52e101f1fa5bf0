"""arena-top: a live view of an arena in a terminal, or one picture of it.

Errors are one line on standard error and exit code 2.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from typing import NoReturn

from arena.errors import ArenaError
from arena.layouts.protocols import PROTOCOL_NUMBERS
from arena.output import printing
from arena.readers.cli import fail, parser_of
from arena.readers.views.board import Board
from arena.readers.views.lines import plain
from arena.readers.views.monitor import Monitor
from arena.readers.views.once import as_dict, as_lines
from arena.readers.views.order import COLUMNS, STATUSES, Choice
from arena.readers.views.summary import MOST_LINES

INTERVAL_S = 0.2
_INTERVALS = (0.05, 3600.0)
_BESIDES = MOST_LINES + 3  # lines of one picture that are no pools


def _refuse(line: str) -> NoReturn:
    print(f"arena-top: {line}", file=sys.stderr)
    raise SystemExit(2)


def _interval(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not _INTERVALS[0] <= found <= _INTERVALS[1]:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of seconds from {_INTERVALS[0]} to {_INTERVALS[1]:.0f}"
        )
    return found


def _rows(text: str) -> int:
    try:
        found = int(text)
    except ValueError:
        found = -1
    if found < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of pools")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("arena-top", "Show an arena, live: its writer, its head, its pools.")
    parser.add_argument(
        "--once", action="store_true", help="print one picture and end; needs no terminal"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object and end")
    parser.add_argument(
        "--rows",
        type=_rows,
        metavar="N",
        help="pools to print with --once (as many as fit) and --json (all)",
    )
    parser.add_argument(
        "--interval",
        type=_interval,
        default=INTERVAL_S,
        metavar="S",
        help=f"seconds between two looks (default {INTERVAL_S})",
    )
    parser.add_argument("--sort", choices=COLUMNS, help="column to sort by")
    parser.add_argument("--reverse", action="store_true", help="the other way round")
    parser.add_argument(
        "--touched-first", action="store_true", help="pools the newest block touched come first"
    )
    parser.add_argument("--status", choices=STATUSES, default="", help="only such pools")
    parser.add_argument(
        "--protocol", choices=tuple(PROTOCOL_NUMBERS), default="", help="only such pools"
    )
    parser.add_argument(
        "--search",
        default="",
        metavar="WORDS",
        help="only pools with these words in symbols, addresses, protocol",
    )
    return parser


def top(arguments: Sequence[str] | None = None) -> None:
    """Show an arena until q, or print it once."""
    options = _parser().parse_args(arguments)
    choice = Choice(
        column=options.sort,
        is_reversed=options.reverse,
        touched_first=options.touched_first,
        status=options.status,
        protocol=options.protocol,
        search=options.search,
    )
    is_live = not (options.once or options.json)
    if is_live:
        _check_terminal()
    try:
        with Monitor(options.name, timeout=options.timeout, owner=options.owner) as monitor:
            if is_live:
                code = _show(monitor, choice, options.interval)
                raise SystemExit(code)
            _print(monitor, choice, options)
    except KeyboardInterrupt:
        return
    except (ArenaError, ValueError, OSError, MemoryError) as error:
        fail("arena-top", error)


def _check_terminal() -> None:
    """Refuse a live view that could not be seen, or whose library is not there."""
    try:
        import textual  # noqa: F401
    except ImportError as error:
        if error.name is None or error.name.startswith("arena."):
            raise
        _refuse(
            f"{error.name} is not installed: pip install 'pool-state-arena[top]', "
            "or take --once or --json"
        )
    # Textual writes to standard error, so that what a program prints can go elsewhere.
    if not (sys.stdin.isatty() and sys.stderr.isatty()) or os.environ.get("TERM") == "dumb":
        _refuse("a live view needs a terminal that can move its cursor; take --once or --json")


def _show(monitor: Monitor, choice: Choice, interval: float) -> int:
    from arena.readers.views.app import run  # needs Textual

    return run(monitor, Board(choice), interval=interval) or 0


def _print(monitor: Monitor, choice: Choice, options: argparse.Namespace) -> None:
    view = monitor.look()
    size = shutil.get_terminal_size()
    with printing() as output:
        if options.json:
            print(json.dumps(as_dict(view, choice, options.rows)))
            return
        count = max(1, size.lines - _BESIDES) if options.rows is None else options.rows
        encoding = getattr(output, "encoding", None) or "utf-8"
        for each in as_lines(view, choice, size.columns, count):
            print(plain(each).encode(encoding, "replace").decode(encoding))
            if not output.has_reader:
                break
