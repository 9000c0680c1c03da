"""``python -m bench.prostates``: how well label-reg registers prostates that it has not seen, MR to ultrasound.

- ``rotation``: every pair of the public scans is held out once, by number: fold i holds out the pairs whose place
  leaves i when divided by the number of folds. Networks are trained on the others, and nothing is chosen by what is
  held out: the weights are those of the last step.
- ``generated``: trained on the first of the generated pairs, measured on the last 20.
- ``test FOLDER``: trained on all public pairs, or of given ``--weights``, measured on pairs that lie in a folder of the
  same layout.
- ``ship``: trained on all public pairs, and written into the package, weights in half precision.
- ``generate FOLDER``: writes generated pairs. ``shapes``: what glands are like, of the public pairs. ``bounds``: what
  could be reached with them by who knows where glands are, and what an error of that costs.

``--set width=8,steps=200`` gives options of ``l2rfast train weakly-supervised`` other values than the preset's;
``--pretrain FILE`` begins with weights, ``--pretrain generated`` with those of the ``generated`` experiment of the same
``--name``. Runs lie in ``build/bench/prostates``, and one that was cut off is gone on with. The report is kept by the
names of experiments.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from l2rfast import InputError, data, metrics, register
from l2rfast.data.prostates import write_prostates
from l2rfast.io import read_image, read_masks
from l2rfast.methods.training.cases import Pair, find_pairs
from l2rfast.methods.training.options import TrainerOptions
from l2rfast.methods.weakly_supervised.model import LabelReg
from l2rfast.methods.weakly_supervised.options import TrainingOptions, of_preset
from l2rfast.methods.weakly_supervised.register import SHIPPED
from l2rfast.methods.weakly_supervised.training import centroid, train_weakly_supervised

from . import machine
from .glands import bounds, moved, overlap, shapes
from .report import REPORTS, kept, rounded, table

ROOT = Path(__file__).parent.parent
RUNS = ROOT / "build" / "bench" / "prostates"
PUBLIC = ("tutorials2019/weakly/data/train", "more/prostate-mrus-dev")
GENERATED, KEPT = 120, 20  # pairs, and how many of them are measured
FOLDS = 6
TARGETS = {"rotation": 0.8, "generated": 0.87}
EXPLANATION = """\
Dice of the gland: with the first voxels of both grids on each other (*zero*), with the centres of both grids on each
other (*centres*), with the centroids of both glands on each other, which labels alone tell (*known*), by the network.
*Landmarks* is the mean distance of the centroids of landmarks from where they belong, as the network leaves it and, in
brackets, with the centres of the grids on each other; in voxels of the ultrasound, as the public files' affines say
0.4 mm along every axis, which cannot be. *Folded* is the percentage of the voxels where the Jacobian determinant is not
positive."""


@dataclass(frozen=True)
class Measured:
    """A pair that was not trained on. Distances are in voxels of the fixed image."""

    zero: float
    centres: float
    known: float
    dice: float
    landmarks: list[float]
    landmarks_before: list[float]
    spacing: list[float]
    folded_percent: float
    fold: int = 0


@dataclass
class Experiment:
    """What was trained how, and every pair that was measured, by name."""

    command: str
    date: str
    options: dict[str, Any]
    seconds: float = 0.0
    machine: dict[str, Any] = field(default_factory=dict)
    pairs: dict[str, Measured] = field(default_factory=dict)

    @classmethod
    def restored(cls, content: dict[str, Any]) -> Experiment:
        """From the JSON of a report."""
        return cls(**{**content, "pairs": {name: Measured(**one) for name, one in content["pairs"].items()}})


def public_pairs() -> dict[str, Pair]:
    """The 17, by name, in the order of their numbers.

    Raises:
        InputError: the scans are not there.
    """
    root = Path(os.environ.get(data.ENVIRONMENT, "."))
    found: dict[str, Pair] = {}
    for folder in PUBLIC:
        if not (root / folder).is_dir():
            raise InputError(f"{root / folder}: not found; the addresses of its files stand in bench/scans.tsv")
        found |= pairs_in(root / folder)
    return found


def pairs_in(folder: Path) -> dict[str, Pair]:
    """Of a folder in label-reg's layout, by name.

    Raises:
        InputError: it is not of that layout.
    """
    return {pair.fixed.name: pair for pair in find_pairs(folder, to_train=False).evaluated}


def table_of(pairs: Sequence[Pair], file: Path) -> Path:
    """A CSV file of pairs to train on."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["fixed", "moving", "fixed_labels", "moving_labels"])
        for pair in pairs:
            writer.writerow([pair.fixed.image, pair.moving.image, pair.fixed.labels, pair.moving.labels])
    return file


