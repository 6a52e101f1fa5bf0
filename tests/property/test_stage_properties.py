"""Any sequence of what can happen to a stream leaves a stage that is one of the nine, and says to
readers what it is; whatever cannot happen is refused and changes nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arena.layouts.header import PHASE_NUMBERS
from arena.writer.sync.stage import AFTER, Link, Stage, StageError, Values
from arena.writer.sync.turning import NOT_YET, Turning

HAPPENS = st.lists(st.sampled_from(sorted(AFTER)), max_size=30)
# A join needs a connection, so nothing is installed while there is none.
LEGAL = {(values, link) for values in Values for link in Link} - {(Values.JOINING, Link.AWAY)}
NEEDS_LINK = {"lost", "lost, to be closed", "installed", "joined", "gap closed"}


def play(stage: Stage, happenings: list[str]) -> list[str]:
    """Those that could be, in order."""
    taken = []
    for what in happenings:
        if what in NEEDS_LINK and stage.link is Link.AWAY:
            continue
        before = (stage.values, stage.link, stage.phase())
        try:
            stage.goes(what)
        except StageError:
            assert (stage.values, stage.link, stage.phase()) == before
        else:
            taken.append(what)
        assert (stage.values, stage.link) in LEGAL
        assert stage.phase() in PHASE_NUMBERS
    return taken


@given(HAPPENS)
def test_live_is_shown_exactly_while_values_are_of_the_newest_block_and_the_stream_stands(
    happenings: list[str],
) -> None:
    stage = Stage()
    play(stage, happenings)
    is_current = stage.values is Values.LIVE and stage.link is Link.UP
    assert (stage.phase() == "live") <= is_current
    assert stage.is_whole <= stage.is_live


@given(HAPPENS)
def test_nothing_but_a_join_or_a_closed_gap_makes_an_arena_live(happenings: list[str]) -> None:
    stage = Stage()
    taken = play(stage, happenings)
    ends = ("lost", "lost, to be closed")
    begins = ("joined", "gap closed")
    last = next((each for each in reversed(taken) if each in (*ends, *begins)), None)
    assert stage.is_live == (last in begins)


@given(HAPPENS)
def test_a_connection_that_comes_back_to_a_live_arena_makes_it_doubtful_until_a_loss(
    happenings: list[str],
) -> None:
    stage = Stage()
    play(stage, happenings)
    was_live = stage.is_live
    stage.goes("connected")
    assert (stage.values is Values.DOUBTFUL) == was_live
    assert not (was_live and stage.follows)
    stage.goes("lost")
    assert stage.follows
    assert not stage.is_live


@given(HAPPENS)
def test_a_gap_is_closed_or_given_up_only_where_there_is_one(happenings: list[str]) -> None:
    for what in ("gap closed", "gap given up"):
        stage = Stage()
        play(stage, happenings)
        if stage.values is Values.GAP:
            stage.goes(what)
            assert stage.is_live == (what == "gap closed")
        else:
            with pytest.raises(StageError, match=what):
                stage.goes(what)


@pytest.mark.parametrize("envelope", [True, False])
@pytest.mark.parametrize("highest", [None, 3, 5])
def test_a_reorg_is_half_received_in_its_envelope_and_until_it_reaches_the_tip(
    envelope: bool, highest: int | None
) -> None:
    stage = Stage()
    stage.in_envelope = envelope
    stage.turning = None if highest is None else Turning(5, 2, highest)
    assert stage.is_amid_reorg == (envelope or highest == 3)
    stage.reorg_is_over()
    assert not stage.is_amid_reorg


def test_reverts_before_any_known_tip_are_never_short() -> None:
    stage = Stage()
    stage.turning = Turning(NOT_YET, 2, 3)
    assert not stage.is_amid_reorg
