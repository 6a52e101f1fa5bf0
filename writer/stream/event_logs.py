"""Logs of pools as the event records the feed would have sent.

`log_index` of these records counts from the first log of the transaction that the node shows. The
feed counts from the first log of the receipt, which a filtered answer does not show. Both ascend within
a transaction, and a block is applied whole from one source, so positions compare as they must: by
block, then by transaction, then by log.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from arena.errors import LogInvalid
from arena.layouts.events import EVENT
from arena.layouts.slots import UNISWAP_V2, UNISWAP_V3, UNISWAP_V4
from arena.native import lib
from arena.specs import PoolSpec
from arena.writer.node.client import Header, Log
from arena.writer.stream.history import Records

# keccak256 of the event signatures (v2-core, v3-core, PancakeSwap v3-core, v4-core).
V2_SYNC = bytes.fromhex("1c411e9a96e071241c2f21f7726b17ae89e3cab4c78be50e062b03a9fffbbad1")
V3_SWAP = bytes.fromhex("c42079f94a6350d7e6235f29174924f928cc2ac818eb64fed8004e115fbcca67")
PANCAKE_SWAP = bytes.fromhex("19b47279256b2a23a1665c810c8d55a1758940ee09377d4f8d26497a3577dc83")
V3_MINT = bytes.fromhex("7a53080ba414158be7ec69b987b5fb7d07dee101fe85488f0853ae16239d0bde")
V3_BURN = bytes.fromhex("0c396cd989a39f4459b5fa1aed6a9a8dcdbc45908acfd67e028cd568da98982c")
V4_SWAP = bytes.fromhex("40e9cecb9f5f1f1c5b9c97dec2917b7ee92e57ba5563708daca94dd84ad7112f")
V4_MODIFY = bytes.fromhex("f208f4912782fd25c7f114ca3723a2d5dd6f3bcc3ac8db5af63baa85f711d5ec")
V4_PROTOCOL_FEE = bytes.fromhex("e9c42593e71f84403b84352cd168d693e2c9fcd1fdbcc3feb21d92b43e6696f9")
TOPICS = (V2_SYNC, V3_SWAP, PANCAKE_SWAP, V3_MINT, V3_BURN, V4_SWAP, V4_MODIFY, V4_PROTOCOL_FEE)


def block_records(
    header: Header,
    logs: Iterable[Log],
    pools: Mapping[bytes, PoolSpec],
    first_logs: Mapping[int, int] | None = None,
) -> Records:
    """BeginBlock, the events of `pools` in log order, EndBlock. LogInvalid.

    `first_logs` are the block-wide indices of each transaction's first log; without it the first of
    `logs` counts as that. Logs may share an index, but not events of one pool.
    """
    ordered = sorted(logs, key=lambda log: (log.log_index, log.tx_index))
    for before, after in pairwise(ordered):
        if before.tx_index > after.tx_index:
            raise LogInvalid(
                f"logs {before.log_index} and {after.log_index} of block {header.number} are out "
                "of order",
                block=header.number,
            )
    first_log = dict(first_logs or {})
    found: list[dict[str, Any]] = []
    places: set[tuple[bytes, int, int]] = set()
    for log in ordered:
        first_log.setdefault(log.tx_index, log.log_index)
        fields = decode_log(log, pools)
        if fields is not None:
            place = fields["key"].tobytes(), log.tx_index, log.log_index
            if place in places:
                raise LogInvalid(
                    f"two events of one pool have the number {log.log_index} in block "
                    f"{header.number}",
                    block=header.number,
                )
            places.add(place)
            position = log.log_index - first_log[log.tx_index]
            found.append(fields | {"tx_index": log.tx_index, "log_index": position})
    records = np.zeros(len(found) + 2, EVENT)
    records["block_number"] = header.number
    records["timestamp"] = header.timestamp
    records["kind"][0] = lib.PSA_EVENT_BEGIN_BLOCK
    records["flags"][0] = lib.PSA_EVENT_HAS_BASE_FEE | lib.PSA_EVENT_HAS_FEES
    records["words"][0, 0] = header.base_fee
    records["kind"][-1] = lib.PSA_EVENT_END_BLOCK
    records["words"][-1, 0] = len(found)
    for index, fields in enumerate(found, 1):
        records["flags"][index] = lib.PSA_EVENT_IN_BLOCK
        for name, value in fields.items():
            records[name][index] = value
    return records


def decode_log(log: Log, pools: Mapping[bytes, PoolSpec]) -> dict[str, Any] | None:
    """Fields of the event record, or None for a log that is no event of one of `pools`.

    A log counts when its emitter is a pool of the protocol the topic belongs to, or the manager of a
    V4 pool. LogInvalid when such a log is not encoded as the contract's ABI says.
    """
    decode = _DECODERS.get(log.topics[0]) if log.topics else None
    if decode is None:
        return None
    protocol, topic_count, word_count, read = decode
    if protocol == UNISWAP_V4:
        key = log.topics[1] if len(log.topics) > 1 else b""
    else:
        key = log.address
    spec = pools.get(key)
    if spec is None or spec.protocol != protocol:
        return None
    if protocol == UNISWAP_V4 and spec.factory != log.address:
        return None
    if len(log.topics) != topic_count or len(log.data) != 32 * word_count:
        raise LogInvalid(
            f"log {log.log_index} of block {log.block_number} has {len(log.topics)} topics and "
            f"{len(log.data)} bytes, its event has {topic_count} and {32 * word_count}",
            block=log.block_number,
            log_index=log.log_index,
        )
    words = [log.data[start : start + 32] for start in range(0, len(log.data), 32)]
    common = {
        "protocol": protocol,
        "key": np.frombuffer(key.ljust(32, b"\0"), np.uint8),
        "key_nbytes": len(key),
    }
    return common | read(_Word(log), log.topics, words)


class _Word:
    """Reads 32-byte ABI words of one log; LogInvalid when one exceeds its type."""

    def __init__(self, log: Log):
        self._log = log

    def unsigned(self, word: bytes, bits: int) -> int:
        value = int.from_bytes(word, "big")
        if value >> bits:
            self._refuse(value, f"uint{bits}")
        return value

    def signed(self, word: bytes, bits: int) -> int:
        value = int.from_bytes(word, "big", signed=True)
        if not -(1 << (bits - 1)) <= value < 1 << (bits - 1):
            self._refuse(value, f"int{bits}")
        return value

    def _refuse(self, value: int, kind: str) -> None:
        raise LogInvalid(
            f"log {self._log.log_index} of block {self._log.block_number}: {value} is no {kind}",
            block=self._log.block_number,
            log_index=self._log.log_index,
        )


def _limbs(value: int, count: int) -> list[int]:
    return [(value >> (64 * index)) & (2**64 - 1) for index in range(count)]


def _sync(read: _Word, topics: Sequence[bytes], words: Sequence[bytes]) -> dict[str, Any]:
    reserves = [read.unsigned(word, 112) for word in words]
    return {
        "kind": lib.PSA_EVENT_V2_SYNC,
        "update_type": lib.PSA_UPDATE_SWAP,
        "variant": 22,
        "words": [*_limbs(reserves[0], 4), *_limbs(reserves[1], 4)],
    }


def _swap(read: _Word, topics: Sequence[bytes], words: Sequence[bytes]) -> dict[str, Any]:
    """V3: two amounts, then price, liquidity, tick; PancakeSwap: two protocol fees besides."""
    for amount in words[:2]:
        read.signed(amount, 256)
    for more in words[5:]:
        read.unsigned(more, 128)
    return {
        "kind": lib.PSA_EVENT_CL_SWAP,
        "update_type": lib.PSA_UPDATE_SWAP,
        "variant": 2,
        "words": [*_limbs(read.unsigned(words[2], 160), 4), 0, 0, 0, 0],
        "amount": _limbs(read.unsigned(words[3], 128), 2),
        "tick": read.signed(words[4], 24),
    }


def _v4_swap(read: _Word, topics: Sequence[bytes], words: Sequence[bytes]) -> dict[str, Any]:
    """As V3, then the swap's whole fee: kept where the amounts tell its direction."""
    amounts = [read.signed(amount, 128) for amount in words[:2]]
    fee = read.unsigned(words[5], 24)
    fields = _swap(read, topics, words[:5]) | {"variant": 4}
    paid = [amount < 0 for amount in amounts]  # from the swapper's side
    if any(paid) and not all(paid):
        fields["variant"] = 25
        fields["present"] = lib.PSA_HAS_SWAP_FEE
        fields["words"][4:6] = fee, int(paid[0])
    return fields


