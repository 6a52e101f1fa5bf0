"""The settings of `arena-writer run`: flag over environment over file over default.

Everything is derived from the command's parameters, so an option is a key of the file and a variable
without a line here. The library of the command line finds the value that wins and where it came from;
this module reads the file, says in one typed line what is wrong with it, and shows the outcome.
"""

import difflib
import json
import os
import re
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from arena.errors import SettingsError

ENVIRONMENT_PREFIX = "ARENA_WRITER"
CONFIG_OPTION = "config"
MAX_FILE_NBYTES = 1 << 20

_SOURCES = {
    "COMMANDLINE": "flag",
    "ENVIRONMENT": "environment",
    "DEFAULT_MAP": "file",
    "DEFAULT": "default",
}
# Context.meta, shared with the parent command, which knows nothing of these.
_ARGUMENTS = "arena.writer.cli.config.arguments"
_FILE = "arena.writer.cli.config.file"
_CHECK = "arena.writer.cli.config.check"


@dataclass(frozen=True, slots=True)
class Setting:
    """One parameter in effect; `source` is flag, environment, file or default."""

    key: str
    value: Any
    source: str


class RunCommand(TyperCommand):
    """A command whose parameters also come from ARENA_WRITER_* and from the file of --config.

    Wrong flags are wrong usage, as everywhere; a wrong file or variable is a SettingsError that names it.
    """

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        """The context with every parameter resolved; one line and exit code 2 for a SettingsError."""
        try:
            return self.resolve(info_name, args, parent, **extra)
        except SettingsError as error:
            typer.echo(f"arena-writer: SettingsError: {error}", err=True)
            raise typer.Exit(2) from error

    def resolve(self, info_name: str | None, args: list[str], parent: Any, **extra: Any) -> Any:
        """As make_context. SettingsError."""
        given = list(args)
        extra.setdefault("auto_envvar_prefix", ENVIRONMENT_PREFIX)
        context = super().make_context(info_name, args, parent, **extra)
        context.meta[_ARGUMENTS] = given
        return context

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As the library, but a bad value knows the file or variable it came from."""
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            param = error.param
            if param is None or param.name is None:
                raise
            source = _source(ctx, param.name)
            if source not in ("environment", "file"):
                raise
            if source == "environment":
                found = os.environ.get(_variable(param))
            else:
                found = (ctx.default_map or {}).get(param.name)
            reason = without_secrets(f"{found!r} was found; {error.message}")
            raise refusal(ctx, param.name, reason) from error


def load_file(context: typer.Context, path: Path | None) -> Path | None:
    """Callback of --config, eager: make the file's values the defaults of the other parameters.

    SettingsError.
    """
    context.meta[_FILE] = path
    if path is None:
        return None
    command = context.command
    keys = {_key(param): param for param in command.params if _is_setting(param)}
    wanted = typing.get_type_hints(command.callback)
    values: dict[str, Any] = {}
    for key, found in _read_toml(path).items():
        param = keys.get(key)
        if param is None:
            raise SettingsError(
                f"{path}: {key} is no setting of arena-writer run{_nearest(key, list(keys))}",
                file=str(path),
                key=key,
            )
        assert param.name is not None
        values[param.name] = _checked(path, key, found, _allowed(wanted[param.name]))
    context.default_map = {**(context.default_map or {}), **values}
    return path


def reread(context: typer.Context) -> dict[str, Any]:
    """The parameters as the same flags, the environment and the file say now. SettingsError."""
    command = context.command
    assert isinstance(command, RunCommand)
    arguments = list(context.meta[_ARGUMENTS])
    try:
        again = command.resolve(context.info_name, arguments, context.parent)
    except typer.BadParameter as error:  # a required one is gone from the file
        raise SettingsError(f"{context.meta[_FILE]}: {error.format_message()}") from error
    return dict(again.params)


def check_only(context: typer.Context) -> None:
    """Let the command end once it has refused what it refuses without node, socket or memory."""
    context.meta[_CHECK] = True


def is_check(context: typer.Context) -> bool:
    """Whether check_only was called."""
    return bool(context.meta.get(_CHECK))


def settings(context: typer.Context) -> list[Setting]:
    """Every setting of a resolved context, in the order of the command's parameters."""
    return [
        Setting(_key(param), context.params[param.name], _source(context, param.name))
        for param in context.command.params
        if _is_setting(param) and param.name is not None
    ]


def unknown_variables(context: typer.Context) -> list[str]:
    """Names of variables with our prefix that set nothing, sorted."""
    known = {_variable(param) for param in context.command.params}
    return sorted(
        name
        for name in os.environ
        if name.startswith(ENVIRONMENT_PREFIX + "_") and name not in known
    )


def refusal(context: typer.Context, name: str, reason: str) -> SettingsError:
    """The error of parameter `name` of a context, wherever its value came from."""
    param = next(param for param in context.command.params if param.name == name)
    source, key = _source(context, name), _key(param)
    reason = reason.rstrip(".")
    if source == "environment":
        where = _variable(param)
    elif source == "file":
        where = f"{context.meta[_FILE]}: {key}"
    else:
        where = f"--{key}"
    return SettingsError(f"{where}: {reason}", source=source, key=key, reason=reason)


