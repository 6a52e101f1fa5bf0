"""What several modules of this folder set up alike."""

from collections.abc import Iterator

import pytest

from arena.readers import Arena, attach
from arena.writing import WriterArena


@pytest.fixture
def pools(writer: WriterArena) -> Iterator[Arena]:
    """A reader of the module's own `writer`."""
    with attach(writer.name) as found:
        yield found