def _protocol_fee(read: _Word, topics: Sequence[bytes], words: Sequence[bytes]) -> dict[str, Any]:
    return {
        "kind": lib.PSA_EVENT_PROTOCOL_FEE,
        "update_type": lib.PSA_UPDATE_SWAP,
        "variant": 26,
        "words": [read.unsigned(words[0], 24), 0, 0, 0, 0, 0, 0, 0],
    }


def _liquidity(
    read: _Word, lower: bytes, upper: bytes, delta: int, variant: int, is_mint: bool
) -> dict[str, Any]:
    return {
        "kind": lib.PSA_EVENT_CL_LIQUIDITY,
        "update_type": lib.PSA_UPDATE_MINT if is_mint else lib.PSA_UPDATE_BURN,
        "variant": variant,
        "tick_lower": read.signed(lower, 24),
        "tick_upper": read.signed(upper, 24),
        "amount": _limbs(delta, 2),
    }


def _mint(read: _Word, topics: Sequence[bytes], words: Sequence[bytes]) -> dict[str, Any]:
    # The pool casts the amount to int128, so 2**127 and more cannot occur (v3-core, mint).
    return _liquidity(read, topics[2], topics[3], read.unsigned(words[1], 127), 3, True)


def _burn(read: _Word, topics: Sequence[bytes], words: Sequence[bytes]) -> dict[str, Any]:
    return _liquidity(read, topics[2], topics[3], -read.unsigned(words[0], 127), 3, False)


def _modify(read: _Word, topics: Sequence[bytes], words: Sequence[bytes]) -> dict[str, Any]:
    delta = read.signed(words[2], 128)
    return _liquidity(read, words[0], words[1], delta, 5, delta > 0)


# topic -> protocol, topics, words of data, reader
_DECODERS: dict[bytes, tuple[int, int, int, Callable[..., dict[str, Any]]]] = {
    V2_SYNC: (UNISWAP_V2, 1, 2, _sync),
    V3_SWAP: (UNISWAP_V3, 3, 5, _swap),
    PANCAKE_SWAP: (UNISWAP_V3, 3, 7, _swap),
    V3_MINT: (UNISWAP_V3, 4, 4, _mint),
    V3_BURN: (UNISWAP_V3, 4, 3, _burn),
    V4_SWAP: (UNISWAP_V4, 3, 6, _v4_swap),
    V4_MODIFY: (UNISWAP_V4, 3, 4, _modify),
    V4_PROTOCOL_FEE: (UNISWAP_V4, 2, 1, _protocol_fee),
}

EVENT_TOPICS = {
    protocol: tuple(topic for topic, row in _DECODERS.items() if row[0] == protocol)
    for protocol in (UNISWAP_V2, UNISWAP_V3, UNISWAP_V4)
}
