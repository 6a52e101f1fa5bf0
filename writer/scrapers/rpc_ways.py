"""The ways a node's storage is asked for in requests of many slots, and how their answers are read."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from arena.writer.node.head import Block, content_of, not_promised
from arena.writer.node.jsonrpc import Call, JsonRpc
from arena.writer.protocols.concentrated import bitmap_words
from arena.writer.protocols.held import protocol_of
from arena.writer.protocols.storage import PoolTarget


class Way(StrEnum):
    """How storage words are asked for; see the module."""

    storage_values = "storage_values"
    code_override = "code_override"
    extsload = "extsload"
    storage_at = "storage_at"


# Values of one group of pools in memory at a time; 50 pools of tick spacing 1 are 350,000 slots.
GROUP_SLOTS = 400_000


def _assembled(*lines: tuple[str, str]) -> bytes:
    return b"".join(bytes.fromhex(code) for code, _ in lines)


# Put in place of a pool's code: calldata is n slots of 32 bytes, the answer their n values.
# No PUSH0, so that it runs on chains without it. Comments show the stack, top on the right.
SLOT_READER = _assembled(
    ("60 00", "PUSH1 0             i"),
    ("5b", "JUMPDEST (2)        i"),
    ("36 81 10", "CALLDATASIZE DUP2 LT    i, i < size"),
    ("15 60 15 57", "ISZERO PUSH1 21 JUMPI   i"),
    ("80 35 54", "DUP1 CALLDATALOAD SLOAD i, value"),
    ("81 52", "DUP2 MSTORE         i           memory[i] = value"),
    ("60 20 01", "PUSH1 32 ADD        i + 32"),
    ("60 02 56", "PUSH1 2 JUMP"),
    ("5b", "JUMPDEST (21)"),
    ("36 60 00 f3", "CALLDATASIZE PUSH1 0 RETURN"),
)

# Asks several pools in one call. Calldata: for each an account (32 bytes), the size of its slots in
# bytes (32 bytes), the slots. Returns all values; fails when one account does not answer in full.
POOL_ASKER = _assembled(
    ("60 00 60 00", "PUSH1 0 PUSH1 0     out, in"),
    ("5b", "JUMPDEST (4)        out, in"),
    ("36 81 10", "CALLDATASIZE DUP2 LT    out, in, in < size"),
    ("15 60 34 57", "ISZERO PUSH1 52 JUMPI   out, in"),
    ("80 60 20 01 35", "DUP1 PUSH1 32 ADD CALLDATALOAD      out, in, n"),
    ("80 82 60 40 01", "DUP1 DUP3 PUSH1 64 ADD              out, in, n, n, in + 64"),
    ("84 37", "DUP5 CALLDATACOPY   out, in, n      memory[out:] = the slots"),
    ("80 83", "DUP1 DUP4           out, in, n, n, out"),
    ("81 81", "DUP2 DUP2           out, in, n, n, out, n, out"),
    ("85 35 5a fa", "DUP6 CALLDATALOAD GAS STATICCALL    out, in, n, ok"),
    ("81 3d 14 16", "DUP2 RETURNDATASIZE EQ AND          out, in, n, ok and answered n"),
    ("15 60 39 57", "ISZERO PUSH1 57 JUMPI   out, in, n"),
    ("90 81 01", "SWAP1 DUP2 ADD      out, n, in + n"),
    ("60 40 01", "PUSH1 64 ADD        out, n, in'"),
    ("91 01 90", "SWAP2 ADD SWAP1     out + n, in'"),
    ("60 04 56", "PUSH1 4 JUMP"),
    ("5b", "JUMPDEST (52)       out, in"),
    ("50 60 00 f3", "POP PUSH1 0 RETURN"),
    ("5b", "JUMPDEST (57)"),
    ("60 00 80 fd", "PUSH1 0 DUP1 REVERT"),
)
# Where POOL_ASKER is put: an address nobody has a key for.
ASKER_ADDRESS = b"pool-state-arena-rpc"
EXTSLOAD_SELECTOR = bytes.fromhex("dbd035ff")  # extsload(bytes32[])


@dataclass(frozen=True, slots=True)
class Piece:
    """Slots of one account, part of request number `index`."""

    index: int
    address: bytes
    keys: Sequence[bytes]


Chunk = list[Piece]
"""What one request asks for."""


def chunks_of(pieces: Sequence[Piece], slot_limit: int) -> Iterator[Chunk]:
    """The pieces in order, cut so that no chunk has more slots than `slot_limit`."""
    chunk: Chunk = []
    free = slot_limit
    for piece in pieces:
        start = 0
        while start < len(piece.keys):
            part = piece.keys[start : start + free]
            chunk.append(Piece(piece.index, piece.address, part))
            start += len(part)
            free -= len(part)
            if free == 0:
                yield chunk
                chunk, free = [], slot_limit
    if chunk:
        yield chunk


def slot_count_of(chunk: Sequence[Piece]) -> int:
    return sum(len(piece.keys) for piece in chunk)


def as_hex(content: bytes) -> str:
    return "0x" + content.hex()


def has_extsload(target: PoolTarget) -> bool:
    return protocol_of(target.spec).has_extsload


def groups_of(targets: Sequence[PoolTarget]) -> Iterator[list[PoolTarget]]:
    """Consecutive targets whose first stages together stay near GROUP_SLOTS."""
    group: list[PoolTarget] = []
    slot_count = 0
    for target in targets:
        spacing = target.spec.tick_spacing
        wanted = 3 if spacing < 1 else 2 + len(bitmap_words(spacing))
        if group and slot_count + wanted > GROUP_SLOTS:
            yield group
            group, slot_count = [], 0
        group.append(target)
        slot_count += wanted
    if group:
        yield group


def by_account(pieces: Sequence[Piece]) -> list[list[Piece]]:
    found: dict[bytes, list[Piece]] = {}
    for piece in pieces:
        found.setdefault(piece.address, []).append(piece)
    return list(found.values())


def at_block(block: Block) -> dict[str, str]:
    """EIP-1898: a block by its hash, so that a change of the chain is an error, not other data."""
    return {"blockHash": as_hex(block.hash)}


def _storage_values_call(chunk: Chunk, block: Block) -> Call:
    slots: dict[str, list[str]] = {}
    for piece in chunk:
        slots.setdefault(as_hex(piece.address), []).extend(map(as_hex, piece.keys))
    return "eth_getStorageValues", (slots, at_block(block))


def _storage_values_answer(rpc: JsonRpc, chunk: Chunk, answer: Any) -> list[int]:
    wrong = not_promised(rpc, "eth_getStorageValues")
    if not isinstance(answer, dict) or not all(isinstance(each, list) for each in answer.values()):
        raise wrong
    remaining = {str(account).lower(): iter(values) for account, values in answer.items()}
    counts: dict[str, int] = {}
    values: list[int] = []
    for piece in chunk:
        account = as_hex(piece.address)
        if account not in remaining:
            raise wrong
        counts[account] = counts.get(account, 0) + len(piece.keys)
        # zip takes from keys first, so it never swallows a value of the next piece.
        values += [_word(rpc, value) for _, value in zip(piece.keys, remaining[account])]  # noqa: B905
    if len(values) != slot_count_of(chunk):
        raise wrong
    if any(
        len(answer_values) != counts.get(str(account).lower())
        for account, answer_values in answer.items()
    ):
        raise wrong
    return values


def _word(rpc: JsonRpc, value: Any) -> int:
    if isinstance(value, str) and value.startswith("0x") and 2 < len(value) <= 66:
        try:
            return int(value, 16)
        except ValueError:
            pass
    raise not_promised(rpc, "a read of storage")


def storage_at_calls(chunk: Chunk, block: Block) -> list[Call]:
    at = at_block(block)
    return [
        ("eth_getStorageAt", (as_hex(piece.address), as_hex(key), at))
        for piece in chunk
        for key in piece.keys
    ]


def _storage_at_answer(rpc: JsonRpc, chunk: Chunk, answer: Any) -> list[int]:
    return [_word(rpc, value) for value in answer]


def _code_override_call(chunk: Chunk, block: Block) -> Call:
    data = b"".join(
        part
        for piece in chunk
        for part in (
            piece.address.rjust(32, b"\0"),
            (32 * len(piece.keys)).to_bytes(32, "big"),
            *piece.keys,
        )
    )
    codes = {as_hex(piece.address): {"code": as_hex(SLOT_READER)} for piece in chunk}
    codes[as_hex(ASKER_ADDRESS)] = {"code": as_hex(POOL_ASKER)}
    return "eth_call", ({"to": as_hex(ASKER_ADDRESS), "data": as_hex(data)}, at_block(block), codes)


def _code_override_answer(rpc: JsonRpc, chunk: Chunk, answer: Any) -> list[int]:
    return _words(content_of(rpc, "eth_call", answer, 32 * slot_count_of(chunk)))


def _extsload_call(chunk: Chunk, block: Block) -> Call:
    keys = [key for piece in chunk for key in piece.keys]
    head = (32).to_bytes(32, "big") + len(keys).to_bytes(32, "big")
    data = EXTSLOAD_SELECTOR + head + b"".join(keys)
    return "eth_call", ({"to": as_hex(chunk[0].address), "data": as_hex(data)}, at_block(block))


def _extsload_answer(rpc: JsonRpc, chunk: Chunk, answer: Any) -> list[int]:
    count = slot_count_of(chunk)
    offset, length, *values = _words(content_of(rpc, "eth_call", answer, 64 + 32 * count))
    if (offset, length) != (32, count):
        raise not_promised(rpc, "extsload")
    return values


def _words(content: bytes) -> list[int]:
    return [int.from_bytes(content[at : at + 32], "big") for at in range(0, len(content), 32)]


ENCODERS: dict[Way, Callable[[Chunk, Block], Call]] = {
    Way.storage_values: _storage_values_call,
    Way.code_override: _code_override_call,
    Way.extsload: _extsload_call,
}
DECODERS: dict[Way, Callable[[JsonRpc, Chunk, Any], list[int]]] = {
    Way.storage_values: _storage_values_answer,
    Way.code_override: _code_override_answer,
    Way.extsload: _extsload_answer,
    Way.storage_at: _storage_at_answer,
}
