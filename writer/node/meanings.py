"""What an error of a node's JSON-RPC interface means for whoever asked.

Codes are few and every provider uses them as it likes: -32005 is a rate limit at one, too many
logs at another and "no batches here" at a third. So words decide, and a code where the words are
none of these. The rows are tried in order, the most particular first. Sources are documentation of
nodes and providers and what users of them report:

    go-ethereum rpc/errors.go, base/node#234    -32600 "batch too large", -32003 "response too large"
    jsonrpsee types/error.rs (reth)             -32005 no batches, -32007 and -32008 too big,
                                                -32009 busy, -32010 and -32011 batch too big
    EIP-1474                                    -32001 no such resource, -32004 no such method, -32005
    docs.infura.io, INFURA/infura#237           -32005 for a rate and for 10,000 results
    docs.alchemy.com, bancorprotocol/webapp#523 429 compute units, "Log response size exceeded"
    quicknode.com/docs error-references,        -32007 "N/second request limit reached", -32614 range,
        wevm/viem#5082                          -32009 and -32011 "upstream is busy"
    foundry-rs/foundry#6712, #12687             -32012 "credits limited to", ranges in many words
    base/node#368                               -32016 "over rate limit"
    reown-com/blockchain-api#1102               -32029 with status 200
    chainstack/dev-portal#288                   -32005 rates, WebSocket 1009
    docs.goldsky.com/edge-rpc                   -32012 range, -32014 no data, -32015 time-out
    fystack/multichain-indexer#19               -32007 "batch limit exceeded"
    ethereum-optimism/infra proxyd errors.go    -32011 "no backend is currently healthy"
    developers.cloudflare.com/web3              -32046 "Cannot fulfill request"
    docs.blockvision.org error-code-reference   -32605 rate, -32607 call limit
    megaeth-labs/documentation#83               -32005 "rabbit hole is full"
    Nethermind ErrorCodes.cs, OpenEthereum      -32015 "VM execution error"
    RFC 6455 7.4.1, IANA WebSocket close codes  1009 message too big, 1013 try again later
"""

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from arena.errors import RpcRefused

TOO_LARGE = 413  # HTTP: Content Too Large; also the code of a request this side refuses to send


class Meaning(StrEnum):
    """What to do about a refusal."""

    later = "later"  # nothing is wrong with the request: wait, then ask the same
    smaller = "smaller"  # ask for less at once
    no_block = "no_block"  # a block or its state is not there, not yet or not any more
    other_way = "other_way"  # no such method here: another may lead to the same
    give_up = "give_up"  # whoever asks is not let in
    wrong = "wrong"  # about the request itself: asked again, it is refused again
    unclear = "unclear"  # no list of words is whole: wait, and ask for less as well


LASTING = frozenset({Meaning.other_way, Meaning.give_up, Meaning.wrong})
"""What no waiting makes better."""


class _Row(NamedTuple):
    meaning: Meaning
    words: re.Pattern[str]


def _row(meaning: Meaning, *words: str) -> _Row:
    return _Row(meaning, re.compile("|".join(words), re.IGNORECASE))


_NO_RATE = r"(?!.{0,20}(second|\bsec\b|minute|hour|day\b|/ ?s))"
_BATCH = _row(
    Meaning.smaller,
    r"batch[^.;]{0,60}(too (large|big|long|many)|limit|exceed|size|maxim|\bmax\b|more than|at most"
    r"|not (supported|allowed|permitted|enabled)|unsupported|disabled|only)",
    r"(too many|more than|at most|maxim\w*|\bmax|limit\w*|exceed\w*|unsupported)[^.;]{0,60}batch",
    r"(send|make|up to|at most|maximum( of)?|\bmax|more than|limit\w*( of| to)?|only|exceed\w*) \d+ "
    r"(calls|requests|items|elements|entries|operations|methods)\b" + _NO_RATE,
    r"(calls|requests|items|elements|entries|operations|methods) (in|per|at) (one|a single|each|once"
    r"|a time|request|call|array|payload|body)",
    r"\barray\b.{0,40}(length|size|exceed|max|limit|too)",
    r"(length|size|exceed|max\w*|more than|limit\w*).{0,40}\barray\b",
)

_RATE = _row(
    # A rate in words that mean nothing else. Bare "limit exceeded" is none: see _LIMIT.
    Meaning.later,
    r"(?<!\w)rate.?limit|rate (is )?exceed|request rate|request.{0,3} (count|limit)\b|over rate"
    r"|exceed\w*.{0,20}\brate\b|maximum (retries|requests)\b(?! (of|is))",
    r"too many (concurrent |simultaneous |open |incoming )?(requests|connections|calls)\b",
    r"per[ -]?(second|sec|minute|min|hour|day|month)\b|\d ?/ ?(s|sec|second|m|min|minute|h|day)\b",
    r"\br[pq]s\b|\bcu/?p?s\b|throttl|throughput|compute.?unit|credits?\b|\bdaily\b|monthly|quota",
    r"capacity|slow down|back.?off|overload|\bbusy\b|concurren|temporar|try again|cool.?down",
    r"\bretry|please wait|service unavailable|\b(plan|tier|subscription) (limit|cap)|flood|calm down",
    r"(usage|bandwidth|traffic|spend\w*|request) (cap|ceiling|limit|allowance)|too (fast|frequent)",
    r"\bcap (is |was )?(exceed|reach|hit)|(exceed|reach|hit|limit|exhaust)\w*.{0,30}"
    r"\b(plan|subscription|account|allowance|allotment|cap|ceiling)\b",
    r"(key|account|project|plan|subscription).{0,40}(exceed|exhaust|\bcap\b|limit reached)",
    r"not ready|starting up|warming up|currently unavailable",
)

