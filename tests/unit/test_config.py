"""Settings of a run: flag over environment over file over default, for every parameter there is.

The command is resolved in this process, as a start resolves it; nothing is run.
"""

import itertools
import tomllib
import typing
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Any

import pytest
import typer

from arena.writer.cli import config
from arena.writer.cli import writer as cli
from arena.writer.cli.options import BridgeDialect, Dialect
from arena.writer.stream.socket import DIALECTS

RUN: Any = typer.main.get_command(cli.app).commands["run"]  # type: ignore[attr-defined]
HINTS = typing.get_type_hints(RUN.callback)
SETTINGS = [param for param in RUN.params if param.name not in ("help", "config_file")]
NEEDED = ["--name", "pools"]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in config.os.environ if name.startswith("ARENA_WRITER_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def to_file(text: str) -> Path:
        path = tmp_path / "arena-writer.toml"
        path.write_text(text)
        return path

    return to_file


def resolved(*words: object) -> Any:
    return RUN.resolve("run", [str(word) for word in words], None)


def kind(name: str) -> Any:
    """The annotation of a parameter without its None."""
    hint = HINTS[name]
    return next((each for each in typing.get_args(hint) if each is not NoneType), hint)


def samples(param: Any) -> list[Any]:
    """Four allowed values of a parameter, as a file holds them; the last is its default."""
    hint = kind(param.name)
    if hint is bool:
        return [True, False, True, False]
    if isinstance(hint, type) and issubclass(hint, Enum):
        names = [each.value for each in hint]
        return [*itertools.islice(itertools.cycle(names), 3), param.default]
    values = {int: [11, 12, 13], float: [1.5, 2.5, 3.5]}.get(hint, ["a", "b c", "d'\"\\\té"])
    return [*values, param.default]


def plain(value: Any) -> Any:
    value = value.value if isinstance(value, Enum) else value
    return str(value) if isinstance(value, Path) else value


def as_flag(param: Any, value: Any) -> list[str]:
    if kind(param.name) is bool:
        return [param.opts[0] if value else param.secondary_opts[0]]
    return [param.opts[0], str(value)]


@pytest.mark.parametrize("param", SETTINGS, ids=lambda param: param.name)
@pytest.mark.parametrize("given", list(itertools.product([False, True], repeat=3)), ids=str)
def test_the_nearest_source_wins(
    param: Any,
    given: tuple[bool, bool, bool],
    write: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flag, variable, file, default = samples(param)
    key = param.opts[0].lstrip("-")
    words: list[object] = [] if param.name == "name" else [*NEEDED]
    if not any(given) and param.name == "name":
        return  # the one that has no default
    if given[0]:
        words += as_flag(param, flag)
    if given[1]:
        text = str(variable).lower() if isinstance(variable, bool) else str(variable)
        monkeypatch.setenv("ARENA_WRITER_" + key.upper().replace("-", "_"), text)
    if given[2]:
        words += ["--config", write("\n".join(config.as_toml([setting(key, file)])))]
    found = {each.key: each for each in config.settings(resolved(*words))}[key]
    sources = ["flag", "environment", "file", "default"]
    place = [*given, True].index(True)
    assert plain(found.value) == plain([flag, variable, file, default][place])
    assert found.source == sources[place]


def setting(key: str, value: Any) -> config.Setting:
    return config.Setting(key, value, "file")


def test_the_dialects_are_those_of_the_feed() -> None:
    assert {each.value for each in Dialect} == set(DIALECTS)
    assert {each.value for each in BridgeDialect} < set(DIALECTS)


def test_a_flag_is_named_like_its_key_and_variable() -> None:
    for param in SETTINGS:
        assert param.opts[0] == "--" + param.name.replace("_", "-")


def test_the_printed_settings_are_a_file_that_sets_the_same(write: Callable[[str], Path]) -> None:
    first = resolved("--name", 'po"ols', "--socket", "a\\b é", "--max-pools", "7", "--keep-segment")
    path = write("\n".join(config.as_toml(config.settings(first))))
    again = resolved("--config", path)
    assert [(each.key, each.value) for each in config.settings(again)] == [
        (each.key, each.value) for each in config.settings(first)
    ]
    assert tomllib.loads(path.read_text())["name"] == 'po"ols'


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("max-pool = 5", ["max-pool is no setting", "did you mean max-pools?"]),
        ("max_pools = 5", ["max_pools is no setting", "did you mean max-pools?"]),
        ("zzz = 5", ["zzz is no setting", "settings are name, socket"]),
        ('config = "x"', ["config is no setting"]),
        ("help = true", ["help is no setting"]),
        ("[node]", ["node is a table; a string is allowed"]),
        ('max-pools = "5"', ['max-pools is "5"; an integer is allowed']),
        ("max-pools = true", ["max-pools is true; an integer is allowed"]),
        ("max-pools = 1.0", ["max-pools is 1.0; an integer is allowed"]),
        ("max-pools = [5]", ["max-pools is [5]; an integer is allowed"]),
        ("max-pools = 0", ["max-pools: '0' was found", "1"]),
        ("max-pools = 16777217", ["max-pools: '16777217' was found", "16777216"]),
        ("scrape-timeout = -0.5", ["scrape-timeout: '-0.5' was found", "0"]),
        ('scrape-timeout = "5"', ['scrape-timeout is "5"; a number is allowed']),
        ("mode = 0o640", ["mode is 416; a string is allowed"]),
        ("keep-segment = 1", ["keep-segment is 1; true or false is allowed"]),
        ('dialect = "x"', ["dialect: 'x' was found", "'seed-tagged'"]),
        ("dialect = 1", ['dialect is 1; one of "auto", "exex"']),
        ("metrics-port = 65536", ["metrics-port: '65536' was found", "65535"]),
        ('rpc = ["https://me:key@host/key"]', ["rpc is", "https://***@host/***", "a string"]),
        ("max-pools =\n\n", ["is not TOML", "line 1"]),
        ("max-pools = 5\nmax-pools = 6\n\n", ["is not TOML", "line 2"]),
    ],
)
def test_a_file_is_refused_with_its_name_key_and_what_is_allowed(
    line: str, shown: list[str], write: Callable[[str], Path]
) -> None:
    path = write(line)
    with pytest.raises(config.SettingsError) as caught:
        resolved(*NEEDED, "--config", path)
    assert str(caught.value).startswith(str(path))
    for text in shown:
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("words", "shown"),
    [("max-pools = 1", 1), ("max-pools = 16777216", 1 << 24), ("scrape-timeout = 0", 0.0)],
)
def test_the_ends_of_a_range_are_inside(
    words: str, shown: float, write: Callable[[str], Path]
) -> None:
    key = words.split(" ")[0]
    found = config.settings(resolved(*NEEDED, "--config", write(words)))
    assert {each.key: each.value for each in found}[key] == shown


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "large").write_bytes(b"#" * (config.MAX_FILE_NBYTES + 1))
    (tmp_path / "largest").write_bytes(b"#" * config.MAX_FILE_NBYTES)
    for name, reason in (
        ("none", "No such file"),
        (".", "Is a directory"),
        ("binary", "is not TOML"),
        ("large", "more than"),
    ):
        with pytest.raises(config.SettingsError, match=reason):
            resolved(*NEEDED, "--config", tmp_path / name)
    assert resolved(*NEEDED, "--config", tmp_path / "largest").params["name"] == "pools"