def train(pairs: Sequence[Pair], out: Path, options: TrainingOptions, trainer: TrainerOptions) -> Path:
    """The weights of the last step. A run that is there is gone on with."""
    listed = table_of(pairs, out.with_suffix(".csv"))

    def show(step: int, text: str) -> None:
        if step % 50 == 0:
            print(f"{out.name}, step {step}: {text}", flush=True)

    train_weakly_supervised(listed, out, options, trainer, resume=True, progress=show)
    return out / "weights.safetensors"


def measured(pair: Pair, weights: Path, fold: int = 0) -> Measured:
    """By the weights, as `l2rfast.register` uses them."""
    assert pair.fixed.labels is not None
    assert pair.moving.labels is not None
    fixed, moving = read_image(pair.fixed.image), read_image(pair.moving.image)
    found = register(fixed, moving, method="weakly-supervised", weights=str(weights))
    truth, masks = read_masks(pair.fixed.labels, fixed), read_masks(pair.moving.labels, moving)
    both = sorted(truth.keys() & masks.keys())
    gland, *landmarks = both
    middle = [(m - f) / 2 for m, f in zip(moving.data.shape, fixed.data.shape, strict=True)]
    apart = (centroid(masks[gland]) - centroid(truth[gland])).tolist()

    def shifted(offset: Sequence[float]) -> float:
        return overlap(truth[gland], moved(masks[gland], offset, fixed.data.shape))

    warped = {label: found.warp(masks[label].float()) for label in both}
    off = [float((centroid(warped[label]) - centroid(truth[label])).norm()) for label in landmarks]
    before = [
        float((centroid(masks[label]) - centroid(truth[label]) - torch.tensor(middle)).norm()) for label in landmarks
    ]
    return Measured(
        zero=shifted([0.0] * len(middle)),
        centres=shifted(middle),
        known=shifted(apart),
        dice=overlap(truth[gland], warped[gland] >= 0.5),
        landmarks=off,
        landmarks_before=before,
        spacing=[float(one) for one in fixed.spacing],
        folded_percent=100 * float(metrics.folding_fraction(found.displacement)),
        fold=fold,
    )


def rotation(name: str, experiment: Experiment, folds: int, options: TrainingOptions, trainer: TrainerOptions) -> None:
    """Every public pair, held out once."""
    pairs = public_pairs()
    names = list(pairs)
    for fold in range(folds):
        chosen = [pairs[one] for i, one in enumerate(names) if i % folds != fold]
        weights = train(chosen, RUNS / name / f"fold{fold}", options, replace(trainer, seed=trainer.seed + fold))
        for one in names[fold::folds]:
            experiment.pairs[one] = measured(pairs[one], weights, fold)
            print(f"{name}, fold {fold}, {one}: {experiment.pairs[one].dice:.3f}", flush=True)


def generated(name: str, experiment: Experiment, options: TrainingOptions, trainer: TrainerOptions) -> None:
    """The last of the generated pairs, by what was trained on the others."""
    folder = RUNS / "generated-pairs"
    if not (folder / "fixed_labels" / f"case{GENERATED - 1:06}.nii.gz").exists():
        write_prostates(folder, GENERATED)
    pairs = pairs_in(folder)
    names = list(pairs)[:GENERATED]
    weights = train([pairs[one] for one in names[:-KEPT]], RUNS / name, options, trainer)
    for one in names[-KEPT:]:
        experiment.pairs[one] = measured(pairs[one], weights)
        print(f"{name}, {one}: {experiment.pairs[one].dice:.3f}", flush=True)


