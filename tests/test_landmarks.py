"""Landmarks that guide: where they are said to lie the images come, and nothing folds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from runs import invoke
from scipy.spatial.transform import Rotation
from test_initial import CPU, error, middle, turned, world
from torch import Tensor

import l2rfast
from l2rfast import InputError, digital_jacobian
from l2rfast.data.synthetic import anatomies
from l2rfast.errors import InputWarning
from l2rfast.io import Volume, write_displacement
from l2rfast.methods.initial import initialise
from l2rfast.methods.landmarks import Landmarks, Wanted, checked, fitted, guided, toward
from l2rfast.methods.similarity import SLOPE
from l2rfast.methods.stages import Stages
from l2rfast.methods.unsupervised import VoxelMorph
from l2rfast.methods.unsupervised.network import Architecture

SIZE = (48, 52, 44)
POINTS = torch.tensor([[24.0, 22, 20], [15, 36, 25], [34, 34, 16]], dtype=torch.float64)
METRICS: list[dict[str, Any]] = [{"preset": "fast", "metric": metric} for metric in ("lncc", "mind", "ssd", "mi")]


@pytest.fixture(scope="module")
def pair() -> tuple[Tensor, Tensor]:
    moving, fixed = anatomies(2, SIZE, structures=4, deformation=0.04, noise=0.01)
    return fixed.image[0, 0], moving.image[0, 0]


@pytest.mark.parametrize("options", METRICS)
def test_points_come_where_they_are_wanted(pair: tuple[Tensor, Tensor], options: dict[str, Any]) -> None:
    """Several voxels from where the images say, on both sides."""
    alone = l2rfast.register(*pair, init="none", **options)
    wanted = alone.points_in_moving(POINTS) + torch.tensor([[5.0, 0, 0], [0, -5, 0], [0, 0, 5]])
    result = l2rfast.register(*pair, init="none", landmarks=(POINTS, wanted), **options)
    assert (result.points_in_moving(POINTS) - wanted).norm(dim=1).max() < 1.2
    assert (result.points_in_fixed(wanted) - POINTS).norm(dim=1).max() < 1.7
    assert min(digital_jacobian(u).min() for u in (result.displacement, result.inverse)) > 0
    less = l2rfast.register(*pair, init="none", landmarks=(POINTS, wanted), landmark_weight=0.3, **options)
    apart = [(r.points_in_moving(POINTS) - wanted).norm(dim=1).mean() for r in (result, less, alone)]
    assert apart[0] < apart[1] < apart[2]
    assert result.options["landmarks"] == 3
    none = l2rfast.register(*pair, init="none", landmarks=(POINTS, wanted), landmark_weight=0, **options)
    assert torch.equal(none.displacement, alone.displacement)
    assert "landmarks" not in none.options


def test_elsewhere_it_is_as_without_them(pair: tuple[Tensor, Tensor]) -> None:
    """Half of the image away, in the body: a tenth of what moves the point."""
    alone = l2rfast.register(*pair, init="none", preset="fast")
    wanted = alone.points_in_moving(POINTS[:1]) + 3
    result = l2rfast.register(*pair, init="none", preset="fast", landmarks=(POINTS[:1], wanted))
    away = pair[0] > 0.2
    away[:36] = False
    assert away.any()
    assert (result.displacement - alone.displacement)[0].norm(dim=0)[away].median() < 0.5


def test_finer_steps_come_nearer(pair: tuple[Tensor, Tensor]) -> None:
    """Between grids that differ, where the images agree with the points, to a fraction of a voxel."""
    affine = np.diag([-1.0, 1.0, 1.25, 1.0])
    affine[:3, 3] = 47, 0, 0
    moving = nib.Nifti1Image(pair[1].numpy()[::-1], affine)
    alone = l2rfast.register(pair[0], moving, init="none")
    wanted = alone.points_in_moving(POINTS) + 1.0
    result = l2rfast.register(pair[0], moving, init="none", landmarks=(POINTS.float(), wanted.numpy()))
    assert (result.points_in_moving(POINTS) - wanted).norm(dim=1).max() < 0.3


@pytest.mark.parametrize("options", METRICS)
@pytest.mark.parametrize(
    ("fixed", "moving", "moved"),
    [
        ([[20, 26, 22], [28, 26, 22]], [[28, 26, 22], [20, 26, 22]], 0.0),  # past each other
        ([[24, 26, 22], [24, 26, 22]], [[30, 26, 22], [26, 26, 22]], 4.0),  # in two places
        ([[22, 24, 22], [26, 24, 22]], [[24, 28, 22], [24, 28, 22]], None),  # two in one place
    ],
)
def test_nothing_folds_whatever_they_say(
    pair: tuple[Tensor, Tensor], fixed: Any, moving: Any, moved: float | None, options: dict[str, Any]
) -> None:
    """The best that a smooth map can do is the mean of what is wanted."""
    points = [torch.tensor(p, dtype=torch.float64) for p in (fixed, moving)]
    result = l2rfast.register(pair[0], pair[0], landmarks=points, init="none", **options)
    for field in (result.displacement, result.inverse):
        assert digital_jacobian(field).min() > 0
    found = result.points_in_moving(points[0]) - points[0]
    assert found.norm(dim=1).max() < 7
    if moved is not None:
        np.testing.assert_allclose(found.mean(0), [moved, 0, 0], atol=1.0)


def test_the_number_of_threads_changes_no_bit(pair: tuple[Tensor, Tensor]) -> None:
    options: dict[str, Any] = {"landmarks": (POINTS, POINTS + 3), "fixed_mask": pair[0] > 0.1, "init": "none"}
    one, two = (l2rfast.register(*pair, threads=threads, full_iterations=1, **options) for threads in (1, 2))
    assert torch.equal(one.displacement, two.displacement)
    assert torch.equal(one.inverse, two.inverse)


def test_they_are_at_rest_where_they_are(pair: tuple[Tensor, Tensor]) -> None:
    """An image stays on itself."""
    result = l2rfast.register(pair[0], pair[0].clone(), landmarks=(POINTS, POINTS), init="none")
    assert result.displacement.abs().max() < 1e-3


def test_the_gradient_is_that_of_the_distance() -> None:
    """A parabola that goes on as a line, by differences; with sides that are longer along an axis."""
    points = torch.tensor([[8.3, 2.1], [2.0, 9.0]], dtype=torch.float64)
    landmarks = Landmarks(points, points + torch.tensor([[0.4, -0.2], [6.0, 1.0]]), 1.0)
    size, sides = (10, 12), [1.0, 2.0]

    def nothing(field: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros((), dtype=field.dtype), torch.zeros_like(field)

    distance, back = guided((nothing, nothing), landmarks, size, [1, 1], sides)
    still = torch.zeros(1, 2, *size, dtype=torch.float64)
    _, gradient = distance(still)
    # At the second point, of which the other is far: its own pull, along what is missing in units of length.
    missing = torch.tensor([6.0, 2.0], dtype=torch.float64)
    expected = -SLOPE / 120 * missing / missing.norm() * torch.tensor(sides)
    torch.testing.assert_close(gradient[0, :, 2, 9], expected, rtol=0.02, atol=0)
    torch.testing.assert_close(back(still)[1][0, :, 8, 10], -expected, rtol=0.02, atol=0)
    moved = still.clone()
    moved[0, 0], moved[0, 1] = 6.0, 1.0
    value, gradient = distance(moved)
    assert gradient[0, :, 2, 9].abs().max() < 0.05 * SLOPE / 120
    assert value < distance(still)[0]


def test_of_what_an_image_says_there_is_the_rest() -> None:
    ones = torch.ones(1, 2, 9, 9)
    wanted = Wanted(torch.tensor([[4.0, 4.0]]), torch.tensor([[4.0, 4.0]]), 1.0, (9, 9), (1, 1), [1.0, 1.0])
    assert wanted.rest[0, 0, 4, 4] == 0
    assert wanted.rest[0, 0, 4, 6] == pytest.approx(1 - np.exp(-2), abs=1e-6)
    assert wanted.rest[0, 0, 0, 0] == 1
    found = ones * wanted.rest
    wanted.add(found, torch.tensor([[1.0, 1.0]]))
    torch.testing.assert_close(found, ones)
    beyond = Wanted(torch.tensor([[40.0, 4.0]]), torch.tensor([[4.0, 4.0]]), 1.0, (9, 9), (1, 1), [1.0, 1.0])
    assert (len(beyond.points), float(beyond.rest.min())) == (0, 1.0)


@pytest.mark.parametrize(("size", "radius"), [((7, 8), (2, 3)), ((5, 6, 7), (2, 1, 3))])
def test_the_cost_is_least_where_it_is_wanted(size: tuple[int, ...], radius: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    cost = torch.rand(1, *[2 * r + 1 for r in radius], *size, generator=generator)
    point = torch.tensor([[float(n // 2) for n in size]])
    by = torch.tensor([[float(r - 1) * (-1) ** k for k, r in enumerate(radius)]])
    wanted = Wanted(point, point + by, 1.0, size, [1] * len(size), [1.0] * len(size))
    at = (slice(None), *[slice(None)] * len(size), *[n // 2 for n in size])
    far = toward(cost.clone(), wanted)
    best = torch.unravel_index(far[at].argmin(), far[at].shape[1:])
    assert [int(i) - r for i, r in zip(best, radius, strict=True)] == by[0].int().tolist()
    corner = (*[slice(None)] * (1 + len(size)), *[0] * len(size))
    reach = wanted.rest[(0, 0, *[0] * len(size))]
    if reach == 1:
        assert torch.equal(far[corner], cost[corner])


def test_a_rigid_map_is_fitted() -> None:
    turn, shift = Rotation.from_rotvec([0.3, -0.5, 1.1]).as_matrix(), np.array([4.0, -2, 7])
    places = np.random.default_rng(0).normal(size=(6, 3)) * 20
    found = fitted(*(torch.from_numpy(p) for p in (places, places @ turn.T + shift)))
    assert found is not None
    np.testing.assert_allclose(found[:3], np.hstack([turn, shift[:, None]]), atol=1e-9)
    # The best rotation, as SciPy has it, of what no rotation fits; mirrored places are not mirrored.
    other = places * [1, 1, -1] + np.random.default_rng(1).normal(size=(6, 3))
    found = fitted(torch.from_numpy(places), torch.from_numpy(other))
    assert found is not None
    best, _ = Rotation.align_vectors(other - other.mean(0), places - places.mean(0))
    np.testing.assert_allclose(found[:3, :3], best.as_matrix(), atol=1e-9)
    assert fitted(torch.from_numpy(places[:3]), torch.from_numpy(other[:3])) is None
    line = torch.arange(5.0).double()[:, None] * torch.tensor([[1.0, 2, 3]]).double()
    assert fitted(line, line) is None


def test_four_pairs_give_the_start() -> None:
    """Turned by so much that the images alone do not find it."""
    image = Volume(anatomies(1, (40, 44, 36), structures=5, noise=0.01)[0].image[0, 0], np.eye(4))
    by = world(170, 5, middle(image))
    moving = Volume(turned(image.data, image.affine, by), image.affine)
    fixed = np.random.default_rng(0).uniform(10, 26, (5, 3))
    points = [torch.from_numpy(p) for p in (fixed, fixed @ by[:3, :3].T + by[:3, 3])]
    found = initialise(image, moving, "rigid", "mi", CPU, Stages(), Landmarks(points[0], points[1], 1.0))
    assert error(found, by, image) < 0.3
    assert error(initialise(image, moving, "rigid", "mi", CPU, Stages()), by, image) > 5


def test_what_cannot_guide(pair: tuple[Tensor, Tensor]) -> None:
    shapes = [SIZE, SIZE]
    for landmarks, sentence in (
        (3, r"landmarks: expected points of fixed and of moving, two tensors \(M, 3\), got int"),
        ((POINTS,), "landmarks: expected points of fixed and of moving"),
        ((POINTS, POINTS[:2]), r"landmarks: expected .*, got \(3, 3\) and \(2, 3\)"),
        ((POINTS[:, :2], POINTS[:, :2]), r"landmarks: expected .*, got \(3, 2\)"),
        ((POINTS[:0], POINTS[:0]), r"landmarks: expected .*, got \(0, 3\)"),
        ((POINTS, POINTS * float("nan")), "landmarks: expected finite points, got NaN or infinity"),
    ):
        with pytest.raises(InputError, match=f"^{sentence}"):
            checked(landmarks, 1.0, shapes)
    for weight in (-1, float("nan"), "much"):
        with pytest.raises(InputError, match=r"^landmark_weight: expected"):
            l2rfast.register(*pair, landmarks=(POINTS, POINTS), landmark_weight=weight)
    away = POINTS.clone()
    away[1] = 500
    with pytest.warns(InputWarning, match="landmarks: 1 of 3 pairs have a point outside of its image"):
        left = checked((POINTS, away), 1.0, shapes)
    assert left is not None
    assert left.fixed.tolist() == POINTS[[0, 2]].tolist()


def test_networks_are_guided_where_they_are_tuned(pair: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    VoxelMorph(Architecture(encoder=(4, 4), decoder=(4, 4, 4, 4))).save(tmp_path / "weights.safetensors")
    options: dict[str, Any] = {"method": "unsupervised", "weights": tmp_path / "weights.safetensors"}
    with pytest.warns(InputWarning, match="the method unsupervised is not guided by them; they are measured only"):
        l2rfast.register(*pair, landmarks=(POINTS, POINTS + 3), **options)
    result = l2rfast.register(*pair, landmarks=(POINTS, POINTS + 3), finetune=10, **options)
    assert (result.points_in_moving(POINTS) - POINTS - 3).norm(dim=1).max() < 1.5


def test_from_a_field_on(pair: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    """What the field has moved is no longer missing."""
    smooth = l2rfast.box_average(torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(0)), 4, passes=3)
    start = smooth * (3 / smooth.abs().max())
    write_displacement(tmp_path / "field.nii.gz", start, np.eye(4))
    wanted = POINTS + 4
    options: dict[str, Any] = {"landmarks": (POINTS, wanted), "full_iterations": 10}
    result = l2rfast.register(*pair, initial=tmp_path / "field.nii.gz", **options)
    assert (result.points_in_moving(POINTS) - wanted).norm(dim=1).max() < 0.5


def test_the_report_says_whether_they_guided(pair: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    for name, image in zip(("fixed", "moving"), pair, strict=True):
        nib.save(nib.Nifti1Image(image.numpy(), np.eye(4)), tmp_path / f"{name}.nii.gz")
    np.savetxt(tmp_path / "fixed.csv", POINTS, delimiter=",")
    np.savetxt(tmp_path / "moving.csv", POINTS + 3, delimiter=",")
    line: list[object] = ["register", tmp_path / "fixed.nii.gz", tmp_path / "moving.nii.gz", "--out", tmp_path / "out"]
    line += ["--preset=fast", "--quiet"]
    line += [f"--{name}-landmarks={tmp_path / name}.csv" for name in ("fixed", "moving")]
    errors = []
    for more, how in (([], "guiding"), (["--landmark-weight=0"], "measured only")):
        assert invoke(*line, *more) == (0, "")
        report = json.loads((tmp_path / "out/report.json").read_text())
        assert report["landmarks"] == how
        assert f"mean TRE of 3 landmarks, mm ({how})" in (tmp_path / "out/report.md").read_text()
        before, after = report["tre"]["mean"]
        assert before == pytest.approx(27**0.5, rel=1e-4)
        errors.append(after)
    assert errors[0] < 0.8 < 2 < errors[1]


def test_a_weight_without_landmarks_is_refused() -> None:
    with pytest.raises(InputError, match="landmark_weight: expected landmarks to weigh, got 5 and none"):
        l2rfast.register(torch.rand(12, 12, 12), torch.rand(12, 12, 12), landmark_weight=5)
