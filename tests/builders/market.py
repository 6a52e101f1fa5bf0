"""A made-up market in a real arena, for tests and benchmarks of routing.

Prices and positions change through event records, as a feed brings them, so that blocks can be undone by the
product's own means. Everything follows from the seed: the same seed and the same calls make the same
arena, bit for bit. market_shape.py says what pools there are.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from arena.layouts import slots
from arena.layouts.events import EVENT
from arena.native import ffi, lib
from arena.specs import PoolSpec, TokenSpec, pad_key, token_row
from arena.values import PoolValues
from arena.writing import WriterArena
from builders.market_shape import (
    KNOWN,
    SOLIDLY,
    V4,
    MarketPool,
    MarketToken,
    Position,
    Price,
    Ranges,
    Shape,
)

FIRST_BLOCK = 1_000
BASE_FEE = 10**9  # wei
KEPT_BLOCKS = 64  # that can be undone
NEVER = 2**63  # nanoseconds between commits: the market commits by itself
MASK64 = (1 << 64) - 1


class Mined(NamedTuple):
    """A block of the market: pools it changed, those it left out of their bands, those it took back."""

    number: int
    touched: tuple[MarketPool, ...]
    pushed: tuple[MarketPool, ...] = ()
    returned: tuple[MarketPool, ...] = ()


class _Update(NamedTuple):
    """One event, as the fields of its record that matter."""

    pool: MarketPool
    kind: int
    words: tuple[int, int, int, int, int, int] = (0, 0, 0, 0, 0, 0)
    tick: int = 0
    ends: tuple[int, int] = (0, 0)
    update_type: int = 0
    amount: int = 0


class _Kept(NamedTuple):
    """What takes a block back: its records, the positions it changed, what was out of band before."""

    records: npt.NDArray[np.void]
    ranges: dict[MarketPool, Ranges]
    pushed: list[MarketPool]


def make_market(
    name: str, pools: int, seed: int, *, spare: int = 256, is_rough: bool = False
) -> "Market":
    """A market of `pools` pools in a new arena of that name, committed; `spare` more fit."""
    return Market(name, pools, seed, spare, is_rough)


class Market:
    """Owns the writer of its arena, `owner`, and removes the arena when it is closed.

    Each change is a commit of its own, but see one_commit. `pools` keeps those that were removed.
    """

    def __init__(self, name: str, pools: int, seed: int, spare: int, is_rough: bool) -> None:
        self.name = name
        self.head = FIRST_BLOCK
        self.shape = Shape(pools, seed, is_rough=is_rough)
        self._weights = np.zeros(pools)  # how active each pool is; 0 when it is not live
        self._pushed: list[MarketPool] = []
        self._mined: list[_Kept] = []
        self._is_held = False
        ticks = sum(len(pool.ranges.ticks) for pool in self.pools)
        self.owner = WriterArena.create(
            name,
            max_pools=pools + spare,
            max_tokens=len(self.tokens) + spare,
            tick_bytes=6 * 36 * ticks + 1024 * (pools + spare) + (1 << 22),
            undo_blocks=2 * KEPT_BLOCKS,
            undo_bytes=1 << 24,
            chain_id=1,
        )
        try:
            for index in range(len(self.tokens)):
                self._add_token(index)
            for pool in self.pools:
                self._install(pool)
            self.owner.set_head(self.head, timestamp=12 * self.head, base_fee=BASE_FEE)
            self.owner.commit()
            self.owner.set_phase("live")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop writing and remove the arena. A second close does nothing."""
        self.owner.close(unlink=True)

    @property
    def tokens(self) -> list[MarketToken]:
        """Indices are those of the arena's token table."""
        return self.shape.tokens

    @property
    def pools(self) -> list[MarketPool]:
        """In the order they were added."""
        return self.shape.pools

    def live(self) -> list[MarketPool]:
        """Pools that are live now."""
        return [pool for pool in self.pools if pool.status == "live"]

    @contextmanager
    def one_commit(self) -> Iterator[None]:
        """Publish everything that happens inside as one commit."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
        self._commit()

    # Blocks

    def block(
        self,
        touched: int = 150,
        shock_share: float = 0.03,
        shock: tuple[float, float] = (0.0005, 0.006),
        *,
        liquidity: int = 0,
    ) -> Mined:
        """Move the price of `touched` pools: first all those that the block before left out of band come
        back, then others, drawn by activity; of these a share goes out of band, by between the two of
        `shock`, in logarithms. Besides, `liquidity` positions come and go.
        """
        returned = [pool for pool in self._pushed if pool.status == "live"]
        fresh = self._draw(touched - len(returned), besides=returned)
        is_pushed = self.shape.rng.random(len(fresh)) < shock_share
        updates = [_moved(pool, self.shape.resting(pool)) for pool in returned]
        pushed = []
        for pool, is_out in zip(fresh, is_pushed.tolist(), strict=True):
            price = self.shape.pushed(pool, shock) if is_out else self.shape.resting(pool)
            updates.append(_moved(pool, price))
            if is_out:
                pushed.append(pool)
        former: dict[MarketPool, Ranges] = {}
        for pool in self._ranged(liquidity):
            has_more = len(pool.ranges.positions) > 1
            change = self._burnt if has_more and self.shape.rng.random() < 0.5 else self._minted
            updates.append(change(pool, former))
        self._mine(updates, former, pushed)
        moved = tuple(dict.fromkeys(update.pool for update in updates))
        return Mined(self.head, moved, tuple(pushed), tuple(returned))

    def mint(self, pool: MarketPool) -> Mined:
        """A block that adds a random position to a V3 or V4 pool. ValueError when it is not live."""
        former: dict[MarketPool, Ranges] = {}
        self._mine([self._minted(pool, former)], former, self._pushed)
        return Mined(self.head, (pool,))

    def burn(self, pool: MarketPool) -> Mined:
        """A block that takes a position away. ValueError when only the widest range is left, or the pool
        is not live."""
        former: dict[MarketPool, Ranges] = {}
        self._mine([self._burnt(pool, former)], former, self._pushed)
        return Mined(self.head, (pool,))

    def reorg(self, depth: int) -> None:
        """Revert the newest `depth` blocks; blocks from here on are the new branch.

        Pools added, made stale or removed since stay so; those added are read again at the block both
        branches share. ValueError when there are not so many blocks.
        """
        if not 0 < depth <= min(KEPT_BLOCKS, len(self._mined)):
            raise ValueError(f"{depth} blocks cannot be undone, {len(self._mined)} can")
        gone = [pad_key(bytes.fromhex(pool.key[2:])) for pool in self.pools if pool.is_removed]
        for _ in range(depth):
            records, former, self._pushed = self._mined.pop()
            is_there = [row["key"].tobytes() not in gone for row in records]
            reverted = records[is_there]
            reverted[1:-1] = reverted[-2:0:-1].copy()
            reverted["flags"] |= lib.PSA_EVENT_IS_REVERT
            reverted["words"][-1, 0] = len(reverted) - 2
            self._apply(reverted)
            for pool, ranges in former.items():
                pool.ranges = ranges
        self.head -= depth
        for pool in self.pools:
            if pool.installed_at > self.head and pool.status in ("live", "stale"):
                self._install(pool, pool.status)
        self._commit()

    # Pools that come and go

    def add_pool(self, former: MarketPool | None = None) -> MarketPool:
        """A new pool of the tail, one of four with a new token; or a removed one with its key again.

        ArenaFull when `spare` is used up: the pool then stays "new", and shows nowhere.
        """
        if former is not None and not former.is_removed:
            raise ValueError(f"pool {former.key} is {former.status}, not removed")
        pool = self._draw_pool() if former is None else former
        self._install(pool)
        self._commit()
        return pool

    def announce_pool(self) -> MarketPool:
        """A new pool that shows as syncing, without values, until make_live."""
        pool = self._draw_pool()
        pool.slot = self.owner.add_pool(self._spec(pool))
        self.owner.announce(pool.slot)
        self._set_status(pool, "syncing")
        self._commit()
        return pool

    def remove_pool(self, pool: MarketPool) -> None:
        """Take a pool away; with `spare` used up its slot is the next pool's."""
        self.owner.remove_pool(pool.slot)
        self._set_status(pool, "removed")
        self._commit()

    def make_stale(self, pool: MarketPool) -> None:
        """No block changes it until it is live again."""
        self.owner.set_status(pool.slot, slots.STATUS_STALE, slots.UNSURE_ALL)
        self._set_status(pool, "stale")
        self._commit()

    def make_live(self, pool: MarketPool) -> None:
        """A stale pool keeps its values; an announced one gets its first."""
        if pool.status == "syncing":
            self._install(pool)
        else:
            self.owner.set_status(pool.slot, slots.STATUS_LIVE)
            self._set_status(pool, "live")
        self._commit()

    # What a block consists of

    def _draw(self, count: int, besides: Iterable[MarketPool]) -> list[MarketPool]:
        """So many live pools by activity, each at most once."""
        weights = self._weights.copy()
        weights[[pool.index for pool in besides]] = 0
        due = self.shape.rng.exponential(size=len(weights))
        due = np.divide(due, weights, out=np.full(len(due), np.inf), where=weights > 0)
        count = max(0, min(count, int(np.count_nonzero(weights))))
        return [self.pools[index] for index in np.argsort(due, kind="stable")[:count].tolist()]

    def _ranged(self, count: int) -> list[MarketPool]:
        """So many live pools with positions; one may come twice."""
        found = [pool for pool in self.live() if not pool.is_pair] if count else []
        drawn = self.shape.rng.integers(0, len(found), count if found else 0)
        return [found[index] for index in drawn.tolist()]

    def _minted(self, pool: MarketPool, former: dict[MarketPool, Ranges]) -> _Update:
        _check_ranged(pool)
        share = pool.tvl_usd / (len(pool.ranges.positions) + 1)
        (position,) = self.shape.positions(pool, 1, share)
        former.setdefault(pool, pool.ranges)
        pool.ranges = Ranges((*pool.ranges.positions, position))
        return _resized(pool, position, lib.PSA_UPDATE_MINT)

    def _burnt(self, pool: MarketPool, former: dict[MarketPool, Ranges]) -> _Update:
        _check_ranged(pool)
        rest = list(pool.ranges.positions)
        if len(rest) == 1:
            raise ValueError(f"pool {pool.key} has only its widest range left")
        position = rest.pop(int(self.shape.rng.integers(1, len(rest))))
        former.setdefault(pool, pool.ranges)
        pool.ranges = Ranges(tuple(rest))
        return _resized(pool, position, lib.PSA_UPDATE_BURN)

    def _mine(
        self,
        updates: list[_Update],
        former: dict[MarketPool, Ranges],
        pushed: list[MarketPool],
    ) -> None:
        """Apply a block, `former` being the positions of pools before it, and commit."""
        self.head += 1
        records = _records(self.head, updates)
        self._mined.append(_Kept(records, former, self._pushed))
        self._pushed = pushed
        self._apply(records)
        self._commit()

    def _apply(self, records: npt.NDArray[np.void]) -> None:
        self.owner.apply(records, min_commit_ns=NEVER)
        faults, more = self.owner.take_faults()
        assert not faults, f"{faults[0]} and {len(faults) + more - 1} more"

    def _commit(self) -> None:
        if not self._is_held:
            self.owner.commit()
            self.owner.heartbeat()

    # Into the arena

    def _draw_pool(self) -> MarketPool:
        token = None
        if self.shape.rng.random() < 0.25:
            token = self.shape.draw_token()
            self._add_token(token)
        pool = self.shape.draw_tail_pool(token)
        self._weights = np.append(self._weights, 0.0)
        return pool

    def _token(self, index: int) -> TokenSpec:
        token = self.tokens[index]
        symbol = KNOWN[index][0] if index < len(KNOWN) else f"T{index}"
        return TokenSpec(bytes.fromhex(token.address[2:]), token.decimals, symbol)

    def _add_token(self, index: int) -> None:
        found: Any = ffi.new("uint32_t *")
        status = lib.psa_token_add(self.owner.native, token_row(self._token(index)), found)
        assert (status, found[0]) == (lib.PSA_OK, index)

    def _spec(self, pool: MarketPool) -> PoolSpec:
        tokens = self._token(pool.token0), self._token(pool.token1)
        key = bytes.fromhex(pool.key[2:])
        fee = 0 if pool.protocol == SOLIDLY else pool.fee
        return PoolSpec(key, pool.protocol, *tokens, fee, pool.spacing, hooks=pool.hooks)

    def _install(self, pool: MarketPool, status: str = "live") -> None:
        """Values at rest, in the open commit; first a slot for a pool that has none."""
        if pool.status in ("new", "removed"):
            pool.slot = self.owner.add_pool(self._spec(pool))
        price = self.shape.resting(pool)
        if pool.is_pair:
            values = PoolValues(self.head, pool.fee, reserve0=price.a, reserve1=price.b)
        else:
            has_fees = pool.protocol == V4
            values = PoolValues(
                self.head,
                pool.fee,
                sqrt_price_x96=price.a,
                tick=price.tick,
                liquidity=price.b,
                ticks=pool.ranges.ticks,
                protocol_fee=pool.protocol_fee,
                lp_fee=pool.fee if has_fees else 0,
                fee_block=self.head if has_fees else 0,
            )
        is_stale = status == "stale"
        self.owner.install(
            pool.slot,
            values,
            slots.STATUS_STALE if is_stale else slots.STATUS_LIVE,
            unsure=slots.UNSURE_ALL if is_stale else 0,
        )
        pool.installed_at = self.head
        self._set_status(pool, status)

    def _set_status(self, pool: MarketPool, status: str) -> None:
        pool.status = status
        self._weights[pool.index] = pool.tvl_usd**0.7 if status == "live" else 0.0


