"""The house: which folder stands on which, no circle, no module and no function that outgrew its room.

Read from the sources of the checkout, not from what runs: an import inside a function or for types alone
counts, and so does what `import arena` hands out lazily. `pytest -s` prints the figures.
"""

import ast
import importlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

import arena
import arena.readers
from arena.former import PLACES

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = Path(arena.__file__).resolve().parent
FOLDERS = ("layouts", "arena", "readers", "writer")
RUNTIME = {"numpy", "posix_ipc", "cffi", "_cffi_backend"}

# From the ground up: a folder imports itself and what stands before it. Two towers on one ground.
GROUND = ("arena.layouts", "arena")
READERS = (
    *GROUND,
    *("arena.readers", "arena.readers.routes", "arena.readers.views", "arena.readers.web"),
)
WRITER = (
    *GROUND,
    *("arena.writer", "arena.writer.host", "arena.writer.node", "arena.writer.protocols"),
    *("arena.writer.stream", "arena.writer.scrapers", "arena.writer.lists", "arena.writer.sync"),
    *("arena.writer.producers", "arena.writer.service", "arena.writer.demo", "arena.writer.cli"),
)
# Parts of `arena` itself, on its floor.
INSIDE_ARENA = ("arena.native",)

# An arrow against the floors, and why it is none in fact.
EXCEPTIONS = {
    ("arena", "arena.readers"): "the lazy door: users write `import arena`",
    ("arena.readers", "arena.readers.routes"): "the same door: `arena.Router`",
    ("arena.writer.service.verify", "arena.readers"): (
        "holds what readers get against the node, so it must get it as they do"
    ),
    ("arena.writer.demo.reader", "arena.readers"): (
        "a program of its own that shows how users read; nothing imports it"
    ),
    ("arena.writer.producers.recorder", "arena.readers.cli"): "starts arena-dump as a process",
    ("arena.writer.demo.show", "arena.writer.cli.main"): "starts arena-writer and arena-replay",
    **{
        ("arena.former", place): "names that moved: imported when somebody asks at a former place"
        for places in PLACES.values()
        for place in places
        if place.startswith("arena.writer.")
    },
}

MODULE_LINES = 450
FUNCTION_LINES = 80
LONG_MODULES = {
    "arena/native/tick_powers.h": "a generated table",
}


# ---- what Python modules import


