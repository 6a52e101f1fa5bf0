"""Logs of pools as the event records the feed would have sent.

`log_index` of these records counts from the first log of the transaction that the node shows. The
feed counts from the first log of the receipt, which a filtered answer does not show. Both ascend within
a transaction, and a block is applied whole from one source, so positions compare as they must: by
block, then by transaction, then by log.
"""

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from arena.errors import LogInvalid
from arena.layouts.events import EVENT
from arena.native import lib
from arena.specs import PoolSpec
from arena.writer.node.client import Header, Log
from arena.writer.protocols.contract import AbiWords
from arena.writer.protocols.held import key_of, pool_event
from arena.writer.stream.history import Records


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

    A log counts when its emitter is the contract of a pool whose protocol has that topic. LogInvalid
    when such a log is not encoded as the contract's ABI says.
    """
    if not log.topics:
        return None
    key = key_of(log)
    spec = pools.get(key)
    event = None if spec is None else pool_event(log, spec)
    if spec is None or event is None:
        return None
    if len(log.topics) != event.topic_count or len(log.data) != 32 * event.word_count:
        raise LogInvalid(
            f"log {log.log_index} of block {log.block_number} has {len(log.topics)} topics and "
            f"{len(log.data)} bytes, its event has {event.topic_count} and {32 * event.word_count}",
            block=log.block_number,
            log_index=log.log_index,
        )
    words = [log.data[start : start + 32] for start in range(0, len(log.data), 32)]
    common = {
        "protocol": spec.protocol,
        "key": np.frombuffer(key.ljust(32, b"\0"), np.uint8),
        "key_nbytes": len(key),
    }
    return common | event.read(AbiWords(log), log.topics, words)
