"""From a fresh connection to live: pools are read and installed, and the kept blocks applied."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence

from arena.errors import ArenaFull, ArenaRegistry, CoverageError
from arena.layouts.protocols import PROTOCOLS
from arena.specs import PoolSpec
from arena.writer.host.sidetasks import all_or_error
from arena.writer.scrapers import ScrapedPool
from arena.writer.stream.compare import NodeBlock
from arena.writer.sync.agreement import Agreement
from arena.writer.sync.candidate import Candidate, Verdict
from arena.writer.sync.courses import Course, Duties
from arena.writer.sync.parts import Shared
from arena.writer.sync.source import OUTDATED, PASSING
from arena.writer.sync.starts import Metrics, Preset
from arena.writer.sync.watch import Watch

log = logging.getLogger(__name__)

# Pools handed to the feed thread at once, and their ticks: how long the socket waits for one piece.
INSTALL_POOLS = 64
INSTALL_TICKS = 8192
# A scrape this far behind the stream is joined with the node's logs; one further behind is read anew.
MAX_BACKFILL_BLOCKS = 512


class Joining(Course):
    """One attempt after another, until the arena is live."""

    def __init__(
        self,
        shared: Shared,
        parts: Duties,
        watch: Watch,
        preset: Preset,
        *,
        scrape_timeout_s: float,
    ) -> None:
        super().__init__(shared, parts)
        self._watch = watch
        self._preset = preset
        self._scrape_timeout_s = scrape_timeout_s
        self._carried: dict[bytes, ScrapedPool] = {}
        self.has_been_live = False

    async def join(self) -> Metrics:
        """Live, with every pool that could be read. What stands in the way, as cold_start says."""
        self._progress.broken.clear()
        self._confirming.unsure_reason = ""
        epoch, first = await self._progress.first_block()
        self._progress.enter("scraping")
        await self._call(self.intake.enter, epoch, "scraping")
        listed = await self._progress.unbroken(asyncio.to_thread(self._source.scraper.list_pools))
        # What the stream may not bring yet is added when the others are live.
        specs = [spec for spec in listed if not self._roster.is_settling(spec.key)]
        self._progress.metrics.pools_total = len(specs)
        self._progress.metrics.pools_done = self._progress.metrics.pools_invalid = 0
        self._progress.metrics.first_block = first
        log.info("event=scraping pools=%d first_block=%d", len(specs), first)
        joined: dict[bytes, Candidate] = {}
        deadline = time.monotonic() + self._scrape_timeout_s
        await self._wait_for_source(epoch, first, deadline)
        await self._install_carried(epoch, first, joined)
        wanted = [spec for spec in specs if spec.key not in joined]
        if self._branch is not None:
            self._branch.pools = {spec.key: spec for spec in listed}
        while True:
            if wanted:
                await self._scrape(wanted, epoch, first, deadline, joined)
                if specs and not joined:
                    raise ArenaRegistry(
                        f"none of the {len(specs)} scraped pools could be installed; "
                        "the log says why for each"
                    )
            self._progress.enter("replaying")
            why = self._confirming.unsure_reason
            await self._call(self.intake.enter, epoch, "replaying", why)
            earlier: Sequence[NodeBlock] = ()
            mark, _ = await self._call(self.intake.standing.known_now, epoch)
            verdict = Verdict()
            agreement: Agreement | None = None
            candidates = [each for key, each in joined.items() if not self._roster.is_leaving(key)]
            doubted = tuple(each.key for each in candidates if not self._reaches(each.pool, first))
            if doubted:
                verdict = Verdict(again=doubted)
            elif self._branch is not None:
                verdict, earlier, agreement = await self._confirming.confirm(
                    self._branch, epoch, candidates
                )
            if verdict.is_clear:
                # Some may have been told to go while the node was asked.
                joined = {k: each for k, each in joined.items() if not self._roster.is_leaving(k)}
                verdict = await self._call(
                    self.intake.go_live, epoch, list(joined.values()), earlier
                )
            if verdict.is_clear:
                break
            await self._progress.show()
            wanted = [spec for spec in specs if spec.key in verdict.again]
            if wanted:
                if time.monotonic() >= deadline:
                    self._refuse_reverted(joined, verdict)
                self._progress.metrics.pools_done = len(joined) - len(wanted)
                log.info("event=scrape_again pools=%d reason=reverted", len(wanted))
                self._progress.enter("scraping")
                await self._call(self.intake.enter, epoch, "scraping")
            await self._progress.unbroken(asyncio.sleep(self._progress.poll_s))
        self._settled(listed, joined, first, agreement)
        if self._branch is not None and earlier:
            is_proven = agreement is not None and agreement.is_proven
            self._branch.fill(earlier, mark, is_proven=is_proven)
        await self._show_live()
        return self._progress.metrics

    def _settled(
        self,
        listed: Sequence[PoolSpec],
        joined: Mapping[bytes, Candidate],
        first: int,
        agreement: Agreement | None,
    ) -> None:
        """The arena is live with the pools of `joined`; the others are read later."""
        self.has_been_live = True
        self._roster.settle_above(first)
        self._carried.clear()
        if self._branch is not None:
            self._branch.forget()
            self._places.begin_again()
            self._places.note(list(joined.values()), agreement)
        left_out = [
            spec.key
            for spec in listed
            if spec.key not in joined and not self._roster.is_leaving(spec.key)
        ]
        self._roster.retry_later(left_out, time.monotonic())

    async def _show_live(self) -> None:
        await self._progress.show()
        self._progress.enter("live")
        await self._watch.say_fees_stand_still()
        self._membership.reports.count(at_once=True)
        log.info(
            "event=live pools=%d invalid=%d duration_ms=%d %s",
            self._progress.metrics.pools_done,
            self._progress.metrics.pools_invalid,
            int(self._progress.metrics.duration_s * 1000),
            " ".join(
                f"{name}_ms={int(took * 1000)}"
                for name, took in self._progress.metrics.phase_s.items()
            ),
        )

    async def _scrape(
        self,
        specs: Sequence[PoolSpec],
        epoch: int,
        first: int,
        deadline: float,
        joined: dict[bytes, Candidate],
    ) -> None:
        """Read and install `specs`; again, until the deadline, those read behind the stream."""
        wanted = list(specs)
        while wanted:
            late: list[Candidate] = []
            gate = asyncio.Semaphore(self._preset.concurrency)
            works = [
                self._scrape_batch(batch, gate, epoch, first, joined, late)
                for batch in self._batches(wanted)
            ]
            try:
                await self._progress.unbroken(all_or_error(works))
            except PASSING as error:
                await self._source.wait_out(error, epoch, deadline)
                wanted = [spec for spec in wanted if spec.key not in joined]
                continue
            if not late:
                return
            behind = min(late, key=lambda candidate: candidate.block_number)
            if time.monotonic() >= deadline:
                self._refuse_coverage(behind, first, len(late))
            text = f"waiting for values of block {first - 1}, {behind.block_number} found"
            if self.intake.standing.is_outdated(behind):
                text = f"waiting for newer values: {OUTDATED}"
            self._membership.reports.report(behind.key, CoverageError(text))
            keys = {candidate.key for candidate in late}
            wanted = [spec for spec in wanted if spec.key in keys]
            await self._progress.unbroken(asyncio.sleep(self._progress.poll_s))

    async def _scrape_batch(
        self,
        batch: list[bytes],
        gate: asyncio.Semaphore,
        epoch: int,
        first: int,
        joined: dict[bytes, Candidate],
        late: list[Candidate],
    ) -> None:
        async with gate:
            candidates, invalid = await self._source.read(batch, epoch)
            for error in invalid:
                self._progress.metrics.pools_invalid += 1
                joined.pop(error.key, None)
                self._membership.reports.report(error.key, error)
            accepted: list[Candidate] = []
            for each in candidates:
                joins = self._reaches(each.pool, first) and not self.intake.standing.is_outdated(
                    each
                )
                (accepted if joins else late).append(each)
            await self._install(accepted, epoch, joined)
            await self._progress.show()

    def _reaches(self, pool: ScrapedPool, first: int) -> bool:
        """Whether values join a stream that begins at block `first`, if need be with the node's
        logs in between."""
        block_number = pool.values.block_number
        if block_number < self._roster.floor_of(pool.spec.key) >= first:
            return False
        if self._branch is not None and pool.block_hash is not None:
            return block_number >= first - 1 - MAX_BACKFILL_BLOCKS
        return block_number >= first - 1

    async def _wait_for_source(self, epoch: int, first: int, deadline: float) -> None:
        """Let a source that trails come up to the stream before anything is read from it.

        CoverageError when the time is over.
        """
        while self._source.trails:
            try:
                ask = asyncio.to_thread(self._source.scraper.get_current_block_number)
                found = await self._progress.unbroken(ask)
            except PASSING as error:
                await self._source.wait_out(error, epoch, deadline)
                continue
            self._progress.metrics.source_block = found
            await self._progress.show()
            if found >= first - 1:
                return
            if time.monotonic() >= deadline:
                raise CoverageError(
                    f"the source is at block {found}, the first whole block of the stream is "
                    f"{first}: values of block {first - 1} or later are needed (waited "
                    f"{self._scrape_timeout_s:g} s). Let the node catch up, or wait longer with "
                    "--scrape-timeout",
                    scraped_block=found,
                    first_block=first,
                )
            await self._progress.unbroken(asyncio.sleep(self._progress.poll_s))

    async def _install_carried(
        self, epoch: int, first: int, joined: dict[bytes, Candidate]
    ) -> None:
        """Use again what was read before the stream broke, where a node can tell if it is still
        canonical; _confirm asks it."""
        mark, losses = await self._call(self.intake.standing.known_now, epoch)
        carried = [
            Candidate(pool, mark, self._source.trails, losses)
            for pool in self._carried.values()
            if pool.block_hash is not None and self._reaches(pool, first)
        ]
        self._carried.clear()
        if self._branch is not None and carried:
            log.info("event=scrape_carried_over pools=%d", len(carried))
            await self._install(carried, epoch, joined)

    def _batches(self, specs: Sequence[PoolSpec]) -> list[list[bytes]]:
        quick = [spec.key for spec in specs if not PROTOCOLS[spec.protocol].has_ticks]
        others = [spec.key for spec in specs if PROTOCOLS[spec.protocol].has_ticks]
        batches = []
        for keys, size in ((quick, self._preset.v2_batch), (others, self._preset.cl_batch)):
            batches += [keys[start : start + size] for start in range(0, len(keys), size)]
        return batches

    async def _install(
        self, candidates: list[Candidate], epoch: int, joined: dict[bytes, Candidate]
    ) -> None:
        for piece in _pieces(candidates):
            failed = await self._call(self.intake.install, epoch, piece)
            while full := [each for each in failed.values() if isinstance(each, ArenaFull)]:
                if not await self._membership.grow(full[0]):
                    break
                again = [each for each in piece if isinstance(failed.get(each.key), ArenaFull)]
                failed = {k: v for k, v in failed.items() if not isinstance(v, ArenaFull)}
                failed |= await self._call(self.intake.install, epoch, again)
            for candidate in piece:
                key = candidate.key
                if key in failed:
                    self._progress.metrics.pools_invalid += 1
                    joined.pop(key, None)
                    self._membership.reports.report(key, failed[key])
                else:
                    joined[key] = candidate
                    self._carried[key] = candidate.pool
            self._progress.metrics.pools_done = len(joined)
        blocks = [candidate.block_number for candidate in joined.values()]
        self._progress.metrics.reference_block = min(blocks, default=None)

    def _refuse_coverage(self, behind: Candidate, first: int, count: int) -> None:
        key = behind.key
        if self.intake.standing.is_outdated(behind):
            raise CoverageError(
                f"pool 0x{key.hex()}, read at block {behind.block_number}: {OUTDATED} ({count} pools, "
                f"nothing newer after {self._scrape_timeout_s:g} s)",
                pool=key,
                scraped_block=behind.block_number,
                first_block=first,
            )
        raise CoverageError(
            f"pool 0x{key.hex()} was read at block {behind.block_number}, but the first whole "
            f"block of the stream is {first}: values of block {first - 1} or later are needed "
            f"({count} pools behind after {self._scrape_timeout_s:g} s). Provide newer state, or "
            "wait longer with --scrape-timeout",
            pool=key,
            scraped_block=behind.block_number,
            first_block=first,
        )

    def _refuse_reverted(self, joined: dict[bytes, Candidate], verdict: Verdict) -> None:
        candidate = joined[verdict.again[0]]
        key = candidate.key
        raise CoverageError(
            f"pool 0x{key.hex()} was read at block {candidate.block_number}, which the stream has "
            f"reverted since ({len(verdict.again)} pools, no newer values after "
            f"{self._scrape_timeout_s:g} s). "
            "Provide state read after the reorg, or wait longer with --scrape-timeout",
            pool=key,
            scraped_block=candidate.block_number,
            first_block=self._progress.metrics.first_block,
        )


def _pieces(candidates: Sequence[Candidate]) -> list[list[Candidate]]:
    """Cut into pieces of at most INSTALL_POOLS pools and about INSTALL_TICKS ticks."""
    pieces: list[list[Candidate]] = []
    ticks = INSTALL_TICKS
    for candidate in candidates:
        if ticks >= INSTALL_TICKS or len(pieces[-1]) >= INSTALL_POOLS:
            pieces.append([])
            ticks = 0
        pieces[-1].append(candidate)
        ticks += len(candidate.pool.values.ticks)
    return pieces
