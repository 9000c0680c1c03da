"""label-reg's networks and losses, as TensorFlow computes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import l2rfast
from l2rfast import losses
from l2rfast.filters import gaussian_filter
from l2rfast.methods.weakly_supervised import (
    Architecture,
    CompositeNet,
    GlobalNet,
    LabelReg,
    LocalNet,
    Plan,
)
from l2rfast.methods.weakly_supervised.nets import affine_field, resized

PUBLISHED = "batch-as-published"
FIXED, MOVING = (44, 59, 41), (64, 64, 60)


class Golden:
    """Tensors of a golden file, channels second."""

    def __init__(self, file: Path) -> None:
        self._file = np.load(file, allow_pickle=False)

    def __getitem__(self, name: str) -> Tensor:
        values = torch.from_numpy(self._file[name])
        return values.movedim(-1, 1).float().contiguous() if values.ndim == 5 and ":" not in name else values


@pytest.fixture(scope="module")
def ops(real_data: Path) -> Golden:
    return Golden(real_data / "golden" / "labelreg_ops.npz")


@pytest.fixture(scope="module")
def graph(real_data: Path) -> Golden:
    return Golden(real_data / "golden" / "labelreg_localnet_nc4.npz")


def near(got: Tensor, expected: Tensor, tolerance: float = 1e-4) -> bool:
    """To a part of the largest value."""
    assert got.shape == expected.shape
    return float((got.detach() - expected).abs().max()) <= tolerance * float(expected.abs().max())


# The names of the layers, ours and theirs.
LAYERS = {"deep": "local_deep_4"}
for _i in range(4):
    LAYERS |= {f"down.{_i}.first": f"local_down_{_i}/W0", f"down.{_i}.second": f"local_down_{_i}/WR1"}
    LAYERS |= {f"down.{_i}.third": f"local_down_{_i}", f"up.{3 - _i}.first": f"local_up_{_i}/deconv3_block"}
    LAYERS |= {f"up.{3 - _i}.second": f"local_up_{_i}/conv3_block", f"up.{3 - _i}.third": f"local_up_{_i}"}


def theirs(graph: Golden, kind: str) -> dict[str, Tensor]:
    """Weights (W) or gradients (G) under our names; of the gradients, those that the file has."""
    found = {}
    for ours, name in LAYERS.items():
        found[f"{ours}.conv.weight"] = f"{kind}:{name}/W/W"
        found[f"{ours}.norm.shift"] = f"{kind}:{name}/BatchNorm/beta"
    for i in range(5):
        found |= {f"out.{i}.weight": f"{kind}:sum_{i}/W/W", f"out.{i}.bias": f"{kind}:sum_{i}/b/b"}
    there = {ours: graph[name] for ours, name in found.items() if name in graph._file}
    return {ours: values.permute(4, 3, 0, 1, 2) if values.ndim == 5 else values for ours, values in there.items()}


def test_the_network_its_field_losses_and_gradients(graph: Golden) -> None:
    network = LocalNet(Plan(width=4, norm=PUBLISHED))
    network.load_state_dict(theirs(graph, "W"))
    moving, fixed = graph["moving"], graph["fixed"]
    field = network(moving, fixed)
    assert near(field, graph["ddf"])
    # Their resampler returns 0 outside and on the last plane of each axis.
    places = torch.stack(torch.meshgrid(*(torch.arange(s) for s in fixed.shape[2:]), indexing="ij")) + field
    sizes = torch.tensor(moving.shape[2:]).view(1, 3, 1, 1, 1)
    inside = ((places >= 0) & (places < sizes - 1)).all(1, keepdim=True)
    assert near(l2rfast.warp(moving, field) * inside, graph["warped_moving"])
    warped = l2rfast.warp(graph["label_moving"], field) * inside
    assert near(warped, graph["warped_label"])
    similarity = losses.multiscale_dice(graph["label_fixed"], warped)
    energy = losses.bending_energy(field)
    assert similarity.item() == pytest.approx(graph["loss_similarity"].item(), abs=1e-4)
    assert graph["loss_regulariser"].item() == pytest.approx(0.5 * energy.item(), rel=1e-4)
    (similarity + 0.5 * energy).backward()
    expected = theirs(graph, "G")
    assert len(expected) >= 16
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        if name in expected:
            assert near(parameter.grad, expected[name]), name
        norm = graph[f"Gnorm:{_their_name(name)}"].item()
        assert parameter.grad.norm().item() == pytest.approx(norm, rel=1e-3), name


def _their_name(name: str) -> str:
    if name.startswith("out."):
        _, level, kind = name.split(".")
        return f"sum_{level}/{'W/W' if kind == 'weight' else 'b/b'}"
    layer, part = name.rsplit(".", 2)[0], name.split(".")[-2]
    return f"{LAYERS[layer]}/{'W/W' if part == 'conv' else 'BatchNorm/beta'}"


def test_the_published_numbers_of_parameters() -> None:
    counts = [
        sum(w.numel() for w in network.parameters())
        for network in (LocalNet(Plan(width=32)), GlobalNet(FIXED, Plan(width=8)))
    ]
    assert counts == [18_906_351, 648_804]


@pytest.mark.parametrize("measure", ["dice", "jaccard", "cross-entropy", "mean-squares"])
@pytest.mark.parametrize("sigmas", [(0,), (1,), (2,), (4,), (8,), (0, 1, 2, 4, 8)])
def test_the_losses(measure: str, sigmas: tuple[int, ...], ops: Golden) -> None:
    got = losses.multiscale_loss(ops["loss_ts"], ops["loss_ps"], measure, sigmas=sigmas, reduction="none")[:, 0]
    name = "mean-squared" if measure == "mean-squares" else measure
    assert near(got, ops[f"loss_{name}_{'_'.join(map(str, sigmas))}"])


def test_the_filter_and_the_energies(ops: Golden) -> None:
    assert near(gaussian_filter(ops["loss_ps"], 2), ops["filt2_ps"])
    field = ops["energy_ddf"]
    for i in range(2):
        item = field[i : i + 1]
        assert losses.bending_energy(item).item() == pytest.approx(ops["energy_bending"][i].item(), rel=1e-5)
        for norm in ("l1", "l2"):
            expected = ops[f"energy_gradient-{norm}"][i].item()
            assert losses.gradient_energy(item, norm=norm).item() == pytest.approx(expected, rel=1e-5)


def test_resizing(ops: Golden) -> None:
    for name in ("rz_9_12_7", "rz_3_4_4"):
        assert near(resized(ops["rz_in"], ops[name].shape[2:]), ops[name])
    up = resized(ops["rz_in"], ops["addup_10_12_7"].shape[2:])
    low, high = up.chunk(2, 1)
    assert near(low + high, ops["addup_10_12_7"])


def test_generalised_dice() -> None:
    """Nothing in common is 1, the same is 0; a small label counts as much as the background."""
    a = torch.zeros(1, 1, 10, 10)
    a[..., :2, :3] = 1
    assert losses.label_loss(a, a, "generalised-dice").item() == pytest.approx(0, abs=1e-6)
    assert losses.label_loss(a, 1 - a, "generalised-dice").item() == pytest.approx(1, abs=1e-6)
    empty = torch.zeros_like(a)
    weights = 1 / 6**2, 1 / 94**2
    expected = 1 - 2 * weights[1] * 94 / (weights[0] * 6 + weights[1] * 194)
    assert losses.label_loss(a, empty, "generalised-dice").item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("call", "begins"),
    [
        (lambda a: losses.label_loss(a, a[:, :1, :4]), "a, b: expected one shape"),
        (lambda a: losses.label_loss(a, a, "overlap"), "measure: expected one of"),
        (lambda a: losses.label_loss(a, a, reduction="sum"), "reduction: expected one of"),
        (lambda a: losses.multiscale_loss(a, a, sigmas=()), "sigmas: expected at least one"),
        (lambda a: losses.multiscale_loss(a, a, sigmas=(-1,)), "sigma: expected a number >= 0"),
        (lambda a: losses.label_loss(a.bool(), a.bool()), "a: expected a floating-point dtype"),
    ],
)
def test_wrong_arguments_of_losses_are_named(call: Any, begins: str) -> None:
    with pytest.raises(l2rfast.InputError, match=begins):
        call(torch.rand(1, 1, 5, 5))


# --- The networks


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("kind", ["local", "global", "composite"])
@pytest.mark.parametrize("level", [1, 2, 4])
def test_a_new_network_says_nothing(ndim: int, kind: str, level: int) -> None:
    """Centres meet, or the first voxels."""
    first = 32 + 10 * level  # so that a quarter has more than one voxel at the coarsest level
    fixed, moving = torch.rand(2, 1, *(first, 33, 28)[:ndim]), torch.rand(2, 1, *(first + 4, 33, 31)[:ndim])
    for start, expected in (("centre", [2, 0, 1.5]), ("corner", [0, 0, 0])):
        size = tuple(fixed.shape[2:])
        network = LabelReg(Architecture(kind, Plan(ndim, 2), start, level, size))
        field = network(moving, fixed)
        assert field.shape == (2, ndim, *size)
        offset = torch.tensor(expected[:ndim], dtype=torch.float32).view(-1, *[1] * ndim)
        torch.testing.assert_close(field, offset.expand_as(field), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["local", "global", "composite"])
@pytest.mark.parametrize("norm", ["instance", PUBLISHED])
def test_images_of_one_voxel_at_the_coarsest_level_are_refused(kind: str, norm: str) -> None:
    image = torch.rand(1, 1, 40, 33)
    network = LabelReg(Architecture(kind, Plan(2, 2, norm), level=4, size=(40, 33)))
    with pytest.raises(l2rfast.InputError, match=r"fixed: expected more than 16 voxels .*, got 10 x 8"):
        network(image, image)
    group = LabelReg(Architecture(kind, Plan(2, 2, "group"), level=4, size=(40, 33)))
    assert group(image, image).isfinite().all()


@pytest.mark.parametrize("norm", ["instance", "group", PUBLISHED])
def test_every_weight_is_trained(norm: str) -> None:
    plan = Plan(2, 2, norm)
    network = CompositeNet((32, 32), plan, Plan(2, 2, norm))
    for parameter in network.fine.out.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    torch.nn.init.normal_(network.coarse.affine.weight, std=0.01)
    network(torch.rand(2, 1, 40, 36), torch.rand(2, 1, 32, 32)).square().sum().backward()
    without = [n for n, w in network.named_parameters() if w.grad is None or not w.grad.isfinite().all()]
    assert not without


def _published_samples(image: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Of (*size), at (ndim, *spatial): each axis in turn, its two neighbours clipped to the image before weighing."""
    found = np.zeros(places.shape[1:])
    for at in np.ndindex(found.shape):
        values = image
        for place in places[(slice(None), *at)]:
            below, above = (int(np.clip(np.floor(place) + step, 0, len(values) - 1)) for step in (0, 1))
            values = values[below] * (above - place) + values[above] * (place - below)
        found[at] = values
    return found


