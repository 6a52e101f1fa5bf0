"""Records a stream: what came over the socket, and states of pools beside it."""

import asyncio
import logging
import math
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from arena.native import lib
from arena.writer.host.shortage import remedy_of
from arena.writer.host.sidetasks import all_or_error
from arena.writer.host.sockets import check_peer, peer_of
from arena.writer.producers.recording import Cutter, whole_frames
from arena.writer.producers.recording_file import FLUSH_S, LONGEST_PAUSE_S, RecordingFile

log = logging.getLogger(__name__)


STATES_RETRY_S = 1.0
AFTER_REVERT_S = 0.5  # longer than a writer is behind the stream


@dataclass(slots=True)
class Recorder:
    """Records what the producer at `socket` sends, across reconnects, until cancelled.

    With `arena_name` the state of that arena, of user `owner`, is kept too, once it has come to the
    first recorded block, and again every `states_every` blocks: a replay starts from there. `peer_uid`
    is the user whose process must answer on the socket, None anybody.
    """

    socket: Path
    file: RecordingFile
    arena_name: str | None = None
    owner: int | str | None = None
    peer_uid: int | None = None
    states_every: int | None = None
    last_block: int | None = field(default=None, init=False)
    _states_due: int | None = field(default=None, init=False)  # a block number
    _reverted_at: float = field(default=-math.inf, init=False)  # of the monotonic clock

    async def run(self) -> None:
        """Record until cancelled, with everything whole on disk then. OSError of writing, PeerRefused."""
        works = [self._record()]
        if self.arena_name is not None:
            works.append(self._keep_states(self.arena_name))
        try:
            await all_or_error(works)
        finally:
            self.file.close()
            log.info("event=recorded file=%s last_block=%s", self.file.path, self.last_block)

    async def _record(self) -> None:
        pause = 0.1
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(str(self.socket))
            except OSError as error:
                log.log(
                    logging.WARNING if pause == 0.1 else logging.DEBUG,
                    "event=connect_refused socket=%s error=%r",
                    self.socket,
                    "; ".join(filter(None, (str(error), remedy_of(error)))),
                )
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
                continue
            try:
                self._look_at_peer(writer)
                if await self._record_connection(reader):
                    pause = 0.1
            finally:
                writer.close()
            await asyncio.sleep(pause)

    def _look_at_peer(self, writer: asyncio.StreamWriter) -> None:
        peer = peer_of(writer.get_extra_info("socket"))
        check_peer(os.fspath(self.socket), peer, self.peer_uid)
        log.info(
            "event=connected socket=%s peer_pid=%d peer_uid=%d", self.socket, peer.pid, peer.uid
        )

    async def _record_connection(self, reader: asyncio.StreamReader) -> bool:
        """Until it ends; whether it brought a block."""
        self.file.connect()
        cutter, pending, brought = Cutter(), bytearray(), False
        while True:
            try:
                async with asyncio.timeout(FLUSH_S):
                    chunk = await reader.read(1 << 18)
            except TimeoutError:
                self.file.flush()
                continue
            except OSError as error:
                log.warning("event=connection_lost reason=%r", str(error))
                return brought
            if not chunk:
                log.warning("event=connection_lost reason='end of stream'")
                return brought
            now = time.time_ns()
            pending += chunk
            for frame in whole_frames(pending):
                step = cutter.step(frame)
                if step.status not in (lib.PSA_OK, lib.PSA_INVALID_MESSAGE):
                    log.warning("event=connection_dropped reason=%r", cutter.fault)
                    return brought
                if cutter.has_begun:
                    self.file.add(frame, now, step, is_between=cutter.is_between)
                for number in step.ended:
                    self._note(number)
                    brought = True

    def _note(self, number: int) -> None:
        if self.last_block is not None and number <= self.last_block:
            self._reverted_at = time.monotonic()
        self.last_block = number
        if self.arena_name is not None and self._states_due is None:
            self._states_due = number

    async def _keep_states(self, arena_name: str) -> None:
        """Dump the arena once it has come to the block due, while nothing is reverted: so what is
        dumped is a block of the branch recorded then."""
        said = False
        while True:
            await asyncio.sleep(STATES_RETRY_S)
            due, last = self._states_due, self.last_block
            if due is None or last is None or last < due:
                continue
            began = time.monotonic()
            if began - self._reverted_at < AFTER_REVERT_S:
                continue
            dump = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-c", "from arena.readers.cli import dump; dump()"),
                arena_name,
                *(() if self.owner is None else ("--owner", str(self.owner))),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            content, problem = await dump.communicate()
            block = _dumped_block(content) if dump.returncode == 0 else None
            if block is None or block < due:
                if not said:
                    reason = problem.decode().strip() or f"it is at block {block}, {due} is needed"
                    log.warning("event=no_states arena=%s reason=%r", arena_name, reason)
                    said = True
                continue
            limit = time.monotonic() + FLUSH_S
            while (last := self.last_block or 0) < block and time.monotonic() < limit:
                await asyncio.sleep(0.01)
            if self._reverted_at >= began or last < block:
                log.debug("event=states_dropped block=%d last_block=%d", block, last)
                continue
            self.file.add_states(block, content)
            log.info("event=states_kept block=%d", block)
            said = False
            self._states_due = sys.maxsize
            if self.states_every is not None:
                self._states_due = block + self.states_every


def _dumped_block(content: bytes) -> int | None:
    """The block of a dump of which every pool is live; None otherwise."""
    head, *lines = (orjson.loads(line) for line in content.splitlines())
    if not lines or any(line["status"] != "live" for line in lines):
        return None
    return int(head["head_block"])
