"""Storage keys and table encodings against bytes taken from contracts and nodes.

Golden values are storage words, keys and rows recorded from the published contracts on a node.
"""

import pytest
from builders.reth_database import truth
from builders.reth_pools import target_of

from arena.errors import PoolInvalid
from arena.layouts.slots import UNISWAP_V2, UNISWAP_V3, UNISWAP_V4
from arena.specs import PoolSpec, TokenSpec
from arena.writer.protocols.concentrated import bitmap_words
from arena.writer.protocols.held import pool_target
from arena.writer.protocols.reading import pool_stages
from arena.writer.protocols.storage import (
    SlotList,
    StorageLayout,
    keccak256,
    mapping_slot,
    slot_key,
)
from arena.writer.protocols.uniswap_v2 import V2_LAYOUT
from arena.writer.protocols.uniswap_v3 import (
    PANCAKESWAP_V3_FACTORIES,
    PANCAKESWAP_V3_LAYOUT,
    V3_LAYOUT,
)
from arena.writer.protocols.uniswap_v4 import V4_LAYOUT, v4_base, v4_pool_id
from arena.writer.scrapers.reth_tables import Checkpoint, has_code, parse_checkpoint, storage_layout

POOL_ID = "6ada20f1ea604eac561c22d33daa726a34b6abbf75536106b571230ab7cf412e"
TOKENS = (TokenSpec(b"\1" * 20, 18, ""), TokenSpec(b"\2" * 20, 18, ""))
V3_SLOT0 = 0x164000900090001FFD7F90000000000000000995EBC3F81B79654219C0303


@pytest.mark.parametrize(
    ("slot", "hashed"),
    [
        (0, "290decd9548b62a8d60345a988386fc84ba6bc95484008f6362f93160ef3e563"),
        (4, "8a35acfbc15ff81a39ae7d344fd709f28e8600b4aa8c65c6b64bfe7fe36bd19b"),
        (8, "f3f7a9fe364faab93b216da50a3214154f22a0a2b415b23a84c8169e8b636ee3"),
    ],
)
def test_slots_are_hashed_as_the_node_does(slot: int, hashed: str) -> None:
    assert keccak256(slot_key(slot)).hex() == hashed
    assert SlotList([slot_key(slot)]).hashed == (bytes.fromhex(hashed),)


@pytest.mark.parametrize(
    ("key", "slot", "expected"),
    [
        (-10100, 5, "059607e884a665242ed40948d310cecc1d316de87a283a22bd16a3d819e66d2e"),
        (-4, 6, "d8a47cc0a98b326a7d41ebdba69f2440a3db7a31c7edca3bc5f01523d2fabe24"),
    ],
)
def test_mapping_slots_equal_the_contracts(key: int, slot: int, expected: str) -> None:
    assert mapping_slot(key, slot_key(slot)).hex() == expected


def test_v4_keys_equal_the_contracts() -> None:
    base = v4_base(bytes.fromhex(POOL_ID))
    assert base == 0x4909598A1E401656BD1382815095099ECF11C98EB458D8CFAA19329258AD33DF
    assert mapping_slot(13200, slot_key(base + 4)).hex() == (
        "0b0c44d85a055ddb01a28ce83b768d2c383983fd5ca7a0edfee28601d4c61592"
    )


def test_v4_ids_equal_those_the_manager_gave() -> None:
    pools = [pool for pool in truth()["pools"] if pool["protocol"] == "v4"]
    assert len(pools) == 16
    for pool in pools:
        assert "0x" + v4_pool_id(target_of(pool).spec).hex() == pool["key"]


@pytest.mark.parametrize(
    ("spacing", "count"), [(1, 6932), (10, 694), (50, 140), (60, 116), (100, 70), (200, 36)]
)
def test_the_whole_bitmap_is_walked(spacing: int, count: int) -> None:
    words = bitmap_words(spacing)
    assert len(words) == count
    highest = 887272 // spacing
    assert words[0] == -highest // 256
    assert words[-1] == highest // 256


def spec(protocol: int, **fields: object) -> PoolSpec:
    key = bytes(32) if protocol == UNISWAP_V4 else b"\7" * 20
    return PoolSpec(key, protocol, *TOKENS, 500, 10, **fields)  # type: ignore[arg-type]


def test_layouts_follow_protocol_factory_and_hint() -> None:
    (pancake,) = PANCAKESWAP_V3_FACTORIES
    assert pool_target(spec(UNISWAP_V2)).layout == V2_LAYOUT
    assert pool_target(spec(UNISWAP_V3)).layout == V3_LAYOUT
    assert pool_target(spec(UNISWAP_V4)).layout == V4_LAYOUT
    assert pool_target(spec(UNISWAP_V3, factory=pancake)).layout == PANCAKESWAP_V3_LAYOUT
    assert pool_target(spec(UNISWAP_V3, factory=pancake), V3_LAYOUT).layout == V3_LAYOUT
    hinted = pool_target(spec(UNISWAP_V3), PANCAKESWAP_V3_LAYOUT)
    assert hinted.layout == PANCAKESWAP_V3_LAYOUT
    for protocol in (UNISWAP_V2, UNISWAP_V4):
        with pytest.raises(ValueError, match="other storage layout"):
            pool_target(spec(protocol), PANCAKESWAP_V3_LAYOUT)
    with pytest.raises(ValueError, match="cannot have"):
        pool_target(spec(UNISWAP_V3), V4_LAYOUT)


