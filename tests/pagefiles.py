"""The files that the docs' pages name: small generated scans, and what is made of them, where a page asks for them.

Names are those of places to fill in: capitals, as `FIXED.nii.gz`, and published weights by the names that they have.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import torch
from runs import invoke

from l2rfast.data.synthetic import Anatomy, anatomies
from l2rfast.io import Volume, write_image, zarr
from l2rfast.methods.discrete.pddnet import PDDNet
from l2rfast.world import Grid

SIDE = 40
AFFINE = np.diag([-2.0, -2.0, 2.0, 1.0])
TRAINED = 16  # the side of scans that a network is trained on
SUBJECTS = 14


@cache
def _subjects(count: int, side: int) -> list[Anatomy]:
    return anatomies(count, (side,) * 3)


def _data(stem: str) -> torch.Tensor:
    """What a scan of that name shows: of the moving subject or of the fixed one, image, labels or a mask."""
    subject = _subjects(2, SIDE)["MOVING" in stem]
    if re.search("LABEL|SEG|ATLAS", stem):
        return subject.labels[0, 0]
    if re.search("MASK|LESION", stem):
        full = torch.zeros(SIDE, SIDE, SIDE, dtype=torch.uint8)
        inner = slice(SIDE // 2, SIDE // 2 + 4) if "LESION" in stem else slice(3, -3)
        full[inner, inner, inner] = 1
        return full
    return subject.image[0, 0]


def image(file: Path) -> None:
    write_image(file, Volume(_data(file.name.partition(".")[0]), AFFINE))


def mgh(file: Path) -> None:
    data = _data(file.name.partition(".")[0]).numpy()
    nib.save(nib.freesurfer.MGHImage(data.astype(np.float32), AFFINE.astype(np.float32)), file)


def volume(file: Path) -> None:
    """OME-Zarr."""
    data = _data(file.name.partition(".")[0]).numpy()
    with zarr.written(file, [Grid(data.shape, AFFINE)], data.dtype, ("millimeter",) * 3) as (array,):
        array[...] = data


PLACES = (np.random.default_rng(0).uniform(0.3, 0.7, (6, 3)) * SIDE) @ AFFINE[:3, :3]  # RAS mm


def points_csv(file: Path) -> None:
    rows = [",".join(f"{value:.3f}" for value in place) for place in PLACES * [-1, -1, 1]]
    file.write_text("\n".join(["x,y,z", *rows]) + "\n")


def points_fcsv(file: Path) -> None:
    head = "# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n# columns = id,x,y,z\n"
    rows = [f"{i},{x:.3f},{y:.3f},{z:.3f}\n" for i, (x, y, z) in enumerate(PLACES * [-1, -1, 1])]
    file.write_text(head + "".join(rows))


def points_markups(file: Path) -> None:
    points = [{"id": str(i), "position": list(place)} for i, place in enumerate(PLACES * [-1, -1, 1])]
    node = {"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": points}
    schema = "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    file.write_text(json.dumps({"@schema": f"{schema}markups-schema-v1.0.3.json#", "markups": [node]}))


def pairs(file: Path) -> None:
    """A table of two pairs."""
    for name in ("FIXED", "MOVING", "MOVING2"):
        ensure(f"{name}.nii.gz", file.parent)
    rows = ["id,fixed,moving", *(f"s{i},FIXED.nii.gz,{name}.nii.gz" for i, name in enumerate(("MOVING", "MOVING2")))]
    file.write_text("\n".join(rows) + "\n")


def table(file: Path) -> None:
    """One image of each of two subjects."""
    for name in ("FIXED", "MOVING"):
        ensure(f"{name}.nii.gz", file.parent)
    file.write_text("id,moving\ns0,FIXED.nii.gz\ns1,MOVING.nii.gz\n")


def result(folder: Path) -> None:
    """Of a registration, with all that there can be."""
    for name in ("FIXED", "MOVING"):
        ensure(f"{name}.nii.gz", folder.parent)
    options = ("--preset=fast", "--fixed-warped", "--jacobian", "--quiet", f"--out={folder}")
    code, said = invoke("register", folder.parent / "FIXED.nii.gz", folder.parent / "MOVING.nii.gz", *options)
    assert code == 0, said


def scans(folder: Path) -> None:
    """Images and labels of subjects to train on."""
    for i, subject in enumerate(_subjects(SUBJECTS, TRAINED)):
        for kind, data in (("images", subject.image), ("labels", subject.labels)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            write_image(folder / kind / f"case{i}.nii.gz", Volume(data[0, 0], AFFINE))


def bids(folder: Path) -> None:
    for i, subject in enumerate(_subjects(2, SIDE)):
        (folder / f"sub-{i}" / "anat").mkdir(parents=True)
        write_image(folder / f"sub-{i}" / "anat" / f"sub-{i}_T1w.nii.gz", Volume(subject.image[0, 0], AFFINE))
    told = {"Name": "generated", "BIDSVersion": "1.8.0"}
    (folder / "dataset_description.json").write_text(json.dumps(told))


def subject(file: Path) -> None:
    """`s1/t1.nii.gz` and `s2/t1.nii.gz`."""
    for i, one in enumerate(_subjects(2, SIDE)):
        (file.parent.parent / f"s{i + 1}").mkdir(exist_ok=True)
        write_image(file.parent.parent / f"s{i + 1}" / "t1.nii.gz", Volume(one.image[0, 0], AFFINE))


def keras(file: Path) -> None:
    """Of the published brain network's shape."""
    encoder = [(2, 16), (16, 32), (32, 32), (32, 32)]
    decoder = [(32, 32), (64, 32), (64, 32), (48, 32), (32, 32), (34, 16), (16, 16), (16, 3)]
    random = np.random.default_rng(0)
    widths = encoder + decoder
    with h5py.File(file, "w") as h5:
        for i, width in enumerate(widths):
            name = "flow_1" if i == len(widths) - 1 else f"conv3d_{i + 1}"
            h5[f"{name}/{name}/kernel:0"] = random.normal(0, 0.02, (3, 3, 3, *width)).astype(np.float32)
            h5[f"{name}/{name}/bias:0"] = np.zeros(width[1], np.float32)


