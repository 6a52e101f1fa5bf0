"""arena-web's API and streams on real arenas, held against what readers get by themselves."""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any
from urllib.parse import urlencode

import jsonschema
import pytest
from builders.market import Market, make_market
from builders.watched import HEAD, KEYS, LIQUIDITY, SPECS, make, watched
from starlette.testclient import TestClient

import arena
from arena.readers.views.monitor import Monitor
from arena.readers.web import server, watcher
from arena.readers.web.asked import page
from arena.readers.web.live import PoolFeed, TableFeed
from arena.readers.web.server import Site
from arena.readers.web.watcher import Watcher
from arena.writing import WriterArena

LOCAL = "http://127.0.0.1"
SECONDS = 30.0
PAIR, RANGED, DYNAMIC, BARE, STALE, ANNOUNCED = KEYS
UNKNOWN = "0x" + "99" * 20


@contextlib.contextmanager
def served(name: str, interval: float = 0.02) -> Iterator[TestClient]:
    """A client of an arena's site, which looks every 20 ms."""
    with Monitor(name) as monitor:
        site = Site(Watcher(monitor, interval))
        with TestClient(site.app, base_url=LOCAL) as client:
            yield client


@pytest.fixture
def writer(arena_name: str) -> Iterator[WriterArena]:
    with watched(arena_name) as found:
        yield found


@pytest.fixture
def client(writer: WriterArena) -> Iterator[TestClient]:
    with served(writer.name) as found:
        yield found