def name_of(path: Path, base: Path, prefix: tuple[str, ...]) -> str:
    parts = [*prefix, *path.relative_to(base).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    """Our modules by the name they are imported by."""
    found = {}
    for folder in FOLDERS:
        prefix = ("arena",) if folder == "arena" else ("arena", folder)
        for path in sorted((ROOT / folder).rglob("*.py")):
            found[name_of(path, ROOT / folder, prefix)] = path
    return found


@cache
def modules_of_tests() -> dict[str, Path]:
    """Modules of the folders that are not installed, each of which is put on the path when it runs."""
    return {
        name_of(path, ROOT / folder, ()): path
        for folder in ("tests", "bench", "examples")
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


def owner_of(module: str, name: str) -> str:
    """The module that `from module import name` reaches."""
    if module == "arena" and name in arena.readers.__all__:
        return "arena.readers"
    inner = f"{module}.{name}"
    return inner if inner in modules() or inner in modules_of_tests() else module


def attributes(node: ast.AST) -> list[str]:
    """`a.b.c` as its names; empty for anything else."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return [node.id, *reversed(names)] if isinstance(node, ast.Name) else []


def through_the_door(names: list[str]) -> str:
    """The module behind `arena.x.y`, written in a file that says `import arena`."""
    if names[1] in arena.readers.__all__:
        return "arena.readers"
    while len(names) > 1 and ".".join(names) not in modules():
        names = names[:-1]
    return ".".join(names)


def imports_of(tree: ast.AST, package: str = "") -> set[str]:
    """Names of modules a tree imports anywhere in it; one dot means a module of `package`."""
    found: set[str] = set()
    doors: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(each.name for each in node.names if each.name != "arena")
            doors.update(each.asname or "arena" for each in node.names if each.name == "arena")
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"an import without a name in line {node.lineno}"
            module = f"{package}.{node.module}" if node.level else node.module
            found.update(owner_of(module, each.name) for each in node.names)
    for node in ast.walk(tree):
        first, *names = attributes(node) or [""]
        if names and first in doors:
            found.add(through_the_door(["arena", *names]))
    return found


def programs_of(tree: ast.AST) -> set[str]:
    """Modules named in strings, as the text of a program or after `-m`; docstrings are none."""
    found: set[str] = set()
    texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts:
            found.update(re.findall(r"\b(?:from|import) (arena[\w.]*)", node.value))
            if node.value in modules():
                found.add(node.value)
    return found


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def folder_of(module: str) -> str:
    """The folder a module lies in, as the floors name it."""
    path = modules()[module]
    folder = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return "arena" if folder in INSIDE_ARENA else folder


def is_downhill(source: str, target: str) -> bool:
    return any(
        source in tower and target in tower and tower.index(target) <= tower.index(source)
        for tower in (READERS, WRITER)
    )


def test_every_folder_has_its_floor() -> None:
    assert {folder_of(name) for name in modules()} == {*READERS, *WRITER}


@pytest.mark.parametrize("module", modules())
def test_imports_point_downwards(module: str) -> None:
    tree = tree_of(modules()[module])
    upwards = [
        target
        for target in sorted(imports_of(tree) | programs_of(tree))
        if target in modules()
        and not is_downhill(folder_of(module), folder_of(target))
        and (module, target) not in EXCEPTIONS
    ]
    assert upwards == [], f"{module} stands below what it imports"


@pytest.mark.parametrize(("module", "target"), EXCEPTIONS)
def test_no_exception_is_left_over(module: str, target: str) -> None:
    tree = tree_of(modules()[module])
    assert target in imports_of(tree) | programs_of(tree)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import arena\narena.attach('x')", {"arena.readers"}),
        ("import arena as shared\ndef f():\n    return shared.Arena", {"arena.readers"}),
        ("from arena import attach", {"arena.readers"}),
        ("def f():\n    from arena import readers", {"arena.readers"}),
        ("import arena\narena.NotLive", {"arena"}),
        ("import arena\narena.layouts.slots.x()", {"arena.layouts", "arena.layouts.slots"}),
        ("if TYPE_CHECKING:\n    from arena.errors import NotLive", {"arena.errors"}),
        ("import arena.layouts.slots", {"arena.layouts.slots"}),
    ],
)
def test_the_walk_sees_through_the_door(text: str, found: set[str]) -> None:
    assert imports_of(ast.parse(text)) == found


def test_a_program_in_a_string_is_seen() -> None:
    tree = ast.parse('"""from arena.readers import x"""\nrun("from arena.readers.cli import dump")')
    assert programs_of(tree) == {"arena.readers.cli"}


# ---- what C files use of each other


def without_comments(text: str) -> str:
    """C source in which comments, strings and directives are blank; every line stays where it is."""

    def blank(match: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", match[0])

    text = re.sub(
        r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'', blank, text, flags=re.S
    )
    return re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", blank, text, flags=re.M)


def inside_braces(text: str) -> str:
    """Bodies of functions, and tables: where a name is used and not declared."""
    found: list[str] = []
    depth = 0
    for part in re.split(r"([{}])", without_comments(text)):
        depth += (part == "{") - (part == "}")
        if depth > 0:
            found.append(part)
    return " ".join(found)


def functions_of(text: str) -> Iterator[tuple[str, bool, int, int]]:
    """Functions a C file defines: name, whether it is the file's own, first and last line."""
    code = without_comments(text)
    depth = start = opened = 0
    head = ""
    for match in re.finditer(r"[{};]", code):
        if match[0] == "{":
            if depth == 0:
                head, opened = code[start : match.start()], start
            depth += 1
            continue
        depth -= match[0] == "}"
        if depth > 0:
            continue
        if match[0] == "}" and head.rstrip().endswith(")"):
            named = re.search(r"(?<!\w)(?!__attribute__)([A-Za-z_]\w*)\s*\(", head)
            assert named is not None, head
            first = code.count("\n", 0, opened + len(head) - len(head.lstrip())) + 1
            last = code.count("\n", 0, match.start()) + 1
            yield named[1], "static" in head.split(), first, last
        start, head = match.end(), ""


@cache
def native_files() -> dict[str, str]:
    folder = ROOT / "arena" / "native"
    return {
        path.name: path.read_text(encoding="utf-8")
        for path in sorted([*folder.glob("*.c"), *folder.glob("*.h")])
        if path.name != "_core.c"
    }


def uses_in_c(files: Mapping[str, str]) -> dict[str, set[str]]:
    """For each C file those it includes, and those that define a function it names.

    A header stands for itself: a table of functions and the files it names may share one that says
    what such a function is.
    """
    homes = {
        function: name
        for name, text in files.items()
        for function, is_own, _, _ in functions_of(text)
        if not is_own
    }
    uses = {}
    for name, text in files.items():
        words = set(re.findall(r"[A-Za-z_]\w*", inside_braces(text)))
        named = {home for function, home in homes.items() if function in words}
        included = set(re.findall(r'^#include "(.*)"', text, re.M))
        uses[name] = (included | named) - {name}
    return uses


def test_c_is_read_as_written() -> None:
    text = (
        '/* f() { */\nstatic int\nf(int a)\n{\n    return g("}{") + a;\n}\n'
        "struct s {\n  int x;\n};\nint k(void) { return 0; }\n"
    )
    assert list(functions_of(text)) == [("f", True, 2, 6), ("k", False, 10, 10)]
    files = {
        "a.c": '#include "b.h"\nvoid a(void) { b(); }',
        "b.h": "void b(void);",
        "b.c": "void b(void) { a(); }",
    }
    assert uses_in_c(files) == {"a.c": {"b.h", "b.c"}, "b.h": set(), "b.c": {"a.c"}}
    assert circles(uses_in_c(files)) == [{"a.c", "b.c"}]


# ---- circles


def circles(arrows: Mapping[str, Iterable[str]]) -> list[set[str]]:
    """Groups of nodes each of which reaches the others."""
    reached: dict[str, set[str]] = {}
    for node in arrows:
        seen: set[str] = set()
        ahead = list(arrows[node])
        while ahead:
            if (target := ahead.pop()) not in seen:
                seen.add(target)
                ahead += arrows.get(target, ())
        reached[node] = seen
    found: list[set[str]] = []
    for node, seen in reached.items():
        if node in seen and not any(node in circle for circle in found):
            found.append({other for other in seen if node in reached.get(other, ())})
    return found


def arrows_between(files: Mapping[str, Path]) -> dict[str, set[str]]:
    return {
        name: imports_of(tree_of(path), name.rpartition(".")[0]) & set(files) - {name}
        for name, path in files.items()
    }


@pytest.mark.parametrize(
    "files",
    [
        pytest.param(modules, id="sources"),
        pytest.param(modules_of_tests, id="tests", marks=pytest.mark.slow),
    ],
)
def test_no_circle_of_python_modules(files: object) -> None:
    assert callable(files)
    arrows = arrows_between(files())
    found = circles(arrows)
    print(f"{len(arrows)} modules, {sum(map(len, arrows.values()))} imports, {len(found)} circles")
    assert found == []


def test_no_circle_of_c_files() -> None:
    arrows = uses_in_c(native_files())
    found = circles(arrows)
    print(f"{len(arrows)} C files, {sum(map(len, arrows.values()))} uses, {len(found)} circles")
    assert found == []


# ---- sizes


def sources() -> dict[str, str]:
    """Text of our Python and C files by path."""
    python = {str(path.relative_to(ROOT)): path for path in modules().values()}
    texts = {name: path.read_text(encoding="utf-8") for name, path in python.items()}
    return texts | {f"arena/native/{name}": text for name, text in native_files().items()}


def functions_in(name: str, text: str) -> Iterator[tuple[str, int]]:
    """Functions of a file and how many lines each has, without decorators."""
    if not name.endswith(".py"):
        for function, _, first, last in functions_of(text):
            yield f"{name} {function}", last - first + 1
        return
    for node in ast.walk(tree_of(ROOT / name)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield f"{name} {node.name}", node.end_lineno - node.lineno + 1


def report(what: str, sizes: Mapping[str, int], limit: int) -> list[str]:
    """Print the figures; what is over the limit."""
    over = [name for name, size in sizes.items() if size > limit]
    print(
        f"{len(sizes)} {what}, {sum(sizes.values())} lines, {len(over)} over {limit}; the largest:"
    )
    for name in sorted(sizes, key=lambda each: -sizes[each])[:10]:
        print(f"  {sizes[name]:5} {name}")
    return [f"{sizes[name]} {name}" for name in over if name not in LONG_MODULES]


def test_no_module_outgrows_its_room() -> None:
    sizes = {name: len(text.splitlines()) for name, text in sources().items()}
    assert report("modules", sizes, MODULE_LINES) == []


def test_no_function_outgrows_a_screen() -> None:
    sizes: dict[str, int] = {}
    for name, text in sources().items():
        for function, lines in functions_in(name, text):
            sizes[function] = max(lines, sizes.get(function, 0))
    assert report("functions", sizes, FUNCTION_LINES) == []


# ---- what is installed, and what loads


def test_the_installed_package_has_every_module() -> None:
    installed = {name_of(path, INSTALLED, ("arena",)) for path in INSTALLED.rglob("*.py")}
    assert installed == set(modules())


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
    names = loaded_by("import arena.readers.cli, arena.readers.routes.cli, arena.readers.views.cli")
    plain = foreign(loaded_by("pass"))
    assert foreign(names) - plain <= RUNTIME
    assert not {name for name in names if name.startswith("arena.writer")}
    heavy = {"asyncio", "multiprocessing", "importlib.metadata", "decimal", "fractions", "html"}
    assert not heavy & names - loaded_by("import numpy")


def test_routes_load_on_first_use() -> None:
    assert "arena.readers.routes" not in loaded_by("import arena; arena.attach")
    assert "arena.readers.routes" in loaded_by("import arena; arena.Router")


@pytest.mark.parametrize("name", PLACES)
def test_a_former_place_has_the_names_of_the_new_ones(name: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"{name} is a former place; import from arena"):
        former = importlib.reload(importlib.import_module(name))
    places = [vars(importlib.import_module(place)) for place in PLACES[name]]
    own = {key for place in places for key in place if not key.startswith("__")}
    assert own <= set(vars(former))
    assert all(any(vars(former)[key] is place.get(key) for place in places) for key in own)


def test_importing_the_package_does_not_load_readers_or_native_code() -> None:
    names = loaded_by("import arena")
    assert not {name for name in names if name.startswith(("arena.readers", "arena.native"))}
    assert "numpy" not in names
    assert "arena.readers" in loaded_by("import arena; arena.attach")


@pytest.mark.parametrize(
    ("lacking", "missing"),
    [
        ("readers", "arena.readers"),
        ("native/_core.*so", "arena.native._core"),
        ("native/_handle.*so", "arena.native._handle"),
    ],
)
def test_source_that_was_not_built_says_so(tmp_path: Path, lacking: str, missing: str) -> None:
    """The folder beside a program stands before what is installed."""
    shutil.copytree(INSTALLED, tmp_path / "arena", ignore=shutil.ignore_patterns("__pycache__"))
    found = list((tmp_path / "arena").glob(lacking))
    assert found
    for path in found:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    code = "import arena, sys\narena.ArenaMissing\nfor name in ('attach', 'Pool', '__all__'):\n"
    code += "  try: getattr(arena, name)\n  except ImportError as error: print(error.name, error)\n"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    for line in lines:
        assert line.startswith(f"{missing} {tmp_path / 'arena'} has no {missing}")
        assert "pip install ." in line


def test_a_library_that_is_missing_is_named_as_it_is() -> None:
    code = "import sys; sys.modules['posix_ipc'] = None\nimport arena; arena.attach"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert "posix_ipc" in done.stderr.splitlines()[-1]
    assert "pip install" not in done.stderr
