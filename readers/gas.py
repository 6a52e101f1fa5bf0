"""What swaps cost in gas, and what a unit of gas costs."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral

import numpy as np
import numpy.typing as npt

from arena.layouts.protocols import PROTOCOL_NUMBERS
from arena.readers.quote import RESULT, Quote

PROTOCOLS = 24  # as many as a psa_route_gas has room for
MOST_UNITS = 1 << 40  # sums of them fit 63 bits
MOST_WEI = 1 << 128
# Measured on a node by tests/differential/test_gas_vs_chain.py, which holds them to it: swaps of a contract
# that has some of each token before, each in a call of its own, with tokens whose transfers do nothing else.
# V3 is the mean of Uniswap's and PancakeSwap's; `solidly` is an estimate: V2's, and a transfer of the fee.
TRANSACTION = 31_000
TICK = 20_000
SWAPS: Mapping[str, int] = {
    "uniswap_v2": 62_000,
    "uniswap_v3": 75_000,
    "uniswap_v4": 63_000,
    "solidly": 90_000,
}


@dataclass(frozen=True)
class Gas:
    """Units of gas of a transaction that swaps, and the price of a unit.

    `transaction` is paid once, `swaps` by protocol name for each swap, `tick` for each initialised tick it
    crosses. What `swaps` leaves out costs what SWAPS says. `price` is wei a unit; None is the base fee of the
    answer's block plus `tip`.

    ValueError for a protocol there is not, and for what is no whole number from 0 on: units below MOST_UNITS,
    wei below MOST_WEI.
    """

    transaction: int = TRANSACTION
    swaps: Mapping[str, int] | None = None
    tick: int = TICK
    price: int | None = None
    tip: int = 0

    def __post_init__(self) -> None:
        swaps = self.swaps or {}
        unknown = swaps.keys() - PROTOCOL_NUMBERS.keys()
        if unknown:
            names = ", ".join(sorted(PROTOCOL_NUMBERS))
            raise ValueError(f"gas of {sorted(unknown)[0]!r}: protocols are {names}")
        units = {"transaction": self.transaction, "tick": self.tick}
        units |= {f"swaps[{name!r}]": value for name, value in swaps.items()}
        wei = {"price": 0 if self.price is None else self.price, "tip": self.tip}
        for amounts, most in ((units, MOST_UNITS), (wei, MOST_WEI)):
            for name, value in amounts.items():
                if not isinstance(value, Integral) or not 0 <= value < most:
                    raise ValueError(
                        f"gas: {name} is {value!r}, no whole number from 0 to {most - 1}"
                    )

    def units(self, quote: Quote) -> int:
        """Units of a transaction that makes this one swap: an estimate, by protocol and ticks crossed."""
        protocol = int(np.frombuffer(quote._raw, RESULT)[0]["protocol"])
        return self.transaction + int(self._units[protocol]) + self.tick * quote.ticks_crossed

    @cached_property
    def _units(self) -> npt.NDArray[np.int64]:
        """(24,) units of a swap by protocol number."""
        by_name = {**SWAPS, **(self.swaps or {})}
        found = np.full(PROTOCOLS, max(by_name.values()), np.int64)
        for name, units in by_name.items():
            found[PROTOCOL_NUMBERS[name]] = units
        return found
