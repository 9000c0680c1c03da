"""Pairs of scans whose right registration is known, and how far a registration is from it.

The scans lie under the folder that ``L2RFAST_DATA`` names, as ``scans.tsv`` lists them: file, bytes, sha256, address.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from l2rfast import InputError, data, metrics
from l2rfast.data.brains import STRUCTURES
from l2rfast.data.synthetic import anatomies
from l2rfast.io import Volume, as_volume
from l2rfast.io.displacements import LPS
from l2rfast.methods.result import Registration

from .quality import mean
from .registration import load_pair


class Pair(NamedTuple):
    """Two images, and what a registration of them is worth."""

    fixed: Volume
    moving: Volume
    score: Callable[[Registration], float]


@dataclass(frozen=True)
class Set:
    """Pairs of a kind.

    Attributes:
        described: in words.
        measure: what the score is, as Dice.
        pairs: makes them, one after the other, by name.
        contrasts: whether their intensities differ, so that MIND or mutual information compares them, local NCC hardly.
        better: whether more is better.
        flat: whether they are of two axes.
    """

    described: str
    measure: str
    pairs: Callable[[], Iterator[tuple[str, Pair]]]
    contrasts: bool = False
    better: str = "more"
    flat: bool = False


def labelled(fixed: Volume, moving: Volume, fixed_labels: Tensor, moving_labels: Tensor) -> Pair:
    """Its score is the mean Dice of the labels that both have."""
    both = sorted((set(fixed_labels.unique().tolist()) & set(moving_labels.unique().tolist())) - {0})
    return Pair(
        fixed,
        moving,
        lambda found: mean(metrics.dice(fixed_labels, found.warp(moving_labels, mode="nearest"), both)),
    )


def placed(fixed: Volume, moving: Volume, points: Tensor, there: Tensor, unit: np.ndarray) -> Pair:
    """Its score is the mean distance of points, in voxels of fixed, from where they lie in moving, in voxels; a unit
    (ndim, ndim) takes those to what the distance is in."""

    def score(found: Registration) -> float:
        off = (found.points_in_moving(points.double()) - there.double()).numpy() @ unit.T
        return float(np.linalg.norm(off, axis=1).mean())

    return Pair(fixed, moving, score)


def _file(name: str) -> Path:
    file = Path(os.environ.get(data.ENVIRONMENT, "."), "more", name)
    if not file.is_file():
        raise InputError(f"{file}: not found; its address stands in bench/scans.tsv")
    return file


def _volume(name: str) -> Volume:
    return as_volume(name, _file(name), dims=(2, 3))


def _labels(name: str) -> Tensor:
    """(*spatial) int32, the first of several."""
    values = np.asarray(nib.load(_file(name)).dataobj)
    return torch.from_numpy((values[..., 0] if values.ndim == 4 else values).astype(np.int32))


def _malf() -> Iterator[tuple[str, Pair]]:
    for fixed, moving in ((1000, 1001), (1001, 1002), (1002, 1000)):
        images = (_volume(f"brain-malf-dev/{one}_SS.nii.gz") for one in (fixed, moving))
        labels = (_labels(f"brain-malf-dev/{one}_glm.nii.gz") for one in (fixed, moving))
        yield f"{moving} to {fixed}", labelled(*images, *labels)


def _prostate() -> Iterator[tuple[str, Pair]]:
    for number in range(8, 17):
        name = f"case{number:06}.nii.gz"
        images = (_volume(f"prostate-mrus-dev/{one}_images/{name}") for one in ("fixed", "moving"))
        glands = ((_labels(f"prostate-mrus-dev/{one}_labels/{name}") > 0).int() for one in ("fixed", "moving"))
        yield str(number), labelled(*images, *glands)


def _chris() -> Iterator[tuple[str, Pair]]:
    """What ITK finds of mutual information, rigid: a turn and a shift about the centre of T1."""
    fixed, moving = _volume("brain-chris/chris_t1.nii.gz"), _volume("brain-chris/chris_PD.nii.gz")
    centre = LPS @ (fixed.affine @ [*((n - 1) / 2 for n in fixed.data.shape), 1])[:3]
    rigid = sitk.Euler3DTransform(centre, *np.deg2rad([8.9, -0.4, -1.2]), (-1.0, -2.3, 8.7))
    axes = [np.arange(0, n, 16) for n in fixed.data.shape]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    points = points[fixed.data[tuple(points.T)].numpy() > 40]
    world = points @ fixed.affine[:3, :3].T + fixed.affine[:3, 3]
    there = np.array([LPS @ rigid.TransformPoint(LPS @ place) for place in world])
    voxels = (there - moving.affine[:3, 3]) @ np.linalg.inv(moving.affine[:3, :3]).T
    inside = ((voxels >= 0) & (voxels <= np.array(moving.data.shape) - 1)).all(1)
    arrays = (torch.from_numpy(a[inside].astype(float)) for a in (points, voxels))
    yield "PD to T1", placed(fixed, moving, *arrays, moving.affine[:3, :3])


def _ct_mr() -> Iterator[tuple[str, Pair]]:
    fixed = _volume("brain-ct-mr/ct_brain_atlas_1mm.nii.gz")
    mni = "brain-ct-mr/mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
    grey, white = (_volume(mni.format(tissue)).data for tissue in ("gm", "wm"))
    brain = (fixed.data > 0) & (fixed.data < 80)  # Hounsfield units
    yield "T1 to CT", labelled(fixed, _volume(mni.format("t1")), brain.int(), (grey + white > 0.5).int())


def _slab() -> Iterator[tuple[str, Pair]]:
    """The slab's first voxel along z is the CT's 82nd."""
    fixed, moving = _volume("abdomen-ct-mr/example_ct_sm.nii.gz"), _volume("abdomen-ct-mr/example_ct.nii.gz")
    ends = [(0.0, n - 1.0) for n in fixed.data.shape]
    points = torch.cartesian_prod(*(torch.tensor(pair, dtype=torch.float64) for pair in ends))
    there = points + torch.tensor([0, 0, 82])
    yield "CT to its slab", placed(fixed, moving, points, there, np.eye(3))


def _spine() -> Iterator[tuple[str, Pair]]:
    for fixed, moving, ending in (("t1w", "t2", "seg-manual"), ("mt1", "mt0", "seg")):
        images = (_volume(f"spine/{one}.nii.gz") for one in (fixed, moving))
        cords = ((_labels(f"spine/{one}_{ending}.nii.gz") > 0).int() for one in (fixed, moving))
        yield f"{moving} to {fixed}", labelled(*images, *cords)


def _heart() -> Iterator[tuple[str, Pair]]:
    image, labels = nib.load(_file("heart-4d/img4d.nii.gz")), nib.load(_file("heart-4d/seg4d_resliced.nii.gz"))
    frames, maps = np.asarray(image.dataobj, dtype=np.float32), np.asarray(labels.dataobj).astype(np.int32)
    for moving in (0, 2, 6):
        images = (Volume(torch.from_numpy(frames[..., k].copy()), image.affine) for k in (4, moving))
        yield f"frame {moving} to 4", labelled(*images, *(torch.from_numpy(maps[..., k].copy()) for k in (4, moving)))


def _histology() -> Iterator[tuple[str, Pair]]:
    stem = "histology-2d-dev/Rat-Kidney_"
    points = []
    for stain in ("HE", "PanCytokeratin"):
        with _file(f"{stem}{stain}.csv").open() as file:
            points.append([[float(row["X"]), float(row["Y"])] for row in csv.DictReader(file)])
    pairs = np.array([(a, b) for a, b in zip(*points, strict=False)])  # paired by row, up to the shorter
    images = (_volume(f"{stem}{stain}.jpg") for stain in ("HE", "PanCytokeratin"))
    arrays = (torch.from_numpy(pairs[:, k].copy()) for k in range(2))
    yield "PanCytokeratin to HE", placed(*images, *arrays, np.eye(2))


def _brains(*, exchanged: bool) -> Iterator[tuple[str, Pair]]:
    fixed, moving, (fixed_labels, moving_labels) = load_pair()
    images, labels = [fixed, moving], [fixed_labels, moving_labels]
    if exchanged:
        images, labels = images[::-1], labels[::-1]

    def score(found: Registration) -> float:
        return mean(metrics.dice(labels[0], found.warp(labels[1], mode="nearest"), STRUCTURES))

    yield "exchanged" if exchanged else "as it is", Pair(images[0], images[1], score)


def generated(contrasts: int, size: int = 96, seeds: int = 3) -> Iterator[tuple[str, Pair]]:
    """A template to a subject, by the field that made it: the score is the mean distance within the subject."""
    for seed in range(seeds):
        template, subject = anatomies(2, (size, size, size), contrasts=contrasts, seed=seed)
        fixed, moving = (Volume(one.image[0, 0], np.eye(4)) for one in (subject, template))
        body, truth = subject.labels[0, 0] > 0, subject.displacement[0]

        def score(found: Registration, body: Tensor = body, truth: Tensor = truth) -> float:
            points = body.nonzero()[::97].double()
            off = found.points_in_moving(points) - points - truth[:, body].T[::97].double()
            return float(off.norm(dim=1).mean())

        yield f"seed {seed}", Pair(fixed, moving, score)


SETS = {
    "brain-malf": Set(
        "three skull-stripped brains of OASIS, not aligned; Dice of 138 labels, provided by Neuromorphometrics, Inc. "
        "(CC BY-NC 3.0)",
        "Dice",
        _malf,
    ),
    "brains": Set("the pair of registration.md", "Dice", partial(_brains, exchanged=False)),
    "brains, exchanged": Set("with the roles exchanged", "Dice", partial(_brains, exchanged=True)),
    "brain-chris": Set(
        "T1 and proton density of one head, oblique and cut off; from ITK's rigid registration (CC BY-NC 4.0)",
        "mm",
        _chris,
        True,
        "less",
    ),
    "brain-ct-mr": Set("an atlas of CT and one of T1, origins a metre apart; Dice of the brain", "Dice", _ct_mr, True),
    "prostate": Set("ultrasound and MR of nine; Dice of the gland", "Dice", _prostate, True),
    "abdomen-ct": Set(
        "a slab of a CT with a wrong origin, and all of it; from where it was cut", "voxels", _slab, False, "less"
    ),
    "spine": Set("T2 to T1, and two of slices of 17 mm; Dice of the cord", "Dice", _spine, True),
    "heart-4d": Set("three frames of an ultrasound to a fourth; Dice of five thin labels", "Dice", _heart),
    "histology-2d": Set("two stains of a section; landmarks", "pixels", _histology, True, "less", True),
    "generated": Set("three generated anatomies, their fields known", "voxels", partial(generated, 1), False, "less"),
    "generated, two contrasts": Set(
        "the same with other intensities in each image", "voxels", partial(generated, 2), True, "less"
    ),
}
