"""PDD-Net and the tutorial's 2-D network: published numbers, training, registration."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from samples import noise
from torch import Tensor
from typer.testing import CliRunner

import l2rfast
from l2rfast import cli
from l2rfast.io import Volume, read_displacement, write_image
from l2rfast.methods.discrete.features import Obelisk, PlainFeatures
from l2rfast.methods.discrete.pddnet import PUBLISHED, Architecture, PDDNet
from l2rfast.methods.discrete.points import smooth, spread
from l2rfast.methods.discrete.register import read_weights
from l2rfast.methods.discrete.training import DiscreteTask, TrainingOptions, non_local
from l2rfast.methods.discrete.tutorial import Flat, TutorialNet2d
from l2rfast.methods.training.cases import find_pairs
from l2rfast.methods.training.options import TrainerOptions

G, W = 11, 7  # control points and displacements, fewer than published
SMALL = Architecture("cnn", 8, (6, 8), (5, 3), (0.3, 0.15))


@pytest.fixture(scope="module")
def published(real_data: Path) -> tuple[Path, Path]:
    return real_data / "pdd_net" / "dense_reg_feat_v01.pth", real_data / "pdd_net" / "dense_reg_deeds_v01.pth"


# --- As published


@pytest.mark.parametrize(("align_corners", "name"), [(True, "feat_v01w_all_true"), (False, "feat_v01w_all_false")])
def test_published_features(published: tuple[Path, Path], real_data: Path, align_corners: bool, name: str) -> None:
    stored = np.load(real_data / "golden" / "pddnet_obelisk_small.npz", allow_pickle=False)
    network = PDDNet.from_published(*published).eval()
    assert isinstance(network.features, Obelisk)
    network.features.align_corners = align_corners
    with torch.no_grad():
        features = network.features(torch.from_numpy(stored["input"])[None, None])
    wanted = torch.from_numpy(stored[name])
    assert (features - wanted).norm() / wanted.norm() < 1e-5


def test_the_chain_is_the_published_one(published: tuple[Path, Path]) -> None:
    """softmax(-a2 * meanfield(minconv(a1 + a0 * SSD))) of PyTorch's operations, in the published order of memory."""
    network = PDDNet(replace(PUBLISHED, grid=(G,), search=(W,))).eval()
    network.load_state_dict(PDDNet.from_published(*published).state_dict())
    fixed, moving = (l2rfast.box_average(noise(1, 1, 42, 48, 36).float(), 3) for _ in range(2))
    with torch.no_grad():
        found = network(fixed, moving)
        at, to = network.features(fixed), network.features(moving)
        grid = F.affine_grid(torch.eye(3, 4)[None], [1, 1, G, G, G], align_corners=True).view(1, -1, 1, 1, 3)
        shift = F.affine_grid(0.4 * torch.eye(3, 4)[None], [1, 1, W, W, W], align_corners=True).view(1, 1, -1, 1, 3)
        a0, a1, a2 = network.alphas.tolist()
        here = F.grid_sample(at, grid, padding_mode="zeros", align_corners=True)
        there = F.grid_sample(to, grid + shift, padding_mode="border", align_corners=True)
        costs = (a1 + a0 * (here - there).square().sum(1)).view(-1, W, W, W)
        pooled = -F.max_pool3d(-F.pad(costs[:, None], [3] * 6, mode="replicate"), 3, 1)
        pooled = F.avg_pool3d(F.avg_pool3d(pooled, 3, 1), 3, 1)
        by_shift = F.pad(pooled.view(G**3, -1).T.view(-1, 1, G, G, G), [2] * 6, mode="replicate")
        smoothed = F.avg_pool3d(F.avg_pool3d(by_shift, 3, 1), 3, 1)
        p = torch.softmax(-a2 * smoothed.view(W**3, -1).T, 1)
        expected = (p[:, :, None] * shift[0, :, :, 0]).sum(1).flip(-1)  # z, y, x, from -1 to 1
    voxels = (torch.tensor([42, 48, 36]) - 1) / 2
    got = found.choices[0].points[0].flatten(1).T / voxels
    assert (got - expected).norm() / expected.norm() < 1e-4


