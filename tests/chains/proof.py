"""A live chain, a bridge, a writer and readers, held against the node block by block.

Everything is a process of its own: the node with the real contracts and a seeded trader, the installed
arena-bridge and arena-writer, three readers. State is compared with the contracts' getters, quotes with
what the deployed contracts answer to eth_call at the same block and to real swaps that are taken back.
Nothing of the product is imported.
"""

import contextlib
import json
import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, Self

from roles.processes import BridgeProcess, ReaderProcess, WriterProcess

from chains.evm import signed, split, tail, words
from chains.market import DYNAMIC_FEE, HIGHEST_LIMIT, LOWEST_LIMIT, ZERO, Market, Pool
from chains.process import Node, NodeError, bytecode

V3_LENS = "@uniswap/v3-periphery/artifacts/contracts/lens/"
V2_ROUTER = "@uniswap/v2-periphery/build/UniswapV2Router02.json"
V4_LENS = "@uniswap/v4-periphery/foundry-out/"
NOT_IN_THE_FEED = ("protocol_fee", "lp_fee")
READERS = 3
SECONDS = 60.0
QUOTES_AT_ONCE = 100
INT128 = 1 << 127

Ask = tuple[str, bool, bool, int]
"""Pool, zero_for_one, exact_out, amount."""


