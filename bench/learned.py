"""``python -m bench.learned``: the method ``learned`` on two real brains, as they are and in other contrasts.

``ship RUN`` takes the network of a training over into the package, in half precision, and the course of the training
into the report. Without it, the tutorial's pair, of which nothing was ever trained on, is registered: as it is, with
moving inverted, with its gamma changed, and with moving painted from its label map as T2 shows it, and, to tell what
painting alone takes away, as T1 does; by one pass of the network, with the default fine-tuning, and by ``discrete``.
What other scans come to is in the report of `bench.scans`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import l2rfast
from l2rfast import InputError, data, metrics
from l2rfast.data.brains import STRUCTURES
from l2rfast.filters import gaussian_filter
from l2rfast.io import Volume
from l2rfast.methods.unsupervised import Pyramid
from l2rfast.methods.unsupervised.pyramid import LEARNED

from . import machine
from .quality import mean
from .registration import FILES, load_pair
from .report import REPORTS, digits, kept, rounded, rows_of, table
from .runs import BUSY

# Milliseconds, about, at 1.5 T, by the labels of FreeSurfer. What is in the head and has no label is fluid.
T2 = {
    65: (13, 52),  # pallidum
    75: (2, 7, 28, 41, 46, 60, 77, 85, *range(251, 256)),  # white matter
    80: (12, 16, 30, 51, 62, 80),  # putamen, brain stem
    85: (10, 49),  # thalamus
    88: (11, 26, 50, 58),  # caudate, accumbens
    95: (3, 8, 42, 47),  # cortices
    100: (17, 18, 53, 54),  # hippocampus, amygdala
}
FLUID, ECHO = 1500, 100  # ms: of what has no label in T2, and when the echo is
HEAD, BLUR, NOISE = 0.02, 0.7, 0.01  # least intensity of it; voxels; of the largest signal
METHOD_OPTIONS: dict[str, dict[str, Any]] = {
    "the network alone": {"method": "learned", "finetune": 0},
    "learned": {"method": "learned"},
    "discrete": {},
}
EXPLANATION = """\
Mean Dice of 30 structures. *Before* is with the zero field. *Folded* is the percentage of the voxels where the map on
the grid is no digital diffeomorphism. Seconds are of one call, reading excluded."""


def inverted(image: Tensor) -> Tensor:
    return torch.where(image > 0, image.max() - image, 0)


def darker(image: Tensor) -> Tensor:
    return image.max() * (image / image.max()) ** 0.5


def as_t2(image: Tensor) -> Tensor:
    """Moving painted from all of its labels: the signal of a spin echo, blurred, with noise."""
    times = torch.full((256,), float(FLUID))
    for time, labels in T2.items():
        times[list(labels)] = time
    signal = _painted(image, torch.exp(-ECHO / times))
    noise = torch.randn(signal.shape, generator=torch.Generator().manual_seed(1))
    return (signal + NOISE * noise * (signal > 0)).clamp(min=0)


def as_t1(image: Tensor) -> Tensor:
    """Likewise, each label as bright as it is in the mean, without noise: what painting alone takes away."""
    labels, inside = _inside(image)
    labels, values = labels[inside], image[inside].double()
    means = torch.bincount(labels, values, 256) / torch.bincount(labels, minlength=256).clamp(min=1)
    return _painted(image, means.float())


def _painted(image: Tensor, signals: Tensor) -> Tensor:
    """Of the signal of each label, blurred."""
    labels, inside = _inside(image)
    return gaussian_filter((signals[labels] * inside)[None, None], BLUR)[0, 0]


def _inside(image: Tensor) -> tuple[Tensor, Tensor]:
    """The labels of moving, and where its head is."""
    file, key = FILES["moving_labels"]
    labels = torch.from_numpy(np.load(data.path(file), allow_pickle=False)[key].astype(np.int64))
    return labels, (labels > 0) | (image > HEAD * image.max())


CONTRASTS: dict[str, Callable[[Tensor], Tensor]] = {
    "T1 to T1": lambda image: image,
    "inverted": inverted,
    "gamma 0.5": darker,
    "painted as T2": as_t2,
    "painted as T1": as_t1,
}


def outcome(fixed: Volume, moving: Volume, labels: tuple[Tensor, Tensor], options: dict[str, Any]) -> dict[str, float]:
    before = machine.seconds_of_others()
    start = machine.clock()
    found = l2rfast.register(fixed, moving, init="none", **options)
    seconds = machine.clock() - start
    warped = found.warp(labels[1], mode="nearest")
    return {
        "dice": mean(metrics.dice(labels[0], warped, STRUCTURES)),
        "folded_percent": 100 * float(metrics.digital_folding_fraction(found.displacement)),
        "seconds": seconds,
        "others": (machine.seconds_of_others() - before) / seconds,
    }


def brains() -> dict[str, Any]:
    """By contrast and method."""
    fixed, moving, labels = load_pair()
    found: dict[str, Any] = {"before": mean(metrics.dice(*labels, STRUCTURES)), "contrasts": {}}
    for contrast, seen in CONTRASTS.items():
        image = replace(moving, data=seen(moving.data))
        of = found["contrasts"][contrast] = {}
        for name, options in METHOD_OPTIONS.items():
            of[name] = outcome(fixed, image, labels, options)
            print(f"{contrast}, {name}: {of[name]['dice']:.4f}, {of[name]['seconds']:.1f} s", flush=True)
    return found


def ship(run: Path) -> dict[str, Any]:
    """Write the run's network into the package; and the course of its training.

    Raises:
        InputError: no run of such a network.
    """
    Pyramid.load(run / "weights.safetensors").half().save(LEARNED)
    losses, validations = (rows_of(run / f"{log}.csv") for log in ("training", "validation"))
    seconds = sum(row["seconds"] for row in losses)
    return {
        "options": json.loads((run / "options.json").read_text()),
        "losses": [row["segmentation"] for row in losses],
        "validations": validations,
        "seconds": seconds,
        "weights": sum(p.numel() for p in Pyramid.load(LEARNED).parameters()),
        "bytes": LEARNED.stat().st_size,
    }


def summary(record: dict[str, Any]) -> list[str]:
    """The tables of the card: how it was trained, and what it comes to."""
    training = described(record["training"]) if "training" in record else "Not told yet."
    return [training, compared(record["brains"]) if "brains" in record else "Not measured yet."]


def described(training: dict[str, Any]) -> str:
    """The training in words."""
    options, steps = training["options"], len(training["losses"])
    size = " x ".join(map(str, options["size"]))
    best = max(training["validations"], key=lambda one: one["DSC"])
    return (
        f"{steps} steps on pairs of {size} voxels painted from {options['maps']} random label maps, seed "
        f"{options['seed']}, {training['seconds'] / 60:.0f} minutes in all ({training['seconds'] / steps:.2f} s a step "
        f"and the painting). Mean Dice of eight pairs of other label maps: {training['validations'][0]['DSC']:.3f} "
        f"before, {best['DSC']:.3f} after {best['step']:.0f} steps, which are the weights that are shipped: "
        f"{training['weights']:,} in half precision, {training['bytes'] / 1000:.0f} kB."
    )


def compared(found: dict[str, Any]) -> str:
    rows = []
    for contrast, of in found["contrasts"].items():
        cells = []
        for one in of.values():
            busy = f"\\* ({one['others']:.1f})" if one["others"] > BUSY else ""
            cells += [f"{one['dice']:.3f}", f"{one['folded_percent']:.4f}", digits(one["seconds"]) + busy]
        rows.append([contrast, f"{found['before']:.3f}", *cells])
    head = ["moving", "before"]
    for name in METHOD_OPTIONS:
        head += [f"{name}: Dice", "folded, %", "seconds"]
    note = "\n\n\\* timed while others kept up to so many processors busy, in brackets: not to be compared."
    return table(head, rows) + note * any("\\*" in cell for row in rows for cell in row)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.learned", description=__doc__)
    parser.add_argument("what", nargs="*", metavar="ship RUN", help="take a network over, instead of measuring")
    parser.add_argument("--threads", type=int, default=2, help="(default: 2)")
    parser.add_argument("--out", type=Path, default=REPORTS, help="folder of the report")
    arguments = parser.parse_args(argv)
    if arguments.what and (len(arguments.what) != 2 or arguments.what[0] != "ship"):
        parser.error(f"expected nothing, or ship and the folder of a run, got {' '.join(arguments.what)}")
    torch.set_num_threads(arguments.threads)
    file = arguments.out / "learned.json"
    record = json.loads(file.read_text()) if file.exists() else {}
    try:
        record |= {"training": ship(Path(arguments.what[1]))} if arguments.what else {"brains": brains()}
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    record |= {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine.describe(),
        "versions": machine.software(*machine.OWN),
    }
    parts = ["# A network that has seen no scan"]
    if "brains" in record:
        parts += [compared(record["brains"]), EXPLANATION]
    if "training" in record:
        parts += ["## Training", described(record["training"])]
    print(kept(arguments.out, "learned", rounded(record), parts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
