"""What is read from outside: for each format how files of it are made, and what reads them. A new one is a line."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from l2rfast import io
from l2rfast.cli.crew import listed
from l2rfast.cli.view import _page
from l2rfast.errors import InputError
from l2rfast.io import points as points_of_pairs
from l2rfast.io.series import open_series
from l2rfast.methods.cohort import bids as cohort_bids
from l2rfast.methods.cohort import study, summary
from l2rfast.methods.discrete.pddnet import PDDNet
from l2rfast.methods.discrete.tutorial import TutorialNet2d
from l2rfast.methods.template import rounds
from l2rfast.methods.training.cases import find_pairs
from l2rfast.methods.unsupervised.network import VoxelMorph
from l2rfast.world import Composite, Field, Inverse

from . import seeds, states
from .seeds import FIXED, LIKE, MOVING, SLICE, Make

Read = Callable[[Path], object]


@dataclass(frozen=True)
class Target:
    """A format.

    Attributes:
        name: of it.
        suffixes: of its files, one of which is taken; empty of a folder.
        makes: write files, or folders, that can be read.
        read: what a file goes to. Raises AssertionError where what it gives cannot be.
        fields: of a binary header, see `mutations.mutated`.
        share: of the inputs, beside others.
        file: which in a folder of its own the file is, where readers want such a name.
        packed: bytes that one of a file may honestly stand for.
    """

    name: str
    suffixes: tuple[str, ...]
    makes: Sequence[Make]
    read: Read
    fields: tuple[tuple[int, str], ...] = ()
    share: float = 1.0
    file: str = ""
    packed: int = 1


NIFTI_FIELDS = (
    (0, "<i"), (39, "<B"), *((at, "<h") for at in range(40, 56, 2)), (56, "<f"), (60, "<f"), (64, "<f"), (68, "<h"),
    (70, "<h"), (72, "<h"), *((at, "<f") for at in range(76, 120, 4)), (123, "<B"), (252, "<h"), (254, "<h"),
    *((at, "<f") for at in range(256, 328, 4)), (344, "<i"), (348, "<i"), (352, "<i"), (356, "<i"),
)  # fmt: skip
MGH_FIELDS = (*((at, ">i") for at in range(0, 28, 4)), (28, ">h"), *((at, ">f") for at in range(30, 90, 4)))
MATLAB_FIELDS = tuple((at, "<i") for at in range(0, 20, 4))
MORPH_FIELDS = tuple((at, ">i") for at in range(0, 24, 4))
TRK_FIELDS = ((12, "<h"), (36, "<h"), (238, "<h"), *((at, "<i") for at in range(988, 1004, 4)))
_GZIP = 1032
_ENCODINGS = tuple(f"GIFTI_ENCODING_{name}" for name in ("B64GZ", "B64BIN", "ASCII"))


def image(path: Path) -> None:
    """In every way in which images are read."""
    refused = []
    ways: tuple[Read, ...] = (_volume, lambda path: io.read_grid("image", path), _series)
    for way in ways:
        try:
            way(path)
        except InputError as error:
            refused.append(error)
    if refused:
        raise refused[0]


def _volume(path: Path) -> None:
    found = io.as_volume("fixed", path, dims=(2, 3))
    assert found.data.isfinite().all()
    assert np.isfinite(found.affine).all()


def _series(path: Path) -> None:
    for volume in open_series("image", path).volumes():
        assert volume.ndim >= 3


def label_map(path: Path) -> None:
    found = io.read_labels(path, LIKE)
    assert found.data.min() >= 0
    io.read_mask(path, LIKE)


def picture_labels(path: Path) -> None:
    assert io.read_labels(path, SLICE).data.min() >= 0


def transform(path: Path, format: str) -> None:
    """By its format, and as any."""
    failed = None
    for asked in (format, None)[: 2 if path.stat().st_size % 4 == 0 else 1]:
        try:
            _transform(path, asked)
        except InputError as error:
            failed = error if asked else failed
    if failed:
        raise failed


def _transform(path: Path, format: str | None) -> None:
    with torch.no_grad():
        found = io.read_transform(path, format=format, fixed=FIXED, moving=MOVING)
    assert found.matrix is None or np.isfinite(found.matrix).all()
    for part in found.parts if isinstance(found, Composite) else (found,):
        field = part.of if isinstance(part, Inverse) else part
        assert not isinstance(field, Field) or field.disp.shape[:2] == (1, 3)


def pointset(path: Path) -> None:
    for coordinates in (None, "ras"):
        try:
            found = io.read_pointset(path, coordinates=coordinates)
        except InputError as error:
            failed: InputError | None = error
            continue
        assert found.points.isfinite().all()
        found.stored.write(path.with_name(f"moved{path.name}"), found.stored.values + 1)
        return
    assert failed is not None
    raise failed


def points(path: Path) -> None:
    found = points_of_pairs.read_points("points", path, LIKE)
    assert found.voxels.isfinite().all()


def landmarks(path: Path) -> None:
    assert io.read_landmarks(path, LIKE).isfinite().all()


def cohort(path: Path) -> None:
    for pair in listed("pairs", path, "T1w", "template"):
        assert os.sep not in pair.id
        assert pair.id not in (".", "..")
        assert pair.id[0] != "-"


def cases(path: Path) -> None:
    found = find_pairs(path)
    for pair in [*found.training, *found.validation, *found.test]:
        for case in (pair.fixed, pair.moving):
            inside = os.path.normpath(case.image).startswith(str(path if path.is_dir() else path.parent))
            assert inside or path.suffix != ".json"


def report(path: Path) -> None:
    failed = None
    (path.parent / "displacement.nii.gz").touch()
    for read in (lambda: _page(path.parent), lambda: summary._read(path)):
        try:
            read()
        except InputError as error:
            failed = error
    if failed is not None:
        raise failed


def template_round(path: Path) -> None:
    folder = path.parent / "rounds" / "0" / "mean"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "round.json").write_bytes(path.read_bytes())
    rounds.TemplateFolder(path.parent, [rounds.Member("a", [path])]).done(0)


def _published(path: Path) -> None:
    PDDNet.from_published(path, path.with_name("alpha.pth"))


def _image(name: str, suffixes: tuple[str, ...], *makes: Make, **more: Any) -> Target:
    return Target(name, suffixes, makes, image, **more)


def _transforms(name: str, suffixes: tuple[str, ...], *makes: Make, **more: Any) -> Target:
    return Target(f"{name} transform{suffixes[0]}", suffixes, makes, partial(transform, format=name), **more)


def _points(name: str, suffixes: tuple[str, ...], *makes: Make, **more: Any) -> Target:
    return Target(name, suffixes, makes, pointset, **more)


_field, _line = partial(seeds.transform, seeds.FIELD), partial(seeds.transform, seeds.LINEAR)
_packed: dict[str, Any] = {"packed": _GZIP}
_nifti: dict[str, Any] = {"fields": NIFTI_FIELDS, **_packed}
TARGETS = (
    _image(
        "NIfTI", (".nii",), seeds.nifti(), seeds.nifti(np.float64, slope=2.0), seeds.nifti(np.uint8, extension=True),
        seeds.nifti(endian=">"), seeds.nifti2, fields=NIFTI_FIELDS, share=2,
    ),
    _image("NIfTI, gzip", (".nii.gz",), seeds.nifti(), seeds.nifti(np.float32, extension=True), share=2, **_nifti),
    _image("MGH", (".mgh",), seeds.mgh, fields=MGH_FIELDS),
    _image("MGH, gzip", (".mgz",), seeds.mgh, fields=MGH_FIELDS, **_packed),
    _image("Analyze", (".hdr",), seeds.analyze, fields=NIFTI_FIELDS),
    _image("AFNI", (".HEAD",), seeds.brik, share=0.5),
    _image("MetaImage", (".mha",), seeds.itk_image(), seeds.itk_image(compressed=True), **_packed),
    _image("MetaImage, two files", (".mhd",), seeds.itk_image()),
    _image("NRRD", (".nrrd",), seeds.itk_image(), seeds.itk_image(compressed=True), **_packed),
    _image("NRRD, two files", (".nhdr",), seeds.itk_image()),
    _image("DICOM, a file", (".dcm", ".dicom", ".ima"), seeds.dicom_slice),
    _image("DICOM, a series", ("",), seeds.dicom, share=0.5),
    _image("PNG", (".png",), seeds.picture(), seeds.picture("I;16"), seeds.picture("P"), **_packed),
    _image("JPEG", (".jpg", ".jpeg"), seeds.picture(), seeds.picture("RGB"), packed=64),
    _image(
        "TIFF", (".tif", ".tiff"), seeds.picture(compression="tiff_deflate"), seeds.picture("I;16"), seeds.tiff(),
        seeds.tiff(np.int32), seeds.tiff(bigtiff=True, compression="zlib"), **_packed,
    ),
    _image("OME-Zarr", (".zarr",), seeds.zarr_image, seeds.zarr_image2, share=0.5, **_packed),
    Target("labels", (".nii.gz", ".nii"), (seeds.labels,), label_map, **_nifti),
    Target("labels, PNG", (".png",), (seeds.picture("P"),), picture_labels, share=0.5, **_packed),
    _transforms("itk", (".nii.gz", ".nii"), _field("itk"), **_nifti),
    _transforms("itk", (".h5", ".hdf5"), seeds.chain("itk"), seeds.golden("itk/ants.h5"), **_packed),
    _transforms("itk", (".mat",), _line("itk"), seeds.golden("itk/ants.mat"), fields=MATLAB_FIELDS),
    _transforms("itk", (".txt", ".tfm"), _line("itk"), seeds.itk_splines, share=4),
    _transforms("afni", (".1D", ".1d"), _line("afni"), share=4),
    _transforms("afni", (".nii.gz", ".nii"), _field("afni"), share=0.5, **_nifti),
    _transforms("arrays", (".npy",), seeds.array, share=4),
    _transforms("arrays", (".npz",), seeds.arrays, share=4, **_packed),
    _transforms("arrays", (".nii.gz", ".nii"), seeds.field_without_intent, share=0.5, **_nifti),
    _transforms("dipy", (".nii.gz", ".nii"), _field("dipy"), share=0.5, **_nifti),
    _transforms("dipy", (".txt",), _line("dipy"), share=4),
    _transforms("dipy", (".npy",), _line("dipy"), share=4),
    _transforms(
        "elastix", (".txt",), seeds.golden("elastix/TransformParameters.3D.0.txt"),
        seeds.golden("elastix/TransformParameters.2D.0.txt"),
    ),
    _transforms("flirt", (".mat", ".txt", ".xfm"), _line("flirt"), share=4),
    _transforms("fnirt", (".nii.gz", ".nii"), _field("fnirt"), seeds.fnirt_splines, **_nifti),
    _transforms("fnirt-absolute", (".nii.gz", ".nii"), _field("fnirt"), share=0.5, **_nifti),
    _transforms("freesurfer", (".mgz", ".mgh"), _field("freesurfer"), fields=MGH_FIELDS, **_packed),
    _transforms("freesurfer", (".lta",), _line("freesurfer"), seeds.golden("freesurfer/surface.lta"), share=4),
    _transforms("freesurfer", (".dat",), seeds.register_dat, share=4),
    _transforms("freesurfer", (".m3z", ".m3d"), seeds.morph, fields=MORPH_FIELDS, **_packed),
    _transforms("greedy", (".mat",), _line("greedy"), share=4),
    _transforms(
        "niftyreg", (".nii.gz", ".nii"), _field("niftyreg"), seeds.golden("niftyreg/spline.nii.gz"),
        seeds.golden("niftyreg/velocity.nii.gz"), **_nifti,
    ),
    _transforms("niftyreg", (".txt",), _line("niftyreg"), share=4),
    _transforms("spm", (".nii", ".nii.gz"), _field("spm"), **_nifti),
    _transforms("x5", (".x5",), seeds.chain("x5"), seeds.golden("x5/deformations.x5"), **_packed),
    Target("OME-Zarr field", (".zarr",), (seeds.zarr_field,), partial(_transform, format=None), share=0.5, **_packed),
    _points("points.csv", (".csv",), seeds.table, seeds.landmarks, share=3),
    _points("fcsv", (".fcsv",), seeds.fcsv, share=3),
    _points("markups", (".mrk.json", ".json"), seeds.markups, share=3),
    _points("GIFTI", (".gii",), *map(seeds.gifti, _ENCODINGS), **_packed),
    _points("VTK", (".vtk",), *(seeds.golden(f"points/{n}.vtk") for n in ("text51", "binary51", "binary42"))),
    _points(
        "VTP", (".vtp",), *(seeds.golden(f"points/{n}.vtp") for n in ("text", "zlib", "lzma", "base64", "raw")),
        **_packed,
    ),
    _points("TrackVis", (".trk",), seeds.trk, fields=TRK_FIELDS),
    _points("MRtrix", (".tck",), seeds.tck),
    Target("points of pairs", (".fcsv",), (seeds.fcsv,), points, share=4),
    Target("points of pairs, markups", (".mrk.json",), (seeds.markups,), points, share=4),
    Target("landmarks", (".csv",), (seeds.landmarks,), landmarks, share=4),
    Target("cohort table", (".csv", ".tsv"), (states.pairs,), cohort, share=4),
    Target("cohort of BIDS", ("",), (states.bids,), lambda path: cohort_bids.find_pairs("pairs", path), share=0.5),
    Target("cohort.json", (".json",), (states.cohort,), study._begun, share=4),
    Target("report.json", (".json",), (states.report,), report, file="report.json", share=4),
    Target("training table", (".csv", ".tsv"), (states.training_table,), cases, share=4),
    Target("dataset.json", (".json",), (states.dataset,), cases, file="dataset.json", share=4),
    Target("VoxelMorph", (".safetensors",), (states.network,), VoxelMorph.load),
    Target("TutorialNet2d", (".safetensors",), (states.flat_network,), TutorialNet2d.load, share=0.5),
    Target("Keras", (".h5",), (states.keras,), VoxelMorph.from_keras, **_packed),
    Target("PDD-Net", (".pth",), (states.published,), _published, share=0.5, **_packed),
    Target("run of training", ("",), (states.run,), states.resumed, share=0.5),
    Target(
        "template maps", (".npz",), (states.template_maps,),
        lambda path: rounds._loaded(path, "affine", "displacement"), **_packed,
    ),
    Target("template round", (".json",), (states.template_round,), template_round, share=4),
)  # fmt: skip
