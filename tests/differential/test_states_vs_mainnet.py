"""What happened on mainnet against the product: quotes, states event by event, and logs.

The truth is the chain's: what its quoters answered, what its transactions paid and got, what its logs
said. Every file in the folders is run, whatever its name; the counts of those kept in the repository
are asserted, so nothing of them is left out unseen. Formats: tests/data/README.md.
"""

import gzip
import json
import os
import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from builders.frames import Exex
from builders.reth_database import keccak
from chains.evm_data import Block, Event
from oracle.chain_oracle import ChainOracle, V2State, V3State

import arena
from arena.errors import ArenaError, HookedPool, LogInvalid, NodeBehind, RpcRefused
from arena.layouts.slots import UNISWAP_V2, UNISWAP_V3
from arena.native import lib
from arena.specs import PoolSpec, TokenSpec
from arena.writer.node.rpc_node import RpcNode
from arena.writer.producers.follow import Follower
from arena.writer.protocols.held import pool_target
from arena.writer.scrapers.statefile import read_state_file
from arena.writer.stream.blocks import fetch_blocks
from arena.writer.stream.socket import Feed
from arena.writer.sync.applying import Processor
from arena.writing import WriterArena

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "tests" / "data" / "mainnet"
# More of the same kinds, where there are any.
FOLDERS = (KEPT, Path(os.environ.get("PSA_MAINNET", ROOT.parent / "shared" / "mainnet")))
LONG_NBYTES = 300_000  # some 12,000 events, half a minute
Record = dict[str, Any]


def files(pattern: str) -> list[Any]:
    """Each file of the folders once, by content; long ones are left to the second test command."""
    seen: dict[bytes, Path] = {}
    for folder in FOLDERS:
        for path in sorted(folder.glob(pattern)):
            seen.setdefault(path.read_bytes(), path)
    return [
        pytest.param(
            path, id=title(path), marks=[pytest.mark.slow] if len(content) > LONG_NBYTES else []
        )
        for content, path in seen.items()
    ]


def title(path: Path) -> str:
    return path.name.removesuffix(".jsonl.gz")


def lines(path: Path) -> Iterator[Record]:
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)


def install(writer: WriterArena, states: Sequence[Record], folder: Path) -> dict[bytes, PoolSpec]:
    """The states as a state file brings them; all of them are accepted."""
    path = folder / "states.jsonl"
    path.write_text("".join(json.dumps(state) + "\n" for state in states))
    content = read_state_file(path)
    assert not content.invalid
    assert len(content.pools) == len(states)
    for key, found in content.pools.items():
        slot = writer.add_pool(content.specs[key])
        writer.install(slot, found.values, status=lib.PSA_STATUS_LIVE)
    writer.set_head(max(state["block"] for state in states))
    writer.commit()
    return content.specs


# -- quotes on states

QUOTES = {
    "states": 568,
    "in": 2292,
    "out": 2053,
    "reverts": 9,
    "chain": 293,
    "reference": 4053,
    "simulator": 8,
    "ladders": 4312,
}


def answer(pool: Any, question: Record, options: Record) -> Any:
    ask = pool.quote_exact_in if question["mode"] == "in" else pool.quote_exact_out
    try:
        return ask(int(question["amount"]), zero_for_one=question["zf1"], **options)
    except ArenaError as error:
        return error


def is_as_told(found: Any, question: Record) -> bool:
    """Whether the quote says what the data says, as far as the data says it."""
    if question["revert"]:
        return isinstance(found, ArenaError) or not found.is_complete
    if isinstance(found, ArenaError):
        return False
    shown = {
        "in": found.amount_in,
        "out": found.amount_out,
        "price": found.sqrt_price_x96_after,
        "tick": found.tick_after,
        "liq": found.liquidity_after,
    }
    return all(
        question[name] is None or int(question[name]) == value for name, value in shown.items()
    )


def rounds(rows: list[Record]) -> Iterator[list[Record]]:
    """The rows in lots that name no pool twice."""
    left = rows
    while left:
        lot = {row["state"]["pool"]: row for row in reversed(left)}
        chosen = {id(row) for row in lot.values()}
        yield list(lot.values())
        left = [row for row in left if id(row) not in chosen]


