"""Draws what was measured: bars beside the floor, and how cost grows along a series."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .harness import OURS, Measurement, grouped

MINE, PEER, FLOOR = "#1b6ca8", "#9aa3ab", "#c0392b"


def draw(cases: list[Measurement], folder: Path) -> dict[str, Path]:
    """A PNG for every series and every case that stands alone; their files, by its name."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, group in grouped(cases).items():
        height = 3.6 if group[0].point else 0.9 + 0.36 * sum(len(case.results) for case in group)
        figure = Figure(figsize=(7, height), layout="constrained")
        FigureCanvasAgg(figure)
        (_lines if group[0].point else _bars)(figure.add_subplot(), group)
        figure.suptitle("\n".join(textwrap.wrap(name, 80)), fontsize=10)
        files[name] = folder / ("-".join("".join(c if c.isalnum() else " " for c in name.lower()).split()) + ".png")
        # Without the version of matplotlib: a picture of the same figures is the same file.
        figure.savefig(files[name], dpi=110, metadata={"Software": None})
    return files


def _label(name: str, instruction_set: str | None, cases: list[Measurement]) -> str:
    """Of a contestant; with the instruction set where there are several."""
    return f"{name}, {instruction_set}" if len({case.instruction_set for case in cases}) > 1 else name


def _bars(axes: Axes, cases: list[Measurement]) -> None:
    """A bar for each contestant and instruction set of the one case, the floor as a line."""
    case = cases[0]
    timed = {
        _label(name, one.instruction_set, cases): 1e3 * result.median
        for one in cases
        for name, result in one.results.items()
        if result.median is not None
    }
    bars = axes.barh(list(timed), list(timed.values()), color=[MINE if n.startswith(OURS) else PEER for n in timed])
    axes.bar_label(bars, fmt=" {:.3g} ms", fontsize=8)
    axes.axvline(1e3 * case.floor, color=FLOOR, linestyle="--")
    axes.set_xscale("log")
    axes.set_xlim(0.5e3 * case.floor, 6 * max(timed.values(), default=1e3 * case.floor))
    axes.invert_yaxis()
    axes.set_xlabel("ms (dashed: the floor)", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _lines(axes: Axes, cases: list[Measurement]) -> None:
    """A line for each contestant and instruction set over the points of the series, and the floor's."""
    first = [case for case in cases if case.instruction_set == cases[0].instruction_set]
    points = {case.name: case.point for case in cases if case.point}
    numeric = all(isinstance(point.at, int | float) for point in points.values())
    at = {name: point.at if numeric else str(point.at) for name, point in points.items()}
    lines: dict[tuple[str, str | None], dict[Any, float]] = {}
    for case in cases:
        for name, result in case.results.items():
            line = lines.setdefault((name, case.instruction_set), {})
            if result.median is not None:
                line[at[case.name]] = 1e3 * result.median
    for (name, instruction_set), line in lines.items():
        mine = name.startswith(OURS)
        axes.plot(
            list(line),
            list(line.values()),
            "-" if name == OURS or not mine else ":",
            marker="o" if instruction_set == cases[0].instruction_set else "s",
            label=_label(name, instruction_set, cases),
            linewidth=2 if name == OURS else 1,
            color=MINE if mine else PEER,
        )
    places = [at[case.name] for case in first]
    axes.plot(places, [1e3 * case.floor for case in first], color=FLOOR, linestyle="--", label="floor")
    if numeric:
        axes.set_xscale("log", base=2)
        axes.set_xticks(places, [str(place) for place in places])
        axes.minorticks_off()
    axes.set_yscale("log")
    axes.set_xlabel(next(iter(points.values())).axis, fontsize=8)
    axes.set_ylabel("ms", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
