"""Arenas that live as long as a test."""

from collections.abc import Iterator
from contextlib import contextmanager

from arena.writing import WriterArena


@contextmanager
def unlinked(writer: WriterArena) -> Iterator[WriterArena]:
    """Its writer; the segments are gone afterwards."""
    with writer:
        yield writer
        writer.close(unlink=True)
