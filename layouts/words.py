"""Wide integers as little-endian 64-bit limbs, to and from Python int; text as bytes of a field."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

UINT64_MASK = (1 << 64) - 1


def to_limbs(value: int, count: int) -> tuple[int, ...]:
    """`count` little-endian limbs of a signed or unsigned value (two's complement).

    OverflowError when the value fits neither as unsigned nor as signed of that width.
    """
    bits = 64 * count
    if not -(1 << (bits - 1)) <= value < (1 << bits):
        raise OverflowError(f"{value} does not fit {bits} bits")
    return tuple((value >> (64 * index)) & UINT64_MASK for index in range(count))


def from_limbs(limbs: Sequence[int] | npt.NDArray[np.uint64]) -> int:
    """Unsigned value of little-endian limbs."""
    value = 0
    for index, limb in enumerate(limbs):
        value |= int(limb) << (64 * index)
    return value


def cut_utf8(text: str, nbytes: int) -> bytes:
    """At most `nbytes` of UTF-8, cut between characters."""
    return text.encode("utf-8", "replace")[:nbytes].decode("utf-8", "ignore").encode()
