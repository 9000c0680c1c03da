"""Registration of two images in world space: the Python entry point behind ``l2rfast.register``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from l2rfast import affine_warp, warp
from l2rfast.errors import InputError
from l2rfast.io import Volume, as_volume, voxel_to_voxel

from .discrete.convex import register_discrete
from .discrete.options import choose
from .intensities import from_zero_to_one, standardised
from .stages import Progress, Stages
from .unsupervised.register import UnsupervisedOptions, register_unsupervised


@dataclass(frozen=True, eq=False)
class Registration:
    """What a registration found.

    Attributes:
        displacement: (1, 3, *fixed) float32, in voxels of the fixed image: fixed at x corresponds to the place x +
            disp(x) of the fixed grid, wherever that lies in the moving image.
        fixed, moving: the two images as they were read.
        seconds: wall time of each stage, in order.
        options: the method's options as they were used.
    """

    displacement: Tensor
    fixed: Volume
    moving: Volume
    seconds: dict[str, float]
    options: dict[str, Any]

    @property
    def matrix(self) -> np.ndarray:
        """(3, 4): fixed voxel -> moving voxel, before any deformation."""
        return voxel_to_voxel(self.fixed.affine, self.moving.affine)

    def warp(self, moving: Tensor, *, mode: str = "linear", displaced: bool = True) -> Tensor:
        """Resample moving, or its labels, to the fixed grid, interpolating once; zero outside.

        Args:
            moving: (D, H, W) on the grid of the moving image; any floating dtype, or integers with ``"nearest"``.
            mode: ``"linear"`` or ``"nearest"``.
            displaced: with the displacement field, or through the affines alone, as before the registration.

        Returns:
            (D, H, W) on the grid of the fixed image, in moving's dtype.
        """
        u, image = self.displacement, moving[None, None].to(self.displacement.device)
        m = torch.from_numpy(self.matrix).to(u)
        if not displaced:
            return affine_warp(image, m[None], u.shape[2:], mode=mode, padding="zeros")[0, 0]
        grid = torch.meshgrid(*[torch.arange(s, dtype=torch.float32) for s in u.shape[2:]], indexing="ij")
        # From where fixed voxel x is sampled in moving, less x: separate products and sums round the same for
        # any number of threads.
        total = torch.empty_like(u)
        for k in range(3):
            component = total[0, k]
            component.copy_(-grid[k]).add_(float(m[k, 3]))
            for j in range(3):
                component.add_((grid[j] + u[0, j]).mul_(float(m[k, j])))
        return warp(image, total, mode=mode, padding="zeros")[0, 0]


@dataclass(frozen=True)
class Method:
    """A way to register, its options chosen.

    Attributes:
        options: as they are used.
        prepared: an image of a name with the intensities that the method takes.
        run: the displacement field from a fixed to a moving image, on their device.
    """

    options: dict[str, Any]
    prepared: Callable[[str, Tensor], Tensor]
    run: Callable[[Tensor, Tensor, Stages], Tensor]


def _discrete(preset: str, **options: Any) -> Method:
    chosen = choose(preset, **options)
    return Method(
        {"preset": preset, **asdict(chosen)},
        standardised,
        lambda fixed, moving, stages: register_discrete(fixed, moving, chosen, stages),
    )


def _unsupervised(preset: str, **options: Any) -> Method:
    if preset != "default":
        raise InputError(f"preset: the method unsupervised has none, got {preset!r}")
    known = [field.name for field in fields(UnsupervisedOptions)]
    for name in options:
        if name not in known:
            raise InputError(f"{name}: no option of the method unsupervised; expected one of {', '.join(known)}")
    if "weights" not in options:
        raise InputError("weights: expected a file of weights for the method unsupervised")
    chosen = UnsupervisedOptions(**options)
    network = chosen.network()
    return Method(
        {"weights": str(chosen.weights), "finetune": chosen.finetune},
        from_zero_to_one,
        lambda fixed, moving, stages: register_unsupervised(fixed, moving, network.to(fixed.device), chosen, stages),
    )


METHODS = {"discrete": _discrete, "unsupervised": _unsupervised}


def register(
    fixed: Any,
    moving: Any,
    *,
    method: str = "discrete",
    preset: str = "default",
    device: str | torch.device = "cpu",
    threads: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Registration:
    """Register a moving image to a fixed one.

    Args:
        fixed, moving: 3-D images, each a path, a nibabel image, an `l2rfast.io.Volume`, or a tensor or array of
            shape (D, H, W) or (1, 1, D, H, W), whose voxels are then taken as 1 mm. Grids may differ: moving is
            resampled to the fixed grid through both affines.
        method: ``"discrete"``, which needs no training (`methods.discrete`), or ``"unsupervised"``, a trained network
            (`methods.unsupervised`).
        preset: of the discrete method: ``"fast"``, ``"default"`` or ``"accurate"``.
        device: where to compute.
        threads: number of CPU threads, PyTorch's own number when None. The discrete method gives the same bits for any.
        progress: called with the name of the stage and the fraction of it that is done.
        options: changes to the preset, see `methods.discrete.options.DiscreteOptions`; or, of the method unsupervised,
            ``weights`` and ``finetune``, see `methods.unsupervised.register.UnsupervisedOptions`.

    Raises:
        InputError: an image that cannot be used, images that do not overlap, an unknown method, preset or option.
    """
    if method not in METHODS:
        raise InputError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    chosen = METHODS[method](preset, **options)
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device: cannot use {str(device)!r} here: {str(error).splitlines()[0]}") from error
    stages = Stages(progress)
    with _threads(threads), torch.no_grad():
        with stages.stage("resampling"):
            f, m = as_volume("fixed", fixed), as_volume("moving", moving)
            matrix = torch.from_numpy(voxel_to_voxel(f.affine, m.affine)).to(place, torch.float32)
            images = [f.data[None, None].to(place), m.data[None, None].to(place)]
            aligned = affine_warp(images[1], matrix[None], images[0].shape[2:], padding="border")
            pair = chosen.prepared("fixed", images[0]), chosen.prepared("moving", aligned)
            del images, aligned
        displacement = chosen.run(*pair, stages)
    return Registration(displacement.cpu(), f, m, stages.seconds, {"method": method, **chosen.options})


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    if number is None:
        yield
        return
    if not isinstance(number, int) or number < 1:
        raise InputError(f"threads: expected a positive integer, got {number!r}")
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