def test_published_weights_recover_a_motion(published: tuple[Path, Path]) -> None:
    """Of a body of soft tissue, gas and bone in units of 500 HU, by some 11 voxels. What they expect is soft: half."""
    torch.manual_seed(0)
    size = (96, 80, 112)

    def texture(radius: int) -> Tensor:
        smoothed = l2rfast.box_average(torch.randn(1, 1, *size), radius, passes=2)
        return smoothed / smoothed.std()

    y, x = torch.meshgrid(*(torch.linspace(-1, 1, s) for s in size[1:]), indexing="ij")
    tissue = 0.05 + 0.05 * texture(1) + 0.15 * (texture(6) > 0) + (texture(4) > 1.6) - 2.0 * (texture(4) > 1.8)
    moving = l2rfast.box_average(torch.where(x**2 + y**2 < 0.8, tissue, torch.tensor(-2.0)), 1)
    disp = l2rfast.box_average(torch.randn(1, 3, *size), 16, passes=3)
    disp = 2 * disp / disp.std() + torch.tensor([8.0, -6.0, 5.0]).view(1, 3, 1, 1, 1)
    fixed = l2rfast.warp(moving, disp)
    with torch.no_grad():
        found = PDDNet.from_published(*published).eval()(fixed, moving).displacement
    inner = (..., *[slice(12, -12)] * 3)
    before, after = (x[inner].norm(dim=1).mean() for x in (disp, disp - found))
    assert after < 0.6 * before


@pytest.mark.parametrize(
    ("change", "begins"),
    [
        (lambda f, d: (f.with_name("absent.pth"), d), "path: cannot use"),
        (lambda f, d: (d, d), "path: expected finite weights of this PDDNet"),
        (lambda f, d: (f, f), "path: expected finite weights of this PDDNet"),
    ],
)
def test_other_files_are_refused(published: tuple[Path, Path], change: Any, begins: str) -> None:
    with pytest.raises(l2rfast.InputError, match=begins):
        PDDNet.from_published(*change(*published))


def test_a_pickle_of_anything_else_is_not_opened(published: tuple[Path, Path], tmp_path: Path) -> None:
    torch.save({"offsets": Path("x")}, tmp_path / "evil.pth")
    with pytest.raises(l2rfast.InputError, match="path: expected a file of PyTorch's with plain tensors"):
        PDDNet.from_published(tmp_path / "evil.pth", published[1])


# --- The parts


def test_the_smooth_field_solves_its_equations() -> None:
    """The gradient of the sum of squares, by automatic differentiation, is zero there."""
    d = noise(2, 3, 5, 7, 6)
    u = smooth(d, 0.7).requires_grad_()
    energy = (u - d).square().sum() + 0.7 * sum(u.diff(dim=k).square().sum() for k in (2, 3, 4))
    (gradient,) = torch.autograd.grad(energy, u)
    assert gradient.abs().max() < 1e-12
    assert smooth(d, 0.0) is d


@pytest.mark.parametrize("align_corners", [False, True])
def test_between_control_points_a_linear_field_is_linear(align_corners: bool) -> None:
    size, grid = (13, 16, 11), (5, 4, 6)

    def places(count: int) -> Tensor:
        if align_corners:
            return torch.linspace(-1, 1, count, dtype=torch.float64)
        return (2 * torch.arange(count, dtype=torch.float64) + 1) / count - 1

    fields = [torch.stack(torch.meshgrid(*map(places, s), indexing="ij"))[None] for s in (grid, size)]
    inner = (..., *[slice(2, -2)] * 3)  # outside the outermost control points the border is repeated
    torch.testing.assert_close(spread(fields[0], size, align_corners)[inner], fields[1][inner])