def wait(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


# ---- the document


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    files = server.files("arena.readers.web")
    found: dict[str, Any] = json.loads(files.joinpath("openapi.json").read_text())
    return found


def check(document: dict[str, Any], path: str, status: int, body: Any) -> None:
    """The body is what the document says of that path and status."""
    operation = document["paths"][path]["get"]
    schema = operation["responses"][str(status)]["content"]["application/json"]["schema"]
    jsonschema.Draft202012Validator({**schema, "components": document["components"]}).validate(body)


def requests() -> list[tuple[str, str, dict[str, str]]]:
    """Path of the document, its key, query."""
    found: list[tuple[str, str, dict[str, str]]] = [
        ("/health", "", {}),
        ("/health", "", {"x": "1"}),
        ("/api/status", "", {}),
        ("/api/status", "", {"x": "1"}),
        ("/api/pools", "", {}),
        ("/api/pools", "", {"limit": "0"}),
        ("/api/pools", "", {"sort": "price", "reverse": "true", "limit": "2", "offset": "1"}),
    ]
    quote = "/api/pools/{key}/quote"
    for key in (*KEYS, UNKNOWN, "0x12"):
        for path in ("", "/ticks", "/depth"):
            found.append((f"/api/pools/{{key}}{path}", key, {"allow_stale": "true"}))
            found.append((f"/api/pools/{{key}}{path}", key, {}))
        for query in ({}, {"amount": "1.5"}, {"amount_raw": "7", "exact": "out", "token_in": "1"}):
            found.append((quote, key, query))
    found.append(("/api/pools/{key}/depth", DYNAMIC, {"allow_dynamic_fee": "true", "zoom": "-12"}))
    found.append((quote, DYNAMIC, {"amount_raw": "1000", "allow_dynamic_fee": "1"}))
    found.append((quote, DYNAMIC, {"amount_raw": "1000", "lp_fee": "3000"}))
    return found


@pytest.mark.parametrize(("path", "key", "query"), requests())
def test_answers_are_as_the_document_says(
    client: TestClient, document: dict[str, Any], path: str, key: str, query: dict[str, str]
) -> None:
    answer = client.get(path.replace("{key}", key), params=query)
    body = answer.json()
    check(document, path, answer.status_code, body)
    assert (body["block_number"], body["commit"]) == (HEAD, 1)
    names = {each["name"] for each in document["paths"][path]["get"]["parameters"]}
    assert answer.status_code != 200 or {*query} <= names


def test_the_document_has_every_route_and_each_parameter_is_taken(
    client: TestClient, document: dict[str, Any]
) -> None:
    assert client.get("/api/openapi.json").json() == document
    jsonschema.Draft202012Validator.check_schema(document["components"]["schemas"]["Pool"])
    paths = {each.path for each in client.app.routes}  # type: ignore[attr-defined]
    assert {each for each in paths if each.startswith("/api/pools") or each == "/api/status"} == {
        each for each in document["paths"] if each != "/health"
    }
    for path, methods in document["paths"].items():
        for each in methods["get"]["parameters"]:
            if each["in"] == "query":
                answer = client.get(path.replace("{key}", RANGED), params={each["name"]: "?"})
                assert "there is no parameter" not in answer.text


# ---- values


def test_a_pool_and_its_ticks_are_those_of_a_reader(
    writer: WriterArena, client: TestClient
) -> None:
    with arena.attach(writer.name) as reader:
        for key in KEYS:
            state = reader[key].state()
            found = client.get(f"/api/pools/{key}", params={"allow_stale": 1}).json()
            for name in ("sqrt_price_x96", "liquidity", "reserve0", "reserve1"):
                value = getattr(state, name)
                assert found[name] == (None if value is None else str(value))
            assert found["tick"] == state.tick
            assert found["status"] == state.status
            ticks = client.get(f"/api/pools/{key}/ticks", params={"allow_stale": 1}).json()["ticks"]
            assert tuple(
                (each["tick"], int(each["liquidity_gross"]), int(each["liquidity_net"]))
                for each in ticks
            ) == (state.ticks or ())


@pytest.mark.parametrize("exact", ["in", "out"])
@pytest.mark.parametrize("token_in", [0, 1])
@pytest.mark.parametrize("key", [PAIR, RANGED])
def test_a_quote_is_that_of_a_reader_in_whole_tokens_and_smallest_units(
    writer: WriterArena, client: TestClient, key: str, exact: str, token_in: int
) -> None:
    decimals = (6, 18)  # of USDC and WETH
    given = token_in if exact == "in" else 1 - token_in
    amount = {6: 1_234_567, 18: 12_345_600_000_000}[decimals[given]]
    with arena.attach(writer.name) as reader:
        pool = reader[key]
        ask = pool.quote_exact_in if exact == "in" else pool.quote_exact_out
        true = ask(amount, zero_for_one=token_in == 0)
    text = {6: "1.234567", 18: "0.0000123456"}[decimals[given]]
    for words in ({"amount": text}, {"amount_raw": str(amount)}):
        query = {"exact": exact, "token_in": str(token_in), **words}
        found = client.get(f"/api/pools/{key}/quote", params=query).json()
        assert found["amount_in"]["raw"] == str(true.amount_in)
        assert found["amount_out"]["raw"] == str(true.amount_out)
        assert found["sqrt_price_x96_after"] == str(true.sqrt_price_x96_after)
        assert found["ticks_crossed"] == true.ticks_crossed
        for side, place in (("amount_in", token_in), ("amount_out", 1 - token_in)):
            whole = Fraction(found[side]["amount"]) * 10 ** decimals[place]
            assert whole == int(found[side]["raw"])


@pytest.mark.parametrize("key", [PAIR, RANGED])
def test_each_point_of_the_depth_is_a_quote_of_a_reader(
    writer: WriterArena, client: TestClient, key: str
) -> None:
    found = client.get(f"/api/pools/{key}/depth").json()
    with arena.attach(writer.name) as reader:
        for side in ("zero_for_one", "one_for_zero"):
            assert found[side]["refusal"] is None
            amounts = [int(each["amount_in"]["raw"]) for each in found[side]["quotes"]]
            assert len(amounts) > 3
            assert amounts == sorted(amounts)
            for each in found[side]["quotes"]:
                true = reader[key].quote_exact_in(
                    int(each["amount_in"]["raw"]), zero_for_one=side == "zero_for_one"
                )
                assert each["amount_out"]["raw"] == str(true.amount_out)


def test_the_depth_goes_as_far_as_the_bars_and_says_why_it_does_not(client: TestClient) -> None:
    found = client.get(f"/api/pools/{RANGED}/depth").json()
    assert [each["is_above"] for each in found["bars"]] == [True] * 20 + [False] * 20
    assert {round(each["liquidity"]) for each in found["bars"]} == {LIQUIDITY}
    refused = client.get(f"/api/pools/{DYNAMIC}/depth").json()
    assert refused["zero_for_one"]["quotes"] == []
    assert refused["zero_for_one"]["refusal"]["type"] == "DynamicFee"


def test_a_pool_that_ends_within_the_bars_says_so(client: TestClient) -> None:
    found = client.get(f"/api/pools/{RANGED}/depth", params={"zoom": "-8"}).json()
    side = found["one_for_zero"]
    assert side["refusal"] is not None or len(side["quotes"]) == 23
    assert all(int(each["amount_out"]["raw"]) > 0 for each in side["quotes"])


@pytest.mark.parametrize(
    ("query", "rest"),
    [
        ({}, KEYS),
        ({"protocol": "uniswap_v2"}, (PAIR, BARE)),
        ({"status": "stale"}, (STALE,)),
        ({"search": "weth v2"}, (PAIR,)),
        ({"search": RANGED.upper().replace("0X", "0x")}, (RANGED,)),
        ({"offset": "4"}, KEYS[4:]),
        ({"offset": "99"}, ()),
        ({"limit": "2"}, KEYS[:2]),
    ],
)
def test_pools_are_chosen(client: TestClient, query: dict[str, str], rest: tuple[str, ...]) -> None:
    found = client.get("/api/pools", params=query).json()
    assert tuple(each["pool"] for each in found["pools"]) == rest


def test_pools_are_sorted_by_price_both_ways(client: TestClient) -> None:
    for reverse in ("false", "true"):
        query = {"sort": "price", "reverse": reverse}
        found = client.get("/api/pools", params=query).json()["pools"]
        prices = [each["price"] for each in found if each["price"] is not None]
        assert prices == sorted(prices, reverse=reverse == "true")
        assert found[-1]["pool"] == ANNOUNCED  # which has none


# ---- refusals


@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [
        (f"/api/pools/{UNKNOWN}", 404, "UnknownPool"),
        (f"/api/pools/{UNKNOWN}/quote?amount=1", 404, "UnknownPool"),
        ("/api/pools/0xzz", 422, "ValueError"),
        ("/api/pools/0x" + "1" * 50, 422, "ValueError"),
        ("/api/pools?sort=colour", 422, "ValueError"),
        ("/api/pools?limit=501", 422, "ValueError"),
        ("/api/pools?limit=1e1", 422, "ValueError"),
        ("/api/pools?offset=-1", 422, "ValueError"),
        ("/api/pools?touched_first=yes", 422, "ValueError"),
        ("/api/pools?colour=red", 422, "ValueError"),
        ("/api/pools?search=" + "a" * 129, 422, "ValueError"),
        (f"/api/pools/{PAIR}/quote", 422, "ValueError"),
        (f"/api/pools/{PAIR}/quote?amount=1&amount_raw=1", 422, "ValueError"),
        (f"/api/pools/{PAIR}/quote?amount=-1", 422, "ValueError"),
        (f"/api/pools/{PAIR}/quote?amount=1,5", 422, "ValueError"),
        (f"/api/pools/{PAIR}/quote?amount=NaN", 422, "ValueError"),
        (f"/api/pools/{PAIR}/quote?amount=0.0000001", 422, "TooFine"),
        (f"/api/pools/{PAIR}/quote?amount=1e99", 422, "TooLarge"),
        (f"/api/pools/{PAIR}/quote?amount_raw=0", 422, "AmountOutOfRange"),
        (f"/api/pools/{PAIR}/quote?amount_raw={2**256}", 422, "ValueError"),
        (f"/api/pools/{PAIR}/quote?amount=1&token_in=2", 422, "ValueError"),
        (f"/api/pools/{PAIR}/quote?amount=1&exact=both", 422, "ValueError"),
        (f"/api/pools/{PAIR}/quote?amount=1&sqrt_price_limit_x96=7", 422, "ValueError"),
        (f"/api/pools/{PAIR}/quote?amount=9e9&exact=out", 422, "InsufficientLiquidity"),
        (f"/api/pools/{BARE}/quote?amount=1&token_in=1", 422, "ValueError"),
        (f"/api/pools/{DYNAMIC}/quote?amount=1", 422, "DynamicFee"),
        (f"/api/pools/{RANGED}/depth?zoom=13", 422, "ValueError"),
        (f"/api/pools/{STALE}/quote?amount=1", 503, "PoolStale"),
        ("/nothing", 404, "NotFound"),
        ("/static/nothing.js", 404, "NotFound"),
        ("/static/..%2fopenapi.json", 404, "NotFound"),
    ],
)
def test_refusals_have_a_type_and_a_status(
    client: TestClient, path: str, status: int, kind: str
) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)
    assert answer.json()["error"]["message"]
    assert answer.json()["commit"] == 1
    assert ("retry-after" in answer.headers) == (status == 503)


