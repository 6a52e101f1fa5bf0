"""Options the programs share, and the checks of their values."""

import logging
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from arena.writer.scrapers.rpc_ways import Way

log = logging.getLogger(__name__)


_SIZE = re.compile(r"(\d+)\s*([kmg]?)(?:i?b)?", re.IGNORECASE)
_SHIFT = {"": 0, "k": 10, "m": 20, "g": 30}


class Dialect(StrEnum):
    """Names of the wire families for --dialect."""

    auto = "auto"
    exex = "exex"
    bridge = "bridge"
    seed_tagged = "seed-tagged"
    seed_indexed = "seed-indexed"


class BridgeDialect(StrEnum):
    """What arena-bridge can serve."""

    bridge = "bridge"
    exex = "exex"


class LogLevel(StrEnum):
    """Names for --log-level."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


class LogFormat(StrEnum):
    """Names for --log-format."""

    text = "text"
    json = "json"


class PresetName(StrEnum):
    """Names for --preset."""

    cold_start = "cold_start"
    incremental = "incremental"


LogLevelOption = Annotated[
    LogLevel, typer.Option("--log-level", help="least severe level written to stderr")
]

RethDbOption = Annotated[
    Path | None, typer.Option("--reth-db", help="a Reth node's data directory or its db")
]
RpcOption = Annotated[
    str | None, typer.Option("--rpc", help="node: http(s)://, ws(s)://, or IPC socket path")
]
FeedUidOption = Annotated[
    str | None,
    typer.Option("--feed-uid", help="user whose process must answer on --socket, name or uid"),
]
OwnerOption = Annotated[
    str | None,
    typer.Option("--owner", help="user whose arena it is, name or uid; this command's own"),
]
LibmdbxOption = Annotated[Path | None, typer.Option(help="libmdbx's shared library")]

NatsOption = Annotated[
    str | None, typer.Option("--nats", help="NATS server whose whitelist messages are the list")
]
ChainOption = Annotated[str, typer.Option(help="the chain's name in those messages")]
NatsCanonicalOption = Annotated[
    bool,
    typer.Option(
        "--nats-canonical/--no-nats-canonical",
        help="a .full message without a type is the whole list, not an addition",
    ),
]

NatsCredsOption = Annotated[
    Path | None, typer.Option("--nats-creds", help="file of a user's JWT and seed")
]
NatsNkeyOption = Annotated[Path | None, typer.Option("--nats-nkey", help="file of a user's seed")]
NatsCaOption = Annotated[
    Path | None, typer.Option("--nats-ca", help="certificates that sign the server's; PEM")
]
NatsCertOption = Annotated[
    Path | None, typer.Option("--nats-cert", help="client certificate; PEM, with --nats-key")
]
NatsKeyOption = Annotated[
    Path | None, typer.Option("--nats-key", help="its key; PEM, not encrypted")
]

ScrapingConcurrencyOption = Annotated[
    int, typer.Option(min=1, max=64, help="processes that read the database at once")
]


def check_address(address: str) -> None:
    """ValueError when a node's address is of no kind that can be asked."""
    from arena.writer.node.jsonrpc import JsonRpc

    JsonRpc(address).close()


def check_folder(path: Path) -> None:
    """ValueError when `path` is no folder, and none can be made of it."""
    try:
        there = next(each for each in (path, *path.absolute().parents) if each.exists())
    except OSError as error:
        raise ValueError(f"{error.filename} cannot be looked at: {error.strerror}") from error
    if not there.is_dir():
        raise ValueError(f"{there} is no folder")


def check_nats(address: str) -> None:
    """ValueError when a NATS server's address cannot be one."""
    from arena.writer.lists.natslink import NatsAddress

    NatsAddress.read(address)


def check_nats_file(kind: str) -> Callable[[Path], object]:
    """A check of one of --nats-creds, --nats-nkey, --nats-ca, --nats-cert, --nats-key."""

    def check(path: Path) -> None:
        from arena.writer.lists import natslogin

        looks = {
            "creds": natslogin.read_creds,
            "nkey": natslogin.read_seed,
            "ca": natslogin.read_ca,
        }
        looks.get(kind, natslogin.check_readable)(path)

    return check


def check_nats_login(given: Mapping[str, Any]) -> None:
    """typer.BadParameter when what logs in to NATS does not go together."""
    words = ("creds", "nkey", "ca", "cert", "key")
    paths = [given[f"nats_{word}"] for word in words]
    if given["nats"] is None:
        for word, path in zip(words, paths, strict=True):
            if path is not None:
                raise typer.BadParameter(f"--nats-{word} goes with --nats")
        return
    from arena.writer.lists.natslink import NatsAddress
    from arena.writer.lists.natslogin import NatsLogin

    login = NatsLogin(*paths)
    try:
        login.check_together(has_secret=bool(NatsAddress.read(given["nats"]).login))
        login.options(is_secure=False)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def parse_size(text: str) -> int:
    """Bytes of `64MiB`, `64M` or `67108864`; binary multiples. ValueError otherwise."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"size {text!r} is not a number with an optional K, M or G")
    return int(match[1]) << _SHIFT[match[2].lower()]


def parse_undo(text: str) -> int:
    """Bytes of an undo ring as parse_size has them. ValueError below one record."""
    from arena.layouts.slots import UNDO_RECORD

    nbytes = parse_size(text)
    if nbytes < UNDO_RECORD.itemsize:
        raise ValueError(
            f"an undo ring of {text!r} holds nothing: one record has {UNDO_RECORD.itemsize} bytes; "
            "leave it out for the usual 96MiB"
        )
    return nbytes


def parse_way(text: str) -> "Way":
    """A way of reading by its name. ValueError."""
    from arena.writer.scrapers.rpc_ways import Way

    if text not in set(Way):
        raise ValueError(f"--way {text!r} is none of {', '.join(Way)}")
    return Way(text)


def parse_mode(text: str) -> int:
    """Permission bits of an octal string. ValueError outside 0 to 0777."""
    if not re.fullmatch(r"(0o)?[0-7]{1,4}", text) or int(text.removeprefix("0o"), 8) > 0o777:
        raise ValueError(f"mode {text!r} is not an octal number from 0 to 0777")
    return int(text.removeprefix("0o"), 8)
