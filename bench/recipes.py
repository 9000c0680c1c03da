"""The tables of docs/recipes.md: what each kind of scans was registered with, and how well."""

from __future__ import annotations

from typing import Any

from .pairs import SETS
from .report import table
from .runs import BUSY
from .scans import Survey, row
from .tools import ACCURATE, DEFAULT, FAST, LEARNED, MIND, MUTUAL

# In the order of the page.
RECIPES = (
    *("brains", "brain-malf", "brain-chris", "brain-ct-mr", "abdomen-ct"),
    *("prostate", "spine", "heart-4d", "histology-2d"),
)
OPTIONS = {
    FAST: "`--preset fast`",
    DEFAULT: "none",
    ACCURATE: "`--preset accurate`",
    LEARNED: "`--method learned`",
    MIND: "`--metric mind`",
    MUTUAL: "`--metric mi`",
}


def recipes(report: dict[str, Any]) -> list[str]:
    """Where and when it was measured, then a table for each of `RECIPES`."""
    survey, machine = Survey.restored(report), report["machine"]
    taken = {
        (method, one.taken)
        for name in RECIPES
        for method, results in survey.sets[name].items()
        for one in results.values()
    }
    here = sorted({OPTIONS.get(method, method) for method, one in taken if one.cpu == machine["cpu"]})
    where = f"{machine['cpu']}, {machine['threads']} threads, {report['date']}"
    if any(one.cpu != machine["cpu"] for _, one in taken):
        where += f", for {', '.join(here)}; the seconds of the others are another machine's, not to be compared"
    where += "."
    if any(one.others > BUSY for _, one in taken):
        where += " Seconds with \\* were timed while others kept up to so many processors busy, in brackets."
    return [where, *(_table(survey, name) for name in RECIPES)]


def _table(survey: Survey, name: str) -> str:
    measure = SETS[name].measure if SETS[name].measure == "Dice" else f"distance, {SETS[name].measure}"
    head = ["options", "pairs", f"{measure}: before", "after the start", "result", "worst pair", "folded, %"]
    rows = []
    for method, results in survey.sets[name].items():
        _, _, pairs, _, before, start, result, worst, folded, residual, seconds, *_ = row(name, method, results)
        rows.append([OPTIONS.get(method, method), pairs, before, start, result, worst, folded, residual, seconds])
    return table([*head, "inverse residual, voxels", "seconds"], rows)
