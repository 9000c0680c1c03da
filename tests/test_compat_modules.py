"""Where modules and losses of other libraries go: pickles, processes, programs, training scripts."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing
import torch.nn.functional as F
from others import MARKS, SIZES, blobs, images, monai, neurite, voxelmorph
from torch import Tensor

import l2rfast
from l2rfast.compat import deepreg
from l2rfast.compat import monai as compat_monai
from l2rfast.compat.voxelmorph import layers, modules

pytestmark = MARKS

CLASSES = {
    "monai.Warp": lambda: compat_monai.Warp(),
    "monai.DVF2DDF": lambda: compat_monai.DVF2DDF(3),
    "monai.DiffusionLoss": lambda: compat_monai.DiffusionLoss(),
    "monai.BendingEnergyLoss": lambda: compat_monai.BendingEnergyLoss(),
    "monai.MutualInformation": lambda: compat_monai.GlobalMutualInformationLoss(),
    "monai.LocalNCC": lambda: compat_monai.LocalNormalizedCrossCorrelationLoss(kernel_size=3),
    "voxelmorph.SpatialTransformer": lambda: modules.SpatialTransformer(),
    "voxelmorph.IntegrateVelocityField": lambda: modules.IntegrateVelocityField(steps=3),
    "layers.SpatialTransformer": lambda: layers.SpatialTransformer(SIZES[3]),
    "deepreg.LocalNCC": lambda: deepreg.LocalNormalizedCrossCorrelationLoss(3),
    "layers.VecInt": lambda: layers.VecInt(SIZES[3], 3),
}


def arguments(name: str) -> list[Tensor]:
    a, b, disp = (one.detach().float().requires_grad_() for one in images(3))
    if name == "deepreg.LocalNCC":
        return [one.detach()[:, 0].requires_grad_() for one in (a, b)]
    if name in ("monai.LocalNCC", "monai.MutualInformation"):
        return [a, b]
    alone = ("BendingEnergyLoss", "DVF2DDF", "DiffusionLoss", "IntegrateVelocityField", "VecInt")
    return [disp] if name.split(".")[1] in alone else [a, disp]


@pytest.mark.parametrize("name", CLASSES)
def test_modules_are_pickled_copied_and_run_in_parallel(name: str) -> None:
    module, inputs = CLASSES[name](), arguments(name)
    expected = module(*inputs)
    for other in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module), torch.nn.DataParallel(module)):
        assert torch.equal(other(*inputs), expected)


@pytest.mark.parametrize("name", CLASSES)
def test_modules_under_autocast(name: str) -> None:
    module, inputs = CLASSES[name](), arguments(name)
    expected = module(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        found = module(*inputs)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert all(bool(one.grad.isfinite().all()) for one in inputs if one.grad is not None)


@pytest.mark.filterwarnings("ignore")  # of what PyTorch's compiler uses
@pytest.mark.parametrize("name", CLASSES)
def test_modules_are_compiled(name: str) -> None:
    module, inputs = CLASSES[name](), arguments(name)
    compiled = torch.compile(module, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), module(*inputs))
    compiled(*inputs).sum().backward()
    expected = [one.grad.clone() for one in inputs]
    for one in inputs:
        one.grad = None
    module(*inputs).sum().backward()
    for one, gradient in zip(inputs, expected, strict=True):
        torch.testing.assert_close(gradient, one.grad)


DISTRIBUTED = ["monai.Warp", "monai.LocalNCC", "voxelmorph.IntegrateVelocityField"]


def parallel_steps(rank: int, files: str) -> None:
    """Of one process of two: layers behind a parameter, and the gradients that DistributedDataParallel averages."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{files}/meeting", rank=rank, world_size=2)
    gradients = {}
    for name in DISTRIBUTED:
        network = torch.nn.parallel.DistributedDataParallel(Layered(CLASSES[name]()))
        network(*(one[rank : rank + 1] for one in arguments(name))).sum().backward()
        gradients[name] = network.module.scale.grad
    if rank == 0:
        torch.save(gradients, f"{files}/gradients.pt")
    torch.distributed.destroy_process_group()


class Layered(torch.nn.Module):
    """A layer whose last argument is scaled by something to be learned."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer, self.scale = layer, torch.nn.Parameter(torch.tensor(0.9))

    def forward(self, *inputs: Tensor) -> Tensor:
        value: Tensor = self.layer(*inputs[:-1], self.scale * inputs[-1])
        return value


def test_modules_under_distributed_data_parallel(tmp_path: Path) -> None:
    # New processes: one that is forked has no threads of PyTorch's, and waits for them.
    torch.multiprocessing.start_processes(parallel_steps, (str(tmp_path),), nprocs=2, start_method="spawn")
    found = torch.load(tmp_path / "gradients.pt", weights_only=True)
    for name in DISTRIBUTED:
        alone = Layered(CLASSES[name]())
        halves = [alone(*(one[rank : rank + 1] for one in arguments(name))).sum() for rank in (0, 1)]
        ((halves[0] + halves[1]) / 2).backward()
        torch.testing.assert_close(found[name], alone.scale.grad)


# Training scripts, unchanged but for the patch.


def monai_script() -> list[float]:
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv3d(2, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(8, 3, 3, padding=1)
    )
    similarity = monai.losses.LocalNormalizedCrossCorrelationLoss(kernel_size=5)
    smoothness, warp = monai.losses.DiffusionLoss(), monai.networks.blocks.Warp()
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    fixed, moving = blobs(1), blobs(2)
    curve = []
    for _ in range(6):
        disp = network(torch.cat([fixed, moving], 1))
        loss = similarity(warp(moving, disp), fixed) + smoothness(disp)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    return curve


def voxelmorph_script() -> list[float]:
    torch.manual_seed(0)
    network = voxelmorph.nn.models.VxmPairwise(
        ndim=3, source_channels=1, target_channels=1, nb_features=[4, 8, 8], integration_steps=3
    )
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    fixed, moving = (F.pad(blobs(seed), (0, 6, 0, 2, 0, 4)) for seed in (1, 2))
    curve = []
    for _ in range(4):
        disp, warped = network(moving, fixed, return_warped_source=True)
        loss = -neurite.ncc(warped, fixed)[0, 0] + disp.diff(dim=2).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    return curve


@pytest.mark.parametrize(
    ("libraries", "script"), [(["monai"], monai_script), (["voxelmorph", "neurite"], voxelmorph_script)]
)
def test_training_scripts(libraries: list[str], script: Callable[[], list[float]]) -> None:
    expected = script()
    with l2rfast.patch(*libraries):
        found = script()
    assert expected[0] != expected[-1]
    assert found == pytest.approx(expected, rel=1e-4)
