"""What pools a sequence of whitelist messages leaves in force, pool by pool, slow and obvious.

Reads the JSON of both publishers' dialects by itself. Descriptions are tuples of plain values:
(id, protocol, fee, tick spacing, factory, hooks, token, token), ids and addresses lower-case hex
without 0x, a token (address, decimals, symbol). Only what the tests send is understood.
"""

import json
from typing import Any

Described = tuple[Any, ...]
MANAGER = "000000000004444c5dc75cb358380d2e3de08a90"
VERSIONS = {"2": "v2", "3": "v3", "4": "v4"}


def plain(text: str) -> str:
    return text.lower().removeprefix("0x")


def version(protocol: str) -> str | None:
    """v2, v3 or v4 of any of their spellings; None for others."""
    name = protocol.lower().replace("_", "")
    return VERSIONS.get(name[-1]) if name in (f"v{name[-1]}", f"uniswapv{name[-1]}") else None


def token(record: dict[str, Any], name: str) -> tuple[str, int | None, str]:
    found = record[name]
    if isinstance(found, str):
        return plain(found), record.get(f"{name}_decimals"), ""
    return plain(found["address"]), found.get("decimals"), found.get("symbol", "")


def described(record: dict[str, Any]) -> Described | None:
    """The pool of a good record; None for one that must be skipped."""
    protocol = version(record["protocol"])
    if protocol is None:
        return None
    identity = plain(record.get("pool_id") or record.get("id") or record["address"])
    if len(identity) != (64 if protocol == "v4" else 40):
        return None
    factory = plain(record.get("factory", "0" * 40))
    if protocol == "v4":
        address = plain(record.get("address", MANAGER))
        factory = MANAGER if address == identity else address
    return (
        identity,
        protocol,
        3000 if protocol == "v2" else record["fee"],
        0 if protocol == "v2" else record["tick_spacing"],
        factory,
        plain(record.get("hooks", "0" * 40)),
        token(record, "token0"),
        token(record, "token1"),
    )


class ListOracle:
    """Every pool ever named: whether it is in force, and what was last said of it."""

    def __init__(self, chain: str, *, canonical: bool) -> None:
        self.chain = chain
        self.canonical = canonical
        self.alive: dict[str, bool] = {}
        self.known: dict[str, Described] = {}

    def in_force(self) -> dict[str, Described]:
        return {pool: self.known[pool] for pool, is_alive in self.alive.items() if is_alive}

    def take(self, subject: str, payload: bytes) -> None:
        try:
            message = json.loads(payload)
        except ValueError:
            return
        suffix = subject.split(".")[-1]
        if not isinstance(message, dict) or message.get("chain") != self.chain:
            return
        if suffix not in ("minimal", "full", "add", "remove"):
            return
        kind = suffix
        if suffix == "minimal":
            kind = message.get("type", "full")
        if suffix == "full":
            kind = message.get("type", "full" if self.canonical else "refresh")
            if "type" not in message and "pool_addresses" in message:
                kind = "remove"
        if kind not in ("full", "add", "remove", "refresh"):
            return
        if kind == "remove":
            ids = message.get("pool_addresses", message.get("pools"))
            for identity in ids if isinstance(ids, list) else []:
                self.alive[plain(str(identity))] = False
            return
        pools = message.get("pools")
        if not isinstance(pools, list):
            return
        if suffix == "minimal":
            self.named(kind, pools, message.get("protocols"))
        else:
            found = [pool for pool in map(described, pools) if pool is not None]
            self.told(kind, found)

    def told(self, kind: str, pools: list[Described]) -> None:
        if not pools:
            return
        if kind == "full":
            for identity in self.alive:
                self.alive[identity] = False
        seen = set()
        for pool in pools:
            if pool[0] in seen:
                continue  # the first of two entries counts
            seen.add(pool[0])
            self.alive[pool[0]] = True
            self.known[pool[0]] = pool

    def named(self, kind: str, ids: list[str], protocols: list[str] | None) -> None:
        if protocols is not None and len(protocols) != len(ids):
            return
        named: dict[str, str | None] = {}
        for number, identity in enumerate(ids):
            protocol = None if protocols is None else version(protocols[number])
            size = len(plain(identity))
            if protocols is not None and size != (
                0 if protocol is None else 64 if protocol == "v4" else 40
            ):
                continue
            named.setdefault(plain(identity), protocol)
        if not named:
            return
        before = dict(self.alive)
        if kind == "full":
            for identity in self.alive:
                self.alive[identity] = False
        for identity, protocol in named.items():
            if before.get(identity):
                self.alive[identity] = True
            elif identity in self.known:
                self.alive[identity] = protocol in (None, self.known[identity][1])
