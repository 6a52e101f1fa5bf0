"""Commands that take the options which a dataclass declares, each option once.

A field is an option: its name, its default, and in its Annotated type how it is called, what its help
says and which values it refuses. A field whose type is such a dataclass stands for that one's options,
in its place: they are what several commands share. A typer.Context is no option and given as it is.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

Declared = TypeVar("Declared")


@dataclass(frozen=True, slots=True)
class Check:
    """In the type of an option: refuses a value with ValueError, before anything is opened with it;
    what it returns is not used."""

    refuse: Callable[[Any], object]


def takes(
    declared: type[Declared],
) -> Callable[[Callable[[Declared], None]], Callable[..., None]]:
    """A function of a `declared` as a command of the options of it."""

    def wrap(body: Callable[[Declared], None]) -> Callable[..., None]:
        def command(**found: Any) -> None:
            body(_made(declared, found))

        parameters = [_parameter(*each) for each in _options(declared)]
        command.__name__, command.__doc__ = body.__name__, body.__doc__
        # What the library of the command line reads an ordinary function's parameters from.
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in parameters}
        return command

    return wrap


def checks_of(declared: type) -> Iterator[tuple[str, Check]]:
    """The options that refuse values, by their names, in the order of the declaration."""
    for field, annotation in _options(declared):
        if get_origin(annotation) is Annotated:
            yield from (
                (field.name, each) for each in get_args(annotation)[1:] if isinstance(each, Check)
            )


def _options(declared: Any) -> Iterator[tuple["Field[Any]", Any]]:
    hints = get_type_hints(declared, include_extras=True)
    for field in fields(declared):
        annotation = hints[field.name]
        if is_dataclass(annotation):
            yield from _options(annotation)
        else:
            yield field, annotation


def _parameter(field: "Field[Any]", annotation: Any) -> inspect.Parameter:
    default = inspect.Parameter.empty if field.default is MISSING else field.default
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _made(declared: Any, found: Mapping[str, Any]) -> Any:
    hints = get_type_hints(declared)
    return declared(
        **{
            field.name: _made(hints[field.name], found)
            if is_dataclass(hints[field.name])
            else found[field.name]
            for field in fields(declared)
        }
    )
