"""Pool state in shared memory: exact, current, one writer, any number of lock-free readers.

`attach`, the classes of arena.readers and every exception are importable from here. Readers load on
first use, so that importing layouts or errors alone stays light.
"""

from typing import TYPE_CHECKING, Any

from arena import errors
from arena.errors import *  # noqa: F403

if TYPE_CHECKING:
    from arena.readers import *  # noqa: F403

_READERS = (
    "Arena",
    "FrozenPool",
    "FrozenSnapshot",
    "HeadBlock",
    "Ladder",
    "Phase",
    "Pool",
    "PoolState",
    "Quote",
    "QuoteBatch",
    "SharedSnapshot",
    "Snapshot",
    "Token",
    "attach",
)


def __getattr__(name: str) -> Any:
    if name in _READERS:
        from arena import readers

        return getattr(readers, name)
    raise AttributeError(f"module 'arena' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_READERS})


__all__ = [
    *_READERS,
    *(
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.ArenaError)
    ),
]
