"""The page of ``python -m bench.abdomens``, and the tables of docs/reference/pddnet.md."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

from l2rfast.data.abdomens import STRUCTURES

from .report import digits, left_out, table
from .runs import BUSY

PLAIN = "discrete, default"
PARTS = ("training", "generated", "real", "mr")
STRENGTHS = (5.0, 12.0)  # mm, standard deviation of the velocities of a known deformation
NAMES = {i: STRUCTURES[i] for i in range(1, 8)} | {52: "aorta", 63: "vena cava"}
EXPLANATION = """\
All registrations of generated people, and of the CT to itself, begin with what headers say. Dice is the mean over the
structures, then over the pairs, in brackets that of the worst pair; *distance* is from where the known deformation
leads, the mean over the body. *Folded* is the largest percentage of a pair's voxels where the map is no digital
diffeomorphism, after `register` has smoothed a network's field where it folds. Seconds are of the call, the mean over
the pairs. The published weights were trained on CT of 233 x 168 x 286 voxels: once they see images as they are, and
once linearly interpolated to twice as many voxels along every axis, which is nearer to that."""


def page(record: dict[str, Any]) -> list[str]:
    """What was measured, in paragraphs of Markdown."""
    parts = ["# PDD-Net on CT", f"{record['date']}. {EXPLANATION}"]
    if training := record.get("training"):
        parts += ["## Training", described(training)]
    if found := record.get("generated"):
        parts += ["## Generated people", comparison(found), by_structure(found, STRUCTURES)]
    for key, title in (("real", "A real CT to itself, deformed"), ("mr", "A real CT to the MR of somebody else")):
        if found := record.get(key):
            parts += [
                f"## {title}",
                *(_of_kinds(found) if key == "real" else [comparison(found), by_structure(found, NAMES)]),
            ]
    if waiting := [name for name in PARTS if name not in record]:
        parts.append(f"Not measured yet: {', '.join(waiting)}.")
    return [*parts, *left_out(record.get("skipped", {}))]


def described(training: dict[str, Any]) -> str:
    """The training in words."""
    options, trainer = training["options"], training["trainer"]
    lattices = " then ".join(
        f"{g}^3 control points with {w}^3 displacements up to {e:g} of half the size"
        for g, w, e in zip(options["grid"], options["search"], options["extent"], strict=True)
    )
    validations = "; ".join(f"{one['DSC']:.3f} after {one['step']:.0f}" for one in training["validations"])
    per_step = training["seconds"] / max(len(training["losses"]), 1)
    return (
        f"{training['people']} people of {' x '.join(map(str, training['size']))} voxels, {training['spacing']:g} mm; "
        f"{lattices}; {len(training['losses'])} steps of {trainer['batch']} pair{'s' * (trainer['batch'] > 1)}, rate "
        f"{trainer['rate']:g}{', falling along a cosine' * trainer['cosine']}, {training['seconds'] / 60:.0f} minutes, "
        f"{digits(per_step)} s a step. Mean Dice of the two pairs of two people kept for validation, by the number of "
        f"steps: {validations}."
    )


def comparison(found: dict[str, dict[str, Any]]) -> str:
    """A row for each method, and one for the start."""
    every = {name: [one for one in pairs.values() if "error" not in one] for name, pairs in found.items()}
    first = every[PLAIN]
    known = first[0]["distance"] is not None
    rows = [["before" if known else "start", _dice(first, "start"), *_distance(first, "distance_before"), "", ""]]
    for name, ones in every.items():
        if not ones:
            error = next(iter(found[name].values()))["error"]
            rows.append([f"{name}: {error}", *[""] * (len(rows[0]) - 1)])
            continue
        others = max(one["others"] for one in ones)
        seconds = digits(fmean(one["seconds"] for one in ones)) + (f"\\* ({others:.1f})" if others > BUSY else "")
        folded = f"{max(one['folded_percent'] for one in ones):.4f}"
        rows.append([name, _dice(ones, "dice"), *_distance(ones, "distance"), folded, seconds])
    head = ["", f"Dice, {len(first)} pair{'s' * (len(first) > 1)}", *["distance, mm"] * known, "folded, %", "seconds"]
    note = "\n\n\\* timed while others kept up to so many processors busy, in brackets: not to be compared."
    return table(head, rows) + note * any("\\*" in row[-1] for row in rows)


def _dice(ones: Sequence[dict[str, Any]], key: str) -> str:
    means = [mean(one[key]) for one in ones]
    return f"{fmean(means):.3f}" + (f" [{min(means):.3f}]" if len(means) > 1 else "")


def _distance(ones: Sequence[dict[str, Any]], key: str) -> list[str]:
    return [] if ones[0][key] is None else [digits(fmean(one[key] for one in ones))]


def by_structure(found: dict[str, dict[str, Any]], names: dict[int, str]) -> str:
    """Mean Dice over the pairs that have it, at the start and by each method."""
    every = {name: [one for one in pairs.values() if "error" not in one] for name, pairs in found.items()}
    every = {name: ones for name, ones in every.items() if ones}
    columns = [[one["start"] for one in every[PLAIN]], *([one["dice"] for one in ones] for ones in every.values())]
    rows = []
    for label, name in names.items():
        known = [[value for one in dice if (value := one.get(str(label))) is not None] for dice in columns]
        if all(known):
            rows.append([name, *(f"{fmean(values):.3f}" for values in known)])
    return table(["structure", "start", *every], rows)


def _of_kinds(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Of every strength."""
    for strength in STRENGTHS:
        own = {
            name: {pair: one for pair, one in pairs.items() if pair.startswith(f"{strength:g} mm")}
            for name, pairs in found.items()
        }
        if not own[PLAIN]:
            continue  # not measured yet
        yield f"Velocities of {strength:g} mm (standard deviation of each component):"
        yield comparison(own)


def summary(record: dict[str, Any]) -> list[str]:
    """The tables of docs/reference/pddnet.md."""
    generated = [described(record["training"])] if "training" in record else []
    generated += [comparison(record["generated"])] if "generated" in record else []
    real = list(_of_kinds(record["real"])) if "real" in record else []
    mr = [comparison(record["mr"])] if "mr" in record else []
    return ["\n\n".join(parts or ["Not measured yet."]) for parts in (generated, real, mr)]


def mean(dice: dict[str, float | None]) -> float:
    known = [value for value in dice.values() if value is not None and not math.isnan(value)]
    return fmean(known) if known else math.nan
