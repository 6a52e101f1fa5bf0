"""What contracts say of themselves against the list, with a node that is played here."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from arena.errors import PoolInvalid, RpcRefused, RpcUnavailable
from arena.layouts.slots import UNISWAP_V2, UNISWAP_V3, UNISWAP_V4
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writer.scrapers import Scrape, ScrapedPool
from arena.writer.scrapers.described import CALLS_AT_ONCE, MOST_ASKS, Described

TOKEN0, TOKEN1 = TokenSpec(b"\1" * 20, 18, "ONE"), TokenSpec(b"\2" * 20, 6, "TWO")
FACTORY = b"\7" * 20
POOL = PoolSpec(b"\x31" * 20, UNISWAP_V3, TOKEN0, TOKEN1, 3000, 60, FACTORY)
PAIR = PoolSpec(b"\x21" * 20, UNISWAP_V2, TOKEN0, TOKEN1, 3000, factory=FACTORY)
# As the contracts' ABIs name them.
FEE, SPACING = "0xddca3f43", "0xd0c93a7c"
TOKEN0_OF, TOKEN1_OF, FACTORY_OF = "0x0dfe1681", "0xd21220a7", "0xc45a0155"
REVERTED = RpcRefused("reverted", code=3, reason="execution reverted")


def word(value: int | bytes) -> str:
    number = int.from_bytes(value, "big") if isinstance(value, bytes) else value
    return "0x" + number.to_bytes(32, "big").hex()


GOOD = {
    FEE: word(3000),
    SPACING: word(60),
    TOKEN0_OF: word(TOKEN0.address),
    TOKEN1_OF: word(TOKEN1.address),
    FACTORY_OF: word(FACTORY),
}


class PlayedNode:
    """Answers each function for every pool; `fault` in place of all answers."""

    def __init__(self, **answers: Any) -> None:
        self.answers: dict[str, Any] = GOOD | answers
        self.fault: Exception | None = None
        self.asked: list[tuple[str, str]] = []
        self.batches: list[int] = []

    def batch_many(self, batches: Sequence[Sequence[Any]]) -> list[Any]:
        if isinstance(self.fault, RpcUnavailable):
            raise self.fault
        self.batches += map(len, batches)
        if self.fault is not None:
            return [self.fault for _ in batches]
        return [[self._one(call) for call in batch] for batch in batches]

    def _one(self, call: Any) -> Any:
        method, (what, block) = call
        assert (method, block) == ("eth_call", "latest")
        self.asked.append((what["to"], what["data"]))
        return self.answers[what["data"]]


def described(node: PlayedNode) -> Described:
    return Described(node)  # type: ignore[arg-type]


def test_pools_that_are_what_is_listed_stand() -> None:
    node = PlayedNode()
    assert described(node).contradictions([POOL, PAIR]) == {}
    assert len(node.asked) == 8


@pytest.mark.parametrize(
    ("function", "told", "shown", "listed"),
    [
        (FEE, word(500), "fee_pips is 500", "listed is 3000"),
        (SPACING, word(10), "tick_spacing is 10", "listed is 60"),
        (TOKEN0_OF, word(b"\3" * 20), "0x" + "03" * 20, "0x" + "01" * 20),
        (TOKEN1_OF, word(b"\3" * 20), "0x" + "03" * 20, "0x" + "02" * 20),
        (FACTORY_OF, word(b"\3" * 20), "0x" + "03" * 20, "0x" + "07" * 20),
        (FEE, word(2**256 - 1), "fee_pips is", "listed is 3000"),
        (FEE, "0x1f4", "fee_pips is 500", "listed is 3000"),
        (SPACING, word(2**256 - 60), "tick_spacing is -60", "listed is 60"),
        (TOKEN0_OF, "0x" + "03" * 20, "0x" + "03" * 20, "0x" + "01" * 20),
    ],
)
def test_both_values_are_named(function: str, told: str, shown: str, listed: str) -> None:
    found = described(PlayedNode(**{function: told})).contradictions([POOL])
    error = found[POOL.key]
    assert isinstance(error, PoolInvalid)
    assert shown in str(error)
    assert listed in str(error)
    assert error.key == POOL.key


@pytest.mark.parametrize(
    ("silence", "is_answer"),
    [("0x", True), (REVERTED, True)]
    + [(each, False) for each in (None, 7, "0x" + "zz" * 32, word(500) + "00" * 32, "500")],
    ids=str,
)
def test_a_function_that_a_fork_lacks_says_nothing(
    silence: Any, is_answer: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """What is no answer at all is asked for again without end, and said."""
    node = PlayedNode(**{FEE: silence, FACTORY_OF: silence})
    source = described(node)
    for _ in range(MOST_ASKS + 2):
        assert source.contradictions([POOL, PAIR]) == {}
    asked = [what for what in node.asked if what[1] == FEE]
    assert len(asked) == (MOST_ASKS if is_answer else MOST_ASKS + 2)
    assert ("descriptions_unchecked" in caplog.text) == (not is_answer)


def test_a_factory_that_is_not_listed_is_not_compared() -> None:
    node = PlayedNode(**{FACTORY_OF: word(b"\3" * 20)})
    assert described(node).contradictions([replace(POOL, factory=bytes(20))]) == {}


def test_a_pool_is_asked_once_and_its_answers_hold_for_another_description() -> None:
    node = PlayedNode()
    source = described(node)
    for _ in range(5):
        assert source.contradictions([POOL]) == {}
    assert len(node.asked) == 5
    assert POOL.key in source.contradictions([replace(POOL, fee_pips=500)])
    assert len(node.asked) == 5


def test_silence_is_asked_again_but_not_for_ever() -> None:
    node = PlayedNode(**{FEE: "0x"})
    source = described(node)
    assert source.contradictions([POOL]) == {}
    node.answers[FEE] = word(500)  # a node behind a balancer that had not had the pool yet
    assert POOL.key in source.contradictions([POOL])
    silent = PlayedNode(**{FEE: "0x"})
    source = described(silent)
    for _ in range(MOST_ASKS + 5):
        source.contradictions([POOL])
    assert len(silent.asked) == 5 + MOST_ASKS - 1, "what was told is not asked again"


def test_many_pools_are_few_requests() -> None:
    specs = [replace(POOL, key=number.to_bytes(20, "big")) for number in range(1000)]
    node = PlayedNode(**{FEE: word(500)})
    assert len(described(node).contradictions(specs)) == 1000
    assert node.batches == [CALLS_AT_ONCE] * 10


def test_a_v4_pool_needs_no_node() -> None:
    """The id is the test of tests/unit/test_statefile.py; here only that nothing is asked."""
    managed = PoolSpec(b"\x44" * 32, UNISWAP_V4, TOKEN0, TOKEN1, 3000, 60, FACTORY)
    node = PlayedNode()
    assert "have the id 0x" in str(described(node).contradictions([managed])[managed.key])
    assert node.asked == []


def scrape() -> Scrape:
    values = PoolValues(5, 3000, reserve0=1, reserve1=1)
    return Scrape((ScrapedPool(POOL, values), ScrapedPool(PAIR, values)), as_of_ns=7)


def test_a_reading_loses_the_pools_that_are_something_else() -> None:
    found = described(PlayedNode(**{FEE: word(500)})).checked(scrape())
    assert [pool.spec.key for pool in found.pools] == [PAIR.key]
    assert [error.key for error in found.invalid] == [POOL.key]
    assert found.as_of_ns == 7


def test_a_node_that_does_not_answer_holds_nothing_up_and_is_asked_again() -> None:
    node = PlayedNode(**{FEE: word(500)})
    source = described(node)
    node.fault = RpcUnavailable("away")
    assert len(source.checked(scrape()).pools) == 2
    node.fault = None
    assert len(source.checked(scrape()).pools) == 1


def test_a_node_without_eth_call_says_nothing() -> None:
    node = PlayedNode(**{FEE: word(500)})
    node.fault = RpcRefused("no such method", code=-32601, reason="no such method")
    assert described(node).contradictions([POOL]) == {}


BUSY = RpcRefused("busy", code=-32603, reason="Internal error", method="eth_call")


def test_a_refusal_is_no_answer_and_is_asked_again_without_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    node = PlayedNode(**dict.fromkeys(GOOD, BUSY))
    source = described(node)
    for _ in range(MOST_ASKS + 5):
        assert source.wrong_of([POOL, PAIR]) == {}
    said = [each.getMessage() for each in caplog.records]
    assert len(said) == 1
    assert "event=descriptions_unchecked pools=2" in said[0]
    assert POOL.key.hex() in said[0]
    assert "busy" in said[0]
    assert source.doubtful([POOL, PAIR]) == [POOL, PAIR]
    node.answers = GOOD | {FEE: word(500)}
    assert set(source.wrong_of([POOL, PAIR])) == {POOL.key}
    source.settled([PAIR])
    assert source.doubtful([POOL, PAIR]) == [POOL]


def test_one_refused_function_is_asked_again() -> None:
    node = PlayedNode(**{FEE: BUSY})
    source = described(node)
    for _ in range(MOST_ASKS + 1):
        assert source.contradictions([POOL]) == {}
    node.answers[FEE] = word(500)
    assert POOL.key in source.contradictions([POOL])


def test_a_node_that_was_away_leaves_its_pools_doubtful() -> None:
    node = PlayedNode()
    source = described(node)
    node.fault = RpcUnavailable("away")
    assert source.wrong_of([POOL]) == {}
    assert source.doubtful([POOL]) == [POOL]
    node.fault = None
    source.wrong_of([POOL])
    source.settled([POOL])
    assert source.doubtful([POOL]) == []


@pytest.mark.parametrize("silence", ["0x", REVERTED], ids=str)
def test_a_contract_without_any_function_has_not_answered(
    silence: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """So answers a node that is behind the pool's creation."""
    node = PlayedNode(**dict.fromkeys(GOOD, silence))
    source = described(node)
    for _ in range(MOST_ASKS + 5):
        assert source.contradictions([POOL]) == {}
    assert "descriptions_unchecked" in caplog.text
    node.answers = GOOD | {FEE: word(501)}
    assert POOL.key in source.contradictions([POOL])


def test_a_list_that_is_believed_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    source = described(PlayedNode(**{FEE: REVERTED}))
    for _ in range(MOST_ASKS + 2):
        source.contradictions([POOL])
    said = [each.getMessage() for each in caplog.records]
    assert len(said) == 1
    assert "event=descriptions_believed pools=1" in said[0]
    assert "lacks=fee" in said[0]