@pytest.mark.parametrize(
    ("variable", "value", "shown"),
    [
        ("MAX_POOLS", "many", "'many' was found"),
        ("MAX_POOLS", "0", "'0' was found"),
        ("KEEP_SEGMENT", "perhaps", "'perhaps' was found"),
        ("PRESET", "warm", "'warm' was found"),
        ("CONFIG", "/none.toml", "/none.toml cannot be read"),
    ],
)
def test_a_variable_is_refused_by_its_name(
    variable: str, value: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"ARENA_WRITER_{variable}", value)
    with pytest.raises(config.SettingsError) as caught:
        resolved(*NEEDED)
    assert shown in str(caught.value)
    if variable != "CONFIG":
        assert str(caught.value).startswith(f"ARENA_WRITER_{variable}: ")


def test_a_wrong_flag_stays_wrong_usage(write: Callable[[str], Path]) -> None:
    with pytest.raises(typer.BadParameter):
        resolved(*NEEDED, "--config", write("max-pools = 5"), "--max-pools", "x")


def test_a_wrong_value_in_the_file_does_not_matter_below_a_flag(
    write: Callable[[str], Path],
) -> None:
    context = resolved(*NEEDED, "--config", write("max-pools = 0"), "--max-pools", "3")
    assert context.params["max_pools"] == 3


