"""What `arena-writer doctor` finds: each thing a run would use, opened, shown, and judged."""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from arena.errors import (
    Connection,
    DatabaseRefused,
    FeedError,
    LogInvalid,
    PeerRefused,
    PoolListError,
    RpcError,
    Scraper,
)
from arena.native import lib
from arena.writer.lists.nats import NatsPools
from arena.writer.lists.natslogin import NatsLogin
from arena.writer.lists.pool_list import read_pool_list
from arena.writer.node.head import check_chain, sync_state
from arena.writer.node.jsonrpc import JsonRpc
from arena.writer.node.rpc_node import RpcNode
from arena.writer.protocols.held import EVENT_TOPICS
from arena.writer.protocols.storage import PoolTarget
from arena.writer.scrapers.described import Described
from arena.writer.scrapers.rethdb import RethDB
from arena.writer.scrapers.rpc import RpcScraper
from arena.writer.scrapers.statefile import StateFile
from arena.writer.service.finding import Finding, failure
from arena.writer.service.slot_comparison import COMPARE_PAUSE_S, compare
from arena.writer.stream.block_logs import BlockLogs
from arena.writer.stream.blocks import fetch_headers
from arena.writer.stream.socket import Feed

SHM = Path("/dev/shm")
SHOWN_POOLS = 5  # that are not what the list says
LOOKED_BLOCKS = 4  # whose logs are read
LOGS_WAIT_S = 5.0  # until they are whole
FIXED_SHM_NBYTES = 32 << 20  # tables of the default capacities, rounded up


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorSettings:
    """What a run would be given."""

    socket: Path | None
    node: str | None
    states: Path | None
    reth_db: Path | None
    rpc: str | None
    pools: Path | None
    nats: str | None = None
    chain: str = "ethereum"
    nats_canonical: bool = False
    nats_login: NatsLogin | None = None
    chain_id: int | None
    libmdbx: Path | None
    tick_nbytes: int
    wait_s: float
    feed_uid: int | None = None