@pytest.mark.parametrize("ndim", [2, 3])
def test_what_the_second_network_sees_is_sampled_as_published(ndim: int) -> None:
    """0 outside and on the last plane, where zeros around an image fall over one voxel."""
    moving, fixed = torch.rand(1, 1, *(22, 20, 18)[:ndim]), torch.rand(1, 1, *(20, 20, 16)[:ndim])
    plan = Plan(ndim, 2, PUBLISHED, (0,))
    network = CompositeNet(fixed.shape[2:], plan, plan)
    torch.nn.init.normal_(network.fine.out["0"].weight)
    torch.nn.init.normal_(network.coarse.affine.weight, std=0.01)
    with torch.no_grad():
        network.coarse.affine.bias += 0.1 * torch.randn(ndim * (ndim + 1))
        coarse = network.coarse(moving, fixed)
        places = np.indices(fixed.shape[2:]) + coarse[0].double().numpy()
        seen = _published_samples(moving[0, 0].double().numpy(), places)
        assert (seen == 0).any()
        expected = coarse + network.fine(torch.from_numpy(seen).float()[None, None], fixed)
        assert near(network(moving, fixed), expected)
        assert not near(coarse + network.fine(l2rfast.warp(moving, coarse, padding="zeros"), fixed), expected, 1e-3)


