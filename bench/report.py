"""Writes what was measured: ``cpu.json`` for programs, ``cpu.md`` for people."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from .harness import Measurement, Result
from .machine import describe, software
from .registration import Comparison

EXPLANATION = """\
Times are medians [fastest, slowest] of interleaved rounds in one process. The *floor* is the time that moving the
fewest possible bytes takes, every input read once and every output written once, at the bandwidth of the fastest of
ten large copies made just before the case. *Error* is ||out - ref|| / ||ref|| of the worst output against the float64
reference, taken before any timing; a contestant that is not correct is not timed. *Memory* is the growth of the
resident memory during a call, results included, and how many times the size of the results that is. *l2rfast is
faster* says how many times."""

VERDICTS = {True: "met", False: "**not met**", None: "not measured"}


@dataclass
class Report:
    """One run of the benchmark."""

    size: str
    machine: dict[str, Any] = field(default_factory=describe)
    versions: dict[str, str] = field(default_factory=software)
    date: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%d"))
    cases: list[Measurement] = field(default_factory=list)
    registration: Comparison | None = None
    skipped: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write ``cpu.json`` and ``cpu.md``."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.json").write_text(json.dumps(self.content(), indent=1, allow_nan=False) + "\n")
        (folder / "cpu.md").write_text(self.markdown())

    def content(self) -> dict[str, Any]:
        """All that was measured, and what follows from it."""
        content = asdict(self)
        for case, entry in zip(self.cases, content["cases"], strict=True):
            entry["floor"] = case.floor
            for name, result in entry["results"].items():
                result["median"] = case.results[name].median
                result["times_floor"] = case.times_floor(name)
                result["times_faster"] = case.ratio(name)
                result["met"] = case.met(name)
        if self.registration is not None:
            runs = self.registration.runs
            content["registration"]["figures"] = {method: self.registration.figures(method) for method in runs}
        rounded: dict[str, Any] = _rounded(content)
        return rounded

    def markdown(self) -> str:
        """Tables for people."""
        parts = [
            "# Benchmark on the CPU",
            f"Size {self.size}, {self.date}. Targets: {self._targets()}.",
            table(["machine", ""], [[name, str(value)] for name, value in self.machine.items()]),
            table(["software", "version"], [list(item) for item in self.versions.items()]),
            EXPLANATION,
            *map(case_section, self.cases),
        ]
        if self.registration is not None:
            parts.append(registration_section(self.registration))
        parts += _skipped(self.skipped)
        return "\n\n".join(parts) + "\n"

    def _targets(self) -> str:
        """How many targets are met, and how many not."""
        met = [case.met(name) for case in self.cases for name, result in case.results.items() if result.target]
        if self.registration is not None:
            met += [verdict for *_, verdict in _verdicts(self.registration)]
        if not met:
            return "none, they are for the full size"
        return ", ".join(f"{met.count(verdict)} {text}" for verdict, text in VERDICTS.items())


def case_section(case: Measurement) -> str:
    """One case: a heading, what it is and a row per contestant."""
    rounds = max(len(result.seconds) for result in case.results.values())
    cost = (
        f"Floor: {case.bytes / 1e6:.0f} MB at {case.bandwidth / 1e9:.1f} GB/s, {digits(1e3 * case.floor)} ms. "
        f"Rounds: {rounds}."
    )
    head = ["contestant", "time, ms", "x floor", "error", "memory, MB", "l2rfast is faster", "target"]
    rows = [[name, *_cells(case, name, result)] for name, result in case.results.items()]
    return "\n\n".join([f"## {case.name}", f"{case.description} {cost}", table(head, rows), *_skipped(case.skipped)])


def _cells(case: Measurement, name: str, result: Result) -> list[str]:
    error = f"{result.error:.1e}"
    if not result.correct:
        return ["-", "-", f"{error}, **incorrect** (more than {case.tolerance:.0e})", "-", "-", "-"]
    memory = "-"
    if result.extra_bytes is not None:
        memory = f"{result.extra_bytes / 1e6:.1f} ({result.extra_bytes / result.output_bytes:.1f} x)"
    return [
        _spread([1e3 * s for s in result.seconds]),
        _or_dash(case.times_floor(name)),
        error,
        memory,
        _or_dash(case.ratio(name)),
        "" if result.target is None else f">= {result.target:g}: {VERDICTS[case.met(name)]}",
    ]


def registration_section(comparison: Comparison) -> str:
    """The whole job: a row per method, then the targets."""
    head = ["method", "seconds", "times faster", "Dice", "folded, %", "peak memory, GB"]
    rows = [["before", "", "", f"{comparison.dice_before:.3f}", "", ""]]
    for method, runs in comparison.runs.items():
        figures = comparison.figures(method)
        rows.append(
            [
                method,
                _spread([run.seconds for run in runs]),
                _or_dash(figures.get("times faster")),
                f"{figures['Dice']:.3f}",
                f"{figures['folded, %']:.3f}",
                _or_dash(figures.get("peak memory, GB")),
            ]
        )
    parts = [
        "## Registration of two brains",
        f"{' x '.join(map(str, comparison.shape))}, float32, mean Dice of 30 structures. Each run in a process of its "
        "own, methods in turns, the images in memory beforehand; the peak memory is that of the whole process.",
        table(head, rows),
    ]
    verdicts = [[method, text, value, VERDICTS[met]] for method, text, value, met in _verdicts(comparison)]
    if verdicts:
        parts.append(table(["method", "target", "measured", ""], verdicts))
    return "\n\n".join([*parts, *_skipped(comparison.skipped)])


def _verdicts(comparison: Comparison) -> list[tuple[str, str, str, bool | None]]:
    """Per target: the method, the bound, the figure and whether it is met, None where there is no figure."""
    verdicts = []
    for target in comparison.targets:
        figures = comparison.figures(target.method) if target.method in comparison.runs else {}
        value = figures.get(target.figure)
        met = None if value is None else target.met(value)
        text = f"{target.figure} {target.relation} {target.bound:g}"
        verdicts.append((target.method, text, _or_dash(value), met))
    return verdicts


def digits(value: float) -> str:
    """Three significant digits, never an exponent."""
    exponent = int(f"{value:.2e}".partition("e")[2])
    return f"{value:.{max(0, 2 - exponent)}f}"


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows])


def _spread(values: list[float]) -> str:
    return f"{digits(median(values))} [{digits(min(values))}, {digits(max(values))}]"


def _or_dash(value: float | None) -> str:
    return "-" if value is None else digits(value)


def _skipped(reasons: dict[str, str]) -> list[str]:
    return [f"Skipped: {name} ({reason})." for name, reason in reasons.items()]


def _rounded(value: Any) -> Any:
    """Six significant digits, and null for what is not finite."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
