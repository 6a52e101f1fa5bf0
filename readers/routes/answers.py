"""What a router hands out: swaps in order with their exact amounts, and the block they hold at."""

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from arena.layouts.slots import record
from arena.native import ffi
from arena.readers.frozen import Head, read_record
from arena.readers.gas import Gas
from arena.readers.names import find_token
from arena.readers.token import Name, Token, text_of, tokens_of

# psa_route_answer in route.h.
ANSWER = record(
    216,
    [
        ("profit", "<f8", 0),  # units of the numeraire
        ("gas", "<f8", 8),  # units of the numeraire
        ("hops", "<u4", 16),
        ("token", "<u4", 20),  # that goes in, index in the token table
        ("ticks_crossed", "<u4", 24),
        ("pools", ("<u4", 4), 32),
        ("zero_for_one", ("u1", 4), 48),
        ("amounts", ("<u8", (5, 4)), 56),  # wei, uint256
    ],
)
_WEI_BYTES = 32
_AMOUNTS_BYTES = 5 * _WEI_BYTES
_BATCH = 64  # cycles made at once where all are gone through


@dataclass(frozen=True, slots=True)
class Swap:
    """One pool's part."""

    pool: str  # 0x-hex key
    zero_for_one: bool
    token_in: Token
    token_out: Token
    amount_in: int  # wei
    amount_out: int  # wei


@dataclass(frozen=True, slots=True)
class Route:
    """Swaps one after another, each with all that the one before gave, equal to the pools' own quotes.

    `gas` is in units of gas, `gas_cost` and `profit` in units of the numeraire: of a cycle what is left
    after gas, of a path 0.
    """

    swaps: tuple[Swap, ...]
    gas: int
    gas_cost: float
    profit: float
    ticks_crossed: int
    commit: int
    block_number: int

    @property
    def amount_in(self) -> int:
        """Into the first swap, wei."""
        return self.swaps[0].amount_in

    @property
    def amount_out(self) -> int:
        """Out of the last swap, wei."""
        return self.swaps[-1].amount_out

    @property
    def token_in(self) -> Token:
        return self.swaps[0].token_in

    @property
    def token_out(self) -> Token:
        return self.swaps[-1].token_out


# psa_route_part and psa_route_split_sum in route.h.
PART = record(
    72,
    [
        ("pool", "<u4", 0),
        ("zero_for_one", "u1", 4),
        ("amount_in", ("<u8", 4), 8),  # wei
        ("amount_out", ("<u8", 4), 40),  # wei
    ],
)


@dataclass(frozen=True, slots=True)
class Split:
    """One amount over many pools, each swapped once: `swaps` in an order in which each finds what goes in.

    No routing through the pools between `tokens` gives more than `bound` (wei), in whatever order, but for
    what comes back to the token sold, or goes on from the one bought, and for what doubles round; none that
    passes them on in the order that was found gives more than `order_bound`, which leaves out circles of
    tokens that the amount need not take part in. Both are infinite where swaps through other tokens give
    more than that: then none is known. `tokens` begin with these two. `gas` is in units of gas, `gas_cost`
    in units of the numeraire.
    """

    swaps: tuple[Swap, ...]
    amount_in: int
    amount_out: int
    bound: float
    order_bound: float
    tokens: tuple[Token, ...]
    gas: int
    gas_cost: float
    ticks_crossed: int
    commit: int
    block_number: int

    @property
    def gap(self) -> float:
        """By which share of the bound the amount is below it; 1 where none is known."""
        return max(0.0, 1.0 - self.amount_out / self.bound)

    @property
    def order_gap(self) -> float:
        """By which share of `order_bound` the amount is below it; 1 where none is known."""
        return max(0.0, 1.0 - self.amount_out / self.order_bound)


class Moment(Head):
    """The commit an index is at."""

    __slots__ = ("_record",)

    def __init__(self, record: bytes) -> None:
        self._record = read_record(record)


