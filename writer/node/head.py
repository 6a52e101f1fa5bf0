"""A node's blocks, its chain's id, and whether it has that chain already.

Every answer is checked for what its method promises: RpcAnswerInvalid otherwise.
"""

import re
import time
from dataclasses import dataclass
from typing import Any

from arena.errors import (
    BlockUnavailable,
    ChainMismatch,
    NodeSyncing,
    RpcAnswerInvalid,
    RpcError,
    RpcRefused,
)
from arena.writer.node.jsonrpc import JsonRpc
from arena.writer.node.meanings import Meaning, meaning

# A head of that age is of a chain that stands still, of a node cut off, or of one that has yet to catch
# up; which one, only the node can say.
OLD_HEAD_S = 2 * 3600
FRESH_HEAD_S = 600.0  # such a head is the chain's, whatever else the node says
# So near to the highest block it knows of, a node follows the chain.
NEAR_BLOCKS = 8
UNKNOWN_WAIT_S, UNKNOWN_POLL_S = 15.0, 0.5


@dataclass(frozen=True, slots=True)
class Block:
    """A block as the node names it; hashes are 32 bytes, `timestamp` seconds since 1970."""

    number: int
    hash: bytes
    timestamp: int


def head_block(rpc: JsonRpc) -> Block:
    """The newest block. RpcError."""
    found = _block(rpc, "eth_getBlockByNumber", "latest")
    if found is None:
        raise BlockUnavailable(f"{rpc.shown} has no newest block yet", address=rpc.shown)
    return found


def block_by_number(rpc: JsonRpc, number: int) -> Block | None:
    """The canonical block of that number; None when the node has none. RpcError."""
    return _block(rpc, "eth_getBlockByNumber", hex(number))


def block_by_hash(rpc: JsonRpc, block_hash: bytes) -> Block | None:
    """That block, whether or not it is canonical still; None when the node does not know it."""
    return _block(rpc, "eth_getBlockByHash", "0x" + block_hash.hex())


def is_canonical(rpc: JsonRpc, block: Block) -> bool:
    """Whether the node's chain has exactly this block at its height. RpcError."""
    found = block_by_number(rpc, block.number)
    return found is not None and found.hash == block.hash


def check_chain(rpc: JsonRpc, chain_id: int | None) -> int:
    """The node's chain id. ChainMismatch when it is not `chain_id` (None accepts any)."""
    found = quantity(rpc, "eth_chainId", _chain_id(rpc))
    if chain_id is not None and found != chain_id:
        raise ChainMismatch(
            f"{rpc.shown} follows chain {found}, expected {chain_id}; give the address of a node "
            "of that chain",
            found=found,
            expected=chain_id,
        )
    return found


def _chain_id(rpc: JsonRpc) -> Any:
    """The first thing a start asks: an error that nobody knows does not end it at once."""
    deadline = time.monotonic() + UNKNOWN_WAIT_S
    while True:
        try:
            return rpc.call("eth_chainId")
        except RpcRefused as error:
            if meaning(error) is not Meaning.unclear or time.monotonic() >= deadline:
                raise
        time.sleep(UNKNOWN_POLL_S)


def _block(rpc: JsonRpc, method: str, which: str) -> Block | None:
    try:
        found = rpc.call(method, which, False)
    except RpcRefused as error:
        if meaning(error) is not Meaning.no_block:
            raise
        found = None  # some nodes say so by an error
    if found is None:
        return None
    if not isinstance(found, dict):
        raise not_promised(rpc, method)
    return Block(
        quantity(rpc, method, found.get("number")),
        content_of(rpc, method, found.get("hash"), 32),
        quantity(rpc, method, found.get("timestamp")),
    )


def not_promised(rpc: JsonRpc, method: str) -> RpcAnswerInvalid:
    return RpcAnswerInvalid(
        f"{rpc.shown} answers {method} with something else than that method returns",
        address=rpc.shown,
        method=method,
    )


def quantity(rpc: JsonRpc, method: str, value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"0x[0-9a-fA-F]{1,64}", value):
        return int(value, 16)
    raise not_promised(rpc, method)


def content_of(rpc: JsonRpc, method: str, value: Any, nbytes: int) -> bytes:
    """Exactly `nbytes` bytes of a 0x-hex string."""
    if isinstance(value, str) and len(value) == 2 + 2 * nbytes and value.startswith("0x"):
        try:
            return bytes.fromhex(value[2:])
        except ValueError:
            pass
    raise not_promised(rpc, method)


@dataclass(frozen=True, slots=True)
class SyncState:
    """A node's newest block, and `reason` when it is not the chain's yet, in words for an operator."""

    head: Block
    age_s: float
    reason: str | None

    @property
    def is_old(self) -> bool:
        return self.age_s > OLD_HEAD_S


def sync_state(rpc: JsonRpc) -> SyncState:
    """Whether the node has its chain, by what it says and by its newest block. RpcError.

    What eth_syncing answers is not enough: some nodes go on saying that they sync when they have
    done so, some say that they do not before they have begun, some do not know the method. So a
    newest block that is fresh, or near the highest the node knows of, ends it; an old one alone does
    not begin it, as a chain of one's own may stand still.
    """
    head = head_block(rpc)
    try:
        told = rpc.call("eth_syncing")
    except RpcError:
        told = None  # not every node and provider has it
    age_s = time.time() - head.timestamp
    highest = _number(told, "highestBlock")
    reason = None
    if age_s > FRESH_HEAD_S:
        if highest is not None and highest > head.number + NEAR_BLOCKS:
            reason = f"its newest block is {head.number}, the highest it knows of {highest}"
        elif told is True:
            reason = f"it says so, and its newest block is {head.number}"
        elif head.number == 0 and age_s > OLD_HEAD_S:
            reason = "its newest block is number 0: it has no state of the chain yet"
    if reason is not None:
        reason = f"the node {rpc.shown} is still syncing: {reason}"
    return SyncState(head, age_s, reason)


def check_synced(rpc: JsonRpc) -> Block:
    """The node's newest block. NodeSyncing when it is not the chain's yet; RpcError."""
    found = sync_state(rpc)
    if found.reason is not None:
        raise NodeSyncing(
            f"{found.reason}; wait until it has caught up",
            address=rpc.shown,
            head_block=found.head.number,
        )
    return found.head


def _number(told: Any, name: str) -> int | None:
    """A block number of eth_syncing's answer, in any spelling."""
    value = told.get(name) if isinstance(told, dict) else None
    if isinstance(value, str) and re.fullmatch(r"0x[0-9a-fA-F]{1,16}|[0-9]{1,19}", value):
        return int(value, 0 if value.startswith("0x") else 10)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
