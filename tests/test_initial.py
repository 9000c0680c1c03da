"""The start of a registration: what headers say, and rigid and affine maps that are found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage as ndi
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

import l2rfast
from l2rfast import cli
from l2rfast.data.brains import STRUCTURES, real_pair, synthetic_pair
from l2rfast.errors import InputWarning
from l2rfast.io import Volume, write_image
from l2rfast.methods.initial import Initial, initialise
from l2rfast.methods.poses import METRICS
from l2rfast.methods.stages import Stages
from l2rfast.metrics import dice

CPU = torch.device("cpu")


def world(angle: float, shift: float, centre: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """A turn about an oblique axis through a place, then a shift in mm."""
    matrix = np.eye(4)
    axis = np.array([1.0, 2.0, -1.0]) / np.sqrt(6)
    matrix[:3, :3] = scale * Rotation.from_rotvec(np.radians(angle) * axis).as_matrix()
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre + shift * np.array([1.0, -1.0, 1.0]) / np.sqrt(3)
    return matrix


def turned(image: torch.Tensor, affine: np.ndarray, by: np.ndarray, mode: str = "linear") -> torch.Tensor:
    """The same scan of a patient who lies elsewhere, the header kept."""
    back = np.linalg.inv(affine) @ np.linalg.inv(by) @ affine
    matrix = torch.from_numpy(back[None, :3]).float()
    return l2rfast.affine_warp(image[None, None], matrix, padding="zeros", mode=mode)[0, 0]


def middle(volume: Volume) -> np.ndarray:
    centre: np.ndarray = volume.affine[:3] @ [*((np.array(volume.data.shape) - 1) / 2), 1]
    return centre


def error(found: Initial, by: np.ndarray, volume: Volume) -> float:
    """Mean distance in mm at places halfway between the middle and the corners."""
    corners = np.stack(np.meshgrid(*[[s / 4, 3 * s / 4] for s in volume.data.shape])).reshape(3, -1)
    places = volume.affine @ np.concatenate([corners, np.ones((1, 8))])
    return float(np.linalg.norm((found.matrix - by)[:3] @ places, axis=0).mean())


@pytest.fixture(scope="module")
def scan() -> Volume:
    """Voxels of 1.5, 1 and 2 mm, an oblique grid."""
    affine = world(15, 40, np.zeros(3)) @ np.diag([1.5, 1.0, 2.0, 1.0])
    return Volume(synthetic_pair(64)["moving"][:48, :, :40].contiguous(), affine)


@pytest.mark.parametrize(
    ("metric", "kind", "scale", "mm"),
    [("mi", "rigid", 1, 0.6), ("lncc", "rigid", 1, 0.6), ("mind", "rigid", 1, 2), ("mi", "affine", 1.1, 1)],
)
def test_a_known_map_is_found(scan: Volume, metric: str, kind: str, scale: float, mm: float) -> None:
    by = world(12, 10, middle(scan), scale)
    moving = Volume(turned(scan.data, scan.affine, by), scan.affine)
    found = initialise(scan, moving, kind, metric, CPU, Stages())
    assert error(found, by, scan) < mm < 0.2 * error(Initial("none", "", np.eye(4)), by, scan)
    if kind == "rigid":
        np.testing.assert_allclose(found.matrix[:3, :3] @ found.matrix[:3, :3].T, np.eye(3), atol=1e-12)


def test_in_two_dimensions() -> None:
    image = synthetic_pair(64)["moving"][:, :, 32].contiguous()
    matrix = torch.tensor([[[0.97, 0.2, -8.0], [-0.2, 0.97, 5.0]]])
    moving = Volume(l2rfast.affine_warp(image[None, None], matrix, padding="zeros")[0, 0], np.eye(4))
    found = initialise(Volume(image, np.eye(4)), moving, "affine", "mi", CPU, Stages())
    aligned = l2rfast.affine_warp(
        moving.data[None, None], torch.from_numpy(found.matrix[None, :2][:, :, [0, 1, 3]]).float()
    )
    before, after = (float((x - image)[8:-8, 8:-8].square().mean()) for x in (moving.data, aligned[0, 0]))
    assert after < 0.1 * before


@pytest.mark.parametrize(
    ("mm", "kind"), [(1e-3, "rigid"), (1e-3, "affine"), (0.25, "rigid"), (100.0, "affine"), (1e5, "rigid")]
)
def test_the_size_of_a_voxel_does_not_matter(mm: float, kind: str) -> None:
    """From a micrometre to a hundred metres, by a tenth of a voxel."""
    affine = np.diag([mm, mm, mm, 1.0])
    image = Volume(synthetic_pair(48)["moving"][:, :44, :40].contiguous(), affine)
    by = world(14, 4 * mm, middle(image))
    moving = Volume(turned(image.data, affine, by), affine)
    assert error(initialise(image, moving, kind, "lncc", CPU, Stages()), by, image) < 0.1 * mm


@pytest.mark.parametrize(("kind", "metric"), [("rigid", "mi"), ("affine", "lncc"), ("affine", "mind")])
def test_a_slab_that_did_not_move_stays(metric: str, kind: str) -> None:
    image = synthetic_pair(64)["moving"][:, :, 30:34].contiguous()
    slab = Volume(image, np.eye(4))
    found = initialise(slab, Volume(image.clone(), np.eye(4)), kind, metric, CPU, Stages())
    assert error(found, np.eye(4), slab) < 0.2


@pytest.mark.parametrize(("size", "metric"), [((3, 3, 3), "mi"), ((3, 3, 3), "lncc"), ((24, 26, 2), "mi")])
@pytest.mark.parametrize("kind", ["rigid", "affine"])
def test_what_leaves_the_image_on_the_way_is_not_followed(size: tuple[int, ...], metric: str, kind: str) -> None:
    """Images of hardly any extent along an axis, which a step can leave."""
    image = torch.rand(size, generator=torch.Generator().manual_seed(0))
    moving = Volume(image.roll(1, 1), np.eye(4))
    found = initialise(Volume(image, np.eye(4)), moving, kind, metric, CPU, Stages())
    covered = torch.from_numpy(found.matrix[None, :3]).float()
    assert l2rfast.affine_warp(torch.ones(1, 1, *size), covered, padding="zeros").mean() > 0.05


@pytest.mark.parametrize("metric", METRICS)
def test_one_voxel_far_off_does_not_matter(scan: Volume, metric: str) -> None:
    by = world(0, 8, middle(scan))
    moving = Volume(turned(scan.data, scan.affine, by), scan.affine)
    spoilt = scan.data.clone()
    spoilt[2, 2, 2] = -32768
    found = initialise(Volume(spoilt, scan.affine), moving, "rigid", metric, CPU, Stages())
    assert error(found, by, scan) < 0.5


def test_inference_mode(scan: Volume) -> None:
    by = world(0, 8, middle(scan))
    moving = Volume(turned(scan.data, scan.affine, by), scan.affine)
    with torch.inference_mode():
        images = [Volume(volume.data.clone(), volume.affine) for volume in (scan, moving)]
        assert images[0].data.is_inference()
        found = initialise(*images, "rigid", "mi", CPU, Stages())
    np.testing.assert_array_equal(found.matrix, initialise(scan, moving, "rigid", "mi", CPU, Stages()).matrix)


def test_moments_bring_centres_together(scan: Volume) -> None:
    whole = Volume(synthetic_pair(64)["moving"], scan.affine)  # of which nothing leaves the grid
    by = world(0, 6, middle(whole))
    moving = Volume(turned(whole.data, whole.affine, by), whole.affine)
    found = initialise(whole, moving, "moments", "mi", CPU, Stages())
    assert error(found, by, whole) < 0.6
    np.testing.assert_array_equal(found.matrix[:3, :3], np.eye(3))


def test_other_contrasts(scan: Volume) -> None:
    """Mutual information and MIND do not mind that dark is bright, and that nothing is linear."""
    by = world(10, 8, middle(scan))
    body = (turned(scan.data, scan.affine, by) > 0.02).float()
    other = (1 - turned(scan.data, scan.affine, by)) ** 2 * body
    for metric, mm in (("mi", 1.0), ("mind", 3.0)):
        found = initialise(scan, Volume(other, scan.affine), "rigid", metric, CPU, Stages())
        assert error(found, by, scan) < mm, metric


@pytest.mark.parametrize(
    ("change", "kind", "why"),
    [
        (np.eye(4), "none", "the headers agree"),
        (world(8, 0, np.zeros(3)), "none", "the headers agree"),
        (world(25, 0, np.zeros(3)), "affine", "the headers are 25 degrees apart"),
        (np.diag([-1.0, 1.0, 1.0, 1.0]), "none", "the headers agree"),  # an axis that is stored the other way
    ],
)
def test_what_headers_say(change: np.ndarray, kind: str, why: str) -> None:
    size = (24, 24, 24)
    image = synthetic_pair(24)["moving"]
    centred = np.eye(4)
    centred[:3, 3] = -11.5
    assert image.shape == size
    found = initialise(Volume(image, centred), Volume(image, change @ centred), "auto", "mi", CPU, Stages())
    assert (found.kind, found.why) == (kind, why)


def test_headers_that_are_far_apart() -> None:
    image, far = synthetic_pair(24)["moving"], np.eye(4)
    far[0, 3] = 18
    found = initialise(Volume(image, np.eye(4)), Volume(image, far), "auto", "mi", CPU, Stages())
    assert found.kind == "affine"
    assert found.why.startswith("moving covers 2")


@pytest.mark.parametrize(
    ("options", "begins"),
    [
        ({"init": "similarity"}, "init: expected one of auto, none, moments, rigid, affine"),
        ({"init_metric": "ssd"}, "init_metric: expected one of mi, lncc, mind"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], begins: str) -> None:
    with pytest.raises(l2rfast.InputError, match=begins):
        l2rfast.register(torch.rand(16, 16, 16), torch.rand(16, 16, 16), **options)


def test_a_metric_that_nothing_was_searched_by_is_said() -> None:
    image = synthetic_pair(16)["moving"]
    with pytest.warns(InputWarning, match="init_metric: not used, as no rigid or affine start was searched"):
        l2rfast.register(image, image, init="none", init_metric="lncc", preset="fast")


def test_images_that_do_not_meet_are_refused(scan: Volume) -> None:
    with pytest.raises(l2rfast.InputError, match="moving: expected an image, but it is constant"):
        initialise(scan, Volume(torch.zeros(8, 8, 8), np.eye(4)), "rigid", "mi", CPU, Stages())
    assert set(METRICS) == {"mi", "lncc", "mind"}


def test_the_result_goes_through_both(scan: Volume, tmp_path: Path) -> None:
    """Labels, matrix and files: what was turned is found again, and said to be."""
    by = world(20, 15, middle(scan))
    moving = Volume(turned(scan.data, scan.affine, by), scan.affine)
    for name, volume in (("fixed", scan), ("moving", moving)):
        write_image(tmp_path / f"{name}.nii.gz", volume)
    files = [str(tmp_path / f"{name}.nii.gz") for name in ("fixed", "moving")]
    options = ["--init=rigid", "--preset=fast", f"--out={tmp_path / 'out'}", "--quiet"]
    assert CliRunner().invoke(cli.app, ["register", *files, *options]).exit_code == 0
    warped = l2rfast.io.read_image(tmp_path / "out" / "warped.nii.gz").data
    before, after = (float((x - scan.data)[8:-8, 8:-8, 8:-8].square().mean()) for x in (moving.data, warped))
    assert after < 0.05 * before
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["options"]["init"], report["options"]["init_because"]) == ("rigid", "asked for")
    assert report["seconds"]["initialisation"] > 0


def test_a_brain_that_was_turned_and_moved(real_data: Path) -> None:
    """By 20 degrees and 30 mm, the header kept: the overlap is that of the aligned pair to 0.01."""
    brains = real_pair()
    fixed = Volume(brains["fixed"], np.eye(4))
    by = world(20, 30, middle(fixed))
    moving = Volume(turned(brains["moving"], np.eye(4), by), np.eye(4))
    labels = turned(brains["moving_labels"].float(), np.eye(4), by, "nearest").to(torch.uint8)
    wanted = [label for label in STRUCTURES if (brains["fixed_labels"] == label).any()]

    def overlap(moving: Volume, labels: torch.Tensor, init: str) -> float:
        result = l2rfast.register(fixed, moving, init=init, preset="fast")
        warped = result.warp(labels, mode="nearest")
        return float(np.mean(list(dice(brains["fixed_labels"], warped, wanted).values())))

    aligned = overlap(Volume(brains["moving"], np.eye(4)), brains["moving_labels"], "none")
    assert overlap(moving, labels, "affine") > aligned - 0.01


def padded(image: torch.Tensor, before: tuple[int, int, int]) -> torch.Tensor:
    """On a grid of 72 voxels a side, which starts so far before it."""
    grid = torch.zeros(72, 72, 72)
    i, j, k = before
    grid[i : i + image.shape[0], j : j + image.shape[1], k : k + image.shape[2]] = image
    return grid


def test_what_is_in_the_images_overrules_headers_that_agree() -> None:
    image = synthetic_pair(48)["moving"]
    fixed, moving = (Volume(padded(image, at), np.eye(4)) for at in ((2, 2, 2), (2, 14, 8)))
    found = initialise(fixed, moving, "auto", "mi", CPU, Stages())
    assert (found.kind, found.why[:37]) == ("affine", "by the headers, what is in them lies ")
    np.testing.assert_allclose(found.matrix @ [26, 26, 26, 1], [26, 38, 32, 1], atol=0.2)
    other = Volume(fixed.data.clone(), np.eye(4))
    assert initialise(fixed, other, "auto", "mi", CPU, Stages()).why == "the headers agree"


def section(size: int = 128) -> np.ndarray:
    """A dark piece of tissue on white, of some structure."""
    noise = ndi.gaussian_filter(np.random.default_rng(0).standard_normal((size, size)), size / 32)
    x, y = np.meshgrid(*[np.linspace(-1, 1, size)] * 2, indexing="ij")
    grey: np.ndarray = np.where(x**2 + 1.7 * y**2 < 0.45, 120 + 60 * noise / noise.std(), 240).clip(0, 255)
    return grey.astype(np.float32)


@pytest.mark.parametrize(("degrees", "pixels"), [(12, (0, 0)), (0, (5, -4)), (-10, (6, 9))])
def test_pictures_say_nothing_of_where_they_lie(degrees: float, pixels: tuple[float, float], tmp_path: Path) -> None:
    """So they are aligned, as scipy turned and moved one of them."""
    image, angle = section(), np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = np.array([63.5, 63.5])
    # moving at y is fixed at turn @ (y - middle) + middle - pixels
    moved = ndi.affine_transform(image, turn, middle - turn @ middle - np.array(pixels), order=1, cval=240.0)
    for name, values in (("fixed", image), ("moving", moved)):
        Image.fromarray(values.T.round().astype(np.uint8)).save(tmp_path / f"{name}.png")
    result = l2rfast.register(tmp_path / "fixed.png", tmp_path / "moving.png", preset="fast")
    assert result.initial.kind == "affine"
    places = torch.tensor([[50.0, 60.0], [80.0, 70.0], [60.0, 85.0]], dtype=torch.float64)
    there = (places.numpy() + pixels - middle) @ turn + middle
    np.testing.assert_allclose(places.numpy() @ result.matrix[:, :2].T + result.matrix[:, 2], there, atol=0.5)


def test_slices_that_agree_stay() -> None:
    image = Volume(torch.from_numpy(section()), np.eye(4), placed=False)
    same = initialise(image, image, "auto", "mi", CPU, Stages())
    assert (same.kind, same.why) == ("none", "no header says where they lie, and they agree as they are")


def test_of_slices_that_a_header_places_only_translations_are_looked_at() -> None:
    image = torch.from_numpy(section())
    turned = torch.from_numpy(ndi.rotate(section(), 4, reshape=False, order=1, cval=240.0).astype(np.float32))
    volumes = [Volume(values, np.eye(4)) for values in (image, turned)]
    assert initialise(*volumes, "auto", "mi", CPU, Stages()).why == "the headers agree"
    silent = [replace(volume, placed=False) for volume in volumes]
    assert initialise(*silent, "auto", "mi", CPU, Stages()).why == "no header says where they lie"
    assert not l2rfast.io.as_volume("x", image, dims=(2,)).placed
    assert l2rfast.io.as_volume("x", volumes[0], dims=(2,)).placed


def test_contents_that_tell_little_of_each_other_do_not_overrule_headers() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = [Volume(torch.rand(32, 32, 32, generator=generator), np.eye(4)) for _ in range(2)]
    assert initialise(*noise, "auto", "mi", CPU, Stages()).why == "the headers agree"


@pytest.mark.parametrize("back", [False, True])
def test_a_slab_whose_header_puts_it_elsewhere_is_found_in_the_body(scan: Volume, back: bool) -> None:
    """To a voxel, be it the fixed or the moving one, by mutual information."""
    first, thick = 24, 10
    header = scan.affine.copy()
    header[:3, 3] = (scan.affine @ [0, 0, first, 1])[:3] + np.array([5, 30, -40])
    slab = Volume(scan.data[:, :, first : first + thick].contiguous(), header)
    by = np.eye(4)
    by[:3, 3] = [-5, -30, 40]  # place of the slab -> place of the body
    images = (scan, slab) if back else (slab, scan)
    found = initialise(*images, "rigid", "mi", CPU, Stages()).matrix
    corners = [[i, j, k, 1] for i in (0, 47) for j in (0, 63) for k in (0, thick - 1)]
    places = header @ np.array(corners).T
    reached = (np.linalg.inv(found) if back else found) @ places
    assert np.linalg.norm(reached - by @ places, axis=0).max() < 1  # the shortest side of a voxel


@pytest.mark.parametrize(
    ("kind", "metric", "slices"),
    [(kind, metric, 2 + (i + j) % 2) for i, kind in enumerate(("rigid", "affine")) for j, metric in enumerate(METRICS)],
)
def test_few_slices_do_not_leave_each_other(kind: str, metric: str, slices: int) -> None:
    image = Volume(synthetic_pair(48)["moving"][:, :, 20 : 20 + slices].contiguous(), np.eye(4))
    by = world(0, 3, middle(image))
    by[2, 3] = 0
    moving = Volume(turned(image.data, image.affine, by), image.affine)
    assert error(initialise(image, moving, kind, metric, CPU, Stages()), by, image) < 1
    assert error(initialise(image, image, kind, metric, CPU, Stages()), np.eye(4), image) == 0


@pytest.mark.parametrize("slices", [2, 3])
@pytest.mark.parametrize("metric", ["mi", "lncc"])
def test_few_thick_slices_are_not_stretched_until_one_is_left(slices: int, metric: str) -> None:
    """Of two people, in the plane longer or shorter, across it as thick as they were."""
    pair, affine, thick = synthetic_pair(64), np.diag([1.5, 1.5, 17.0, 1.0]), 8
    first = 32 - slices * thick // 2

    def stack(image: torch.Tensor) -> Volume:
        cut = image[:, :, first : first + slices * thick]
        return Volume(cut.reshape(64, 64, slices, thick).mean(3), affine)

    found = initialise(stack(pair["fixed"]), stack(pair["moving"]), "affine", metric, CPU, Stages()).matrix
    np.testing.assert_allclose(np.linalg.svd(found[:3, :3])[1], 1, atol=0.07)


@pytest.mark.parametrize(("kind", "metric"), [("rigid", "lncc"), ("affine", "mi")])
def test_a_brain_to_itself_stays(kind: str, metric: str, real_data: Path) -> None:
    """Exactly: what interpolation gains is no reason to move."""
    brain = Volume(real_pair()["fixed"], np.eye(4))
    found = initialise(brain, Volume(brain.data.clone(), np.eye(4)), kind, metric, CPU, Stages())
    np.testing.assert_array_equal(found.matrix, np.eye(4))
