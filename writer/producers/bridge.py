"""Any node as a producer: follows its chain and serves the event stream on a Unix socket.

One thread follows the node (follow.py); the event loop owns the socket and its clients. A client is
sent every unit that begins after it was accepted, as by the producer in the node; one that does not
read is disconnected, and so are all when the node's chain cannot be joined to what they were sent.
"""

import asyncio
import contextlib
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arena.errors import (
    ChainMismatch,
    ChainMoved,
    LogInvalid,
    LogsRefused,
    NodeBehind,
    NodeSyncing,
    PoolListError,
    ReorgTooDeep,
    RpcError,
    Scraper,
)
from arena.native import lib
from arena.segment import Access
from arena.writer.host.versions import file_signature
from arena.writer.lists.pool_list import read_pool_list
from arena.writer.lists.reports import report_refused
from arena.writer.node.client import Header
from arena.writer.node.head import check_chain, check_synced
from arena.writer.node.jsonrpc import JsonRpc
from arena.writer.node.rpc_node import RpcNode
from arena.writer.node.transports import Limits
from arena.writer.producers.follow import Follower, encode, without_protocol_fees
from arena.writer.producers.heads import Heads
from arena.writer.producers.replay import listen
from arena.writer.producers.stalls import Host, Stalls
from arena.writer.protocols.storage import PoolTarget
from arena.writer.stream.history import Records
from arena.writer.stream.socket import DIALECTS

log = logging.getLogger(__name__)


POLL_SUBSCRIBED_S = 1.0  # the newest block is asked for, whatever a subscription tells
POLL_S = 0.25  # without a subscription
# A head below the last one is a chain cut back, or an answer of another node behind a balancer.
CUT_BACK_S = 1.0
FIRST_RETRY_S = 0.02  # a block's logs may come a moment after its header
LONGEST_RETRY_S = 2.0
LOOK_S = 0.25  # between two looks whether an answer is due for long
TIMEOUT_S = 4.0  # of a request: two that hang are not yet ten seconds
CLIENT_NBYTES = 16 << 20  # about 100,000 events
JOIN_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class BridgeSettings:
    """Which node, which pools, and the socket's place and rights.

    `dialect` exex: as the producer in the node, for readers that know generation 15 alone; V4 fees are
    left out. `poll_s` None: as the address needs it. `client_nbytes` is what a client may leave
    unread. Without `pools` the list is given to the bridge, and its first block is the newest as
    soon as a client is there: it is embedded in the one program that reads it.
    """

    node: str
    pools: Path | None
    socket: Path
    access: Access = field(default_factory=Access)
    chain_id: int | None = None
    poll_s: float | None = None
    client_nbytes: int = CLIENT_NBYTES
    dialect: str = "bridge"


