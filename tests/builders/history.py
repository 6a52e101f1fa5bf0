"""Simulated chains with forks: what happened, what a producer sends of it, what a node answers.

Everything follows from one seed. A block knows its whole state, so that any pool at any block of any
branch can be looked up. Imports nothing of the product.
"""

import hashlib
import json
import random
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import sha3  # type: ignore[import-untyped]
from chains.evm_data import Block, Event, State
from oracle.chain_oracle import ChainOracle, V2State, V3State, plain

from builders.frames import Exex, Order
from builders.reth_database import keccak

GENESIS = 1000
MANAGER = "0x" + "99" * 20
DECOY = "0x" + "dd" * 20
OTHER = "0x" + "ee" * 20
OTHER_TOPIC = "0x" + "ee" * 32
SPACING = 10
TICKS = (-400, -120, -60, -20, -10, 0, 10, 20, 60, 130, 400)

# Signature hashes as recorded from the contracts in tests/data/evm.
TOPIC = {
    ("uniswap_v2", "Sync"): "0x1c411e9a96e071241c2f21f7726b17ae89e3cab4c78be50e062b03a9fffbbad1",
    ("uniswap_v3", "Swap"): "0xc42079f94a6350d7e6235f29174924f928cc2ac818eb64fed8004e115fbcca67",
    ("uniswap_v3", "Mint"): "0x7a53080ba414158be7ec69b987b5fb7d07dee101fe85488f0853ae16239d0bde",
    ("uniswap_v3", "Burn"): "0x0c396cd989a39f4459b5fa1aed6a9a8dcdbc45908acfd67e028cd568da98982c",
    ("uniswap_v4", "Swap"): "0x40e9cecb9f5f1f1c5b9c97dec2917b7ee92e57ba5563708daca94dd84ad7112f",
    (
        "uniswap_v4",
        "ModifyLiquidity",
    ): "0xf208f4912782fd25c7f114ca3723a2d5dd6f3bcc3ac8db5af63baa85f711d5ec",
}


TOKENS = ("0x" + "01" * 20, "0x" + "02" * 20)


def v4_id(hooks: str) -> str:
    """The id of the pool of TOKENS with fee 3000, spacing 10 and these hooks."""
    numbers = (int(TOKENS[0], 16), int(TOKENS[1], 16), 3000, 10, int(hooks, 16))
    content = b"".join(number.to_bytes(32, "big") for number in numbers)
    return "0x" + sha3.keccak_256(content).hexdigest()


# Hooks without a permission bit in their address.
HOOKS = {v4_id(hooks): hooks for hooks in ("0x" + "00" * 20, "0x" + "10" + "00" * 19)}
V4_IDS = tuple(HOOKS)


class PoolFacts(NamedTuple):
    key: str
    protocol: str

    @property
    def emitter(self) -> str:
        return MANAGER if self.protocol == "uniswap_v4" else self.key


POOLS = (
    PoolFacts("0x" + "21" * 20, "uniswap_v2"),
    PoolFacts("0x" + "22" * 20, "uniswap_v2"),
    PoolFacts("0x" + "31" * 20, "uniswap_v3"),
    PoolFacts("0x" + "32" * 20, "uniswap_v3"),
    PoolFacts(V4_IDS[0], "uniswap_v4"),
)
MORE_POOLS = (
    *POOLS,
    PoolFacts("0x" + "23" * 20, "uniswap_v2"),
    PoolFacts("0x" + "33" * 20, "uniswap_v3"),
    PoolFacts(V4_IDS[1], "uniswap_v4"),
)


class _Made(NamedTuple):
    """What a log is made of; `event` None: of a contract that is no pool."""

    event: Event | None
    emitter: str
    tx_index: int
    block_log: int