def test_nothing_is_written_by_any_method(client: TestClient) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        answer = client.request(method, "/api/pools")
        assert (answer.status_code, answer.json()["error"]["type"]) == (405, "MethodNotAllowed")


def test_a_lost_writer_is_503_until_there_is_another(
    arena_name: str, document: dict[str, Any]
) -> None:
    writer = make(arena_name)
    try:
        with served(arena_name) as client:
            assert client.get("/health").status_code == 200
            writer.close(unlink=True)
            wait(lambda: client.get("/health").status_code == 503)
            answer = client.get("/health").json()
            check(document, "/health", 503, answer)
            assert answer["error"]["type"] == "WriterDead"
            assert "the writer has ended" in answer["error"]["message"]
            for path in ("/api/pools", f"/api/pools/{PAIR}", f"/api/pools/{PAIR}/quote?amount=1"):
                assert client.get(path).status_code == 503
                more = "&" if "?" in path else "?"
                assert client.get(f"{path}{more}allow_stale=true").status_code == 200
            status = client.get("/api/status").json()
            check(document, "/api/status", 200, status)
            assert (status["is_live"], status["writer_pid"]) == (False, None)
            writer = make(arena_name, block=HEAD + 5)
            wait(lambda: client.get("/health").status_code == 200)
            assert client.get(f"/api/pools/{PAIR}").json()["block_number"] == HEAD + 5
    finally:
        writer.close(unlink=True)


