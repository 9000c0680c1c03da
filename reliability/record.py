"""The counts of a part's last full run: ``reliability/reports/PART.json``, which docs/reliability.md tells."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.machine import describe, software

REPORTS = Path(__file__).parent / "reports"


@contextmanager
def recorded(
    part: str, run: str = "", folder: Path = REPORTS, *, full: bool = True
) -> Iterator[MutableMapping[str, Any]]:
    """Counts that the run of a part fills; they are written where it ends without an exception.

    Args:
        part: ``python -m reliability.PART`` is what runs.
        run: which of its runs, where there are several, and each has a report ``PART-RUN.json``.
        folder: where its report goes.
        full: whether it tries all that ``make reliability`` does; of a shorter run nothing is written, as the report
            is of the last full one.

    Yields:
        What was counted by its name, as ``{"inputs": 100000, "refused in a sentence": 99120, "tracebacks": 0}``, in the
        order in which it is told; and what of that was found with each thing that was tried, as a dictionary by its
        name, which is kept alone.
    """
    counts: dict[str, Any] = {}
    start = time.monotonic()
    yield counts
    if not full:
        print(f"shorter than a full run: {folder} stays as it is", file=sys.stderr)
        return
    report = {
        "command": shlex.join(["python", "-m", f"reliability.{part}", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": describe(),
        "software": software(),
        "seconds": round(time.monotonic() - start),
        "counts": counts,
    }
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{part}-{run}" if run else part
    (folder / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")


def some(text: str) -> int:
    """Of a command line, how many: 1 or more, so that no run passes that has tried nothing."""
    if (count := any_number(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text}")
    return count


def any_number(text: str) -> int:
    """Of a command line, how many: 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number of 0 or more, got {text}")
    return int(text)
