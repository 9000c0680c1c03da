"""The table of the last full runs, of what `reliability.record` has kept."""

from __future__ import annotations

from typing import Any

from bench.report import table

# By report: what was done to find out.
PARTS = {
    "sanitizers-address-tests": "tests of operators under AddressSanitizer and UndefinedBehaviorSanitizer",
    "sanitizers-address-calls": "random calls under these",
    "sanitizers-thread-tests": "tests of operators under ThreadSanitizer",
    "sanitizers-thread-calls": "random calls under that",
    "sanitizers-valgrind": "C++ kernels under memcheck",
    "operators": "random calls of operators, against float64",
    "files": "damaged files",
    "power": "writers whose system calls fail, or which are killed at them",
    "training": "training that is killed and resumed",
    "long_run": "registrations in one process",
}


def counted(*reports: dict[str, Any]) -> str:
    """Of each part what was counted, when, and by which command; of one that never ran to its end, that."""
    rows = []
    for tried, report in zip(PARTS.values(), reports, strict=True):
        if not report:
            rows.append([tried, "never run to its end", ""])
            continue
        counts = "; ".join(f"{name}: {_told(n)}" for name, n in report["counts"].items() if not isinstance(n, dict))
        where = f"{report['date']}, {report['machine']['instruction set']}, {report['seconds'] / 60:.0f} min"
        rows.append([tried, counts, f"`{report['command']}` ({where})"])
    return table(["what was tried", "counts", "last full run"], rows)


def _told(count: float) -> str:
    return f"{count:,}" if isinstance(count, int) else f"{count:.4g}"
