"""A node behind JSON-RPC: slow, behind, refusing, of another branch, and lying about logs.

The lies, each told of the logs of one block: `omit` one, `cut` off the last ones, `none` at all;
`double` one under its own number or behind the last; `foreign`, one of another block among them; a
field of another `type`. A header may say that nothing ran in its block, and a storage word may be zero.
A node that always lies does so about the same blocks until the calm, one that lies once tells the
truth when it is asked again. It never tells what nobody could find out: logs are only left out where the
block's bloom filter or the numbers of the others show it.
"""

import random
from collections.abc import Sequence
from typing import Any

from builders.history import answer, bloom_of

from arena.errors import RpcRefused, RpcUnavailable
from simulation.clock import Workers
from simulation.world import World

Logs = list[dict[str, Any]]
NOTHING_RAN = {"logsBloom": "0x" + "00" * 256, "transactions": [], "gasUsed": "0x0"}


class SimTransport:
    """JSON-RPC without a wire."""

    shown = "a simulated node"
    can_subscribe = False

    def __init__(self, world: World, workers: Workers, user: str = "writer") -> None:
        self.world = world
        self.workers = workers
        self.plan = world.plan
        self.rng = random.Random(f"node {world.plan.seed} of {user}")
        self.lies = 0
        self.calls = 0
        self.told: set[tuple[str, str]] = set()  # kinds and blocks a lie was told of

    def call(self, method: str, *parameters: Any) -> Any:
        self._disturb(method, parameters)
        try:
            return self._answer(method, parameters)
        except LookupError as error:
            raise RpcRefused(str(error), code=-32000) from None

    def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> Sequence[Any]:
        self._disturb(*calls[0])
        found: list[Any] = []
        for method, parameters in calls:
            try:
                found.append(self._answer(method, parameters))
            except LookupError as error:
                found.append(RpcRefused(str(error), code=-32000))
            except RpcRefused as error:
                found.append(error)
        return found

    def _disturb(self, method: str, parameters: Sequence[Any]) -> None:
        self.calls += 1
        if self.plan.latency_s and self.rng.random() < 0.5:
            self.workers.pause(self.plan.latency_s * self.rng.choice((0.1, 1.0, 1.0, 8.0)))
        plan = self.plan
        if plan.node == "flaky" and not self.world.is_calm and self.rng.random() < 0.15:
            raise RpcUnavailable(f"{method}: no answer")
        if method == "eth_getLogs" and "fromBlock" in parameters[0]:
            span = int(parameters[0]["toBlock"], 16) - int(parameters[0]["fromBlock"], 16) + 1
            if span > plan.block_limit:
                raise RpcRefused("query returned more than 10000 results", code=-32602)

    def _answer(self, method: str, parameters: Sequence[Any]) -> Any:
        hostile = self.plan.hostile
        if method == "eth_getBlockReceipts" and not hostile.has_receipts:
            raise RpcRefused("the method eth_getBlockReceipts does not exist", code=-32601)
        found = answer(self.world.node_view(self.rng), method, list(parameters))
        if not hostile.has_blooms and isinstance(found, dict):
            found["logsBloom"] = "0x" + "00" * 256
        if self.world.is_calm:
            return found
        if method.startswith("eth_getBlockBy") and found and self._is_hollow(found["hash"]):
            return found | NOTHING_RAN if self._tells("header", found["hash"]) else found
        if method == "eth_getStorageAt" and self.rng.random() < hostile.zero_words:
            return "0x" + "00" * 32 if self._tells("word", f"{parameters}") else found
        if method == "eth_getLogs" and hostile.lies:
            way = "range" if "fromBlock" in parameters[0] else "hash"
            if hostile.lies_by in (way, "both"):
                return self._lie(found, way)
        return found

    def _is_hollow(self, block_hash: str) -> bool:
        """Whether it may say of that block that nothing ran in it."""
        hollow = self.plan.hostile.hollow
        return (
            bool(hollow)
            and random.Random(f"hollow {self.plan.seed} {block_hash}").random() < hollow
        )

    def _tells(self, kind: str, what: str) -> bool:
        """Whether a lie is told, which one that lies once does once."""
        is_told = not self.plan.hostile.lies_once or (kind, what) not in self.told
        self.told.add((kind, what))
        self.lies += is_told
        return is_told

    # lies

    def _lie(self, logs: Logs, way: str) -> Logs:
        """The same logs, with those of some blocks told wrong."""
        hostile = self.plan.hostile
        by_block: dict[str, Logs] = {}
        for log in logs:
            by_block.setdefault(log["blockHash"], []).append(log)
        found: Logs = []
        for block_hash, own in by_block.items():
            rng = self.rng
            if hostile.lies_always:
                rng = random.Random(f"lie {self.plan.seed} {block_hash}")
            if rng.random() < hostile.lie_rate:
                told = getattr(self, "_" + rng.choice(hostile.lies))(own, rng)
                shows = told != own and self._shows(block_hash, own, told)
                if shows and self._tells(way, block_hash):
                    found += told
                    continue
            found += own
        return found

    def _shows(self, block_hash: str, own: Logs, told: Logs) -> bool:
        """Whether one who looks can see it: more than logs left out, or logs that the bloom filter or
        the numbers of all the block's logs miss."""
        here, kept = {id(log) for log in own}, {id(log) for log in told}
        if len(kept) < len(told) or not kept <= here:
            return True
        left_out = [log for log in own if id(log) not in kept]
        gone = {id(log) for log in left_out}
        rest = [log for log in self.world.universe.by_hash[block_hash].logs if id(log) not in gone]
        has_hole = [int(log["logIndex"], 16) for log in rest] != list(range(len(rest)))
        if self._is_hollow(block_hash):
            return has_hole
        return has_hole or bloom_of(rest) != bloom_of([*rest, *left_out])

    def _omit(self, own: Logs, rng: random.Random) -> Logs:
        at = rng.randrange(len(own))
        return own[:at] + own[at + 1 :]

    def _cut(self, own: Logs, rng: random.Random) -> Logs:
        return own[: rng.randrange(len(own))]

    def _none(self, own: Logs, rng: random.Random) -> Logs:
        return []

    def _double(self, own: Logs, rng: random.Random) -> Logs:
        at = rng.randrange(len(own))
        copy = dict(own[at])
        if rng.random() < 0.5:
            block = self.world.universe.by_hash[copy["blockHash"]]
            copy["logIndex"] = hex(len(block.logs) + 1)
        return [*own[:at], copy, *own[at:]] if rng.random() < 0.5 else [*own, copy]

    def _foreign(self, own: Logs, rng: random.Random) -> Logs:
        blocks = self.world.universe.by_number[int(own[0]["blockNumber"], 16)]
        others = [log for each in blocks for log in each.logs if log not in own]
        if not others:
            return own
        other = dict(rng.choice(others))
        if rng.random() < 0.3:
            other["blockNumber"] = hex(int(other["blockNumber"], 16) - 1)
        return [*own, other] if rng.random() < 0.5 else [*own[:-1], other]

    def _type(self, own: Logs, rng: random.Random) -> Logs:
        name = rng.choice(("data", "logIndex", "topics", "blockHash", "address"))
        return [own[0] | {name: rng.choice((None, 7, "0xzz"))}, *own[1:]]
