"""A slow, obvious state machine: events of recorded or generated blocks onto pool states.

Undo keeps whole copies of everything before each block. Imports nothing of the product.
"""

import copy
from dataclasses import dataclass, field
from typing import Any

from chains.evm_data import Block, Event, State

UINT112_MAX = 2**112 - 1
UINT128_MAX = 2**128 - 1


class OutOfRangeError(Exception):
    """Applying the event would leave the range of the field."""


@dataclass(slots=True)
class V2State:
    reserve0: int = 0
    reserve1: int = 0


@dataclass(slots=True)
class V3State:
    """Also a V4 pool. `ticks` maps a tick to [liquidity_gross, liquidity_net]."""

    sqrt_price_x96: int = 0
    tick: int = 0
    liquidity: int = 0
    ticks: dict[int, list[int]] = field(default_factory=dict)


def from_record(state: State) -> V2State | V3State:
    """The oracle's form of a recorded state."""
    if "reserve0" in state:
        return V2State(state["reserve0"], state["reserve1"])
    ticks = {tick: [gross, net] for tick, gross, net in state["ticks"]}
    return V3State(state["sqrtPriceX96"], state["tick"], state["liquidity"], ticks)


def plain(pool: V2State | V3State) -> dict[str, Any]:
    """The fields a reader shows, ticks ascending as [tick, gross, net]."""
    if isinstance(pool, V2State):
        return {"reserve0": pool.reserve0, "reserve1": pool.reserve1}
    return {
        "sqrt_price_x96": pool.sqrt_price_x96,
        "tick": pool.tick,
        "liquidity": pool.liquidity,
        "ticks": [[tick, *pool.ticks[tick]] for tick in sorted(pool.ticks)],
    }


def plain_record(state: State) -> dict[str, Any]:
    """The same fields of a recorded state."""
    return plain(from_record(state))


class ChainOracle:
    """Every pool's state after the blocks applied so far.

    With `v2_from_deltas` the reserves follow Swap, Mint and Burn as the seed dialect sends them
    and Sync is ignored; otherwise only Sync changes them. Events of a pool that is not in `pools`
    create it when `create` is set, and are ignored otherwise. An event that would leave the range
    of a field changes nothing and puts its pool's key into `failed`.
    """

    def __init__(
        self,
        pools: dict[str, V2State | V3State] | None = None,
        *,
        v2_from_deltas: bool = False,
        create: bool = False,
    ) -> None:
        self.pools: dict[str, V2State | V3State] = pools if pools is not None else {}
        self.v2_from_deltas = v2_from_deltas
        self.create = create
        self.failed: set[str] = set()
        self.applied: list[tuple[int, dict[str, V2State | V3State]]] = []

    def apply_block(self, block: Block) -> None:
        self.applied.append((block.number, copy.deepcopy(self.pools)))
        for event in block.events:
            self.apply(event)

    def undo_block(self, number: int) -> None:
        """Return to the state before the last applied block, which must have that number."""
        last, before = self.applied.pop()
        assert last == number, (last, number)
        self.pools = before

    def apply(self, event: Event) -> None:
        pool = self.pools.get(event.pool)
        if pool is None:
            if not self.create:
                return
            pool = V2State() if event.protocol == "uniswap_v2" else V3State()
            self.pools[event.pool] = pool
        try:
            if isinstance(pool, V3State):
                _apply_v3(pool, event)
            elif self.v2_from_deltas:
                _apply_v2_delta(pool, event)
            elif event.kind == "Sync":
                pool.reserve0, pool.reserve1 = event.args["reserve0"], event.args["reserve1"]
        except OutOfRangeError:
            self.failed.add(event.pool)


def v2_delta(event: Event) -> tuple[int, int]:
    """What a V2 event adds to the pool's reserves if it is all one knows; Sync says nothing."""
    args = event.args
    if event.kind == "Swap":
        return args["amount0In"] - args["amount0Out"], args["amount1In"] - args["amount1Out"]
    if event.kind == "Mint":
        return args["amount0"], args["amount1"]
    if event.kind == "Burn":
        return -args["amount0"], -args["amount1"]
    return 0, 0


def _checked(value: int, most: int) -> int:
    if not 0 <= value <= most:
        raise OutOfRangeError(value)
    return value


def _apply_v2_delta(pool: V2State, event: Event) -> None:
    delta0, delta1 = v2_delta(event)
    reserve0 = _checked(pool.reserve0 + delta0, UINT112_MAX)
    reserve1 = _checked(pool.reserve1 + delta1, UINT112_MAX)
    pool.reserve0, pool.reserve1 = reserve0, reserve1


def liquidity_delta(event: Event) -> int | None:
    """Signed liquidity change of a V3/V4 event, or None where it is none."""
    if event.kind == "ModifyLiquidity":
        return int(event.args["liquidityDelta"])
    if event.kind == "Mint":
        return int(event.args["amount"])
    if event.kind == "Burn":
        return -int(event.args["amount"])
    return None


def _apply_v3(pool: V3State, event: Event) -> None:
    args = event.args
    if event.kind in ("Initialize", "Swap"):
        pool.sqrt_price_x96, pool.tick = args["sqrtPriceX96"], args["tick"]
        if event.kind == "Swap":
            pool.liquidity = args["liquidity"]
        return
    if event.kind == "ProtocolFeeUpdated":
        return
    delta = liquidity_delta(event)
    assert delta is not None, event
    if delta == 0:
        return
    lower, upper = args["tickLower"], args["tickUpper"]
    in_range = lower <= pool.tick < upper
    liquidity = _checked(pool.liquidity + (delta if in_range else 0), UINT128_MAX)
    changed = {}
    for tick, net in ((lower, delta), (upper, -delta)):
        old_gross, old_net = pool.ticks.get(tick, (0, 0))
        changed[tick] = [_checked(old_gross + delta, UINT128_MAX), old_net + net]
    pool.liquidity = liquidity
    pool.ticks.update(changed)
    for tick in (lower, upper):
        if pool.ticks[tick][0] == 0:
            assert pool.ticks[tick][1] == 0, (event, pool.ticks[tick])
            del pool.ticks[tick]
