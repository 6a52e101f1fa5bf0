"""The bridge between the node and the socket, its own thread's rounds as jobs of the simulation."""

import asyncio
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from arena.writer.node.rpc_node import RpcNode
from arena.writer.producers import bridge as bridge_module
from arena.writer.producers.bridge import (
    FIRST_RETRY_S,
    LONGEST_RETRY_S,
    POLL_S,
    Bridge,
    BridgeSettings,
)
from arena.writer.producers.follow import Follower
from arena.writer.protocols.storage import PoolTarget
from simulation.clock import SimLoop, Workers
from simulation.node import SimTransport
from simulation.wire import Wire
from simulation.world import World

# A simulated chain's times are not those of a clock.
bridge_module.check_synced = lambda rpc: None  # type: ignore[assignment]


class SimBridge(Bridge):
    """Follows the simulated node and sends to the wire's client; `sends` is called before."""

    def __init__(
        self,
        world: World,
        wire: Wire,
        loop: SimLoop,
        targets: Sequence[PoolTarget],
        socket: Path,
        sends: Callable[[], None],
    ) -> None:
        # It is a process of its own: its threads live on when a writer dies.
        self._workers = Workers(loop, random.Random(f"bridge {world.plan.seed}"))
        transport = SimTransport(world, self._workers, "bridge")
        super().__init__(BridgeSettings("http://127.0.0.1:1", None, socket), targets)
        self._rpc.close()
        node: Any = transport
        self._rpc, self._node = node, RpcNode(transport)
        self._follower = Follower(self._node, targets, doubted=self._doubted)
        self._loop = loop
        self._world = world
        self._sends = sends
        self._wire = wire

    @property
    def is_at_tip(self) -> bool:
        tip = self._follower.tip
        return tip is not None and "0x" + tip.hash.hex() == self._world.universe.tip.hash

    @property
    def has_told_reorgs(self) -> bool:
        """What it told last, if anything, is of the chain still."""
        tip = self._follower.tip
        return tip is None or "0x" + tip.hash.hex() in {
            block.hash for block in self._world.universe.chain
        }

    async def follow(self) -> None:
        """Until cancelled."""
        while not self._wire.accept():
            await asyncio.sleep(POLL_S)
        while True:
            self._keep_pools()
            await self._workers.submit(self._step, (None,))
            if self._failures:
                pause_s = min(FIRST_RETRY_S * 2 ** (self._failures - 1), LONGEST_RETRY_S)
                await asyncio.sleep(max(POLL_S / 4, pause_s))
            else:
                await asyncio.sleep(POLL_S)

    def _broadcast(self, data: bytes) -> None:
        self._sends()
        self._wire.send(data)

    def _drop_clients(self, reason: str) -> None:
        self._world.note(f"  the bridge drops its clients: {reason}"[:100])
        self._wire.drop()