class Doctor:
    """Looks at what is given, in order; `would_start` is known when `run` has ended.

    A start works when the socket accepts a client and one source of pool values can be read: the
    database, else the node. Nothing is changed anywhere.
    """

    def __init__(self, given: DoctorSettings) -> None:
        self._given = given
        self._rpc = given.rpc or given.node
        self._targets: Sequence[PoolTarget] = ()
        self._database: RethDB | None = None
        self._client: JsonRpc | None = None
        self._blocks: dict[str, int] = {}  # newest block by subject
        self._sources = 0
        self._failed = False

    @property
    def would_start(self) -> bool:
        return not self._failed and self._sources > 0

    def run(self) -> Iterator[Finding]:
        """Every finding as it is made."""
        try:
            for look in (
                self._look_at_shared_memory,
                self._look_at_pools,
                self._look_at_states,
                self._look_at_database,
                self._look_at_node,
                self._compare_with_node,
                self._look_at_socket,
                self._look_at_lag,
            ):
                for finding in look():
                    if finding.verdict == "fail":
                        self._failed = True
                    yield finding
            if self._sources == 0:
                yield Finding("fail", "start", "no source of pool values can be read")
            else:
                found = "would not work" if self._failed else "would work"
                yield Finding("fail" if self._failed else "ok", "start", found)
        finally:
            if self._database is not None:
                self._database.close()
            if self._client is not None:
                self._client.close()

    # -- one thing each

    def _look_at_shared_memory(self) -> Iterator[Finding]:
        if not SHM.is_dir():
            yield Finding("fail", "memory", f"{SHM} does not exist; mount a tmpfs there")
            return
        if not os.access(SHM, os.W_OK | os.X_OK):
            yield Finding("fail", "memory", f"{SHM} is not writable for this user")
            return
        free = shutil.disk_usage(SHM).free
        needed = FIXED_SHM_NBYTES + self._given.tick_nbytes
        facts = {"free_bytes": free, "needed_bytes": needed}
        text = f"{SHM} has {free >> 20} MiB free, an arena takes up to about {needed >> 20} MiB"
        if free < FIXED_SHM_NBYTES:
            yield Finding("fail", "memory", text + "; enlarge it (docker: --shm-size)", facts)
        else:
            yield Finding("ok" if free >= needed else "note", "memory", text, facts)

    def _look_at_pools(self) -> Iterator[Finding]:
        if self._given.nats is not None:
            yield from self._look_at_nats(self._given.nats)
            return
        yield Finding("note", "nats", "not configured; the list of pools is the file's")
        if self._given.pools is None:
            if self._given.reth_db is not None or (
                self._rpc is not None and self._given.states is None
            ):
                yield Finding("fail", "pools", "--pools is missing: the list of pools to read")
            return
        try:
            listed = read_pool_list(self._given.pools)
        except PoolListError as error:
            yield failure("fail", "pools", error)
            return
        self._targets = listed.targets
        refused = f", {len(listed.refused)} entries refused" if listed.refused else ""
        yield Finding("ok", "pools", f"{len(listed.targets)} pools in {self._given.pools}{refused}")
        for each in listed.refused:
            yield failure("note", "pools", each)

    def _look_at_states(self) -> Iterator[Finding]:
        if self._given.states is None:
            return
        file = StateFile(self._given.states, wait_s=0.0)
        try:
            pools = len(file.list_pools())
            block = file.get_current_block_number()
        except Scraper as error:
            yield failure("fail", "states", error)
            return
        self._sources += 1
        self._blocks["states"] = block
        yield Finding("ok", "states", f"{pools} pools, head block {block}", {"block": block})

    def _look_at_database(self) -> Iterator[Finding]:
        if self._given.reth_db is None:
            return
        database = RethDB(
            self._given.reth_db, self._targets, scraping_concurrency=1, library=self._given.libmdbx
        )
        self._database = database
        # With a node to fall back on a start works without the database.
        verdict = "note" if self._rpc is not None else "fail"
        try:
            facts = database.inspect()
        except DatabaseRefused as error:
            yield failure(verdict, "database", error)
            return
        shown = {
            "layout": facts.layout,
            "block": facts.block_number,
            "database_version": facts.database_version,
            "library_version": facts.library_version,
            "page_bytes": facts.page_nbytes,
            "stages": {
                stage: None if found is None else found.block_number
                for stage, found in facts.checkpoints.items()
            },
        }
        text = (
            f"{facts.directory}: layout {facts.layout}, version {facts.database_version or '-'}, "
            f"{facts.data_nbytes >> 20} MiB, libmdbx {facts.library_version}, "
            f"block {facts.block_number if facts.block_number is not None else '-'}"
        )
        if facts.refusal is not None:
            yield Finding(verdict, "database", text, shown)
            yield failure(verdict, "database", facts.refusal)
            return
        assert facts.block_number is not None
        self._blocks["database"] = facts.block_number
        self._sources += 1
        yield Finding("ok", "database", text, shown)
        yield _access(Path(facts.directory))

    def _look_at_node(self) -> Iterator[Finding]:
        if self._rpc is None:
            if self._given.reth_db is not None or self._given.states is not None:
                yield Finding("note", "node", "no --rpc: gaps are closed by reading pools anew")
            return
        client = self._client = JsonRpc(self._rpc)
        try:
            chain_id = check_chain(client, self._given.chain_id)
            state = sync_state(client)
            block = state.head
            way = "-"
            if state.reason is not None:
                found = f"{state.reason}; a start waits until it has caught up"
                yield Finding("note", "syncing", found, {"block": block.number})
            elif state.is_old:
                found = (
                    f"the newest block {block.number} is {int(state.age_s // 3600)} hours old: the "
                    "chain stands still, or the node is cut off from it"
                )
                yield Finding("note", "syncing", found, {"block": block.number})
            if self._targets and state.reason is None:
                way = str(RpcScraper(client, self._targets).way(block))
        except (Scraper, LogInvalid) as error:
            # A node that is named and does not answer is a mistake also where it is only a fallback.
            yield failure("fail", "node", error)
            return
        self._sources += bool(self._targets)
        self._blocks["node"] = block.number
        yield from self._look_at_descriptions(client)
        if self._given.node is not None:
            yield from self._look_at_logs(client, block.number)
        yield Finding(
            "ok",
            "node",
            f"{client.shown}: chain {chain_id}, block {block.number}, reads pools by {way}",
            {"chain_id": chain_id, "block": block.number, "way": way},
        )

    def _look_at_descriptions(self, client: JsonRpc) -> Iterator[Finding]:
        """Fees, spacings, tokens and factories of the list, and what the contracts say."""
        specs = [target.spec for target in self._targets]
        if not specs:
            return
        try:
            wrong = Described(client).contradictions(specs)
        except RpcError as error:
            yield failure("note", "listed", error)
            return
        facts = {"pools": len(specs), "different": len(wrong)}
        for each in list(wrong.values())[:SHOWN_POOLS]:
            yield failure("note", "listed", each)
        found = f"{len(specs) - len(wrong)} of {len(specs)} pools are what the list says of them"
        if wrong:
            found += "; the others are not installed: mend their fee, spacing, tokens or factory"
        verdict = "note" if wrong else "ok"
        yield Finding("fail" if len(wrong) == len(specs) else verdict, "listed", found, facts)

    def _look_at_logs(self, client: JsonRpc, newest: int) -> Iterator[Finding]:
        """Whether a bridge would get past the newest blocks: their logs, shown to be all."""
        node = RpcNode(client)
        reader = BlockLogs(node, EVENT_TOPICS)
        pools = {target.spec.key: target.spec for target in self._targets}
        limit = time.monotonic() + LOGS_WAIT_S
        first = max(0, newest - LOOKED_BLOCKS + 1)
        number = first
        while number <= newest:
            try:
                found = reader.read(fetch_headers(node, number, newest), pools)
            except Scraper as error:
                if time.monotonic() < limit:
                    time.sleep(COMPARE_PAUSE_S / 4)
                    continue
                yield failure("note", "logs", error)
                return
            doubted = [each.header.number for each in found if each.doubtful]
            if doubted:
                text = f"those of block {doubted[0]} are not what its header speaks of"
                yield Finding("note", "logs", text, {"block": doubted[0]})
                return
            number += len(found)
        yield Finding("ok", "logs", f"all there, blocks {first} to {newest}", {"block": newest})

    def _compare_with_node(self) -> Iterator[Finding]:
        """Whether database and node say the same of the same block."""
        database, client = self._database, self._client
        if database is None or client is None or not self._targets:
            return
        if "database" in self._blocks and "node" in self._blocks:
            yield compare(database, client, self._targets)

    def _look_at_socket(self) -> Iterator[Finding]:
        if self._given.socket is None and self._given.node is not None:
            found = "none needed: the chain is followed at the node"
            yield Finding("ok" if "node" in self._blocks else "fail", "socket", found)
            return
        if self._given.socket is None:
            yield Finding("fail", "socket", "--socket or --node is missing: the event stream")
            return
        mode = ""
        if self._given.socket.exists():
            mode = f", mode {self._given.socket.stat().st_mode & 0o777:04o}"
        with Feed(self._given.socket, peer_uid=self._given.feed_uid) as feed:
            try:
                is_connected = feed.connect(timeout=min(self._given.wait_s, 2.0))
            except PeerRefused as error:
                yield failure("fail", "socket", error)
                return
            if not is_connected:
                yield Finding(
                    "fail",
                    "socket",
                    f"{self._given.socket} does not accept a client{mode}; start the producer, or check "
                    "the path and its permissions",
                )
                return
            assert feed.peer is not None
            mode += f", served by uid {feed.peer.uid}"
            block, fault = _first_block(feed, self._given.wait_s)
        if fault is not None:
            yield failure("fail", "socket", fault)
        elif block is None:
            yield Finding(
                "note",
                "socket",
                f"{self._given.socket} accepts{mode}; no block in {self._given.wait_s:g} s",
            )
        else:
            self._blocks["socket"] = block
            yield Finding(
                "ok",
                "socket",
                f"{self._given.socket} accepts{mode}; block {block}",
                {"block": block},
            )

    def _look_at_lag(self) -> Iterator[Finding]:
        head = self._blocks.get("socket", self._blocks.get("node"))
        if head is None:
            return
        for subject in ("database", "node", "states"):
            if subject in self._blocks:
                lag = head - self._blocks[subject]
                text = f"the {subject} was {lag} blocks behind the head {head}"
                yield Finding("ok", "lag", text, {"of": subject, "blocks": lag})

    def _look_at_nats(self, url: str) -> Iterator[Finding]:
        source = NatsPools(
            url,
            self._given.chain,
            canonical_publisher=self._given.nats_canonical,
            wait_s=self._given.wait_s,
            login=self._given.nats_login,
        )
        try:
            self._targets = source.first()
        except PoolListError as error:
            yield failure("fail", "nats", error)
            return
        counts = {name: count for name, count in source.counts.items() if count}
        text = f"{len(self._targets)} pools listed for {self._given.chain} by {source.status()['address']}"
        yield Finding("ok", "nats", text, counts)


