"""What a writer begins with: the segment a dead one left, a checkpoint, or an empty arena.

Each is looked at before it is used: chain, layout, and whether a block of it whose hash is known is
still the chain's. A node that has not come to those blocks (it syncs, was restored from a snapshot, or
lags) says nothing against them: then no pool is live before the gap behind them is closed. Without a
node nothing ties what was left to the chain, so the arena begins empty.
"""

import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from arena.errors import (
    ArenaFull,
    ArenaMissing,
    ArenaNotReady,
    ArenaPermission,
    CheckpointRefused,
    LayoutMismatch,
)
from arena.layouts.slots import STATUS_LIVE, STATUS_SYNCING, UNDO_RECORD
from arena.segment import Access
from arena.writer.host.room import Capacities
from arena.writer.node.client import NodeClient
from arena.writer.sync.checkpoint_file import Checkpoint, usable_checkpoints
from arena.writing import WriterArena

log = logging.getLogger(__name__)


ASKED_HASHES = 64  # of the newest blocks; deeper reorgs are read anew


def state_folder(name: str) -> Path:
    """Where a writer of that arena keeps what outlives it: below $STATE_DIRECTORY (systemd), else
    $XDG_STATE_HOME/pool-state-arena, else ~/.local/state/pool-state-arena."""
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    if given:
        return Path(given, name.strip("/"))
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home, "pool-state-arena", name.strip("/"))


def open_arena(
    name: str,
    capacities: Capacities,
    access: Access,
    *,
    chain_id: int,
    node: NodeClient | None,
    folder: Path | None,
) -> tuple[WriterArena, bool]:
    """The arena, and whether it holds pools to go on from. Blocks.

    `folder` is that of the checkpoints. ArenaBusy and what WriterArena.create raises; what the node
    raises when it cannot be asked, and then nothing that was left is touched.
    """
    create = partial(
        WriterArena.create,
        name,
        max_pools=capacities.max_pools,
        tick_bytes=capacities.tick_bytes,
        undo_bytes=capacities.undo_bytes,
        access=access,
    )
    if node is not None:
        found = _from_segment(name, access, chain_id, node)
        if found is not None:
            _make_room(found, capacities)
            return found, True
        if folder is not None:
            restored = _from_checkpoint(create, chain_id, node, folder)
            if restored is not None:
                return restored, True
    return create(chain_id=chain_id), False


def _make_room(arena: WriterArena, wanted: Capacities) -> None:
    undo_records = wanted.undo_bytes // UNDO_RECORD.itemsize
    if (
        wanted.max_pools > arena.max_pools
        or wanted.tick_bytes > arena.tick_bytes
        or undo_records > arena.undo_bytes // UNDO_RECORD.itemsize
    ):
        arena.grow(
            max_pools=max(wanted.max_pools, arena.max_pools),
            max_tokens=max(2 * wanted.max_pools, arena.max_tokens),
            tick_bytes=max(wanted.tick_bytes, arena.tick_bytes),
            undo_bytes=max(wanted.undo_bytes, arena.undo_bytes),
        )


def _from_segment(name: str, access: Access, chain_id: int, node: NodeClient) -> WriterArena | None:
    try:
        found = WriterArena.take_over(name, access)
    except ArenaMissing:
        return None
    except (ArenaNotReady, ArenaPermission, LayoutMismatch) as error:
        log.warning("event=segment_refused error=%s reason=%r", type(error).__name__, str(error))
        return None
    reason = ""
    try:
        known = [(number, hash_) for number, hash_ in found.undoable() if hash_ is not None]
        asked = known[:ASKED_HASHES]
        if chain_id and found.chain_id and found.chain_id != chain_id:
            reason = f"it is of chain {found.chain_id}, not of {chain_id}"
        elif not len(found.slots_with(STATUS_LIVE)):
            reason = "none of its pools was live"
        elif not known:
            reason = "no hash of its blocks is known"
        elif False in (same := _compare(node, asked)) and True not in same:
            reason = f"none of its blocks is the chain's any more ({len(asked)} hashes looked at)"
        else:
            log.info(
                "event=segment_found head=%d generation=%d", found.head_block, found.generation
            )
            if same[0] is None:
                _show_unconfirmed(found, known[0][0])
            return found
    except BaseException:
        found.close(unlink=False)
        raise
    log.warning("event=segment_refused reason=%r", reason)
    found.close(unlink=False)
    return None


def _from_checkpoint(
    create: Callable[..., WriterArena], chain_id: int, node: NodeClient, folder: Path
) -> WriterArena | None:
    unconfirmed: set[Path] = set()

    def is_canonical(checkpoint: Checkpoint) -> bool:
        """Or may be, as far as the node has come."""
        same = _compare(node, checkpoint.hashes[:ASKED_HASHES])
        if same and same[0] is None:
            unconfirmed.add(checkpoint.path)
        told = [each for each in same if each is not None]
        if checkpoint.block_hash is not None:
            told = told[:1]  # the head itself must be, or the newest below it that the node has
        return any(told) or (bool(same) and not told)

    for checkpoint, image in usable_checkpoints(
        folder, chain_id=chain_id, is_canonical=is_canonical
    ):
        try:
            arena = create(chain_id=chain_id or checkpoint.chain_id, image=image)
        except (ArenaFull, LayoutMismatch, CheckpointRefused) as error:
            log.warning(
                "event=checkpoint_refused error=%s reason=%r",
                type(error).__name__,
                f"{checkpoint.path}: {error}",
            )
            continue
        for number, block_hash in checkpoint.hashes:
            arena.note_hash(number, block_hash)
        log.info("event=checkpoint_found head=%d file=%s", arena.head_block, checkpoint.path)
        if checkpoint.path in unconfirmed:
            _show_unconfirmed(arena, checkpoint.hashes[0][0])
        return arena
    return None


def _compare(node: NodeClient, known: Sequence[tuple[int, bytes]]) -> list[bool | None]:
    """Whether each of those blocks is the node's of that number; None where it has none."""
    headers = node.headers([number for number, _ in known])
    return [
        None if header is None else header.hash == block_hash
        for header, (_, block_hash) in zip(headers, known, strict=True)
    ]


def _show_unconfirmed(arena: WriterArena, number: int) -> None:
    """The pools may be of a branch that the chain has left: they are not live until it is known."""
    reason = f"the node does not have block {number} yet, which the pools were left at"
    arena.set_phase(
        "connecting", reason
    )  # before: what a killed writer leaves is read by its phase
    arena.set_status_all(STATUS_LIVE, STATUS_SYNCING)
    arena.commit()
    log.info("event=node_behind block=%d reason=%r", number, reason)
