"""``python -m bench.starts``: where a registration starts of heads that were turned, moved and cut off: by mutual
information, and by what a network sees (``--init affine`` and ``learned``).

Every pair is aligned by mutual information as its files have it: that is the truth, as far as it goes. Then moving is
turned about any axis by up to 45 degrees, moved by up to 60 mm, and cut along one of its axes to between half and all
of what it had; all of that at random, the same for every kind of start.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean, median

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from l2rfast import InputError, data
from l2rfast.io import Volume, read_image
from l2rfast.methods.initial import initialise
from l2rfast.methods.stages import Stages

from . import machine
from .learned import as_t2
from .registration import load_pair
from .report import REPORTS, digits, kept, rounded, table
from .runs import BUSY

OTHER, KINDS = "affine", ("affine", "learned")
DEGREES, MILLIMETRES, KEPT = 45.0, 60.0, 0.5
NEAR = 10.0  # mm: from there a deformable registration goes on
STARTS = 40  # of each pair
BODY, STEP = 0.1, 6  # of the largest intensity, from which on a voxel is of the head, and every how many are looked at
TIMES = 0.5  # of the other's time, that is to be enough
EXPLANATION = f"""\
*Near* is the share of starts after which the head lies within {NEAR:g} mm, in the mean, of where it lies as its files
have it, aligned by mutual information. Seconds are of the start alone, the median; the two kinds take turns."""


@dataclass
class Kind:
    """What a kind of start came to: for each start the distance in mm, and seconds."""

    millimetres: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def near(self) -> float:
        return fmean(each <= NEAR for each in self.millimetres)


def heads() -> Iterator[tuple[str, Volume, Volume]]:
    """Pairs, by name.

    Raises:
        InputError: the scans are not there.
    """
    fixed, moving, _ = load_pair()
    yield "tutorial, T1 to T1", fixed, moving
    yield "tutorial, T1 to painted T2", fixed, replace(moving, data=as_t2(moving.data))
    more = Path(os.environ.get(data.ENVIRONMENT, ".")) / "more"
    one, two, three = (read_image(more / "brain-malf-dev" / f"{n}_SS.nii.gz") for n in (1000, 1001, 1002))
    yield "OASIS 1000 to 1001", one, two
    yield "OASIS 1001 to 1002", two, three
    yield "whole head, T1 to PD", *(read_image(more / "brain-chris" / f"chris_{name}.nii.gz") for name in ("t1", "PD"))


def turned(moving: Volume, random: np.random.Generator) -> tuple[Volume, np.ndarray]:
    """A part of moving elsewhere; and (4, 4), where in mm its places have come to."""
    axis, way = (vector / np.linalg.norm(vector) for vector in random.normal(size=(2, 3)))
    turn = Rotation.from_rotvec(np.radians(random.uniform(0, DEGREES)) * axis).as_matrix()
    size = np.array(moving.data.shape)
    centre = moving.affine[:3] @ [*((size - 1) / 2), 1]
    by, cut = np.eye(4), np.eye(4)
    by[:3, :3], by[:3, 3] = turn, centre - turn @ centre + random.uniform(0, MILLIMETRES) * way
    along = int(random.integers(3))
    left = round(random.uniform(KEPT, 1) * size[along])
    cut[along, 3] = first = int(random.integers(size[along] - left + 1))
    return Volume(moving.data.narrow(along, first, left).clone(), by @ moving.affine @ cut), by


def measured(starts: int) -> dict[str, dict[str, Kind]]:
    """By pair and kind."""
    found: dict[str, dict[str, Kind]] = {}
    for name, fixed, moving in heads():
        of = found[name] = {kind: Kind() for kind in KINDS}
        truth = started(fixed, moving, OTHER)
        body = (fixed.data[::STEP, ::STEP, ::STEP] > BODY * fixed.data.max()).nonzero().numpy() * STEP
        places = fixed.affine @ np.c_[body, np.ones(len(body))].T
        random = np.random.default_rng(0)
        for _ in range(starts):
            part, by = turned(moving, random)
            for kind in KINDS:
                start = machine.clock()
                matrix = started(fixed, part, kind)
                of[kind].seconds.append(machine.clock() - start)
                off = np.linalg.norm(((matrix - by @ truth) @ places)[:3], axis=0)
                of[kind].millimetres.append(float(off.mean()))
            told = ", ".join(f"{kind} {one.millimetres[-1]:.1f} mm {one.seconds[-1]:.1f} s" for kind, one in of.items())
            print(f"{name}: {told}", flush=True)
    return found


def started(fixed: Volume, moving: Volume, kind: str) -> np.ndarray:
    return initialise(fixed, moving, kind, None, torch.device("cpu"), Stages()).matrix


def page(found: dict[str, dict[str, Kind]], others: float) -> list[str]:
    """In paragraphs of Markdown."""
    whole = {
        kind: Kind(*([each for of in found.values() for each in getattr(of[kind], name)] for name in asdict(Kind())))
        for kind in KINDS
    }
    rows = [
        [name, str(len(of[OTHER].seconds)), *(cell for kind in KINDS for cell in _cells(of[kind]))]
        for name, of in {**found, "all": whole}.items()
    ]
    head = ["pair", "starts"]
    for kind in KINDS:
        head += [f"{kind}: near, %", "mm, median", "mm, worst", "seconds"]
    one, two = whole[OTHER], whole["learned"]
    share = median(two.seconds) / median(one.seconds)
    targets = [
        ["near, of learned", f">= {100 * one.near:.1f} %, as affine", f"{100 * two.near:.1f} %", two.near >= one.near],
        ["time, of that of affine", f"<= {TIMES}", f"{share:.2f}", share <= TIMES],
    ]
    busy = f"Others kept {others:.1f} processors busy meanwhile: times are not to be compared." if others > BUSY else ""
    judged = table(["target", "asked", "found", ""], [[*row, "met" if met else "**not met**"] for *row, met in targets])
    return ["# Starts of heads that were turned, moved and cut off", table(head, rows), judged, EXPLANATION, busy]


def _cells(one: Kind) -> list[str]:
    return [
        f"{100 * one.near:.1f}",
        *(f"{value:.1f}" for value in (median(one.millimetres), max(one.millimetres))),
        digits(median(one.seconds)),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.starts", description=__doc__)
    parser.add_argument("--starts", type=int, default=STARTS, help=f"of each pair (default: {STARTS})")
    parser.add_argument("--threads", type=int, default=2, help="(default: 2)")
    parser.add_argument("--out", type=Path, default=REPORTS, help="folder of the report")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    before, start = machine.seconds_of_others(), machine.clock()
    try:
        found = measured(arguments.starts)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    others = (machine.seconds_of_others() - before) / (machine.clock() - start)
    record = {
        "pairs": {name: {kind: asdict(one) for kind, one in of.items()} for name, of in found.items()},
        "others": others,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine.describe(),
        "versions": machine.software(*machine.OWN),
    }
    print(kept(arguments.out, "starts", rounded(record), [part for part in page(found, others) if part]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
