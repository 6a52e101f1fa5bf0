"""The live view: its pictures, its keys, and Textual around it, on real arenas in shared memory."""

import asyncio
import math
import re
import time
import unicodedata
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from builders.market import make_market
from builders.watched import HEAD, KEYS, SPECS, make, watched
from hypothesis import given
from hypothesis import strategies as st
from roles.processes import remove_segments
from textual.events import Paste

from arena.layouts import slots
from arena.readers.views import table
from arena.readers.views.app import Picture, TopApp
from arena.readers.views.board import Board
from arena.readers.views.lines import fit, line, plain
from arena.readers.views.monitor import Monitor
from arena.readers.views.order import Choice
from arena.readers.views.text import cells, cut, duration, harmless, left, number, percent, right

SECONDS = 30.0
SIZES = [(80, 24), (100, 30), (40, 12), (20, 8), (10, 3), (3, 2), (1, 1), (200, 5)]


def shown(board: Board, monitor: Monitor, width: int = 80, height: int = 24) -> list[str]:
    """The lines of a picture, of exactly that size."""
    lines = board.picture(monitor.look(board.opened), width, height)
    assert len(lines) == height
    for each in lines:
        assert sum(cells(text) for text, _ in each) == width
        assert all(harmless(text) == text for text, _ in each)
    return [plain(each) for each in lines]


def press(board: Board, *keys: str) -> None:
    """Keys by name, characters as themselves."""
    for key in keys:
        assert board.press(key, key if len(key) == 1 else None)


def pairs(lines: list[str]) -> list[str]:
    """First cells of the rows of a table, in a window without a trouble."""
    begin = next(index for index, each in enumerate(lines) if "pair" in each) + 1
    return [each[2:].split("  ")[0] for each in lines[begin:-1] if each]


# ---- text


@given(st.text())
def test_nothing_that_could_do_harm_is_left(text: str) -> None:
    found = harmless(text)
    assert len(found) == len(text)
    for each in found:
        assert unicodedata.category(each)[0] not in "CM"
        assert each == " " or unicodedata.category(each)[0] != "Z"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("USDC", "USDC"),
        ("\x1b[2J\x07", "?[2J?"),
        ("a\u202eb\u200bc\nd\re\x9bf", "a?b?c?d?e?f"),
        ("z\u0301\u0489", "z??"),
        ("\u67da[red]", "\u67da[red]"),
    ],
)
def test_symbols_are_made_harmless(text: str, found: str) -> None:
    assert harmless(text) == found