def published(file: Path) -> None:
    """Of PDD-Net: both files."""
    state = PDDNet().state_dict()
    features = {name.removeprefix("features."): v for name, v in state.items() if name.startswith("features.")}
    torch.save(features, file.parent / "dense_reg_feat_v01.pth")
    torch.save({"alpha": state["alphas"]}, file.parent / "dense_reg_deeds_v01.pth")


MAKERS: Sequence[tuple[str, Callable[[Path], None]]] = (
    (r"[A-Z][A-Z0-9_]*\.(nii\.gz|nii|mha|nrrd|png|tif)", image),
    (r"[A-Z][A-Z0-9_]*\.mg[zh]", mgh),
    (r"[A-Z][A-Z0-9_]*\.zarr", volume),
    (r"[A-Z_]*LANDMARKS\.csv", points_csv),
    (r"[A-Z_]*LANDMARKS\.fcsv", points_fcsv),
    (r"[A-Z_]*LANDMARKS\.mrk\.json", points_markups),
    (r"PAIRS\.csv", pairs),
    (r"SCANS\.csv", table),
    (r"SCANS", scans),
    (r"BIDS", bids),
    (r"RESULT/.*", lambda file: result(file.parent)),
    (r"s(\*|\d)/t1\.nii\.gz", subject),
    (r"cvpr2018_vm2_cc\.h5", keras),
    (r"dense_reg_(feat|deeds)_v01\.pth", published),
)


def ensure(name: str, folder: Path) -> None:
    """Make what is called so in a folder, where there is no such file and one is known by that name."""
    file = folder / name
    maker = next((make for pattern, make in MAKERS if re.fullmatch(pattern, name)), None)
    if maker is not None and not file.exists():
        maker(file)
