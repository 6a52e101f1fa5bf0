"""What a JSON-RPC answer, or one of a batch, says to what was asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from arena.errors import RpcAnswerInvalid, RpcRefused
from arena.writer.node.bearing import Bearing
from arena.writer.node.meanings import Meaning, meaning_of
from arena.writer.node.transports import Transient, error_of


@dataclass(frozen=True, slots=True)
class Unanswered:
    """In place of a result: the call is to be asked again. `meaning` is later, smaller or unclear, which
    is both; `refusal` where the node said why."""

    meaning: Meaning
    reason: str
    refusal: RpcRefused | None = None


class Answers:
    """Those of the node that `bearing` is of."""

    def __init__(self, bearing: Bearing) -> None:
        self._bearing = bearing

    def refused(self, name: str, code: int, reason: str) -> RpcRefused:
        shown = self._bearing.shown
        is_unclear = meaning_of(code, reason, method=name) is Meaning.unclear
        remedy = "; see what the node's provider says of it, or use another node"
        return RpcRefused(
            f"{shown} refuses {name}: {reason} (code {code}){remedy if is_unclear else ''}",
            address=shown,
            method=name,
            code=code,
            reason=reason,
        )

    def result(self, answer: Any, request: Mapping[str, Any], calls: int = 1) -> Any:
        """The result of one answer object. RpcRefused, RpcAnswerInvalid, Transient."""
        method = request["method"]
        if not isinstance(answer, dict) or _id_of(answer.get("id")) not in (request["id"], None):
            raise self.no_answer(method)
        error = answer.get("error")
        if error is None and "result" not in answer and isinstance(answer.get("message"), str):
            error = answer  # a gateway's word, in the node's place
        if error is not None:
            code, reason = error_of(error)
            if meaning_of(code, reason, method=method, calls=calls) is Meaning.later:
                raise Transient(f"{reason} (code {code})", is_rate=True)
            raise self.refused(method, code, reason)
        if "result" not in answer:
            raise self.no_answer(method)
        return answer["result"]

    def results(self, answer: Any, requests: Sequence[Mapping[str, Any]]) -> list[Any]:
        """What came of each request; raises what is true of all of them."""
        name = f"batch of {len(requests)}, {requests[0]['method']}"
        whole = {"id": None, "method": requests[0]["method"]}
        count = len(requests)
        if isinstance(answer, dict):  # the batch as a whole was refused
            self.result(answer | {"id": None}, whole, count)
        if not isinstance(answer, list):
            raise self.no_answer(name)
        found, doubled, stray = _by_id(answer)
        outcomes: list[Any] = []
        for request in requests:
            key = request["id"]
            if key not in found or key in doubled:
                text = f"{len(found)} answers to {count} calls of a batch"
                outcomes.append(Unanswered(Meaning.smaller, text))
            else:
                outcomes.append(self._outcome(found[key], request, count))
        if all(map(is_unanswered, outcomes)):
            if any(each.meaning is Meaning.later for each in outcomes):
                raise Transient(outcomes[0].reason, is_rate=True)
            refused = next((each.refusal for each in outcomes if each.refusal is not None), None)
            if refused is not None:
                raise refused
            if stray is not None:
                self.result(stray | {"id": None}, whole, count)
            raise Transient(outcomes[0].reason)
        return outcomes

    def _outcome(self, answer: dict[str, Any], request: Mapping[str, Any], count: int) -> Any:
        """Of one call in a batch of `count`: its result, RpcRefused, or Unanswered."""
        try:
            return self.result(answer, request, count)
        except Transient as error:
            return Unanswered(Meaning.later, str(error))
        except RpcAnswerInvalid as error:
            return Unanswered(Meaning.smaller, str(error))
        except RpcRefused as error:
            method = request["method"]
            what = meaning_of(error.code, error.reason, method=method, calls=count)
            is_kept = what is Meaning.unclear and not self._bearing.may_pass(error, method)
            if what in (Meaning.smaller, Meaning.unclear) and not is_kept:
                return Unanswered(what, error.reason, error)
            return error

    def no_answer(self, name: str) -> RpcAnswerInvalid:
        shown = self._bearing.shown
        return RpcAnswerInvalid(
            f"{shown} answers {name} with something that is not a JSON-RPC answer; "
            "is this the address of a node?",
            address=shown,
            method=name,
        )


def is_unanswered(outcome: Any) -> bool:
    return isinstance(outcome, Unanswered)


def is_same(outcome: Any, refusal: RpcRefused) -> bool:
    """Whether a call alone is refused as the batch was, by an error that is not about its size."""
    if not isinstance(outcome, RpcRefused):
        return False
    same = (outcome.code, outcome.reason) == (refusal.code, refusal.reason)
    about_itself = (Meaning.unclear, Meaning.wrong)
    return same and meaning_of(outcome.code, outcome.reason) in about_itself


def _by_id(answer: Sequence[Any]) -> tuple[dict[int, Any], set[int], dict[str, Any] | None]:
    """Answers by the number of their request, those that were given twice and differ, and an error
    that names no request."""
    found: dict[int, Any] = {}
    doubled: set[int] = set()
    stray: dict[str, Any] | None = None
    for item in answer:
        if not isinstance(item, dict):
            continue
        key = _id_of(item.get("id"))
        if key is not None:
            if key in found and found[key] != item:
                doubled.add(key)
            found[key] = item
        elif item.get("error") is not None:
            stray = item
    return found, doubled, stray


def _id_of(value: Any) -> int | None:
    """The number of the request an answer names; None where it names none.

    Some proxies make a text of it. -1, no request's, for anything else.
    """
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return -1
