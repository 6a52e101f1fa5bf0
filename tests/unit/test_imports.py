"""Imports point one way, and readers need nothing but their three dependencies.

layouts imports nothing of ours; arena imports layouts; writer and readers import arena and layouts and
never each other. Only arena/__init__.py names readers, to hand them out lazily.
"""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import arena

ROOT = Path(arena.__file__).resolve().parent
PARTS = ("layouts", "native", "readers", "writer")
ALLOWED = {
    "layouts": {"layouts"},
    "arena": {"arena", "layouts"},
    "readers": {"readers", "arena", "layouts"},
    "writer": {"writer", "arena", "layouts"},
}
RUNTIME = {"numpy", "posix_ipc", "cffi", "_cffi_backend"}


def part_of(module: str) -> str | None:
    """Which of our folders a module belongs to; native is part of arena."""
    names = module.split(".")
    if names[0] != "arena":
        return None
    return names[1] if len(names) > 1 and names[1] in ("layouts", "readers", "writer") else "arena"


def imports_of(path: Path) -> set[str]:
    """Modules a file imports anywhere, names that are modules of ours included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module is not None
            found.add(node.module)
            for alias in node.names:
                name = ROOT.joinpath(*node.module.split(".")[1:], alias.name)
                if node.module.split(".")[0] == "arena" and (
                    name.with_suffix(".py").exists() or name.is_dir()
                ):
                    found.add(f"{node.module}.{alias.name}")
    return found


def modules() -> list[tuple[str, Path]]:
    return [
        (".".join(["arena", *path.relative_to(ROOT).with_suffix("").parts]), path)
        for path in sorted(ROOT.rglob("*.py"))
    ]


@pytest.mark.parametrize(("module", "path"), modules(), ids=[name for name, _ in modules()])
def test_imports_point_one_way(module: str, path: Path) -> None:
    part = part_of(module)
    assert part is not None
    allowed = ALLOWED[part]
    if module == "arena.__init__":
        allowed = allowed | {"readers"}
    for name in imports_of(path):
        target = part_of(name)
        assert target is None or target in allowed, f"{module} imports {name}"


def test_the_walk_sees_every_part() -> None:
    seen = {part_of(name) for name, _ in modules()}
    assert seen >= {"arena", "layouts", "readers"}
    assert "arena.layouts.slots" in imports_of(ROOT / "readers" / "lookup.py")
    assert "arena.readers" in imports_of(ROOT / "__init__.py")


def loaded_by(code: str) -> set[str]:
    """Top-level names of the modules a fresh process has after running `code`."""
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            f"{code}\nimport json, sys\nprint(json.dumps(list(sys.modules)))",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(json.loads(done.stdout))


def foreign(names: set[str]) -> set[str]:
    """Of a list of modules, the packages that are neither ours nor the standard library's."""
    tops = {name.split(".")[0] for name in names}
    return {
        name
        for name in tops
        if name not in sys.stdlib_module_names
        and name not in ("arena", "__main__")
        and not name.startswith(("_virtualenv", "_distutils_hack", "__editable__", "sitecustomize"))
    }


def test_readers_import_with_their_three_dependencies_alone() -> None:
    names = loaded_by("import arena.readers.cli")
    plain = foreign(loaded_by("pass"))
    assert foreign(names) - plain <= RUNTIME
    assert not {name for name in names if name.startswith("arena.writer")}
    assert not {"asyncio", "multiprocessing", "importlib.metadata"} & names - loaded_by(
        "import numpy"
    )


def test_importing_the_package_does_not_load_readers_or_native_code() -> None:
    names = loaded_by("import arena")
    assert not {name for name in names if name.startswith(("arena.readers", "arena.native"))}
    assert "numpy" not in names
    assert "arena.readers" in loaded_by("import arena; arena.attach")
