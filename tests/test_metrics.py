"""The measures, against NumPy, SciPy, SimpleITK and the published surface-distance package."""

import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.ndimage import map_coordinates

from l2rfast import InputError, metrics


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def ellipsoid(shape: tuple[int, ...], centre: tuple[float, ...], radii: tuple[float, ...]) -> torch.Tensor:
    axes = torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")
    return torch.stack([((x - c) / r) ** 2 for x, c, r in zip(axes, centre, radii, strict=True)]).sum(0) <= 1


def label_maps(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    return (random(*shape, seed=1) * 6).byte(), (random(*shape, seed=2) * 6).short()


@pytest.mark.parametrize("shape", [(20, 21), (9, 10, 11), (1, 1, 9, 10, 11)])
def test_dice_is_that_of_simpleitk(shape: tuple[int, ...]) -> None:
    a, b = label_maps(*shape)
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(*(sitk.GetImageFromArray(x.squeeze().numpy().astype(np.uint8)) for x in (a, b)))
    assert metrics.dice(a, b) == pytest.approx({k: overlap.GetDiceCoefficient(k) for k in range(1, 6)})


def test_dice_of_absent_labels() -> None:
    a, b = torch.tensor([[0, 1, 1, 2]]), torch.tensor([[3, 1, 1, 1]])
    assert metrics.dice(a, b) == {1: 0.8, 2: 0.0}
    chosen = metrics.dice(a, b, [3, 1, 7])
    assert list(chosen) == [1, 3, 7]
    assert chosen[3] == 0
    assert math.isnan(chosen[7])
    assert metrics.dice(torch.zeros_like(a), b) == {}


def test_label_numbers_may_be_huge() -> None:
    a, b = (x.int() for x in label_maps(8, 9, 7))
    names = torch.tensor([0, 5, 2**20, 2**24, 614454277, 2**31 - 1])
    small, large = metrics.dice(a, b), metrics.dice(names[a], names[b])
    assert list(large) == names[1:].tolist()
    assert list(large.values()) == list(small.values())
    assert list(metrics.hd95(names[a], names[b]).values()) == list(metrics.hd95(a, b).values())


# Computed by surface-distance 0.1 (github.com/google-deepmind/surface-distance) for these two shapes.
@pytest.mark.parametrize(("spacing", "expected"), [((1, 1, 1), 3.7416573867739413), ((0.8, 1.25, 3.0), 6.0)])
def test_hd95_is_that_of_surface_distance_in_3d(spacing: tuple[float, ...], expected: float) -> None:
    shape = (30, 28, 20)
    a, b = ellipsoid(shape, (14, 13, 9), (9, 7, 5)), ellipsoid(shape, (16, 12.5, 10), (8, 10, 4))
    b[3:6, 3:6, 3:5] = True
    assert metrics.hd95(a.int() * 3, b.byte() * 3, spacing=spacing) == pytest.approx({3: expected})


@pytest.mark.parametrize(("spacing", "expected"), [((1, 1), 4.47213595499958), ((0.8, 1.7), 5.636488268416781)])
def test_hd95_is_that_of_surface_distance_in_2d(spacing: tuple[float, ...], expected: float) -> None:
    a, b = ellipsoid((40, 30), (18, 14), (11, 8)), ellipsoid((40, 30), (21, 15), (9, 11))
    assert metrics.hd95(a.byte(), b.byte(), spacing=spacing) == pytest.approx({1: expected})


def test_hd95_of_shifted_boxes_and_absent_labels() -> None:
    a, b = torch.zeros(24, 20, 20, dtype=torch.uint8), torch.zeros(24, 20, 20, dtype=torch.uint8)
    a[2:12, 5:15, 5:15] = 1
    b[5:15, 5:15, 5:15] = 1
    a[20:22, 1:3, 1:3] = 2
    b[20:22, 1:3, 17:19] = 4
    distances = metrics.hd95(a, b, labels=[1, 2, 4], spacing=(2, 1, 1))
    assert distances[1] == 6  # the two faces across the shift are a third of the surface
    assert math.isnan(distances[2])
    assert math.isnan(distances[4])
    assert metrics.hd95(a, a, spacing=(2, 1, 1)) == {1: 0, 2: 0}


def mask(shape: tuple[int, ...], *box: int | slice) -> torch.Tensor:
    """1 in the box, 0 elsewhere."""
    inside = torch.zeros(shape, dtype=torch.uint8)
    inside[box] = 1
    return inside


# The elements of a voxel k are at k and k + 1 on every axis; those of the full cube of 6 at 0 or 6 on one axis for a
# face, on two for an edge, on three for a corner. Of the cube's area 25 on each of 6 faces, 5 sqrt(1/2) on each of 12
# edges and sqrt(3) / 8 at each corner make 194.2, of which 5 % are 9.7. What is further than sqrt(18) from the voxel in
# the middle has 7.2, what is at sqrt(18) = sqrt(3^2 + 3^2), on edges, 4.2 more. With voxels of 2 mm along the last axis
# the area is 326.0, of which 16.3 may be further: 15.9 are further than sqrt(41) = sqrt(6^2 + 2^2 + 1^2), 8.5 at it.
FULL, MIDDLE = mask((6, 6, 6)), mask((6, 6, 6), 2, 2, 2)


@pytest.mark.parametrize(
    ("a", "b", "spacing", "expected"),
    [
        (mask((5, 5, 9), 2, 2, 3), mask((5, 5, 9), 2, 2, 5), (1, 1, 1), 2.0),
        (mask((5, 5, 9), 2, 2, 3), mask((5, 5, 9), 2, 2, 5), (1, 1, 2), 4.0),
        (FULL, MIDDLE, (1, 1, 1), 18**0.5),
        (FULL, MIDDLE, (1, 1, 2), 41**0.5),
        # From an element of the one voxel to the nearest of the other it is 4 or 5 on every axis: 5 on all for one of
        # eight, which is more than 5 %.
        (mask((6, 6, 6), 0, 0, 0), mask((6, 6, 6), 5, 5, 5), (1, 1, 1), 75**0.5),
        # The border of the image is surface too, of both; the faces inside are two apart.
        (mask((8, 6, 6), slice(3)), mask((8, 6, 6), slice(5)), (1, 1, 1), 2.0),
        (mask((1, 6, 6), 0, slice(2, 4), slice(2, 4)), mask((1, 6, 6), 0, slice(2, 4), slice(3, 5)), (1, 1, 1), 1.0),
        (MIDDLE, FULL * 0, (1, 1, 1), math.nan),
        (FULL * 0, FULL * 0, (1, 1, 1), math.nan),
    ],
)
def test_hd95_by_hand(a: torch.Tensor, b: torch.Tensor, spacing: tuple[float, ...], expected: float) -> None:
    for pair in ((a, b), (b, a)):
        assert metrics.hd95(*pair, [1], spacing) == pytest.approx({1: expected}, rel=1e-12, nan_ok=True)


def test_surface_elements_have_the_area_of_marching_cubes() -> None:
    for spacing in ((1.0, 1.0, 1.0), (0.5, 2.0, 3.0)):
        x, y, z = spacing
        areas = metrics._element_areas(spacing)
        np.testing.assert_allclose(areas, areas[::-1])  # inside out
        np.testing.assert_allclose(areas[0b1], np.linalg.norm([y * z, x * z, x * y]) / 8)  # a corner cut off
        np.testing.assert_allclose(areas[0b11], np.hypot(x * z, x * y) / 2)  # an edge cut off along axis 0
        np.testing.assert_allclose(areas[0b1111], x * y)  # cut in two halves across axis 2
        np.testing.assert_allclose(areas[0b10000001], 2 * areas[1])  # two opposite corners


def test_polygons_that_are_not_flat_have_the_area_of_their_triangles() -> None:
    """By hand: three corners, and four in a row along the three axes, of which surface-distance 0.1 has the same."""

    def triangles(*points: tuple[float, ...]) -> float:
        at = np.array(points).reshape(-1, 3, 3) * spacing
        return float(np.linalg.norm(np.cross(at[:, 1] - at[:, 0], at[:, 2] - at[:, 0]), axis=1).sum() / 2)

    for spacing in ((1.0, 1.0, 1.0), (0.4, 0.4, 5.0)):
        areas = metrics._element_areas(spacing)
        a, b, c, d, e = (0, 0, 0.5), (1, 0, 0.5), (1, 0.5, 0), (0.5, 1, 0), (0, 1, 0.5)
        np.testing.assert_allclose(areas[0b111], triangles(a, b, e, b, c, d, b, d, e))
        a, b, c, d, e, f = (0, 0, 0.5), (1, 0, 0.5), (1, 0.5, 1), (0.5, 1, 1), (0.5, 1, 0), (0, 0.5, 0)
        np.testing.assert_allclose(areas[0b10001011], triangles(c, d, e, c, e, f, c, f, a, c, a, b))
    assert metrics._element_areas((1, 1, 1))[0b111] == pytest.approx(1.149519, abs=1e-6)
    assert metrics._element_areas((1, 1, 1))[0b10001011] == pytest.approx(1.573132, abs=1e-6)


@pytest.mark.parametrize("ndim", [2, 3])
def test_tre_samples_the_field_at_the_landmarks(ndim: int) -> None:
    shape, spacing = (9, 8, 7)[:ndim], (2.0, 0.5, 3.0)[:ndim]
    disp = random(1, ndim, *shape).double() * 3
    fixed = random(6, ndim, seed=3).double() * (torch.tensor(shape) - 1)
    moving = random(6, ndim, seed=4).double() * 5
    sampled = [map_coordinates(component, fixed.T.numpy(), order=1) for component in disp[0].numpy()]
    expected = np.linalg.norm((fixed.numpy() + np.stack(sampled, 1) - moving.numpy()) * spacing, axis=1)
    found = metrics.tre(fixed, moving, disp, spacing)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    for points in (fixed[:, :1], fixed[:0], fixed[0]):
        with pytest.raises(InputError, match="fixed_points"):
            metrics.tre(points, moving, disp, spacing)
    with pytest.raises(InputError, match="moving_points"):
        metrics.tre(fixed, moving[:3], disp, spacing)
    with pytest.raises(InputError, match="spacing"):
        metrics.tre(fixed, moving, disp, [1.0])


def test_tre_of_landmarks_outside_the_grid() -> None:
    """They move as the nearest place on the border does."""
    disp = torch.zeros(1, 2, 5, 6)
    disp[0, 0] = torch.arange(6.0)  # along the first axis, by the place on the second
    fixed = torch.tensor([[2.0, 9.0], [-3.0, 2.5], [7.0, -1.0]])
    moved = fixed + torch.tensor([[5.0, 0.0], [2.5, 0.0], [0.0, 0.0]])
    assert metrics.tre(fixed, moved, disp, (1, 1)).tolist() == [0, 0, 0]
    assert metrics.tre(fixed, fixed, disp, (2, 1)).tolist() == [10, 5, 0]


@pytest.mark.parametrize("ndim", [2, 3])
def test_jacobian_measures(ndim: int) -> None:
    shape = (12, 10, 9)[:ndim]
    disp = (random(2, ndim, *shape) - 0.5) * torch.tensor([0.5, 2.5]).reshape(2, *(1,) * (ndim + 1))
    for n, field in enumerate(disp.double().numpy()):
        gradient = np.stack([np.stack(np.gradient(component)) for component in field])  # [component, axis]
        jacobian = np.moveaxis(gradient, (0, 1), (-2, -1)) + np.eye(ndim)
        det = np.linalg.det(jacobian)
        expected = np.log(det.clip(1e-9, 1e9)).std()
        np.testing.assert_allclose(metrics.log_jacobian_std(disp)[n], expected, rtol=1e-4)
        np.testing.assert_allclose(metrics.folding_fraction(disp)[n], (det <= 0).mean(), atol=1e-6)
    assert metrics.folding_fraction(disp)[1] > 0.05  # the second field does fold
    grid = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in shape), indexing="ij"))[None]
    assert metrics.log_jacobian_std(0.2 * grid).item() == pytest.approx(0, abs=1e-5)
    assert metrics.folding_fraction(-grid).item() == 1  # everything on one point


