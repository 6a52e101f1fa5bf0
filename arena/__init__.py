"""Pool state in shared memory: exact, current, one writer, any number of lock-free readers.

    pools = arena.attach("pools", timeout=10)       # an Arena, by name
    pool = pools.find("USDC/WETH", fee=500)         # a Pool by its pair, or pools[key]
    print(pool.price.token1_in_token0)              # a Decimal: USDC for a WETH
    print(pool.quote("1.5", sell="WETH"))           # whole tokens, the exact quote beside them
    pool.quote_exact_in(10**18, zero_for_one=False) # a Quote, in integers
    with pools.snapshot() as view:                  # everything at one block
        view[pool.key].state()
    pools.wait_block(after=pools.head_block)        # sleeps until the next one

`attach`, the classes of arena.readers and every exception, all of them ArenaErrors, are importable from here;
`arena.layouts` has the dtypes. Readers load on first use, so that importing layouts or errors alone stays
light. help(arena.Arena), help(arena.Pool) and docs/reference/api.md say the rest.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from arena import errors, former
from arena.errors import *  # noqa: F403

if TYPE_CHECKING:
    from arena.readers import *  # noqa: F403

    __version__: str

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
    if name == "__version__":
        from importlib.metadata import version

        return version("pool-state-arena")
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
    named = {"__version__"} | {
        name for name in globals() if name.startswith("__") or name in ("errors", "layouts")
    }
    return sorted(named | {*__getattr__("__all__")})