class Market:
    """The pools and tokens that answers name, as they were when an index was built."""

    def __init__(
        self,
        keys: Sequence[str],
        rows: npt.NDArray[np.void],
        indices: npt.NDArray[np.uint32],
        table: npt.NDArray[np.void],
    ) -> None:
        """`table` is the rows of the token table of the `indices`, ascending."""
        self.keys = keys
        self.rows = rows
        self._token0: list[int] = rows["token0"].tolist()
        self._token1: list[int] = rows["token1"].tolist()
        self.tokens: dict[int, Token] = dict(  # by index in the token table
            zip(indices.tolist(), tokens_of(table), strict=True)
        )
        self._table = indices, table
        self._numbers: dict[str, int] = {}  # by name, of those asked for before

    def find(self, name: Name) -> int:
        """Index in the token table of an address or a symbol. UnknownToken, AmbiguousToken."""
        text = text_of(name)
        found = self._numbers.get(text)
        if found is None:
            found = self._numbers[text] = find_token(name, *self._table)
        return found

    def swap(self, number: int, zero_for_one: bool, amount_in: int, amount_out: int) -> Swap:
        token0, token1 = self.tokens[self._token0[number]], self.tokens[self._token1[number]]
        token_in, token_out = (token0, token1) if zero_for_one else (token1, token0)
        return Swap(self.keys[number], zero_for_one, token_in, token_out, amount_in, amount_out)

    def routes(
        self, answers: npt.NDArray[np.void], gas: npt.NDArray[np.int64], head: Moment
    ) -> list[Route]:
        """Answers (dtype ANSWER) with their units of gas as objects."""
        commit, block_number = head.commit, head.block_number
        names = ("hops", "pools", "zero_for_one", "gas", "profit", "ticks_crossed")
        columns = [answers[name].tolist() for name in names]
        words = answers["amounts"].tobytes()
        found = []
        for at, units, (hops, pools, ways, gas_cost, profit, ticks_crossed) in zip(
            range(0, len(words), _AMOUNTS_BYTES),
            gas.tolist(),
            zip(*columns, strict=True),
            strict=True,
        ):
            ends = range(at, at + (hops + 1) * _WEI_BYTES, _WEI_BYTES)
            amounts = [int.from_bytes(words[end : end + _WEI_BYTES], "little") for end in ends]
            swaps = [
                self.swap(pools[i], ways[i] != 0, amounts[i], amounts[i + 1]) for i in range(hops)
            ]
            route = Route(
                tuple(swaps), units, gas_cost, profit, ticks_crossed, commit, block_number
            )
            found.append(route)
        return found


def wei(words: npt.NDArray[np.uint64]) -> int:
    """A uint256 of four words, the lowest first."""
    return int.from_bytes(words.tobytes(), "little")


class Cycles:
    """Cycles, the best first, as Routes that are made when they are asked for.

    `profits` are what they leave after gas, (n,) float64 in units of the numeraire, read-only.
    """

    def __init__(
        self,
        market: Market,
        answers: npt.NDArray[np.void],
        gas: npt.NDArray[np.int64],
        head: Moment,
    ) -> None:
        self._market = market
        self._answers = answers
        self._gas = gas
        self._head = head

    @property
    def commit(self) -> int:
        """The commit they hold at."""
        return self._head.commit

    @property
    def block_number(self) -> int:
        """The block they hold at."""
        return self._head.block_number

    @property
    def profits(self) -> npt.NDArray[np.float64]:
        found: npt.NDArray[np.float64] = self._answers["profit"]
        found.flags.writeable = False
        return found

    def __len__(self) -> int:
        return len(self._answers)

    @overload
    def __getitem__(self, index: int) -> Route: ...
    @overload
    def __getitem__(self, index: slice) -> "Cycles": ...
    def __getitem__(self, index: int | slice) -> "Route | Cycles":
        if isinstance(index, slice):
            return Cycles(self._market, self._answers[index], self._gas[index], self._head)
        at = range(len(self))[index]
        return self._made(at, at + 1)[0]

    def __iter__(self) -> Iterator[Route]:
        for first in range(0, len(self), _BATCH):
            yield from self._made(first, first + _BATCH)

    def _made(self, first: int, end: int) -> list[Route]:
        return self._market.routes(self._answers[first:end], self._gas[first:end], self._head)

    def __repr__(self) -> str:
        return f"Cycles({len(self)} at block {self.block_number})"


