"""The recorded EVM chains as plain Python: blocks with the events of known pools, and true states.

Reads `tests/data/evm/*.jsonl.gz` (format: the README's note of origin and the docstrings here) and
imports nothing of the product. Decimal strings become int; addresses, hashes and raw words stay
lower-case 0x-hex. A pool's key is its address (V2, V3) or its pool id (V4), as 0x-hex.
"""

import gzip
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

DATA = Path(__file__).resolve().parent.parent / "data"
CHAINS = ("v2_chain", "v3_chain", "v4_chain", "reorg")
DYNAMIC_FEE = 0x800000
"""Fee field of a V4 pool key whose LP fee the hook sets."""

POOL_EVENTS = {
    "uniswap_v2": ("Sync", "Swap", "Mint", "Burn"),
    "uniswap_v3": ("Initialize", "Swap", "Mint", "Burn"),
    "uniswap_v4": ("Initialize", "Swap", "ModifyLiquidity", "ProtocolFeeUpdated"),
}
_DECIMAL = re.compile(r"-?[0-9]+\Z")

State = dict[str, Any]
"""One pool's state as recorded: `reserve0, reserve1` or `sqrtPriceX96, tick, liquidity, ticks`
([tick, gross, net] ascending), V4 also `protocolFee, lpFee`; more raw fields beside them."""


def _numbers(value: Any) -> Any:
    if isinstance(value, str):
        return int(value) if _DECIMAL.match(value) else value
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    return value


def records(name: str) -> Iterator[dict[str, Any]]:
    """Every record of one data file, in order, with ints for decimal strings."""
    with gzip.open(DATA / "evm" / f"{name}.jsonl.gz", "rt") as lines:
        for line in lines:
            yield _numbers(json.loads(line))


class Token(NamedTuple):
    address: str
    decimals: int
    symbol: str


@dataclass(frozen=True, slots=True)
class Pool:
    """What never changes about a pool. `fee_pips` of V4 is the fee field of its key."""

    key: str
    protocol: str
    name: str
    token0: Token
    token1: Token
    fee_pips: int
    tick_spacing: int | None
    hooks: str | None
    emitter: str
    """Contract that emits its events: the pool, or the V4 manager."""


@dataclass(frozen=True, slots=True)
class Event:
    """One log of a known pool. `log_index` counts the recorded logs within its transaction from 0
    (the recordings leave out token transfers); `block_log_index` is the chain's own."""

    protocol: str
    kind: str
    pool: str
    emitter: str
    tx_index: int
    log_index: int
    block_log_index: int
    args: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Block:
    number: int
    hash: str
    parent_hash: str
    timestamp: int
    events: tuple[Event, ...]
    """Events of known pools only, in log order; decoys and other contracts are left out."""


@dataclass(frozen=True, slots=True)
class Reorg:
    """What a follower learns at once: `orphaned` (oldest first) vanish, `replacement` follows.

    `anvil_reorg` replaces as many blocks as it orphans in one step. `evm_revert` only cuts back:
    `replacement` is empty and the branch regrows by ordinary blocks.
    """

    method: str
    ancestor_number: int
    ancestor_hash: str
    orphaned: tuple[Block, ...]
    replacement: tuple[Block, ...]

    @property
    def tip_hash(self) -> str:
        return self.replacement[-1].hash if self.replacement else self.ancestor_hash

    @property
    def tip_number(self) -> int:
        return self.replacement[-1].number if self.replacement else self.ancestor_number


def _token(address: str) -> Token:
    """The recordings do not carry token metadata: 18 decimals, and a symbol made of the address."""
    if int(address, 16) == 0:
        return Token(address, 18, "ETH")
    return Token(address, 18, "T" + address[2:6].upper())


