"""arena-web's pages in a browser: what stands on them is what the arena has, live, whatever is lost.

PSA_PICTURES names a folder that gets pictures of them: docs/pictures/web.png is web.png of there.
"""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from builders.market import Market, make_market
from builders.watched import HEAD, KEYS, make, watched
from builders.web import SECONDS, WebProcess
from playwright.sync_api import Browser, Page, sync_playwright

import arena

pytestmark = pytest.mark.browser

SIZES = {"desk": (1200, 800), "phone": (390, 844)}
# Contrast of letters with what is behind them, as WCAG 2 defines it, of everything that has letters.
CONTRAST = """
() => {
  const read = text => text.match(/[0-9.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const found = read(getComputedStyle(e).backgroundColor);
      if (found.length === 3 || found[3] === 1) return found;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const has = [...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!has || !element.checkVisibility() || element.closest("svg, option")) continue;
    const [one, two] = [light(read(getComputedStyle(element).color)), light(behind(element))];
    const ratio = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    if (ratio < 4.5) poor.push([element.tagName, element.textContent.trim(), ratio]);
  }
  return poor;
}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        yield found
        found.close()


@pytest.fixture
def tab(browser: Browser) -> Iterator[Page]:
    """A page that may neither complain nor ask anybody but its server."""
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    found = context.new_page()
    said = watch(found)
    yield found
    context.close()
    assert said == []


def watch(tab: Page) -> list[str]:
    said: list[str] = []
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on(
        "console",
        # A server that is away, and refusals that a page shows itself.
        lambda each: said.append(each.text) if "Failed to load resource" not in each.text else None,
    )
    tab.on(
        "request",
        lambda each: said.append(each.url) if "//127.0.0.1:" not in each.url else None,
    )
    return said


def wait(condition: Callable[[], bool], meanwhile: Callable[[], Any] = lambda: None) -> None:
    limit = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < limit
        meanwhile()
        time.sleep(0.05)


def keys_shown(tab: Page) -> list[str]:
    links = tab.eval_on_selector_all("td.pair a", "all => all.map(a => a.getAttribute('href'))")
    return [each.removeprefix("/pools/") for each in links]


def texts(tab: Page, column: str) -> list[str]:
    found: list[str] = tab.eval_on_selector_all(
        f"td.{column}", "all => all.map(each => each.textContent)"
    )
    return found


def word(tab: Page, name: str) -> str:
    return tab.locator(f"[data-word={name}]").first.inner_text()


def test_changes_are_seen_without_touching_the_page(arena_name: str, tab: Page) -> None:
    with make_market(arena_name, 40, 5) as market, WebProcess(arena_name) as web:
        tab.goto(web.address)
        tab.wait_for_selector("tbody tr")
        for _ in range(3):
            touched = {pool.key for pool in market.block(8).touched}
            wait(lambda: word(tab, "block") == str(market.head), market.owner.heartbeat)
            marked = tab.eval_on_selector_all(
                "tr.touched a", "all => all.map(a => a.getAttribute('href').slice(7))"
            )
            assert set(marked) == touched
        with arena.attach(arena_name) as reader:
            for key, text in zip(keys_shown(tab), texts(tab, "price"), strict=True):
                state = reader[key].state()
                if state.sqrt_price_x96:
                    price = (state.sqrt_price_x96 / 2**96) ** 2
                else:
                    price = (state.reserve1 or 0) / (state.reserve0 or 1)
                one, two = state.token0.decimals, state.token1.decimals
                assert one is not None
                assert two is not None
                assert float(text) == pytest.approx(price * 10.0 ** (one - two), rel=1e-4)


def test_sorting_search_filters_and_pages(arena_name: str, tab: Page) -> None:
    with make_market(arena_name, 120, 5) as market, WebProcess(arena_name) as web:
        tab.goto(web.address)
        tab.wait_for_selector("tbody tr")
        assert len(keys_shown(tab)) == 50
        tab.get_by_role("button", name="Price").click()
        tab.wait_for_selector("th[aria-sort=ascending]")
        wait(lambda: is_ascending(texts(tab, "price")))
        tab.keyboard.press("Enter")  # the button has the focus
        tab.wait_for_selector("th[aria-sort=descending]")
        wait(lambda: is_ascending(texts(tab, "price")[::-1]))
        first = keys_shown(tab)
        tab.get_by_role("button", name="Next").click()
        wait(lambda: tab.locator("#where").inner_text() == "51 to 100 of 120")
        assert not {*first} & {*keys_shown(tab)}
        tab.reload()
        wait(lambda: tab.locator("#where").inner_text() == "51 to 100 of 120")

        pool = market.pools[77]
        tab.get_by_label("Search").fill(pool.key)
        wait(lambda: keys_shown(tab) == [pool.key])
        assert tab.locator("#where").inner_text() == "1 to 1 of 1 found, of 120"
        tab.get_by_label("Search").fill("no such thing")
        wait(lambda: tab.locator("#none").is_visible())
        tab.get_by_label("Search").fill("")
        tab.get_by_label("Protocol").select_option("uniswap_v4")
        wait(lambda: {*texts(tab, "protocol")} == {"uniswap_v4"})
        market.make_stale(next(each for each in market.pools if each.status == "live"))
        tab.get_by_label("Protocol").select_option("")
        tab.get_by_label("Status").select_option("stale")
        wait(lambda: texts(tab, "status") == ["stale"], market.owner.heartbeat)


def is_ascending(prices: list[str]) -> bool:
    numbers = [float(each) for each in prices]
    return bool(numbers) and numbers == sorted(numbers)


def test_twenty_thousand_pools_are_no_more_for_a_page_than_a_few(
    arena_name: str, tab: Page
) -> None:
    with make_market(arena_name, 20_000, 7) as market, WebProcess(arena_name) as web:
        tab.goto(f"{web.address}/?sort=block&touched_first=true")
        wait(lambda: tab.locator("#where").inner_text() == "1 to 50 of 20,000")
        touched = {pool.key for pool in market.block(150).touched}
        wait(lambda: word(tab, "block") == str(market.head), market.owner.heartbeat)
        assert len(keys_shown(tab)) == 50
        assert {*keys_shown(tab)} <= touched
        pool = market.pools[12_345]
        tab.get_by_label("Search").fill(pool.key)
        wait(lambda: keys_shown(tab) == [pool.key], market.owner.heartbeat)


def test_a_grown_arena_goes_on_under_the_page(arena_name: str, tab: Page) -> None:
    with watched(arena_name) as writer, WebProcess(arena_name) as web:
        tab.goto(web.address)
        tab.wait_for_selector("tbody tr")
        writer.grow(max_pools=64)
        writer.set_head(HEAD + 1)
        writer.commit()
        wait(lambda: word(tab, "generation") == "generation 2", writer.heartbeat)
        wait(lambda: word(tab, "block") == str(HEAD + 1), writer.heartbeat)
        assert keys_shown(tab) == [*KEYS]


@pytest.mark.parametrize("exact", ["in", "out"])
@pytest.mark.parametrize("token_in", [0, 1])
def test_the_form_gives_the_arenas_own_quote(
    arena_name: str, tab: Page, token_in: int, exact: str
) -> None:
    with watched(arena_name), WebProcess(arena_name) as web, arena.attach(arena_name) as reader:
        pool = reader[KEYS[0]]
        given = token_in if exact == "in" else 1 - token_in
        ask = pool.quote_exact_in if exact == "in" else pool.quote_exact_out
        raw = [1_500_001, 1_500_000_000_000_001][given]
        true = ask(raw, zero_for_one=token_in == 0)
        tab.goto(f"{web.address}/pools/{KEYS[0]}")
        tab.wait_for_selector("#facts dt")
        tab.get_by_label("Swap").select_option(str(token_in))
        tab.get_by_label("Amount is").select_option(exact)
        tab.locator("[name=amount]").fill(["1.500001", "0.001500000000000001"][given])
        tab.keyboard.press("Enter")
        tab.wait_for_selector("#answer .raw")
        shown = tab.locator("#answer .raw").all_inner_texts()
        assert shown == [str(true.amount_in), str(true.amount_out)]
        assert f"At block\n{HEAD}, commit 1" in tab.locator("#answer").inner_text()
        tab.locator("[name=amount]").fill("1,5")
        tab.keyboard.press("Enter")
        wait(lambda: "is no amount" in tab.locator("#answer").inner_text())


def test_a_pool_has_charts_that_follow_it(arena_name: str, tab: Page) -> None:
    with make_market(arena_name, 12, 5) as market, WebProcess(arena_name) as web:
        pool = next(each for each in market.pools if not each.is_pair)
        tab.goto(f"{web.address}/pools/{pool.key}")
        tab.wait_for_selector("#liquidity svg")
        assert tab.locator("#liquidity rect").count() == 40
        assert tab.locator("#depth path.edge").count() == 2
        before = tab.locator("#price .line").get_attribute("d") or ""
        for _ in range(3):
            market.block(12)
            wait(lambda: word(tab, "block") == str(market.head), market.owner.heartbeat)
        path = tab.locator("#price .line").get_attribute("d") or ""
        assert path.count("V") > before.count("V")
        left = "document.querySelector('#liquidity svg text:nth-of-type(4)').textContent"
        wide = tab.evaluate(left)
        tab.get_by_label("show a narrower range").click()
        wait(lambda: float(tab.evaluate(left)) > float(wide), market.owner.heartbeat)
        market.remove_pool(pool)
        wait(lambda: tab.locator("#gone").is_visible(), market.owner.heartbeat)


@pytest.mark.parametrize(
    ("key", "price", "depth"),
    [
        (KEYS[0], "0.0003333333 WETH for a USDC", 2),
        (KEYS[2], "1 ", 2),
        (KEYS[3], "333333333 raw 0x44444444 for a USDC", 2),
        (KEYS[4], "1 ", 2),
        (KEYS[5], "-", 0),
    ],
    ids=["pair", "dynamic", "bare", "stale", "announced"],
)
def test_each_kind_of_pool_has_its_page(
    arena_name: str, tab: Page, key: str, price: str, depth: int
) -> None:
    with watched(arena_name) as writer, WebProcess(arena_name) as web:
        tab.goto(f"{web.address}/pools/{key}")
        tab.wait_for_selector("#facts dd")
        assert tab.locator("#facts dd").first.inner_text().startswith(price)
        wait(lambda: tab.locator("#depth path.edge").count() == depth, writer.heartbeat)
        if not depth:
            wait(lambda: "no values yet" in tab.locator("#depth").inner_text(), writer.heartbeat)
        picture(tab, f"kind-{key[:4]}")


def test_a_pool_that_is_not_there_is_said_not_to_be(arena_name: str, tab: Page) -> None:
    with watched(arena_name), WebProcess(arena_name) as web:
        tab.goto(f"{web.address}/pools/0x{'99' * 20}")
        wait(lambda: tab.locator("#gone").is_visible())


def test_a_lost_writer_is_shown_and_so_is_the_next(arena_name: str, tab: Page) -> None:
    writer = make(arena_name)
    try:
        with WebProcess(arena_name) as web:
            tab.goto(web.address)
            tab.wait_for_selector("tbody tr")
            assert not tab.locator("#trouble").is_visible()
            writer.close(unlink=True)
            wait(lambda: tab.locator("#trouble").is_visible())
            assert "NOT KEPT UP: the writer has ended" in tab.locator("#trouble").inner_text()
            assert len(keys_shown(tab)) == len(KEYS)
            picture(tab, "lost")
            writer = make(arena_name, block=HEAD + 3)
            wait(lambda: word(tab, "block") == str(HEAD + 3), writer.heartbeat)
            wait(lambda: not tab.locator("#trouble").is_visible(), writer.heartbeat)
    finally:
        writer.close(unlink=True)


def test_a_lost_server_is_shown_and_the_next_is_found(arena_name: str, tab: Page) -> None:
    with watched(arena_name) as writer:
        with WebProcess(arena_name) as web:
            tab.goto(web.address)
            tab.wait_for_selector("tbody tr")
            port = web.port
            assert web.end()[0] == 0
        wait(lambda: tab.locator("#lost").is_visible(), writer.heartbeat)
        assert "The server has not answered for" in tab.locator("#lost").inner_text()
        with WebProcess(arena_name, port=port) as web:
            wait(lambda: not tab.locator("#lost").is_visible(), writer.heartbeat)
            # One that hangs says nothing, and closes nothing.
            web.process.send_signal(signal.SIGSTOP)
            wait(lambda: tab.locator("#lost").is_visible(), writer.heartbeat)
            web.process.send_signal(signal.SIGCONT)
            wait(lambda: not tab.locator("#lost").is_visible(), writer.heartbeat)


def test_a_browser_that_is_closed_leaves_nothing_behind(arena_name: str, browser: Browser) -> None:
    with watched(arena_name) as writer, WebProcess(arena_name) as web:
        for _ in range(3):
            context = browser.new_context()
            for path in ("", f"/pools/{KEYS[0]}"):
                tab = context.new_page()
                tab.goto(web.address + path)
                tab.wait_for_selector(".good")
            context.close()
        folder = Path(f"/proc/{web.process.pid}/fd")
        sockets = lambda: sum("socket:" in os.readlink(each) for each in folder.iterdir())  # noqa: E731
        wait(lambda: sockets() <= 4, writer.heartbeat)
        assert web.end() == (0, "")


def test_a_page_that_is_not_to_be_seen_asks_for_nothing(arena_name: str, tab: Page) -> None:
    with watched(arena_name) as writer, WebProcess(arena_name) as web:
        tab.goto(web.address)
        tab.wait_for_selector("tbody tr")
        hide = "Object.defineProperty(document, 'hidden', {configurable: true, value: %s})"
        tell = "document.dispatchEvent(new Event('visibilitychange'))"
        tab.evaluate(f"{hide % 'true'}; {tell}")
        writer.set_head(HEAD + 1)
        writer.commit()
        time.sleep(1)
        assert word(tab, "block") == str(HEAD)
        assert not tab.locator("#lost").is_visible()
        tab.evaluate(f"{hide % 'false'}; {tell}")
        wait(lambda: word(tab, "block") == str(HEAD + 1), writer.heartbeat)


def test_everything_is_reached_by_keyboard(arena_name: str, tab: Page) -> None:
    with watched(arena_name), WebProcess(arena_name) as web:
        tab.goto(web.address)
        tab.wait_for_selector("tbody tr")
        seen = set()
        for _ in range(30):
            tab.keyboard.press("Tab")
            seen.add(
                tab.evaluate(
                    "(e => e.name || e.dataset.sort || e.getAttribute('href'))(document.activeElement)"
                )
            )
        assert {"search", "status", "protocol", "limit", "touched_first", "#pools"} <= seen
        assert {"pair", "protocol", "fee", "price", "block"} <= seen
        assert {f"/pools/{key}" for key in KEYS} <= seen


def test_symbols_are_text_and_nothing_else(arena_name: str, tab: Page) -> None:
    """Names of tokens are anybody's."""
    from arena.layouts import slots
    from arena.specs import PoolSpec, TokenSpec

    one = TokenSpec(b"\x31" * 20, 18, "<img src=x>")
    two = TokenSpec(b"\x32" * 20, 18, "\u202eX")
    spec = PoolSpec(b"\xb1" * 20, slots.UNISWAP_V2, one, two, 3000)
    with watched(arena_name) as writer:
        writer.announce(writer.add_pool(spec))
        writer.commit()
        with WebProcess(arena_name) as web:
            tab.goto(f"{web.address}/?search=img")
            wait(lambda: texts(tab, "pair") == ["<img src=x>/?X"], writer.heartbeat)
            assert tab.locator("table img").count() == 0


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_and_can_be_read(
    arena_name: str, browser: Browser, size: str, scheme: str
) -> None:
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    try:
        with make_market(arena_name, 300, 7) as market, WebProcess(arena_name) as web:
            tab = context.new_page()
            market.head = int(time.time()) // 12 - 5  # a block each 12 s, so the newest is of now
            market.block(300)
            pool = next(each for each in market.pools if not each.is_pair)
            for name, path in (("main", "/?limit=20"), ("pool", f"/pools/{pool.key}")):
                tab.goto(web.address + path)
                tab.wait_for_selector("tbody tr, #depth svg")
                mine(market, tab)
                if name == "pool":
                    tab.locator("[name=amount]").fill("1500")
                    tab.keyboard.press("Enter")
                    tab.wait_for_selector("#answer .raw")
                back = tab.evaluate("getComputedStyle(document.body).backgroundColor")
                red = int(re.findall("[0-9]+", back)[0])
                assert red < 60 if scheme == "dark" else red > 200
                assert tab.evaluate("document.documentElement.scrollWidth") <= width
                assert tab.evaluate(CONTRAST) == []
                picture(tab, f"{name}-{size}-{scheme}")
                if (name, size, scheme) == ("main", "desk", "light"):
                    tab.evaluate("document.querySelector('h1').textContent = 'pools'")
                    picture(tab, "web", whole=False)
    finally:
        context.close()


def mine(market: Market, tab: Page) -> None:
    for _ in range(4):
        market.block(20)
        market.owner.heartbeat()
        wait(lambda: word(tab, "block") == str(market.head), market.owner.heartbeat)


def picture(tab: Page, name: str, *, whole: bool = True) -> None:
    folder = os.environ.get("PSA_PICTURES")
    if folder:
        tab.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=whole)