def test_unknown_variables_are_named_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARENA_WRITER_MAX_POOL", "3")
    monkeypatch.setenv("ARENA_WRITER_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("ARENA_WRITER_MAX_POOLS", "4")
    context = resolved(*NEEDED)
    assert config.unknown_variables(context) == [
        "ARENA_WRITER_MAX_POOL",
        "ARENA_WRITER_SERVICE_HOST",
    ]
    assert context.params["max_pools"] == 4


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://host:8545", "https://host:8545"),
        ("https://host:8545/", "https://host:8545"),
        ("https://me:secret@host/v3/KEY?q=1#f", "https://***@host/***"),
        ("wss://:secret@host", "wss://***@host"),
        ("https://host?token=1", "https://host/***"),
        ("nats://a:b@one:4222,nats://c@two", "nats://***@one:4222,nats://***@two"),
        ("ipc:///run/reth.ipc", "ipc:///run/reth.ipc"),
        ("/run/reth.ipc", "/run/reth.ipc"),
    ],
)
def test_nothing_secret_of_a_url_is_shown(text: str, shown: str) -> None:
    assert config.without_secrets(text) == shown
    (line,) = config.as_checked([config.Setting("rpc", text, "file")])
    assert line == f'rpc = "{shown}"  # file'


def test_a_list_takes_an_array_and_nothing_else(write: Callable[[str], Path]) -> None:
    app = typer.Typer()

    @app.command(cls=config.RunCommand)
    def listed(
        context: typer.Context,
        servers: typing.Annotated[list[str], typer.Option("--servers")] = [],  # noqa: B006
        file: typing.Annotated[
            Path | None, typer.Option("--config", is_eager=True, callback=config.load_file)
        ] = None,
    ) -> None:
        raise AssertionError("never run")

    command: Any = typer.main.get_command(app)

    def of(text: str) -> Any:
        return command.resolve("listed", ["--config", str(write(text))], None)

    context = of('servers = ["a", "b"]')
    assert list(context.params["servers"]) == ["a", "b"]
    assert next(config.as_toml(config.settings(context))) == 'servers = ["a", "b"]'
    for wrong in ('servers = "a"', "servers = [1]"):
        with pytest.raises(config.SettingsError, match="an array, each a string is allowed"):
            of(wrong)


def test_the_settings_can_be_taken_anew(
    write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write('log-level = "error"\nmax-pools = 5')
    context = resolved(*NEEDED, "--config", path, "--max-pools", "9")
    write('log-level = "debug"\nmax-pools = 6')
    again = config.reread(context)
    assert (str(again["log_level"]), again["max_pools"]) == ("debug", 9)
    monkeypatch.setenv("ARENA_WRITER_LOG_LEVEL", "warning")
    assert str(config.reread(context)["log_level"]) == "warning"
    write('log-level = "loud"')
    monkeypatch.delenv("ARENA_WRITER_LOG_LEVEL")
    with pytest.raises(config.SettingsError, match="'loud' was found"):
        config.reread(context)


def test_a_required_setting_that_left_the_file_is_refused_when_taken_anew(
    write: Callable[[str], Path],
) -> None:
    context = resolved("--config", write('name = "pools"'))
    write("")
    with pytest.raises(config.SettingsError, match="name"):
        config.reread(context)