@pytest.mark.parametrize("size", [(21, 18, 24), (22, 20, 25)])
def test_features_are_on_a_third_of_the_grid(size: tuple[int, ...]) -> None:
    image = noise(2, 1, *size).float()
    for features in (Obelisk(), PlainFeatures()):
        assert features(image).shape == (2, 24, *(s // 3 for s in size))


def test_every_parameter_learns() -> None:
    fixed, moving = (noise(2, 1, 24, 21, 27).float() for _ in range(2))
    for architecture in (Architecture(grid=(6,), search=(5,), extent=(0.3,)), SMALL):
        network = PDDNet(architecture)
        found = network(fixed, moving, probabilities=True)
        assert found.displacement.shape == (2, 3, 24, 21, 27)
        assert [c.probabilities.shape[1] for c in found.choices if c.probabilities is not None] == [
            *architecture.search
        ]
        found.displacement.square().mean().backward()
        # Offsets cancel in the softmax, and the bias of the features in their differences.
        without = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()}
        assert not without


def test_an_exact_min_convolution_learns_its_weight() -> None:
    network = PDDNet(Architecture("cnn", 8, (6,), (5,), (0.3,), min_convolution="exact"))
    network(noise(1, 1, 18, 18, 18).float(), noise(1, 1, 18, 18, 18).float()).displacement.square().mean().backward()
    assert network.log_weight is not None
    assert network.log_weight.grad


@pytest.mark.parametrize("network", [PDDNet(SMALL), TutorialNet2d(Flat(2))], ids=["3-D", "2-D"])
def test_labels_of_a_pair_that_is_the_same(network: PDDNet | TutorialNet2d) -> None:
    """Where all probability is on no displacement, the labels expected are those that are there."""
    size = (24, 24, 24)[: network.ndim]
    image = noise(1, 1, *size).float()
    labels = (noise(1, 4, *size).float() > 0).float()
    with torch.no_grad():
        found = network.eval()(image, image, probabilities=True)
        choices = []
        for choice in found.choices:
            p = choice.probabilities
            assert p is not None
            certain = torch.zeros_like(p)
            middle = tuple(n // 2 for n in p.shape[1 : 1 + network.ndim])
            certain[(slice(None), *middle)] = 1
            nothing = None if choice.before is None else torch.zeros_like(choice.before)
            choices.append(choice._replace(probabilities=certain, before=nothing))
        for truth, expected in network.labels(choices, labels, labels):
            torch.testing.assert_close(truth, expected)
            assert non_local(truth, expected) < 1e-10


def test_the_non_local_loss_is_its_definition() -> None:
    truth, expected = noise(2, 3, 4, 5).abs(), noise(2, 3, 4, 5)
    w = 1 / truth.mean((2, 3)).sqrt()
    w = w / w.mean(1, keepdim=True)
    torch.testing.assert_close(non_local(truth, expected), (w[:, :, None, None] * (truth - expected) ** 2).mean())


def test_weights_are_kept(tmp_path: Path) -> None:
    for network in (PDDNet(SMALL), TutorialNet2d(Flat(3))):
        network.save(tmp_path / "w.safetensors")
        again = read_weights(tmp_path / "w.safetensors")
        assert type(again) is type(network)
        assert again.architecture == network.architecture
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize(
    ("make", "begins"),
    [
        (lambda: Architecture("sift"), "features: expected one of"),
        (lambda: Architecture(grid=(5,)), "grid, search, extent: expected one number of each"),
        (lambda: Architecture(search=(1, 5)), "grid, search, channels: expected integers >= 2"),
        (lambda: Architecture(extent=(math.nan, 1.0)), "extent, smoothness: expected finite"),
        (lambda: Architecture(passes=3), "passes: expected one of 1, 2"),
        (lambda: Flat(0), "radius: expected a positive integer"),
        (lambda: PDDNet(SMALL)(noise(1, 1, 9, 9, 9), noise(1, 1, 9, 9, 8)), "fixed, moving: expected"),
        (lambda: PDDNet(SMALL)(noise(1, 1, 9, 9, 5), noise(1, 1, 9, 9, 5)), "fixed, moving: expected"),
        (lambda: TutorialNet2d()(noise(1, 1, 9, 8), noise(1, 1, 9, 8)), "fixed, moving: expected sizes"),
    ],
)
def test_what_cannot_be_is_named(make: Any, begins: str) -> None:
    with pytest.raises(l2rfast.InputError, match=begins):
        make()


# --- Training and registration

TINY = {
    2: ("--radius=3",),
    3: ("--features=cnn", "--grid=5", "--search=5", "--extent=0.3"),
}


@pytest.fixture(scope="module", params=[2, 3], ids=["2-D", "3-D"])
def scans(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    ndim = request.param
    folder = tmp_path_factory.mktemp("scans")
    datasets.write(folder, 5, (32, 28) if ndim == 2 else (24, 21, 20))
    return ndim, folder


def command(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, [*arguments, "--quiet"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stderr


def rows(file: Path) -> list[dict[str, float]]:
    with file.open() as stream:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(stream)]


@pytest.mark.parametrize("loss", ["labels", "lncc", "mind"])
def test_training(scans: tuple[int, Path], tmp_path: Path, loss: str) -> None:
    ndim, folder = scans
    options = ("--hold-out=2", "--batch=2", "--steps=4", "--every=2", "--rate=1e-3", f"--loss={loss}", *TINY[ndim])
    train = ("train", "discrete", f"--data={folder}")
    assert command(*train, f"--out={tmp_path / 'run'}", *options) == (0, "")
    assert {"DSC", "num_foldings"} <= set(rows(tmp_path / "run" / "validation.csv")[0])
    assert command(*train, f"--out={tmp_path / 'parts'}", *options, "--steps=2") == (0, "")
    assert command(*train, f"--out={tmp_path / 'parts'}", *options, "--resume") == (0, "")
    runs = [(tmp_path / name / "checkpoint.safetensors").read_bytes() for name in ("run", "parts")]
    assert runs[0] == runs[1]
    network = read_weights(tmp_path / "run" / "weights.safetensors")
    assert network.ndim == ndim
    error = command(*train, f"--out={tmp_path / 'again'}", *options, f"--weights={tmp_path / 'absent.safetensors'}")
    assert error[0] == 2
    assert error[1].startswith("l2rfast: error: --weights: cannot use")


def test_it_learns(scans: tuple[int, Path]) -> None:
    _, folder = scans
    options = TrainingOptions(radius=3, features="cnn", grid=(5,), search=(5,), extent=(0.3,))
    task = DiscreteTask(find_pairs(folder), options, TrainerOptions())
    batch = {
        name: torch.stack([task.sample(torch.Generator().manual_seed(i))[name] for i in range(4)])
        for name in task.sample(torch.Generator())
    }
    optimizer = torch.optim.Adam(task.parameters(), 3e-3)
    losses = []
    for _ in range(30):
        loss = task(batch)["labels"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


def test_registration_says_how_sure_it_is(tmp_path: Path) -> None:
    PDDNet(SMALL).save(tmp_path / "w.safetensors")
    for i, name in enumerate(("fixed", "moving")):
        image = l2rfast.box_average(noise(1, 1, 24, 25, 28).float() + i, 2)[0, 0]
        write_image(tmp_path / f"{name}.nii.gz", Volume(image, np.diag([1.0, 1.5, 2.0, 1.0])))
    files = [str(tmp_path / f"{name}.nii.gz") for name in ("fixed", "moving")]
    options = ("--method=pddnet", f"--weights={tmp_path / 'w.safetensors'}", f"--out={tmp_path / 'result'}")
    assert command("register", *files, *options) == (0, "")
    confidence = l2rfast.io.as_volume("confidence", tmp_path / "result" / "confidence.nii.gz")
    assert confidence.data.shape == (24, 25, 28)
    assert 0 <= confidence.data.min() <= confidence.data.max() <= math.log(5**3) + 1e-4
    assert json.loads((tmp_path / "result" / "report.json").read_text())["options"]["method"] == "pddnet"
    volumes = [l2rfast.io.as_volume("image", file) for file in files]
    result = l2rfast.register(*volumes, method="pddnet", weights=tmp_path / "w.safetensors")
    assert result.entropy is not None
    torch.testing.assert_close(result.entropy[0, 0], confidence.data)
    stored, _ = read_displacement(tmp_path / "result" / "displacement.nii.gz")
    torch.testing.assert_close(stored, result.displacement, atol=1e-4, rtol=1e-4)
    flat = TutorialNet2d(Flat(2))
    flat.save(tmp_path / "flat.safetensors")
    code, error = command("register", *files, options[0], f"--weights={tmp_path / 'flat.safetensors'}", options[2])
    assert code == 2
    assert "weights: expected those of a 3-D network" in error
