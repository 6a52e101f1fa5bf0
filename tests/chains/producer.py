"""The event stream of a real node's chain, as the producer inside it would send it.

Frames are encoded by `oracle.frames` from the node's own logs, decoded here; nothing of the product
is used. Blocks are kept as they were when they were canonical: the node forgets the logs of orphaned
ones.
"""

from collections.abc import Sequence
from typing import Any

from builders.frames import Exex
from builders.history import TOPIC

from chains.evm import signed, split
from chains.evm_data import Block, Event
from chains.market import Market, Pool

CAKE_SWAP = "0x19b47279256b2a23a1665c810c8d55a1758940ee09377d4f8d26497a3577dc83"
PROTOCOL_FEE = "0xe9c42593e71f84403b84352cd168d693e2c9fcd1fdbcc3feb21d92b43e6696f9"
EVENTS = {topic: event for event, topic in TOPIC.items()} | {
    CAKE_SWAP: ("uniswap_v3", "Swap"),
    PROTOCOL_FEE: ("uniswap_v4", "ProtocolFeeUpdated"),
}
FIELDS = {"sqrt_price_x96": "sqrtPriceX96"}


def decode(log: dict[str, Any], pools: dict[str, Pool]) -> tuple[Pool, str, dict[str, int]] | None:
    """(pool, kind, arguments) of a log that is a pool's event, else None."""
    if not log["topics"] or log["topics"][0] not in EVENTS:
        return None
    protocol, kind = EVENTS[log["topics"][0]]
    emitter = log["address"].lower()
    pool = pools.get(log["topics"][1] if protocol == "uniswap_v4" else emitter)
    if pool is None or pool.address != emitter:
        return None
    topics = [int(topic, 16) for topic in log["topics"]]
    data = split(bytes.fromhex(log["data"][2:]))
    if kind == "Sync":
        return pool, kind, {"reserve0": data[0], "reserve1": data[1]}
    if kind == "Swap":
        slot0 = {"sqrtPriceX96": data[2], "liquidity": data[3], "tick": signed(data[4])}
        slot0["fee"] = data[-1]  # V4
        return pool, kind, {"amount0": signed(data[0]), "amount1": signed(data[1])} | slot0
    if kind == "ProtocolFeeUpdated":
        return pool, kind, {"protocolFee": data[0]}
    if kind == "ModifyLiquidity":
        ticks = {"tickLower": signed(data[0]), "tickUpper": signed(data[1])}
        return pool, kind, ticks | {"liquidityDelta": signed(data[2])}
    ticks = {"tickLower": signed(topics[2]), "tickUpper": signed(topics[3])}
    return pool, kind, ticks | {"amount": data[1] if kind == "Mint" else data[0]}


class NodeProducer(Exex):
    """Follows the node's chain whenever it is told to; one block, or one envelope, at a time.

    `chain` are the blocks sent and still canonical, the oldest first. `known` are headers by hash.
    """

    def __init__(self, market: Market, *, is_bridge: bool = False) -> None:
        super().__init__(is_bridge=is_bridge)
        self.market = market
        self.chain: list[Block] = []
        self.known: dict[str, dict[str, Any]] = {}

    def follow(self) -> bytes:
        """Frames of what happened since the last call; the first call sends the newest block."""
        node = self.market.node
        cursor = node.block()
        new: list[Block] = []
        while not self._joins(cursor):
            new.insert(0, self.read(cursor))
            if not self.chain:
                break
            cursor = node.block(cursor["parentHash"])
        old = self._above(cursor["number"]) if self.chain else []
        del self.chain[len(self.chain) - len(old) :]
        self.chain += new
        if old:
            return self.reorg(old, new, self._final(old), "newest-first")
        return b"".join(self.block(block) for block in new)

    def _joins(self, header: dict[str, Any]) -> bool:
        return any(block.hash == header["hash"] for block in reversed(self.chain))

    def _above(self, number: int) -> list[Block]:
        return [block for block in self.chain if block.number > number]

    def read(self, header: dict[str, Any]) -> Block:
        """The block with its events; their log indices count every log of their transaction."""
        self.known[header["hash"]] = header
        events = []
        first: dict[int, int] = {}
        for log in self.market.node.logs(header["hash"]):
            tx_index, block_log = int(log["transactionIndex"], 16), int(log["logIndex"], 16)
            log_index = block_log - first.setdefault(tx_index, block_log)
            found = decode(log, self.market.by_key)
            if found is not None:
                pool, kind, args = found
                protocol = "uniswap_v3" if pool.kind == "pancakeswap_v3" else pool.kind
                event = (protocol, kind, pool.key, pool.address, tx_index, log_index, block_log)
                events.append(Event(*event, args))
        return Block(
            header["number"],
            header["hash"],
            header["parentHash"],
            header["timestamp"],
            tuple(events),
        )

    def _final(self, old: Sequence[Block]) -> dict[str, Any]:
        """True prices and reserves of the pools that `old` touched, at the new tip."""
        touched = dict.fromkeys(event.pool for block in old for event in block.events)
        states = self.market.states(self.market.node.block()["hash"], touched, every_word=False)
        return {
            key: {FIELDS.get(name, name): value for name, value in state.items()}
            for key, state in states.items()
        }

    def _envelope(self, block: Block, events: Any, *, is_revert: bool) -> bytes:
        self.base_fee = int(self.known[block.hash]["baseFeePerGas"], 16)
        return super()._envelope(block, events, is_revert=is_revert)
