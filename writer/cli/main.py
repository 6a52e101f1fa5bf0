"""The programs' entry points."""

import sys
from functools import partial

try:
    from arena.writer.cli.terminal import enter
    from arena.writer.cli.tools import bridge, demo, record, replay, verify
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

__all__ = ["bridge", "demo", "record", "replay", "verify", "writer"]

writer = partial(enter, app, "arena-writer")
