"""An index of pools by token, private to a process, that answers what a trade is worth."""

import operator
from collections.abc import Iterable, Sequence
from contextlib import suppress

import numpy as np
import numpy.typing as npt

from arena.errors import AmountOutOfRange, InsufficientLiquidity
from arena.native import ffi, lib
from arena.readers.arguments import flag, whole
from arena.readers.quote import amount_bytes
from arena.readers.routes.answers import (
    ANSWER,
    PART,
    Cycles,
    Moment,
    Price,
    Route,
    Split,
    gas_units,
    split_of,
    split_of_route,
)
from arena.readers.routes.graph import MAX_HOPS, NONE, Graph
from arena.readers.routes.optimum import MarketOptimum
from arena.readers.token import text_of

_ROOM = 256  # cycles made room for at first


class Router(Graph):
    """Prices, best paths, splits and cycles over the pools of an arena, a group or a frozen snapshot.

    `numeraire` is the token that prices, profits and gas are counted in: its address, or its symbol where
    only one token has it. `gas` is what swaps cost, None: nothing; it is paid in `native`, the wrapped coin
    of the chain, which is the numeraire unless given. `fees` are LP fees in pips, by pool, of V4 pools with
    a dynamic fee or hooks, where the caller knows them: without one such pools are left out, as are those
    that are not live. ValueError for a pool whose fee is known; one that is not there may come.

    Everything is of one commit, until `update` brings the index to the newest. Methods may be called from
    any thread, one runs at a time, and all let the interpreter lock go. Nothing waits for the writer. With
    a frozen snapshot everything stays as it is.
    """

    # Prices

    def prices(self) -> dict[str, float]:
        """The price of every token that a path of pools joins to the numeraire, by address: units of the
        numeraire for a unit of it, fees left out, along the path that is widest where it is narrowest."""
        with self._lock:
            _, log_prices, _ = self._widest()
            addresses = self._addresses
        values = np.exp(log_prices).tolist()
        return {
            address: value for address, value in zip(addresses, values, strict=True) if value > 0
        }

    def price(self, token: str | bytes, *, of: str | bytes | None = None) -> Price:
        """The price of one token, in units of `of`, else of the numeraire, and the path it came by.

        UnknownToken; InsufficientLiquidity where no path leads to the numeraire.
        """
        with self._lock:
            wanted = self._market.find(token)
            table, log_prices, by = self._widest()
            place = {index: i for i, index in enumerate(table.tolist())}
            value = log_prices[place[wanted]]
            if of is not None:
                value -= log_prices[place[self._market.find(of)]]
            if not np.isfinite(value):
                raise InsufficientLiquidity(f"no path of pools joins {token!r} to the numeraire")
            path = []
            here = wanted
            while (pool := int(by[place[here]])) != NONE:
                path.append(self._market.keys[pool])
                row = self._market.rows[pool]
                here = int(row["token1"] if int(row["token0"]) == here else row["token0"])
            return Price(float(np.exp(value)), tuple(reversed(path)), self.block_number)

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
        """The path of up to `max_hops` pools that gives most for `amount_in`, or takes least for
        `amount_out`, gas counted against it; wei.

        Exact without gas: no path through distinct tokens is better. With it pools of one pair are compared
        by what they give and by what they give less their gas, all of a path in one way or the other.

        UnknownToken; InsufficientLiquidity when no path carries the amount; ValueError.
        """
        if (amount_in is None) == (amount_out is None):
            raise ValueError("give amount_in or amount_out, and one of them only")
        is_out = amount_in is None
        amount = amount_bytes(amount_out if is_out else amount_in)
        self._check_hops(1, max_hops)
        with self._lock:
            sold, bought = (self._market.find(token) for token in (sell, buy))
            if sold == bought:
                raise ValueError(f"{sell!r} is sold and bought")
            if self.gas is not None:
                self._price_gas(self.gas)
            found = np.zeros(1, ANSWER)
            status = lib.psa_route_best(
                self._route,
                sold,
                bought,
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
            return self._market.routes(found, units, self._moment())[0]

    def split(
        self, sell: str | bytes, buy: str | bytes, *, amount_in: int, max_hops: int = 3
    ) -> Split:
        """The most that `amount_in` (wei, below 2^127) gives over all pools between the tokens of the best
        paths of up to `max_hops` pools, each swapped once; gas decides how many. Never worse than `best`.

        UnknownToken; InsufficientLiquidity when the pools do not carry the amount; ValueError;
        AmountOutOfRange.
        """
        amount = amount_bytes(amount_in)  # C reads it in place
        if operator.index(amount_in) >> 127:
            raise AmountOutOfRange(f"amount {amount_in} is 2^127 or more", amount=amount_in)
        with self._lock:
            if self.gas is not None:
                self._price_gas(self.gas)
            route = None
            with suppress(InsufficientLiquidity):  # several paths may carry what one does not
                route = self.best(sell, buy, amount_in=amount_in, max_hops=max_hops)
            sold, bought = (self._market.find(token) for token in (sell, buy))
            parts, count = np.zeros(lib.PSA_ROUTE_PARTS, PART), ffi.new("uint32_t *")
            total = ffi.new("psa_route_split_sum *")
            status = lib.psa_route_split(
                self._route,
                sold,
                bought,
                ffi.cast("uint64_t *", ffi.from_buffer(amount)),
                max_hops,
                self._gas,
                ffi.from_buffer("psa_route_part *", parts),
                count,
                total,
            )
            if status in (lib.PSA_BAD_ARGUMENT, lib.PSA_NO_MEMORY):
                self._raise(status)
            tokens = tuple(
                self._market.tokens[index] for index in list(total.tokens)[: total.token_count]
            )
            if status:
                if route is None:
                    raise InsufficientLiquidity(
                        f"no pools between {sell!r} and {buy!r} carry {amount_in} into them"
                    )
                return split_of_route(route, total.bound, tokens)
            found = split_of(
                self._market,
                parts[: count[0]],
                total,
                tokens,
                self._protocols,
                self.gas,
                self._moment(),
            )
            if route is None:
                return found
            less = (route.amount_out - found.amount_out) * self._worth(bought)
            if less > route.gas_cost - found.gas_cost:
                return split_of_route(route, found.bound, tokens)
            return found

    def curve(
        self,
        sell: str | bytes,
        buy: str | bytes,
        amounts: Iterable[int],
        *,
        max_hops: int = 3,
    ) -> tuple[Split | None, ...]:
        """The `split` of each of many amounts (wei, into the pools), all at one commit; None for one that
        the pools do not carry.

        UnknownToken; ValueError; AmountOutOfRange.
        """
        found: list[Split | None] = []
        with self._lock:
            for amount in amounts:
                try:
                    found.append(self.split(sell, buy, amount_in=amount, max_hops=max_hops))
                except InsufficientLiquidity:
                    found.append(None)
        return tuple(found)

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
        `each` False, of cycles through the same pairs only the best. Inputs are what doubles found, rounded
        down.
        ValueError; UnknownToken; TypeError where `through` is one name and no sequence of them.
        """
        self._check_hops(2, max_hops)
        is_each, is_everywhere = flag("each", each), flag("everywhere", everywhere)
        if not min_profit >= 0:
            raise ValueError(f"min_profit is {min_profit}, below 0")
        if isinstance(through, str | bytes):
            raise TypeError(f"through is {through!r}: give a sequence of names")
        with self._lock:
            seeds = self._everything if is_everywhere else self._seeds
            if through is not None:
                seeds = self._through(through)
            if self.gas is not None:
                self._price_gas(self.gas)
            count = ffi.new("uint32_t *")
            room = _ROOM if limit is None else whole("limit", limit, 0)
            while True:
                found = np.empty(room, ANSWER)
                self._raise(
                    lib.psa_route_cycles(
                        self._route,
                        ffi.from_buffer("uint32_t *", seeds),
                        len(seeds),
                        max_hops,
                        is_each,
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

    def market(self) -> MarketOptimum:
        """The most that all pools together would give away, gas aside, with its bound, the swaps, and the
        prices at which nothing is left. The search begins where the last one ended."""
        with self._lock:
            log_prices = np.zeros(len(self._table), np.float64)
            parts = np.zeros(len(self._everything), PART)
            total = ffi.new("psa_route_market_sum *")
            self._raise(
                lib.psa_route_market(
                    self._route,
                    ffi.from_buffer("double *", log_prices),
                    ffi.from_buffer("psa_route_part *", parts),
                    total,
                )
            )
            parts = parts[: total.parts].copy()
            return MarketOptimum(
                self._market, parts, self._table, log_prices, total, self._moment()
            )

    def _moment(self) -> Moment:
        return Moment(bytes(ffi.buffer(self._record)))

    def _through(self, names: Sequence[str | bytes]) -> npt.NDArray[np.uint32]:
        """Numbers of the pools named, and of those with the tokens named."""
        rows, keys = self._market.rows, self._market.keys
        is_wanted = np.zeros(len(keys), np.bool_)
        numbers = {key: number for number, key in enumerate(keys)}
        for name in names:
            number = numbers.get(text_of(name))
            if number is not None:
                is_wanted[number] = True
            else:
                token = self._market.find(name)
                is_wanted |= (rows["token0"] == token) | (rows["token1"] == token)
        return np.flatnonzero(is_wanted).astype(np.uint32)

    @staticmethod
    def _check_hops(least: int, hops: int) -> None:
        if not least <= whole("max_hops", hops, 0) <= MAX_HOPS:
            raise ValueError(f"max_hops is {hops}, not between {least} and {MAX_HOPS}")