@dataclass(frozen=True, slots=True)
class SimBlock:
    """`events` of known pools; `states` of all pools after it; `made` are its logs, with those of
    contracts that are no pools among them."""

    block: Block
    base_fee: int
    states: dict[str, V2State | V3State]
    made: tuple[_Made, ...] = ()
    kept: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """What was once asked for, by its name or a pool's key."""

    @property
    def logs(self) -> tuple[dict[str, Any], ...]:
        """As eth_getLogs gives them."""
        found: tuple[dict[str, Any], ...] | None = self.kept.get("logs")
        if found is None:
            found = tuple(_log(self.number, self.hash, each) for each in self.made)
            self.kept["logs"] = found
        return found

    @property
    def number(self) -> int:
        return self.block.number

    @property
    def hash(self) -> str:
        return self.block.hash

    def state(self, key: str) -> dict[str, Any]:
        """The fields a reader shows."""
        found: dict[str, Any] | None = self.kept.get(key)
        if found is None:
            found = self.kept[key] = plain(self.states[key])
        return found

    def record(self, key: str) -> State:
        """The fields the frames of an epilogue carry."""
        pool = self.states[key]
        if isinstance(pool, V2State):
            return {"reserve0": pool.reserve0, "reserve1": pool.reserve1}
        return {"sqrtPriceX96": pool.sqrt_price_x96, "tick": pool.tick, "liquidity": pool.liquidity}

    @property
    def transaction_count(self) -> int:
        last = self.kept["logs"][-1]["transactionIndex"] if self.kept.get("logs") else None
        if last is not None:
            return int(last, 16) + 1
        return self.made[-1].tx_index + 1 if self.made else 0

    def receipts(self) -> list[dict[str, Any]]:
        """As eth_getBlockReceipts gives them, the fields that matter."""
        by_index: dict[int, list[dict[str, Any]]] = {}
        for log in self.logs:
            by_index.setdefault(int(log["transactionIndex"], 16), []).append(log)
        return [
            {"transactionIndex": hex(index), "logs": by_index.get(index, [])}
            for index in range(self.transaction_count)
        ]

    def header(self) -> dict[str, Any]:
        """As eth_getBlockByNumber gives it, the fields that matter."""
        found: dict[str, Any] | None = self.kept.get("header")
        if found is None:
            found = self.kept["header"] = {
                "number": hex(self.number),
                "hash": self.hash,
                "parentHash": self.block.parent_hash,
                "timestamp": hex(self.block.timestamp),
                "baseFeePerGas": hex(self.base_fee),
                "logsBloom": bloom_of(self.logs),
                "transactions": [
                    _hash(f"{self.hash} {index}") for index in range(self.transaction_count)
                ],
                "gasUsed": hex(50_000 * self.transaction_count),
            }
        return dict(found)


def price_at(tick: int, rng: random.Random) -> int:
    """A price of that tick: within (0, 5e-5) above its lower end, beyond what a float gets wrong."""
    return int(1.0001 ** (tick / 2) * 2**96 * (1 + 1e-9 * rng.randrange(1, 1000)))


@cache
def _bloom_bits(content: str) -> int:
    """The three bits of an address or topic in a block's bloom filter (yellow paper, 4.3.1)."""
    digest = keccak(bytes.fromhex(content[2:]))
    return sum({1 << (int.from_bytes(digest[at : at + 2], "big") & 2047) for at in (0, 2, 4)})


def bloom_of(logs: Iterable[dict[str, Any]]) -> str:
    """The bloom filter of a block with exactly these logs."""
    bloom = 0
    for content in {each for log in logs for each in (log["address"], *log["topics"])}:
        bloom |= _bloom_bits(content)
    return f"0x{bloom:0512x}"


