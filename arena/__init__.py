"""Pool state in shared memory: exact, current, one writer, any number of lock-free readers.

`attach`, the classes of arena.readers and every exception are importable from here. Readers load on
first use, so that importing layouts or errors alone stays light.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from arena import errors, former
from arena.errors import *  # noqa: F403

if TYPE_CHECKING:
    from arena.readers import *  # noqa: F403

former.keep()

_ERRORS = [
    name
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, errors.ArenaError)
]


def _readers() -> Any:
    try:
        # `from arena import readers` would ask __getattr__ for it where there is none.
        return import_module("arena.readers")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "arena":
            raise
        folder = __file__.removesuffix("/__init__.py")
        raise ImportError(
            f"{folder} has no {error.name}: it is source that was not built. Install it (pip install .), "
            "and run from another folder than the source's",
            name=error.name,
            path=__file__,
        ) from error


def __getattr__(name: str) -> Any:
    # The import system asks here for submodules, too; those alone must not load the readers.
    is_public = not name.startswith("_") and find_spec(f"arena.{name}") is None
    if is_public or name == "__all__":
        readers = _readers()
        if name == "__all__":
            return [*readers.__all__, *_ERRORS]
        if name in readers.__all__:
            found = globals()[name] = getattr(readers, name)
            return found
    raise AttributeError(f"module 'arena' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
