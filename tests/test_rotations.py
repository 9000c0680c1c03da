"""The start that a network finds: turns and translations by what it sees."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from test_initial import CPU, error, middle, turned, world
from typer.testing import CliRunner

from bench import starts
from l2rfast import InputError, cli, register
from l2rfast.data.brains import real_pair, synthetic_pair
from l2rfast.io import Volume, read_transform, write_image
from l2rfast.methods import rotations
from l2rfast.methods.initial import Initial, initialise
from l2rfast.methods.landmarks import Landmarks
from l2rfast.methods.stages import Stages
from l2rfast.methods.unsupervised.pyramid import shipped


@pytest.fixture(scope="module")
def head() -> Volume:
    """Of 3 mm, on a grid that is oblique and larger."""
    image = torch.zeros(80, 80, 80)
    image[8:72, 8:72, 8:72] = synthetic_pair(64)["moving"]
    return Volume(image, world(10, 20, np.zeros(3)) @ np.diag([3.0, 3.0, 3.0, 1.0]))


def moved(head: Volume, by: np.ndarray) -> Volume:
    return replace(head, affine=by @ head.affine)


def test_every_turn_of_45_degrees_is_near_one_that_is_tried() -> None:
    tried = Rotation.from_matrix(np.stack([turn.numpy() for turn in rotations._turns()]))
    random = np.random.default_rng(0)
    axes = random.normal(size=(2000, 3))
    angles = np.radians(random.uniform(0, 45, size=2000))
    asked = Rotation.from_rotvec(angles[:, None] * axes / np.linalg.norm(axes, axis=1, keepdims=True))
    nearest = np.min([(asked * one.inv()).magnitude() for one in tried], 0)
    assert np.degrees(nearest.max()) < 27
    assert np.degrees(tried.magnitude().max()) < rotations.WIDEST


def test_the_information_is_that_of_the_correlation_where_they_overlap() -> None:
    """Against all translations one by one, in double precision."""
    random = torch.Generator().manual_seed(0)
    size, other = (5, 4, 6), (4, 5, 3)
    counts = [(torch.rand(n, *s, generator=random) > 0.2).float() for n, s in ((1, size), (2, other))]
    seen = [torch.randn(len(c), 3, *c.shape[1:], generator=random) * c[:, None] for c in counts]
    seen[1][0, :, :3, :4] = (
        seen[0][0, :, 2:, :, 1:4] * counts[1][0, None, :3, :4]
    )  # which a translation brings together
    one, others = (rotations._Seen(x.float(), c) for x, c in zip(seen, counts, strict=True))
    for k, (information, by) in enumerate(rotations._best(one, others, torch.eye(3))):
        expected: dict[tuple[int, ...], float] = {}
        least = rotations.LEAST * min(float(counts[0].sum()), float(counts[1][k].sum()))
        for lag in product(*(range(1 - a, b) for a, b in zip(size, other, strict=True))):
            here = tuple(slice(max(0, -t), min(a, b - t)) for t, a, b in zip(lag, size, other, strict=True))
            there = tuple(slice(s.start + t, s.stop + t) for s, t in zip(here, lag, strict=True))
            a, b = (x.double()[(i, slice(None), *p)] for x, i, p in ((seen[0], 0, here), (seen[1], k, there)))
            both = counts[0][(0, *here)] * counts[1][(k, *there)]
            if both.sum() >= least:
                a, b = a * both, b * both
                likeness = max(0.0, float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt()))
                expected[lag] = -float(both.sum()) / 2 * math.log1p(-(min(likeness, rotations.NEARLY) ** 2))
        most = max(expected.values())
        assert information == pytest.approx(most, rel=2e-3)  # where all but nothing is left, in single precision
        assert tuple(by.int().tolist()) == max(expected, key=lambda lag: expected[lag])
        if k == 0:
            assert tuple(by.int().tolist()) == (-2, 0, -1)


@pytest.mark.parametrize(("degrees", "mm"), [(0, 0), (20, 60), (44, 30)])
def test_a_head_that_was_turned_moved_and_cut_off_is_found(head: Volume, degrees: float, mm: float) -> None:
    by = world(degrees, mm, middle(head))
    half = moved(Volume(head.data[:, :, 32:].contiguous(), head.affine @ _shift(2, 32)), by)
    found = initialise(head, half, "learned", None, CPU, Stages())
    assert found.kind == "learned"
    assert error(found, by, head) < 3


def test_another_contrast(head: Volume) -> None:
    by = world(35, 25, middle(head))
    dark = moved(replace(head, data=(head.data > 0.02) * (1 - head.data)), by)
    assert error(initialise(head, dark, "learned", None, CPU, Stages()), by, head) < 4


def test_the_size_of_a_voxel_does_not_matter(head: Volume) -> None:
    found = []
    for mm in (1e-3, 1.0, 1e4):
        image = Volume(head.data, np.diag([mm, mm, mm, 1.0]))
        by = world(30, 5 * mm, middle(image))
        found.append(error(initialise(image, moved(image, by), "learned", None, CPU, Stages()), by, image) / mm)
    assert max(found) < 1
    assert found == pytest.approx([found[0]] * 3, abs=1e-3)


def test_the_same_every_time_and_in_inference_mode(head: Volume) -> None:
    moving = moved(head, world(30, 40, middle(head)))
    first = initialise(head, moving, "learned", None, CPU, Stages()).matrix
    with torch.inference_mode():
        np.testing.assert_array_equal(initialise(head, moving, "learned", None, CPU, Stages()).matrix, first)


@pytest.mark.parametrize("metric", ["lncc", "mind"])
def test_it_goes_on_by_the_metric(head: Volume, metric: str) -> None:
    by = world(30, 40, middle(head))
    assert error(initialise(head, moved(head, by), "learned", metric, CPU, Stages()), by, head) < 4


def test_masks_take_out_what_is_not_of_the_head(head: Volume) -> None:
    """A bright block beside the head, which lies elsewhere in moving."""
    by, block = world(30, 40, middle(head)), torch.zeros(80, 80, 80, dtype=torch.bool)
    block[:, :14] = True
    fixed = replace(head, data=torch.where(block, 2.0, head.data), mask=~block)
    moving = moved(replace(head, data=torch.where(block.flip(1), 2.0, head.data), mask=~block.flip(1)), by)
    assert error(initialise(fixed, moving, "learned", None, CPU, Stages()), by, head) < 3


def test_landmarks_are_one_of_the_starts(head: Volume) -> None:
    """Of a turn that is not tried."""
    by = world(170, 0, middle(head))
    points = torch.tensor([[20.0, 20, 20], [60, 30, 20], [30, 60, 40], [40, 40, 60], [60, 60, 60]]).double()
    found = initialise(head, moved(head, by), "learned", None, CPU, Stages(), Landmarks(points, points, 1.0))
    assert error(found, by, head) < 3


@pytest.mark.parametrize("size", [(3, 3, 3), (24, 26, 2), (1, 30, 30), (200, 8, 8)])
def test_thin_and_small_images(size: tuple[int, ...]) -> None:
    image = torch.rand(size, generator=torch.Generator().manual_seed(0))
    fixed, moving = Volume(image, np.eye(4)), Volume(image.roll(1, 1), np.eye(4))
    found = initialise(fixed, moving, "learned", None, CPU, Stages())
    assert np.isfinite(found.matrix).all()
    assert abs(np.linalg.det(found.matrix)) > 0.1


def test_what_it_is_not_for_is_refused(head: Volume) -> None:
    with pytest.raises(InputError, match="init: learned is for 3-D images, got 2-D ones"):
        register(torch.rand(16, 16), torch.rand(16, 16), init="learned")
    with pytest.raises(InputError, match="moving: expected an image, but it is constant"):
        initialise(head, replace(head, data=torch.ones(8, 8, 8)), "learned", None, CPU, Stages())
    with pytest.raises(InputError, match="init: expected affine, as the transform is that, got 'learned'"):
        register(head.data, head.data, transform="affine", init="learned")


def test_a_large_image_beside_a_small_one_takes_no_more_cells(head: Volume) -> None:
    body = rotations.Placed(torch.zeros(1, 1, 4, 4, 4), torch.diag(torch.tensor([500.0, 500, 500, 1])).double())
    small = rotations.Placed(head.data[None, None], torch.from_numpy(head.affine))
    spacing = rotations._spacing([small, body], torch.eye(3).double())
    assert (2000 / spacing) ** 3 <= rotations.MOST * 1.001


def test_the_network_sees_at_its_first_level_what_it_sees_of_the_whole(head: Volume) -> None:
    image = torch.rand(1, 1, 64, 48, 32, generator=torch.Generator().manual_seed(0))
    eighth = torch.nn.functional.avg_pool3d(image, 8)
    network = shipped()
    with torch.no_grad():
        whole = network._features(image)[0]
        assert whole.shape == (1, 24, 4, 3, 2)
        torch.testing.assert_close(network.coarsest(eighth), whole, rtol=1e-4, atol=1e-5)


def test_the_report_says_so(head: Volume, tmp_path: Path) -> None:
    by = world(30, 40, middle(head))
    moving = Volume(turned(head.data, head.affine, by), head.affine)
    for name, volume in (("fixed", head), ("moving", moving)):
        write_image(tmp_path / f"{name}.nii.gz", volume)
    files = [str(tmp_path / f"{name}.nii.gz") for name in ("fixed", "moving")]
    options = ["--init=learned", "--preset=fast", f"--out={tmp_path / 'out'}", "--quiet"]
    result = CliRunner().invoke(cli.app, ["register", *files, *options])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["options"]["init"], report["options"]["init_because"]) == ("learned", "asked for")
    matrix = read_transform(tmp_path / "out" / "affine.txt").matrix
    assert matrix is not None
    assert error(Initial("learned", "", matrix), by, head) < 3


def test_a_real_brain_cut_in_half(real_data: Path) -> None:
    brains = real_pair()
    fixed, moving = (Volume(brains[name], np.eye(4)) for name in ("fixed", "moving"))
    truth = initialise(fixed, moving, "affine", None, CPU, Stages()).matrix
    by = world(40, 50, middle(moving))
    half = Volume(moving.data[:, :96].contiguous(), by)
    found = initialise(fixed, half, "learned", None, CPU, Stages())
    assert error(found, by @ truth, fixed) < 6


def test_starts_of_the_benchmark_are_parts_of_what_was_moved(head: Volume) -> None:
    part, by = starts.turned(head, np.random.default_rng(3))
    assert starts.KEPT * head.data.numel() * 0.98 <= part.data.numel() <= head.data.numel()
    angle = np.degrees(Rotation.from_matrix(by[:3, :3]).magnitude())
    assert 0 < angle < starts.DEGREES
    # What is in it lies where the map takes it: the same voxels of the whole.
    back = np.linalg.solve(head.affine, np.linalg.solve(by, part.affine @ [2, 3, 4, 1]))[:3].round().astype(int)
    assert part.data[2, 3, 4] == head.data[tuple(back)]


def test_the_page_of_starts_judges_both_targets() -> None:
    one, two = starts.Kind([1.0, 20.0], [2.0, 2.0]), starts.Kind([1.0, 2.0], [1.0, 1.0])
    text = "\n".join(starts.page({"a": {"affine": one, "learned": two}}, 0.0))
    assert "| a | 2 | 50.0 | 10.5 | 20.0 | 2.00 | 100.0 | 1.5 | 2.0 | 1.00 |" in text
    assert text.count("| met |") == 2
    text = "\n".join(starts.page({"a": {"affine": two, "learned": one}}, 1.0))
    assert text.count("**not met**") == 2
    assert "Others kept 1.0 processors busy" in text


def _shift(axis: int, by: int) -> np.ndarray:
    matrix = np.eye(4)
    matrix[axis, 3] = by
    return matrix
