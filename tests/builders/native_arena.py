"""An arena in private memory with its writer in C."""

from typing import Any

import numpy as np

from arena.native import ffi, lib


class PrivateArena:
    """Formatted and opened; `open` again is what a writer does that takes over."""

    def __init__(self, **capacities: int) -> None:
        given = ffi.new("psa_capacities *", capacities)
        self.nbytes = lib.psa_arena_nbytes(given)
        self.memory = np.zeros(self.nbytes // 8 + 8, dtype="<u8")
        start = -(self.memory.ctypes.data // 8) % 8
        self.base = ffi.cast("uint8_t *", self.memory.ctypes.data + 8 * start)
        assert lib.psa_arena_format(self.base, self.nbytes, given, 1, bytes(32)) == lib.PSA_OK
        self.touched = ffi.new("uint64_t[]", given.max_pools)
        self.dirty = ffi.new("uint32_t[]", given.max_pools)
        self.open()

    def open(self) -> None:
        self.writer: Any = ffi.new("psa_writer *")
        status = lib.psa_writer_open(
            self.writer, self.base, self.nbytes, -1, self.touched, self.dirty
        )
        assert status == lib.PSA_OK
        self.arena: Any = ffi.addressof(self.writer.arena)
