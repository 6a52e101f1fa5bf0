"""One pool of a list, as JSON: read with every field checked, and written."""

from typing import Any, NoReturn

from arena.errors import PoolEntryInvalid
from arena.layouts.protocols import LISTED_NAMES, PROTOCOLS, ListedName, listed_name
from arena.specs import TokenSpec
from arena.writer.protocols.fields import PoolFields
from arena.writer.protocols.held import HELD, listed_layout, pool_target
from arena.writer.protocols.storage import PoolTarget


def pool_record(target: PoolTarget) -> dict[str, Any]:
    """The entry of a list that `target` is read from again, equal in every field.

    ValueError for the one target no entry can describe: a V3 pool of PancakeSwap's own factory
    without its storage layout.
    """
    spec = target.spec
    row = PROTOCOLS[spec.protocol]
    record: dict[str, Any] = {
        "pool_id" if row.is_managed else "address": _hex_of(spec.key),
        "protocol": target.layout.name,
        "token0": _token_record(spec.token0),
        "token1": _token_record(spec.token1),
    }
    if row.has_listed_fee:
        record["fee"] = spec.fee_pips
    if row.has_ticks:
        record["tick_spacing"] = spec.tick_spacing
    if row.is_managed:
        record["address"] = _hex_of(spec.factory)
        if any(spec.hooks):
            record["hooks"] = _hex_of(spec.hooks)
    elif any(spec.factory):
        record["factory"] = _hex_of(spec.factory)
    name = listed_name(target.layout.name)
    if name is None or pool_target(spec, listed_layout(name)) != target:
        raise ValueError(f"pool {_hex_of(spec.key)}: its factory does not have {target.layout}")
    return record


def _token_record(token: TokenSpec) -> dict[str, Any]:
    record: dict[str, Any] = {"address": _hex_of(token.address)}
    if token.decimals is not None:
        record["decimals"] = token.decimals
    if token.symbol:
        record["symbol"] = token.symbol
    return record


class PoolEntry(PoolFields):
    """One record of a list: knows where it is, so that every refusal can say so."""

    decimals_of = "`decimals of {}`"

    def __init__(self, name: str, number: int, record: Any):
        super().__init__(record if isinstance(record, dict) else {})
        self.name = name
        self.number = number
        self._raw = record
        self.key: bytes | None = None

    def refuse(self, found: str, remedy: str) -> NoReturn:
        pool = f" (0x{self.key.hex()})" if self.key else ""
        raise PoolEntryInvalid(
            f"{self.name}, entry {self.number}{pool}: {found}; {remedy}",
            path=self.name,
            entry=self.number,
            key=self.key or b"",
            found=found,
            remedy=remedy,
        )

    def is_given(self, name: str) -> bool:
        """Null is as good as nothing."""
        return self.record.get(name) is not None

    def bytes_of(self, value: Any) -> bytes | None:
        return super().bytes_of(value.strip() if isinstance(value, str) else value)

    def shown(self, value: Any) -> str:
        return "missing" if value is None else super().shown(value)

    def identity(self) -> tuple[bytes, int | None]:
        """Key and, where it is named, protocol of an entry of ids. PoolEntryInvalid."""
        self.key = self.as_hex(self.record["id"], "`id`", (20, 32))
        if "protocol" not in self.record:
            return self.key, None
        protocol = self.protocol().protocol
        wanted = PROTOCOLS[protocol].key_nbytes
        if len(self.key) != wanted:
            self.refuse(
                f"a pool of {self.record['protocol']} with an identity of {len(self.key)} bytes",
                f"it has {wanted}",
            )
        return self.key, protocol

    def target(self) -> PoolTarget:
        """The pool described. PoolEntryInvalid."""
        if isinstance(self._raw, str):
            self.key = self.bytes_of(self._raw)
            self.refuse("only an identity", "give protocol and tokens too, as the full lists do")
        if not isinstance(self._raw, dict):
            self.refuse(f"a {type(self._raw).__name__}", "write an object for each pool")
        identity = next((n for n in ("pool_id", "id", "address") if self.record.get(n)), None)
        if identity is None:
            self.refuse("no identity", "add `address`, or `pool_id` for Uniswap V4")
        self.key = self.hex(identity, (20, 32))
        name = self.protocol()
        spec = HELD[name.protocol].listed(self, identity, self.key)
        return pool_target(spec, listed_layout(name))

    def protocol(self) -> ListedName:
        """What `protocol` names."""
        name = self.record.get("protocol")
        known = listed_name(name) if isinstance(name, str) else None
        if known is None:
            held = ", ".join(each.name for each in LISTED_NAMES)
            self.refuse(f"`protocol` is {self.shown(name)}", f"held are {held}")
        return known


def _hex_of(content: bytes) -> str:
    return f"0x{content.hex()}"
