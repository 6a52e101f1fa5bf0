"""Where two readings of a pool differ, field by field."""

from dataclasses import dataclass
from typing import Any

from arena.layouts.protocols import PROTOCOLS
from arena.values import PoolValues

# Of a description, of our own, or compared one by one.
_OTHERWISE = frozenset({"tick_spacing", "hooks", "fee_block", "ticks"})


@dataclass(frozen=True, slots=True)
class Difference:
    """One field of one pool; `ticks` have a row each, (gross, net) or None where there is no tick.

    `field` is `pool` when the node has no such pool: `theirs` says why.
    """

    key: bytes
    field: str
    ours: Any
    theirs: Any

    def line(self) -> str:
        return f"0x{self.key.hex()} {self.field}: arena {_shown(self.ours)}, node {self.theirs}"

    def as_dict(self) -> dict[str, Any]:
        return {
            "pool": f"0x{self.key.hex()}",
            "field": self.field,
            "arena": _shown(self.ours),
            "node": _shown(self.theirs),
        }


def _shown(value: Any) -> Any:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else value


def compared_fields(protocol: int) -> tuple[str, ...]:
    """The fields of PoolValues that two readings of a pool must have the same, besides ticks."""
    row = PROTOCOLS[protocol]
    fields = tuple(name for name in row.state_fields if name not in _OTHERWISE)
    return fields if row.has_listed_fee else ("fee_pips", *fields)


def differences(
    key: bytes, protocol: int, ours: PoolValues, theirs: PoolValues
) -> list[Difference]:
    """The fields in which a pool's values differ."""
    found = [
        Difference(key, name, getattr(ours, name), getattr(theirs, name))
        for name in compared_fields(protocol)
        if getattr(ours, name) != getattr(theirs, name)
    ]
    if PROTOCOLS[protocol].has_ticks:
        mine = {tick: (gross, net) for tick, gross, net in ours.ticks}
        nodes = {tick: (gross, net) for tick, gross, net in theirs.ticks}
        found += [
            Difference(key, f"ticks[{tick}]", mine.get(tick), nodes.get(tick))
            for tick in sorted(mine.keys() | nodes.keys())
            if mine.get(tick) != nodes.get(tick)
        ]
    return found
