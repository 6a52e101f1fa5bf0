"""The index behind a router: pools by token, private to a process, at one commit of an arena."""

import operator
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from arena.errors import (
    InsufficientLiquidity,
    PoolRemoved,
    SnapshotContended,
    SnapshotTooOld,
    UnknownPool,
)
from arena.mapping import MappedArena
from arena.native import ffi, lib, raise_status
from arena.readers.attachment import Attachment
from arena.readers.frozen import FrozenSnapshot, freeze
from arena.readers.gas import Gas
from arena.readers.group import Group
from arena.readers.lookup import pin, read_lines, row_keys, visible
from arena.readers.reader import Arena
from arena.readers.routes.answers import Market, RouterUpdate
from arena.readers.state import key_bytes, key_text
from arena.readers.token import Token
from arena.reads import READ_TRIES, is_visible

MAX_HOPS: int = lib.PSA_ROUTE_HOPS
NONE = int(lib.PSA_ROUTE_NONE)
COIN_DECIMALS = 18  # of every chain with an EVM
_FEE_TAKERS = lib.PSA_POOL_HOOKED | lib.PSA_POOL_DYNAMIC_FEE
REPRICED_EVERY = 100  # updates; all prices take ten times as long as an update


class Graph:
    """Pools by token in C, brought up to one commit after another; what Router asks its questions of."""

    def __init__(
        self,
        pools: Arena | Group | FrozenSnapshot,
        *,
        numeraire: str | bytes,
        gas: Gas | None = None,
        native: str | bytes | None = None,
        fees: Mapping[str | bytes, int] | None = None,
    ) -> None:
        self.gas = gas
        self._pools = pools
        self._arena: Attachment | None = None
        if isinstance(pools, Arena):
            self._arena = pools
        elif isinstance(pools, Group):
            self._arena = pools._arena
        elif not isinstance(pools, FrozenSnapshot):
            raise TypeError(f"pools are an Arena, a Group or a FrozenSnapshot, not {pools!r}")
        self._mapped: MappedArena | None = None  # that the index is of; None: of none
        self._fees = {
            key_text(key_bytes(key)): operator.index(fee) for key, fee in (fees or {}).items()
        }
        for key, fee in self._fees.items():
            if not 0 <= fee <= 1_000_000:
                raise ValueError(f"fee {fee} of pool {key} is not between 0 and 1000000 pips")
        self._named = numeraire, numeraire if native is None else native
        self._lock = threading.RLock()
        made = ffi.new("psa_route **")
        self._raise(lib.psa_route_new(made))
        self._route = ffi.gc(made[0], lib.psa_route_free)
        self._record = ffi.new("psa_commit_record *")
        with self._lock:
            self._build()

    # The index

    def _build(self) -> None:
        self._mapped = None  # until all of it is there
        frozen, mapped = self._freeze()
        lines, rows, numbers, starts, ticks, net, _, indices, tokens = frozen._arrays
        if not len(lines):
            raise UnknownPool("there is no pool to route through", name=frozen._name)
        references = lines["generation"].astype(np.uint64) << np.uint64(32) | numbers
        keys = row_keys(rows)
        self._check(keys, rows)
        market = Market(keys, rows, indices, tokens)
        numeraire, native = (market.find(name) for name in self._named)
        fees = np.full(len(keys), NONE, np.uint32)
        if self._fees:
            fees[:] = [self._fees.get(key, NONE) for key in keys]
        record = ffi.new("psa_commit_record *")
        ffi.memmove(record, frozen._record.tobytes(), ffi.sizeof("psa_commit_record"))
        self._raise(
            lib.psa_route_build(
                self._route,
                record,
                ffi.from_buffer("psa_line *", lines),
                ffi.from_buffer("psa_static *", rows),
                ffi.from_buffer("uint64_t *", references),
                ffi.from_buffer("uint64_t *", starts),
                ffi.from_buffer("int32_t *", ticks),
                ffi.from_buffer("uint64_t *", net),
                ffi.from_buffer("uint32_t *", fees),
                len(lines),
                numeraire,
                isinstance(self._pools, Arena),
            )
        )
        self._record = record
        self._market = market
        self._native = native
        self._protocols = np.ascontiguousarray(rows["protocol"])
        self._touched = np.zeros(len(lines), np.uint32)
        self._everything = np.arange(len(lines), dtype=np.uint32)
        self._seeds = self._everything
        self._updates = 0
        self._reprice()
        self._addresses = [market.tokens[index].address for index in self._place]
        self._mapped = mapped

    def _check(self, keys: Sequence[str], rows: npt.NDArray[np.void]) -> None:
        """ValueError for a pool that comes twice, and for one of `fees` that takes none."""
        numbers = {key: number for number, key in enumerate(keys)}
        for number, key in enumerate(keys):
            if numbers[key] != number:
                raise ValueError(f"pool {key} comes twice in what is routed through")
        for key in self._fees.keys() & numbers.keys():
            if not rows["flags"][numbers[key]] & _FEE_TAKERS:
                raise ValueError(
                    f"pool {key} takes no fee: its own is known; only V4 pools with a dynamic fee or hooks do"
                )

    def _freeze(self) -> tuple[FrozenSnapshot, MappedArena | None]:
        """All pools at one block."""
        pools = self._pools
        if isinstance(pools, FrozenSnapshot):
            return pools, None
        assert self._arena is not None
        for _ in range(READ_TRIES):
            mapped = self._arena._current()
            try:
                if isinstance(pools, Group):
                    references = pools._current().references
                    lines = read_lines(mapped, references, int(pin(mapped).stamp))
                    references = np.unique(references[is_visible(lines["status"])])
                else:
                    numbers, lines, _rows = visible(mapped, int(pin(mapped).stamp))
                    references = lines["generation"].astype(np.uint64) << np.uint64(32) | numbers
                return freeze(self._arena.name, mapped, references, None, READ_TRIES), mapped
            except (SnapshotTooOld, UnknownPool, PoolRemoved):
                continue
        raise SnapshotContended(
            f"the pools of {self._arena.name} changed during each of {READ_TRIES} tries to copy them",
            name=self._arena.name,
        )

    def update(self) -> RouterUpdate:
        """Bring the index to the newest commit. SnapshotContended; ArenaClosed; UnknownPool and UnknownToken
        where there is no pool by now, or none with the numeraire, ValueError where a pool of `fees` has come
        whose fee is known: it is of no commit then, and the next update reads everything.

        The pools it touched are those that `cycles` looks at unless told otherwise. Where pools were added or
        removed, or the arena was made anew, all is read again, and all count as touched.
        """
        with self._lock:
            if self._arena is None:
                return self._told(np.zeros(0, np.uint32), rebuilt=False)
            mapped, known = self._arena._current(), self._mapped
            count = ffi.new("uint32_t *")
            status = lib.PSA_POOL_REMOVED
            if known is not None and mapped.origin == known.origin:
                self._mapped = mapped
                status = lib.psa_route_update(
                    self._route,
                    mapped.pointer,
                    self._record,
                    ffi.from_buffer("uint32_t *", self._touched),
                    count,
                )
            if status == lib.PSA_POOL_REMOVED:
                self._build()
                return self._told(self._everything, rebuilt=True)
            self._raise(status)
            told = self._told(self._touched[: count[0]].copy(), rebuilt=False)
            self._updates += 1
            if self._updates % REPRICED_EVERY == 0:
                self._reprice()
            return told

    def _told(self, touched: npt.NDArray[np.uint32], *, rebuilt: bool) -> RouterUpdate:
        self._seeds = touched
        keys = self._market.keys
        return RouterUpdate(
            int(self._record.stamp),
            int(self._record.block_number),
            tuple([keys[number] for number in touched.tolist()]),
            rebuilt,
        )

    def reprice(self) -> None:
        """Count in the prices of now. Every REPRICED_EVERY updates does it, too: profits and gas are in
        units of the numeraire at the prices of then."""
        with self._lock:
            self._reprice()

    def _reprice(self) -> None:
        """With the floor that cycles for no profit at all have."""
        self._table, self._log_prices, _ = self._widest()
        self._place = {index: place for place, index in enumerate(self._table.tolist())}
        self._gas = ffi.new("psa_route_gas *")
        self._priced: tuple[Gas, float, float] | None = None  # what it was filled in with
        floor = 0.0
        if self.gas is not None:
            with suppress(ValueError, InsufficientLiquidity):  # told to whoever asks for a path
                floor = 0.8 * self._price_gas(self.gas)
        prices = ffi.from_buffer("double *", self._log_prices)
        self._raise(lib.psa_route_reprice(self._route, prices, floor))

    def _worth(self, token: int) -> float:
        """Units of the numeraire for a unit of a token; 0 where no path joins it."""
        place = self._place.get(token)
        return 0.0 if place is None else float(np.exp(self._log_prices[place]))

    def _price_gas(self, gas: Gas) -> float:
        """Fill in what gas costs at this commit, in units of the numeraire; the least a pool of a cycle must
        give."""
        price = gas.price
        if price is None:
            price = int(self._record.base_fee)
            if not price:
                raise ValueError("the feed carries no base fee: pass Gas(price=...), in wei")
            price += gas.tip
        unit = price * self._worth(self._native)
        if self._priced is not None and self._priced[:2] == (gas, unit):
            return self._priced[2]
        paid_in = self._market.tokens[self._native]
        if paid_in.decimals not in (None, COIN_DECIMALS):
            raise ValueError(
                f"gas is paid in the wrapped coin, which has {COIN_DECIMALS} decimals and not the "
                f"{paid_in.decimals} of {paid_in.symbol or paid_in.address}: pass native"
            )
        if not unit > 0 and price:
            raise InsufficientLiquidity(
                f"gas is paid in {self._named[1]!r}, which no path of pools joins to the numeraire"
            )
        units = gas._units
        self._gas.fixed = gas.transaction * unit
        self._gas.tick = gas.tick * unit
        self._gas.swaps = (units * unit).tolist()
        floor = unit * (gas.transaction / MAX_HOPS + int(units.min()))
        self._priced = gas, unit, floor
        return floor

    # What it answers from

    @property
    def commit(self) -> int:
        """The commit that everything is of."""
        return int(self._record.stamp)

    @property
    def block_number(self) -> int:
        """The head block of that commit."""
        return int(self._record.block_number)

    @property
    def is_current(self) -> bool:
        """Whether that is the newest commit of a live arena: its writer lives, its phase is live, and nothing
        was committed since. A frozen snapshot is not."""
        arena = self._arena
        if arena is None:
            return False
        mapped, known = arena._current(), self._mapped
        if known is None or mapped.origin != known.origin:
            return False
        is_newest = int(mapped.committed[0]) == self.commit
        return is_newest and arena.writer_alive and arena.phase == "live"

    @property
    def pools(self) -> int:
        """How many pools are in the index."""
        return int(self._facts().pools)

    @property
    def left_out(self) -> int:
        """How many of them cannot be asked: not live, with hooks, with a dynamic fee, without values, or
        pairs with a reserve of 0."""
        facts = self._facts()
        return int(facts.pools) - int(facts.usable)

    def _facts(self) -> Any:
        facts = ffi.new("psa_route_facts *")
        with self._lock:  # another thread may build the index anew
            lib.psa_route_read_facts(self._route, facts)
        return facts

    def __repr__(self) -> str:
        return f"Router({self.pools} pools at block {self.block_number}, {self.left_out} left out)"

    def token(self, name: str | bytes) -> Token:
        """A token by its address, or its symbol where only one has it. UnknownToken."""
        with self._lock:
            return self._market.tokens[self._market.find(name)]

    def _widest(
        self,
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float64], npt.NDArray[np.uint32]]:
        count = int(self._facts().tokens)
        table, by = np.zeros(count, np.uint32), np.zeros(count, np.uint32)
        log_prices = np.zeros(count, np.float64)
        self._raise(
            lib.psa_route_prices(
                self._route,
                ffi.from_buffer("uint32_t *", table),
                ffi.from_buffer("double *", log_prices),
                ffi.from_buffer("uint32_t *", by),
            )
        )
        return table, log_prices, by

    def _raise(self, status: int) -> None:
        if status:
            raise_status(status, f"the index of pools could not be used: status {status}")
