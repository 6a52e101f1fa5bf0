"""A running arena held against a node: every field of every pool, at the arena's own block.

The arena is read as any reader reads it; the node through the scraper contract, so nothing the feed
brought is trusted on either side of the comparison.
"""

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import arena
from arena.errors import BlockUnavailable, ChainMoved, NotLive, PoolInvalid
from arena.layouts.protocols import PROTOCOL_NUMBERS
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writer.node.head import block_by_number
from arena.writer.node.jsonrpc import JsonRpc
from arena.writer.protocols.held import HELD, pool_target, protocol_of
from arena.writer.protocols.storage import PoolTarget
from arena.writer.scrapers.described import Described, contradictions_of
from arena.writer.scrapers.differences import Difference, compared_fields, differences
from arena.writer.scrapers.rpc import RpcScraper

BRANCH_TRIES = 10
BRANCH_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class Verified:
    """What was compared at which block; `not_live` pools (key, status) make no claim to compare."""

    block_number: int
    compared: int
    differences: tuple[Difference, ...]
    not_live: tuple[tuple[str, str], ...]


def verify(
    name: str,
    rpc: JsonRpc,
    *,
    sample: int | None = None,
    timeout_s: float = 1.0,
    owner: int | str | None = None,
) -> Verified:
    """Compare the pools of the arena `name`, or `sample` random ones, with the node.

    The fee of a V2 pair is nowhere on the chain and not compared. NotLive when no pool is live;
    ChainMoved when the node's chain does not have the arena's block, BlockUnavailable when it has
    its state no more, other errors of attaching and of the node.
    """
    with arena.attach(name, timeout=timeout_s, require_writer=False, owner=owner) as pools:
        chain_id = pools.chain_id or None
        for attempt in range(BRANCH_TRIES):
            if attempt:
                time.sleep(BRANCH_PAUSE_S)
            keys = list(pools)
            if sample is not None:
                keys = random.SystemRandom().sample(keys, min(sample, len(keys)))
            frozen = pools.snapshot(keys)
            states = [frozen[key].state() for key in keys]
            live = [state for state in states if state.status == "live"]
            if not live:
                raise NotLive(
                    f"the arena {name} has no live pool to compare: {len(states)} pools, phase "
                    f"{pools.phase}, writer {'alive' if pools.writer_alive else 'gone'}"
                )
            block = block_by_number(rpc, frozen.block_number)
            # The feed carries no hashes; a block of another branch has another time or comes later.
            if block is None or frozen.timestamp not in (0, block.timestamp):
                continue
            try:
                specs = [_spec(state) for state in live]
                theirs = _read(rpc, specs, block.number, chain_id)
            except BlockUnavailable:
                if attempt + 1 < BRANCH_TRIES:
                    continue
                raise
            found = [each for state in live for each in _compare(state, theirs)]
            found += _compare_descriptions(rpc, specs)
            idle = tuple((s.pool_key, s.status) for s in states if s.status != "live")
            return Verified(block.number, len(live), tuple(found), idle)
    raise ChainMoved(
        f"the node does not have block {frozen.block_number} of the arena {name}: it is behind, on "
        "another branch, or follows another chain",
        block=frozen.block_number,
    )


def _read(
    rpc: JsonRpc, specs: Sequence[PoolSpec], block_number: int, chain_id: int | None
) -> dict[bytes, PoolValues | PoolInvalid]:
    found: dict[bytes, PoolValues | PoolInvalid] = {}
    # A pool of a factory that is not known may have a fork's layout: the others fail.
    forks = [layout for protocol in HELD.values() for layout in protocol.layouts[1:]]
    for layout in (None, *forks):
        targets: list[PoolTarget] = []
        for spec in specs:
            if layout is None:
                targets.append(pool_target(spec))
            elif layout in protocol_of(spec).layouts and isinstance(found[spec.key], PoolInvalid):
                targets.append(pool_target(spec, layout))
        if not targets:
            continue
        scraper = RpcScraper(rpc, targets, chain_id=chain_id, block=block_number)
        scrape = scraper.read_pools([target.spec.key for target in targets])
        found |= {pool.spec.key: pool.values for pool in scrape.pools}
        for error in scrape.invalid:
            found.setdefault(error.key, error)
    return found


def _compare_descriptions(rpc: JsonRpc, specs: Sequence[PoolSpec]) -> list[Difference]:
    """What V2 and V3 pools say of themselves; V4 ids contain it, and were checked with the pool."""
    told = Described(rpc).told(specs)
    return [
        Difference(spec.key, name, ours, theirs)
        for spec in specs
        for name, ours, theirs in contradictions_of(spec, told.get(spec.key, {}))
    ]


def _spec(state: Any) -> PoolSpec:
    def token(token: Any) -> TokenSpec:
        return TokenSpec(bytes.fromhex(token.address[2:]), token.decimals, token.symbol or "")

    return PoolSpec(
        bytes.fromhex(state.pool_key[2:]),
        PROTOCOL_NUMBERS[state.protocol],
        token(state.token0),
        token(state.token1),
        state.fee_pips,
        state.tick_spacing or 0,
        bytes.fromhex(state.factory[2:]),
        bytes.fromhex(state.hooks[2:]) if state.hooks else bytes(20),
    )


def _compare(state: Any, theirs: Mapping[bytes, PoolValues | PoolInvalid]) -> Iterator[Difference]:
    key = bytes.fromhex(state.pool_key[2:])
    values = theirs[key]
    if isinstance(values, PoolInvalid):
        yield Difference(key, "pool", "live", f"{type(values).__name__}: {values}")
        return
    protocol = PROTOCOL_NUMBERS[state.protocol]
    fields = {name: getattr(state, name) for name in ("fee_pips", *compared_fields(protocol))}
    ours = PoolValues(state.block_number, ticks=state.ticks or (), **fields)
    yield from differences(key, protocol, ours, values)
