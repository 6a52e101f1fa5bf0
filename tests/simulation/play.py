"""One history from its seed, and what must hold in it.

The frames of the chain go through a real Unix socket, the real Feed, EventBuffer, intake, coordinator,
processor and arena, in simulated time; scraper and node are simulated. A reader looks after every round
of the feed thread: the live pools of one snapshot must all be in the state of one single block of that
number, one of the stream's chain since the last moment at which the writer is known to have had all of
the stream. At the end faults cease, and exactly the pools of the list must be there, live, and equal to
the canonical tip.

In the histories with a life (Life) the list of pools changes, arenas are too small, checkpoints are
written, pools are compared with the node, and the writer is killed: it stops wherever it is, nothing
is committed, taken back or closed, and another one begins as writer/service.py does. The reader stays
attached. A pool once gone stays gone, and no handle ever shows another pool's numbers.
"""

import asyncio
import contextlib
import hashlib
import os
import random
import shutil
import struct
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from builders.history import FAULTS, Delivery, ListChange, disturb, frames_of
from builders.shown import shown

import arena
from arena.errors import Scraper
from arena.segment import Access
from arena.writer.host.room import Capacities
from arena.writer.node.rpc_node import RpcNode
from arena.writer.protocols.storage import PoolTarget
from arena.writer.sync.checkpoint_file import checkpoint_files
from arena.writer.sync.coordinator import Coordinator
from arena.writer.sync.restart import open_arena
from arena.writing import WriterArena
from simulation.bridge import SimBridge
from simulation.clock import Clock, SimLoop, simulated
from simulation.disk import Faults, faulty
from simulation.node import SimTransport
from simulation.plan import Hostile, Plan
from simulation.sources import SimStateFile, target_of, write_file
from simulation.wire import Wire
from simulation.world import NEVER, World
from simulation.writer import SimWriter

# All in simulated seconds.
END_S = (
    400.0  # pools are read again after a minute at the latest, a gap is given up after half of one
)
HEARD_S = 2.0
SETTLE_S = 30.0
POLL_S = 0.01
BEGIN_BLOCK = struct.pack("<I", 1)
# What a reader may be told when pools come and go, and arenas grow, while it looks.
UNLUCKY = (arena.SnapshotTooOld, arena.SnapshotContended, arena.UnknownPool)


@dataclass
class Failure(Exception):
    """A history that does not hold; the message has all it takes to see why."""

    kind: str
    text: str
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}\n" + "\n".join(self.notes[-60:])