def test_a_phase_that_is_not_live_is_503_with_its_reason(
    writer: WriterArena, client: TestClient
) -> None:
    writer.set_phase("gap", "the node is away")
    wait(lambda: client.get("/health").status_code == 503)
    error = client.get(f"/api/pools/{PAIR}").json()["error"]
    assert error == {"type": "NotLive", "message": "the arena is gap: the node is away"}


def test_answers_are_of_now_however_seldom_pages_are_told(
    arena_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "FRESH_S", 0.1)
    writer = make(arena_name)
    try:
        with served(arena_name, interval=3600) as client:
            writer.set_head(HEAD + 1)
            writer.commit()
            wait(lambda: client.get("/api/status").json()["block_number"] == HEAD + 1)
            writer.close(unlink=True)
            wait(lambda: client.get("/health").status_code == 503)
            assert client.get(f"/api/pools/{PAIR}/quote?amount=1").status_code == 503
    finally:
        writer.close(unlink=True)


def test_a_watch_that_fails_ends_the_server_and_keeps_the_reason(writer: WriterArena) -> None:
    with Monitor(writer.name) as monitor:
        ended: list[bool] = []
        site = Site(Watcher(monitor, 0.01), on_end=lambda: ended.append(True))
        failure = RuntimeError("out of order")

        def look() -> None:
            raise failure

        monitor.look = look  # type: ignore[method-assign,assignment]
        with TestClient(site.app, base_url=LOCAL):
            wait(lambda: ended == [True])
        assert site.failure is failure
        assert site.watcher.is_closed


def test_a_grown_arena_goes_on(writer: WriterArena, client: TestClient) -> None:
    writer.grow(max_pools=64)
    writer.set_head(HEAD + 1)
    writer.commit()
    writer.heartbeat()
    wait(lambda: client.get("/api/status").json()["generation"] == 2)
    assert client.get(f"/api/pools/{PAIR}").json()["block_number"] == HEAD + 1


# ---- who may ask, and what is sent


def test_another_name_for_this_machine_is_refused_unless_it_is_public(writer: WriterArena) -> None:
    with Monitor(writer.name) as monitor:
        one = Watcher(monitor, 0.2)
        for public, status in ((False, 400), (True, 200)):
            client = TestClient(Site(one, public=public).app, base_url="http://evil.example")
            assert client.get("/api/status").status_code == status


