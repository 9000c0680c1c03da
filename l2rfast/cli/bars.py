"""What commands show on the standard error while they work, and how long the rest will take."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ..methods import stages

# Parts of the time that two brains of 160 x 192 x 224 took by default, on two threads of a busy machine without labels:
# an estimate. Stages that a registration does not have are passed over; of a network's nobody knows.
SHARES = {
    "reading": 4,
    "initialisation": 4,
    "resampling": 2,
    "features": 3,
    "discrete search": 9,
    "refinement, coarse": 7,
    "refinement, half": 20,
    "refinement, full": 16,
    "displacement field": 10,
    "warping": 5,
    "measures": 6,
    "picture": 17,
    "writing": 1,
}
LONG = 1e9  # seconds: how fast pairs were counts from the first on


def bar(console: Console, quiet: bool = False) -> Progress:
    """Of many pairs or steps: how many are done, for how long, and how long the rest will take."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, *times, console=console, disable=quiet, speed_estimate_period=LONG)


@contextmanager
def bars(quiet: bool) -> Iterator[tuple[Console, stages.Progress | None]]:
    """A bar with one line per stage of a registration, and on a terminal one for all of it; nothing where quiet."""
    console = Console(stderr=True, markup=False)
    if quiet:
        yield console, None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=console) as shown:
        tasks: dict[str, TaskID] = {}
        rest = Rest()
        whole = shown.add_task("registration", total=1.0, left="", visible=console.is_terminal)

        def progress(stage: str, fraction: float) -> None:
            if stage not in tasks:
                tasks[stage] = shown.add_task(stage, total=1.0, left="")
            shown.update(tasks[stage], completed=fraction)
            done, seconds = rest.at(stage, fraction, time.perf_counter())
            left = "" if seconds is None else f"{timedelta(seconds=round(seconds))} left"
            shown.update(whole, completed=done, left=left)

        yield console, progress


class Rest:
    """Of a registration that goes through its stages: how much of it is done, and the seconds that the rest will take,
    from their `SHARES` and how long those took that are over."""

    def __init__(self) -> None:
        self._over, self._spent, self._stage, self._time = 0.0, 0.0, "", 0.0
        self._later = [*SHARES]

    def at(self, stage: str, fraction: float, now: float) -> tuple[float, float | None]:
        """
        Args:
            stage: that it is in; where that is none of the known ones nothing is added.
            fraction: of the stage that is done.
            now: in seconds, of any clock.

        Returns:
            0 to 1; and seconds, None where nothing is done that they could be told by.
        """
        name = re.sub(r", .*, ", ", ", stage)  # of a refinement, without its metrics
        if self._stage in SHARES:
            self._spent += now - self._time
        if name != self._stage:
            self._over += SHARES.get(self._stage, 0)
        self._stage, self._time = name, now
        if name in SHARES:
            self._later = [*SHARES][[*SHARES].index(name) + 1 :]
        share = SHARES.get(name, 0)
        done = self._over + fraction * share
        rest = (1 - fraction) * share + sum(SHARES[each] for each in self._later)
        return done / (done + rest), self._spent * rest / done if done else None