@dataclass(frozen=True, slots=True)
class Price:
    """A token's price in units of the numeraire for a unit of it, along the widest path to it."""

    value: float
    path: tuple[str, ...]  # keys of the widest pool of each pair, from the numeraire on
    block_number: int


@dataclass(frozen=True, slots=True)
class RouterUpdate:
    """What bringing a router up to date found: `touched` are keys of the pools that changed."""

    commit: int
    block_number: int
    touched: tuple[str, ...]
    rebuilt: (
        bool  # pools were added or removed: everything was read anew, and `touched` is all there is
    )


def gas_units(
    answers: npt.NDArray[np.void], protocols: npt.NDArray[np.uint8], gas: Gas | None
) -> npt.NDArray[np.int64]:
    """(n,) units of gas of n answers (dtype ANSWER)."""
    if gas is None:
        return np.zeros(len(answers), np.int64)
    is_swap = np.arange(4) < answers["hops"][:, None]
    swaps = np.where(is_swap, gas._units[protocols[answers["pools"]]], 0).sum(axis=1)
    ticks = gas.tick * answers["ticks_crossed"].astype(np.int64)
    found: npt.NDArray[np.int64] = swaps + gas.transaction + ticks
    return found


def split_of(
    market: Market,
    parts: npt.NDArray[np.void],
    total: Any,
    tokens: tuple[Token, ...],
    protocols: npt.NDArray[np.uint8],
    gas: Gas | None,
    head: Moment,
) -> Split:
    """Parts (dtype PART) and their psa_route_split_sum as an object."""
    swaps = [
        market.swap(
            int(part["pool"]),
            bool(part["zero_for_one"]),
            wei(part["amount_in"]),
            wei(part["amount_out"]),
        )
        for part in parts
    ]
    units = 0
    if gas is not None:
        units = gas.transaction + gas.tick * int(total.ticks_crossed)
        units += int(gas._units[protocols[parts["pool"]]].sum())
    out = int.from_bytes(bytes(ffi.buffer(total.amount_out)), "little")
    order_bound = min(float(total.order_bound), float(total.bound))
    return Split(
        tuple(swaps),
        int.from_bytes(bytes(ffi.buffer(total.amount_in)), "little"),
        out,
        known_bound(float(total.bound), out, swaps, tokens),
        known_bound(order_bound, out, swaps, tokens),
        tokens,
        units,
        float(total.gas),
        int(total.ticks_crossed),
        head.commit,
        head.block_number,
    )


def known_bound(
    bound: float, amount_out: int, swaps: Iterable[Swap], tokens: Collection[Token]
) -> float:
    """Of the pools between `tokens`; infinite where swaps that leave them show that more can be had."""
    if amount_out <= bound:
        return bound
    within = all(swap.token_in in tokens and swap.token_out in tokens for swap in swaps)
    return bound if within else math.inf


def split_of_route(route: Route, bound: float, tokens: tuple[Token, ...]) -> Split:
    """A path as a split with one part a pair."""
    bound = known_bound(bound, route.amount_out, route.swaps, tokens)
    return Split(
        route.swaps,
        route.amount_in,
        route.amount_out,
        bound,
        bound,
        tokens,
        route.gas,
        route.gas_cost,
        route.ticks_crossed,
        route.commit,
        route.block_number,
    )
