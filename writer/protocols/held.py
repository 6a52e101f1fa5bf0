"""The protocols whose pools are held, and what is asked of a pool's own."""

from collections.abc import Iterable

from arena.layouts.protocols import PROTOCOLS, ListedName
from arena.specs import PoolSpec
from arena.values import PoolValues
from arena.writer.node.client import Log
from arena.writer.protocols.contract import LogEvent, PoolProtocol, refusal
from arena.writer.protocols.solidly import Solidly
from arena.writer.protocols.storage import PoolTarget, StorageLayout
from arena.writer.protocols.uniswap_v2 import UniswapV2
from arena.writer.protocols.uniswap_v3 import UniswapV3
from arena.writer.protocols.uniswap_v4 import UniswapV4

HELD: dict[int, PoolProtocol] = {
    each.number: each for each in (UniswapV2(), UniswapV3(), UniswapV4(), Solidly())
}

EVENT_TOPICS = {
    number: tuple(event.topic for event in protocol.events) for number, protocol in HELD.items()
}
TOPICS = tuple(dict.fromkeys(topic for topics in EVENT_TOPICS.values() for topic in topics))
# Protocols may share an event: of which one a log is, its pool tells.
_EVENTS: dict[tuple[int, bytes], LogEvent] = {
    (number, event.topic): event for number, protocol in HELD.items() for event in protocol.events
}
_MANAGED_TOPICS = frozenset(
    topic
    for number, topics in EVENT_TOPICS.items()
    if PROTOCOLS[number].is_managed
    for topic in topics
)


def protocol_of(spec: PoolSpec) -> PoolProtocol:
    """The protocol of a pool."""
    return HELD[spec.protocol]


def pool_target(spec: PoolSpec, layout: StorageLayout | None = None) -> PoolTarget:
    """Where `spec` is stored.

    `layout` is needed only for a V3 pool with PancakeSwap's layout whose factory is not one of
    PANCAKESWAP_V3_FACTORIES; elsewhere it must be one the protocol has. ValueError otherwise.
    """
    protocol = protocol_of(spec)
    if layout is None:
        layout = protocol.layout_of(spec)
    if layout not in protocol.layouts:
        names = ", ".join(each.name for each in protocol.layouts)
        raise ValueError(
            f"a pool of {protocol.row.name} cannot have the storage layout {layout.name}: it has no "
            f"other storage layout than {names}"
        )
    return PoolTarget(spec, layout)


def listed_layout(name: ListedName) -> StorageLayout | None:
    """The storage layout that a list's name of a protocol says; None where it says none."""
    return next((each for each in HELD[name.protocol].layouts if each.name == name.layout), None)


def check_pool(spec: PoolSpec, values: PoolValues) -> None:
    """Raise PoolInvalid, naming the field and the numbers, when a pool cannot be as described.

    Checked are key length, block, and what the protocol's own `check` says.
    """
    wanted = PROTOCOLS[spec.protocol].key_nbytes
    if len(spec.key) != wanted:
        raise refusal(spec, f"key has {len(spec.key)} bytes, this protocol needs {wanted}")
    if not 0 <= values.block_number < 1 << 64:
        raise refusal(spec, f"block {values.block_number} does not fit 64 bits")
    protocol_of(spec).check(spec, values)


def check_identity(spec: PoolSpec) -> None:
    """PoolInvalid for a pool that is listed under another key than its description has."""
    protocol_of(spec).check_identity(spec)


def price_slots(target: PoolTarget) -> tuple[bytes, ...]:
    """The slots of a pool's price: V2 its reserves; V3 and V4 slot 0 and liquidity."""
    return protocol_of(target.spec).price_slots(target)


def tick_slot(target: PoolTarget, tick: int) -> bytes:
    """The slot of a tick; an empty one where the pool has none."""
    return protocol_of(target.spec).tick_slot(target, tick)


def quickest_first(specs: Iterable[PoolSpec]) -> list[PoolSpec]:
    """Pools of few words before those with ticks, each kind in the order given."""
    return sorted(specs, key=lambda spec: PROTOCOLS[spec.protocol].has_ticks)


def key_of(log: Log) -> bytes:
    """The key a pool has if the log is an event of one: its id where the topic is a manager's, else the
    emitter."""
    is_managed = log.topics[0] in _MANAGED_TOPICS and len(log.topics) > 1
    return log.topics[1] if is_managed else log.address


def pool_event(log: Log, spec: PoolSpec) -> LogEvent | None:
    """The event that a log is of the pool with that key; None for another log, or one of another
    manager."""
    is_foreign = PROTOCOLS[spec.protocol].is_managed and spec.factory != log.address
    return None if is_foreign else _EVENTS.get((spec.protocol, log.topics[0]))
