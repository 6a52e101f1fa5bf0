"""A block number that can say which pools were touched since the one before."""

from typing import Any, Self

from arena.errors import SnapshotContended
from arena.mapping import MappedArena
from arena.native import ffi, lib
from arena.readers.attachment import Attachment
from arena.readers.lookup import pin
from arena.reads import READ_TRIES

_TOUCHED = 1024  # room for so many at first, and for so many more than were there at the last try
_new = ffi.new_allocator(should_clear_after_alloc=False)


class HeadBlock(int):
    """A block number, as wait_block returns it, that can say which pools were touched.

    Made by an arena at commit `commit`, after a wait from some block. Pickles and copies as the number.
    """

    commit: int
    _arena: Attachment
    _origin: int  # of the numbers of commits
    _since: tuple[int, int]
    _after: int | None

    @classmethod
    def _make(cls, arena: Attachment, mapped: MappedArena, record: Any, after: int) -> Self:
        found = cls(record.block_number)
        found.commit, found._arena, found._origin = int(record.stamp), arena, mapped.origin
        # Nothing of `after` itself is kept: it would hold the one before it, and so on.
        found._since, found._after = (0, 0), int(after)
        if isinstance(after, HeadBlock):
            found._since, found._after = (after._origin, after.commit), None
            if after._arena.name != arena.name:
                found._since = (0, 0)
        return found

    @property
    def touched(self) -> list[str]:
        """Keys of the pools that changed since the `after` of the wait: events, reorgs, newly read
        values. Pools touched again by now are among them; none is left out that is still there.

        Where `after` was what an earlier wait returned, everything since then counts, reorgs too; a
        plain number names blocks, so only pools whose last event or reading came after it. ArenaClosed,
        SnapshotContended.
        """
        return touched_keys(self._arena, self._since, self._after)

    def __reduce__(self) -> tuple[Any, ...]:
        return (int, (int(self),))


def touched_keys(arena: Attachment, since: tuple[int, int], after: int | None) -> list[str]:
    """Keys of the pools changed since a commit (origin, number), see HeadBlock.touched; with `after`
    only those whose last event or reading came after that block."""
    mapped = arena._current()
    origin, number = since
    first_block = 0 if after is None else max(0, after + 1)
    capacity, count, nbytes = _TOUCHED, ffi.new("uint32_t *"), ffi.new("uint64_t *")
    for _ in range(READ_TRIES):
        commit = int(pin(mapped).stamp)
        pools = _new("uint64_t[]", capacity)
        known = number if origin == mapped.origin and number <= commit else 0
        status = lib.psa_changed(mapped.pointer, known, commit, first_block, pools, capacity, count)
        if status == lib.PSA_BUFFER_TOO_SMALL:
            capacity = count[0] + _TOUCHED
        elif status == lib.PSA_OK:
            text = _new("char[]", lib.PSA_KEY_TEXT * count[0])
            if lib.psa_keys_read(mapped.pointer, pools, count[0], text, nbytes) == lib.PSA_OK:
                return str(ffi.buffer(text, nbytes[0]), "ascii").split()
    raise SnapshotContended(
        f"the pools of {arena.name} changed during each of {READ_TRIES} tries to list them",
        name=arena.name,
    )
