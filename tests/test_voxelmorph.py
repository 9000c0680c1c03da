"""VoxelMorph's network: as TensorFlow computes it with the published weights, and its files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

import l2rfast
from l2rfast import metrics
from l2rfast.data.brains import STRUCTURES
from l2rfast.methods.unsupervised import Architecture, VoxelMorph
from l2rfast.methods.unsupervised.upsampling import conv_of_upsampled

UNSUPERVISED = "tutorials2019/unsupervised"
SMALL = Architecture(2, (4, 5), (5, 4, 6, 4, 3))


def stored(folder: Path, file: str, key: str) -> Tensor:
    return torch.from_numpy(np.load(folder / file, allow_pickle=False)[key])


def image(volume: Tensor) -> Tensor:
    return volume.float()[None, None]


def mean_dice(fixed: Tensor, moving: Tensor, displacement: Tensor, labels: Any = STRUCTURES) -> tuple[float, float]:
    """Before and after."""
    warped = l2rfast.warp(moving[None, None].short(), displacement, mode="nearest")[0, 0]
    scores = (metrics.dice(fixed.short(), m, labels) for m in (moving.short(), warped))
    before, after = (float(np.nanmean(list(score.values()))) for score in scores)
    return before, after


@pytest.fixture(scope="module")
def brains(real_data: Path) -> dict[str, Tensor]:
    folder = f"{UNSUPERVISED}/data/3D/subject_1"
    return {
        "fixed": stored(real_data, "voxelmorph/data/test_scan.npz", "vol"),
        "fixed_labels": stored(real_data, "voxelmorph/data/test_scan.npz", "seg"),
        "moving": stored(real_data, f"{folder}_vol.npz", "vol_data"),
        "moving_labels": stored(real_data, f"{folder}_seg.npz", "vol_data"),
    }


def test_the_field_of_the_published_3d_weights(real_data: Path, brains: dict[str, Tensor]) -> None:
    golden = np.load(real_data / "golden" / "voxelmorph_cc_subject1_to_test_scan.npz", allow_pickle=False)
    network = VoxelMorph.from_keras(real_data / UNSUPERVISED / "models" / "cvpr2018_vm2_cc.h5").eval()
    assert network.architecture == Architecture()
    with torch.no_grad():
        found = network(image(brains["moving"]), image(brains["fixed"]))
    flow = found.displacement[0].movedim(0, -1)
    mid = np.s_[60:92, 80:112, 90:122]
    for name, part in {
        "flow_s4": np.s_[::4, ::4, ::4],
        "flow_crop_mid": mid,
        "flow_crop_lo": np.s_[:12, :12, :12],
        "flow_crop_hi": np.s_[-12:, -12:, -12:],
    }.items():
        assert (flow[part] - torch.from_numpy(golden[name])).abs().max() < 1e-4, name
    warped = l2rfast.warp(image(brains["moving"]), found.displacement)[0, 0]
    assert (warped[::2, ::2, ::2] - torch.from_numpy(golden["warped_s2"])).abs().max() < 1e-4
    before, after = mean_dice(brains["fixed_labels"], brains["moving_labels"], found.displacement)
    assert before == pytest.approx(0.5224, abs=5e-4)
    assert after == pytest.approx(0.7146, abs=5e-4)


def test_the_published_2d_weights(real_data: Path, brains: dict[str, Tensor]) -> None:
    network = VoxelMorph.from_keras(real_data / UNSUPERVISED / "models" / "brain_2d_shortrun.h5").eval()
    assert network.architecture == Architecture(2, (32,) * 4, (32,) * 5 + (16,))
    atlas = f"{UNSUPERVISED}/data/slice-100/atlas_norm_2d.npz"
    fixed, labels = stored(real_data, atlas, "vol"), stored(real_data, atlas, "seg")
    moving, moving_labels = (brains[name][:, :, 100] for name in ("moving", "moving_labels"))
    with torch.no_grad():
        displacement = network(image(moving), image(fixed)).displacement
    in_both = sorted(set(labels.unique().tolist()) & set(moving_labels.unique().tolist()) - {0})
    before, after = mean_dice(labels, moving_labels, displacement, in_both)
    assert (before, after) == (pytest.approx(0.450, abs=5e-4), pytest.approx(0.604, abs=5e-4))


# --- The network


def pair(*size: int) -> tuple[Tensor, Tensor]:
    return torch.randn(2, 1, *size), torch.randn(2, 1, *size)


def moved(network: VoxelMorph) -> VoxelMorph:
    """With fields of some voxels, not next to nothing."""
    torch.nn.init.normal_(network.field.weight, std=0.1)
    return network


def smooth(*size: int) -> Tensor:
    """A field of at most three voxels."""
    field = l2rfast.box_average(torch.randn(2, len(size), *size), 4, passes=3)
    return 3 * field / field.abs().max()


@pytest.mark.parametrize("size", [(48, 40), (40, 32, 48)])
@pytest.mark.parametrize("half", [False, True])
def test_a_velocity_gives_fields_that_are_each_others_inverse(size: tuple[int, ...], half: bool) -> None:
    network = moved(VoxelMorph(replace(SMALL, ndim=len(size), velocity=True, half=half)))
    found = network(*pair(*size))
    assert torch.equal(found.displacement, network._integrated(found.field))
    assert torch.equal(found.inverse, network._integrated(-found.field))
    assert found.displacement.shape == (2, len(size), *size)
    velocity = smooth(*size)
    there, back = network._integrated(velocity), network._integrated(-velocity)
    assert there.abs().max() > 1
    inner = (..., *[slice(6, -6)] * len(size))
    assert l2rfast.compose(there, back)[inner].abs().max() < 0.1


def test_a_linear_velocity_is_integrated_at_half_the_resolution_as_at_the_full() -> None:
    """Nothing is lost of it between voxels: any difference would be one of place or scale."""
    y, x = torch.meshgrid(torch.arange(64.0) - 32, torch.arange(48.0) - 24, indexing="ij")
    velocity = torch.stack([0.05 * x + 0.02 * y + 0.5, -0.04 * x + 0.03 * y - 0.3])[None]
    network = VoxelMorph(replace(SMALL, velocity=True))
    full = network._integrated(velocity)
    network.architecture = replace(network.architecture, half=True)
    assert full.abs().max() > 2
    assert (full - network._integrated(velocity))[..., 8:-8, 8:-8].abs().max() < 1e-4


def test_a_probabilistic_network_draws_in_training_alone() -> None:
    network = VoxelMorph(replace(SMALL, velocity=True, probabilistic=True))
    torch.nn.init.constant_(network.log_variance.bias, 0.0)  # type: ignore[union-attr]
    images = pair(16, 16)
    assert not torch.equal(network(*images).displacement, network(*images).displacement)
    network.eval()
    assert torch.equal(network(*images).displacement, network(*images).displacement)
    assert network(*images).log_variance.shape == (2, 2, 16, 16)


def test_every_weight_is_trained() -> None:
    network = VoxelMorph(replace(SMALL, velocity=True, half=True, probabilistic=True))
    images = pair(16, 8)
    found = network(*images)
    (l2rfast.warp(images[0], found.displacement).square().sum() + found.log_variance.sum()).backward()
    assert all(w.grad is not None and w.grad.isfinite().all() and w.grad.any() for w in network.parameters())


def test_it_starts_with_hardly_any_displacement() -> None:
    found = VoxelMorph(SMALL)(*pair(16, 16))
    assert found.inverse is None
    assert 0 < found.displacement.abs().max() < 1e-2


@pytest.mark.parametrize(
    ("changes", "begins"),
    [
        ({"ndim": 4}, "ndim: expected 2 or 3"),
        ({"encoder": ()}, "encoder: expected at least 1"),
        ({"decoder": (4, 4, 4)}, "decoder: expected at least 4"),
        ({"decoder": (4, 4, 0, 4)}, "decoder: expected at least 4 positive integers"),
        ({"steps": -1}, "steps: expected"),
        ({"half": True}, "half, probabilistic: expected a network with velocity=True"),
    ],
)
def test_wrong_architectures_are_named(changes: dict[str, Any], begins: str) -> None:
    with pytest.raises(l2rfast.InputError, match=begins):
        replace(SMALL, **changes)


@pytest.mark.parametrize("shapes", [((1, 1, 8, 10), (1, 1, 8, 10)), ((1, 1, 8, 8), (1, 1, 8, 12)), ((1, 2, 8, 8),) * 2])
def test_wrong_images_are_named(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(l2rfast.InputError, match="moving, fixed: expected"):
        VoxelMorph(SMALL)(*(torch.zeros(shape) for shape in shapes))


@pytest.mark.parametrize("size", [(3, 5), (2, 3, 4)])
def test_the_convolution_of_an_upsampled_image(size: tuple[int, ...]) -> None:
    """Against the upsampled image, stored and convolved, in float64; with all gradients."""
    ndim = len(size)
    inputs = [torch.randn(2, 3, *size), torch.randn(2, 2, *(2 * s for s in size))]
    inputs += [torch.randn(4, 5, *[3] * ndim), torch.randn(4)]
    inputs = [x.double().requires_grad_() for x in inputs]

    def plain(coarse: Tensor, beside: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        upsampled = torch.nn.functional.interpolate(coarse, scale_factor=2, mode="nearest")
        conv = torch.nn.functional.conv3d if ndim == 3 else torch.nn.functional.conv2d
        return conv(torch.cat([upsampled, beside], 1), weight, bias, padding=1)

    results = [function(*inputs) for function in (plain, conv_of_upsampled)]
    torch.testing.assert_close(*results)
    direction = torch.randn_like(results[0])
    for expected, got in zip(*(torch.autograd.grad(r, inputs, direction) for r in results), strict=True):
        torch.testing.assert_close(got, expected)


def test_a_checkpointed_network_keeps_less_and_gives_the_same_bits() -> None:
    torch.manual_seed(0)
    plain = moved(VoxelMorph(SMALL))
    checkpointed = VoxelMorph(SMALL, checkpointed=True)
    checkpointed.load_state_dict(plain.state_dict())
    images = pair(32, 32)
    kept = []
    for network in (plain, checkpointed):
        sizes: list[int] = []

        def keep(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            field = network(*images).displacement
        field.square().sum().backward()
        kept.append(sum(sizes))
    assert kept[1] < 0.8 * kept[0]
    assert all(map(torch.equal, *([w.grad for w in network.parameters()] for network in (plain, checkpointed))))


# --- Files


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    network = moved(VoxelMorph(replace(SMALL, velocity=True, half=True, probabilistic=True))).eval()
    network.save(tmp_path / "runs" / "network.safetensors")
    loaded = VoxelMorph.load(tmp_path / "runs" / "network.safetensors").eval()
    assert loaded.architecture == network.architecture
    images = pair(16, 16)
    assert torch.equal(loaded(*images).displacement, network(*images).displacement)
    assert sorted(f.name for f in (tmp_path / "runs").iterdir()) == ["network.json", "network.safetensors"]


def test_nothing_is_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> None:
        write(path, content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    network = VoxelMorph(SMALL)
    network.save(tmp_path / "network.safetensors")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(l2rfast.InputError, match="No space left"):
            VoxelMorph(SMALL).save(tmp_path / "network.safetensors")
    loaded = VoxelMorph.load(tmp_path / "network.safetensors")
    assert all(map(torch.equal, loaded.parameters(), network.parameters()))
    assert len(list(tmp_path.iterdir())) == 2


def damaged(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def of_another(file: Path) -> None:
    other = VoxelMorph(replace(SMALL, decoder=(5, 4, 6, 4, 4)))
    other.save(file.with_name("other.safetensors"))
    file.write_bytes(file.with_name("other.safetensors").read_bytes())


def not_finite(file: Path) -> None:
    network = VoxelMorph.load(file)
    torch.nn.init.constant_(network.field.bias, torch.nan)
    network.save(file)


def described_as(**changes: Any) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        described = file.with_suffix(".json")
        described.write_text(json.dumps(json.loads(described.read_text()) | changes))

    return change


@pytest.mark.parametrize(
    "harm",
    [
        *(damaged, of_another, not_finite, lambda file: file.unlink(), lambda file: file.with_suffix(".json").unlink()),
        *(described_as(format="another"), described_as(architecture={"ndim": 5}), described_as(architecture=3)),
        lambda file: file.with_suffix(".json").write_text("{"),
    ],
)
def test_wrong_files_are_named(harm: Callable[[Path], Any], tmp_path: Path) -> None:
    file = tmp_path / "network.safetensors"
    VoxelMorph(SMALL).save(file)
    harm(file)
    with pytest.raises(l2rfast.InputError):
        VoxelMorph.load(file)


def test_another_ending_is_named(tmp_path: Path) -> None:
    with pytest.raises(l2rfast.InputError, match=r"path: expected a name that ends in \.safetensors"):
        VoxelMorph(SMALL).save(tmp_path / "network.pt")


def keras(file: Path, kernels: list[tuple[int, ...]], last: str = "flow_1", bias: bool = True) -> None:
    with h5py.File(file, "w") as h5:
        for i, shape in enumerate(kernels):
            name = last if i == len(kernels) - 1 else f"conv{len(shape) - 2}d_{i + 8}"
            h5[f"{name}/{name}/kernel:0"] = np.zeros(shape, np.float32)
            if bias:
                h5[f"{name}/{name}/bias:0"] = np.zeros(shape[-1], np.float32)


KERNELS = [
    (3, 3, 2, 4),
    (3, 3, 4, 5),
    (3, 3, 5, 5),
    (3, 3, 9, 4),
    (3, 3, 4, 6),
    (3, 3, 8, 4),
    (3, 3, 4, 3),
    (3, 3, 3, 2),
]


def test_keras_weights_of_any_widths(tmp_path: Path) -> None:
    keras(tmp_path / "weights.h5", KERNELS)
    assert VoxelMorph.from_keras(tmp_path / "weights.h5").architecture == SMALL


@pytest.mark.parametrize(
    ("kernels", "options"),
    [
        ([(5, 5, *shape[2:]) for shape in KERNELS], {}),
        ([(3, 3, 1, 4), *KERNELS[1:]], {}),
        (KERNELS[:-2] + KERNELS[-1:], {}),
        (KERNELS[:1], {}),
        (KERNELS, {"last": "conv2d_99"}),
        (KERNELS, {"bias": False}),
    ],
)
def test_keras_weights_of_other_networks_are_refused(
    kernels: list[tuple[int, ...]], options: dict[str, Any], tmp_path: Path
) -> None:
    keras(tmp_path / "weights.h5", kernels, **options)
    with pytest.raises(l2rfast.InputError, match="path: expected"):
        VoxelMorph.from_keras(tmp_path / "weights.h5")


@pytest.mark.parametrize("content", [b"", b"no HDF5", None])
def test_what_is_no_keras_file_is_named(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "weights.h5"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(l2rfast.InputError, match="path: cannot use"):
        VoxelMorph.from_keras(file)