def test_instance_and_group_do_not_depend_on_the_batch() -> None:
    images = torch.rand(2, 3, 1, 32, 32)
    for norm in ("instance", "group"):
        network = LocalNet(Plan(2, 4, norm))
        for parameter in network.out.parameters():
            torch.nn.init.normal_(parameter)
        torch.testing.assert_close(network(*images)[:1], network(*images[:, :1]), atol=1e-4, rtol=1e-4)


def test_an_affine_field() -> None:
    matrix = torch.tensor([[[1.0, 0.1, 2], [0, 0.9, -1]]])
    image = torch.rand(1, 1, 20, 22)
    expected = l2rfast.affine_warp(image, matrix)
    torch.testing.assert_close(l2rfast.warp(image, affine_field(matrix, (20, 22))), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["local", "composite"])
def test_what_is_saved_is_loaded(kind: str, tmp_path: Path) -> None:
    network = LabelReg(Architecture(kind, Plan(2, 2, "group", (1, 2)), "corner", 2, (32, 40)))
    torch.nn.init.normal_(network.network.get_parameter("out.1.weight" if kind == "local" else "fine.out.1.weight"))
    network.save(tmp_path / "network.safetensors")
    loaded = LabelReg.load(tmp_path / "network.safetensors")
    assert loaded.architecture == network.architecture
    images = torch.rand(1, 1, 36, 36), torch.rand(1, 1, 32, 40)
    assert torch.equal(loaded(*images), network(*images))


