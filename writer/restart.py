"""What a writer begins with: the segment a dead one left, a checkpoint, or an empty arena.

Each is looked at before it is used: chain, layout, and whether a block of it whose hash is known is
still the chain's. Without a node nothing ties what was left to the chain, so the arena begins empty.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from arena.arena import UNDO_NBYTES, WriterArena
from arena.errors import (
    ArenaFull,
    ArenaMissing,
    ArenaNotReady,
    ArenaPermission,
    CheckpointRefused,
    LayoutMismatch,
)
from arena.layouts.slots import STATUS_LIVE, UNDO_RECORD
from arena.writer.checkpoint import Checkpoint, usable_checkpoints
from arena.writer.logs import NodeClient

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
    *,
    max_pools: int,
    tick_bytes: int,
    mode: int,
    group: str | None,
    chain_id: int,
    node: NodeClient | None,
    folder: Path | None,
    undo_bytes: int = UNDO_NBYTES,
) -> tuple[WriterArena, bool]:
    """The arena, and whether it holds pools to go on from. Blocks.

    `folder` is that of the checkpoints. ArenaBusy and what WriterArena.create raises; what the node
    raises when it cannot be asked, and then nothing that was left is touched.
    """
    if node is not None:
        found = _from_segment(name, mode, group, chain_id, node)
        if found is not None:
            undo_records = undo_bytes // UNDO_RECORD.itemsize
            if (
                max_pools > found.max_pools
                or tick_bytes > found.tick_bytes
                or undo_records > found.undo_bytes // UNDO_RECORD.itemsize
            ):
                found.grow(
                    max_pools=max(max_pools, found.max_pools),
                    max_tokens=max(2 * max_pools, found.max_tokens),
                    tick_bytes=max(tick_bytes, found.tick_bytes),
                    undo_bytes=max(undo_bytes, found.undo_bytes),
                )
            return found, True
        if folder is not None:
            restored = _from_checkpoint(
                name, max_pools, tick_bytes, undo_bytes, mode, group, chain_id, node, folder
            )
            if restored is not None:
                return restored, True
    return (
        WriterArena.create(
            name,
            max_pools=max_pools,
            tick_bytes=tick_bytes,
            undo_bytes=undo_bytes,
            mode=mode,
            group=group,
            chain_id=chain_id,
        ),
        False,
    )


def _from_segment(
    name: str, mode: int, group: str | None, chain_id: int, node: NodeClient
) -> WriterArena | None:
    try:
        found = WriterArena.take_over(name, mode=mode, group=group)
    except ArenaMissing:
        return None
    except (ArenaNotReady, ArenaPermission, LayoutMismatch) as error:
        log.warning("event=segment_refused error=%s reason=%r", type(error).__name__, str(error))
        return None
    reason = ""
    try:
        known = [(number, hash_) for number, hash_ in found.undoable() if hash_ is not None]
        if chain_id and found.chain_id and found.chain_id != chain_id:
            reason = f"it is of chain {found.chain_id}, not of {chain_id}"
        elif not len(found.slots_with(STATUS_LIVE)):
            reason = "none of its pools was live"
        elif not _any_canonical(node, known[:ASKED_HASHES]):
            reason = f"no block of it is known to be the chain's ({len(known)} hashes)"
    except BaseException:
        found.close(unlink=False)
        raise
    if not reason:
        log.info("event=segment_found head=%d generation=%d", found.head_block, found.generation)
        return found
    log.warning("event=segment_refused reason=%r", reason)
    found.close(unlink=False)
    return None


def _from_checkpoint(
    name: str,
    max_pools: int,
    tick_bytes: int,
    undo_bytes: int,
    mode: int,
    group: str | None,
    chain_id: int,
    node: NodeClient,
    folder: Path,
) -> WriterArena | None:
    def is_canonical(checkpoint: Checkpoint) -> bool:
        known = checkpoint.hashes
        if checkpoint.block_hash is not None:
            known = known[:1]  # the head itself must be
        return _any_canonical(node, known[:ASKED_HASHES])

    for checkpoint, image in usable_checkpoints(
        folder, chain_id=chain_id, is_canonical=is_canonical
    ):
        try:
            arena = WriterArena.create(
                name,
                max_pools=max_pools,
                tick_bytes=tick_bytes,
                undo_bytes=undo_bytes,
                mode=mode,
                group=group,
                chain_id=chain_id or checkpoint.chain_id,
                image=image,
            )
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
        return arena
    return None


def _any_canonical(node: NodeClient, known: Sequence[tuple[int, bytes]]) -> bool:
    """Whether the node's chain has one of those blocks."""
    if not known:
        return False
    headers = node.headers([number for number, _ in known])
    return any(
        header is not None and header.hash == block_hash
        for header, (_, block_hash) in zip(headers, known, strict=True)
    )