def _check_ranged(pool: MarketPool) -> None:
    if pool.is_pair or pool.status != "live":
        raise ValueError(f"pool {pool.key} has no positions, or is {pool.status}")


def _moved(pool: MarketPool, price: Price) -> _Update:
    """A swap or, for a pair, its reserves after one."""
    low, high = price.a & MASK64, price.a >> 64
    if pool.is_pair:
        words = (low, high, 0, 0, price.b & MASK64, price.b >> 64)
        return _Update(pool, lib.PSA_EVENT_V2_SYNC, words)
    words = (low, high & MASK64, high >> 64, 0, 0, 0)
    return _Update(pool, lib.PSA_EVENT_CL_SWAP, words, price.tick, amount=price.b)


def _resized(pool: MarketPool, position: Position, update_type: int) -> _Update:
    """A position that comes or goes: V4 sends it signed, V3 as a magnitude."""
    is_negative = pool.protocol == V4 and update_type == lib.PSA_UPDATE_BURN
    amount = -position.liquidity if is_negative else position.liquidity
    ends = position.lower, position.upper
    kind = lib.PSA_EVENT_CL_LIQUIDITY
    return _Update(pool, kind, ends=ends, update_type=update_type, amount=amount)


def _records(number: int, updates: list[_Update]) -> npt.NDArray[np.void]:
    """Event records of a block, its begin and end among them."""
    rows = np.zeros(len(updates) + 2, EVENT)
    rows["block_number"] = number
    rows["timestamp"] = 12 * number
    edges, inner = rows[[0, -1]], rows[1:-1]
    edges["kind"] = lib.PSA_EVENT_BEGIN_BLOCK, lib.PSA_EVENT_END_BLOCK
    edges["flags"] = lib.PSA_EVENT_HAS_BASE_FEE, 0
    edges["words"][:, 0] = BASE_FEE + number % 7 * 10**8, len(updates)
    rows[[0, -1]] = edges
    if not updates:
        return rows
    keys = [bytes.fromhex(update.pool.key[2:]) for update in updates]
    inner["flags"] = lib.PSA_EVENT_IN_BLOCK
    inner["tx_index"] = np.arange(len(updates)) // 2
    inner["log_index"] = np.arange(len(updates))
    inner["kind"] = [update.kind for update in updates]
    inner["protocol"] = [update.pool.protocol for update in updates]
    inner["update_type"] = [update.update_type for update in updates]
    inner["key"] = np.frombuffer(b"".join(map(pad_key, keys)), "u1").reshape(-1, 32)
    inner["key_nbytes"] = [len(key) for key in keys]
    inner["words"][:, :6] = np.array([update.words for update in updates], "<u8")
    inner["tick"] = [update.tick for update in updates]
    inner["tick_lower"] = [update.ends[0] for update in updates]
    inner["tick_upper"] = [update.ends[1] for update in updates]
    amounts = [update.amount % (1 << 128) for update in updates]
    inner["amount"] = np.array([(each & MASK64, each >> 64) for each in amounts], "<u8")
    return rows