@pytest.mark.parametrize("path", files("quotes_*.jsonl.gz"))
def test_quotes_are_what_the_chain_answered(path: Path, tmp_path: Path, arena_name: str) -> None:
    counts: Counter[str] = Counter()
    differences = []
    for index, rows in enumerate(rounds(list(lines(path)))):
        name = f"{arena_name}-{index}"
        with WriterArena.create(name, max_pools=len(rows), tick_bytes=1 << 20) as writer:
            install(writer, [row["state"] for row in rows], tmp_path)
            with arena.attach(name) as reader:
                for row in rows:
                    counts["states"] += 1
                    pool = reader[row["state"]["pool"]]
                    for question in row["quotes"]:
                        if not ask_every_way(pool, question, counts):
                            differences.append((row["set"], row["state"]["pool"], question))
            writer.close(unlink=True)
    assert differences == []
    if path.parent == KEPT:
        assert counts == QUOTES
    assert counts["in"] + counts["out"] > 0


def ask_every_way(pool: Any, question: Record, counts: Counter[str]) -> bool:
    """In shared memory, on a copy and, without a limit, on a ladder: all are as told."""
    options: Record = {}
    if question["limit"] is not None:
        options["sqrt_price_limit_x96"] = int(question["limit"])
    if question.get("lp_fee") is not None:
        options["lp_fee"] = int(question["lp_fee"])
        counts["fees given"] += 1
    counts["reverts" if question["revert"] else question["mode"]] += 1
    counts[question["truth"]] += 1
    found = answer(pool, question, options)
    if isinstance(found, HookedPool) and "lp_fee" in options:
        counts["hooks allowed"] += 1  # refused unless asked for; its hook only sets the fee
        options["allow_hooks"] = True
        found = answer(pool, question, options)
    copied = answer(pool.freeze(), question, options)
    good = is_as_told(found, question) and is_as_told(copied, question)
    if question["limit"] is None and not isinstance(found, ArenaError):
        counts["ladders"] += 1
        ladder = pool.ladder(
            zero_for_one=question["zf1"], exact_out=question["mode"] == "out", **options
        )
        good &= ladder.quote(int(question["amount"])) == found
    return good


# -- states, event by event


@dataclass(frozen=True, slots=True)
class Story:
    """A recorded stretch of the chain: where the pools start, and what happens to them."""

    states: list[Record]
    rows: list[Record]

    @classmethod
    def read(cls, path: Path) -> "Story":
        start, *rows = lines(path)
        assert start["kind"] == "start"
        return cls(start["pools"], sorted(rows, key=lambda row: (row["b"], row["tx"], row["li"])))

    def event(self, row: Record) -> Event:
        state = self.states[row["pool"]]
        kind, args = _EVENTS[row["k"]]
        return Event(
            state["protocol"],
            kind,
            state["pool"],
            state["pool"],
            row["tx"],
            row["li"],
            row["li"],
            {name: int(row[field]) for name, field in args.items()},
        )

    def blocks(self) -> Iterator[tuple[int, int, list[Record]]]:
        """Number, time and rows of each block, in order."""
        for block_number, rows in groupby(self.rows, key=lambda row: row["b"]):
            found = list(rows)
            yield block_number, found[0]["ts"], found


_LIQUIDITY = {"tickLower": "lo", "tickUpper": "hi", "amount": "L"}
_EVENTS = {
    "swap": ("Swap", {"sqrtPriceX96": "p", "liquidity": "L", "tick": "t"}),
    "mint": ("Mint", _LIQUIDITY),
    "burn": ("Burn", _LIQUIDITY),
    "sync": ("Sync", {"reserve0": "r0", "reserve1": "r1"}),
}


def truth_of(state: Record) -> V2State | V3State:
    if "reserve0" in state:
        return V2State(int(state["reserve0"]), int(state["reserve1"]))
    ticks = {tick: [int(gross), int(net)] for tick, gross, net in state["ticks"]}
    return V3State(int(state["sqrt_price_x96"]), state["tick"], int(state["liquidity"]), ticks)


def is_state(pool: Any, truth: V2State | V3State) -> bool:
    state = pool.state()
    if state.status != "live":
        return False
    if isinstance(truth, V2State):
        return (state.reserve0, state.reserve1) == (truth.reserve0, truth.reserve1)
    fields = (truth.sqrt_price_x96, truth.tick, truth.liquidity)
    ticks = tuple((tick, *truth.ticks[tick]) for tick in sorted(truth.ticks))
    return (state.sqrt_price_x96, state.tick, state.liquidity) == fields and state.ticks == ticks


