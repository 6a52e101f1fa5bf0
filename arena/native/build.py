"""Builds arena._core from the C sources beside this file (cffi API mode).

The declarations cffi parses are cut from four headers between their two markers, so they are written
once.
"""

import os
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
CONTRACT = ("layout.h", "feed.h", "arena.h", "pump.h")
SOURCES = sorted(path.name for path in HERE.glob("*.c") if path.name != "_core.c")


def declarations() -> str:
    begin, end = "/* cffi: begin */", "/* cffi: end */"
    texts = ((HERE / name).read_text(encoding="utf-8") for name in CONTRACT)
    return "".join(text[text.index(begin) + len(begin) : text.index(end)] for text in texts)


ffibuilder = FFI()
ffibuilder.cdef(declarations())
ffibuilder.set_source(
    "arena.native._core",
    '#include "pump.h"',
    sources=[os.path.relpath(HERE / name, HERE.parent.parent) for name in SOURCES],
    include_dirs=[os.path.relpath(HERE, HERE.parent.parent)],
    depends=[os.path.relpath(path, HERE.parent.parent) for path in sorted(HERE.glob("*.h"))],
    extra_compile_args=[
        *("-std=gnu11", "-O3", "-fno-strict-aliasing", "-fvisibility=hidden", "-Wall", "-Wextra"),
        *os.environ.get("PSA_CFLAGS", "").split(),
    ],
    extra_link_args=os.environ.get("PSA_LDFLAGS", "").split(),
    py_limited_api=True,
)
