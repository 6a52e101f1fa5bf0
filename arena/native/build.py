"""Builds the two native modules from the C sources beside this file.

`arena.native._core` is the core behind cffi (API mode); the declarations cffi parses are cut from the
headers of CONTRACT between their two markers, so they are written once. `arena.native._handle` is the
extension types: the files whose names begin with `_`, which contain nothing of the core (api.h).
"""

import os
from pathlib import Path
from typing import Any

from cffi import FFI
from setuptools import Extension

HERE = Path(__file__).resolve().parent
CONTRACT = ("layout.h", "feed.h", "arena.h", "depth.h", "outcome.h", "group.h", "pump.h", "route.h")
ROOT = HERE.parent.parent


def found(pattern: str) -> list[str]:
    """Files beside this one, as setuptools wants them named; _core.c is what cffi writes."""
    paths = sorted(path for path in HERE.glob(pattern) if path.name != "_core.c")
    return [os.path.relpath(path, ROOT) for path in paths]


SETTINGS: dict[str, Any] = {
    "include_dirs": [os.path.relpath(HERE, ROOT)],
    "depends": found("*.h"),
    "extra_compile_args": [
        *("-std=gnu11", "-O3", "-fno-strict-aliasing", "-fvisibility=hidden", "-Wall", "-Wextra"),
        *os.environ.get("PSA_CFLAGS", "").split(),
    ],
    "libraries": ["m"],
    "extra_link_args": os.environ.get("PSA_LDFLAGS", "").split(),
    "py_limited_api": True,
}


def declarations() -> str:
    begin, end = "/* cffi: begin */", "/* cffi: end */"
    texts = ((HERE / name).read_text(encoding="utf-8") for name in CONTRACT)
    return "".join(text[text.index(begin) + len(begin) : text.index(end)] for text in texts)


ffibuilder = FFI()
ffibuilder.cdef(declarations())
ffibuilder.set_source(
    "arena.native._core",
    "".join(f'#include "{name}"\n' for name in CONTRACT),
    sources=found("[!_]*.c"),
    **SETTINGS,
)
handle = Extension("arena.native._handle", sources=found("_*.c"), **SETTINGS)
