"""Arenas that live as long as a test."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from arena.segment import Access
from arena.writer.host.room import Capacities
from arena.writer.sync.restart import open_arena
from arena.writing import WriterArena


@contextmanager
def unlinked(writer: WriterArena) -> Iterator[WriterArena]:
    """Its writer; the segments are gone afterwards."""
    with writer:
        try:
            yield writer
        finally:
            writer.close(unlink=True)


def open_small(name: str, folder: Path, *, chain_id: int, node: Any) -> tuple[WriterArena, bool]:
    """What a writer begins with, checkpoints in `folder`; whether it is one that was there before."""
    return open_arena(
        name,
        Capacities(max_pools=16, tick_bytes=1 << 16),
        Access(),
        chain_id=chain_id,
        node=node,
        folder=folder,
    )
