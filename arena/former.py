"""Places that names had before the parts of the writer got folders of their own.

Scripts that import from there go on working; a DeprecationWarning says the new places.
"""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType

PLACES = {
    "arena.arena": ("arena.specs", "arena.values", "arena.writing"),
    "arena.writer.checkpoint": ("arena.writer.sync.checkpoint_file",),
    "arena.writer.jsonrpc": ("arena.writer.node.transports", "arena.writer.node.jsonrpc"),
    "arena.writer.logs": (
        "arena.writer.node.client",
        "arena.writer.protocols.uniswap_v2",
        "arena.writer.stream.blocks",
    ),
    "arena.writer.scrapers.slots": ("arena.writer.protocols.storage",),
}


class _FormerPlaces:
    """Makes a former module, with the names of those that took its place, when it is imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in PLACES else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        places = PLACES[module.__name__]
        warnings.warn(
            f"{module.__name__} is a former place; import from {', '.join(places)}",
            DeprecationWarning,
            stacklevel=2,
        )
        for place in places:
            names = vars(import_module(place))
            vars(module).update({k: v for k, v in names.items() if not k.startswith("__")})


def keep() -> None:
    """Have former places found; the import system asks here last."""
    sys.meta_path.append(_FormerPlaces())
