"""Where images count: nothing else is seen of them, from the start to the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from runs import invoke
from test_initial import CPU, error, middle, turned, world
from torch import Tensor

import l2rfast
from l2rfast import InputError
from l2rfast.data.synthetic import anatomies
from l2rfast.io import Volume, as_volume, read_image, write_displacement
from l2rfast.methods.initial import initialise
from l2rfast.methods.intensities import from_zero_to_one, robust_range, standardised
from l2rfast.methods.masks import filled
from l2rfast.methods.stages import Stages
from l2rfast.methods.translations import Placed, compared
from l2rfast.methods.unsupervised import VoxelMorph
from l2rfast.methods.unsupervised.network import Architecture

SIZE, CENTRE, RADIUS = (48, 52, 44), (24.0, 22.0, 20.0), 6


@pytest.fixture(scope="module")
def pair() -> tuple[Tensor, Tensor]:
    moving, fixed = anatomies(2, SIZE, structures=4, deformation=0.04, noise=0.01)
    return fixed.image[0, 0], moving.image[0, 0]


def ball(radius: float, size: tuple[int, ...] = SIZE, centre: tuple[float, ...] = CENTRE) -> Tensor:
    """True within so many voxels of a place."""
    grid = torch.meshgrid(*[torch.arange(float(n)) for n in size], indexing="ij")
    squares: Any = sum((axis - place) ** 2 for axis, place in zip(grid, centre, strict=True))
    inside: Tensor = squares < radius**2
    return inside


def spoilt(image: Tensor, mask: Tensor, by: float) -> Tensor:
    return torch.where(mask, image, by)


OPTIONS = [
    {"preset": "fast"},
    *({"preset": "fast", "metric": metric} for metric in ("mind", "ssd", "mi")),
    {"iterations": 2, "full_iterations": 1, "init": "affine"},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_what_is_outside_does_not_change_a_bit(pair: tuple[Tensor, Tensor], options: dict[str, Any]) -> None:
    masks = {"fixed_mask": ball(21, centre=(23, 26, 22)), "moving_mask": ~ball(RADIUS)}
    found = []
    for seed in range(2):
        noise = torch.randn(SIZE, generator=torch.Generator().manual_seed(seed)) * 1e6
        images = [torch.where(mask, image, noise) for image, mask in zip(pair, masks.values(), strict=True)]
        found.append(l2rfast.register(*images, **masks, **options))
    assert torch.equal(found[0].displacement, found[1].displacement)
    assert torch.equal(found[0].inverse, found[1].inverse)
    assert np.array_equal(found[0].initial.matrix, found[1].initial.matrix)
    assert found[0].displacement.abs().max() > 1


@pytest.mark.parametrize("metric", ["lncc", "mind"])
def test_a_lesion_neither_attracts_nor_deforms(pair: tuple[Tensor, Tensor], metric: str) -> None:
    """A bright ball in moving alone; MIND's features of it are alike wherever it goes, but for its edge, and the field
    beside them is stiff: without a mask it does less than by local NCC."""
    options: dict[str, Any] = {"preset": "fast", "metric": metric, "iterations": 14}
    fixed, moving = pair
    lesion = ball(RADIUS)
    ill = spoilt(moving, ~lesion, 1.3)
    healthy, masked, bare = (
        l2rfast.register(fixed, image, init="none", moving_mask=mask, **options)
        for image, mask in ((moving, None), (ill, ~ball(RADIUS + 1)), (ill, None))
    )

    def apart(result: l2rfast.methods.registration.Registration) -> tuple[float, float]:
        """Of the displacements within, in voxels, and of the volume."""
        volumes = [float(l2rfast.jacobian_determinant(x.inverse)[0][lesion].mean()) for x in (result, healthy)]
        moved = (result.inverse - healthy.inverse)[0].norm(dim=0)[lesion].mean()
        return float(moved), abs(volumes[0] - volumes[1])

    assert healthy.inverse[0].norm(dim=0)[lesion].mean() > 2
    near, far = apart(masked), apart(bare)
    assert near[0] < min(1.3, (0.6 if metric == "lncc" else 0.9) * far[0])
    assert near[1] < 0.15
    assert far[1] > (0.15 if metric == "lncc" else near[1])
    assert l2rfast.digital_jacobian(masked.displacement).min() > 0


def test_a_mask_of_everything_is_none(pair: tuple[Tensor, Tensor]) -> None:
    all_of_it = np.full(SIZE, 7, np.int16)
    whole = l2rfast.register(*pair, preset="fast", fixed_mask=all_of_it, moving_mask=torch.ones(SIZE))
    assert torch.equal(whole.displacement, l2rfast.register(*pair, preset="fast").displacement)


def test_what_counts_goes_on_outwards_by_mm() -> None:
    image = torch.arange(18.0).view(3, 6)
    mask = torch.zeros(3, 6, dtype=torch.bool)
    mask[0, 0], mask[2, 5] = True, True
    volume = filled(Volume(image, np.diag([5.0, 1.0, 1.0, 1.0]), mask))  # rows are further apart than columns
    assert volume.data.tolist() == [[0] * 6, [0, 0, 0, 17, 17, 17], [17] * 6]


def test_intensities_are_of_what_counts() -> None:
    image = torch.rand(1, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros_like(image, dtype=torch.bool)
    mask[..., 5:15] = True
    wild = torch.where(mask, image, -1e5)
    assert robust_range(wild, mask) == robust_range(image[mask])
    inside = standardised("image", wild, mask)[mask]
    assert (float(inside.mean()), float(inside.std(correction=0))) == pytest.approx((0, 1), abs=1e-6)
    scaled = from_zero_to_one("image", 300 * wild, mask)
    assert (scaled[~mask] == 0).all()
    assert scaled[mask].aminmax() == (torch.tensor(0.0), torch.tensor(1.0))


@pytest.mark.parametrize("metric", ["mi", "lncc", "mind"])
def test_the_start_is_of_what_counts(metric: str) -> None:
    """A head that turned, in a frame that did not."""
    moving, _ = anatomies(2, (44, 44, 44), structures=5, noise=0.01)
    head, frame = ball(16, (44,) * 3, (22, 22, 22)), torch.zeros(44, 44, 44)
    frame[:5, ::3], frame[-5:, :, ::3], frame[:, :5, ::4] = 1.5, 1.5, 1.5
    image = Volume(moving.image[0, 0] * head + frame, np.eye(4), head)
    by = world(9, 3, middle(image))
    turn = turned(moving.image[0, 0] * head, image.affine, by) + frame
    there = turned(head.float(), image.affine, by) > 0.5
    found = initialise(image, Volume(turn, np.eye(4), there), "rigid", metric, CPU, Stages())
    bare = initialise(Volume(image.data, np.eye(4)), Volume(turn, np.eye(4)), "rigid", metric, CPU, Stages())
    assert error(found, by, image) < 0.6 < 0.9 < error(bare, by, image)


def test_moments_are_of_what_counts() -> None:
    images = [torch.zeros(30, 30, 30) for _ in range(2)]
    images[0][8:12, 8:12, 8:12] = 1
    images[1][13:17, 10:14, 8:12] = 1
    images[1][25:, 25:, 25:] = 5
    mask = torch.ones(30, 30, 30, dtype=torch.bool)
    mask[24:, 24:, 24:] = False
    volumes = Volume(images[0], np.eye(4)), filled(Volume(images[1], np.eye(4), mask))
    found = initialise(*volumes, "moments", "mi", CPU, Stages())
    np.testing.assert_allclose(found.matrix[:3, 3], [5, 2, 0], atol=1e-6)


def test_translations_are_of_what_counts() -> None:
    """As of the images that are cut there."""
    generator = torch.Generator().manual_seed(0)
    scene = l2rfast.box_average(torch.randn(1, 1, 40, 44, generator=generator), 1, passes=3)
    scene = (scene - scene.min()) / (scene.max() - scene.min())
    mask = torch.zeros_like(scene)
    mask[..., 8:32, 10:34] = 1
    affine = torch.eye(3, dtype=torch.float64)
    cut = affine.clone()
    cut[:2, 2] = torch.tensor([8.0, 10.0])
    moving = Placed(scene.roll((3, -2), (2, 3))[..., 6:30, 6:30], affine)
    one, other = (
        compared([fixed, moving], torch.eye(2).double())
        for fixed in (Placed(scene, affine, mask), Placed(scene[..., 8:32, 10:34], cut))
    )
    assert one.best[0].by.tolist() == other.best[0].by.tolist() == [-3, -8]
    assert one.best[0].information == pytest.approx(other.best[0].information, rel=1e-4)


@pytest.fixture
def holed(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return pair[0], spoilt(pair[1], ~ball(RADIUS), float("nan"))


def test_nan_is_as_outside_of_a_mask(pair: tuple[Tensor, Tensor], holed: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(InputError, match=r"moving: expected finite values, but .* takes it so \(--nan-outside"):
        l2rfast.register(*holed)
    result = l2rfast.register(*holed, preset="fast", nan_outside=True)
    masked = l2rfast.register(*pair, preset="fast", moving_mask=~ball(RADIUS))
    assert torch.equal(result.displacement, masked.displacement)
    # Of both, and of a mask on top.
    more = ball(30)
    result = l2rfast.register(*holed, preset="fast", nan_outside=True, moving_mask=more)
    masked = l2rfast.register(*pair, preset="fast", moving_mask=more & ~ball(RADIUS))
    assert torch.equal(result.displacement, masked.displacement)


def test_nan_stays_in_what_is_warped(holed: tuple[Tensor, Tensor]) -> None:
    """It does not spread, beyond the border there is NaN as well, and a number in all of these places if asked for."""
    moving = holed[1][:40].contiguous()
    result = l2rfast.register(Volume(holed[0], np.eye(4)), moving, preset="fast", init="none", nan_outside=True)
    warped = result.warp(moving)
    hole = result.warp(ball(RADIUS)[:40].int(), mode="nearest").bool()
    reached = result.warp(torch.ones(moving.shape, dtype=torch.int32), mode="nearest").bool()
    assert hole.any()
    assert not reached.all()
    assert torch.equal(warped.isnan(), hole | ~reached)
    filled_in = result.warp(moving, outside=-5)
    assert torch.equal(filled_in == -5, hole | ~reached)
    torch.testing.assert_close(filled_in[reached & ~hole], warped[reached & ~hole])
    assert (result.covered() <= (reached & ~hole)).all()
    # Where NaN is far there is what there is without it; in float64, as places are where there is any.
    plain = result.warp(moving.nan_to_num(0.3).double(), outside=0).float()
    far = result.warp((~ball(RADIUS + 2)[:40]).float(), outside=0) == 1
    torch.testing.assert_close(warped[far], plain[far], rtol=0, atol=1e-6)
    nothing = result.warp_back(holed[0], outside=float("nan"))
    beyond = result.warp_back(torch.ones(SIZE, dtype=torch.int32), mode="nearest") == 0
    assert torch.equal(nothing.isnan(), beyond)
    inner = result.warp_back(torch.ones(SIZE), outside=0) == 1
    torch.testing.assert_close(nothing[inner], result.warp_back(holed[0])[inner], rtol=0, atol=1e-6)
    halves = result.warp(moving.half())
    assert halves.dtype == torch.float16
    assert torch.equal(halves.isnan(), warped.isnan())


def test_masks_of_the_command(pair: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    """Files as they come, the same field as in Python, and nothing of the outside in the report."""
    mask = ~ball(RADIUS)
    files = {}
    images = {"fixed": pair[0], "moving": pair[1], "nan": spoilt(pair[1], mask, float("nan"))}
    for name, values in {**images, "wild": spoilt(pair[1], mask, 1e6), "mask": 3 * mask}.items():
        files[name] = tmp_path / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(values.numpy().astype(np.float32), np.eye(4)), files[name])
    expected = l2rfast.register(*pair, preset="fast", moving_mask=mask)
    reports = []
    for moving in ("moving", "wild", "nan"):
        more = ["--nan-outside"] if moving == "nan" else ["--moving-mask", files["mask"]]
        out = tmp_path / moving
        line = ["register", files["fixed"], files[moving], "--out", out, "--preset=fast", "--quiet", "--fixed-warped"]
        assert invoke(*line, *more) == (0, "")
        reports.append(json.loads((out / "report.json").read_text()))
        assert torch.equal(l2rfast.io.read_displacement(out / "displacement.nii.gz")[0], expected.displacement)
    assert reports[0]["similarity"] == reports[1]["similarity"] == reports[2]["similarity"]
    assert reports[0]["similarity"]["correlation"][1] > 0.9
    assert reports[0]["inputs"]["moving_mask"]["path"] == str(files["mask"])
    warped = as_volume("warped", tmp_path / "nan/warped.nii.gz", nan_outside=True)
    assert warped.mask is not None
    assert read_image(tmp_path / "moving/warped.nii.gz").mask is None


def test_a_field_to_go_on_from(pair: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    """Its start is masked as well."""
    field = 2 * torch.ones(1, 3, *SIZE)
    write_displacement(tmp_path / "field.nii.gz", field, np.eye(4))
    mask = ~ball(RADIUS)
    fields = [
        l2rfast.register(
            pair[0], spoilt(pair[1], mask, by), preset="fast", moving_mask=mask, initial=tmp_path / "field.nii.gz"
        ).displacement
        for by in (0.0, -1e7)
    ]
    assert torch.equal(*fields)


def test_masks_that_cannot_be_used(pair: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    mask = torch.zeros(SIZE)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"fixed_mask": mask}, "fixed_mask: expected a mask, but every voxel of it is 0"),
        (
            {"moving_mask": mask[:-1]},
            r"moving_mask: expected the shape of its image, \(48, 52, 44\), got \(47, 52, 44\)",
        ),
        ({"moving_mask": mask + float("nan")}, "moving_mask: expected a mask, 0 where its image does not count"),
        ({"moving_mask": torch.ones(*SIZE, 2)}, "moving_mask: expected one mask, got a stack"),
        ({"moving_mask": 3}, "moving_mask: expected a path"),
        (
            {"moving_mask": nib.Nifti1Image(np.ones(SIZE, np.complex64), np.eye(4))},
            "moving_mask: expected an integer or floating dtype of up to 64 bits, got complex64",
        ),
        ({"moving_mask": Volume(mask, np.diag([2.0, 1, 1, 1]))}, "moving_mask: expected the affine of its image"),
        (
            {"fixed_mask": ball(4), "moving_mask": ~ball(9), "init": "none"},
            "fixed_mask, moving_mask: expected what they",
        ),
    ]
    for options, sentence in cases:
        with pytest.raises(InputError, match=f"^{sentence}"):
            l2rfast.register(*pair, **options)
    gone = torch.full(SIZE, float("nan"))
    with pytest.raises(InputError, match=r"^moving: expected an image, but no voxel of it is there"):
        l2rfast.register(pair[0], gone, nan_outside=True)
    gone[ball(4)] = torch.rand(SIZE)[ball(4)]
    with pytest.raises(InputError, match=r"^moving_mask: expected a mask of what is there"):
        l2rfast.register(pair[0], gone, nan_outside=True, moving_mask=~ball(9))


def test_networks_have_masks_where_they_are_tuned(pair: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    network = VoxelMorph(Architecture(encoder=(4, 4), decoder=(4, 4, 4, 4)))
    network.save(tmp_path / "weights.safetensors")
    options: dict[str, Any] = {"method": "unsupervised", "weights": tmp_path / "weights.safetensors"}
    mask = ~ball(RADIUS)
    with pytest.raises(InputError, match=r"^fixed_mask, moving_mask: the method unsupervised sees whole images"):
        l2rfast.register(*pair, moving_mask=mask, **options)
    fields = [
        l2rfast.register(pair[0], spoilt(pair[1], mask, by), moving_mask=mask, finetune=3, **options).displacement
        for by in (0.0, 1e6)
    ]
    assert torch.equal(*fields)
    assert not torch.equal(fields[0], l2rfast.register(*pair, finetune=3, **options).displacement)