def _images(*edges: int) -> list[Tensor]:
    return [torch.rand(1, 1, edge, edge) for edge in edges]


@pytest.mark.parametrize(
    ("make", "begins"),
    [
        (lambda: Plan(4), "ndim: expected 2 or 3"),
        (lambda: Plan(width=0), "width: expected"),
        (lambda: Plan(norm="batch"), "norm: expected one of"),
        (lambda: Plan(out_levels=(5,)), "out_levels: expected"),
        (lambda: Plan(out_levels=()), "out_levels: expected"),
        (lambda: Architecture("dense"), "kind: expected one of"),
        (lambda: Architecture(start="middle"), "start: expected one of"),
        (lambda: Architecture(level=5), "level: expected at most 4"),
        (lambda: Architecture(level=2.0), "level: expected an integer"),
        (lambda: Architecture("global"), "size: expected that of the fixed images"),
        (lambda: GlobalNet((32,), Plan(2, 2)), "size: expected 2 sizes"),
        (
            lambda: GlobalNet((32, 32), Plan(2, 2))(torch.rand(1, 1, 32, 32), torch.rand(1, 1, 16, 16)),
            "fixed: expected",
        ),
        (lambda: LabelReg(Architecture(plan=Plan(2, 2)))(*torch.rand(2, 1, 1, 8, 8, 8)), "moving, fixed: expected"),
        (lambda: LocalNet(Plan(2, 2))(*torch.rand(2, 1, 2, 32, 32)), "moving: expected floating"),
        (
            lambda: LocalNet(Plan(2, 2))(torch.rand(1, 1, 9, 9), torch.rand(2, 1, 9, 9)),
            "moving, fixed: expected one batch",
        ),
    ],
)
def test_what_is_wrong_is_named(make: Any, begins: str) -> None:
    with pytest.raises(l2rfast.InputError, match=begins):
        make()
