"""What a command answers: text for people, or with ``--json`` one document for programs, on the standard output."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any

import typer

from .notices import notices

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on the standard output, no other text.")]


@dataclass(frozen=True)
class Answer:
    """Of a command that ended.

    Attributes:
        content: the document, but for its ``warnings``; see `plain` for what it may hold.
        text: for people: a string, or what Rich prints; None where there is nothing to say.
        failed: whether a part of what was asked for could not be done, so that the exit code is 1.
    """

    content: dict[str, Any]
    text: Any = None
    failed: bool = False


def answering(command: Callable[..., Answer | None]) -> Callable[..., None]:
    """Gives a command the option ``--json``, and prints what it answers; nothing where that is None."""
    own = inspect.signature(command, eval_str=True)
    asked = inspect.Parameter("json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Json)

    @wraps(command)
    def run(**values: Any) -> None:
        as_json = values.pop("json")
        with notices() as noticed:
            answer = command(**values)
        if answer is None:
            return
        if as_json:
            typer.echo(document({**answer.content, "warnings": noticed}))
        elif isinstance(answer.text, str):
            typer.echo(answer.text)
        elif answer.text is not None:
            from rich.console import Console

            Console(markup=False).print(answer.text)
        if answer.failed:
            raise typer.Exit(1)

    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own.parameters.values()]
    run.__signature__ = inspect.Signature([*parameters, asked])  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in (*parameters, asked)}
    return run


def document(content: Any) -> str:
    """Strict JSON: what is not finite is null."""
    return json.dumps(plain(content), indent=2, allow_nan=False)


def plain(value: Any, digits: int | None = None) -> Any:
    """What JSON can hold of dictionaries, lists, tuples, numbers and text; of anything else, its text.

    Args:
        digits: significant ones of numbers that are not whole, if not all.
    """
    if isinstance(value, dict):
        return {str(key): plain(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, digits) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return float(value) if digits is None else float(f"{value:.{digits}g}")
    return value if isinstance(value, bool | int | str | None) else str(value)