def test(
    name: str,
    experiment: Experiment,
    folder: Path,
    options: TrainingOptions,
    trainer: TrainerOptions,
    weights: Path | None,
) -> None:
    """The pairs in a folder, by given weights or what is trained on all public pairs."""
    weights = weights or train(list(public_pairs().values()), RUNS / name, options, trainer)
    for one, pair in pairs_in(folder).items():
        experiment.pairs[one] = measured(pair, weights)
        print(f"{name}, {one}: {experiment.pairs[one].dice:.3f}", flush=True)


def ship(name: str, options: TrainingOptions, trainer: TrainerOptions) -> None:
    """The network of all public pairs becomes the package's."""
    network = LabelReg.load(train(list(public_pairs().values()), RUNS / name, options, trainer))
    for parameter in network.parameters():
        parameter.data = parameter.data.half()
    network.save(SHIPPED["prostates"])


def page(experiments: dict[str, Experiment]) -> list[str]:
    """What was measured, in paragraphs of Markdown."""
    parts = ["# Prostates that were not seen, MR to ultrasound", overview(experiments), EXPLANATION]
    for name, one in experiments.items():
        parts += [f"## {name}", f"`{one.command}`, {one.date}.", _each(one.pairs), _told(one)]
    return parts


def overview(experiments: dict[str, Experiment]) -> str:
    """A row for each."""
    head = ["experiment", "pairs", "zero", "centres", "known", "network", "worst", "target", "landmarks, voxels"]
    rows = []
    for name, one in experiments.items():
        found = list(one.pairs.values())
        target = next((value for kind, value in TARGETS.items() if name.split(",")[0] == kind), None)
        mean = fmean(each.dice for each in found)
        met = "" if target is None else f" >= {target:g}: {'met' if mean >= target else '**not met**'}"
        rows.append(
            [
                name,
                str(len(found)),
                *(f"{fmean(getattr(each, key) for each in found):.3f}" for key in ("zero", "centres", "known")),
                f"{mean:.3f}",
                f"{min(each.dice for each in found):.3f}",
                met.strip(),
                _distances([d for each in found for d in each.landmarks])
                + f" ({_distances([d for each in found for d in each.landmarks_before])})",
                f"{max(each.folded_percent for each in found):.3f}",
                f"{one.seconds / 60:.0f}",
            ]
        )
    return table([*head, "folded, %, at most", "minutes"], rows)


def summary(record: dict[str, Any]) -> str:
    """The table of docs/reference/weakly-supervised.md."""
    return overview({name: Experiment.restored(one) for name, one in record.get("experiments", {}).items()})


def card(record: dict[str, Any]) -> str:
    """The table of the card of the network that comes with the package: of the pairs that were held out."""
    experiments = {name: Experiment.restored(one) for name, one in record.get("experiments", {}).items()}
    return overview({name: one for name, one in experiments.items() if name.startswith("rotation")})


def _each(pairs: dict[str, Measured]) -> str:
    rows = [
        [
            name,
            str(one.fold),
            *(f"{value:.3f}" for value in (one.zero, one.centres, one.known, one.dice)),
            _distances(one.landmarks, one.spacing),
            f"{one.folded_percent:.3f}",
        ]
        for name, one in pairs.items()
    ]
    return table(["pair", "fold", "zero", "centres", "known", "network", "landmarks, voxels", "folded, %"], rows)


def _distances(found: Sequence[float | None], spacing: Sequence[float] = ()) -> str:
    """Their mean, and how many landmarks were warped out of the grid; of one spacing in millimetres beside."""
    known = [one for one in found if one is not None and math.isfinite(one)]
    lost = f", {len(found) - len(known)} lost" if len(known) < len(found) else ""
    if not known:
        return "-" + lost
    millimetres = f" ({spacing[0] * fmean(known):.1f} mm)" if len({round(s, 4) for s in spacing}) == 1 else ""
    return f"{fmean(known):.1f}{millimetres}{lost}"


def _told(one: Experiment) -> str:
    told = ", ".join(f"{name} {value}" for name, value in one.options.items())
    return f"{told}. {one.machine.get('cpu', '')}, {one.machine.get('threads', '')} threads."


