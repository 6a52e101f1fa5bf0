"""What `arena-writer doctor` finds: each thing a run would use, opened, shown, and judged."""

import contextlib
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from arena.errors import (
    ArenaError,
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
from arena.writer.node.head import block_by_number, check_chain, sync_state
from arena.writer.node.jsonrpc import JsonRpc
from arena.writer.node.rpc_node import RpcNode
from arena.writer.protocols.checks import MAX_TICK
from arena.writer.protocols.storage import PoolTarget, price_slots, tick_slot
from arena.writer.scrapers.described import Described
from arena.writer.scrapers.rethdb import RethDB
from arena.writer.scrapers.rpc import RpcScraper
from arena.writer.scrapers.statefile import StateFile
from arena.writer.stream.block_logs import BlockLogs
from arena.writer.stream.blocks import fetch_headers
from arena.writer.stream.event_logs import EVENT_TOPICS
from arena.writer.stream.socket import Feed

SHM = Path("/dev/shm")
COMPARED_SLOTS = 20
EMPTY_SLOTS = 5
SHOWN_POOLS = 5  # that are not what the list says
COMPARE_TRIES = 5
COMPARE_PAUSE_S = 1.0
LOOKED_BLOCKS = 4  # whose logs are read
LOGS_WAIT_S = 5.0  # until they are whole
FIXED_SHM_NBYTES = 32 << 20  # tables of the default capacities, rounded up
DIALECTS = {
    lib.PSA_DIALECT_SEED_TAGGED: "seed-tagged",
    lib.PSA_DIALECT_SEED_INDEXED: "seed-indexed",
    lib.PSA_DIALECT_EXEX: "exex",
    lib.PSA_DIALECT_BRIDGE: "bridge",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `verdict` is ok, note (a start works without it) or fail."""

    verdict: str
    subject: str
    found: str
    facts: dict[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        return f"{self.verdict:4}  {self.subject:9}  {self.found}"

    def as_dict(self) -> dict[str, Any]:
        return {"verdict": self.verdict, "subject": self.subject, "found": self.found, **self.facts}


class Doctor:
    """Looks at what is given, in order; `would_start` is known when `run` has ended.

    A start works when the socket accepts a client and one source of pool values can be read: the
    database, else the node. Nothing is changed anywhere.
    """

    def __init__(
        self,
        *,
        socket: Path | None,
        node: str | None,
        states: Path | None,
        reth_db: Path | None,
        rpc: str | None,
        pools: Path | None,
        nats: str | None = None,
        chain: str = "ethereum",
        nats_canonical: bool = False,
        nats_login: NatsLogin | None = None,
        chain_id: int | None,
        libmdbx: Path | None,
        tick_nbytes: int,
        wait_s: float,
        feed_uid: int | None = None,
    ):
        self._socket = socket
        self._node = node
        self._states = states
        self._reth_db = reth_db
        self._rpc = rpc or node
        self._pools = pools
        self._nats = nats
        self._chain = chain
        self._nats_canonical = nats_canonical
        self._nats_login = nats_login
        self._chain_id = chain_id
        self._libmdbx = libmdbx
        self._tick_nbytes = tick_nbytes
        self._wait_s = wait_s
        self._feed_uid = feed_uid
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
                self._compare,
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
        needed = FIXED_SHM_NBYTES + self._tick_nbytes
        facts = {"free_bytes": free, "needed_bytes": needed}
        text = f"{SHM} has {free >> 20} MiB free, an arena takes up to about {needed >> 20} MiB"
        if free < FIXED_SHM_NBYTES:
            yield Finding("fail", "memory", text + "; enlarge it (docker: --shm-size)", facts)
        else:
            yield Finding("ok" if free >= needed else "note", "memory", text, facts)

    def _look_at_pools(self) -> Iterator[Finding]:
        if self._nats is not None:
            yield from self._look_at_nats(self._nats)
            return
        yield Finding("note", "nats", "not configured; the list of pools is the file's")
        if self._pools is None:
            if self._reth_db is not None or (self._rpc is not None and self._states is None):
                yield Finding("fail", "pools", "--pools is missing: the list of pools to read")
            return
        try:
            listed = read_pool_list(self._pools)
        except PoolListError as error:
            yield _failure("fail", "pools", error)
            return
        self._targets = listed.targets
        refused = f", {len(listed.refused)} entries refused" if listed.refused else ""
        yield Finding("ok", "pools", f"{len(listed.targets)} pools in {self._pools}{refused}")
        for each in listed.refused:
            yield _failure("note", "pools", each)

    def _look_at_states(self) -> Iterator[Finding]:
        if self._states is None:
            return
        file = StateFile(self._states, wait_s=0.0)
        try:
            pools = len(file.list_pools())
            block = file.get_current_block_number()
        except Scraper as error:
            yield _failure("fail", "states", error)
            return
        self._sources += 1
        self._blocks["states"] = block
        yield Finding("ok", "states", f"{pools} pools, head block {block}", {"block": block})

    def _look_at_database(self) -> Iterator[Finding]:
        if self._reth_db is None:
            return
        database = RethDB(
            self._reth_db, self._targets, scraping_concurrency=1, library=self._libmdbx
        )
        self._database = database
        # With a node to fall back on a start works without the database.
        verdict = "note" if self._rpc is not None else "fail"
        try:
            facts = database.inspect()
        except DatabaseRefused as error:
            yield _failure(verdict, "database", error)
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
            yield _failure(verdict, "database", facts.refusal)
            return
        assert facts.block_number is not None
        self._blocks["database"] = facts.block_number
        self._sources += 1
        yield Finding("ok", "database", text, shown)
        yield _access(Path(facts.directory))

    def _look_at_node(self) -> Iterator[Finding]:
        if self._rpc is None:
            if self._reth_db is not None or self._states is not None:
                yield Finding("note", "node", "no --rpc: gaps are closed by reading pools anew")
            return
        client = self._client = JsonRpc(self._rpc)
        try:
            chain_id = check_chain(client, self._chain_id)
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
            yield _failure("fail", "node", error)
            return
        self._sources += bool(self._targets)
        self._blocks["node"] = block.number
        yield from self._look_at_descriptions(client)
        if self._node is not None:
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
            yield _failure("note", "listed", error)
            return
        facts = {"pools": len(specs), "different": len(wrong)}
        for each in list(wrong.values())[:SHOWN_POOLS]:
            yield _failure("note", "listed", each)
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
                yield _failure("note", "logs", error)
                return
            doubted = [each.header.number for each in found if each.doubtful]
            if doubted:
                text = f"those of block {doubted[0]} are not what its header speaks of"
                yield Finding("note", "logs", text, {"block": doubted[0]})
                return
            number += len(found)
        yield Finding("ok", "logs", f"all there, blocks {first} to {newest}", {"block": newest})

    def _compare(self) -> Iterator[Finding]:
        """The same random slots of known pools from database and node at the same block."""
        database, client = self._database, self._client
        if database is None or client is None or not self._targets:
            return
        if "database" not in self._blocks or "node" not in self._blocks:
            return
        last: ArenaError | None = None
        for attempt in range(COMPARE_TRIES):
            if attempt:
                time.sleep(COMPARE_PAUSE_S)
            try:
                requests = self._choose_slots(database)
                words = database.read_words(requests)
                number = words[0].block_number
                block = block_by_number(client, number)
                if block is None or not database.is_canonical(block.hash, number):
                    continue
                at = {"blockHash": "0x" + block.hash.hex()}
                calls = [
                    ("eth_getStorageAt", ("0x" + address.hex(), "0x" + slots[0].hex(), at))
                    for address, slots in requests
                ]
                answers = client.batch(calls)
                if _different(requests, words, answers):
                    # Perhaps the state of the block the node was making (docs/decisions/0009).
                    time.sleep(COMPARE_PAUSE_S)
                    answers = client.batch(calls)
            except Scraper as error:
                last = error
                continue
            for answer in answers:
                if isinstance(answer, Scraper):
                    last = answer
                    break
            else:
                yield _compared(number, requests, words, answers)
                return
        reason = f": {type(last).__name__}: {last}" if last is not None else ""
        yield Finding(
            "note", "compare", f"database and node had no common block to compare{reason}"
        )

    def _choose_slots(self, database: RethDB) -> list[tuple[bytes, list[bytes]]]:
        """COMPARED_SLOTS of the pools' words that hold something, and some that never can.

        Prices of any pool, and ticks of one pool of each storage layout; as many words of each
        layout, so that few pools of one are not lost among many of another.
        """
        chance = random.SystemRandom()
        full: dict[str, list[tuple[PoolTarget, bytes]]] = {}
        for target in self._targets:
            words = full.setdefault(target.layout.name, [])
            words += [(target, slot) for slot in price_slots(target)]
        shuffled = chance.sample(self._targets, len(self._targets))
        by_layout = {target.layout.name: target for target in shuffled}
        for pool in database.read_pools([each.spec.key for each in by_layout.values()]).pools:
            target = next(each for each in shuffled if each.spec.key == pool.spec.key)
            full[target.layout.name] += [
                (target, tick_slot(target, tick)) for tick, _, _ in pool.values.ticks
            ]
        turns = zip_longest(*(chance.sample(words, len(words)) for words in full.values()))
        chosen = [word for turn in turns for word in turn if word is not None][:COMPARED_SLOTS]
        # Beyond the last tick there is none; the same slot of a V2 pair is as empty.
        chosen += [(target, tick_slot(target, MAX_TICK + 1)) for target in shuffled[:EMPTY_SLOTS]]
        return [(target.address, [slot]) for target, slot in chosen]

    def _look_at_socket(self) -> Iterator[Finding]:
        if self._socket is None and self._node is not None:
            found = "none needed: the chain is followed at the node"
            yield Finding("ok" if "node" in self._blocks else "fail", "socket", found)
            return
        if self._socket is None:
            yield Finding("fail", "socket", "--socket or --node is missing: the event stream")
            return
        mode = ""
        if self._socket.exists():
            mode = f", mode {self._socket.stat().st_mode & 0o777:04o}"
        with Feed(self._socket, peer_uid=self._feed_uid) as feed:
            try:
                is_connected = feed.connect(timeout=min(self._wait_s, 2.0))
            except PeerRefused as error:
                yield _failure("fail", "socket", error)
                return
            if not is_connected:
                yield Finding(
                    "fail",
                    "socket",
                    f"{self._socket} does not accept a client{mode}; start the producer, or check "
                    "the path and its permissions",
                )
                return
            assert feed.peer is not None
            mode += f", served by uid {feed.peer.uid}"
            block, fault = _first_block(feed, self._wait_s)
        if fault is not None:
            yield _failure("fail", "socket", fault)
        elif block is None:
            yield Finding(
                "note", "socket", f"{self._socket} accepts{mode}; no block in {self._wait_s:g} s"
            )
        else:
            self._blocks["socket"] = block
            yield Finding(
                "ok", "socket", f"{self._socket} accepts{mode}; block {block}", {"block": block}
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
            self._chain,
            canonical_publisher=self._nats_canonical,
            wait_s=self._wait_s,
            login=self._nats_login,
        )
        try:
            self._targets = source.first()
        except PoolListError as error:
            yield _failure("fail", "nats", error)
            return
        counts = {name: count for name, count in source.counts.items() if count}
        text = (
            f"{len(self._targets)} pools listed for {self._chain} by {source.status()['address']}"
        )
        yield Finding("ok", "nats", text, counts)


def _failure(verdict: str, subject: str, error: BaseException) -> Finding:
    name = type(error).__name__
    return Finding(verdict, subject, f"{name}: {error}", {"error": name})


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


def _different(requests: Sequence[Any], words: Sequence[Any], answers: Sequence[Any]) -> list[str]:
    return [
        f"0x{address.hex()} slot 0x{slots[0].hex()}"
        for (address, slots), word, answer in zip(requests, words, answers, strict=True)
        if not isinstance(answer, str) or int(answer, 16) != word.values[0]
    ]


def _compared(
    number: int, requests: Sequence[Any], words: Sequence[Any], answers: Sequence[Any]
) -> Finding:
    different = _different(requests, words, answers)
    facts = {"block": number, "slots": len(answers), "different": len(different)}
    if different:
        return Finding(
            "fail",
            "compare",
            f"{len(different)} of {len(answers)} slots differ at block {number}: {different[0]}; the "
            "database and the RPC address are not of the same node, or the layout is unknown",
            facts,
        )
    found = f"{len(answers)} random slots equal at block {number}"
    return Finding("ok", "compare", found, facts)


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