class Run:
    """One history against one writer after another."""

    def __init__(self, plan: Plan, name: str, path: Path) -> None:
        self.plan, self.name, self.path = plan, name, path
        self.clock = Clock()
        self.loop = SimLoop(self.clock, random.Random(f"threads {plan.seed}"))
        self.world = World(plan, self.clock)
        self.rng = random.Random(f"wire {plan.seed}")
        self.turns = self.world.turns
        self.glances = random.Random(f"glances {plan.seed}")
        self.folder = path.with_suffix(".state")
        self.file = path.with_suffix(".jsonl")
        self.wire = Wire(path, self._arrived, self._accepted)
        self.faults = Faults(self.world)
        self.transport = SimTransport(self.world, self.loop.workers)
        self.node = None if plan.node == "absent" else RpcNode(self.transport)
        self.bridge: SimBridge | None = None
        self.following: asyncio.Future[None] | None = None
        self.queue: list[tuple[bytes, int]] = []  # and the view it is of
        self.held: list[ListChange] = []  # changes the list source has not told yet
        self.outage_steps = 0
        self.excused_audits = 0  # differences nothing else could have told
        self.looks = self.live_looks = 0
        self.failure: Failure | None = None
        self.seen: tuple[int, int] | None = None
        self.place: tuple[int, int] | None = None
        self.shown: list[arena.Pool] = []
        self.copies: dict[str, tuple[bytes | None, dict[str, Any]]] = {}
        self.trace = hashlib.sha256()
        self.counts: Counter[str] = Counter()
        self.leaving: set[str] = set()
        self.gone: set[str] = set()
        self.is_down = False
        self.handles: list[arena.Pool] = []
        self.writers: list[SimWriter] = []
        self.first = WriterArena.create(
            name,
            max_pools=plan.life.max_pools,
            max_tokens=16,
            tick_bytes=plan.life.tick_bytes,
            undo_blocks=plan.hostile.undo_blocks,
            undo_records=plan.hostile.undo_records,
            chain_id=1,
        )
        self.reader = arena.attach(name)

    @property
    def writer(self) -> SimWriter:
        return self.writers[-1]

    @property
    def coordinator(self) -> Coordinator:
        return self.writer.coordinator

    @property
    def digest(self) -> str:
        """Of everything that happened and every look."""
        notes = "\n".join(self.world.notes).encode()
        return hashlib.sha256(notes + self.trace.digest()).hexdigest()

    def totals(self) -> Counter[str]:
        """What happened, to be added up."""
        return self.counts + Counter(
            {
                "looks": self.looks,
                "live looks": self.live_looks,
                "calls of the node": self.transport.calls,
                "lies": self.transport.lies,
                "disk faults": self.faults.torn,
                "descriptors refused": self.faults.refused,
                "gaps closed": self.coordinator.metrics.gaps_closed,
                "pumped": sum(writer.thread.pumped for writer in self.writers),
            }
        )

    def play(self) -> None:
        hostile = self.plan.hostile
        ring = {"undo_blocks": hostile.undo_blocks, "undo_records": hostile.undo_records}
        defaults = WriterArena.create.__func__.__kwdefaults__  # type: ignore[attr-defined]
        with (
            simulated(self.clock, self.loop.workers),
            faulty(self.faults),
            patch.dict(defaults, ring),
        ):
            random.seed(self.plan.seed)
            self.loop.set_exception_handler(self._on_error)
            self.main = self.loop.create_task(self._play())
            try:
                self.loop.run_until_complete(self.main)
            except asyncio.CancelledError:
                assert self.failure is not None
                raise self.failure from None
            finally:
                self.loop.close()

    def _on_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Something was raised where nobody takes it."""
        found = context.get("exception")
        if not isinstance(found, Failure):
            text = f"{context['message']}: {found!r}"
            if found is not None:
                text += "\n" + "".join(traceback.format_tb(found.__traceback__))
            found = Failure("error", f"{text}\n{self.plan}", self.world.notes)
        if self.failure is None:
            self.failure = found
            self.main.cancel()

    async def _play(self) -> None:
        self._write_file()
        self._begin(self.first, is_warm=False)
        self.following = self._bridged() if self.plan.stream == "bridge" else None
        try:
            await self._connected()
            for _ in range(self.plan.steps):
                await self._revive()
                await self._turn()
                self._check_writer()
            self.world.calm()
            await self._end()
        finally:
            if self.following is not None:
                self.following.cancel()
            await self.writer.stop()

    def _bridged(self) -> asyncio.Future[None]:
        """A bridge follows the node, and nothing else brings frames."""
        self.bridge = SimBridge(
            self.world, self.wire, self.loop, self._targets(), self.path, self._bridge_sends
        )
        return asyncio.ensure_future(self.bridge.follow())

    def _targets(self) -> list[PoolTarget]:
        return [target_of(self.world, key) for key in self.world.order_of(self.world.listed)]

    def _begin(self, arena: WriterArena, *, is_warm: bool) -> None:
        writer = SimWriter(
            self.world,
            self.loop,
            arena,
            number=len(self.writers),
            socket=self.path,
            folder=self.folder,
            file=self.file,
            node=self.node,
            after=self.look_if_moved,
        )
        if self.writers:
            self.counts["gaps closed"] += self.coordinator.metrics.gaps_closed
        self.writers.append(writer)
        writer.start(is_warm=is_warm)

    def _arrived(self) -> None:
        """There is something new on the socket."""
        self.world.is_noticeable &= self.wire.client is not None
        if self.writers:
            self.writer.thread.has_news = True
            self.writer.thread.poke()

    def _accepted(self) -> None:
        """Values without a hash are from after a writer's stream has begun: what the chain did before,
        nobody tells it."""
        if not self.writer.feed.frames:
            self._refresh(self.world.view)

    def _bridge_sends(self) -> None:
        """What was before the first unit, a bridge tells nobody either."""
        if not self.writer.feed.frames:
            self._refresh(self.world.view)

    def _refresh(self, view: int) -> None:
        self.world.heard_view = view
        self._sends(view)
        self._write_file()
        self.world.follow()

    def _check_writer(self) -> None:
        if self.writer.failure is not None:
            self.fail("ended", self.writer.failure)
        if self.following is not None and self.following.done():
            self.fail("ended", f"the bridge: {self.following.exception()!r}")

    def _write_file(self) -> None:
        """A bridge never tells of a block that is gone before it looks: a file of such a block is of a
        branch nobody could know of (docs/caveats.md)."""
        is_told = self.world.is_told
        if self.bridge is not None:
            is_calm = self.world.is_calm
            is_told &= self.bridge.has_told_reorgs if is_calm else self.bridge.is_at_tip
        if self.plan.scraper == "statefile" and is_told:
            write_file(self.file, self.world)

    # -- lists and deaths

    async def _turn(self) -> None:
        """One step, and what the history's life brings with it."""
        life, turns, hostile = self.plan.life, self.turns, self.plan.hostile
        if turns.random() < hostile.wall_steps:
            step_ns = int(turns.choice((-3600, -5, -1, 1, 5, 3600)) * 1e9)
            scraper = self.writer.scraper
            if not (isinstance(scraper, SimStateFile) and scraper.is_hidden(self.clock, step_ns)):
                self.clock.wall_step_ns += step_ns
                self.world.note("  wall clock stepped")
        if self.rng.random() < 0.5:
            self._write_file()
        if not life.is_eventful:
            await self._step()
            return
        if turns.random() < 0.4:
            await self._live()
        if turns.random() < life.kills:
            if self.node is not None and turns.random() < 0.6:
                await self._live(is_known=True)
            if turns.random() < 0.5:
                await self._restart()
            else:
                await self._step_cut_by(self._restart, None)
        elif turns.random() < life.changes:
            await self._change_list()
        else:
            await self._step()
        await self._tell_held()

    async def _change_list(self) -> None:
        turns = self.turns
        if self.outage_steps or turns.random() < self.plan.hostile.outages:
            if not self.outage_steps:
                self.outage_steps = turns.randrange(1, 6)
                self.world.note("  the list's source is down")
            self.held.append(self.world.change_list(NEVER))
            await self._step()
        elif turns.random() < 0.5:
            self._flush()
            for _ in range(turns.choice((1, 1, 1, 2, 3))):
                await self._tell(self.world.change_list(turns.randrange(3)))
            self.world.producer.follow_list()
            await self._step()
        else:
            block, late = turns.randrange(4), turns.randrange(2)
            change = self.world.change_list(block + 1 + late)
            await self._step_cut_by(partial(self._tell, change), (change, block))

    async def _tell_held(self) -> None:
        """An outage of the list's source comes to its end: all its changes are told together."""
        self.outage_steps = max(0, self.outage_steps - 1)
        if self.outage_steps or not self.held:
            return
        self.world.note("  the list's source is back")
        self._flush()
        held, self.held = self.held, []
        for change in held:
            change.blocks = self.turns.randrange(3)
            await self._tell(change)
        self.world.producer.follow_list()

    async def _live(self, *, is_known: bool = False) -> None:
        """Wait until the arena is live, if it can be with what the stream has brought; with `is_known`
        until another writer could go on from its blocks and checkpoints, too."""
        limit = self.clock.now + HEARD_S
        while self.clock.now < limit:
            is_written = not self.plan.life.checkpoint_every or checkpoint_files(self.folder)
            is_enough = not is_known or (self.coordinator.known() and is_written)
            if self.coordinator.intake.stage.is_live and is_enough:
                break
            await asyncio.sleep(40 * POLL_S)

    async def _tell(self, change: ListChange) -> None:
        """The writer hears of a change, in time to follow it before the producer does."""
        self.counts["added"] += len(change.added)
        self.counts["removed"] += len(change.removed)
        self._note_change(change)
        if self.bridge is not None:
            self.bridge.hold(self._targets())
        self.coordinator.change_pools(
            [target_of(self.world, key) for key in self.world.order_of(change.added)],
            [bytes.fromhex(key[2:]) for key in sorted(change.removed)],
        )
        limit = self.clock.now + HEARD_S
        while self.leaving & change.removed and self.clock.now < limit:
            await asyncio.sleep(10 * POLL_S)

    def _note_change(self, change: ListChange) -> None:
        self.leaving = (self.leaving | change.removed) - change.added
        self.gone -= change.added

    async def _step_cut_by(
        self, work: Callable[[], Any], told: tuple[ListChange, int] | None
    ) -> None:
        """A step without faults, in the middle of whose frames something happens: for a change told
        while the producer is in its block number `told[1]` of the step, exactly there."""
        turns, producer = self.turns, self.world.producer
        self._flush()
        data = self.world.advance()
        frames = frames_of(data)
        if told is None:
            at = turns.randrange(len(data) + 1)
        else:
            change, block = told
            begins = [i for i, each in enumerate(frames) if each[4:8] == BEGIN_BLOCK]
            if block < len(begins):
                index = begins[block] + 1
                at = sum(map(len, frames[:index])) + turns.randrange(len(frames[index]))
            else:
                # The step ended first.
                at, change.blocks = len(data), turns.randrange(3)
                producer.follow_list()
        self.world.note(f"  cut at {at} of {len(data)}")
        view = self.world.view
        self._put(data[:at], view)
        client = self.wire.client
        if turns.random() < 0.7:
            await self._consumed()
        deaths, tracked = len(self.writers), producer.tracked
        steps = len(self.world.views)
        await work()
        rest = frames_of(data)
        while rest and sum(map(len, frames)) - sum(map(len, rest)) < at:
            rest.pop(0)
        self.wire.accept()
        is_whole = client is not None and self.wire.client is client
        if len(self.writers) > deaths:
            # Only while the chain stands where it stood: a stream tells its messages in their order.
            is_next = producer.tracked == tracked and len(self.world.views) == steps
            if rest and turns.random() < 0.3 and is_next:
                self._put(b"".join(rest), view)
        else:
            # A connection that came meanwhile begins with a whole message.
            self._put(data[at:] if is_whole else b"".join(rest), view)
        is_whole &= self.wire.client is client
        await self._delivered(is_whole=is_whole)

    async def _restart(self) -> None:
        """The writer dies; the chain goes on; another writer begins."""
        turns, world = self.turns, self.world
        self.check_audits()
        await self.writer.die(turns)
        generation = self.writer.arena.generation
        self.counts["kills"] += 1
        world.note("killed")
        self.wire.drop()
        self.queue.clear()
        world.killed()
        self.is_down = True
        self.leaving |= self.gone
        self.gone = set()
        self._followed(generation)
        self._spoil()
        world.delivered()
        for _ in range(turns.choice((0, 0, 1, 3))):
            world.advance()
            world.delivered()
            self.look()
        for change in self.held:
            self._note_change(change)
        self.held = []
        if self.plan.life.changes and turns.random() < 0.3:
            self._note_change(world.change_list(0))
        for change in world.producer.changes:
            change.blocks = 0
        world.producer.follow_list()
        if self.bridge is not None:
            self.bridge.hold(self._targets())
        found, is_warm = await self._open()
        source = "cold"
        if is_warm:
            source = "segment" if found.generation == generation else "checkpoint"
        self.counts[source] += 1
        world.note(f"  begins from {source}, head {found.head_block}")
        self._begin(found, is_warm=is_warm)
        self.is_down = False
        self.look()
        if turns.random() < 0.7:
            await self._connected()

    async def _revive(self) -> None:
        """A service manager starts a writer again that has ended itself."""
        if self.writer.has_given_up:
            self.counts["gave up"] += 1
            await self._restart()

    def _followed(self, generation: int) -> None:
        """A reader that has not come to the last generation could not any more once it is spoiled."""
        self.look()
        if self.reader.generation != generation:
            self.fail("reader", f"it stays at generation {self.reader.generation}")

    async def _open(self) -> tuple[WriterArena, bool]:
        work = partial(
            open_arena,
            self.name,
            Capacities(self.plan.life.max_pools, self.plan.life.tick_bytes),
            Access(),
            chain_id=1,
            node=self.node,
            folder=self.folder,
        )
        limit = self.clock.now + END_S
        while True:
            try:
                return await asyncio.to_thread(work)
            except Scraper:  # a service manager starts it again
                if self.clock.now > limit:
                    raise
                await asyncio.sleep(1.0)

    def _spoil(self) -> None:
        """Now and then the segment is of no use to a writer, or checkpoints are not."""
        turns = self.turns
        if turns.random() < 0.4:
            self.world.note("  segment spoiled")
            for path in Path("/dev/shm").glob(f"{self.name}.*"):
                with path.open("r+b") as shared:
                    shared.write(bytes(8))
        files = checkpoint_files(self.folder)
        if files and turns.random() < 0.3:
            for path in files if turns.random() < 0.5 else files[:1]:
                self.world.note("  checkpoint damaged")
                content = bytearray(path.read_bytes())
                if content:
                    content[turns.randrange(len(content))] ^= 1 << turns.randrange(8)
                path.write_bytes(content[: None if turns.random() < 0.7 else len(content) // 2])

    def check_audits(self) -> None:
        found = self.reader.counters["audit_differences"]
        if found > self.excused_audits:
            self.fail("audit", f"{found} differences between live pools and the node")
        self.counts["audited"] = max(self.counts["audited"], self.reader.counters["audited"])

    # -- the stream

    async def _connected(self) -> None:
        limit = self.clock.now + SETTLE_S
        while not self.wire.accept() and self.clock.now < limit:
            if self.writer.ended:
                return
            await asyncio.sleep(POLL_S)

    async def _step(self) -> None:
        rng = self.rng
        before = self.world.producer.next_seq
        steps = len(self.world.views)
        data = self.world.advance()
        fault = rng.choice(FAULTS) if rng.random() < self.plan.fault_rate else None
        if self.plan.hostile != Hostile() and not self.world.is_noticeable and rng.random() < 0.2:
            fault = "skip"  # before a connection has brought anything
        if fault == "skip" and any("reorg" in each for each in self.world.notes[-3:]):
            fault = "offline"  # a stream cannot forget a reorg without the connection or a number
        is_moved = len(self.world.views) > steps
        is_sent = True
        if self.bridge is not None:
            if fault is not None:
                self.wire.drop()
        elif fault == "skip":
            self.world.is_unsure = True
            self.world.producer.next_seq = before
            self.world.note("  skipped without a trace")
        else:
            parts = self._disturbed(data, fault)
            if rng.random() < self.plan.delay_rate and fault is None:
                self.queue.append((data, self.world.view))
                self.world.note("  delayed")
                await self._pass(0.1)
                return
            self.world.is_unsure |= fault is not None or self.wire.client is None
            self._flush()
            for part in parts:
                if part is None:
                    await self._consumed()
                    self.wire.drop()
                    if rng.random() < 0.7:
                        await self._connected()
                else:
                    is_sent &= await self._send(part)
        is_whole = is_moved and fault is None and is_sent and self.wire.client is not None
        await self._delivered(is_whole=is_whole)

    def _disturbed(self, data: bytes, fault: str | None) -> list[bytes | None]:
        """What reaches the client of `data`, after one fault or two."""
        if fault is None:
            return [data]
        faults = [fault]
        if self.rng.random() < self.plan.hostile.second_faults:
            faults.append(self.rng.choice([each for each in FAULTS if each != "skip"]))
        parts: list[bytes | None] = [data]
        for each in faults:
            at = self.rng.choice([i for i, part in enumerate(parts) if part is not None] or [-1])
            part = parts[at] if at >= 0 else None
            if part is None:
                continue
            delivery = self._disturb(part, each)
            self.world.note(f"  {delivery.note}")
            parts[at : at + 1] = delivery.parts
        return parts

    def _disturb(self, data: bytes, fault: str) -> Delivery:
        last = frames_of(data)[-1:]
        if last and len(last[0]) != 4 + int.from_bytes(last[0][:4], "little"):
            return Delivery([data], "the rest is cut already")
        return disturb(data, fault, self.rng)

    async def _send(self, data: bytes) -> bool:
        """In one piece, or in two with time between; whether one client was sent it all."""
        if len(data) > 1 and self.rng.random() < 0.3:
            at = self.rng.randrange(1, len(data))
            self._put(data[:at])
            client = self.wire.client
            await asyncio.sleep(self.rng.random() * self.plan.pace_s)
            self.wire.accept()
            if client is None or self.wire.client is not client:
                self.world.is_unsure = True
                return False
            data = data[at:]
        self._put(data)
        return self.wire.client is not None

    async def _delivered(self, *, is_whole: bool) -> None:
        """What there is was put on the wire; `is_whole`: nothing of it was lost."""
        self.world.is_unsure |= not is_whole
        self.world.delivered()
        client = self.wire.client
        self.world.is_noticeable = is_whole and client is not None
        if self.rng.random() < 0.7:
            await self._consumed()
            if is_whole and client is self.wire.client and not self.queue:
                self._settled()
        await self._pass(1.0)

    def _settled(self) -> None:
        is_behind = self.bridge is not None and not self.bridge.is_at_tip
        if self.writer.thread.is_idle and not self.wire.unread() and not is_behind:
            self.world.settled(is_live=self.coordinator.intake.stage.is_live)

    async def _pass(self, times: float) -> None:
        await asyncio.sleep(self.plan.pace_s * times * self.rng.choice((0.0, 0.1, 1.0, 5.0)))

    def _put(self, data: bytes, view: int | None = None) -> None:
        """On the wire, what leads to that view, the newest by itself; unless a bridge puts there what it
        finds out itself."""
        view = self.world.view if view is None else view
        if self.bridge is None:
            # The first, whatever was left out before.
            if not self.writer.feed.frames and not self.wire.unread():
                self._refresh(view)
            self._sends(view)
            self.wire.send(data)

    def _sends(self, view: int) -> None:
        if self.bridge is None:
            self.world.told_view = max(view, self.world.told_view)

    def _flush(self) -> None:
        if self.queue:
            self._sends(self.queue[-1][1])
        for data, view in self.queue:
            self._put(data, view)
        self.queue.clear()

    async def _consumed(self) -> None:
        limit = self.clock.now + HEARD_S
        while self.bridge is not None and not self.bridge.is_at_tip and self.clock.now < limit:
            await asyncio.sleep(40 * POLL_S)
        limit = self.clock.now + SETTLE_S
        await asyncio.sleep(POLL_S / 10)
        while (self.wire.unread() or not self.writer.thread.is_idle) and self.clock.now < limit:
            if self.writer.ended:
                return
            await asyncio.sleep(POLL_S)

    # -- what must hold

    def fail(self, kind: str, text: str) -> None:
        raise Failure(kind, f"{text}\n{self.plan}", self.world.notes)

    def look_if_moved(self) -> None:
        """A look, when there is something new to see."""
        seen = (self.reader.generation, self.reader.committed)
        if seen != self.seen:
            self.seen = seen
            self.look()

    def look(self) -> dict[str, Any] | None:
        """One snapshot; its live pools must be in the state of one block of its number."""
        is_joined = not self.is_down and self.coordinator.intake.stage.is_live
        try:
            number, states = self._read()
        except UNLUCKY:
            return None
        self.looks += 1
        live = {key: state for key, state in states.items() if state is not None}
        self.trace.update(f"{self.clock.now:.6f} {number} {sorted(live)} {len(states)};".encode())
        if live:
            self.live_looks += 1
            self._check_states(number, live)
        if self.plan.life.is_eventful:
            self._check_membership(states, is_joined=is_joined)
            if self.glances.random() < 0.2:
                self._check_handles(list(states))
        return {"number": number, "live": live, "keys": set(states)}

    def _read(self) -> tuple[int, dict[str, dict[str, Any] | None]]:
        """The head block, and what readers see of all live pools, None of the others: mostly from pool
        to pool, which is the same, as nothing else runs meanwhile, and only what has changed."""
        place = (self.reader.generation, self.reader.topology)
        if place != self.place:
            self.place, self.shown = place, [self.reader[key] for key in self.reader]
            self.copies.clear()
        if self.glances.random() < 0.05:
            keys = list(self.reader)
            with self.reader.snapshot(keys) as view:
                states = [view[key].state() for key in keys]
                return view.block_number, {
                    state.pool_key: shown(state) if state.status == "live" else None
                    for state in states
                }
        found: dict[str, dict[str, Any] | None] = {}
        for pool in self.shown:
            state = pool.state()
            if state.status != "live":
                found[pool.key] = None
                continue
            content = state._copy
            known = self.copies.get(pool.key)
            if known is None or known[0] != content:
                known = self.copies[pool.key] = content, shown(state)
            found[pool.key] = known[1]
        return self.reader.head_block, found

    def _is_undecidable(self, key: str) -> bool:
        """See World.is_undecidable; what the stream is known to bring, the writer itself says."""
        intake = self.writer.intake
        late = {"0x" + each.hex(): block for each, block in intake.standing.late_now.items()}

        def known(number: int) -> set[str]:
            return {each for each in self.world.listed if late.get(each, -1) < number}

        return self.world.is_undecidable(key, intake.buffer.first_block, known)

    def _check_states(self, number: int, live: dict[str, dict[str, Any]]) -> None:
        candidates = self.world.allowed(number)
        may_be_undecidable = self.world.foreign or self.plan.hostile.fee_step
        if self.plan.hostile.fee_step:
            found = self.reader.counters["audit_differences"]
            # The audit may find what nothing else could; another arena counts from nothing.
            is_excused = found < self.excused_audits or not self.world.is_healed
            self.excused_audits = found if is_excused else self.excused_audits
        if may_be_undecidable and not any(
            all(block.state(key) == found for key, found in live.items()) for block in candidates
        ):
            undecidable = {key for key in live if self._is_undecidable(key)}
            self.counts["undecidable"] += bool(undecidable)
            live = {key: found for key, found in live.items() if key not in undecidable}
        if any(
            all(block.state(key) == found for key, found in live.items()) for block in candidates
        ):
            return
        others = self.world.universe.by_number.get(number, [])
        places = {
            key: [
                each.hash[:8] + ("" if each in candidates else " (not allowed)")
                for each in others
                if each.state(key) == found
            ]
            for key, found in live.items()
        }
        wrong = {
            key: (found, [block.state(key) for block in candidates])
            for key, found in live.items()
            if not any(block.state(key) == found for block in candidates)
        }
        tip = self.world.universe.chain
        here = [block.hash[:8] for block in tip if block.number == number]
        self.fail(
            "wrong but live",
            f"live pools are in no state of a block {number} the stream has had: found in "
            f"{places}, canonical {here}, wrong {wrong}",
        )

    def _check_membership(self, states: dict[str, Any], *, is_joined: bool) -> None:
        """What was gone is gone until it is added again. A join that began before the change may
        still show it, never live."""
        back = [key for key in sorted(self.gone & states.keys()) if states[key] is not None]
        if back:
            self.fail("membership", f"removed pools are live again: {back}")
        if is_joined:
            self.gone |= self.leaving - states.keys()
            self.leaving -= self.gone

    def _check_handles(self, keys: list[str]) -> None:
        """Handles of any age answer with their own pool's numbers or not at all."""
        rng = self.glances
        if keys and len(self.handles) < 30 and rng.random() < 0.1:
            with contextlib.suppress(arena.UnknownPool):
                self.handles.append(self.reader[rng.choice(keys)])
        for handle in rng.sample(self.handles, min(2, len(self.handles))):
            try:
                state = handle.state()
            except (*UNLUCKY, arena.PoolRemoved):
                continue
            if state.status != "live":
                continue
            found = shown(state)
            blocks = reversed(self.world.universe.by_hash.values())
            if state.pool_key != handle.key or not (
                any(block.state(handle.key) == found for block in blocks)
                or self._is_undecidable(handle.key)
            ):
                self.fail("handle", f"on {handle.key} it shows {state.pool_key}: {found}")

    async def _end(self) -> None:
        """Faults cease: the stream goes on, and everything must come right."""
        limit = self.clock.now + END_S
        self.outage_steps = 0
        await self._tell_held()
        self._flush()
        while True:
            await self._revive()
            self._check_writer()
            await self._connected()
            self._put(self.world.advance())
            self.world.delivered()
            self._write_file()
            client = self.wire.client
            await self._consumed()
            if client is self.wire.client:
                self._settled()
            if self._is_right():
                return
            await asyncio.sleep(1.0)
            if self._is_right():
                return
            if self.clock.now > limit:
                self._never_came_back()

    def _is_right(self) -> bool:
        """Everything is live and true."""
        is_live = self.reader.phase == "live"  # before it is, the head is an old one
        found = self.look()
        tip = self.world.universe.tip
        if found is None or not is_live or found["number"] != tip.number:
            return False
        if not found["live"].keys() == self.world.listed == found["keys"]:
            return False
        for key, state in found["live"].items():
            if state != tip.state(key):
                if self._is_undecidable(key):
                    return False
                self.fail("wrong in the end", f"{key}: {state}, the truth is {tip.state(key)}")
        self.check_audits()
        return True

    def _never_came_back(self) -> None:
        found = self.look()
        chain: Any = self.writer.work
        while chain is not None:
            at = getattr(chain, "cr_frame", None)
            if at is not None:
                self.world.note(f"awaits in {at.f_code.co_name} {at.f_lineno}")
            chain = getattr(chain, "cr_await", None) or (
                chain.get_coro() if hasattr(chain, "get_coro") else None
            )
        self.fail(
            "never came back",
            f"phase {self.reader.phase} ({self.reader.phase_reason}), "
            f"{found and found['number']} of {self.world.universe.tip.number}, live "
            f"{found and sorted(found['live'])} of {found and sorted(found['keys'])}, listed "
            f"{sorted(self.world.listed)}, frames {self.writer.feed.frames}",
        )

    def close(self) -> None:
        self.reader.close()
        self.wire.close()
        self.writer.arena.close(unlink=True)
        os.unlink(self.path)
        self.file.unlink(missing_ok=True)
        shutil.rmtree(
            self.folder, ignore_errors=True
        )  # checkpoints are numbered by what lies there


def play(seed: str, name: str, folder: Path) -> Run:
    """One history from its seed; Failure when it does not hold."""
    run = Run(Plan.of(seed), name, folder / f"{seed.replace(':', '-')}.sock")
    try:
        run.play()
    finally:
        run.close()
    return run