def is_paid(pool: Any, row: Record) -> bool:
    """Whether the swap's question, asked of the state before it, gives what the swap did."""
    mode, amount, limit = row["ask"]
    question = {"mode": mode, "amount": amount, "zf1": row["zf1"], "revert": False}
    question |= {"in": row["in"], "out": row["out"]}
    question |= {"price": row.get("p"), "tick": row.get("t"), "liq": None}
    if "p" in row:
        question["liq"] = row["L"]
    options = {} if limit is None else {"sqrt_price_limit_x96": int(limit)}
    return is_as_told(answer(pool, question, options), question)


class Told:
    """A producer's socket, its client and the arena, all on this thread."""

    def __init__(self, writer: WriterArena, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._processor = Processor(writer)
        self._feed = Feed(path, dialect="exex")
        assert self._feed.connect(5)
        self._client, _ = self._listener.accept()

    def tell(self, frames: bytes) -> None:
        """Send one block, decode what arrives and apply it."""
        self._client.sendall(frames)
        while True:
            batch = self._feed.receive(10)
            assert batch.faults == []
            if len(batch.records):
                break
        self._processor.apply(batch.records)

    def close(self) -> None:
        self._feed.close()
        self._client.close()
        self._listener.close()


CHAINS = {
    "usdc_weth_500_2024-01-05_a": {"events": 3083, "asked": 3023, "taken back": 1045},
    "usdc_weth_3000_2024-01-05_a": {"events": 143, "asked": 132, "taken back": 16},
    "usdc_weth_3000_liquidity_a": {"events": 17981, "taken back": 2253, "snapshots": 1},
    "weth_osqth_3000_2024-01-05_b": {"events": 22, "asked": 20, "taken back": 4},
    "weth_ens_3000_from_creation": {"events": 68, "asked": 63, "taken back": 27},
    "v2_17173049_17173050": {"events": 69, "asked": 65, "taken back": 67},
    "v2_lp_15944408_15944429": {"events": 16, "asked": 15, "taken back": 9},
    "v2_lp_15965717_15965723": {"events": 11, "asked": 11, "taken back": 7},
    "v2_lp_15966460_15966479": {"events": 15, "asked": 13, "taken back": 3},
}
SNAPSHOT = "v3_usdc_weth_bella_snapshot2"
"""Another source's list of all ticks of a pool, at a block of its chain of liquidity changes."""


@pytest.mark.parametrize("path", files("chain_*.jsonl.gz"))
def test_every_event_leads_to_the_state_the_chain_had(
    path: Path, tmp_path: Path, arena_name: str
) -> None:
    """Of a block of n events, blocks of its first 1, 2 .. n are told, and each but the last is taken
    back: the state is looked at after every event and after every step back."""
    story = Story.read(path)
    truth = ChainOracle({state["pool"]: truth_of(state) for state in story.states})
    frames = Exex()
    counts: Counter[str] = Counter()
    snapshots = [state for state in snapshot_states() if state["pool"] in truth.pools]
    with WriterArena.create(arena_name, max_pools=64, tick_bytes=1 << 20) as writer:
        install(writer, story.states, tmp_path)
        told = Told(writer, tmp_path / "feed.sock")
        with arena.attach(arena_name) as reader:
            pools = {state["pool"]: reader[state["pool"]] for state in story.states}
            for block_number, timestamp, rows in story.blocks():
                events = [story.event(row) for row in rows]
                touched = {event.pool: pools[event.pool].state() for event in events}
                block = Block(block_number, "", "", timestamp, ())
                for index, (row, event) in enumerate(zip(rows, events, strict=True), 1):
                    if "ask" in row:
                        counts["asked"] += 1
                        assert is_paid(pools[event.pool], row), row
                    if index > 1:
                        told.tell(frames.reverted_block(block, "newest-first"))
                        counts["taken back"] += 1
                        for key, state in touched.items():
                            assert pools[key].state() == state, (key, row)
                    block = Block(block_number, "", "", timestamp, tuple(events[:index]))
                    told.tell(frames.block(block))
                    truth.apply(event)
                    counts["events"] += 1
                    assert is_state(pools[event.pool], truth.pools[event.pool]), row
                for state in snapshots:
                    if state["block"] == block_number:
                        counts["snapshots"] += 1
                        found = pools[state["pool"]].state().ticks
                        assert found == tuple(tuple(map(int, tick)) for tick in state["ticks"])
            for key, pool in pools.items():
                assert is_state(pool, truth.pools[key]), key
        told.close()
        assert writer.take_faults() == ([], 0)
        writer.close(unlink=True)
    assert truth.failed == set()
    if path.parent == KEPT:
        assert counts == CHAINS[title(path).removeprefix("chain_")]
    assert counts["events"] == len(story.rows) > 0


def snapshot_states() -> list[Record]:
    rows = lines(KEPT / "quotes_states.jsonl.gz")
    return [row["state"] for row in rows if row["set"] == SNAPSHOT]


# -- logs of whole blocks


class LogsOfBlocks:
    """A node that has these blocks and nothing else; it leaves `missing` out of every answer."""

    def __init__(self, path: Path) -> None:
        self.logs = list(lines(path))
        self.missing: Record | None = None
        self.blocks: dict[int, Record] = {}
        parent = "0x" + "11" * 32
        for name, logs in groupby(self.logs, key=lambda log: log["blockNumber"]):
            first, *more = logs
            self.blocks[int(name, 16)] = {
                "number": name,
                "hash": first["blockHash"],
                "parentHash": parent,
                "timestamp": hex(1683029999 + 12 * len(self.blocks)),
                "baseFeePerGas": "0x1",
                "logsBloom": "0x" + bloom([first, *more]).hex(),
            }
            parent = first["blockHash"]

    def call(self, method: str, *parameters: Any) -> Any:
        answer = getattr(self, method, None)
        if answer is None:
            raise RpcRefused(f"{method} is not known", code=-32601, reason="method not found")
        return answer(*parameters)

    def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        return [self.call(method, *parameters) for method, parameters in calls]

    def eth_blockNumber(self) -> str:
        return hex(max(self.blocks))

    def eth_getBlockByNumber(self, name: str, full: bool) -> Record | None:
        return self.blocks.get(max(self.blocks) if name == "latest" else int(name, 16))

    def eth_getBlockByHash(self, block_hash: str, full: bool) -> Record | None:
        found = [block for block in self.blocks.values() if block["hash"] == block_hash]
        return found[0] if found else None

    def eth_getLogs(self, wanted: Record) -> list[Record]:
        found = [log for log in self.logs if log is not self.missing]
        if "blockHash" in wanted:
            found = [log for log in found if log["blockHash"] == wanted["blockHash"]]
        else:
            first, last = int(wanted["fromBlock"], 16), int(wanted["toBlock"], 16)
            found = [log for log in found if first <= int(log["blockNumber"], 16) <= last]
        if wanted.get("address"):
            found = [log for log in found if log["address"] in wanted["address"]]
        for index, topics in enumerate(wanted.get("topics", [])):
            if topics is not None:
                found = [log for log in found if {*log["topics"][index : index + 1]} & {*topics}]
        return found


def bloom(logs: Sequence[Record]) -> bytes:
    """The block's filter, bit by bit, as the yellow paper has it."""
    bits = 0
    for content in {text for log in logs for text in (log["address"], *log["topics"])}:
        digest = keccak(bytes.fromhex(content[2:]))
        for at in (0, 2, 4):
            bits |= 1 << int.from_bytes(digest[at : at + 2], "big") % 2048
    return bits.to_bytes(256, "big")


V2_SYNC = "0x1c411e9a96e071241c2f21f7726b17ae89e3cab4c78be50e062b03a9fffbbad1"
V3_SWAP = "0xc42079f94a6350d7e6235f29174924f928cc2ac818eb64fed8004e115fbcca67"
Effect = tuple[int, int, str, tuple[int, ...]]


def pools_of(logs: Sequence[Record]) -> dict[bytes, PoolSpec]:
    """Every pair and every pool that swapped."""
    tokens = TokenSpec(bytes([1]) * 20, 18, ""), TokenSpec(bytes([2]) * 20, 18, "")
    specs = {}
    for log in logs:
        key = bytes.fromhex(log["address"][2:])
        if log["topics"][0] == V2_SYNC:
            specs[key] = PoolSpec(key, UNISWAP_V2, *tokens, 3000, 0, bytes(20), bytes(20))
        elif log["topics"][0] == V3_SWAP:
            specs[key] = PoolSpec(key, UNISWAP_V3, *tokens, 3000, 60, bytes(20), bytes(20))
    return specs


def effects_of(logs: Sequence[Record]) -> list[Effect]:
    """(block, transaction, pool, values) of each Sync and Swap, read by the contracts' ABI."""
    found = []
    for log in logs:
        data = bytes.fromhex(log["data"][2:])
        words = [
            int.from_bytes(data[at : at + 32], "big", signed=True) for at in range(0, len(data), 32)
        ]
        values = {V2_SYNC: words[:2], V3_SWAP: words[2:5]}.get(log["topics"][0])
        if values is not None:
            places = int(log["blockNumber"], 16), int(log["transactionIndex"], 16)
            found.append((*places, log["address"], tuple(values)))
    return found


def effects_in(blocks: Sequence[Any]) -> list[Effect]:
    """The same of the product's records."""
    found = []
    for record in (record for records in blocks for record in records):
        if record["key_nbytes"] == 0:
            continue
        words, amount = record["words"].tolist(), record["amount"].tolist()
        low = sum(word << 64 * index for index, word in enumerate(words[:4]))
        if record["protocol"] == UNISWAP_V2:
            values = (low, sum(word << 64 * index for index, word in enumerate(words[4:])))
        else:
            values = (low, amount[0] | amount[1] << 64, int(record["tick"]))
        key = "0x" + record["key"].tobytes()[: record["key_nbytes"]].hex()
        found.append((int(record["block_number"]), int(record["tx_index"]), key, values))
    return found


def followed(node: LogsOfBlocks, specs: Mapping[bytes, PoolSpec]) -> list[Effect]:
    """What the bridge sends of the blocks."""
    asked = RpcNode(node)
    follower = Follower(asked, [pool_target(spec) for spec in specs.values()])
    found = []
    for head in asked.headers(sorted(node.blocks)):
        assert head is not None
        found += [records.copy() for _, records in follower.advance(head)]
    return effects_in(found)


def fetched(node: LogsOfBlocks, specs: Mapping[bytes, PoolSpec]) -> list[Effect]:
    """What a gap is closed with."""
    blocks = fetch_blocks(RpcNode(node), min(node.blocks), max(node.blocks), specs)
    return effects_in([block.records for block in blocks])


LOGS = {"logs": 681, "pools": 47, "values": 79}


@pytest.mark.parametrize("path", files("logs_*.jsonl.gz"))
def test_the_logs_of_whole_blocks_give_every_pools_values(path: Path) -> None:
    node = LogsOfBlocks(path)
    specs = pools_of(node.logs)
    truth = effects_of(node.logs)
    assert followed(node, specs) == truth
    assert fetched(node, specs) == truth
    assert truth
    if path.parent == KEPT:
        assert {"logs": len(node.logs), "pools": len(specs), "values": len(truth)} == LOGS


@pytest.mark.slow
@pytest.mark.parametrize("path", files("logs_*.jsonl.gz"))
@pytest.mark.parametrize("told", [followed, fetched])
def test_a_log_left_out_is_never_taken_for_the_whole_block(path: Path, told: Any) -> None:
    node = LogsOfBlocks(path)
    specs = pools_of(node.logs)
    of_pools = [log for log in node.logs if log["topics"][0] in (V2_SYNC, V3_SWAP)]
    for node.missing in of_pools[::3]:
        with pytest.raises((NodeBehind, LogInvalid)):
            told(node, specs)


def test_the_sync_logs_of_two_blocks_are_the_chain_told_event_by_event() -> None:
    logs = list(lines(KEPT / "logs_17173049_17173050.jsonl.gz"))
    story = Story.read(KEPT / "chain_v2_17173049_17173050.jsonl.gz")
    told = [
        (row["b"], row["tx"], story.states[row["pool"]]["pool"], (int(row["r0"]), int(row["r1"])))
        for row in story.rows
    ]
    assert told == [effect for effect in effects_of(logs) if len(effect[3]) == 2]
