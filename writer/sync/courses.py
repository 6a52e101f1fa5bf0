"""What the courses to live share: all pools read and joined, a gap closed, single pools read again."""

from dataclasses import dataclass

from arena.writer.sync.confirming import Confirming
from arena.writer.sync.membership import Membership
from arena.writer.sync.parts import Part, Shared
from arena.writer.sync.places import Places
from arena.writer.sync.source import Source


@dataclass(frozen=True, slots=True)
class Duties:
    """The duties that each of them calls upon."""

    source: Source
    confirming: Confirming
    places: Places
    membership: Membership


class Course(Part):
    """A course by which pools become live."""

    def __init__(self, shared: Shared, duties: Duties) -> None:
        super().__init__(shared)
        self._source = duties.source
        self._confirming = duties.confirming
        self._places = duties.places
        self._membership = duties.membership