def test_pages_load_nothing_from_elsewhere_and_weigh_little(client: TestClient) -> None:
    total = 0
    for name in ("style.css", "common.js", "board.js", "pool.js", "charts.js"):
        answer = client.get(f"/static/{name}")
        assert answer.status_code == 200
        total += len(answer.content)
    assert total < 100_000
    for path in ("/", f"/pools/{PAIR}"):
        answer = client.get(path)
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert "http" not in answer.text
        assert " style=" not in answer.text
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


# ---- what a page is told


def test_only_rows_that_changed_are_sent(arena_name: str) -> None:
    with make_market(arena_name, 60, 3) as market, Monitor(arena_name) as monitor:
        feed = TableFeed(page({"limit": "50"}))
        first = feed.message(monitor.look())
        assert len(first["rows"]) == len(first["order"]) == 50
        assert (first["matching"], first["total"]) == (60, 60)
        assert {*feed.message(monitor.look())} == {"status"}
        shown = {each["key"]: each for each in first["rows"]}
        before: set[str] = set()
        for _ in range(5):
            touched = {pool.key for pool in market.block(7).touched}
            message = feed.message(monitor.look())
            changed = {each["key"] for each in message.get("rows", [])}
            # Touched, or not touched any more.
            assert changed == (touched | before) & {*shown}
            assert "order" not in message
            before = touched


def test_rows_put_together_are_what_the_api_gives(arena_name: str) -> None:
    with make_market(arena_name, 80, 4) as market, Monitor(arena_name) as monitor:
        query = {"sort": "block", "limit": "30", "offset": "10"}
        feed, rows, order = TableFeed(page(query)), {}, []
        for _ in range(6):
            message = feed.message(monitor.look())
            rows |= {each["key"]: each for each in message.get("rows", [])}
            order = message.get("order", order)
            market.block(9)
        final = feed.message(monitor.look())
        rows |= {each["key"]: each for each in final.get("rows", [])}
        order = final.get("order", order)
        with served(arena_name) as client:
            true = client.get("/api/pools", params=query).json()["pools"]
        assert order == [each["pool"] for each in true]
        for each in true:
            row = rows[each["pool"]]
            assert (row["block"], row["touched"]) == (str(each["block"]), each["touched"])
            assert float(row["price"]) == pytest.approx(each["price"], rel=1e-4)


def test_a_pool_that_comes_goes_and_comes_again(arena_name: str) -> None:
    with make_market(arena_name, 20, 4) as market, Monitor(arena_name) as monitor:
        pool = market.pools[3]
        feed = PoolFeed(monitor, pool.key)
        table = TableFeed(page({}))
        table.message(monitor.look())
        assert feed.message(monitor.look())["pool"]["key"] == pool.key
        market.remove_pool(pool)
        view = monitor.look()
        assert feed.message(view)["pool"] is None
        assert pool.key not in table.message(view)["order"]
        market.add_pool(pool)
        wait(lambda: monitor.look().pools.counts()["live"] == 20)
        view = monitor.look()
        assert feed.message(view)["pool"]["key"] == pool.key
        assert pool.key in table.message(view)["order"]


def test_points_of_a_price_are_sent_once_and_end_with_its_arena(arena_name: str) -> None:
    with Market(arena_name, 10, 4, 4, False) as market, Monitor(arena_name) as monitor:
        key = market.pools[0].key
        monitor.look()
        for _ in range(4):
            market.block(10)
            monitor.look()
        feed = PoolFeed(monitor, key)
        view = monitor.look()
        assert [point[2] for point in feed.message(view)["points"]] == [1001, 1002, 1003, 1004]
        assert "points" not in feed.message(monitor.look())
        market.block(10)
        (point,) = feed.message(monitor.look())["points"]
        with arena.attach(arena_name) as reader:
            state = reader[key].state()
        if state.sqrt_price_x96:
            true = Fraction(state.sqrt_price_x96, 1 << 96) ** 2
        else:
            true = Fraction(state.reserve1 or 0, state.reserve0 or 1)
        true *= Fraction(10) ** ((state.token0.decimals or 0) - (state.token1.decimals or 0))
        assert point[1] == pytest.approx(float(true), rel=1e-12)
        market.close()
        with make_market(arena_name, 10, 9):
            wait(lambda: monitor.look().trouble == "")
            again = feed.message(monitor.look())
            assert again["again"] is True


