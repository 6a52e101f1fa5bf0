"""What the values of options mean, and which are refused."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from arena.writer.scrapers.rpc_ways import Way

_SIZE = re.compile(r"(\d+)\s*([kmg]?)(?:i?b)?", re.IGNORECASE)
_SHIFT = {"": 0, "k": 10, "m": 20, "g": 30}


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
