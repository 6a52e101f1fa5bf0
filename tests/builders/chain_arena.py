"""An arena that holds the pools of a market on a node, as the contracts' getters say they are."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from chains.market import Market, Pool

from arena.layouts import slots
from arena.layouts.protocols import listed_name
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writing import WriterArena
from builders.arenas import unlinked

BASE_FEE = 10**9  # wei


class ChainArena:
    """`follow` brings it to the node's newest block, one commit a call."""

    def __init__(self, writer: WriterArena, market: Market) -> None:
        self.writer = writer
        self.market = market
        self._slots = {pool.key: writer.add_pool(_spec(pool)) for pool in market.pools}
        self._states: dict[str, dict[str, Any]] = {}
        self.follow()
        writer.set_phase("live")

    def follow(self) -> dict[str, Any]:
        """The block's header."""
        block = self.market.node.block()
        number = block["number"]
        states = self.market.states(block["hash"], every_word=False)
        for key, state in states.items():
            if state != self._states.get(key):
                values = _values(self.market.by_key[key], state, number)
                self.writer.install(self._slots[key], values, slots.STATUS_LIVE)
        self._states = states
        self.writer.set_head(number, block_hash=bytes.fromhex(block["hash"][2:]), base_fee=BASE_FEE)
        self.writer.commit()
        return block


def _spec(pool: Pool) -> PoolSpec:
    named = listed_name(pool.kind)
    assert named is not None
    tokens = (
        TokenSpec(bytes.fromhex(token[2:]), 18, f"T{token[-4:]}")
        for token in (pool.token0, pool.token1)
    )
    return PoolSpec(
        bytes.fromhex(pool.key[2:]),
        named.protocol,
        *tokens,
        pool.fee_pips,
        pool.tick_spacing,
        hooks=bytes.fromhex(pool.hooks[2:]),
    )


def _values(pool: Pool, state: dict[str, Any], number: int) -> PoolValues:
    held = state | {"ticks": tuple(map(tuple, state.get("ticks", ())))}
    fee = state.get("lp_fee", pool.fee_pips)
    return PoolValues(number, fee, **held, **({"fee_block": number} if "lp_fee" in state else {}))


@contextmanager
def chain_arena(name: str, market: Market) -> Iterator[ChainArena]:
    """Removed at the end."""
    created = WriterArena.create(name, max_pools=256, tick_bytes=1 << 22, chain_id=31337)
    with unlinked(created) as writer:
        yield ChainArena(writer, market)
