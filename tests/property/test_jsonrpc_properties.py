"""Whatever a node, or something in its place, answers: results it gave, or an RpcError.

The server is one that answers by itself; what it answers is drawn anew for each example.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from doubles.proxy import Fault, FaultyServer
from hypothesis import example, given
from hypothesis import strategies as st

from arena.errors import RpcError, RpcRefused
from arena.writer.node.jsonrpc import JsonRpc
from arena.writer.node.meanings import Meaning, meaning_of
from arena.writer.node.transports import LONGEST_PAUSE_S, Limits, error_of, pause_asked

CALLS = [("echo", [number]) for number in range(5)]

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()  # NaN and infinities are no JSON, and are sent all the same
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
errors = values | st.fixed_dictionaries(
    {},
    optional={
        "code": values | st.sampled_from([-32005, -32000, 429, 413, 3, "-32005"]),
        "message": values | st.sampled_from(["batch too large", "too many requests", "reverted"]),
        "data": values,
    },
)
# What becomes of one answer of a batch; `right` stands for the answer as it should be.
changes = st.sampled_from(["right", "right", "right", "missing", "twice", "other"]) | st.tuples(
    st.sampled_from(["id", "error", "result", "whole"]), values
)
deep = b"[" * 3000 + b"]" * 3000


class Played:
    """`plan` says how the answers of the next requests are changed; the rest is right."""

    def __init__(self) -> None:
        self.plan: list[Any] = []
        self.outer: Any = None
        self.raw: bytes | None = None
        self.has_other_results = False

    def answer(self, body: bytes) -> bytes:
        if self.raw is not None:
            return self.raw
        asked = json.loads(body)
        if not isinstance(asked, list):
            found = self._one(asked)
            return json.dumps(found[0] if found else None).encode()
        answers = [each for request in asked for each in self._one(request)]
        return json.dumps(answers if self.outer is None else self.outer).encode()

    def _one(self, request: dict[str, Any]) -> list[Any]:
        right: Any = {"jsonrpc": "2.0", "id": request["id"], "result": request["params"][0]}
        change = self.plan.pop(0) if self.plan else "right"
        if change == "missing":
            return []
        if change == "twice":
            return [right, right]
        if change == "other":
            return [right, right | {"result": "another"}]
        if change == "right":
            return [right]
        field, value = change
        if field == "whole":
            return [value]
        if field == "result":
            self.has_other_results = True
        if field == "error":
            del right["result"]
        return [right | {field: value}]


@pytest.fixture(scope="module")
def played() -> Played:
    return Played()


@pytest.fixture(scope="module")
def client(played: Played) -> Iterator[JsonRpc]:
    limits = Limits(timeout_s=20.0, tries=2, first_pause_s=0.0001)
    with FaultyServer(played.answer) as server, JsonRpc(server.http, limits) as rpc:
        yield rpc


def outcome(client: JsonRpc) -> list[Any] | None:
    """What the batch came to; None for an RpcError. Any other exception fails the test."""
    try:
        return client.batch(CALLS)
    except RpcError:
        return None


@pytest.mark.slow
@given(plan=st.lists(changes, max_size=12))
@example(plan=["missing"] * 4)
@example(plan=["other"] * 12)
@example(plan=[("id", True), ("id", 1.5), ("id", "7"), ("id", [1]), ("id", None)])
@example(plan=[("error", {"code": -32003, "message": "response too large"})] * 4)
@example(plan=[("error", {"code": -32007, "message": "5/second request limit reached"})] * 3)
def test_a_batch_comes_to_its_answers_or_to_an_rpc_error(
    client: JsonRpc, played: Played, plan: list[Any]
) -> None:
    played.plan, played.outer, played.raw, played.has_other_results = list(plan), None, None, False
    client._bearing._sizes.clear()
    found = outcome(client)
    if found is None:
        return
    assert len(found) == len(CALLS)
    if not played.has_other_results:
        assert all(isinstance(each, RpcRefused) or each == at for at, each in enumerate(found))


@pytest.mark.slow
@given(outer=values | errors.map(lambda error: {"id": None, "error": error}))
def test_anything_in_place_of_the_list_is_an_rpc_error(
    client: JsonRpc, played: Played, outer: Any
) -> None:
    played.plan, played.outer, played.raw = [], outer, None
    client._bearing._sizes.clear()
    found = outcome(client)
    assert found is None or found == [0, 1, 2, 3, 4]


@pytest.mark.slow
@given(raw=st.binary(max_size=60) | st.sampled_from([deep, b"NaN", b"\xff\xfe", b"{}" * 9]))
def test_bytes_that_are_no_answer_are_an_rpc_error(
    client: JsonRpc, played: Played, raw: bytes
) -> None:
    played.raw = raw
    client._bearing._sizes.clear()
    assert outcome(client) is None
    with pytest.raises(RpcError):
        client.call("echo", 1)


@pytest.mark.slow
@given(
    status=st.sampled_from([200, 204, 301, 400, 401, 403, 404, 408, 413, 418, 429, 500, 503, 529]),
    pause=st.text(st.characters(min_codepoint=33, max_codepoint=255), max_size=12)
    | st.sampled_from(["0", "-1", "1e9", "²", "٣", "0.0001", "Wed, 21 Oct 2015 07:28:00 GMT"]),
)
def test_a_status_with_any_retry_after_is_answered_by_an_rpc_error(status: int, pause: str) -> None:
    # Pauses that were asked for are kept: only what is none, or short, is drawn here.
    if pause_asked(pause) > 0.01:
        return
    headers = {"Retry-After": pause.encode("latin-1", "replace").decode("latin-1")}
    fault = Fault(status=status, headers=headers, body=b"odd")
    limits = Limits(timeout_s=20.0, tries=1, first_pause_s=0.0001)
    with (
        FaultyServer(lambda body: body, lambda *_: fault) as server,
        JsonRpc(server.http, limits) as rpc,
        pytest.raises(RpcError),
    ):
        rpc.call("echo", 1)


@given(st.text(max_size=40) | st.from_regex(r"[-+]?[0-9]{1,40}(\.[0-9]*)?", fullmatch=True))
@example("²")
@example("1" * 400)
@example("nan")
@example("inf")
@example("Wed, 21 Oct 99999 07:28:00 GMT")
@example("Wed, 21 Oct 2999 07:28:00 -0000")
@example("Mon, 00 Jan 0000 99:99:99 +9999")
@example("(((((")
def test_a_pause_is_bounded(value: str) -> None:
    assert 0.0 <= pause_asked(value) <= LONGEST_PAUSE_S


@given(errors)
def test_every_error_has_a_code_a_text_and_a_meaning(error: Any) -> None:
    code, reason = error_of(error)
    assert isinstance(code, int)
    assert len(reason) <= 601
    for calls in (1, 2):
        assert meaning_of(code, reason, method="eth_getLogs", calls=calls) in Meaning
