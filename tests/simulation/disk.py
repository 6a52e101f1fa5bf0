"""What an operating system refuses: writes to a disk that is full or broken, and descriptors."""

import errno
import os
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from arena.writer.stream import socket as feed_module
from arena.writer.sync import checkpoint_file as checkpoint_module
from simulation.world import World


class _TornFile:
    """A file of whose writes a part arrives, and then an error, or none."""

    def __init__(self, stream: Any, failure: int | None, rng: random.Random) -> None:
        self._stream = stream
        self._failure = failure
        self._rng = rng

    def __enter__(self) -> "_TornFile":
        return self

    def __exit__(self, *exc: object) -> None:
        self._stream.close()

    def write(self, data: bytes) -> int:
        self._stream.write(data[: self._rng.randrange(len(data))])
        self._stream.flush()
        if self._failure is not None:
            raise OSError(self._failure, os.strerror(self._failure))
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Faults:
    """What the system refuses in one history."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rng = random.Random(f"disk {world.plan.seed}")
        self.torn = 0
        self.refused = 0

    def _is_bad(self, rate: float) -> bool:
        return not self.world.is_calm and self.rng.random() < rate

    def open(self, path: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
        stream = open(path, mode, *rest, **named)  # noqa: SIM115
        if not set(mode) & set("wxa") or not self._is_bad(self.world.plan.hostile.disk):
            return stream
        self.torn += 1
        # Short without an error is what a power loss leaves of a file that was not synchronised.
        return _TornFile(stream, self.rng.choice((errno.ENOSPC, errno.EIO, None)), self.rng)

    def fsync(self, descriptor: int) -> None:
        if self._is_bad(self.world.plan.hostile.disk / 4):
            self.torn += 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def socket(self, *arguments: Any, **named: Any) -> socket.socket:
        if self._is_bad(self.world.plan.hostile.emfile):
            self.refused += 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return socket.socket(*arguments, **named)


class _Instead:
    """A module with some names exchanged."""

    def __init__(self, module: Any, **names: Any) -> None:
        self.__dict__.update(vars(SimpleNamespace(**vars(module))) | names)


@contextmanager
def faulty(faults: Faults) -> Iterator[None]:
    """The writer's modules meet these faults."""
    checkpoint: Any = checkpoint_module
    feed: Any = feed_module
    checkpoint.open, checkpoint.os = faults.open, _Instead(os, fsync=faults.fsync)
    feed.socket = _Instead(socket, socket=faults.socket)
    try:
        yield
    finally:
        del checkpoint.open
        checkpoint.os, feed.socket = os, socket