class Proof:
    """Owns all processes; a context manager. `folder` holds their files.

    `node_address` and `bridge` say how the writer gets its stream: from arena-bridge at that address
    of the node, or, where `embedded`, from the writer's own. `node_socket` is the path of something
    in front of the node's IPC socket; `in_front` makes what stands in front of all the node's addresses, a
    context manager with `http` and `ws`. `name_pools` gives the options that say what the list of pools is,
    once there are pools; without it that is the file `pools`.
    """

    def __init__(
        self,
        folder: Path,
        arena_name: str,
        *,
        seed: int,
        pools: int = 8,
        transport: Literal["ws", "ipc", "http"] = "ws",
        embedded: bool = False,
        node_options: tuple[str, ...] = (),
        node_socket: Path | None = None,
        in_front: Callable[[Node], Any] | None = None,
        readers: int = READERS,
        writer_options: tuple[str, ...] = (),
        name_pools: Callable[[Market], tuple[str, ...]] | None = None,
    ) -> None:
        self.folder = folder
        self.writer_options = writer_options
        self.arena_name = arena_name
        self.watched: list[str] | None = None  # keys the readers compare; None: all
        self.totals = dict.fromkeys(("blocks", "reorgs", "states", "quotes", "swaps"), 0)
        self.random = random.Random(f"proof {seed}")
        self._has_orphans = False  # the next block replaces one that was taken back
        self._stack = contextlib.ExitStack()
        try:
            self.node = self._stack.enter_context(Node(folder, more=node_options))
            self.market = Market(self.node, seed=seed, tokens=8)
            self.market.create_pools(v2=pools, v3=pools, v4=pools, cake=pools)
            self._deploy_quoters()
            for _ in range(3):
                self.market.step(8)
            self.pools = folder / "pools.json"
            self.list_pools()
            self.list_options = ("--pools", str(self.pools))
            if name_pools is not None:
                self.list_options = name_pools(self.market)
            front = self.node
            if in_front is not None:
                front = self._stack.enter_context(in_front(self.node))
            self.address = str(node_socket or getattr(front, transport))
            self.rpc: str = front.http
            self.socket = folder / "bridge.sock"
            self.embedded = embedded
            self.bridge: BridgeProcess | None = None
            self.writer: WriterProcess | None = None
            if not embedded:
                self.start_bridge()
            self.start_writer()
            self.readers = [
                self._stack.enter_context(ReaderProcess(folder, arena_name)) for _ in range(readers)
            ]
        except BaseException:
            self.close()
            raise

    # -- processes

    def list_pools(self, keys: Iterable[str] | None = None) -> None:
        """Replace the list of pools, as an editor does; None lists all there are."""
        fresh = self.pools.with_suffix(".new")
        fresh.write_text(json.dumps(self.market.pool_list(keys)))
        fresh.replace(self.pools)

    def start_bridge(self, address: str | None = None) -> None:
        self.bridge = BridgeProcess(
            self.folder, node=address or self.address, pools=self.pools, socket=self.socket
        )

    def start_writer(self) -> None:
        more = (*self.list_options, *self.writer_options)
        if self.embedded:
            more += ("--node", self.address)
        else:
            more += ("--rpc", self.rpc)
        self.writer = WriterProcess(
            self.folder,
            name=self.arena_name,
            socket=None if self.embedded else self.socket,
            more=more,
        )

    def writer_log(self) -> str:
        assert self.writer is not None
        return self.writer.log.read_text(errors="replace")

    def wait_live(self) -> None:
        """Until every reader sees a live arena at a block made from now on; the trader goes on
        meanwhile, for a stream that was interrupted goes on with the next block."""
        limit = time.monotonic() + SECONDS
        self.market.step(4)
        block = self.node.block()["number"]
        for reader in self.readers:
            while not reader.ask(do="live", block=block, seconds=0.05)["ok"]:
                assert time.monotonic() < limit, self.writer_log()[-4000:]
                self.market.step(4)

    def undisturbed(self) -> bool:
        """Whether the writer needed one connection and one scrape, lost nothing, and mended nothing."""
        log = self.writer_log()
        once = log.count("event=connected ") == 1 and log.count("event=scraping ") == 1
        return once and not any(
            mark in log
            for mark in ("event=gap", "event=scrape_again", "made_stale=yes", "ReorgMismatch")
        )

    def trade(self, blocks: int) -> None:
        """Blocks that nobody looks at."""
        for _ in range(blocks):
            self.market.keep_snapshot()
            self.market.step(6)
            self.totals["blocks"] += 1

    def restart_node(self) -> None:
        """The node goes away and comes back with its chain, if `node_options` have it keep one."""
        self.node.restart(down_s=1.0)
        self.market.forget_snapshots()

    def kill_writer(self) -> None:
        """kill -9; its segment stays."""
        assert self.writer is not None
        self.writer.process.kill()
        self.writer.process.wait()

    def close(self) -> None:
        try:
            with contextlib.ExitStack() as ending:
                ending.push(self._stack)
                if self.bridge is not None:
                    ending.push(self.bridge)
                if self.writer is not None:
                    ending.push(self.writer)
        finally:
            self.bridge = self.writer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, value: BaseException | None, trace: object) -> None:
        if value is not None and self.writer is not None:
            value.add_note(f"writer's log ends:\n{self.writer_log()[-4000:]}")
        self.close()

    # -- state

    def truth(self, block_hash: str, *, every_word: bool = False) -> dict[str, dict[str, Any]]:
        states = self.market.states(block_hash, self.watched, every_word=every_word)
        return {
            key: {name: value for name, value in state.items() if name not in NOT_IN_THE_FEED}
            for key, state in states.items()
        }

    def equal(self, *, every_word: bool = False, settle: bool = True) -> None:
        """All readers are at the node's newest block, and every pool is live and as it says; without
        `settle` the first view they have of that block is."""
        block = self.node.block()
        truth = self.truth(block["hash"], every_word=every_word)
        for reader in self.readers:
            reader.tell_expected(block["number"], truth, settle=settle, seconds=SECONDS)
        for reader in self.readers:
            reader.check_expected(block["number"])
        self.totals["states"] += len(truth) * len(self.readers)

    def block(self, operations: int = 8, *, settle: bool = False) -> None:
        self.market.keep_snapshot()
        if self.totals["blocks"] % 50 == 10 and len(self.market.foreign) < 12:
            self.market.create_foreign_pools()
        if self.totals["blocks"] % 3 == 0:
            self.node.send(self.market.side_operations())
        self.market.step(operations)
        self.totals["blocks"] += 1
        self.equal(settle=settle or self._has_orphans)
        self._has_orphans = False

    def reorg(self, depth: int, method: Literal["anvil_reorg", "evm_revert"]) -> None:
        """Replace the newest blocks, by as many or by up to twice as many.

        Where the node has no way back to the common block, anvil_reorg is taken.
        """
        if not self.market.can_revert(depth):
            method = "anvil_reorg"
        self.market.reorg(depth, method=method, operations=3 * depth)
        count = depth
        if method == "evm_revert":
            count = self.random.randrange(1, 2 * depth + 1)
            for _ in range(count):
                self.market.step(6)
        self.totals["blocks"] += count
        self.totals["reorgs"] += 1
        self.equal()

    # -- quotes

    def _deploy_quoters(self) -> None:
        market, node = self.market, self.node
        made = [
            bytecode(V2_ROUTER) + words(market.v2_factory, ZERO),
            bytecode(V3_LENS + "QuoterV2.sol/QuoterV2.json") + words(market.v3_factory, ZERO),
            bytecode(V4_LENS + "V4Quoter.sol/V4Quoter.json") + words(market.manager),
        ]
        receipts = node.run([node.transaction(None, code) for code in made])
        created = [each["contractAddress"].lower() for each in receipts]
        self.v2_router, self.v3_quoter, self.v4_quoter = created

    def asks(self, count: int) -> list[Ask]:
        """Random quotes of pools whose hooks and fees leave them to the contracts' own rules."""
        plain = [pool for pool in self.market.pools if pool.fee_pips != DYNAMIC_FEE]
        chosen = []
        for _ in range(count):
            pool = self.random.choice(plain)
            amount = int(10 ** self.random.uniform(0, 24))
            sides = self.random.random() < 0.5, self.random.random() < 0.4
            chosen.append((pool.key, *sides, amount))
        return chosen

    def quotes(self, count: int) -> None:
        """Readers answer at the newest block as the deployed contracts do there."""
        block = self.node.block()
        asks = self.asks(count)
        found = []
        for index, reader in enumerate(self.readers):
            mine = asks[index :: len(self.readers)]
            number, answers = reader.quotes([list(ask) for ask in mine])
            assert number == block["number"]
            found += list(zip(mine, answers, strict=True))
        pairs = {ask[0] for ask in asks if self.market.by_key[ask[0]].kind == "uniswap_v2"}
        reserves = self.market.states(block["hash"], pairs)
        calls, checks = [], []
        for ask, answer in found:
            if ask[0] in pairs:
                asked = self._pair_calls(ask, answer, reserves[ask[0]])
            else:
                asked = self._calls(ask, answer)
            for call, check in asked:
                # A swap through a whole range of spacing 1 takes more than a block may.
                call = call | {"gas": hex(1 << 40)}
                calls.append(("eth_call", (call, {"blockHash": block["hash"]})))
                checks.append((ask, answer, check))
        for start in range(0, len(calls), QUOTES_AT_ONCE):
            results = self.node.batch(calls[start : start + QUOTES_AT_ONCE])
            for (ask, answer, check), result in zip(checks[start:], results, strict=False):
                if not isinstance(result, NodeError):
                    result = split(bytes.fromhex(result[2:]))
                check(ask, answer, result)
        self.totals["quotes"] += len(found)

    def _calls(self, ask: Ask, answer: Any) -> list[tuple[dict[str, str], Any]]:
        """What to ask the contracts for one quote, and how to check it."""
        key, zero_for_one, exact_out, amount = ask
        pool = self.market.by_key[key]
        specified = -amount if exact_out else amount
        swap = self.market._swap(pool, zero_for_one, specified)
        if pool.kind == "uniswap_v4":
            calls = [(swap, _check_v4_swap)]
            if answer != "AmountOutOfRange":
                calls.append((self._v4_quote(pool, ask), _check_v4_quote))
            return calls
        limit = LOWEST_LIMIT if zero_for_one else HIGHEST_LIMIT
        data = self.node.selector("swap(address,bool,int256,uint160,bytes)")
        data += words(self.market.actor, int(zero_for_one), specified, limit, 5 * 32)
        data += tail(words(pool.token0, pool.token1))
        swap = self.node.transaction(pool.address, data) | {"from": self.market.actor}
        calls = [(swap, _check_v3_swap)]
        if pool.kind == "uniswap_v3":
            calls.append((self._v3_quote(pool, ask), _check_v3_quote))
        return calls

    def _v3_quote(self, pool: Pool, ask: Ask) -> dict[str, str]:
        _, zero_for_one, exact_out, amount = ask
        name = "quoteExactOutputSingle" if exact_out else "quoteExactInputSingle"
        tokens = (pool.token0, pool.token1) if zero_for_one else (pool.token1, pool.token0)
        data = self.node.selector(f"{name}((address,address,uint256,uint24,uint160))")
        return self.node.transaction(
            self.v3_quoter, data + words(*tokens, amount, pool.fee_pips, 0)
        )

    def _v4_quote(self, pool: Pool, ask: Ask) -> dict[str, str]:
        _, zero_for_one, exact_out, amount = ask
        name = "quoteExactOutputSingle" if exact_out else "quoteExactInputSingle"
        key = "(address,address,uint24,int24,address)"
        data = self.node.selector(f"{name}(({key},bool,uint128,bytes))") + words(32)
        data += pool.v4_key + words(int(zero_for_one), amount, 8 * 32) + tail(b"")
        return self.node.transaction(self.v4_quoter, data)

    def _pair_calls(self, ask: Ask, answer: Any, state: dict[str, int]) -> list[Any]:
        """The router's library, and a swap of the pair itself."""
        key, zero_for_one, exact_out, amount = ask
        pool = self.market.by_key[key]
        name = "getAmountIn" if exact_out else "getAmountOut"
        reserves = [state["reserve0"], state["reserve1"]][:: 1 if zero_for_one else -1]
        data = self.node.selector(f"{name}(uint256,uint256,uint256)") + words(amount, *reserves)
        calls = [(self.node.transaction(self.v2_router, data), _check_v2_library)]
        if not isinstance(answer, str) and answer[1] and reserves[0] + answer[0] < 1 << 112:
            swap = self._pair_swap(pool, zero_for_one, *answer[:2])
            calls.append((swap, _check_succeeds))
        return calls

    def _pair_swap(
        self, pool: Pool, zero_for_one: bool, amount_in: int, amount_out: int
    ) -> dict[str, str]:
        market = self.market
        outs = (0, amount_out) if zero_for_one else (amount_out, 0)
        swap = market._inner("swap(uint256,uint256,address,bytes)", *outs, market.actor, 4 * 32)
        token = pool.token0 if zero_for_one else pool.token1
        paid = market._transfer(token, pool.address, amount_in)
        return market._act(paid, (pool.address, swap + tail(b"")))

    def swaps(self, count: int) -> None:
        """Real swaps, each in a block that is taken back, give what a reader quoted before."""
        asks = [
            ask for ask in self.asks(4 * count) if self.market.by_key[ask[0]].kind != "uniswap_v2"
        ][:count]
        _, answers = self.readers[0].quotes([list(ask) for ask in asks])
        done = 0
        snapshot = self.node.call("evm_snapshot")
        for (key, zero_for_one, exact_out, amount), answer in zip(asks, answers, strict=True):
            if isinstance(answer, str):
                continue
            pool = self.market.by_key[key]
            swap = self.market._swap(pool, zero_for_one, -amount if exact_out else amount)
            (transaction,) = self.node.send([swap | {"gas": hex(1 << 34)}])
            self.node.mine()
            receipt = self.node.call("eth_getTransactionReceipt", transaction)
            logs = [log for log in receipt["logs"] if log["address"].lower() == pool.address]
            assert int(receipt["status"], 16) == 1, (key, zero_for_one, exact_out, amount, answer)
            if logs:
                data = split(bytes.fromhex(logs[-1]["data"][2:]))
                amounts = [signed(data[0]), signed(data[1])]
                if pool.kind == "uniswap_v4":
                    amounts = [-each for each in amounts]
                paid, got = amounts if zero_for_one else amounts[::-1]
                real = [paid, -got, data[2], signed(data[4]), data[3]]
                assert answer[:5] == real, ((key, zero_for_one, exact_out, amount), answer, real)
                done += 1
            assert self.node.call("evm_revert", snapshot)
            snapshot = self.node.call("evm_snapshot")
        self.totals["swaps"] += done
        self._has_orphans = True


