"""What a generation has room for."""

from dataclasses import astuple, dataclass
from typing import Any, Self

from arena.layouts import slots
from arena.native import ffi, lib

PAGE_NBYTES = 4096


@dataclass(frozen=True, slots=True)
class Capacities:
    """Sizes of the tables of one generation."""

    max_pools: int
    max_tokens: int
    tick_bytes: int
    undo_blocks: int
    undo_records: int

    @classmethod
    def of(cls, struct: Any) -> Self:
        """Those of a psa_header or a psa_arena."""
        return cls(
            max_pools=struct.max_pools,
            max_tokens=struct.max_tokens,
            tick_bytes=struct.heap_nbytes,
            undo_blocks=struct.undo_entry_count,
            undo_records=struct.undo_record_count,
        )

    def at_least(self, other: "Capacities") -> "Capacities":
        """The larger of each."""
        return Capacities(*map(max, astuple(self), astuple(other)))

    @property
    def undo_bytes(self) -> int:
        """Size of the undo ring."""
        return self.undo_records * slots.UNDO_RECORD.itemsize

    def grown(
        self,
        name: str,
        *,
        max_pools: int | None,
        max_tokens: int | None,
        tick_bytes: int | None,
        undo_bytes: int | None,
    ) -> "Capacities":
        """With what is given in place of the present; ValueError for one below it."""
        wanted = [
            (max_pools, self.max_pools),
            (max_tokens, self.max_tokens),
            (tick_bytes, self.tick_bytes),
            (undo_bytes, self.undo_bytes),
        ]
        pools, tokens, heap, undo = (now if given is None else given for given, now in wanted)
        if any(given is not None and given < now for given, now in wanted):
            raise ValueError(
                f"{name} only grows: {pools} pools, {tokens} tokens, {heap} tick bytes, "
                f"{undo} undo bytes"
            )
        records = undo // slots.UNDO_RECORD.itemsize
        return Capacities(pools, tokens, heap, self.undo_blocks, records)

    def packed(self, name: str) -> Any:
        """psa_capacities of arena `name`. ValueError when they do not fit together."""
        packed = ffi.new("psa_capacities *")
        try:
            packed.max_pools = self.max_pools
            packed.max_tokens = self.max_tokens
            packed.undo_entry_count = self.undo_blocks
            packed.undo_record_count = self.undo_records
            packed.heap_nbytes = -(-self.tick_bytes // PAGE_NBYTES) * PAGE_NBYTES
        except OverflowError as error:
            raise ValueError(f"a capacity of {name} is out of range: {error}") from error
        if lib.psa_arena_nbytes(packed) == 0:
            raise ValueError(
                f"a capacity of {name} is out of range: max_pools {self.max_pools}, max_tokens "
                f"{self.max_tokens}, tick_bytes {self.tick_bytes}, undo_blocks {self.undo_blocks}, "
                f"undo_records {self.undo_records}"
            )
        return packed