class Universe:
    """Every block that ever existed, and the canonical chain now.

    A base fee depends on the parent's and on the block, as on a real chain: branches differ in it.
    Timestamps of replaced blocks may be equal. With `has_fixed_fee` siblings and their descendants have
    the same base fee, `fee_step` more in each block, and with `blocks_a_second` several blocks the same time.
    """

    def __init__(
        self,
        rng: random.Random,
        *,
        pools: Sequence[PoolFacts] = POOLS,
        has_fixed_fee: bool = False,
        fee_step: int = 0,
        blocks_a_second: int | None = None,
    ) -> None:
        self.rng = rng
        self.has_fixed_fee = has_fixed_fee
        self.fee_step = fee_step
        self.blocks_a_second = blocks_a_second
        self.pools = tuple(pools)
        self.protocols = {pool.key: pool.protocol for pool in self.pools}
        genesis = self._genesis()
        self.by_number: dict[int, list[SimBlock]] = {genesis.number: [genesis]}
        self.by_hash = {genesis.hash: genesis}
        self.chain: tuple[SimBlock, ...] = (genesis,)
        self._count = 0

    def _genesis(self) -> SimBlock:
        states: dict[str, V2State | V3State] = {}
        for pool in self.pools:
            if pool.protocol == "uniswap_v2":
                states[pool.key] = V2State(10**18, 3 * 10**18)
                continue
            amount = 10**15
            ticks = {-400: [amount, amount], 400: [amount, -amount]}
            states[pool.key] = V3State(price_at(0, self.rng), 0, amount, ticks)
        block = Block(GENESIS, _hash("genesis"), _hash("before"), GENESIS * 12, ())
        return SimBlock(block, 0 if self.has_fixed_fee else 1_000_000_000, states)

    @property
    def tip(self) -> SimBlock:
        return self.chain[-1]

    def mine(self, *, busy: int = 0) -> SimBlock:
        """A new block on the canonical tip, with `busy` more transactions than usual."""
        found = self.mine_on(self.tip, busy=busy)
        self.chain = (*self.chain, found)
        return found

    def mine_on(self, parent: SimBlock, *, busy: int = 0) -> SimBlock:
        """A new block on any block; the canonical chain stays."""
        number = parent.number + 1
        self._count += 1
        oracle = ChainOracle(dict(parent.states))
        events: list[Event] = []
        made: list[_Made] = []
        name = _hash(f"{parent.hash} {self._count} {self.rng.random()}")
        tx_index = block_log = 0
        own: set[str] = set()  # pools whose states are this block's
        quiet = not busy and self.rng.random() < 0.25
        for _ in range(0 if quiet else busy + self._below(4)):
            tx_index += 1 + self._below(2)
            log_index = 0
            for _ in range(1 + self._below(3)):
                for _ in range(self._below(3)):  # logs of other contracts
                    made.append(_Made(None, OTHER, tx_index, block_log))
                    log_index, block_log = log_index + 1, block_log + 1
                pool = self.pools[self._below(len(self.pools))]
                event = self._event(pool, oracle, tx_index, log_index, block_log)
                if self.rng.random() < 0.2:
                    made.append(_Made(event, DECOY, tx_index, block_log))
                else:
                    if pool.key not in own:
                        own.add(pool.key)
                        oracle.pools[pool.key] = _copy(oracle.pools[pool.key])
                    oracle.apply(event)
                    events.append(event)
                    made.append(_Made(event, event.emitter, tx_index, block_log))
                log_index, block_log = log_index + 1, block_log + 1
        assert not oracle.failed
        block = Block(number, name, parent.hash, self._timestamp(parent), tuple(events))
        # Siblings are hard to tell apart: base fee follows from the parent, as in a real chain, and
        # blocks come at fixed times.
        base_fee = number * self.fee_step if self.has_fixed_fee else int(parent.hash[2:10], 16)
        found = SimBlock(block, base_fee, oracle.pools, tuple(made))
        self.by_hash[name] = found
        self.by_number.setdefault(number, []).append(found)
        return found

    def _below(self, limit: int) -> int:
        """As randrange, a good deal quicker."""
        return int(self.rng.random() * limit)

    def _timestamp(self, parent: SimBlock) -> int:
        if self.blocks_a_second is None:
            return parent.block.timestamp + 12
        return GENESIS * 12 + (parent.number + 1 - GENESIS) // self.blocks_a_second

    def cut(self, depth: int) -> list[SimBlock]:
        """Orphan the newest `depth` blocks, oldest first."""
        orphaned = list(self.chain[-depth:])
        self.chain = self.chain[:-depth]
        return orphaned

    def _event(
        self, pool: PoolFacts, oracle: ChainOracle, tx_index: int, log_index: int, block_log: int
    ) -> Event:
        state = oracle.pools[pool.key]
        kind, args = self._v2() if isinstance(state, V2State) else self._v3(state, pool.protocol)
        return Event(
            pool.protocol, kind, pool.key, pool.emitter, tx_index, log_index, block_log, args
        )

    def _v2(self) -> tuple[str, dict[str, Any]]:
        reserves = [1 + self.rng.getrandbits((20, 64, 111)[self._below(3)]) for _ in range(2)]
        return "Sync", {"reserve0": reserves[0], "reserve1": reserves[1]}

    def _v3(self, state: V3State, protocol: str) -> tuple[str, dict[str, Any]]:
        is_v4 = protocol == "uniswap_v4"
        what = self.rng.random()
        if what < 0.4:
            tick = self._below(798) - 399
            active = sum(net for at, (_gross, net) in state.ticks.items() if at <= tick)
            return "Swap", {
                "sqrtPriceX96": price_at(tick, self.rng),
                "tick": tick,
                "liquidity": active,
                "amount0": self._below(2 * 10**6) - 10**6,
                "amount1": self._below(2 * 10**6) - 10**6,
            }
        lower, upper = sorted(self.rng.sample(TICKS, 2))
        most = self._removable(state, lower, upper)
        amount = 1 + self._below(10**12)
        if what < 0.7 and most:
            amount = -(most if self.rng.random() < 0.5 else self.rng.randrange(most + 1))
        if is_v4:
            return "ModifyLiquidity", {
                "tickLower": lower,
                "tickUpper": upper,
                "liquidityDelta": amount,
            }
        kind = "Mint" if amount > 0 else "Burn"
        return kind, {"tickLower": lower, "tickUpper": upper, "amount": abs(amount)}

    @staticmethod
    def _removable(state: V3State, lower: int, upper: int) -> int:
        """Liquidity of positions with exactly this range, if nothing else shares its ends."""
        ends = [state.ticks.get(tick) for tick in (lower, upper)]
        if ends[0] is None or ends[1] is None:
            return 0
        if ends[0][0] != ends[0][1] or ends[1][0] != -ends[1][1]:
            return 0
        between = [net for at, (_gross, net) in state.ticks.items() if lower < at < upper]
        if between:
            return 0
        return min(ends[0][0], ends[1][0]) if (lower, upper) != (-400, 400) else 0