# Checks: the ask, the reader's answer, the node's words or error.


def _check_succeeds(ask: Ask, answer: Any, result: Any) -> None:
    assert not isinstance(result, NodeError), (ask, answer, result)


def _check_v2_library(ask: Ask, answer: Any, result: Any) -> None:
    if isinstance(result, NodeError):
        assert isinstance(answer, str), (ask, answer, result)
        return
    assert (answer[0] if ask[2] else answer[1]) == result[0], (ask, answer, result)


def _check_v3_swap(ask: Ask, answer: Any, result: Any) -> None:
    if isinstance(result, NodeError):
        assert isinstance(answer, str), (ask, answer, result)
        return
    amounts = [signed(result[0]), signed(result[1])]
    paid, got = amounts if ask[1] else amounts[::-1]
    assert answer[:2] == [paid, -got], (ask, answer, result)


def _check_v3_quote(ask: Ask, answer: Any, result: Any) -> None:
    """The quoter refuses what the pool accepts: no output, or an output that cannot be filled."""
    if isinstance(result, NodeError):
        assert isinstance(answer, str) or answer[1] == 0 or not answer[5] or answer[0] == 0, (
            ask,
            answer,
            result,
        )
        return
    amount = answer[0] if ask[2] else answer[1]
    assert (amount, answer[2]) == (result[0], result[1]), (ask, answer, result)


def _check_v4_swap(ask: Ask, answer: Any, result: Any) -> None:
    if isinstance(result, NodeError):
        # The test router cannot pay or settle everything that the pool would compute.
        assert isinstance(answer, str) or 0 in answer[:2] or answer[0] >= INT128, (
            ask,
            answer,
            result,
        )
        return
    deltas = [signed(result[0] >> 128, 128), signed(result[0], 128)]
    got, paid = (deltas[1], -deltas[0]) if ask[1] else (deltas[0], -deltas[1])
    assert answer[:2] == [paid, got], (ask, answer, result)


def _check_v4_quote(ask: Ask, answer: Any, result: Any) -> None:
    """The quoter refuses every partial fill."""
    if isinstance(result, NodeError):
        assert isinstance(answer, str) or not answer[5] or 0 in answer[:2], (ask, answer, result)
        return
    amount = answer[0] if ask[2] else answer[1]
    assert amount == result[0], (ask, answer, result)
