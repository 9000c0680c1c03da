"""A method over a set of pairs: the measures of Learn2Reg, before and after."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .method import Method, apply
from .metrics import dice_by_label, measures
from .stages import Stages
from .training.cases import Pair, Pairs, read


@dataclass(frozen=True)
class Result:
    """Of one pair.

    Attributes:
        pair: which.
        before, after: by the names of `methods.metrics.measures`.
        dice: of each label, after.
        seconds: that the method took.
    """

    pair: Pair
    before: dict[str, float]
    after: dict[str, float]
    dice: dict[int, float]
    seconds: float


def evaluate(
    method: Method, pairs: Pairs, device: torch.device, progress: Callable[[int], None] = lambda done: None
) -> list[Result]:
    """Register the pairs for validation, or all where none are marked as that.

    Args:
        method: its options chosen.
        pairs: see `methods.training.cases.find_pairs`.
        device: where to compute.
        progress: called with the number of pairs that are done.

    Raises:
        InputError: scans that cannot be read or registered.
    """
    results = []
    for pair in pairs.validation or pairs.training:
        scans = read(pair.fixed), read(pair.moving)
        found = apply(method, scans[0].image, scans[1].image, device, Stages())
        before, after = (measures(found, *scans, surfaces=True, displaced=displaced) for displaced in (False, True))
        results.append(Result(pair, before, after, dice_by_label(found, *scans), sum(found.seconds.values())))
        progress(len(results))
    return results


def aggregates(results: list[Result]) -> dict[str, dict[str, float]]:
    """Mean, standard deviation and 30th percentile over the pairs, as Learn2Reg's evaluation has them."""
    columns = {name: [result.after.get(name, math.nan) for result in results] for name in results[0].after}
    known = {name: [value for value in values if not math.isnan(value)] for name, values in columns.items()}
    return {
        "mean": {name: float(np.mean(values)) for name, values in known.items() if values},
        "std": {name: float(np.std(values, ddof=1)) for name, values in known.items() if len(values) > 1},
        "30": {name: float(np.quantile(values, 0.3)) for name, values in known.items() if values},
    }


def write_csv(file: Path, results: list[Result]) -> None:
    """A line for every pair: its cases, the measures before and after, the seconds, the Dice of each label."""
    labels = sorted({label for result in results for label in result.dice})
    rows = [
        {
            "fixed": result.pair.fixed.name,
            "moving": result.pair.moving.name,
            "seconds": result.seconds,
            **{f"{name} before": value for name, value in result.before.items()},
            **result.after,
            **{f"DSC {label}": result.dice.get(label, math.nan) for label in labels},
        }
        for result in results
    ]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns, restval=math.nan)
        writer.writeheader()
        writer.writerows(rows)


def write_json(file: Path, results: list[Result], name: str) -> None:
    """The fields of Learn2Reg's evaluation: ``case``, by measure and number of the pair, and ``aggregates``."""
    measured = list(dict.fromkeys(measure for result in results for measure in result.after))
    cases: dict[str, dict[str, Any]] = {
        measure: {str(i): _finite(result.after.get(measure, math.nan)) for i, result in enumerate(results)}
        for measure in measured
    }
    content = {name: {"case": cases, "aggregates": aggregates(results)}}
    file.write_text(json.dumps(content, indent=4) + "\n")


def draw(file: Path, results: list[Result]) -> None:
    """Box plots over the pairs: the Dice of each label, and every other measure before and after."""
    from matplotlib.figure import Figure

    labels = sorted({label for result in results for label in result.dice})
    names = [name for name in results[0].after if name != "DSC" or labels]
    figure = Figure(figsize=(max(8, 0.35 * len(labels) + 2 * len(names)), 4.5), layout="constrained")
    widths = ([max(3, 0.35 * len(labels))] if labels else []) + [2] * len(names)
    panels = list(np.atleast_1d(figure.subplots(1, len(widths), width_ratios=widths)))
    if labels:
        axes = panels.pop(0)
        axes.boxplot([_known([result.dice.get(label) for result in results]) for label in labels], tick_labels=labels)
        axes.set(title="Dice of each label", xlabel="label", ylim=(0, 1))
        axes.tick_params(axis="x", labelrotation=90)
    for axes, name in zip(panels, names, strict=True):
        both = {"before": [r.before.get(name) for r in results], "after": [r.after.get(name) for r in results]}
        shown = {when: _known(values) for when, values in both.items() if any(v is not None for v in values)}
        axes.boxplot(list(shown.values()), tick_labels=list(shown))
        axes.set_title(name)
    figure.savefig(file, dpi=120)


def _known(values: list[float | None]) -> list[float]:
    return [value for value in values if value is not None and not math.isnan(value)]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
