"""What crosses from the main thread to the feed thread is listed, all of it and nothing else."""

import ast
from collections.abc import Iterator
from pathlib import Path

from arena.writer.sync.port import ASKED

WRITER = Path(__file__).resolve().parents[2] / "writer"
OWNERS = {
    "intake": "Intake",
    "arena": "WriterArena",
    "standing": "Standing",
    "members": "Members",
    "gap": "GapSide",
    "fees": "Fees",
}


def calls() -> Iterator[str]:
    """`OWNER.method` of whatever is handed to `call`, in the folders that have the port."""
    for path in [*WRITER.glob("sync/*.py"), *WRITER.glob("service/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and node.args):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("call", "_call"):
                *_, owner, method = ast.unparse(node.args[0]).split(".")
                yield f"{OWNERS[owner]}.{method}"


def test_the_list_is_what_is_asked() -> None:
    assert {each.__qualname__ for each in ASKED} == set(calls())
    assert len(ASKED) == len(set(ASKED))
