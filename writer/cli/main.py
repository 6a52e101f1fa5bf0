"""The programs' entry points."""

import sys

try:
    from arena.writer.cli.terminal import enter
    from arena.writer.cli.tools import bridge_app, demo_app, record_app, replay_app, verify_app
    from arena.writer.cli.writer import app
except MemoryError:
    print("MemoryError: there is no memory to start with: raise ulimit -v", file=sys.stderr)
    raise SystemExit(2) from None
except ImportError as error:  # the reader package installs without them
    if error.name is None or error.name.startswith("arena."):
        raise
    raise SystemExit(
        f"{error.name} is not installed; the command line needs: "
        "pip install 'pool-state-arena[writer]'"
    ) from error


def writer() -> None:
    """Entry point of arena-writer."""
    enter(app, "arena-writer")


def record() -> None:
    """Entry point of arena-record."""
    enter(record_app, "arena-record")


def replay() -> None:
    """Entry point of arena-replay."""
    enter(replay_app, "arena-replay")


def bridge() -> None:
    """Entry point of arena-bridge."""
    enter(bridge_app, "arena-bridge")


def verify() -> None:
    """Entry point of arena-verify."""
    enter(verify_app, "arena-verify")


def demo() -> None:
    """Entry point of arena-demo."""
    enter(demo_app, "arena-demo")