_ROWS = (
    _row(
        Meaning.other_way,
        r"too many arguments",
        r"\bmethod \W?\w+_\w+\W? (does not exist|is (not (found|avail|support|enabled|allowed|implem)"
        r"|unsupported|unavailable|disabled|unknown))",
        r"^\W?\w+_\w+\W? is (disabled|unsupported|not (avail|support|enabled|allowed|implem))",
    ),
    _row(
        Meaning.no_block,
        r"missing trie node|pruned|historical state|old data not available",
        r"\bstate .{0,60}(not|un)\s?(available|found)",
    ),
    # What speaks of a size, whatever it says of waiting beside it.
    _row(
        Meaning.smaller,
        r"(?<!out of )\brange.{0,60}(exceed|limit|larg|big|wide|long|\bmax|more than|great|above|over"
        r"|allowed|support|reduc|narrow|small)",
        r"(limit|exceed|larg|\bbig|wide|\bmax|more than|great|above|over|up to|reduc|narrow|smaller)"
        r".{0,60}\branges?\b",
        r"(response|answer|request|results?|payload|body|message|content|entity|logs?|query|output"
        r"|filter|window|span|interval)( size| is| was| are| set)* (too (large|big|long|wide|broad)"
        r"|size exceed)",
        r"too many (\w+ )?(logs|events|results|blocks|addresses|topics|records|rows|matches)",
        r"(number of|so many|\d) (\w+ )?addresses",
        r"(?<!\bip )\baddress(es| (list|array|count|limit|filter)s?)\b.{0,40}(limit|exceed|\bmax|above"
        r"|at most|up to|over|more than|length)",
        r"(fewer|smaller|narrow\w*|reduc\w+|shorten|decreas\w+|split).{0,30}"
        r"\b(blocks?|ranges?|filters?|results|logs|addresses|topics|window|span|interval)\b",
        r"\d[\d,._]*k? ?-?(block|log|result|event)s?\b.{0,20}(per (request|call|query)|limit|max|span"
        r"|window|at (once|a time))",
        r"(max\w*|at most|up to|more than|limit\w*|exceed\w*|allowed).{0,30}\d[\d,._]*k? ?"
        r"(blocks?|logs?|results?|events?|records?)\b",
        r"query.{0,20}(time-?out|timed out|took too long|returned more|too (complex|heavy|expensive))",
    ),
    _RATE,
    _row(
        Meaning.no_block,
        r"(header|block|hash).{0,80}(not (be )?found|could not be found|does ?n.t exist|unknown)",
        r"unknown (block|header|ancestor)|no state\b|missing (data|state)",
        r"resource not found|out ?of ?range|distance to target|(not|un)finali[sz]ed|not (yet )?synced",
        r"beyond (the )?(current )?(head|latest|tip)|(after|above) (the )?(last|latest|head)",
        r"block .{0,40}(not (yet )?available|unavailable)|(could not|cannot|can't) find .{0,20}block",
        r"invalid block (range|number|hash)",  # go-ethereum of blocks after its head, too
    ),
    _row(
        Meaning.smaller,
        r"(response|answer|request|result|payload|body|message|content|entity|log|quer\w+|output|data"
        r"|parameter|address|topic|filter)\w{0,3}\b.{0,40}(too (large|big|long|many)|size|bigger|larger)",
        r"too (large|big|long|wide|broad)|too many (\w+ )?(param|items|slots|keys)",
        r"(more than|max\w*|at most|up to|limit\w* (of|to)|exceed\w*).{0,30}"
        r"(\d[\d,._]*k?|results|logs|blocks|bytes|records|addresses|size)",
        r"limited to|oversized|timed? ?out|deadline exceeded|took too long|out of gas|gas (cap|limit)",
    ),
    _row(
        Meaning.other_way,
        r"method.{0,80}(not |n't )(be )?(found|exist|support|avail|allow|permit|whitelist|implement"
        r"|enabled|recogni|accept|valid|known)|method.{0,80}(unsupported|unknown|disabled|unavailable)",
        r"unsupported|unknown method|(no such|invalid|unrecogni[sz]ed) method|not (implemented|supported)",
        r"(no|without) (such )?(api|module|namespace)|(module|namespace).{0,40}not",
    ),
    _row(
        Meaning.give_up,
        r"unauthori[sz]ed|forbidden|authenticat|access denied|permission|not allowed|invalid token",
        r"(api|project|access|secret).?(key|id|token)|suspended|inactive|payment|subscription",
    ),
    _row(
        Meaning.wrong,
        r"invalid (json|request|param|argument|input|hex|address|opcode|jump|instruction)",
        r"malformed|parse error|unmarshal|hex string|bad (request|param|argument|instruction)",
        r"(missing|required|unexpected|extra) .{0,20}(param|argument|field)",
        r"stack (under|over)flow|undefined instruction|\bvm (execution )?(error|exception)",
        r"specify .{0,30}address|address.{0,20}(required|must be|is missing)",
    ),
    _row(
        Meaning.later,
        r"(upstream|backend|gateway|origin|provider|server)\b.{0,60}(error|fail|unavailable|healthy|down"
        r"|disconnect|reset|unreachable|not (ready|respond\w*|reach\w*|connected)|refused|closed)",
        r"\bnode (is )?(not (responding|healthy|connected)|starting|behind|down|unhealthy)",
    ),
)