def _copy(pool: V2State | V3State) -> V2State | V3State:
    if isinstance(pool, V2State):
        return V2State(pool.reserve0, pool.reserve1)
    return V3State(pool.sqrt_price_x96, pool.tick, pool.liquidity, dict(pool.ticks))


def _hash(text: str) -> str:
    return "0x" + hashlib.sha256(text.encode()).hexdigest()


# -- what a node answers


def _word(value: int) -> str:
    return (value % 2**256).to_bytes(32, "big").hex()


def _log(number: int, block_hash: str, made: _Made) -> dict[str, Any]:
    event = made.event
    if event is None:
        return _as_log(number, block_hash, made, [OTHER_TOPIC], "")
    args = event.args
    topics = [TOPIC[event.protocol, event.kind]]
    somebody = "0x" + _word(0xABCDEF)
    if event.protocol == "uniswap_v2":
        data = _word(args["reserve0"]) + _word(args["reserve1"])
    elif event.kind == "Swap":
        topics += [event.pool if event.protocol == "uniswap_v4" else somebody, somebody]
        names = ("amount0", "amount1", "sqrtPriceX96", "liquidity", "tick")
        data = "".join(_word(args[name]) for name in names)
        data += _word(3000) if event.protocol == "uniswap_v4" else ""
    elif event.kind == "ModifyLiquidity":
        topics += [event.pool, somebody]
        data = "".join(_word(args[name]) for name in ("tickLower", "tickUpper", "liquidityDelta"))
        data += _word(7)
    else:
        topics += [somebody, "0x" + _word(args["tickLower"]), "0x" + _word(args["tickUpper"])]
        data = (_word(5) if event.kind == "Mint" else "") + _word(args["amount"])
        data += _word(11) + _word(12)
    return _as_log(number, block_hash, made, topics, data)


def _as_log(
    number: int, block_hash: str, made: _Made, topics: list[str], data: str
) -> dict[str, Any]:
    return {
        "address": made.emitter,
        "topics": topics,
        "data": "0x" + data,
        "blockNumber": hex(number),
        "blockHash": block_hash,
        "transactionIndex": hex(made.tx_index),
        "logIndex": hex(made.block_log),
        "transactionHash": _hash(f"{block_hash} {made.tx_index}"),
        "removed": False,
    }