class Chain:
    """One recorded chain, wholly in memory.

    `steps` is what a follower of the chain sees, in order: Block and Reorg. `blocks` finds every
    block, orphaned ones included, by hash; `state_at(hash)` its true state where one was recorded.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.meta: dict[str, Any] = {}
        self.pools: dict[str, Pool] = {}
        self.blocks: dict[str, Block] = {}
        self.steps: list[Block | Reorg] = []
        self._states: dict[str, dict[str, Any]] = {}
        self._cumulative: dict[str, dict[str, State]] = {}
        self._emitters: dict[str, tuple[str, str]] = {}
        self._read(list(records(name)))

    # reading

    def _read(self, rows: list[dict[str, Any]]) -> None:
        self.meta = rows[0]
        named = {}
        for row in rows:
            if row["kind"] == "pools":
                named = row["pools"]
            elif row["kind"] == "block":
                self._find_pools(row)
        for key, facts in {**self.meta.get("pools", {}), **self.meta.get("v4Pools", {})}.items():
            self._add_v4(key, facts)
        for key, facts in named.items():
            old = self.pools[key]
            assert (facts["fee"], facts["tickSpacing"]) == (old.fee_pips, old.tick_spacing)
            self.pools[key] = Pool(**{**_fields(old), "name": facts["name"]})
        self._read_steps(rows)

    def _find_pools(self, row: dict[str, Any]) -> None:
        for log in row["logs"]:
            args = log["args"]
            if log["event"] == "PairCreated":
                key, protocol, fee, spacing = args["pair"], "uniswap_v2", 3000, None
            elif log["event"] == "PoolCreated":
                key, protocol = args["pool"], "uniswap_v3"
                fee, spacing = args["fee"], args["tickSpacing"]
            else:
                continue
            name = f"{protocol[-2:]}_{len(self.pools)}"
            tokens = _token(args["token0"]), _token(args["token1"])
            pool = Pool(key, protocol, name, *tokens, fee, spacing, None, key)
            self.pools.setdefault(key, pool)
            self._emitters[key] = (protocol, key)

    def _add_v4(self, key: str, facts: dict[str, Any]) -> None:
        self.pools[key] = Pool(
            key,
            "uniswap_v4",
            facts["name"],
            _token(facts["currency0"]),
            _token(facts["currency1"]),
            facts["fee"],
            facts["tickSpacing"],
            facts["hooks"],
            self.meta["poolManager"],
        )

    def _read_steps(self, rows: list[dict[str, Any]]) -> None:
        pending: dict[str, Any] | None = None
        replacement: list[Block] = []
        for row in rows:
            if row["kind"] == "state":
                self._states[row["hash"]] = row
            elif row["kind"] == "block":
                block = self._block(row)
                self.blocks[block.hash] = block
                if pending is None:
                    self.steps.append(block)
                    continue
                replacement.append(block)
                if len(replacement) == pending["depth"]:
                    self._end_reorg(pending, replacement)
                    pending, replacement = None, []
            elif row["kind"] == "reorg":
                assert pending is None
                if row["method"] == "evm_revert":
                    self._end_reorg(row, [])
                else:
                    pending = row
        assert pending is None

    def _end_reorg(self, row: dict[str, Any], replacement: list[Block]) -> None:
        orphaned = tuple(self.blocks[entry["hash"]] for entry in row["orphaned"])
        ancestor = row["commonAncestor"]
        assert orphaned[0].parent_hash == ancestor["hash"]
        assert len(orphaned) == row["depth"]
        assert not replacement or replacement[0].parent_hash == ancestor["hash"]
        self.steps.append(
            Reorg(row["method"], ancestor["number"], ancestor["hash"], orphaned, tuple(replacement))
        )

    def _block(self, row: dict[str, Any]) -> Block:
        events = []
        position: dict[int, int] = {}
        for log in row["logs"]:
            tx_index = log["transactionIndex"]
            log_index = position.get(tx_index, 0)
            position[tx_index] = log_index + 1
            protocol, key = self._origin(log)
            if log["event"] in POOL_EVENTS.get(protocol, ()):
                events.append(
                    Event(
                        protocol,
                        log["event"],
                        key,
                        log["address"],
                        tx_index,
                        log_index,
                        log["logIndex"],
                        log["args"],
                    )
                )
        return Block(row["number"], row["hash"], row["parentHash"], row["timestamp"], tuple(events))

    def _origin(self, log: dict[str, Any]) -> tuple[str, str]:
        """Protocol and pool key of a log; protocol is empty for contracts that are no pool."""
        if log["address"] == self.meta.get("poolManager"):
            return "uniswap_v4", log["args"].get("id", "")
        return self._emitters.get(log["address"], ("", ""))

    # states

    def has_state(self, block_hash: str) -> bool:
        return block_hash in self._states

    def state_at(self, block_hash: str) -> dict[str, State]:
        """True state of every pool that exists at the end of that block, by pool key.

        A partial record adds to the state of the block's nearest ancestor that has one: it lists
        every pool the block touched, and blocks without a record touch none. KeyError where the
        state was not recorded (replaced blocks below the tip of an `anvil_reorg` branch).
        """
        chain: list[str] = []
        at = block_hash
        if at not in self._states:
            raise KeyError(f"no state recorded at {block_hash}")
        while at not in self._cumulative and not self._states.get(at, {}).get("full", False):
            chain.append(at)
            at = self.blocks[at].parent_hash
        if at not in self._cumulative:
            self._cumulative[at] = _flat(self._states[at]["pools"])
        state = self._cumulative[at]
        for step in reversed(chain):
            if step in self._states:
                state = {**state, **_flat(self._states[step]["pools"])}
            self._cumulative[step] = state
        return state

    def initialised_at(self, block_hash: str) -> list[str]:
        """Keys of the pools that have a price, or reserves, at the end of that block."""
        return [key for key, state in self.state_at(block_hash).items() if is_initialised(state)]


def _flat(pools: dict[str, Any]) -> dict[str, State]:
    if set(pools) <= {"v2", "v3", "v4"}:
        return {key: state for family in pools.values() for key, state in family.items()}
    return pools


def _fields(pool: Pool) -> dict[str, Any]:
    return {name: getattr(pool, name) for name in Pool.__dataclass_fields__}


def is_initialised(state: State) -> bool:
    return bool(state.get("sqrtPriceX96") or (state.get("reserve0") and state.get("reserve1")))


@cache
def load(name: str) -> Chain:
    """The chain of that data file (one of CHAINS), read once a process."""
    return Chain(name)


# State files


def state_line(pool: Pool, state: State, block_number: int) -> dict[str, Any]:
    """One line of a state file, as a dict: integers that may exceed 2**53 are decimal strings."""
    line: dict[str, Any] = {
        "pool": pool.key,
        "protocol": pool.protocol,
        "block": block_number,
        "token0": _token_line(pool.token0),
        "token1": _token_line(pool.token1),
        "fee_pips": pool.fee_pips,
    }
    if pool.protocol == "uniswap_v2":
        return line | {"reserve0": str(state["reserve0"]), "reserve1": str(state["reserve1"])}
    line |= {
        "tick_spacing": pool.tick_spacing,
        "sqrt_price_x96": str(state["sqrtPriceX96"]),
        "tick": state["tick"],
        "liquidity": str(state["liquidity"]),
        "ticks": [[tick, str(gross), str(net)] for tick, gross, net in state["ticks"]],
    }
    if pool.protocol == "uniswap_v4":
        line |= {
            "protocol_fee": state["protocolFee"],
            "lp_fee": state["lpFee"],
            "hooks": pool.hooks,
        }
    return line


def _token_line(token: Token) -> dict[str, Any]:
    return {"address": token.address, "decimals": token.decimals, "symbol": token.symbol}


def write_state_file(path: Path, chain: Chain, at: dict[str, str]) -> None:
    """Write the pools of `at` (pool key to hash of the block its values belong to) as JSON Lines.

    The file appears whole: it is written beside `path` and renamed. Its time is not before the call.
    """
    called_ns = time.time_ns()
    lines = []
    for key, block_hash in at.items():
        state = chain.state_at(block_hash)[key]
        line = state_line(chain.pools[key], state, chain.blocks[block_hash].number)
        lines.append(json.dumps(line))
    part = path.with_name(path.name + ".part")
    part.write_text("\n".join(lines) + "\n")
    while part.stat().st_mtime_ns < called_ns:  # the kernel stamps files with its last tick
        os.utime(part)
    part.rename(path)
