"""Published contracts on a node: deployment, pools, a seeded trader, reorgs and true states."""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from chains.evm import (
    ACTOR,
    ASKER,
    address,
    assemble,
    cake_deployer,
    signed,
    split,
    tail,
    word,
    words,
)
from chains.process import Node, NodeError, bytecode

Kind = Literal["uniswap_v2", "uniswap_v3", "uniswap_v4", "pancakeswap_v3"]
ZERO = "0x" + "00" * 20
MIN_TICK, MAX_TICK = -887272, 887272
LOWEST_LIMIT = 4295128739 + 1
HIGHEST_LIMIT = 1461446703485210103287273052203988822378723970342 - 1
DYNAMIC_FEE = 0x800000
KEPT_SNAPSHOTS = 64

V2_CORE = "@uniswap/v2-core/build/"
V3_CORE = "@uniswap/v3-core/artifacts/contracts/"
V4_CORE = "@uniswap/v4-core/out/"
CAKE_CORE = "@pancakeswap/v3-core/artifacts/contracts/"

V3_TIERS = ((100, 1), (500, 10), (3000, 60), (10000, 200))
CAKE_TIERS = ((100, 1), (500, 10), (2500, 50), (10000, 200))
# The last two are no tier of V3: V4 takes any pair of fee and spacing.
V4_TIERS = (*V3_TIERS, (0, 32767), (123456, 7))


@dataclass(slots=True)
class Pool:
    """What never changes about a pool, and `positions` the trader opened: (low, high, liquidity).

    `key` is the address or pool id, `address` the pool or the PoolManager. `words` are the bitmap
    words that ever held one of its ticks, on any branch.
    """

    kind: Kind
    key: str
    address: str
    token0: str
    token1: str
    fee_pips: int
    tick_spacing: int
    factory: str
    hooks: str = ZERO
    near_tick: int = 0
    positions: list[tuple[int, int, int]] = field(default_factory=list)
    words: set[int] = field(default_factory=set)

    @property
    def v4_key(self) -> bytes:
        return words(self.token0, self.token1, self.fee_pips, self.tick_spacing, self.hooks)

    def all_words(self) -> range:
        spacing = self.tick_spacing
        highest = MAX_TICK // spacing
        return range(-highest >> 8, (highest >> 8) + 1)