def test_digital_folds_by_hand() -> None:
    field = torch.zeros(2, 2, 5, 6)
    field[1, 1, 2, 3] = 1.5  # beyond its neighbour: the differences on from it, and back to it, turn
    assert metrics.folding_fraction(field).tolist() == [0, 0]
    assert metrics.digital_folding_fraction(field).tolist() == pytest.approx([0, 2 / 30])


def test_jacobian_measures_by_hand() -> None:
    identity = torch.zeros(1, 3, 6, 1, 4)
    assert metrics.log_jacobian_std(identity).tolist() == metrics.folding_fraction(identity).tolist() == [0]
    # Along the first axis places go to 0, 1, 2, 1, 0, -1; differences are 1, 1, 0, -1, -1, -1, and 0 folds.
    field = identity.clone()
    field[0, 0] = (torch.tensor([0.0, 1, 2, 1, 0, -1]) - torch.arange(6)).view(6, 1, 1)
    # Nothing changes across an axis of one voxel, whatever the field has there.
    field[0, 1] = random(6, 1, 4)
    assert metrics.folding_fraction(field).item() == pytest.approx(4 / 6)
    # The logarithms are 0, twice, and that of 1e-9, four times.
    assert metrics.log_jacobian_std(field).item() == pytest.approx(9 * math.log(10) * math.sqrt(2 / 9))
    mirrored = -2 * torch.arange(6.0).view(1, 1, 6, 1, 1) * torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1, 1)
    assert metrics.folding_fraction(mirrored.expand(1, 3, 6, 1, 4)).item() == 1
    assert metrics.log_jacobian_std(mirrored.expand(1, 3, 6, 1, 4)).item() == 0