class Bridge:
    """Owns the connections to the node, the socket and its clients; `run` ends when cancelled, `close`
    comes after it.

    The list of pools is read at once (PoolListError) and again whenever its file changes or `reload`
    was called; a list that cannot be read leaves the one in force.
    """

    def __init__(
        self, settings: BridgeSettings, targets: Sequence[PoolTarget] | None = None
    ) -> None:
        self.settings = settings
        self._given: Sequence[PoolTarget] | None = None
        if settings.pools is not None:
            self._signature = file_signature(settings.pools)
            listed = read_pool_list(settings.pools)
            report_refused(log, listed.refused)
            targets = listed.targets
        elif targets is None:
            raise ValueError("a bridge needs a list of pools")
        # Tried again here, not there: what is asked next depends on the head by then.
        self._rpc = JsonRpc(settings.node, Limits(timeout_s=TIMEOUT_S, tries=1))
        self._node = RpcNode(self._rpc)
        self._follower = Follower(self._node, targets, doubted=self._doubted)
        self._host: Host | None = None
        self._chain_id = settings.chain_id
        self._next_seq = 1
        self._heads = Heads()
        self._stopping = threading.Event()
        self._reload = threading.Event()
        self._joined = threading.Event()
        self._failures = 0
        self._owed: bytes | None = None  # the newest head that was told, and could not be sent
        self._shorter_since: float | None = None
        self._asked_at = -math.inf  # for the newest block, last
        self._stalls = Stalls(self._tell_stall)
        self._clients: set[asyncio.StreamWriter] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def check_chain(self) -> int:
        """The node's chain id. ChainMismatch when it is not the one of the settings or, later, the one
        it was; RpcError."""
        self._chain_id = check_chain(self._rpc, self._chain_id)
        return self._chain_id

    def hold(self, targets: Sequence[PoolTarget]) -> None:
        """These are the pools from the next block on, where no file names them. Safe from any thread."""
        self._given = targets

    def reload(self) -> None:
        """Read the list of pools again before the next block. Safe from any thread."""
        self._reload.set()
        self._heads.wake()

    def counts(self) -> dict[str, int]:
        """For metrics; any thread may ask."""
        tip = self._follower.tip
        return {
            "block": 0 if tip is None else tip.number,
            "stalls_total": self._stalls.total,
            "stalled_seconds": self._stalls.seconds,
        }

    async def run(self, host: Host | None = None) -> None:
        """Listen, follow, serve. Connection when the socket's path cannot be used; whatever ended
        the following."""
        settings = self.settings
        self._host = host
        loop = self._loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        listener = listen(os.fspath(settings.socket), settings.access)
        thread = threading.Thread(
            target=self._follow, args=(ended,), name="arena-bridge", daemon=True
        )
        try:
            server = await asyncio.start_unix_server(self._serve, sock=listener)
            log.info(
                "event=listening socket=%s node=%s pools=%d",
                settings.socket,
                self._rpc.shown,
                len(self._follower.targets),
            )
            thread.start()
            watch = asyncio.create_task(self._watch())
            try:
                await ended
            finally:
                watch.cancel()
                server.close()
        finally:
            self._stopping.set()
            self._heads.wake()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(settings.socket)
            self._drop_clients("the bridge ends")
            if thread.is_alive():
                await asyncio.to_thread(thread.join, JOIN_TIMEOUT_S)
            log.info("event=bridge_ended socket=%s", settings.socket)

    def close(self) -> None:
        """Close the connections to the node. Safe to call twice."""
        self._rpc.close()

    # -- the socket, in the event loop

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(writer)
        self._joined.set()
        log.info("event=client_connected clients=%d", len(self._clients))
        try:
            while await reader.read(1 << 16):  # nothing is expected of a client
                pass
        except OSError:
            pass
        finally:
            self._clients.discard(writer)
            writer.close()
            log.info("event=client_left clients=%d", len(self._clients))

    def _broadcast(self, data: bytes) -> None:
        for client in tuple(self._clients):
            pending = client.transport.get_write_buffer_size()
            if pending > self.settings.client_nbytes:
                log.warning("event=client_too_slow pending_bytes=%d", pending)
                self._clients.discard(client)
                client.transport.abort()
            else:
                client.write(data)

    def _drop_clients(self, reason: str) -> None:
        if self._clients:
            log.info("event=clients_dropped clients=%d reason=%r", len(self._clients), reason)
        for client in tuple(self._clients):
            client.close()  # what was written before is still sent
        self._clients.clear()

    # -- the node, in the thread

    def _follow(self, ended: "asyncio.Future[None]") -> None:
        failure: BaseException | None = None
        try:
            while self.settings.pools is None and not self._joined.wait(POLL_S):
                if self._stopping.is_set():
                    break
            while not self._stopping.is_set():
                self._heads.keep_subscribed(self._rpc, lambda: self._failures > 0)
                hint = self._next_hint()
                self._keep_pools()
                if not self._stopping.is_set():
                    self._step(hint)
        except BaseException as error:
            failure = error
        self._heads.unsubscribe()

        def settle() -> None:
            if not ended.done():
                if failure is None:
                    ended.set_result(None)
                else:
                    ended.set_exception(failure)

        self._call_soon(settle)

    def _call_soon(self, work: Callable[..., None], *arguments: Any) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            self._loop.call_soon_threadsafe(work, *arguments)

    def _next_hint(self) -> bytes | None:
        """The hash of the newest head that was told, None when it is time to ask: what is told may be
        late, or of another branch, each head the child of the one before."""
        is_sure = self._heads.is_subscribed and self._shorter_since is None
        poll_s = POLL_SUBSCRIBED_S if is_sure else POLL_S
        due_at = self._asked_at + (self.settings.poll_s or poll_s)
        if self._failures:
            self._stopping.wait(min(FIRST_RETRY_S * 2 ** (self._failures - 1), LONGEST_RETRY_S))
        wait_s = 0.0 if self._failures else max(0.0, due_at - time.monotonic())
        hint = self._heads.next_hint(wait_s)
        if hint is None or time.monotonic() < due_at:
            return hint
        self._heads.note_told()
        self._owed = hint  # where the newest block is not it, nor leads there
        return None

    def _step(self, hint: bytes | None) -> None:
        """Send what leads to the node's head; what hinders is tried again."""
        follower = self._follower
        began, began_at = follower.tip, self._stalls.begins()
        try:
            self._try(hint, began, began_at)
        finally:
            self._stalls.ends()

    def _try(self, hint: bytes | None, began: Header | None, began_at: float) -> None:
        follower = self._follower
        if hint is not None:
            self._heads.note_told()
        try:
            if began is None:
                check_synced(self._rpc)
            self._advance(hint)
            if hint is None and self._owed is not None and follower.tip is began:
                self._advance(self._owed)
        except (ReorgTooDeep, LogsRefused) as error:
            if isinstance(error, LogsRefused) or self._stalls.is_far_for_good(began_at):
                self._join_anew(error)
            else:
                self._failures += 1
            return
        except NodeSyncing as error:
            self._failures += 1
            level = logging.WARNING if self._failures == 1 else logging.DEBUG
            log.log(level, "event=node_syncing reason=%r", str(error))
            return
        except Scraper as error:
            self._failures += 1
            is_near = isinstance(error, ChainMoved | NodeBehind | LogInvalid)
            level = logging.WARNING if self._failures in (1 + 7 * is_near, 10) else logging.DEBUG
            event = "not_yet" if is_near else "node_fails"
            log.log(level, "event=%s error=%s reason=%r", event, type(error).__name__, str(error))
            self._owed = hint or self._owed
            if follower.tip is not began:
                self._stalls.passed()  # another block than the one before
            stall = "stalled" if is_near else "node_lost"
            self._stalls.failed(stall, f"{type(error).__name__}: {error}", began_at)
            return
        if follower.tip is not began:
            self._owed = None
            self._stalls.passed()
        self._failures = 0
        if follower.tip is not None:
            self._stalls.answered(follower.tip.number)
        if hint is None and follower.tip != began:
            self._heads.note_untold()

    def _advance(self, hint: bytes | None) -> None:
        head = self._head(hint)
        if not self._is_cut_back(head, asked=hint is None):
            for last, records in self._follower.advance(head):
                self._send(last, records)
        if hint == self._owed:
            self._owed = None

    def _head(self, hint: bytes | None) -> Header:
        """The node's head, as the node has it: of what a subscription tells only the hash counts."""
        if hint is None:
            return self._newest()
        tip = self._follower.tip
        if tip is not None and tip.hash == hint:
            return tip
        follower = self._follower
        header, logs, receipts = self._node.block(hint, with_receipts=follower.asks_receipts)
        if header is None:
            raise NodeBehind(f"the node told of block 0x{hint.hex()} and does not have it yet")
        if tip is None or header.parent_hash != tip.hash:
            # A block that was replaced may be told late: nothing is turned back for a word alone.
            known = self._node.headers([header.number])[0]
            if known is None or known.hash != hint:
                return self._newest()
        follower.tell(hint, logs, receipts)
        return header

    def _newest(self) -> Header:
        self._asked_at = time.monotonic()
        head = self._node.head()
        self._stalls.saw(head.number)
        return head

    def _tell_stall(self, event: str, why: str) -> None:
        """Say that no block comes: readers see it no other way."""
        tip = self._follower.tip
        after = "" if tip is None else f" after block {tip.number}"
        reason = f"no block{after}: {why}"
        log.warning("event=%s reason=%r", event, reason)
        if self._host is None:
            self._call_soon(self._drop_clients, reason)
        else:
            self._host.stalled(reason)

    async def _watch(self) -> None:
        """Look whether answers come too slowly for the thread to say so. Until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            self._stalls.look(f"answers of {self._rpc.shown} take seconds")

    def _doubted(self, keys: frozenset[bytes], block_number: int) -> None:
        """Tell whose events a block may lack; clients on a socket can be told by a new beginning only."""
        if self._host is not None:
            self._host.doubted(keys, block_number)
        else:
            raise LogsRefused(
                f"block {block_number} may lack events of {len(keys)} pools; what comes behind it "
                "is a new beginning",
                first=block_number,
                last=block_number,
            )

    def _join_anew(self, error: Scraper | ReorgTooDeep) -> None:
        """Begin with the next head, for clients that begin again, too. ChainMismatch."""
        try:
            self.check_chain()
        except ChainMismatch:
            raise
        except RpcError:
            self._failures += 1
            return
        log.warning("event=joined_anew reason=%r", str(error))
        self._follower.forget()
        self._call_soon(self._drop_clients, str(error))

    def _is_cut_back(self, head: Header, *, asked: bool) -> bool:
        """Whether to wait before believing that the chain ends at `head`, a block already sent."""
        if not self._follower.is_shorter(head):
            self._shorter_since = None
            return False
        now = time.monotonic()
        if not asked:
            return True  # a hint that came late
        if self._shorter_since is None:
            self._shorter_since = now
        if now - self._shorter_since < CUT_BACK_S:
            return True
        self._shorter_since = None
        return False

    def _send(self, last: Header, records: Records) -> None:
        dialect = DIALECTS[self.settings.dialect]
        if dialect == lib.PSA_DIALECT_EXEX:
            records = without_protocol_fees(records)
        data = encode(records, self._next_seq, dialect)
        self._next_seq = (self._next_seq + len(records)) % 2**64
        log.debug("event=sent block=%d records=%d bytes=%d", last.number, len(records), len(data))
        self._call_soon(self._broadcast, data)
        self._stalls.sent()

    # -- the list of pools

    def _keep_pools(self) -> None:
        """Take over a changed list; blocks are sent between two calls of this."""
        if self.settings.pools is None:
            given, self._given = self._given, None
            if given is not None:
                self._follower.targets = given
            return
        signature = file_signature(self.settings.pools)
        if not self._reload.is_set() and signature == self._signature:
            return
        self._reload.clear()
        self._signature = signature
        try:
            listed = read_pool_list(self.settings.pools)
        except PoolListError as error:
            log.error("event=pools_kept error=PoolListError reason=%r", str(error))
            return
        before = {each.spec.key for each in self._follower.targets}
        after = {each.spec.key for each in listed.targets}
        self._follower.targets = listed.targets
        log.info(
            "event=pools_changed pools=%d added=%d removed=%d refused=%d",
            len(after),
            len(after - before),
            len(before - after),
            len(listed.refused),
        )