def with_values(options: Any, told: dict[str, str]) -> Any:
    """A dataclass of options, those of its fields changed that are told, which are taken out.

    Raises:
        InputError: a value of another type.
    """
    changes: dict[str, Any] = {}
    for one in fields(options):
        if one.name in told:
            text, old = told.pop(one.name), getattr(options, one.name)
            try:
                if isinstance(old, tuple):
                    parts = [part for part in text.split(";") if part]
                    changes[one.name] = tuple((float if one.name == "sigmas" else int)(part) for part in parts)
                elif isinstance(old, bool):
                    changes[one.name] = {"true": True, "false": False}[text.lower()]
                else:
                    changes[one.name] = type(old)(text)
            except (ValueError, KeyError) as error:
                raise InputError(f"set: expected {one.name} like {old!r}, got {text!r}") from error
    return replace(options, **changes)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.prostates", description=__doc__.partition("\n")[0])
    parser.add_argument("experiment", choices=["rotation", "generated", "test", "ship", "generate", "shapes", "bounds"])
    parser.add_argument("folder", type=Path, nargs="?", help="of test and generate")
    parser.add_argument("--preset", default="cpu", help="(default: cpu)")
    parser.add_argument("--set", default="", help="options of the preset to change: width=8,levels=2;3;4")
    parser.add_argument("--folds", type=int, default=FOLDS, help=f"of the rotation (default: {FOLDS})")
    parser.add_argument("--pretrain", default="", help="weights to begin with, or: generated")
    parser.add_argument("--weights", type=Path, help="of test: measure these instead of training")
    parser.add_argument("--name", default="", help="of the experiment in the report, after its kind")
    parser.add_argument("--threads", type=int, default=2, help="(default: 2)")
    parser.add_argument("--out", type=Path, default=REPORTS, help="folder of the report")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    if arguments.experiment in ("test", "generate") and arguments.folder is None:
        parser.error(f"folder: expected one for {arguments.experiment}")
    if arguments.experiment in ("shapes", "bounds"):
        told_by = shapes if arguments.experiment == "shapes" else bounds
        print("\n".join(told_by(public_pairs().values())))
        return 0
    if arguments.experiment == "generate":
        write_prostates(arguments.folder, GENERATED)
        return 0
    options, trainer = of_preset(arguments.preset)
    told = dict(part.split("=", 1) for part in arguments.set.split(",") if part)
    options, trainer = (with_values(each, told) for each in (options, trainer))
    if told:
        raise InputError(f"set: expected options of the command line, got {', '.join(told)}")
    label = arguments.name or options.network
    if arguments.pretrain:
        before = RUNS / f"generated, {label}" / "weights.safetensors" if arguments.pretrain == "generated" else ""
        options, label = replace(options, weights=str(before or arguments.pretrain)), f"{label}, pre-trained"
    name = f"{arguments.experiment}, {label}"
    if arguments.experiment == "ship":
        ship(name, options, trainer)
        return 0
    command = " ".join(["python -m bench.prostates", *(argv or sys.argv[1:])])
    experiment = Experiment(command, datetime.now(UTC).strftime("%Y-%m-%d"), asdict(options) | asdict(trainer))
    start = time.perf_counter()
    if arguments.experiment == "rotation":
        rotation(name, experiment, arguments.folds, options, trainer)
    elif arguments.experiment == "generated":
        generated(name, experiment, options, trainer)
    else:
        test(name, experiment, arguments.folder, options, trainer, arguments.weights)
    experiment.seconds, experiment.machine = time.perf_counter() - start, machine.describe()
    file = arguments.out / "prostates.json"
    known = json.loads(file.read_text())["experiments"] if file.exists() else {}
    found = {one: Experiment.restored(content) for one, content in known.items()} | {name: experiment}
    found = dict(sorted(found.items()))
    content = rounded({one: asdict(each) for one, each in found.items()})
    print(
        kept(
            arguments.out,
            "prostates",
            {"experiments": content, "versions": machine.software("safetensors")},
            page(found),
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