def test_words_lie_in_the_account_of_the_pool_or_the_manager() -> None:
    manager = b"\x44" * 20
    assert pool_target(spec(UNISWAP_V4, factory=manager)).address == manager
    assert pool_target(spec(UNISWAP_V3, factory=manager)).address == b"\7" * 20


def test_a_v2_pair_takes_one_stage() -> None:
    pair = PoolSpec(b"\7" * 20, UNISWAP_V2, *TOKENS, 3000)
    stages = pool_stages(pool_target(pair), 5)
    wanted = next(stages)
    assert wanted.keys == tuple(map(slot_key, (8, 6, 7)))
    word = 0x6553F2A900000000000000000001A0353A6A000000000000458F6DD6A25F4B87
    tokens = [int.from_bytes(token.address, "big") for token in TOKENS]
    with pytest.raises(StopIteration) as end:
        stages.send([word, *tokens])
    assert (end.value.value.reserve0, end.value.value.reserve1) == (5012345678901234567, 6982810218)


def test_a_v3_pool_takes_two_stages_and_signed_fields_are_decoded() -> None:
    stages = pool_stages(pool_target(spec(UNISWAP_V3)), 5)
    wanted = next(stages)
    assert wanted.keys[:2] == (slot_key(0), slot_key(4))
    bitmap = {mapping_slot(-4, slot_key(6)): 1 << 14 | 1 << 124}
    answer = [V3_SLOT0, 0] + [bitmap.get(key, 0) for key in wanted.keys[2:]]
    ticks = stages.send(answer)
    assert ticks.keys == tuple(mapping_slot(tick, slot_key(5)) for tick in (-10100, -9000))
    lower = 0xFFFFFFFFFFFFFFEFBCA9E577D6D00000000000000000001043561A8829300000
    amount = 3 * 10**20
    upper = amount | amount << 128
    with pytest.raises(StopIteration) as end:
        stages.send([lower, upper])
    values = end.value.value
    assert values.sqrt_price_x96 == 47465734506100331634031854339
    assert values.tick == -10247
    assert values.ticks == ((-10100, amount, -amount), (-9000, amount, amount))


def test_a_v3_pool_without_ticks_takes_one_stage() -> None:
    stages = pool_stages(pool_target(spec(UNISWAP_V3)), 5)
    count = len(next(stages))
    with pytest.raises(StopIteration) as end:
        stages.send([V3_SLOT0, 0] + [0] * (count - 2))
    assert (end.value.value.tick, end.value.value.ticks) == (-10247, ())


@pytest.mark.parametrize(
    ("layout", "slot0", "liquidity"),
    [
        (PANCAKESWAP_V3_LAYOUT, V3_SLOT0, 0),
        (V3_LAYOUT, V3_SLOT0 % (1 << 232), 0),
        (V3_LAYOUT, V3_SLOT0 | 1 << 241, 0),
        (V3_LAYOUT, V3_SLOT0, 1 << 128),
    ],
)
def test_words_of_another_layout_are_refused_even_where_the_pool_would_look_empty(
    layout: StorageLayout, slot0: int, liquidity: int
) -> None:
    stages = pool_stages(pool_target(spec(UNISWAP_V3), layout), 5)
    count = len(next(stages))
    with pytest.raises(PoolInvalid, match="layout"):
        stages.send([slot0, liquidity] + [0] * (count - 2))


def test_a_spacing_out_of_range_asks_for_nothing() -> None:
    for spacing in (0, -1, 16384):
        wrong = PoolSpec(b"\7" * 20, UNISWAP_V3, *TOKENS, 500, spacing)
        with pytest.raises(PoolInvalid, match="tick_spacing"):
            next(pool_stages(pool_target(wrong), 5))


@pytest.mark.parametrize(
    ("row", "block_number", "has_part"),
    [
        ("04015ef3c0", 23000000, False),
        ("00", 0, False),
        ("04015ef51a", 23000346, False),
        ("112a0407010115", 42, True),
        ("14015ef51a0f0344015ef326015ef4522204040404", 23000346, True),
    ],
)
def test_checkpoints_are_parsed(row: str, block_number: int, has_part: bool) -> None:
    assert parse_checkpoint(bytes.fromhex(row)) == Checkpoint(block_number, has_part)


class Rows:
    """A transaction that answers every look-up with one row."""

    def __init__(self, row: str | None):
        self.row = None if row is None else bytes.fromhex(row)

    def get(self, table: str, key: bytes) -> bytes | None:
        return self.row


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("0104015b83bdbcc56b2e630f2807bbadd2b0c21619108066b92a58de081261089e9ce5", True),
        ("a2000f99021e19e0c9bab2400000", False),
        (None, None),
    ],
)
def test_accounts_say_whether_they_have_code(row: str | None, expected: bool | None) -> None:
    assert has_code(Rows(row), b"") is expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("row", "layout"),
    [
        ("4c7b2273746f726167655f7632223a747275657d", "v2"),
        ("507b2273746f726167655f7632223a66616c73657d", "v1"),
        (None, "v1"),
        ("00", "v1"),
        ("047b", "v1"),
        ("087b7d", "v1"),
        ("4c7b2273746f726167655f7632223a312020207d", "v1"),
    ],
)
def test_the_storage_layout_is_named_and_absence_means_v1(row: str | None, layout: str) -> None:
    assert storage_layout(Rows(row)) == layout  # type: ignore[arg-type]
