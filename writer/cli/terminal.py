"""What the programs share at the terminal: refusals, logs, signals, progress."""

import asyncio
import errno
import hashlib
import logging
import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

import arena
from arena.errors import ArenaError
from arena.output import printing
from arena.writer.cli import config
from arena.writer.cli.options import LogFormat, LogLevel
from arena.writer.host.jsonlog import JsonFormatter
from arena.writer.host.shortage import on_loop_error, remedy_of

log = logging.getLogger(__name__)


EXIT_UNEXPECTED = 1
EXIT_REFUSED = 2
EXIT_DIFFERENT = 1
EPILOG = "--version alone prints the version."


def enter(commands: typer.Typer, program: str) -> None:
    """Run a program: what only its help needed, and could not have, ends it as `refusing` does."""
    try:
        with printing():
            if sys.argv[1:] == ["--version"]:
                print(program, arena.__version__)
                return
            commands()
    except OSError as error:
        with suppress(OSError):
            print(f"{program}: {type(error).__name__}: {error.strerror}", file=sys.stderr)
        sys.exit(EXIT_REFUSED)


@contextmanager
def refusing(program: str) -> Iterator[None]:
    """Turn expected errors into one line and exit code 2; let anything else through as code 1.

    Whoever closes the pipe this prints into has seen enough: what follows is not printed, and the
    exit code stays what it would have been.
    """
    try:
        with printing():
            yield
    except (typer.Exit, typer.BadParameter):  # Exit is a RuntimeError, too
        raise
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_REFUSED) from None
    except Exception as error:
        remedy = remedy_of(error)
        if remedy is None and not isinstance(error, ArenaError | OSError | ValueError):
            log.exception("event=unexpected_error")
            raise typer.Exit(EXIT_UNEXPECTED) from None
        if isinstance(error, OSError):
            line = f"{error.strerror}: {error.filename}" if error.filename else str(error)
        else:
            line = str(error)
        if isinstance(error, ImportError):
            line = "a library cannot be loaded"
        if remedy is not None:
            line = f"{line}; {remedy}" if line else remedy
        source = f"{program}: " if program else ""
        if logs_json():  # what reads the log reads objects, the last line too
            log.error("event=refused error=%s reason=%r", type(error).__name__, line)
        else:
            with suppress(OSError):  # nobody reads it
                print(f"{source}{type(error).__name__}: {line}", file=sys.stderr)
        raise typer.Exit(EXIT_REFUSED) from error


def configure_logging(level: LogLevel, shape: LogFormat = LogFormat.text) -> None:
    """key=value lines or JSON objects on stderr, times in UTC."""
    formatter: logging.Formatter = logging.Formatter(
        "time=%(asctime)s.%(msecs)03dZ level=%(levelname)s logger=%(name)s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )
    formatter.converter = time.gmtime
    if shape is LogFormat.json:
        formatter = JsonFormatter()
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.value.upper())
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def reload_log_level(context: typer.Context) -> None:
    """Take the log level of a run again from where it came; name other settings that moved, which
    are in force with the next start only. SettingsError leaves everything as it is."""
    found = config.reread(context)
    level = LogLevel(found["log_level"])
    logging.getLogger().setLevel(level.value.upper())
    moved = [name for name in found if found[name] != context.params[name]]
    context.params["log_level"] = found["log_level"]
    log.info("event=log_level_set to=%s", level.value)
    for name in moved:
        if name != "log_level":
            log.warning("event=setting_needs_restart name=%s", name)


def logs_json() -> bool:
    """Whether configure_logging chose JSON."""
    return any(isinstance(each.formatter, JsonFormatter) for each in logging.getLogger().handlers)


def run_until_signal(
    begin: Callable[[], Coroutine[Any, Any, None]], *, on_hangup: Callable[[], None] | None = None
) -> None:
    """Run what `begin` makes; SIGTERM and SIGINT cancel it, which is a clean end."""

    async def guarded() -> None:
        task = asyncio.ensure_future(begin())
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(on_loop_error)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, task.cancel)
        if on_hangup is not None:
            loop.add_signal_handler(signal.SIGHUP, on_hangup)
        try:
            await task
        except asyncio.CancelledError:
            log.info("event=stopped reason=signal")

    asyncio.run(guarded())


@contextmanager
def private_folder(name: str) -> Iterator[Path]:
    """A folder of this user alone, the same for each run of the arena `name`; removed at the end.

    Below $RUNTIME_DIRECTORY (systemd), $XDG_RUNTIME_DIR, or the folder of temporary files.
    PermissionError when somebody else has taken its place.
    """
    mark = hashlib.sha256(name.encode()).hexdigest()[:16]
    given = [os.environ.get(each, "") for each in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR")]
    base = next((each for each in given if os.path.isdir(each)), gettempdir())
    folder = Path(base, f"arena-{os.geteuid()}-{mark}")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(errno.EPERM, "not a folder of this user alone", str(folder))
    try:
        yield folder
    finally:
        with suppress(OSError):  # another writer of that name is at work in it
            folder.rmdir()


@contextmanager
def progress_display() -> Iterator[Any]:
    """A function to call with Metrics: a bar on a terminal, log lines otherwise."""
    from arena.writer.service.progress import progress_bar, progress_lines

    console = Console(stderr=True)
    is_bar = console.is_terminal and not logs_json()
    with progress_bar(console) if is_bar else progress_lines() as observe:
        yield observe


def print_status(found: dict[str, Any]) -> None:
    """Two small tables on stdout."""
    console = Console()
    table = Table(show_header=False, box=None)
    for name, value in found.items():
        if not isinstance(value, dict):
            table.add_row(name, "-" if value is None else str(value))
    for status, count in found["pools"].items():
        table.add_row(f"pools {status}", str(count))
    for counter, count in found["counters"].items():
        table.add_row(counter, str(count))
    console.print(table)