@given(st.text(max_size=30).map(harmless), st.integers(0, 40))
def test_cut_and_padded_text_has_the_width(text: str, width: int) -> None:
    assert cells(cut(text, width)) <= width
    assert cells(left(text, width)) == cells(right(text, width)) == width
    fitted = fit(line(text, text), width)
    assert sum(cells(each) for each, _ in fitted) == width


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3150.123456, "3150.123"),
        (0.000317445612, "0.0003174456"),
        (1.0, "1"),
        (0.0, "0"),
        (1.25e-9, "1.25e-09"),
        (123456789.4, "123456789"),
        (1e30, "1e+30"),
        (float("nan"), "-"),
        (float("inf"), "-"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (59, "59 s"),
        (61, "1 min 1 s"),
        (7265, "2 h 1 min"),
        (200_000, "2 d 7 h"),
        (float("inf"), "-"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_fees_in_percent() -> None:
    assert [percent(each) for each in (0, 1, 500, 3000, 10_000)] == [
        *("0 %", "0.0001 %", "0.05 %", "0.3 %", "1 %"),
    ]


# ---- pictures


def test_the_picture_at_80_by_24(arena_name: str) -> None:
    with watched(arena_name, reason="of no \x1b[1m matter"), Monitor(arena_name) as monitor:
        lines = shown(Board(), monitor)
    masked = [re.sub(r"\b\d+ alive|\b\d+\.\d s\b", "N", each) for each in lines]
    assert re.fullmatch(r"writer N  last sign N ago  other readers 0(, some hidden)?", masked[3])
    assert masked[0] == f"{arena_name}  LIVE for N  chain 1, generation 1"
    assert masked[1:3] == ["reason: of no ?[1m matter", "block 1000  age unknown  lag -  commit 1"]
    assert masked[4:] == [
        "pools 6: 4 live, 1 syncing, 1 stale  0 touched by the newest block",
        "events/s -  commits/s -  reorgs 0  gaps 0  audit 0 of 0 differ",
        "  1 pair                2 protocol      3 fee       4 price    5 block 6 status",
        "> USDC/WETH             uniswap_v2      0.3 %  0.0003333333       1000 live",
        "  USDC/WETH             uniswap_v3     0.05 %         1e-12       1000 live",
        "  WETH/?[31mX?]0;t???   uniswap_v4    0.25 %d             1       1000 live",
        "  USDC/0x44444444       uniswap_v2      0.3 % 333333333 raw       1000 live",
        "  WETH/\u67da\u5b50?            uniswap_v3        1 %             1       1000 stale",
        "  ?[31mX?]0;t???/0x444~ uniswap_v3     0.01 %             -          - syncing",
        *[""] * 10,
        "6 pools  q quit ? help / search enter open 1-6 sort t touched f p filter",
    ]


def test_an_open_pool_at_80_by_24(arena_name: str) -> None:
    with watched(arena_name), Monitor(arena_name) as monitor:
        board = Board()
        shown(board, monitor)
        press(board, "down", "down", "enter")
        lines = shown(board, monitor)
        assert lines[5:] == [
            "WETH/?[31mX?]0;t???  uniswap_v4  0.25 % dynamic  live  block 1000 tx 0 log 0",
            f"pool {KEYS[2]}",
            f"token0 0x{'22' * 20} WETH",
            f"token1 0x{'33' * 20} ?[31mX?]0;t???",
            "price 1 ?[31mX?]0;t??? for a WETH, 1 the other way",
            "tick 0, spacing 60, 2 ticks, liquidity 1000000000000000000",
            "liquidity up to each price, 420 ticks a line; + and - zoom",
            "   13.4 %      1.13428                                              0 WETH",
            "   8.76 %      1.08762 ###############                       0.008773 WETH",
            "   4.29 %      1.04289 ##################################     0.02078 WETH",
            "  -4.11 %     0.958872 ##################################     0.02078 ?[31mX?~",
            "  -8.06 %     0.919435 ###############                       0.008773 ?[31mX?~",
            "  -11.8 %      0.88162                                              0 ?[31mX?~",
            "changes seen by this view: 0",
            *[""] * 4,
            "escape back  + - zoom  ? help  q quit",
        ]
        press(board, "+")
        assert "180 ticks a line" in shown(board, monitor)[11]
        press(board, "escape")
        assert pairs(shown(board, monitor))[0] == "USDC/WETH"


@pytest.mark.parametrize("size", SIZES)
def test_every_page_has_exactly_the_size_of_the_window(
    arena_name: str, size: tuple[int, int]
) -> None:
    reason = "a long reason, with words and words and words " * 4
    with watched(arena_name, reason=reason), Monitor(arena_name) as monitor:
        board = Board()
        shown(board, monitor, *size)
        press(board, "?")
        shown(board, monitor, *size)
        press(board, "?", "/", "w")
        shown(board, monitor, *size)
        press(board, "enter", "escape")
        for _ in SPECS:
            press(board, "down", "enter")
            shown(board, monitor, *size)
            press(board, "escape")


@pytest.mark.parametrize("width", range(1, 121))
def test_columns_fit_every_width(width: int) -> None:
    found = table.columns(width)
    used = 2 + sum(each for _, each in found.widths) + len(found.widths) - 1
    assert used <= max(width, 3)
    assert found.widths[0][0] == "pair"
    if width >= 40:
        assert {"price", "status"} <= {name for name, _ in found.widths}


# ---- keys


def test_the_cursor_stays_on_its_pool_when_the_order_changes(arena_name: str) -> None:
    with make_market(arena_name, 200, 5) as market, Monitor(arena_name) as monitor:
        board = Board()
        shown(board, monitor)
        press(board, "pagedown", "down")
        (row,) = [each for each in shown(board, monitor) if each.startswith(">")]
        pool = next(each for each in market.pools if each.key == chosen(board))
        for key in "1", "1", "4", "5", "t", "r":
            press(board, key)
            market.block(30)
            (now,) = [each for each in shown(board, monitor) if each.startswith(">")]
            assert now[2:30].split() == row[2:30].split()
            assert chosen(board) == pool.key


def chosen(board: Board) -> str:
    """Key of the pool that enter opens, without opening it."""
    press(board, "enter")
    assert board.opened is not None
    key = board.opened
    press(board, "escape")
    return key


def test_moving_reaches_every_row_and_no_further(arena_name: str) -> None:
    with make_market(arena_name, 60, 5) as market, Monitor(arena_name) as monitor:
        board = Board()
        shown(board, monitor)
        order = [pool.key for pool in market.pools]
        for keys, place in (
            (["up"], 0),
            (["down"], 1),
            (["j", "j"], 3),
            (["k"], 2),
            (["end"], 59),
            (["down", "pagedown"], 59),
            (["g"], 0),
            (["G"], 59),
            (["home"], 0),
            (["pagedown"], 16),
        ):
            press(board, *keys)
            lines = shown(board, monitor)
            assert len([each for each in lines if each.startswith(">")]) == 1
            assert chosen(board) == order[place], keys


def test_search_narrows_while_it_is_typed(arena_name: str) -> None:
    with watched(arena_name), Monitor(arena_name) as monitor:
        board = Board()
        shown(board, monitor)
        press(board, "/", "u", "s", "d", "q")
        assert "/usdq_  0 found" in shown(board, monitor)[-1]
        press(board, "backspace", "c")
        lines = shown(board, monitor)
        assert lines[-1] == "/usdc_  3 found"
        assert pairs(lines) == ["USDC/WETH", "USDC/WETH", "USDC/0x44444444"]
        press(board, "enter")
        assert shown(board, monitor)[-1].startswith("3 of 6 pools, search 'usdc'")
        press(board, "escape")
        assert shown(board, monitor)[-1].startswith("6 pools")
        press(board, "/", *"weth", "ctrl+j")
        assert shown(board, monitor)[-1].startswith("4 of 6 pools, search 'weth'")
        press(board, "escape", "/", "x", "escape")
        assert shown(board, monitor)[-1].startswith("6 pools")


def test_filters_go_round(arena_name: str) -> None:
    with watched(arena_name), Monitor(arena_name) as monitor:
        board = Board()
        shown(board, monitor)
        for key, words in (
            ("f", ["live", "syncing", "stale", ""]),
            ("p", ["uniswap_v2", "uniswap_v3", "uniswap_v4", ""]),
        ):
            for word in words:
                press(board, key)
                lines = shown(board, monitor)
                assert (f", {word}" in lines[-1]) == bool(word)
                assert all(word in each for each in lines[6:-1] if each), word


def test_a_protocol_that_the_arena_lacks_can_be_left_again(arena_name: str) -> None:
    with watched(arena_name), Monitor(arena_name) as monitor:
        board = Board(Choice(protocol="solidly"))
        assert "no pool is as asked for" in shown(board, monitor)[6]
        press(board, "down", "enter", "p")
        assert len(pairs(shown(board, monitor))) == len(SPECS)


def test_help_names_every_key(arena_name: str) -> None:
    with watched(arena_name), Monitor(arena_name) as monitor:
        board = Board()
        press(board, "?")
        text = "\n".join(shown(board, monitor))
        for each in (
            "enter",
            "escape",
            "/",
            "1 to 6",
            "\nr ",
            "\nt ",
            "\nf ",
            "\np ",
            "+ and -",
            "\nq,",
        ):
            assert each in text
        press(board, "x")
        assert "pair" in shown(board, monitor)[5]
        assert not board.press("q", "q")


def test_only_rows_in_the_window_are_put_into_words(
    arena_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    real = table.cell

    def counted(pools: Any, place: int, name: str) -> str:
        asked.append(place)
        return real(pools, place, name)

    monkeypatch.setattr(table, "cell", counted)
    with make_market(arena_name, 2_000, 5) as market, Monitor(arena_name) as monitor:
        board = Board()
        for keys in ((), ("end",), ("5",), ("t", "home")):
            press(board, *keys)
            market.block(100)
            asked.clear()
            shown(board, monitor)
            assert len(set(asked)) == 17


# ---- Textual


def piloted(
    monitor: Monitor,
    story: Callable[[Any, TopApp], Awaitable[None]],
    size: tuple[int, int] = (80, 24),
) -> None:
    """Run a story on the app in a window of that size, without a terminal."""
    monitor._arena.heartbeat_limit = math.inf  # writers of these tests have nothing to say for long

    async def play() -> None:
        # Pilot waits after each key until this process rests for a moment: it must have such moments.
        app = TopApp(monitor, Board(), interval=0.2)
        async with app.run_test(size=size) as pilot:
            await until(pilot, lambda: app.view is not None)
            await story(pilot, app)

    asyncio.run(play())


async def until(pilot: Any, condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < limit, "the condition was not met in time"
        await pilot.pause(0.02)


def painted(app: TopApp) -> list[str]:
    """What stands in the window, line by line, as Textual put it together."""
    picture = app.query_one(Picture)
    return [picture.render_line(y).text.rstrip() for y in range(picture.size.height)]


def test_keys_reach_the_board_through_textual(arena_name: str) -> None:
    async def story(pilot: Any, app: TopApp) -> None:
        assert painted(app)[-1].startswith("6 pools")
        await pilot.press("slash", "w", "e", "t", "h", "enter")
        await until(pilot, lambda: painted(app)[-1].startswith("4 of 6 pools"))
        await pilot.press("down", "enter")
        await until(pilot, lambda: f"pool {KEYS[1]}" in painted(app))
        await pilot.press("minus", "plus", "escape", "escape", "f", "f", "f")
        await until(pilot, lambda: ", stale" in painted(app)[-1])
        await pilot.press("question_mark")
        await until(pilot, lambda: painted(app)[-1] == "any key: back")
        await pilot.press("q", "4", "r", "t")
        await until(pilot, lambda: any("4v price" in each for each in painted(app)))
        await pilot.press("q")
        await until(pilot, lambda: not app.is_running)

    with watched(arena_name), Monitor(arena_name) as monitor:
        piloted(monitor, story)


def test_what_is_pasted_is_searched_for(arena_name: str) -> None:
    async def story(pilot: Any, app: TopApp) -> None:
        app.post_message(Paste("q"))  # is no key
        await pilot.press("slash")
        app.post_message(Paste(f"{KEYS[3]}\x1b\n"))
        await until(pilot, lambda: "1 found" in painted(app)[-1])
        assert app.board.choice.search == KEYS[3]

    with watched(arena_name), Monitor(arena_name) as monitor:
        piloted(monitor, story)


def test_the_window_follows_blocks_a_lost_writer_and_another_arena(arena_name: str) -> None:
    writer = make(arena_name)
    try:
        with Monitor(arena_name) as monitor:

            async def story(pilot: Any, app: TopApp) -> None:
                await until(pilot, lambda: f"block {HEAD} " in painted(app)[1])
                writer.set_head(HEAD + 1)
                writer.commit()
                await until(pilot, lambda: f"block {HEAD + 1} " in painted(app)[1])
                writer.close(unlink=True)
                await until(pilot, lambda: "the writer has ended" in painted(app)[1])
                assert "writer none" in painted(app)[3]
                await pilot.press("enter")  # the last values can still be looked at
                await until(pilot, lambda: f"pool {KEYS[0]}" in painted(app))
                await pilot.press("escape")
                with make_market(arena_name, 30, 5):
                    await until(pilot, lambda: painted(app)[-1].startswith("30 pools"))
                    assert "LIVE" in painted(app)[0]

            piloted(monitor, story)
    finally:
        remove_segments(arena_name)


def test_windows_of_any_size_are_filled(arena_name: str) -> None:
    async def story(pilot: Any, app: TopApp) -> None:
        for width, height in SIZES:
            await pilot.resize_terminal(width, height)
            await until(pilot, lambda height=height: len(app.query_one(Picture)._lines) == height)
            assert all(len(each) <= width for each in painted(app))
            await pilot.press("down", "enter", "escape", "question_mark", "x")

    with watched(arena_name), Monitor(arena_name) as monitor:
        piloted(monitor, story)


def test_only_lines_that_changed_are_painted_again(arena_name: str) -> None:
    async def story(pilot: Any, app: TopApp) -> None:
        picture = app.query_one(Picture)
        before = list(picture._lines)
        regions: list[int] = []
        picture.refresh = lambda *found, **_: regions.extend(each.y for each in found)  # type: ignore[method-assign,assignment]
        picture.show(before)
        assert regions == []
        picture.show([*before[:7], before[8], *before[8:]])
        assert regions == [7]

    with watched(arena_name), Monitor(arena_name) as monitor:
        piloted(monitor, story)


@pytest.mark.slow
def test_twenty_thousand_pools(arena_name: str) -> None:
    with make_market(arena_name, 20_000, 5) as market, Monitor(arena_name) as monitor:

        async def story(pilot: Any, app: TopApp) -> None:
            await until(pilot, lambda: painted(app)[-1].startswith("20,000 pools"))
            await pilot.press("end")
            await until(pilot, lambda: chosen(app.board) == market.pools[-1].key)
            await pilot.press("5", "t", "home")
            touched = {pool.key for pool in market.block(150).touched}
            await until(pilot, lambda: f"block {market.head} " in painted(app)[1])
            await pilot.press("home")
            await until(pilot, lambda: chosen(app.board) in touched)
            assert all(each[1] == "*" for each in painted(app)[6:-1])
            await pilot.press("slash", *"weth usdc uniswap_v3")
            count = sum(
                pool.protocol == slots.UNISWAP_V3 and {pool.token0, pool.token1} == {0, 1}
                for pool in market.pools
            )
            await until(pilot, lambda: painted(app)[-1].endswith(f"{count} found"))

        piloted(monitor, story)