# "limit exceeded" and no more (EIP-1474; BNB Smart Chain's public nodes): of a rate, unless logs were
# asked for, where it is the range.
_LIMIT = re.compile(r"limit", re.IGNORECASE)

_CODES = {
    408: Meaning.later,
    425: Meaning.later,
    429: Meaning.later,
    1013: Meaning.later,
    1015: Meaning.later,
    -32005: Meaning.later,
    -32007: Meaning.later,
    -32009: Meaning.later,
    -32011: Meaning.later,
    -32012: Meaning.later,
    -32016: Meaning.later,
    -32029: Meaning.later,
    -32046: Meaning.later,
    -32052: Meaning.later,
    -32090: Meaning.later,
    -32097: Meaning.later,
    -32605: Meaning.later,
    -32607: Meaning.later,
    TOO_LARGE: Meaning.smaller,
    1009: Meaning.smaller,
    -32008: Meaning.smaller,
    -32010: Meaning.smaller,
    -32015: Meaning.smaller,
    -32614: Meaning.smaller,
    -32001: Meaning.no_block,
    -32014: Meaning.no_block,
    4444: Meaning.no_block,
    404: Meaning.give_up,
    405: Meaning.give_up,
    401: Meaning.give_up,
    402: Meaning.give_up,
    403: Meaning.give_up,
    -32004: Meaning.other_way,
    -32601: Meaning.other_way,
    3: Meaning.wrong,
    -32602: Meaning.wrong,
    -32700: Meaning.wrong,
}
# These say it alone, whatever the words beside them.
_CERTAIN = frozenset({429, TOO_LARGE, 1009, 1013})

# One request of these asks for one thing: nothing smaller can be asked.
_OF_ONE = frozenset(
    {
        "eth_blockNumber",
        "eth_chainId",
        "eth_getBlockByHash",
        "eth_getBlockByNumber",
        "eth_getCode",
        "eth_getStorageAt",
        "eth_syncing",
    }
)
_CLIENT_ERROR_STATUS = range(400, 500)


def meaning_of(code: int, reason: str, *, method: str = "", calls: int = 1) -> Meaning:
    """What an error of that code and text means; `calls` above 1 when a batch was asked.

    An answer that a contract's code reverted is `wrong`: it is about the request.
    """
    if code in _CERTAIN or (code == -32601 and not _RATE.words.search(reason)):
        return _CODES[code]
    found = _meaning_of(code, reason, method, calls)
    is_least = calls == 1 and method in _OF_ONE
    return Meaning.unclear if found is Meaning.smaller and is_least else found


def _meaning_of(code: int, reason: str, method: str, calls: int) -> Meaning:
    if code == 3 or "revert" in reason.lower():
        return Meaning.wrong
    rows: Iterable[_Row] = _ROWS if calls == 1 else (_BATCH, *_ROWS)
    for row in rows:
        if row.words.search(reason):
            return row.meaning
    if method == "eth_getLogs" and _LIMIT.search(reason):
        return Meaning.smaller
    if code in _CODES:
        return _CODES[code]
    if code in _CLIENT_ERROR_STATUS:
        return Meaning.wrong
    return Meaning.later if _LIMIT.search(reason) else Meaning.unclear


def meaning(error: RpcRefused) -> Meaning:
    """The same for an error that was raised."""
    fields = error.fields
    code, reason = fields.get("code"), fields.get("reason")
    return meaning_of(
        code if isinstance(code, int) else 0,
        str(reason if reason is not None else error),
        method=str(fields.get("method", "")),
    )


def demands_address(error: RpcRefused) -> bool:
    """The node gives logs of named contracts only."""
    text = str(error.fields.get("reason", error)).lower()
    others = (Meaning.smaller, Meaning.later, Meaning.give_up)
    return "address" in text.replace("ip address", "") and meaning(error) not in others
