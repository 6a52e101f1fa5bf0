"""An index of pools by token, private to a process, that answers what a trade is worth."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from arena.errors import (
    InsufficientLiquidity,
    PoolRemoved,
    SnapshotContended,
    SnapshotTooOld,
    UnknownPool,
    UnknownToken,
)
from arena.layouts import slots
from arena.mapping import MappedArena
from arena.native import ffi, lib, raise_status
from arena.readers.attachment import Attachment
from arena.readers.frozen import FrozenSnapshot, freeze
from arena.readers.group import Group
from arena.readers.lookup import pin, row_keys, visible
from arena.readers.quote import amount_bytes
from arena.readers.reader import Arena
from arena.readers.routes.answers import (
    ANSWER,
    Cycles,
    Market,
    Moment,
    Price,
    Route,
    RouterUpdate,
    gas_units,
)
from arena.readers.routes.gas import Gas
from arena.readers.state import Token, key_bytes, key_text, token_of
from arena.reads import READ_TRIES

MAX_HOPS = lib.PSA_ROUTE_HOPS
_NONE = int(lib.PSA_ROUTE_NONE)
_ROOM = 256  # cycles made room for at first


class Router:
    """Prices, best paths and cycles over all pools of an arena, over a group's, or over a frozen snapshot's.

    `numeraire` is the token that prices, profits and gas are counted in: its address, or its symbol where
    only one token has it. `gas` is what swaps cost, None: nothing; it is paid in `native`, the wrapped coin
    of the chain, which is the numeraire unless given. `fees` are LP fees in pips, by pool, of V4 pools with
    a dynamic fee or hooks, where the caller knows them: without one such pools are left out, as are those
    that are not live.

    Everything is of one commit, until `update` brings the index to the newest. Methods may be called from
    any thread, one runs at a time, and all let the interpreter lock go. Nothing waits for the writer. With
    a frozen snapshot everything stays as it is.
    """

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
        self._fees = {key_text(key_bytes(key)): int(fee) for key, fee in (fees or {}).items()}
        for key, fee in self._fees.items():
            if not 0 <= fee <= 1_000_000:
                raise ValueError(f"fee {fee} of pool {key} is not between 0 and 1000000 pips")
        self._named = numeraire, numeraire if native is None else native
        self._lock = threading.Lock()
        made = ffi.new("psa_route **")
        self._raise(lib.psa_route_new(made))
        self._route = ffi.gc(made[0], lib.psa_route_free)
        self._record = ffi.new("psa_commit_record *")
        with self._lock:
            self._build()

    # The index

    def _build(self) -> None:
        frozen, self._mapped = self._freeze()
        lines, rows, numbers, starts, ticks, net, _, indices, tokens = frozen._arrays
        if not len(lines):
            raise UnknownPool("there is no pool to route through", name=frozen._name)
        references = lines["generation"].astype(np.uint64) << np.uint64(32) | numbers
        keys = row_keys(rows)
        market = Market(keys, rows, _tokens(indices, tokens))
        numeraire, native = (self._find(market, name) for name in self._named)
        fees = np.fromiter((self._fees.get(key, _NONE) for key in keys), np.uint32, len(keys))
        ffi.memmove(self._record, frozen._record.tobytes(), ffi.sizeof("psa_commit_record"))
        self._raise(
            lib.psa_route_build(
                self._route,
                self._record,
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
        self._market = market
        self._native = native
        self._protocols = np.ascontiguousarray(rows["protocol"])
        self._touched = np.zeros(len(lines), np.uint32)
        self._everything = np.arange(len(lines), dtype=np.uint32)
        self._seeds = self._everything
        self._reprice()

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
                    references = references[references != slots.NO_SLOT]
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
        """Bring the index to the newest commit. SnapshotContended; ArenaClosed.

        The pools it touched are those that `cycles` looks at unless told otherwise. Where pools were added or
        removed, or the arena was made anew, all is read again, and all count as touched.
        """
        with self._lock:
            if self._arena is None:
                return self._told(np.zeros(0, np.uint32), rebuilt=False)
            mapped, known = self._arena._current(), self._mapped
            assert known is not None
            count = ffi.new("uint32_t *")
            status = lib.PSA_POOL_REMOVED
            if mapped is known or mapped.origin == known.origin:
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
            return self._told(self._touched[: count[0]].copy(), rebuilt=False)

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
        """Measure pools against the prices of now. Answers stay the same; after large moves of the whole
        market they come sooner."""
        with self._lock:
            self._reprice()

    def _reprice(self) -> None:
        """With the floor that cycles for no profit at all have."""
        self._gas = ffi.new("psa_route_gas *")
        floor = 0.0 if self.gas is None else 0.8 * self._price_gas(self.gas)
        self._raise(lib.psa_route_reprice(self._route, ffi.NULL, floor))

    def _price_gas(self, gas: Gas) -> float:
        """Fill in what gas costs at this commit, in units of the numeraire; the least a pool of a cycle must
        give."""
        price = gas.price
        if price is None:
            price = int(self._record.base_fee)
            if not price:
                raise ValueError("the feed carries no base fee: pass Gas(price=...), in wei")
            price += gas.tip
        table, log_prices, _ = self._widest()
        at = np.flatnonzero(table == self._native)
        unit = price * float(np.exp(log_prices[at[0]])) if len(at) else 0.0
        if not unit > 0 and price:
            raise ValueError(f"no path of pools leads from {self._named[1]!r} to the numeraire")
        units = gas.units()
        self._gas.fixed = gas.transaction * unit
        self._gas.tick = gas.tick * unit
        self._gas.swaps = [unit * each for each in units.tolist()]
        return unit * (gas.transaction / MAX_HOPS + int(units.min()))

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
    def pools(self) -> int:
        """How many pools are in the index."""
        return int(self._facts().pools)

    @property
    def left_out(self) -> int:
        """How many of them cannot be asked: not live, with hooks, with a dynamic fee, or without values."""
        facts = self._facts()
        return int(facts.pools) - int(facts.usable)

    def _facts(self) -> Any:
        facts = ffi.new("psa_route_facts *")
        lib.psa_route_read_facts(self._route, facts)
        return facts

    def __repr__(self) -> str:
        return f"Router({self.pools} pools at block {self.block_number}, {self.left_out} left out)"

    def token(self, name: str | bytes) -> Token:
        """A token by its address, or its symbol where only one has it. UnknownToken."""
        with self._lock:
            return self._market.tokens[self._find(self._market, name)]

    # Prices

    def prices(self) -> dict[str, float]:
        """The price of every token that a path of pools joins to the numeraire, by address: units of the
        numeraire for a unit of it, fees left out, along the path that is widest where it is narrowest."""
        with self._lock:
            table, log_prices, _ = self._widest()
        tokens = self._market.tokens
        values = np.exp(log_prices).tolist()
        return {
            tokens[index].address: value
            for index, value in zip(table.tolist(), values, strict=True)
            if value > 0
        }

    def price(self, token: str | bytes, *, of: str | bytes | None = None) -> Price:
        """The price of one token, in units of `of`, else of the numeraire, and the path it came by.

        UnknownToken; InsufficientLiquidity where no path leads to the numeraire.
        """
        with self._lock:
            wanted = self._find(self._market, token)
            table, log_prices, by = self._widest()
            place = {index: i for i, index in enumerate(table.tolist())}
            value = log_prices[place[wanted]]
            if of is not None:
                value -= log_prices[place[self._find(self._market, of)]]
            if not np.isfinite(value):
                raise InsufficientLiquidity(f"no path of pools joins {token!r} to the numeraire")
            path = []
            here = wanted
            while (pool := int(by[place[here]])) != _NONE:
                path.append(self._market.keys[pool])
                row = self._market.rows[pool]
                here = int(row["token1"] if int(row["token0"]) == here else row["token0"])
            return Price(float(np.exp(value)), tuple(reversed(path)), self.block_number)

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

    # Paths and cycles

    def best(
        self,
        sell: str | bytes,
        buy: str | bytes,
        *,
        amount_in: int | None = None,
        amount_out: int | None = None,
        max_hops: int = 3,
    ) -> Route:
        """The path of up to `max_hops` pools that gives most for `amount_in`, or takes least for `amount_out`,
        gas counted against it; wei. Exact: no path through these pools is better, but that among pools of one
        pair the cheaper one in gas is not looked for.

        UnknownToken; InsufficientLiquidity when no path carries the amount; ValueError.
        """
        if (amount_in is None) == (amount_out is None):
            raise ValueError("give amount_in or amount_out, and one of them only")
        is_out = amount_in is None
        amount = amount_bytes(amount_out if is_out else amount_in)
        self._check_hops(1, max_hops)
        with self._lock:
            ends = [self._find(self._market, token) for token in (sell, buy)]
            if ends[0] == ends[1]:
                raise ValueError(f"{sell!r} is sold and bought")
            if self.gas is not None:
                self._price_gas(self.gas)
            found = np.zeros(1, ANSWER)
            status = lib.psa_route_best(
                self._route,
                *ends,
                ffi.cast("uint64_t *", ffi.from_buffer(amount)),
                is_out,
                max_hops,
                self._gas,
                ffi.from_buffer("psa_route_answer *", found),
            )
            if status == lib.PSA_INSUFFICIENT_LIQUIDITY:
                side = "out of" if is_out else "into"
                raise InsufficientLiquidity(
                    f"no path of {max_hops} pools from {sell!r} to {buy!r} carries "
                    f"{int.from_bytes(amount, 'little')} {side} it"
                )
            self._raise(status)
            found["profit"] = 0
            units = gas_units(found, self._protocols, self.gas)
            return self._market.route(found[0], int(units[0]), self._moment())

    def cycles(
        self,
        *,
        max_hops: int = 3,
        min_profit: float = 0.0,
        through: Sequence[str | bytes] | None = None,
        everywhere: bool = False,
        each: bool = True,
        limit: int | None = None,
    ) -> Cycles:
        """All cycles of up to `max_hops` pools that leave more than `min_profit` after gas (units of the
        numeraire), at the input that leaves most, the best first, at most `limit`.

        Of cycles through the pools that the last `update` touched; with `through` those through any of these
        tokens or pools; with `everywhere` all there are. Complete: what is left out leaves no more. With
        `each` False, of cycles through the same pairs only the best. Inputs are those of doubles, rounded down.
        ValueError; UnknownToken; UnknownPool.
        """
        self._check_hops(2, max_hops)
        if not min_profit >= 0:
            raise ValueError(f"min_profit is {min_profit}, below 0")
        with self._lock:
            seeds = self._everything if everywhere else self._seeds
            if through is not None:
                seeds = self._through(through)
            if self.gas is not None:
                self._price_gas(self.gas)
            count = ffi.new("uint32_t *")
            room = _ROOM if limit is None else limit
            while True:
                found = np.zeros(room, ANSWER)
                self._raise(
                    lib.psa_route_cycles(
                        self._route,
                        ffi.from_buffer("uint32_t *", seeds),
                        len(seeds),
                        max_hops,
                        each,
                        self._gas,
                        min_profit,
                        ffi.from_buffer("psa_route_answer *", found),
                        room,
                        count,
                    )
                )
                if count[0] <= room or limit is not None:
                    break
                room = int(count[0])
            found = found[: min(count[0], room)]
            units = gas_units(found, self._protocols, self.gas)
            return Cycles(self._market, found, units, self._moment())

    def _moment(self) -> Moment:
        return Moment(bytes(ffi.buffer(self._record)))

    def _through(self, names: Sequence[str | bytes]) -> npt.NDArray[np.uint32]:
        """Numbers of the pools named, and of those with the tokens named."""
        rows, keys = self._market.rows, self._market.keys
        is_wanted = np.zeros(len(keys), np.bool_)
        numbers = {key: number for number, key in enumerate(keys)}
        for name in names:
            number = numbers.get(_text(name))
            if number is not None:
                is_wanted[number] = True
            else:
                token = self._find(self._market, name)
                is_wanted |= (rows["token0"] == token) | (rows["token1"] == token)
        return np.flatnonzero(is_wanted).astype(np.uint32)

    @staticmethod
    def _check_hops(least: int, hops: int) -> None:
        if not least <= hops <= MAX_HOPS:
            raise ValueError(f"max_hops is {hops}, not between {least} and {MAX_HOPS}")

    @staticmethod
    def _find(market: Market, name: str | bytes) -> int:
        """Index in the token table of an address or a symbol. UnknownToken."""
        text = _text(name)
        by_address = [i for i, token in market.tokens.items() if token.address == text]
        found = by_address or [i for i, token in market.tokens.items() if token.symbol == name]
        if len(found) == 1:
            return found[0]
        if found:
            raise UnknownToken(f"{len(found)} tokens have the symbol {name!r}: give an address")
        raise UnknownToken(f"no pool has a token {name!r}")

    def _raise(self, status: int) -> None:
        if status:
            raise_status(status, f"the index of pools could not be used: status {status}")


def _text(name: str | bytes) -> str:
    """0x-hex of an address or key; a symbol as it is."""
    try:
        return key_text(key_bytes(name))
    except (ValueError, TypeError):
        return name if isinstance(name, str) else name.hex()


def _tokens(indices: npt.NDArray[np.uint32], tokens: npt.NDArray[np.void]) -> dict[int, Token]:
    """Tokens by their index in the token table."""
    return {
        int(index): token_of(token.tobytes()) for index, token in zip(indices, tokens, strict=True)
    }
