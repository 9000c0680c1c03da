"""Dataclasses of options as options of a command: one place for names, defaults and texts."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from functools import wraps
from typing import Annotated, Any, TypeVar, get_args

import typer

from ..errors import InputError

T = TypeVar("T")
Presets = Mapping[str, Mapping[str, Any]]


def with_options(presets: Presets | None = None, **groups: type) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Gives a command the fields of dataclasses as options; each group arrives as one argument, an instance.

    With presets, values of fields by name, it has an option ``--preset`` as well, the first unless told. What the user
    says counts before the preset, and that before the defaults of the fields.
    """

    def decorate(command: Callable[..., T]) -> Callable[..., T]:
        hints = typing.get_type_hints(command, include_extras=True)
        own = [
            p.replace(annotation=hints[name])
            for name, p in inspect.signature(command).parameters.items()
            if name not in groups
        ]
        added = [*_preset(presets)] if presets else []
        usual = next(iter(presets.values())) if presets else None
        added += [parameter for group in groups.values() for parameter in _parameters(group, usual)]

        @wraps(command)
        def run(**arguments: Any) -> T:
            chosen = _chosen(presets, arguments.pop("preset")) if presets else {}
            made = {name: _instance(group, arguments, chosen) for name, group in groups.items()}
            return command(**arguments, **made)

        run.__signature__ = inspect.Signature(own + added)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in own + added}
        return run

    return decorate


def _preset(presets: Presets) -> Iterator[inspect.Parameter]:
    option = typer.Option(help=f"What the options are unless told: {', '.join(presets)}.")
    yield inspect.Parameter(
        "preset", inspect.Parameter.KEYWORD_ONLY, default=next(iter(presets)), annotation=Annotated[str, option]
    )


def _chosen(presets: Presets, name: str) -> Mapping[str, Any]:
    if name not in presets:
        raise InputError(f"preset: expected one of {', '.join(presets)}, got {name!r}")
    return presets[name]


def _parameters(group: type, preset: Mapping[str, Any] | None) -> list[inspect.Parameter]:
    """Where there is a preset, an option that the user does not give arrives as None."""
    hints = typing.get_type_hints(group)
    parameters = []
    for field in fields(group):
        default: Any = field.default if preset is None else preset.get(field.name, field.default)
        kind = hints[field.name]
        if _numbers(kind):
            kind, default = str, ",".join(map(str, default))
        shown: Any = True if preset is None or default == "" else str(default)
        option = typer.Option(help=field.metadata["help"], show_default=shown)
        parameters.append(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=default if preset is None else None,
                annotation=Annotated[kind if preset is None else kind | None, option],
            )
        )
    return parameters


def _instance(group: type, arguments: dict[str, Any], preset: Mapping[str, Any]) -> Any:
    hints = typing.get_type_hints(group)
    values = {field.name: preset[field.name] for field in fields(group) if field.name in preset}
    for field in fields(group):
        value = arguments.pop(field.name)
        number = _numbers(hints[field.name])
        if isinstance(value, str) and number:
            try:
                value = tuple(number(part) for part in value.split(",") if part)
            except ValueError:
                expected = "integers" if number is int else "numbers"
                raise InputError(f"{field.name}: expected {expected} with commas between, got {value!r}") from None
        if value is not None or field.name not in values:
            values[field.name] = field.default if value is None else value
    return group(**values)


def _numbers(kind: Any) -> type | None:
    """What a tuple of any length is of, where it is one of numbers."""
    of = get_args(kind)
    return of[0] if len(of) == 2 and of[0] in (int, float) and of[1] is ... else None