def answer(chain: tuple[SimBlock, ...], method: str, params: list[Any]) -> Any:
    """What a node with that canonical chain answers to the methods that are asked of it."""
    first = chain[0].number
    if method == "eth_chainId":
        return "0x1"
    if method == "eth_blockNumber":
        return hex(chain[-1].number)
    if method == "eth_getBlockByNumber":
        index = len(chain) - 1 if params[0] == "latest" else int(params[0], 16) - first
        return chain[index].header() if 0 <= index < len(chain) else None
    if method == "eth_getBlockByHash":
        named = [each for each in chain if each.hash == params[0]]
        return named[0].header() if named else None
    if method == "eth_getStorageAt":
        named = [each for each in chain if each.hash == params[2]["blockHash"]]
        if not named:
            raise LookupError("unknown block")
        return "0x" + _word(_storage(named[0], params[0]).get(int(params[1], 16), 0))
    if method == "eth_getBlockReceipts":
        named = [each for each in chain if each.hash == params[0]]
        return named[0].receipts() if named else None
    if method != "eth_getLogs":
        raise LookupError(f"the method {method} does not exist")
    query = params[0]
    if "blockHash" in query:
        blocks = [each for each in chain if each.hash == query["blockHash"]]
        if not blocks:
            raise LookupError("unknown block")
    else:
        low, high = int(query["fromBlock"], 16) - first, int(query["toBlock"], 16) - first
        blocks = list(chain[max(0, low) : max(0, high + 1)])
    return [log for each in blocks for log in each.logs if _is_wanted(log, query)]


def _storage(block: SimBlock, account: str) -> dict[int, int]:
    """The words of an account that hold its pools' prices, by slot (v2-core, v3-core, v4-core)."""
    found: dict[int, int] = {}
    for key, pool in block.states.items():
        if isinstance(pool, V2State):
            if key == account:
                found[8] = pool.reserve0 | pool.reserve1 << 112
            continue
        base = None
        if account == MANAGER and len(key) == 66:
            base = int.from_bytes(keccak(bytes.fromhex(key[2:]) + (6).to_bytes(32, "big")), "big")
        elif account == key:
            base = 0
        if base is not None:
            is_v4 = account == MANAGER
            fees = 3000 << 208 if is_v4 else 1 << 240
            found[base] = pool.sqrt_price_x96 | pool.tick % 2**24 << 160 | fees
            found[(base + (3 if is_v4 else 4)) % 2**256] = pool.liquidity
    return found


def _is_wanted(log: dict[str, Any], query: dict[str, Any]) -> bool:
    topics = query.get("topics") or []
    if topics and topics[0] and log["topics"][0] not in topics[0]:
        return False
    addresses = query.get("address")
    return not addresses or log["address"] in addresses


# -- what a producer sends


@dataclass(slots=True)
class ListChange:
    """A message about the list of pools: what it takes away, then what it adds.

    `blocks` is how many more blocks the producer ends, reverted ones too, before it follows it.
    """

    removed: frozenset[str]
    added: frozenset[str]
    blocks: int


class Producer(Exex):
    """The exex dialect with each block's own base fee, and a list of pools it follows late.

    `tracked` None sends every pool's events. Changes take effect at the end of a block, in order.
    """

    def __init__(
        self,
        universe: Universe,
        *,
        order: Order,
        envelope: bool,
        tracked: set[str] | None = None,
    ) -> None:
        super().__init__(first_seq=universe.rng.randrange(1, 10**6), tracked=tracked)
        self.universe = universe
        self.order = order
        self.envelope = envelope
        self.changes: deque[ListChange] = deque()
        self.ended_blocks = 0

    def _envelope(self, block: Block, events: Any, *, is_revert: bool) -> bytes:
        self.base_fee = self.universe.by_hash[block.hash].base_fee
        data = super()._envelope(block, events, is_revert=is_revert)
        self.ended_blocks += 1
        for change in self.changes:
            change.blocks -= 1
        self.follow_list()
        return data

    def follow_list(self) -> None:
        """Let the changes that are due take effect."""
        while self.changes and self.changes[0].blocks <= 0:
            change = self.changes.popleft()
            assert self.tracked is not None
            self.tracked = (self.tracked - change.removed) | change.added

    def mined(self, blocks: list[SimBlock]) -> bytes:
        return b"".join(self.block(each.block) for each in blocks)

    def reorganised(self, old: list[SimBlock], new: list[SimBlock], tip: SimBlock) -> bytes:
        """`tip` is the canonical tip afterwards."""
        olds, news = [each.block for each in old], [each.block for each in new]
        if not self.envelope:
            return b"".join(self.bare_reorg(olds, news, self.order))
        final = {key: tip.record(key) for key in tip.states}
        return self.reorg(olds, news, final, self.order)