def as_toml(found: Sequence[Setting]) -> Iterator[str]:
    """Lines of a file that sets the same; settings without a value are comments."""
    for each in found:
        value = _toml(each.value)
        yield f"# {each.key} is not set" if value is None else f"{each.key} = {value}"


def as_checked(found: Sequence[Setting]) -> Iterator[str]:
    """The same lines with their sources, and nothing of a URL that may be secret."""
    for each in found:
        value = _toml(each.value)
        if value is None:
            yield f"# {each.key} is not set"
        else:
            yield f"{each.key} = {without_secrets(value)}  # {each.source}"


def without_secrets(text: str) -> str:
    """`text` with user, password, path and query of every URL in it hidden; a key may be in any."""
    return re.sub(r"(\w+://)([^\s,'\"/?#]*)([^\s,'\"]*)", _hide, text)


def _hide(match: re.Match[str]) -> str:
    scheme, authority, rest = match.groups()
    if scheme.lower() == "ipc://":  # a path of this machine
        return match[0]
    user, at, host = authority.rpartition("@")
    return f"{scheme}{'***@' if user or at else ''}{host}{'/***' if rest.strip('/') else ''}"


def _is_setting(param: Any) -> bool:
    """A parameter that means something in a file: not --help, and not the file itself."""
    return bool(param.expose_value) and _key(param) not in ("help", CONFIG_OPTION)


def _key(param: Any) -> str:
    longest: str = max(param.opts, key=len)
    return longest.lstrip("-")


def _variable(param: Any) -> str:
    """The variable the library reads for a parameter."""
    named: str | None = param.envvar
    return named or f"{ENVIRONMENT_PREFIX}_{param.name.upper()}"


def _source(context: typer.Context, name: str) -> str:
    found = context.get_parameter_source(name)
    return "default" if found is None else _SOURCES.get(found.name, found.name.lower())


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_NBYTES + 1)
        if len(content) > MAX_FILE_NBYTES:
            raise SettingsError(
                f"{path} has more than {MAX_FILE_NBYTES} bytes: it is no file of settings",
                file=str(path),
            )
        return tomllib.loads(content.decode())
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be read: {error.strerror}; correct --config or the file's permissions",
            file=str(path),
            reason=error.strerror,
        ) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path} is not TOML: {error}", file=str(path)) from error


def _nearest(key: str, keys: Sequence[str]) -> str:
    close = difflib.get_close_matches(key.replace("_", "-"), keys, n=1)
    return f"; did you mean {close[0]}?" if close else f"; settings are {', '.join(keys)}"


@dataclass(frozen=True, slots=True)
class _Allowed:
    """TOML types a parameter takes; `word` says so. `is_list`: an array of them."""

    kinds: tuple[type, ...]
    word: str
    is_list: bool


def _allowed(annotation: Any) -> _Allowed:
    """What a file may give for a parameter of that annotation."""
    origin = typing.get_origin(annotation)
    if origin in (types.UnionType, typing.Union):
        (annotation,) = (each for each in typing.get_args(annotation) if each is not types.NoneType)
        origin = typing.get_origin(annotation)
    if origin in (list, tuple):
        one = _allowed(typing.get_args(annotation)[0])
        return _Allowed(one.kinds, f"an array, each {one.word}", True)
    if annotation is bool:
        return _Allowed((bool,), "true or false", False)
    if annotation is int:
        return _Allowed((int,), "an integer", False)
    if annotation is float:
        return _Allowed((int, float), "a number", False)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        names = ", ".join(f'"{each.value}"' for each in annotation)
        return _Allowed((str,), f"one of {names}", False)
    return _Allowed((str,), "a string", False)


def _checked(path: Path, key: str, found: Any, allowed: _Allowed) -> Any:
    """`found` as the command line would give it: text, but true and false stay what they are."""

    def one(value: Any) -> Any:
        # To Python true is an integer; to whoever wrote the file it is not.
        is_kind = isinstance(value, allowed.kinds)
        if not is_kind or (isinstance(value, bool) and bool not in allowed.kinds):
            raise refused
        return value if isinstance(value, bool) else str(value)

    shown = without_secrets(_toml(found) or "")
    refused = SettingsError(
        f"{path}: {key} is {shown}; {allowed.word} is allowed",
        file=str(path),
        key=key,
        found=shown,
        allowed=allowed.word,
    )
    if not allowed.is_list:
        return one(found)
    if not isinstance(found, list):
        raise refused
    return [one(each) for each in found]


def _toml(value: Any) -> str | None:
    """`value` as TOML writes it; None for what is not set."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Enum):
        return _toml(value.value)
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(each) or '' for each in value)}]"
    if isinstance(value, Mapping):
        return "a table"
    # A basic string escapes as JSON does, and DEL besides.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
