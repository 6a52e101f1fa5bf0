"""What swaps cost in gas, and what a unit of gas costs."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from arena.layouts.protocols import PROTOCOL_NUMBERS

PROTOCOLS = 24  # as many as a psa_route_gas has room for
SWAPS: Mapping[str, int] = {
    "uniswap_v2": 70_000,
    "uniswap_v3": 85_000,
    "uniswap_v4": 95_000,
    "solidly": 90_000,
}


@dataclass(frozen=True)
class Gas:
    """Units of gas of a transaction that swaps, and the price of a unit.

    `transaction` is paid once, `swaps` by protocol name for each swap, `tick` for each initialised tick it
    crosses. What `swaps` leaves out costs what SWAPS says. `price` is wei a unit; None is the base fee of the
    answer's block plus `tip`.
    """

    transaction: int = 50_000
    swaps: Mapping[str, int] | None = None
    tick: int = 22_000
    price: int | None = None
    tip: int = 0

    def __post_init__(self) -> None:
        swaps = self.swaps or {}
        unknown = swaps.keys() - PROTOCOL_NUMBERS.keys()
        if unknown:
            names = ", ".join(sorted(PROTOCOL_NUMBERS))
            raise ValueError(f"gas of {sorted(unknown)[0]!r}: protocols are {names}")
        amounts = (self.transaction, self.tick, self.tip, self.price or 0, *swaps.values())
        if min(amounts) < 0:
            raise ValueError(f"gas and its price are not below 0: {self}")

    def _units(self) -> npt.NDArray[np.int64]:
        """(24,) units of a swap by protocol number."""
        by_name = {**SWAPS, **(self.swaps or {})}
        found = np.full(PROTOCOLS, max(by_name.values()), np.int64)
        for name, units in by_name.items():
            found[PROTOCOL_NUMBERS[name]] = units
        return found
