"""What commands print, into a pipe whose reader may leave before the end."""

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO


class Output:
    """Standard output that goes on, to nowhere, once nobody reads the pipe behind it any more."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.has_reader = True

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._silence()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._silence()
        except OSError:
            self._silence()  # or the interpreter stumbles over what is left at its exit
            raise

    def look(self) -> None:
        """Notice that the reader left, for who has nothing to write meanwhile."""
        with suppress(OSError, ValueError):  # a stream without a descriptor
            poll = select.poll()
            poll.register(self._stream.fileno(), 0)
            if any(events & select.POLLERR for _, events in poll.poll(0)):
                self._silence()

    def _silence(self) -> None:
        self.has_reader = False
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def printing() -> Iterator[Output]:
    """Standard output while a command prints, written out at the end.

    Who closes the pipe has seen enough: that is no error. OSError when it cannot be written for
    another reason, a full disk for one.
    """
    before = sys.stdout
    # None when it was closed before the start: as if nobody read it.
    stream = before if before is not None else open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    output = Output(stream)
    sys.stdout = output
    try:
        yield output
    finally:
        sys.stdout = stream
        output.flush()
