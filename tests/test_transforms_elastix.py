"""elastix' transforms: what transformix does with its parameters is what they are read as.

The files under golden/elastix are TransformParameters as elastix 5.3 lays them out, with made numbers: a similarity, an
Euler transform and a B-spline that go on from each other. The fields are those of itk-elastix 0.25.4 for each of them
(``itk.TransformixFilter`` with ``SetComputeDeformationField``), displacements in LPS millimetres by axes k, j, i.
"""

from __future__ import annotations

from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch

from l2rfast import InputError, read_transform
from l2rfast.world import Grid

GOLDEN = Path(__file__).parent / "golden/elastix"
LPS = np.diag([-1.0, -1.0, 1.0])
DIRECTION = {2: [[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]], 3: [[0.8, 0.6, 0], [0, 0, 1], [0.6, -0.8, 0]]}


def places_and_steps(ndim: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Voxels of fixed (M, 3) in RAS millimetres, and where transformix takes them from there."""
    field = np.load(GOLDEN / "fields.npz")[f"{ndim}D.{number}"]
    steps = np.zeros((field[..., 0].size, 3))
    steps[:, :ndim] = np.moveaxis(field, -1, 0).reshape(ndim, -1).T
    voxels = np.zeros((len(steps), 3))
    voxels[:, :ndim] = np.argwhere(np.ones(field.shape[:-1]))[:, ::-1]
    origin = [-3, 2, 1 if ndim == 3 else 0]
    return (voxels * (2, 2.5, 1.5) @ np.transpose(DIRECTION[ndim]) + origin) @ LPS, steps @ LPS


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("ndim", [2, 3])
def test_places_go_where_transformix_takes_them(ndim: int, number: int) -> None:
    places, steps = places_and_steps(ndim, number)
    assert abs(steps - (0 if number == 0 else places_and_steps(ndim, number - 1)[1])).max() > 0.5
    ours = read_transform(GOLDEN / f"TransformParameters.{ndim}D.{number}.txt")
    assert (ours.matrix is None) == (number == 2)
    np.testing.assert_allclose(ours(torch.from_numpy(places)).numpy() - places, steps, atol=2e-5)


@pytest.mark.parametrize("sums", ["1", "2", "12"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_what_transforms_add_to_a_place_is_added_up(ndim: int, sums: str, tmp_path: Path) -> None:
    """The fields of added.npz are of the same program, with "Add" for "Compose" in the files of these numbers."""
    folder = tmp_path / "elastix"
    folder.mkdir()
    for number in range(3):
        name = f"TransformParameters.{ndim}D.{number}.txt"
        content = (GOLDEN / name).read_text()
        (folder / name).write_text(content.replace('"Compose"', '"Add"') if str(number) in sums else content)
    places, composed = places_and_steps(ndim, 2)
    field = np.load(GOLDEN / "added.npz")[f"{ndim}D.add{sums}"]
    steps = np.zeros_like(composed)
    steps[:, :ndim] = np.moveaxis(field, -1, 0).reshape(ndim, -1).T
    steps = steps @ LPS
    assert abs(steps - composed).max() > 0.5
    ours = read_transform(folder / name)
    assert ours.ndim == ndim
    np.testing.assert_allclose(ours(torch.from_numpy(places)).numpy() - places, steps, atol=2e-5)
    if "1" in sums:  # of a similarity and an Euler transform
        linear = read_transform(folder / f"TransformParameters.{ndim}D.1.txt")
        assert (linear.matrix is not None, linear.ndim) == (True, ndim)


def test_bsplines_on_another_fixed_grid() -> None:
    places, steps = places_and_steps(3, 2)
    affine = np.eye(4)
    affine[:3, :3] = LPS @ DIRECTION[3] * (2, 2.5, 1.5)
    affine[:3, 3] = places[0] + affine[:3, :3] @ [1, 2, 1]
    ours = read_transform(GOLDEN / "TransformParameters.3D.2.txt", fixed=Grid((4, 4, 3), affine))
    assert ours.grid is not None
    assert ours.grid.size == (4, 4, 3)
    inner = steps.reshape(5, 7, 6, 3)[1:4, 2:6, 1:5]
    np.testing.assert_allclose(ours.vectors.numpy().T, inner, atol=2e-5)  # type: ignore[attr-defined]


def changed(folder: Path, old: str, new: str, name: str = "TransformParameters.3D.2.txt") -> Path:
    """A file of the golden ones, in a copy of their folder, with other contents."""
    copytree(GOLDEN, folder / "elastix", dirs_exist_ok=True)
    content = (GOLDEN / name).read_text()
    assert old in content
    (folder / "elastix" / name).write_text(content.replace(old, new))
    return folder / "elastix" / name


BEFORE = "elastix/TransformParameters.3D.1.txt"


def test_the_initial_one_may_be_named_in_other_ways(tmp_path: Path) -> None:
    """By a path from where elastix ran, from the file, in full, of Windows, and by the name before 5.1."""
    expected = read_transform(GOLDEN / "TransformParameters.3D.2.txt").vectors  # type: ignore[attr-defined]
    names = (
        BEFORE,
        "TransformParameters.3D.1.txt",
        "./TransformParameters.3D.1.txt",
        "elastix\\TransformParameters.3D.1.txt",
    )
    for name in (*names, str(tmp_path / BEFORE)):
        found = read_transform(changed(tmp_path, BEFORE, name))
        assert torch.equal(found.vectors, expected)  # type: ignore[attr-defined]
    found = read_transform(changed(tmp_path, "InitialTransformParameterFileName", "InitialTransformParametersFileName"))
    assert torch.equal(found.vectors, expected)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["absent.txt", "../outside.txt", "/etc/hostname", "elastix"])
def test_an_initial_one_that_is_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "outside.txt").write_text((GOLDEN / "TransformParameters.3D.0.txt").read_text())
    with pytest.raises(InputError, match=r"2.txt goes on in the same folder, got"):
        read_transform(changed(tmp_path, BEFORE, name))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (BEFORE, "TransformParameters.3D.2.txt", "got a chain that comes back to TransformParameters.3D.2.txt"),
        ('"Compose"', '"Mix"', "got HowToCombineTransforms 'Mix', where 'Compose' and 'Add' are known"),
        ("SplineOrder 3", "SplineOrder 2", "got BSplineTransformSplineOrder '2'"),
        ('CyclicTransform "false"', 'CyclicTransform "true"', "got UseCyclicTransform 'true'"),
        ('DirectionCosines "true"', 'DirectionCosines "false"', "got UseDirectionCosines 'false'"),
        ('ForTransformationParameters "false"', 'ForTransformationParameters "true"', "got UseBinary"),
        ('"BSplineTransform"', '"SplineKernelTransform"', "got a SplineKernelTransform of 3 axes"),
        ("(FixedImageDimension 3)", "(FixedImageDimension 4)", "of 4 axes"),
        ("(NumberOfParameters 630)", "(NumberOfParameters 99)", "630 numbers of TransformParameters, where 99"),
        ("(GridSize 5 6 7)", "(GridSize 5 6 8)", "got 630 parameters for a grid of 5 x 6 x 8"),
        ("(GridSize 5 6 7)", "(GridSize -5 -6 7)", "for a grid of 3 axes"),
        ("(GridSpacing 4 5 3)", "(GridSpacing 4 nan 3)", "for a grid of 3 axes"),
        ("(GridDirection", "(Elsewhere", "got 0 numbers of GridDirection, where 9 are expected"),
        ("(Size 6 7 5)", "", "got 0 numbers of Size"),
    ],
)
def test_what_is_not_known_is_said(old: str, new: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        read_transform(changed(tmp_path, old, new))


def test_a_truncated_file_is_said(tmp_path: Path) -> None:
    content = (GOLDEN / "TransformParameters.3D.0.txt").read_text()
    (tmp_path / "a.txt").write_text(content[: content.index("TransformParameters 0.05") + 30])
    with pytest.raises(InputError, match=r"a.txt.: expected a transform of elastix, got"):
        read_transform(tmp_path / "a.txt")