def _access(folder: Path) -> Finding:
    """Who may read the database's files, for when another user is to."""
    parts = []
    for name in ("mdbx.dat", "mdbx.lck"):
        with contextlib.suppress(FileNotFoundError):
            found = (folder / name).stat()
            parts.append(f"{name} {found.st_mode & 0o777:04o} {found.st_uid}:{found.st_gid}")
    held = f"{', '.join(parts)}; this is process {os.getpid()} of user {os.geteuid()}"
    if os.getpid() == 1:
        # Locks are kept by process number: the node in a container of its own is 1 too.
        return Finding("note", "access", f"{held}: run under an init if the node is process 1 too")
    return Finding("ok", "access", held)


def _first_block(
    feed: Feed, wait_s: float, clock: Callable[[], float] = time.monotonic
) -> tuple[int | None, FeedError | None]:
    """The first whole block's number, or what was wrong with the stream; neither in time: None."""
    limit = clock() + wait_s
    while (left := limit - clock()) > 0:
        try:
            batch = feed.receive(left)
        except Connection as error:
            return None, error
        ends = batch.records[batch.records["kind"] == lib.PSA_EVENT_END_BLOCK]
        if len(ends):
            return int(ends["block_number"][-1]), None
        if batch.faults:
            return None, batch.faults[0]
    return None, None
