"""Pool lists: which pools to hold, as JSON or TOML in any shape their publishers use.

The record shapes are told apart field by field: tokens are addresses or objects, an identity is
`pool_id`, `id` or `address`. An entry that names no pool this arena can hold is refused by itself;
the others stand. Whether a pool is what its entry says is found out when it is read.
docs/howto/run-against-rpc.md shows a list; `pool_record` writes an entry.
"""

import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import orjson

from arena.errors import PoolEntryInvalid, PoolListError
from arena.writer.protocols.entry import PoolEntry
from arena.writer.protocols.storage import PoolTarget

MAX_LIST_NBYTES = 256 << 20  # 500,000 pools in the most talkative shape


@dataclass(frozen=True, slots=True)
class PoolList:
    """Pools in the order of the list, each once, and the entries that were refused."""

    targets: tuple[PoolTarget, ...]
    refused: tuple[PoolEntryInvalid, ...] = ()


@dataclass(frozen=True, slots=True)
class PoolIds:
    """Keys in the order of their list, each once, with the protocol (UNISWAP_*) where the list has
    it; and the entries that were refused."""

    protocols: dict[bytes, int | None]
    refused: tuple[PoolEntryInvalid, ...] = ()


def read_pool_list(path: str | os.PathLike[str], *, chain: str | None = None) -> PoolList:
    """The pools of a file: TOML when its name ends in .toml, else JSON.

    `chain` is the chain's name a message's own `chain` must equal; None accepts any.
    PoolListError: unreadable, not a list of pools, or without a single usable pool.
    """
    name = os.fspath(path)
    try:
        with open(path, "rb") as stream:
            raw = stream.read(MAX_LIST_NBYTES + 1)
    except OSError as error:
        raise PoolListError(f"{name} cannot be read: {error.strerror}", path=name) from error
    if len(raw) > MAX_LIST_NBYTES:
        _refuse_list(name, f"it has more than {MAX_LIST_NBYTES} bytes", "split it")
    try:
        if Path(path).suffix.lower() == ".toml":
            content: Any = tomllib.loads(raw.decode())
        else:
            content = orjson.loads(raw)
    except (ValueError, RecursionError) as error:
        kind = "TOML" if Path(path).suffix.lower() == ".toml" else "JSON"
        _refuse_list(
            name, f"not valid {kind} ({error})", "write JSON, or TOML into a file named *.toml"
        )
    return parse_pool_list(content, name=name, chain=chain)


def parse_pool_list(content: Any, *, name: str, chain: str | None = None) -> PoolList:
    """The pools of parsed content: a list of records, or an object with such a list as `pools`.

    `name` stands in messages. PoolListError as in read_pool_list.
    """
    if isinstance(content, dict):
        found = content.get("chain")
        if chain is not None and found is not None and found != chain:
            _refuse_list(name, f"it is for the chain {found!r}", f"give a list for {chain!r}")
        if "pool_addresses" in content or content.get("type") == "remove":
            _refuse_list(name, "it is a message that removes pools", "give a list of pools to hold")
        if "pools" not in content:
            _refuse_list(name, "there is no `pools`", "write an array of pools, or {pools = [...]}")
        content = content["pools"]
    if not isinstance(content, list):
        _refuse_list(name, f"the pools are a {type(content).__name__}", "write an array of pools")
    found = parse_pool_records(content, name=name)
    if not found.targets:
        refused = found.refused
        why = f"all {len(refused)} entries are refused, the first: {refused[0]}" if refused else ""
        _refuse_list(name, "it names no usable pool", why or "name at least one pool")
    return found


def parse_pool_records(records: Sequence[Any], *, name: str) -> PoolList:
    """The pools of a list of records; there may be none. `name` stands in messages."""
    targets: dict[bytes, PoolTarget] = {}
    numbers: dict[bytes, int] = {}
    refused: list[PoolEntryInvalid] = []
    for number, record in enumerate(records, 1):
        entry = PoolEntry(name, number, record)
        try:
            target = entry.target()
            key = target.spec.key
            if key in targets:
                entry.refuse(
                    f"the pool of entry {numbers[key]} again", "keep one entry for each pool"
                )
        except PoolEntryInvalid as error:
            refused.append(error)
            continue
        targets[key] = target
        numbers[key] = number
    return PoolList(tuple(targets.values()), tuple(refused))


def parse_pool_ids(
    ids: Sequence[Any], protocols: Sequence[Any] | None = None, *, name: str
) -> PoolIds:
    """The keys of a list of identities; `protocols`, where given, is as long. `name` as above."""
    found: dict[bytes, int | None] = {}
    refused: list[PoolEntryInvalid] = []
    for number, identity in enumerate(ids, 1):
        record = {"id": identity}
        if protocols is not None:
            record["protocol"] = protocols[number - 1]
        try:
            key, protocol = PoolEntry(name, number, record).identity()
        except PoolEntryInvalid as error:
            refused.append(error)
            continue
        found.setdefault(key, protocol)
    return PoolIds(found, tuple(refused))


def _refuse_list(name: str, found: str, remedy: str) -> NoReturn:
    raise PoolListError(f"{name}: {found}; {remedy}", path=name, found=found, remedy=remedy)
