"""Transforms of images of two axes stay ones: SimpleITK reads what the commands write of them, and goes to the places
that its own chain goes to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from test_transforms_itk import reached
from typer.testing import CliRunner

from l2rfast import cli, register
from l2rfast.io import Volume, read_transform, write_transform
from l2rfast.world import Affine, compose

TURN = sitk.Euler2DTransform((8.0, 7.0), 0.2, (0.5, -0.7))
STRETCH = sitk.AffineTransform([1.1, 0.1, -0.05, 0.95], (0.4, 0.3), (9.0, 8.0))
PLACES = np.random.default_rng(1).uniform((-11, -9, 0), (-6, -6, 0), (20, 3))  # in RAS, within the field


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    x, y = np.meshgrid(np.arange(14), np.arange(12))
    vectors = np.stack([0.4 * np.sin(x / 4 + y / 3), 0.3 * np.cos(x / 3 - y / 5)], -1)
    image = sitk.GetImageFromArray(vectors, isVector=True)
    image.SetSpacing((1.25, 1.5))
    sitk.WriteImage(image, "field.nii.gz")
    sitk.WriteTransform(TURN, "turn.txt")
    sitk.WriteTransform(STRETCH, "stretch.tfm")
    sitk.WriteTransform(sitk.CompositeTransform([STRETCH, field()]), "chain.h5")


def field() -> sitk.Transform:
    return sitk.DisplacementFieldTransform(sitk.ReadImage("field.nii.gz", sitk.sitkVectorFloat64))


def written(*arguments: str) -> sitk.Transform:
    result = CliRunner().invoke(cli.app, arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    if not (file := arguments[-1].removeprefix("--out=")).endswith(".nii.gz"):
        return sitk.ReadTransform(file)
    return sitk.DisplacementFieldTransform(sitk.ReadImage(file, sitk.sitkVectorFloat64))


@pytest.mark.parametrize(
    ("arguments", "suffixes"),
    [
        (("compose", "turn.txt", "stretch.tfm"), ("txt", "tfm", "mat", "h5")),
        (("convert", "turn.txt"), ("txt", "mat")),
        (("invert", "stretch.tfm"), ("txt", "h5")),
        (("compose", "field.nii.gz", "stretch.tfm"), ("h5", "nii.gz")),
        (("convert", "chain.h5"), ("h5", "nii.gz")),
        (("invert", "field.nii.gz"), ("h5", "nii.gz")),
    ],
)
def test_what_is_written_of_two_axes_has_two(arguments: tuple[str, ...], suffixes: tuple[str, ...]) -> None:
    theirs = {
        "turn.txt": TURN if arguments[0] == "convert" else sitk.CompositeTransform([STRETCH, TURN]),
        "stretch.tfm": STRETCH.GetInverse(),
        "field.nii.gz": sitk.CompositeTransform([STRETCH, field()]),
        "chain.h5": sitk.CompositeTransform([STRETCH, field()]),
    }
    for suffix in suffixes:
        found = written(*arguments, f"--out=a.{suffix}")
        assert found.GetDimension() == 2
        if arguments[:2] == ("invert", "field.nii.gz"):
            np.testing.assert_allclose(reached(field(), reached(found, PLACES)), PLACES, atol=0.02)
        else:
            # Between its voxels one field differs from the chain of which it was made.
            exact = 1e-6 if suffix != "nii.gz" else 0.02
            np.testing.assert_allclose(reached(found, PLACES), reached(theirs[arguments[1]], PLACES), atol=exact)


def test_with_one_of_three_axes_there_are_three() -> None:
    turn = np.array(TURN.GetMatrix()).reshape(2, 2)
    sitk.WriteTransform(sitk.Euler3DTransform((0, 0, 0), 0.1, 0, 0), "tilt.txt")
    assert written("compose", "turn.txt", "tilt.txt", "--out=a.txt").GetDimension() == 3
    assert written("compose", "field.nii.gz", "tilt.txt", "--out=a.h5").GetDimension() == 3
    matrix = np.eye(4)
    matrix[:2, :2] = turn
    write_transform("b.txt", Affine(matrix))  # about the third axis, and still of three
    assert sitk.ReadTransform("b.txt").GetDimension() == 3


def test_there_and_back_it_stays_of_two() -> None:
    turn = read_transform("turn.txt")
    assert (turn.ndim, compose(turn, turn.inverse).ndim, compose().ndim) == (2, 2, 3)


def test_the_transform_of_registered_slices_has_two() -> None:
    image = torch.rand(24, 24, generator=torch.Generator().manual_seed(0))
    result = register(*[Volume(image, np.diag([-1.0, -1, 1, 1]))] * 2, preset="fast", init="none")
    write_transform("a.h5", result.transform)
    assert sitk.ReadTransform("a.h5").GetDimension() == 2