class Market:
    """Deploys the contracts at once; pools, trades and reorgs on demand. Equal seeds and equal
    calls give equal chains."""

    def __init__(self, node: Node, *, seed: int, tokens: int = 16) -> None:
        self.node = node
        self.random = random.Random(seed)
        self.pools: list[Pool] = []
        self.by_key: dict[str, Pool] = {}
        self.foreign: list[Pool] = []
        self._snapshots: dict[int, str] = {}
        self._used: dict[Kind, set[tuple[str, str, int]]] = {}
        self._tokens = tokens
        self._deploy()

    # Deployment

    def _create(self, code: bytes, *arguments: int | str) -> dict[str, str]:
        return self.node.transaction(None, code + words(*arguments))

    def _call(self, to: str, signature: str, *arguments: int | str, value: int = 0) -> Any:
        data = self.node.selector(signature) + words(*arguments)
        return self.node.transaction(to, data, value=value)

    def _runtime(self, code: bytes) -> dict[str, str]:
        """Creation of a contract with exactly this code."""
        size = len(code)
        source = f"{size} DUP1 CODESIZE SUB 0 CODECOPY {size} 0 RETURN"
        return self._create(assemble(source) + code)

    def _deploy(self) -> None:
        node, me = self.node, self.node.account
        token = bytecode(V4_CORE + "TestERC20.sol/TestERC20.json")
        made = node.run(
            [
                self._create(bytecode(V2_CORE + "UniswapV2Factory.json"), me),
                self._create(bytecode(V3_CORE + "UniswapV3Factory.sol/UniswapV3Factory.json")),
                self._create(bytecode(V4_CORE + "PoolManager.sol/PoolManager.json"), me),
                self._runtime(ACTOR),
                self._runtime(ASKER),
                *(self._create(token, 0) for _ in range(self._tokens)),
            ]
        )
        created = [receipt["contractAddress"].lower() for receipt in made]
        self.v2_factory, self.v3_factory, self.manager, self.actor, self.asker = created[:5]
        self.tokens = sorted(created[5:])
        self.cake_deployer = "0x" + "ca" * 20
        pool_code = bytecode(CAKE_CORE + "PancakeV3Pool.sol/PancakeV3Pool.json")
        node.call("anvil_setCode", self.cake_deployer, "0x" + cake_deployer(pool_code).hex())
        # afterInitialize 2^12 and beforeSwap 2^7 in the low bits of its address.
        self.fee_hook = "0x" + (0xFEE << 140 | 1 << 12 | 1 << 7).to_bytes(20, "big").hex()
        hook_code = bytecode(
            V4_CORE + "DynamicFeesTestHook.sol/DynamicFeesTestHook.json", "deployedBytecode"
        )
        node.call("anvil_setCode", self.fee_hook, "0x" + hook_code.hex())
        cake = bytecode(CAKE_CORE + "PancakeV3Factory.sol/PancakeV3Factory.json")
        liquidity = bytecode(V4_CORE + "PoolModifyLiquidityTest.sol/PoolModifyLiquidityTest.json")
        swap = bytecode(V4_CORE + "PoolSwapTest.sol/PoolSwapTest.json")
        donate = bytecode(V4_CORE + "PoolDonateTest.sol/PoolDonateTest.json")
        view = bytecode("@uniswap/v4-periphery/foundry-out/StateView.sol/StateView.json")
        made = node.run(
            [
                self._create(cake, self.cake_deployer),
                *(self._create(code, self.manager) for code in (liquidity, swap, view, donate)),
                self._call(self.v3_factory, "enableFeeAmount(uint24,int24)", 100, 1),
                self._call(self.fee_hook, "setManager(address)", self.manager),
                self._call(self.fee_hook, "setFee(uint24)", 4321),
                self._call(self.manager, "setProtocolFeeController(address)", me),
            ]
        )
        created = [receipt["contractAddress"].lower() for receipt in made[:5]]
        self.cake_factory, self.v4_liquidity, self.v4_swap, self.view, self.v4_donate = created
        plenty = 1 << 160
        setup = []
        for item in self.tokens:
            setup.append(self._call(item, "mint(address,uint256)", self.actor, plenty))
            setup.append(self._call(item, "mint(address,uint256)", me, plenty))
            for router in (self.v4_liquidity, self.v4_swap, self.v4_donate):
                setup.append(self._call(item, "approve(address,uint256)", router, (1 << 256) - 1))
        node.run(setup)

    # Pools

    def create_pools(self, *, v2: int = 0, v3: int = 0, v4: int = 0, cake: int = 0) -> list[Pool]:
        """Create this many pools more, initialize them and give each some liquidity."""
        new: list[Pool] = []
        new += self._create_pairs(v2)
        factories: list[tuple[Kind, str, tuple[tuple[int, int], ...], int]] = [
            ("uniswap_v3", self.v3_factory, V3_TIERS, v3),
            ("pancakeswap_v3", self.cake_factory, CAKE_TIERS, cake),
        ]
        for kind, factory, tiers, count in factories:
            new += self._create_v3(kind, factory, tiers, count)
        new += self._create_v4(v4)
        self.pools += new
        self.by_key |= {pool.key: pool for pool in new}
        for start in range(0, len(new), 100):
            transactions = []
            for pool in new[start : start + 100]:
                transactions += self._first_liquidity(pool)
            self.node.run(transactions)
        return new

    def _combinations(
        self, kind: Kind, tiers: Sequence[tuple[int, int]], count: int, *, coin: bool = False
    ) -> list[tuple[str, str, int, int]]:
        """Pairs of sorted tokens with a tier, none of them used before."""
        used = self._used.setdefault(kind, set())
        tokens = [ZERO, *self.tokens] if coin else self.tokens
        free = [
            (low, high, fee, spacing)
            for index, low in enumerate(tokens)
            for high in tokens[index + 1 :]
            for fee, spacing in tiers
            if (low, high, fee) not in used
        ]
        assert len(free) >= count, f"{self._tokens} tokens give no {count} more pools of {kind}"
        chosen = self.random.sample(free, count)
        used.update(item[:3] for item in chosen)
        return chosen

    def _run_and_read(
        self, to: str, signature: str, calls: list[tuple[int | str, ...]]
    ) -> list[Any]:
        """Make the calls in one block; the last log of each that `to` emitted."""
        receipts = self.node.run([self._call(to, signature, *call) for call in calls])
        return [
            [log for log in item["logs"] if log["address"].lower() == to][-1] for item in receipts
        ]

    def _create_pairs(self, count: int) -> list[Pool]:
        chosen = self._combinations("uniswap_v2", ((3000, 0),), count)
        logs = self._run_and_read(
            self.v2_factory, "createPair(address,address)", [item[:2] for item in chosen]
        )
        pools = []
        for (token0, token1, fee, _), log in zip(chosen, logs, strict=True):
            pair = address(split(bytes.fromhex(log["data"][2:]))[0])
            pools.append(Pool("uniswap_v2", pair, pair, token0, token1, fee, 0, self.v2_factory))
        return pools

    def _create_v3(
        self, kind: Kind, factory: str, tiers: Sequence[tuple[int, int]], count: int
    ) -> list[Pool]:
        chosen = self._combinations(kind, tiers, count)
        logs = self._run_and_read(
            factory, "createPool(address,address,uint24)", [item[:3] for item in chosen]
        )
        pools = []
        for (token0, token1, fee, spacing), log in zip(chosen, logs, strict=True):
            key = address(split(bytes.fromhex(log["data"][2:]))[1])
            pools.append(Pool(kind, key, key, token0, token1, fee, spacing, factory))
        return pools

    def _create_v4(self, count: int) -> list[Pool]:
        pools = []
        for token0, token1, fee, spacing in self._combinations(
            "uniswap_v4", V4_TIERS, count, coin=True
        ):
            # One pool in eight has a dynamic fee.
            dynamic = self.random.random() < 1 / 8
            fee, hooks = (DYNAMIC_FEE, self.fee_hook) if dynamic else (fee, ZERO)
            pool = Pool(
                "uniswap_v4", "", self.manager, token0, token1, fee, spacing, self.manager, hooks
            )
            pools.append(pool)
        for pool, found in zip(pools, self.node.keccak(*(p.v4_key for p in pools)), strict=True):
            pool.key = "0x" + found.hex()
        # Two dynamic pools of one pair and spacing are one pool.
        return list({pool.key: pool for pool in pools}.values())

    def _first_liquidity(self, pool: Pool) -> list[dict[str, str]]:
        draw = self.random
        if pool.kind == "uniswap_v2":
            amounts = [draw.randrange(10**18, 10**24) for _ in range(2)]
            return [self._v2_mint(pool, *amounts)]
        ratio = draw.uniform(0.3, 3.0)
        price = int(ratio * (1 << 96))
        pool.near_tick = math.floor(math.log(ratio * ratio) / math.log(1.0001))
        transactions = []
        if pool.kind == "uniswap_v4":
            signature = "initialize((address,address,uint24,int24,address),uint160)"
            data = self.node.selector(signature) + pool.v4_key + word(price)
            transactions.append(self.node.transaction(self.manager, data))
            if draw.random() < 0.3:
                protocol_fee = draw.randrange(1001) << 12 | draw.randrange(1001)
                signature = "setProtocolFee((address,address,uint24,int24,address),uint24)"
                data = self.node.selector(signature) + pool.v4_key + word(protocol_fee)
                transactions.append(self.node.transaction(self.manager, data))
        else:
            transactions.append(self._call(pool.address, "initialize(uint160)", price))
            if draw.random() < 0.3:
                cake = pool.kind == "pancakeswap_v3"
                fees = (3300, 3200) if cake else (6, 4)
                width = 32 if cake else 8
                signature = f"setFeeProtocol(uint{width},uint{width})"
                if cake:
                    signature = "setFeeProtocol(address,uint32,uint32)"
                    transactions.append(self._call(pool.factory, signature, pool.address, *fees))
                else:
                    transactions.append(self._call(pool.address, signature, *fees))
        spacing = pool.tick_spacing
        highest = MAX_TICK // spacing * spacing
        transactions.append(self._mint(pool, -highest, highest, draw.randrange(10**18, 10**22)))
        for _ in range(draw.randrange(3, 12)):
            transactions.append(self._mint(pool, *self._range(pool), self._liquidity()))
        return transactions

    # Single operations, as transactions

    def _act(self, *calls: tuple[str, bytes]) -> dict[str, str]:
        data = b"".join(word(to) + word(len(inner)) + inner for to, inner in calls)
        return self.node.transaction(self.actor, data)

    def _inner(self, signature: str, *arguments: int | str) -> bytes:
        return self.node.selector(signature) + words(*arguments)

    def _liquidity(self) -> int:
        return int(10 ** self.random.uniform(15, 21.5))

    def _range(self, pool: Pool) -> tuple[int, int]:
        """Ends of a position near the first price, some of them far away."""
        spacing, draw = pool.tick_spacing, self.random
        highest = MAX_TICK // spacing
        middle = pool.near_tick // spacing
        reach = min(highest, 40_000 if draw.random() < 0.2 else 300)
        low, high = sorted(draw.sample(range(-reach, reach + 1), 2))
        low, high = max(-highest, middle + low), min(highest, middle + high)
        if low >= high:
            low, high = -highest, highest
        return low * spacing, high * spacing

    def _mint(self, pool: Pool, low: int, high: int, liquidity: int) -> dict[str, str]:
        pool.positions.append((low, high, liquidity))
        pool.words.update(tick // pool.tick_spacing >> 8 for tick in (low, high))
        if pool.kind == "uniswap_v4":
            return self._v4_modify(pool, low, high, liquidity)
        inner = self._inner(
            "mint(address,int24,int24,uint128,bytes)", self.actor, low, high, liquidity, 5 * 32
        )
        return self._act((pool.address, inner + tail(words(pool.token0, pool.token1))))

    def _burn(self, pool: Pool, low: int, high: int, liquidity: int) -> dict[str, str]:
        if pool.kind == "uniswap_v4":
            return self._v4_modify(pool, low, high, -liquidity)
        burn = self._inner("burn(int24,int24,uint128)", low, high, liquidity)
        most = (1 << 128) - 1
        signature = "collect(address,int24,int24,uint128,uint128)"
        collect = self._inner(signature, self.actor, low, high, most, most)
        return self._act((pool.address, burn), (pool.address, collect))

    def _v4_modify(self, pool: Pool, low: int, high: int, change: int) -> dict[str, str]:
        signature = (
            "modifyLiquidity((address,address,uint24,int24,address),"
            "(int24,int24,int256,bytes32),bytes)"
        )
        data = self.node.selector(signature) + pool.v4_key
        data += words(low, high, change, 0, 10 * 32) + tail(b"")
        value = 10**32 if pool.token0 == ZERO and change > 0 else 0
        return self.node.transaction(self.v4_liquidity, data, value=value)

    def _swap(self, pool: Pool, zero_for_one: bool, specified: int) -> dict[str, str]:
        """`specified` > 0 is an exact input, < 0 an exact output, for V3 and V4 alike."""
        limit = LOWEST_LIMIT if zero_for_one else HIGHEST_LIMIT
        if pool.kind == "uniswap_v4":
            signature = (
                "swap((address,address,uint24,int24,address),(bool,int256,uint160),"
                "(bool,bool),bytes)"
            )
            data = self.node.selector(signature) + pool.v4_key
            data += words(int(zero_for_one), -specified, limit, 0, 0, 11 * 32) + tail(b"")
            value = 10**32 if pool.token0 == ZERO and zero_for_one else 0
            return self.node.transaction(self.v4_swap, data, value=value)
        signature = "swap(address,bool,int256,uint160,bytes)"
        arguments = (self.actor, int(zero_for_one), specified, limit, 5 * 32)
        data = self._inner(signature, *arguments) + tail(words(pool.token0, pool.token1))
        return self._act((pool.address, data))

    def _transfer(self, token: str, to: str, amount: int) -> tuple[str, bytes]:
        return token, self._inner("transfer(address,uint256)", to, amount)

    def _v2_mint(self, pool: Pool, amount0: int, amount1: int) -> dict[str, str]:
        return self._act(
            self._transfer(pool.token0, pool.address, amount0),
            self._transfer(pool.token1, pool.address, amount1),
            (pool.address, self._inner("mint(address)", self.actor)),
        )

    def _v2_operation(self, pool: Pool, reserve0: int, reserve1: int) -> dict[str, str]:
        draw = self.random
        choice = draw.random()
        share = 10 ** draw.uniform(-6, -1.5)
        if choice < 0.2:
            return self._v2_mint(pool, int(reserve0 * share) + 1, int(reserve1 * share) + 1)
        if choice < 0.35:
            amount = int(math.isqrt(reserve0 * reserve1) * share)
            return self._act(
                self._transfer(pool.address, pool.address, amount),
                (pool.address, self._inner("burn(address)", self.actor)),
            )
        if choice < 0.45:
            donated = self._transfer(pool.token0, pool.address, int(reserve0 * share))
            return self._act(donated, (pool.address, self._inner("sync()")))
        zero_for_one = draw.random() < 0.5
        reserve_in, reserve_out = (reserve0, reserve1) if zero_for_one else (reserve1, reserve0)
        amount_in = int(reserve_in * share) + 1
        # Well below what the pair would pay: earlier trades of the same block may have moved it.
        out = reserve_out * amount_in * 9 // ((reserve_in + amount_in) * 10)
        outs = (0, out) if zero_for_one else (out, 0)
        swap = self._inner("swap(uint256,uint256,address,bytes)", *outs, self.actor, 4 * 32)
        token = pool.token0 if zero_for_one else pool.token1
        paid = self._transfer(token, pool.address, amount_in)
        return self._act(paid, (pool.address, swap + tail(b"")))

    def _range_operation(self, pool: Pool) -> dict[str, str]:
        draw = self.random
        choice = draw.random()
        if choice < 0.25:
            known = pool.positions and draw.random() < 0.3
            ends = draw.choice(pool.positions)[:2] if known else self._range(pool)
            return self._mint(pool, *ends, self._liquidity())
        if choice < 0.45 and len(pool.positions) > 1:
            # Never the first: it keeps the whole range filled.
            index = draw.randrange(1, len(pool.positions))
            low, high, liquidity = pool.positions[index]
            part = liquidity if draw.random() < 0.5 else draw.randrange(liquidity + 1)
            if part == liquidity:
                pool.positions.pop(index)
            else:
                pool.positions[index] = (low, high, liquidity - part)
            return self._burn(pool, low, high, part)
        if choice > 0.98:
            low, high, liquidity = pool.positions[0]
            return self._burn(pool, low, high, liquidity + 10**30)
        amount = int(10 ** draw.uniform(3, 20))
        return self._swap(pool, draw.random() < 0.5, amount if draw.random() < 0.7 else -amount)

    # Trading and mining

    def operations(self, count: int) -> list[dict[str, str]]:
        """`count` transactions on random pools. A few of them fail, as on any chain."""
        chosen = self.random.choices(self.pools, k=count)
        pairs = dict.fromkeys(pool.key for pool in chosen if pool.kind == "uniswap_v2")
        reserves = self.states("latest", pairs)
        made = []
        for pool in chosen:
            if pool.kind == "uniswap_v2":
                state = reserves[pool.key]
                made.append(self._v2_operation(pool, state["reserve0"], state["reserve1"]))
            else:
                made.append(self._range_operation(pool))
        return made

    def create_foreign_pools(self) -> None:
        """One pool more of each kind, which no list names; trading on them is `side_operations`."""
        new = self.create_pools(v2=1, v3=1, v4=1, cake=1)
        for pool in new:
            self.pools.remove(pool)
            del self.by_key[pool.key]
        self.foreign += new

    def side_operations(self) -> list[dict[str, str]]:
        """What changes no listed pool's state: protocol fees of V3, donations in V4, foreign pools."""
        draw = self.random
        made = []
        pool = draw.choice([pool for pool in self.pools if pool.kind == "uniswap_v3"])
        fees = draw.choice((0, *range(4, 11))), draw.choice((0, *range(4, 11)))
        made.append(self._call(pool.address, "setFeeProtocol(uint8,uint8)", *fees))
        pool = draw.choice([pool for pool in self.pools if pool.kind == "uniswap_v4"])
        amounts = draw.randrange(10**15), draw.randrange(10**15)
        signature = "donate((address,address,uint24,int24,address),uint256,uint256,bytes)"
        data = self.node.selector(signature) + pool.v4_key + words(*amounts, 8 * 32) + tail(b"")
        value = amounts[0] if pool.token0 == ZERO else 0
        made.append(self.node.transaction(self.v4_donate, data, value=value))
        ranged = [pool for pool in self.foreign if pool.kind != "uniswap_v2"]
        made += [self._range_operation(pool) for pool in draw.sample(ranged, min(2, len(ranged)))]
        pairs = [pool for pool in self.foreign if pool.kind == "uniswap_v2"]
        made += [self._v2_mint(pool, 10**6, 10**6) for pool in pairs[:1]]
        return made

    def trade(self, count: int) -> list[str]:
        """Queue `count` random transactions."""
        return self.node.send(self.operations(count))

    def step(self, count: int) -> dict[str, Any]:
        """One block with `count` random transactions; its header."""
        self.trade(count)
        return self.node.mine()

    def keep_snapshot(self) -> None:
        """Make the present block one that `reorg` with evm_revert can return to."""
        number = int(self.node.call("eth_blockNumber"), 16)
        self._snapshots[number] = self.node.call("evm_snapshot")
        for old in sorted(self._snapshots)[:-KEPT_SNAPSHOTS]:
            del self._snapshots[old]

    def forget_snapshots(self) -> None:
        """The node has lost them."""
        self._snapshots.clear()

    def can_revert(self, depth: int) -> bool:
        """Whether `reorg` with evm_revert can replace that many blocks."""
        return int(self.node.call("eth_blockNumber"), 16) - depth in self._snapshots

    def reorg(
        self,
        depth: int,
        *,
        method: Literal["anvil_reorg", "evm_revert", "anvil_rollback"],
        operations: int,
    ) -> list[dict[str, Any]]:
        """Replace the newest `depth` blocks; headers of the orphaned blocks, oldest first.

        `anvil_reorg` makes as many new blocks at once, with `operations` random transactions
        spread over them. The other two only cut the chain back; grow it with `step`. evm_revert
        needs keep_snapshot to have been called at the common ancestor.
        """
        head = self.node.block()["number"]
        ancestor = head - depth
        orphaned = [self.node.block(number) for number in range(ancestor + 1, head + 1)]
        if method == "anvil_reorg":
            made = self.operations(operations)
            placed = [[item, self.random.randrange(depth)] for item in made]
            self.node.call("anvil_reorg", depth, placed)
        elif method == "anvil_rollback":
            self.node.call("anvil_rollback", depth)
        else:
            assert self.node.call("evm_revert", self._snapshots.pop(ancestor)), "no snapshot"
        # Those of replaced blocks lead to another branch, or are gone with the one returned to.
        for number in [number for number in self._snapshots if number > ancestor]:
            del self._snapshots[number]
        return orphaned

    # Truth

    def _ask(
        self, questions: Iterable[tuple[str, list[bytes], int]], block: int | str
    ) -> list[Any]:
        """Answers (words as int) to questions of one size for each target, through ASKER."""
        at: Any = hex(block) if isinstance(block, int) else block
        if isinstance(at, str) and len(at) == 66:
            at = {"blockHash": at}
        calls = []
        for target, asked, answer_words in questions:
            size = len(asked[0]) if asked else 4
            data = words(target, size, answer_words * 32) + b"".join(asked)
            calls.append(("eth_call", ({"to": self.asker, "data": "0x" + data.hex()}, at)))
        results = []
        for start in range(0, len(calls), 40):
            for answer in self.node.batch(calls[start : start + 40]):
                if isinstance(answer, NodeError):
                    raise answer
                results.append(split(bytes.fromhex(answer[2:])))
        return results

    def states(
        self,
        block: int | str = "latest",
        keys: Iterable[str] | None = None,
        *,
        every_word: bool = True,
    ) -> dict[str, dict[str, Any]]:
        """True states at the end of a block (number, tag or hash) by the contracts' getters.

        Ticks come from a scan of the tick bitmap: of every word, or without `every_word` of those
        in which the trader ever opened a position.
        """
        pools = self.pools if keys is None else [self.by_key[key] for key in keys]
        select = self.node.selector
        v2 = [pool for pool in pools if pool.kind == "uniswap_v2"]
        ranged = [pool for pool in pools if pool.kind != "uniswap_v2"]
        question = [select("getReserves()")]
        answers = self._ask(((pool.address, question, 2) for pool in v2), block)
        found: dict[str, dict[str, Any]] = {}
        for pool, answer in zip(v2, answers, strict=True):
            found[pool.key] = {"reserve0": answer[0], "reserve1": answer[1]}

        def asked(pool: Pool, v3: str, v4: str, values: Iterable[int] | None) -> list[bytes]:
            if pool.kind == "uniswap_v4":
                head = select(v4) + word(pool.key)
            else:
                head = select(v3)
            return [head] if values is None else [head + word(value) for value in values]

        def target(pool: Pool) -> str:
            return self.view if pool.kind == "uniswap_v4" else pool.address

        slot0 = self._ask(
            ((target(p), asked(p, "slot0()", "getSlot0(bytes32)", None), 4) for p in ranged), block
        )
        liquidity = self._ask(
            (
                (target(p), asked(p, "liquidity()", "getLiquidity(bytes32)", None), 1)
                for p in ranged
            ),
            block,
        )
        positions = [list(p.all_words()) if every_word else sorted(p.words) for p in ranged]
        bitmap = self._ask(
            (
                (target(p), asked(p, "tickBitmap(int16)", "getTickBitmap(bytes32,int16)", w), 1)
                for p, w in zip(ranged, positions, strict=True)
            ),
            block,
        )
        ticks = [
            [
                ((position << 8) + bit) * pool.tick_spacing
                for position, bits in zip(w, values, strict=True)
                if bits
                for bit in range(256)
                if bits >> bit & 1
            ]
            for pool, w, values in zip(ranged, positions, bitmap, strict=True)
        ]
        details = self._ask(
            (
                (target(p), asked(p, "ticks(int24)", "getTickLiquidity(bytes32,int24)", t), 2)
                for p, t in zip(ranged, ticks, strict=True)
            ),
            block,
        )
        for index, pool in enumerate(ranged):
            values = details[index]
            state: dict[str, Any] = {
                "sqrt_price_x96": slot0[index][0],
                "tick": signed(slot0[index][1]),
                "liquidity": liquidity[index][0],
                "ticks": [
                    [tick, values[2 * at], signed(values[2 * at + 1])]
                    for at, tick in enumerate(ticks[index])
                ],
            }
            if pool.kind == "uniswap_v4":
                state |= {"protocol_fee": slot0[index][2], "lp_fee": slot0[index][3]}
            found[pool.key] = state
        return {pool.key: found[pool.key] for pool in pools}

    def pool_list(self, keys: Iterable[str] | None = None) -> list[dict[str, Any]]:
        """Pools as a pool list file has them, tokens as objects."""
        pools = self.pools if keys is None else [self.by_key[key] for key in keys]
        listed = []
        for pool in pools:
            entry: dict[str, Any] = {"address": pool.address, "protocol": pool.kind}
            for name, token in (("token0", pool.token0), ("token1", pool.token1)):
                entry[name] = {"address": token, "decimals": 18, "symbol": f"T{token[-4:]}"}
            if pool.kind == "uniswap_v2":
                entry["factory"] = pool.factory
            else:
                entry |= {"fee": pool.fee_pips, "tick_spacing": pool.tick_spacing}
                entry["factory"] = pool.factory
            if pool.kind == "uniswap_v4":
                entry |= {"pool_id": pool.key, "hooks": pool.hooks}
            listed.append(entry)
        return listed


@contextmanager
def traded_market(
    folder: Path, *, seed: int, each: int, blocks: int = 5, operations: int = 10
) -> Iterator[Market]:
    """A node with `each` pools of the four kinds, and so many blocks of trading behind them."""
    with Node(folder) as node:
        market = Market(node, seed=seed)
        market.create_pools(v2=each, v3=each, v4=each, cake=each)
        for _ in range(blocks):
            market.step(operations)
        yield market
