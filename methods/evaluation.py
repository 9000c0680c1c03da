"""A method over a set of pairs: the measures of Learn2Reg, before and after."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch

from l2rfast import _threads
from l2rfast.errors import InputError
from l2rfast.viewer import page

from .method import Method
from .metrics import MEASURES, dice_by_label, measures
from .registration import registered
from .stages import Stages
from .training.cases import Pair, names_of, read, say_what_one_lacks


@dataclass(frozen=True)
class Result:
    """Of one pair.

    Attributes:
        pair: which.
        before, after: by the names of `methods.metrics.measures`; empty where it failed.
        dice: of each label, after.
        seconds: that the method took.
        error: why the pair could not be registered; empty where it was.
    """

    pair: Pair
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    dice: dict[int, float] = field(default_factory=dict)
    seconds: float = math.nan
    error: str = ""


@_threads.threads()
def evaluate(
    method: Method,
    pairs: Sequence[Pair],
    device: torch.device,
    *,
    init: str = "auto",
    init_metric: str | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Result]:
    """Register pairs. One that cannot be registered costs its own result alone.

    Args:
        method: its options chosen.
        pairs: of `methods.training.cases.find_pairs`, say its ``evaluated``.
        device: where to compute.
        init, init_metric: where to start, as in `methods.registration.register`.
        progress: called with the number of pairs that are done.

    Raises:
        InputError: not one of them can be registered; the sentence is of the first.
    """
    say_what_one_lacks(pairs)
    results = []
    for pair in pairs:
        try:
            results.append(_of_pair(method, pair, device, init, init_metric))
        except InputError as error:
            results.append(Result(pair, error=f"{pair.fixed.image}, {pair.moving.image}: {error}"))
        progress(len(results))
    if results and all(result.error for result in results):
        raise InputError(results[0].error)
    return results


def _of_pair(method: Method, pair: Pair, device: torch.device, init: str, init_metric: str | None) -> Result:
    scans = read(pair.fixed), read(pair.moving)
    found = registered(method, scans[0].image, scans[1].image, init, init_metric, device, Stages())
    before, after = (measures(found, *scans, surfaces=True, displaced=displaced) for displaced in (False, True))
    return Result(pair, before, after, dice_by_label(found, *scans), sum(found.seconds.values()))


def measured(results: list[Result]) -> list[str]:
    """The measures that any of the pairs has."""
    return [name for name in MEASURES if any(name in result.after for result in results)]


def aggregates(results: list[Result]) -> dict[str, dict[str, float]]:
    """Mean, standard deviation and 30th percentile over the pairs, as Learn2Reg's evaluation has them."""
    columns = {name: [result.after.get(name, math.nan) for result in results] for name in measured(results)}
    known = {name: [value for value in values if not math.isnan(value)] for name, values in columns.items()}
    return {
        "mean": {name: float(np.mean(values)) for name, values in known.items() if values},
        "std": {name: float(np.std(values, ddof=1)) for name, values in known.items() if len(values) > 1},
        "30": {name: float(np.quantile(values, 0.3)) for name, values in known.items() if values},
    }


def write_csv(file: Path, results: list[Result]) -> None:
    """A line for every pair: its cases, the measures before and after, the seconds, the Dice of each label; and why it
    failed, where one has.
    """
    labels = sorted({label for result in results for label in result.dice})
    fixed, moving = (names_of([getattr(result.pair, role) for result in results]) for role in ("fixed", "moving"))
    rows = [
        {
            "fixed": fixed[result.pair.fixed],
            "moving": moving[result.pair.moving],
            "seconds": result.seconds,
            **{f"{name} before": value for name, value in result.before.items()},
            **result.after,
            **{f"DSC {label}": value for label, value in result.dice.items()},
            "error": result.error,
        }
        for result in results
    ]
    columns = ["fixed", "moving", "seconds"]
    columns += [f"{name} before" for name in MEASURES if any(name in result.before for result in results)]
    columns += [*measured(results), *(f"DSC {label}" for label in labels)]
    columns += ["error"] * any(result.error for result in results)
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns, restval=math.nan, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def write_json(file: Path, results: list[Result], name: str, warnings: Sequence[str] = ()) -> None:
    """The fields of Learn2Reg's evaluation: ``case``, by measure and number of the pair, and ``aggregates``; and, where
    there are some, ``errors`` by the number of the pair, and ``warnings``: what was noticed about the input.
    """
    cases: dict[str, dict[str, Any]] = {
        measure: {str(i): _finite(result.after.get(measure, math.nan)) for i, result in enumerate(results)}
        for measure in measured(results)
    }
    content: dict[str, Any] = {"case": cases, "aggregates": aggregates(results)}
    more = {
        "errors": {str(i): result.error for i, result in enumerate(results) if result.error},
        "warnings": [*warnings],
    }
    content |= {key: value for key, value in more.items() if value}
    file.write_text(json.dumps({name: content}, indent=4) + "\n")


def draw(file: Path, results: list[Result]) -> None:
    """Box plots over the pairs: the Dice of each label, and every other measure before and after."""
    from matplotlib.figure import Figure

    labels = sorted({label for result in results for label in result.dice})
    names = [name for name in measured(results) if name != "DSC" or labels]
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


def write_page(file: Path, results: list[Result], name: str, warnings: Sequence[str], picture: bytes) -> None:
    """A page that needs nothing else: means over the pairs, the picture of `draw`, and a line for every pair.

    Args:
        file: the page.
        results: of `evaluate`.
        name: of the method.
        warnings: what was noticed about the input.
        picture: PNG.
    """
    names, over = measured(results), aggregates(results)
    fixed, moving = (names_of([getattr(result.pair, role) for result in results]) for role in ("fixed", "moving"))
    means = [[n, *(page.number(over[of].get(n, math.nan)) for of in ("mean", "std", "30"))] for n in names]
    columns = [f"{n} before" for n in names if any(n in result.before for result in results)]
    columns = [column for n in names for column in (f"{n} before", n) if column == n or column in columns]
    lines = []
    for result in results:
        values = {**{f"{n} before": value for n, value in result.before.items()}, **result.after}
        line = [fixed[result.pair.fixed], moving[result.pair.moving], page.number(result.seconds)]
        lines.append(line + [page.number(values.get(column, math.nan)) for column in columns])
    labels = sorted({label for result in results for label in result.dice})
    dice = []
    for label in labels:
        mean = float(np.mean(_known([result.dice.get(label) for result in results]) or [math.nan]))
        dice.append((str(label), page.bars([(mean, "after")], 1), [page.number(mean)]))
    failed = [result.error for result in results if result.error]
    body = [
        f"<p>{len(results)} pairs, {len(failed)} of which failed.</p>",
        *(f'<p class="warning">{escape(text)}.</p>' for text in [*failed, *warnings]),
        page.table(["over the pairs", "mean", "standard deviation", "30th percentile"], means, numbers=1),
        "<h2>Spread</h2>",
        page.picture(picture, "box plots of the measures over the pairs"),
        *(["<h2>Mean Dice of each label</h2>", page.chart(["label", "", "mean"], dice)] if dice else []),
        "<h2>Pairs</h2>",
        page.table(["fixed", "moving", "seconds", *columns], lines, numbers=2, sort=True),
    ]
    text = page.document(f"Evaluation of {name}", body, scripts=[page.template("sort.js")])
    file.write_text(text, encoding="utf-8", errors="replace")


def _known(values: list[float | None]) -> list[float]:
    return [value for value in values if value is not None and not math.isnan(value)]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
