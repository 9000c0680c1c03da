"""What ``l2rfast register`` shows while it works."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from ..methods import stages


@contextmanager
def bars(quiet: bool) -> Iterator[tuple[Console, stages.Progress | None]]:
    """A bar with one line per stage, on standard error; nothing where quiet."""
    console = Console(stderr=True)
    if quiet:
        yield console, None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        tasks: dict[str, TaskID] = {}

        def progress(stage: str, fraction: float) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=1.0)
            bar.update(tasks[stage], completed=fraction)

        yield console, progress