class Taker:
    """An HTTP client that takes an answer's body when it is told to."""

    def __init__(self, app: Any, path: str, query: dict[str, str] | None = None) -> None:
        self.parts: list[bytes] = []
        self.may_take = asyncio.Event()
        self.is_gone = asyncio.Event()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": urlencode(query or {}).encode(),
            "headers": [(b"host", b"127.0.0.1")],
        }
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        await self.is_gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message.get("body"):
            await self.may_take.wait()
            self.parts.append(message["body"])

    async def leave(self) -> None:
        self.is_gone.set()
        await asyncio.gather(self.task, return_exceptions=True)

    @property
    def messages(self) -> list[dict[str, Any]]:
        text = b"".join(self.parts).decode()
        return [json.loads(each.removeprefix("data: ")) for each in text.split("\n\n") if each]


def test_a_slow_page_skips_ahead_and_holds_nobody_up(arena_name: str) -> None:
    async def story(market: Market, monitor: Monitor) -> None:
        watcher = Watcher(monitor, 0.01)
        site = Site(watcher)
        watch = asyncio.create_task(watcher.watch())
        quick, slow = Taker(site.app, "/events"), Taker(site.app, "/events")
        quick.may_take.set()
        for _ in range(20):
            market.block(5)
            await asyncio.sleep(0.03)
        assert len(quick.messages) >= 20
        assert slow.messages == []
        slow.may_take.set()
        while len(slow.messages) < 2:
            await asyncio.sleep(0.01)
        # Two, and the page knows the newest: what came between is left out, not kept.
        assert slow.messages[1]["status"]["block"] == str(market.head)
        assert len(site.streams) == 2
        await slow.leave()
        await quick.leave()
        assert site.streams == set()
        watcher.close()
        await watch

    with make_market(arena_name, 30, 4) as market, Monitor(arena_name) as monitor:
        asyncio.run(story(market, monitor))


def test_a_page_that_takes_nothing_is_let_go(
    writer: WriterArena, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "SEND_S", 0.05)

    async def story(monitor: Monitor) -> None:
        watcher = Watcher(monitor, 0.01)
        site = Site(watcher)
        stuck = Taker(site.app, "/events")
        await asyncio.wait_for(stuck.task, SECONDS)
        assert site.streams == set()

    with Monitor(writer.name) as monitor:
        asyncio.run(story(monitor))


def test_open_pages_have_a_limit(writer: WriterArena, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_STREAMS", 2)

    async def story(monitor: Monitor) -> None:
        watcher = Watcher(monitor, 0.01)
        site = Site(watcher)
        pages = [Taker(site.app, "/events"), Taker(site.app, f"/events/pools/{PAIR}")]
        while len(site.streams) < 2:
            await asyncio.sleep(0.01)
        refused = Taker(site.app, "/events")
        refused.may_take.set()
        await refused.task
        assert json.loads(b"".join(refused.parts))["error"]["type"] == "TooManyStreams"
        watcher.close()
        for each in pages:
            each.may_take.set()
        await asyncio.gather(*(each.task for each in pages))
        assert site.streams == set()

    with Monitor(writer.name) as monitor:
        asyncio.run(story(monitor))


def test_names_that_would_do_harm_are_made_harmless(writer: WriterArena) -> None:
    with Monitor(writer.name) as monitor:
        text = json.dumps(TableFeed(page({})).message(monitor.look()), ensure_ascii=False)
        assert len(SPECS) == len(monitor.look().pools)
    assert "\x1b" not in text
    assert "\\u001b" not in text
    assert "\u202e" not in text


@pytest.mark.slow
def test_twenty_thousand_pools_are_searched_and_sent_by_the_page(arena_name: str) -> None:
    with make_market(arena_name, 20_000, 7) as market, Monitor(arena_name) as monitor:
        feed = TableFeed(page({"sort": "price", "limit": "50"}))
        message = feed.message(monitor.look())
        assert len(message["rows"]) == 50
        assert message["total"] == 20_000
        market.block(150)
        assert len(json.dumps(feed.message(monitor.look()))) < 50_000
        key = market.pools[12_345].key
        found = TableFeed(page({"search": key})).message(monitor.look())
        assert found["order"] == [key]