@pytest.mark.parametrize("part", [metrics._PART, 50])  # of 360 voxels, so that several and a rest are summed
def test_similarity_measures(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_PART", part)
    a = random(2, 3, 6, 5, 4)
    b = 0.3 * a + random(2, 3, 6, 5, 4, seed=5)
    for n in range(2):
        flat = a[n].flatten().double().numpy(), b[n].flatten().double().numpy()
        assert metrics.global_correlation(a, b)[n].item() == pytest.approx(np.corrcoef(*flat)[0, 1], abs=1e-6)
        assert metrics.mean_squared_error(a, b)[n].item() == pytest.approx(((flat[0] - flat[1]) ** 2).mean())
    assert metrics.global_correlation(a, -2 * a + 1)[0].item() == pytest.approx(-1)
    assert torch.isnan(metrics.global_correlation(a, torch.ones_like(a))).all()


@pytest.mark.parametrize("factor", [1e-25, 1e20])
def test_similarity_measures_whatever_the_unit(factor: float) -> None:
    a, b = random(1, 1, 6, 5, 4), random(1, 1, 6, 5, 4, seed=5)
    expected = np.corrcoef(a.flatten().double().numpy(), b.flatten().double().numpy())[0, 1]
    assert metrics.global_correlation(factor * a, factor * b).item() == pytest.approx(expected, rel=1e-6)
    square = ((a.double() - b.double()) ** 2).mean().item()
    assert metrics.mean_squared_error(factor * a, factor * b).item() == pytest.approx(factor**2 * square, rel=1e-5)


def test_rejects_what_does_not_fit() -> None:
    a, b = label_maps(5, 6, 7)
    for measure in (metrics.dice, metrics.hd95):
        with pytest.raises(InputError, match="one shape"):
            measure(a, b[1:])
        with pytest.raises(InputError, match=r"^a: .*integer dtype"):
            measure(a.float(), b)
        with pytest.raises(InputError, match=r"^b: .*integer dtype"):
            measure(a, b > 0)
        with pytest.raises(InputError, match="from 0 up"):
            measure(a, b - 1)
    with pytest.raises(InputError, match="spacing"):
        metrics.hd95(a, b, spacing=(1, 1))
    with pytest.raises(InputError, match="spacing"):
        metrics.hd95(a[None, None], b[None, None])
    with pytest.raises(InputError, match="one shape"):
        metrics.mean_squared_error(random(1, 1, 4, 4), random(1, 1, 4, 5))
    with pytest.raises(InputError, match="one channel per spatial axis"):
        metrics.folding_fraction(random(1, 2, 4, 4, 4))
