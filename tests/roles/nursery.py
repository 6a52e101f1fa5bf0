"""A process that forks writers to be killed, one after the other: both ends of it."""

import json
import os
import signal
import sys
from collections.abc import Callable

from roles.child import Child


class Nursery(Child):
    """`script` as a process; its role `nursery` must call `nurse`."""

    def __init__(self, script: str, name: str) -> None:
        super().__init__(script, "nursery", name)
        assert self.answer() == "ready"

    def kill_a_writer(self, after_s: float) -> None:
        """Let the next writer write for so long, and kill it wherever it is."""
        self.tell()
        pid = int(self.answer())
        assert self.answer() == "writing"
        signal.sigtimedwait([], after_s)
        os.kill(pid, signal.SIGKILL)
        assert self.answer() == "dead"


class Watcher(Child):
    """`script` as a process; its role `reader` looks until it is told to stop, and answers counts."""

    def __init__(self, script: str, name: str) -> None:
        super().__init__(script, "reader", name)
        assert self.answer() == "ready"

    def counts(self) -> dict[str, int]:
        self.tell("stop")
        found: dict[str, int] = json.loads(self.answer())
        return found


def nurse(write_for_ever: Callable[[], None]) -> None:
    """Fork one writer per "go"; answer with its pid, and with its end once it was killed."""
    print("ready", flush=True)
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                os.write(1, f"{os.getpid()}\n".encode())  # by itself, so that it comes first
                write_for_ever()
            except BaseException as error:
                os.write(1, f"failed {error!r}\n".encode())
            os._exit(1)
        os.waitpid(child, 0)
        print("dead", flush=True)
