"""Where the writer reads pools: a node, a database with or without hashes, a state file.

A state file answers whenever it is asked, with what it had when it was last written.
"""

import os
import random
from collections.abc import Sequence
from pathlib import Path

from builders.history import SimBlock, write_states
from oracle.chain_oracle import V2State

from arena.errors import PoolInvalid, RpcUnavailable, Scraper
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writer.protocols.held import pool_target
from arena.writer.protocols.storage import PoolTarget
from arena.writer.scrapers import Scrape, ScrapedPool
from arena.writer.scrapers.statefile import CLOCK_SET_NS, StateFile
from simulation.clock import Clock, Workers
from simulation.world import Chain, World

TOKENS = (TokenSpec(b"\1" * 20, 18, "ONE"), TokenSpec(b"\2" * 20, 18, "TWO"))
PROTOCOLS = {"uniswap_v2": 0, "uniswap_v3": 1, "uniswap_v4": 2}


def target_of(world: World, key: str) -> PoolTarget:
    return pool_target(spec_of(world, key))


def spec_of(world: World, key: str) -> PoolSpec:
    protocol = PROTOCOLS[world.universe.protocols[key]]
    factory = bytes.fromhex("99" * 20) if protocol == 2 else bytes(20)
    return PoolSpec(
        bytes.fromhex(key[2:]), protocol, *TOKENS, 3000, 0 if protocol == 0 else 10, factory
    )


def values_of(block: SimBlock, key: str) -> PoolValues:
    pool = block.states[key]
    if isinstance(pool, V2State):
        return PoolValues(block.number, 3000, reserve0=pool.reserve0, reserve1=pool.reserve1)
    return PoolValues(
        block.number,
        3000,
        sqrt_price_x96=pool.sqrt_price_x96,
        tick=pool.tick,
        liquidity=pool.liquidity,
        ticks=tuple((tick, *pool.ticks[tick]) for tick in sorted(pool.ticks)),
        lp_fee=3000,
    )


class SimScraper:
    """Reads whole states of one block of its view."""

    def __init__(
        self, world: World, workers: Workers, targets: Sequence[PoolTarget], number: int
    ) -> None:
        self.world = world
        self.workers = workers
        self.plan = world.plan
        self.kind = world.plan.scraper
        self.trails = self.kind != "rpc"
        self.rng = random.Random(f"scraper {world.plan.seed} of writer {number}")
        self.hold(targets)

    def hold(self, targets: Sequence[PoolTarget]) -> None:
        self.specs = {target.spec.key: target.spec for target in targets}

    def _view(self) -> Chain:
        return self.world.database if self.trails else self.world.node_view(self.rng)

    def get_current_block_number(self) -> int:
        return self._view()[-1].number

    def list_pools(self) -> Sequence[PoolSpec]:
        return list(self.specs.values())

    def _is_bad(self, rate: float) -> bool:
        return not self.world.is_calm and self.rng.random() < rate

    def _take_time(self) -> None:
        if self._is_bad(0.3):
            self.workers.pause(self.plan.latency_s * self.rng.random())
        if self._is_bad(self.plan.life.slow_reads):
            self.workers.pause(self.plan.pace_s * self.rng.choice((0.5, 5.0)))

    def read_pools(self, keys: Sequence[bytes]) -> Scrape:
        if self._is_bad(self.plan.scrape_failures):
            raise Scraper("the source does not answer")
        self._take_time()
        block = self._view()[-1]
        self._take_time()
        self.world.note_read(block, ["0x" + key.hex() for key in keys])
        has_hash = self.kind != "database"
        pools, invalid = [], []
        for key in keys:
            text = "0x" + key.hex()
            if key not in self.specs:
                invalid.append(PoolInvalid("simulated", key=key, found="no entry"))
            elif self._is_bad(self.plan.scrape_failures / 4):
                invalid.append(PoolInvalid("simulated", key=key, found="simulated"))
            else:
                pools.append(
                    ScrapedPool(
                        spec_of(self.world, text),
                        values_of(block, text),
                        bytes.fromhex(block.hash[2:]) if has_hash else None,
                    )
                )
        return Scrape(tuple(pools), tuple(invalid))

    def read_pools_at(self, number: int, block_hash: bytes, keys: Sequence[bytes]) -> Scrape:
        """As the node that compares has it: of any block there ever was."""
        if self._is_bad(self.plan.scrape_failures):
            raise RpcUnavailable("the node does not answer")
        block = self.world.universe.by_hash["0x" + block_hash.hex()]
        assert block.number == number
        texts = ["0x" + key.hex() for key in keys]
        return Scrape(
            tuple(
                ScrapedPool(spec_of(self.world, text), values_of(block, text), block_hash)
                for text in texts
            )
        )

    def close(self) -> None:
        pass


class SimStateFile(StateFile):
    """The writer's own reader of a real file; the node beside it compares pools."""

    def __init__(self, path: Path, scraper: SimScraper) -> None:
        super().__init__(path, wait_s=0.0)  # it is there; and real time must not be waited for
        self.read_pools_at = scraper.read_pools_at

    def is_hidden(self, clock: Clock, step_ns: int) -> bool:
        """The clock was set since it last looked, and with this step nobody can see that any more
        (docs/reference/state-file.md)."""
        set_ns = clock.time_ns() - clock.monotonic_ns() - self._ahead_ns
        return abs(set_ns) > CLOCK_SET_NS >= abs(set_ns + step_ns)


def write_file(path: Path, world: World) -> None:
    """The file as whoever writes it has the chain now; its time is that of the wall clock."""
    write_states(path, world.universe, world.universe.tip, world.listed)
    now_ns = world.clock.time_ns()
    os.utime(path, ns=(now_ns, now_ns))
