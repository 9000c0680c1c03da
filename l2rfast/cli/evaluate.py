"""``l2rfast evaluate``: a method over a set of pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ..errors import notice
from .answer import Answer
from .bars import bar
from .notices import notices, say
from .shared_options import Device, Finetune, Init, InitMetric, MethodName, Preset, Quiet, Transform, Weights
from .train import Atlas, Data, HoldOut

FILES = ("evaluation.csv", "evaluation.json", "evaluation.png", "report.html")


def evaluate(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the results, created if absent.")],
    atlas: Atlas = None,
    hold_out: HoldOut = 0,
    method: MethodName = "discrete",
    preset: Preset = "default",
    weights: Weights = None,
    finetune: Finetune = None,
    transform: Transform = "deformable",
    init: Init = "auto",
    init_metric: InitMetric = None,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> Answer:
    """Register the pairs of DATA that are kept for validation, or all, and measure overlaps, distances and folds.

    Where a pair cannot be registered the others are, and the exit code is 1.
    """
    from ..methods import evaluation
    from ..methods.registration import choose, usable
    from ..methods.training.cases import find_pairs
    from ..output import OutputFolder

    options = {"weights": weights, "finetune": finetune}
    chosen = choose(method, preset, transform, **{name: value for name, value in options.items() if value is not None})
    place, console = usable(device), Console(stderr=True, markup=False)
    with notices() as noticed, OutputFolder(out, FILES) as folder:
        found = find_pairs(data, atlas=atlas, hold_out=hold_out, to_train=False)
        if found.test and not found.validation:
            notice(f"data: there are no pairs for validation in {data}, and those for the test are registered")
        pairs = found.evaluated
        with bar(console, quiet) as shown:
            task = shown.add_task("pairs", total=len(pairs))
            results = evaluation.evaluate(
                *(chosen, pairs, place),
                init=init,
                init_metric=init_metric,
                progress=lambda done: shown.update(task, completed=done),
            )
        evaluation.write_csv(folder.path("evaluation.csv"), results)
        name = method if chosen.transform == "deformable" else transform
        evaluation.write_json(folder.path("evaluation.json"), results, name, noticed)
        picture = folder.path("evaluation.png")
        evaluation.draw(picture, results)
        evaluation.write_page(folder.path("report.html"), results, name, noticed, picture.read_bytes())
    if not quiet:
        table = Table("over the pairs", "mean", "std", "30 %")
        over = evaluation.aggregates(results)
        for name in over["mean"]:
            row = [over[of].get(name) for of in ("mean", "std", "30")]
            table.add_row(name, *("-" if value is None else f"{value:.4f}" for value in row))
        console.print(table)
        console.print(f"Written to {out}", highlight=False, soft_wrap=True)
    errors = [result.error for result in results if result.error]
    for error in errors:
        say(f"l2rfast: error: {error}")
    return Answer({"out": out, **json.loads((out / "evaluation.json").read_text())}, failed=bool(errors))
