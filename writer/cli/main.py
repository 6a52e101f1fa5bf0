"""The programs' entry points."""

import sys
from functools import partial

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

writer = partial(enter, app, "arena-writer")
record = partial(enter, record_app, "arena-record")
replay = partial(enter, replay_app, "arena-replay")
bridge = partial(enter, bridge_app, "arena-bridge")
verify = partial(enter, verify_app, "arena-verify")
demo = partial(enter, demo_app, "arena-demo")