def frames_of(data: bytes) -> list[bytes]:
    found = []
    at = 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        found.append(data[at:end])
        at = end
    return found


@dataclass(slots=True)
class Delivery:
    """What reaches the client: `None` closes the connection, bytes are sent as they are."""

    parts: list[bytes | None] = field(default_factory=list)
    note: str = ""


FAULTS = ("lose", "repeat", "truncate", "drop", "offline", "skip", "garble")


def disturb(data: bytes, fault: str | None, rng: random.Random) -> Delivery:
    """`data`, whole frames, with one fault on its way."""
    frames = frames_of(data)
    if fault is None or not frames:
        return Delivery([data], "sent")
    at = rng.randrange(len(frames))
    if fault == "lose":
        end = rng.randrange(at + 1, len(frames) + 1)
        kept = frames[:at] + frames[end:]
        return Delivery([b"".join(kept)], f"lost frames {at} to {end - 1} of {len(frames)}")
    if fault == "repeat":
        kept = [*frames[: at + 1], *frames[at:]]
        return Delivery([b"".join(kept)], f"frame {at} of {len(frames)} twice")
    if fault == "truncate":
        cut = rng.randrange(1, len(frames[at]))
        rest = b"".join(frames[rng.randrange(at, len(frames)) :])
        parts: list[bytes | None] = [b"".join(frames[:at]) + frames[at][:cut], None]
        if rng.random() < 0.5:
            parts.append(rest)
        return Delivery(parts, f"frame {at} of {len(frames)} cut, the rest to a new connection")
    if fault == "drop":
        return Delivery(
            [b"".join(frames[:at]), None, b"".join(frames[at:])], f"closed before frame {at}"
        )
    if fault == "garble":
        broken = bytearray(frames[at])
        broken[4] ^= 0x55
        parts = [b"".join([*frames[:at], bytes(broken), *frames[at + 1 :]]), None]
        return Delivery(parts, f"frame {at} garbled")
    return Delivery([None], "nothing is sent")


# -- a state file

FEES: dict[str, dict[str, Any]] = {
    "uniswap_v2": {},
    "uniswap_v3": {"tick_spacing": 10},
    "uniswap_v4": {"tick_spacing": 10},
}


def write_states(
    path: Path, universe: Universe, block: SimBlock, keys: Collection[str] | None = None
) -> None:
    """Every pool, or those of `keys`, at the end of `block`, as a state file; it appears whole."""
    lines = []
    for key, protocol in universe.protocols.items():
        if keys is not None and key not in keys:
            continue
        pool = block.states[key]
        line: dict[str, Any] = {
            "pool": key,
            "protocol": protocol,
            "block": block.number,
            "fee_pips": 3000,
            "token0": {"address": TOKENS[0], "decimals": 18, "symbol": "ONE"},
            "token1": {"address": TOKENS[1], "decimals": 18, "symbol": "TWO"},
        } | FEES[protocol]
        if isinstance(pool, V2State):
            line |= {"reserve0": str(pool.reserve0), "reserve1": str(pool.reserve1)}
        else:
            line |= {
                "sqrt_price_x96": str(pool.sqrt_price_x96),
                "tick": pool.tick,
                "liquidity": str(pool.liquidity),
                "ticks": [[t, str(g), str(n)] for t, (g, n) in sorted(pool.ticks.items())],
            }
        if protocol == "uniswap_v4":
            line |= {
                "factory": "0x" + "99" * 20,
                "hooks": HOOKS[key],
                "lp_fee": 3000,
                "protocol_fee": 0,
            }
        lines.append(json.dumps(line))
    part = path.with_suffix(".part")
    part.write_text("\n".join(lines) + "\n")
    part.rename(path)
