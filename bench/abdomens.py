"""``python -m bench.abdomens``: PDD-Net trained on generated CT, its published weights, and ``discrete``.

PDD-Net is trained by `train_discrete` on generated people (`l2rfast.data.abdomens`). Others, drawn after these, are
then registered by what it has learned, by its published weights, and by ``discrete``, which needs no training. So is
the one real CT that there is, to itself in deformations that are known, and to the MR of somebody else. A training that
was cut off is gone on with; what was trained or measured stays, but for what ``--method`` names.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import l2rfast
from l2rfast import InputError, data, metrics
from l2rfast.data import abdomens as generated
from l2rfast.data.abdomens import Abdomen, abdomens, write_abdomens
from l2rfast.data.synthetic import smooth_noise
from l2rfast.io import Volume
from l2rfast.methods.discrete.training import TrainingOptions, train_discrete
from l2rfast.methods.result import Registration
from l2rfast.methods.training.options import TrainerOptions

from . import machine
from .abdomens_page import PARTS, PLAIN, STRENGTHS, mean, page
from .pairs import _labels, _volume
from .report import REPORTS, kept, rounded, rows_of

FOLDER = Path(__file__).parent.parent / "build" / "bench" / "abdomens"
TRAINED, PUBLISHED = "PDD-Net, trained here", "PDD-Net, published weights"
FINER = "PDD-Net, published weights, images twice as fine"
SIZE = (72, 54, 84)  # which trains in minutes; 5 mm
OPTIONS = TrainingOptions(grid=(12, 14), search=(7, 5), extent=(0.35, 0.15), intensities="ct")
VALIDATION, EVERY = 2, 25
CT, CT_LABELS = "abdomen-ct-mr/example_ct.nii.gz", "abdomen-ct-mr/example_seg_fast_force_split.nii.gz"
MR, MR_LABELS = "abdomen-ct-mr/example_mr_sm.nii.gz", "abdomen-ct-mr/example_seg_mr.nii.gz"
SEEDS = (0, 1)
NOISE = 10.0  # Hounsfield units, added to the CT that is deformed
SPACE = 97  # voxels of a body between those whose places are measured
# In the label maps of the CT and of the MR: TotalSegmentator has another numbering for each.
COMMON = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6, 7: 7, 52: 23, 63: 24}


@dataclass(frozen=True)
class Case:
    """A pair, its label maps, and where fixed voxels lie in moving where that is known."""

    name: str
    fixed: Volume
    moving: Volume
    labels: tuple[Tensor, Tensor]
    truth: Tensor | None = None
    init: str = "none"


@dataclass(frozen=True)
class Outcome:
    """Of a registration: Dice by label after, at the start and by the headers; the distances in mm; and the rest."""

    dice: dict[str, float | None]
    start: dict[str, float | None]
    distance: float | None
    distance_before: float | None
    folded_percent: float
    seconds: float
    others: float


def methods(weights: Path) -> dict[str, tuple[int, dict[str, Any]]]:
    """By name, how many times as many voxels an axis is given, and the options of `l2rfast.register`."""
    files = [str(data.path(f"pdd_net/dense_reg_{part}_v01.pth")) for part in ("feat", "deeds")]
    published = {"method": "pddnet", "weights": ",".join(files)}
    trained = {TRAINED: (1, {"method": "pddnet", "weights": str(weights)})} if weights.exists() else {}
    return {**trained, PUBLISHED: (1, published), FINER: (2, published), PLAIN: (1, {})}


def finer(volume: Volume, times: int) -> Volume:
    """With so many voxels where there was one, along every axis; an image linear between, labels as they are."""
    if times == 1:
        return volume
    scale = np.diag([1 / times] * 3 + [1.0])
    scale[:3, 3] = (1 / times - 1) / 2
    size = [times * s for s in volume.data.shape]
    matrix = torch.from_numpy(scale[:3]).float()[None]
    mode = "linear" if volume.data.is_floating_point() else "nearest"
    values = l2rfast.affine_warp(volume.data[None, None], matrix, size, mode=mode)[0, 0]
    return Volume(values, volume.affine @ scale)


def outcome(case: Case, times: int, options: dict[str, Any]) -> Outcome:
    fixed, moving = finer(case.fixed, times), finer(case.moving, times)
    before = machine.seconds_of_others()
    start = machine.clock()
    found = l2rfast.register(fixed, moving, init=case.init, **options)
    seconds = machine.clock() - start
    others = (machine.seconds_of_others() - before) / seconds
    here, there = (
        finer(Volume(labels, image.affine), times).data
        for labels, image in zip(case.labels, (case.fixed, case.moving), strict=True)
    )
    both = sorted((set(here.unique().tolist()) & set(there.unique().tolist())) - {0})
    at_start, at_end = (
        {str(k): v for k, v in metrics.dice(here, found.warp(there, mode="nearest", displaced=how), both).items()}
        for how in (False, True)
    )
    distances = (None, None) if case.truth is None else _distances(case, found, times)
    folded = 100 * float(metrics.digital_folding_fraction(found.displacement))
    return Outcome(at_end, at_start, *distances, folded, seconds, others)


def _distances(case: Case, found: Registration, times: int) -> tuple[float, float]:
    """Mean distance in mm from the truth, after and before."""
    assert case.truth is not None
    body = case.fixed.data > -300
    points = body.nonzero()[::SPACE].double()
    truth = case.truth[0][:, body].T[::SPACE].double()
    centre = (times - 1) / 2
    reached = (found.points_in_moving(times * points + centre) - centre) / times
    after, before = (
        float((off * torch.tensor(case.fixed.spacing)).norm(dim=1).mean()) for off in (reached - points - truth, truth)
    )
    return after, before


def spacing(size: Sequence[int]) -> float:
    """With which so many voxels have the usual field of view."""
    return generated.SPACING * generated.SIZE[0] / size[0]


def people(first: int, count: int, size: Sequence[int]) -> Iterator[Case]:
    """Each to the next of them, the last to the first."""
    drawn: list[Abdomen] = list(islice(abdomens(first + count, size, spacing=spacing(size)), first, None))
    for i, fixed in enumerate(drawn):
        moving = drawn[(i + 1) % count]
        images = (Volume(one.image[0, 0], one.affine) for one in (fixed, moving))
        yield Case(f"{(i + 1) % count} to {i}", *images, (fixed.labels[0, 0].int(), moving.labels[0, 0].int()))


def deformed(strength: float) -> Iterator[Case]:
    """The real CT to itself, deformed so that its velocities have that standard deviation in mm."""
    moving, labels = _volume(CT), _labels(CT_LABELS)
    moving = Volume(moving.data.clamp(min=-1024), moving.affine)
    labels = torch.where(torch.isin(labels, torch.tensor([*COMMON])), labels, 0)
    size = moving.data.shape
    for seed in SEEDS:
        random = torch.Generator().manual_seed(seed)
        velocity = strength / moving.spacing[0] * smooth_noise((1, 3, *size), min(size) // 10, random)
        truth = l2rfast.integrate_velocity(velocity)
        image = l2rfast.warp(moving.data[None, None], truth)[0, 0] + NOISE * torch.randn(size, generator=random)
        here = l2rfast.warp(labels[None, None], truth, mode="nearest")[0, 0]
        fixed = Volume(image.clamp(min=-1024), moving.affine)
        yield Case(f"{strength:g} mm, seed {seed}", fixed, moving, (here, labels), truth)


def another() -> Iterator[Case]:
    """The CT to the MR of somebody else, whose headers do not overlap."""
    fixed, moving = _volume(MR), _volume(CT)
    moving = Volume(moving.data.clamp(min=-1024), moving.affine)
    here, there = (torch.zeros(image.data.shape, dtype=torch.int32) for image in (fixed, moving))
    of_mr, of_ct = _labels(MR_LABELS), _labels(CT_LABELS)
    for common, number in COMMON.items():
        here[of_mr == number] = common
        there[of_ct == common] = common
    yield Case("CT to MR", fixed, moving, (here, there), init="auto")


def measured(
    cases: Iterator[Case], weights: Path, known: dict[str, dict[str, Any]], anew: Sequence[str]
) -> Iterator[dict[str, dict[str, Any]]]:
    """By method and pair, after every pair, what is not known or asked for anew; what could not be registered has its
    ``error``.
    """
    contestants = methods(weights)
    found = {name: {} if name in anew else dict(known.get(name, {})) for name in contestants}
    for case in cases:
        for name, (times, options) in contestants.items():
            if case.name in found[name]:
                continue
            try:
                one = asdict(outcome(case, times, options))
            except InputError as error:
                one = {"error": str(error)}
            found[name][case.name] = one
            told = one.get("error") or f"{mean(one['start']):.3f} -> {mean(one['dice']):.3f}, {one['seconds']:.1f} s"
            print(f"{case.name}, {name}: {told}", flush=True)
        yield rounded(found)


def train(
    count: int, size: Sequence[int], options: TrainingOptions, trainer: TrainerOptions, folder: Path
) -> Iterator[dict[str, Any]]:
    """Train on so many people, and what came of it."""
    if not (folder / "run").exists():
        write_abdomens(folder / "people", count + VALIDATION, size, spacing=spacing(size))
    train_discrete(
        folder / "people",
        folder / "run",
        options,
        trainer,
        hold_out=VALIDATION,
        resume=True,
        progress=lambda step, text: print(f"step {step}: {text}", flush=True) if step % 10 == 0 else None,
    )
    steps, validations = (rows_of(folder / "run" / f"{log}.csv") for log in ("training", "validation"))
    yield {
        "people": count,
        "size": list(size),
        "spacing": spacing(size),
        "options": asdict(options),
        "trainer": asdict(trainer),
        "seconds": sum(row["seconds"] for row in steps),
        "losses": rounded([row["labels"] for row in steps]),
        "validations": rounded([{name: row[name] for name in ("step", "DSC", "num_foldings")} for row in validations]),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.abdomens", description=__doc__.partition("\n")[0])
    parser.add_argument("--people", type=int, default=40, help="to train on (default: 40)")
    parser.add_argument("--pairs", type=int, default=6, help="of other people, to register (default: 6)")
    parser.add_argument("--size", type=int, nargs=3, default=SIZE, help=f"voxels (default: {SIZE})")
    parser.add_argument("--steps", type=int, default=400, help="of training (default: 400), more to go on")
    parser.add_argument("--rate", type=float, default=2e-3, help="(default: 0.002)")
    parser.add_argument("--threads", type=int, default=2, help="(default: 2)")
    parser.add_argument("--only", action="append", choices=PARTS, help="some parts")
    parser.add_argument("--method", action="append", default=[], help="measure by this anew; several times")
    parser.add_argument("--out", type=Path, default=REPORTS, help="folder of the report")
    parser.add_argument("--work", type=Path, default=FOLDER, help="folder of people and weights")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    only = arguments.only or PARTS
    record = restored(arguments.out)
    skipped = record.pop("skipped", {})
    weights = arguments.work / "run" / "weights.safetensors"

    def registered(part: str, cases: Iterator[Case]) -> Iterator[dict[str, Any]]:
        return measured(cases, weights, record.get(part, {}), arguments.method)

    parts: dict[str, Callable[[], Iterator[Any]]] = {
        "training": lambda: train(
            arguments.people,
            arguments.size,
            OPTIONS,
            TrainerOptions(steps=arguments.steps, rate=arguments.rate, every=EVERY),
            arguments.work,
        ),
        "generated": lambda: registered(
            "generated", people(arguments.people + VALIDATION, arguments.pairs, arguments.size)
        ),
        "real": lambda: registered("real", chain.from_iterable(map(deformed, STRENGTHS))),
        "mr": lambda: registered("mr", another()),
    }
    for name in only:
        skipped.pop(name, None)
        try:
            for found in parts[name]():
                record[name] = found
                _keep(arguments.out, record, skipped)
        except InputError as error:
            skipped[name] = str(error)
    print(_keep(arguments.out, record, skipped))
    return int(bool(skipped))


def _keep(folder: Path, record: dict[str, Any], skipped: dict[str, str]) -> str:
    record |= {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine.describe(),
        "versions": machine.software(*machine.OWN),
        "skipped": skipped,
    }
    return kept(folder, "abdomens", record, page(record))


def restored(folder: Path) -> dict[str, Any]:
    """The record of a folder of reports, empty where there is none."""
    file = folder / "abdomens.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found


if __name__ == "__main__":
    sys.exit(main())
