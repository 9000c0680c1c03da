"""What every method of registration is to those who apply it, and the images on the grid that it works on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from l2rfast import compose
from l2rfast.errors import InputError, notice
from l2rfast.io import Volume, voxel_to_voxel
from l2rfast.world import at_points
from l2rfast.world.inverse import inverted

from .folds import unfolded
from .intensities import without_strays
from .kept import Made
from .landmarks import FEWEST, Landmarks
from .result import Registration, through
from .stages import Stages

DEFORMABLE = "deformable"


class Pair(NamedTuple):
    """Two images as a method takes them.

    Attributes:
        fixed, moving: (1, C, *spatial) float32, of C contrasts, moving on the grid of fixed where the method is
            ``aligned``: where it does not reach, its border repeats.
        spacing: of fixed's voxels along each axis, in mm.
        fixed_mask: (1, 1, *spatial) float32, 1 at the voxels of fixed that count and 0 at others; None where all do.
        moving_mask: likewise of moving, which does not reach everywhere. Where images do not count they are as
            `methods.masks.filled` has them.
        landmarks: that guide the field, both in voxels of the fixed grid; None where there are none.
        near: whether a rigid or affine start was found in the images.
        made: of ``fixed`` before; None where nothing is kept.
    """

    fixed: Tensor
    moving: Tensor
    spacing: tuple[float, ...]
    fixed_mask: Tensor | None = None
    moving_mask: Tensor | None = None
    landmarks: Landmarks | None = None
    near: bool = False
    made: Made | None = None


class Found(NamedTuple):
    """What a method gives: a displacement field (1, ndim, *fixed), and where it has them the inverse, of the same
    shape, and the entropy (1, 1, *fixed); and those of its options that the images decided, with why."""

    displacement: Tensor
    inverse: Tensor | None = None
    entropy: Tensor | None = None
    options: Mapping[str, Any] = MappingProxyType({})


def only_one(contrasts: int) -> None:
    """Of the methods that take images of one contrast.

    Raises:
        InputError: there are more.
    """
    if contrasts > 1:
        raise InputError(f"fixed, moving: expected one contrast but for the method discrete, got {contrasts}")


@dataclass(frozen=True)
class Method:
    """A way to register, its options chosen.

    Attributes:
        options: as they are used.
        prepared: an image of a name with the intensities that the method takes; the third argument is its mask in the
            shape of the image, None where none was given.
        run: the displacement field from a fixed to a moving image, on their device: both on the fixed grid, and the
            field in its voxels; or, where not ``aligned``, each on its own, and from a fixed index to the moving one.
            What moving does not cover says nothing about the field.
        aligned: whether the affines are trusted to bring the images near each other.
        transform: ``"deformable"``, or the kind of start, ``"rigid"`` or ``"affine"``, to which it adds nothing.
        optimises: whether it fits the very pair, so that it can do without what masks leave out, and be guided.
        check_contrasts: raises an `InputError` where it does not take images of so many contrasts.
    """

    options: dict[str, Any]
    prepared: Callable[[str, Tensor, Tensor | None], Tensor]
    run: Callable[[Pair, Stages], Found]
    aligned: bool = True
    transform: str = DEFORMABLE
    optimises: bool = True
    check_contrasts: Callable[[int], object] = only_one


def on_grid_of(
    fixed: Volume,
    moving: Volume,
    data: Tensor,
    *,
    start: Tensor | None = None,
    mode: str = "linear",
    padding: str = "border",
) -> Tensor:
    """What lies on moving's grid at the voxels of the fixed image, through both affines.

    Args:
        fixed, moving: the images whose grids they are.
        data: (N, C, *moving).
        start: (1, ndim, *fixed), in voxels of fixed: a displacement before the affines.
        mode, padding: as in `l2rfast.affine_warp`.

    Returns:
        (N, C, *fixed) in the dtype of data, and on its device.
    """
    matrix = voxel_to_voxel(fixed.affine, moving.affine, fixed.data.ndim)
    return through(data, matrix, fixed.data.shape, start, mode, padding)


def image_on_grid_of(fixed: Volume, moving: Volume, device: torch.device, start: Tensor | None = None) -> Tensor:
    """Moving's images at the voxels of the fixed one, their border repeated: (1, C, *fixed). See `on_grid_of`.

    Where it has to be interpolated it is `without_strays`, as those would spread.
    """
    data = _channels(moving).to(device)
    if start is None and _one_grid(fixed, moving):
        return data
    counted = None if moving.mask is None else moving.mask[None, None].to(device)
    tidy = torch.cat([without_strays(image, counted) for image in torch.split(data, 1, 1)], 1)
    return on_grid_of(fixed, moving, tidy, start=start)


def _one_grid(fixed: Volume, moving: Volume) -> bool:
    """Whether voxels of one are those of the other."""
    matrix = voxel_to_voxel(fixed.affine, moving.affine, fixed.data.ndim)
    return fixed.data.shape == moving.data.shape and np.allclose(matrix, np.eye(*matrix.shape), rtol=0, atol=1e-6)


def _channels(volume: Volume) -> Tensor:
    """(1, C, *spatial), of all contrasts."""
    return torch.stack([volume.data, *volume.contrasts])[None] if volume.contrasts else volume.data[None, None]


def apply(
    method: Method,
    fixed: Volume,
    moving: Volume,
    device: torch.device,
    stages: Stages,
    start: Tensor | None = None,
    landmarks: Landmarks | None = None,
    *,
    near: bool = False,
    without_folds: bool = True,
    made: Made | None = None,
) -> Registration:
    """Register a moving image to a fixed one.

    Args:
        method: its options chosen.
        fixed, moving: as the method takes them, `filled` where they have masks.
        device: where to compute.
        stages: times it.
        start: (1, ndim, *fixed), in voxels of fixed, for a method that is ``aligned``: the displacement to go on from,
            which the one that is found includes.
        landmarks: each in voxels of its image; they are not used where the method does not optimise, which is said.
        near: see `Pair`.
        without_folds: whether a field that comes without its inverse, as a network's, is smoothed where it folds;
            else it is as the method gives it.
        made: of ``fixed`` before.

    Raises:
        InputError: images that the method cannot take, or that do not overlap where that counts.
    """
    if not method.optimises and (fixed.mask is not None or moving.mask is not None):
        name = method.options["method"]
        raise InputError(
            f"fixed_mask, moving_mask: the method {name} sees whole images, so that masks or NaN outside are of use in "
            f"the fine-tuning of unsupervised alone"
        )
    made, start = made or Made(), None if start is None else start.to(device)
    with torch.no_grad():
        with stages.stage("resampling"):
            pair = paired(method, fixed, moving, device, start, landmarks, near=near, made=made)
            guides = pair.landmarks
        found = method.run(pair, stages)
    displacement, inverse = found.displacement.cpu(), None if found.inverse is None else found.inverse.cpu()
    if start is not None:  # with which it may fold, and the inverse is another
        displacement, inverse = compose(start.cpu(), displacement), None
    if inverse is None:
        with stages.stage("inverse"):
            tidy = unfolded if without_folds else _as_it_is
            displacement = tidy(displacement)
            if not method.aligned:
                displacement, mirrored = _on_fixed_grid(displacement, fixed, moving)
                tidy = _as_it_is if mirrored else tidy
            inverse = tidy(inverted(displacement))
    entropy = None if found.entropy is None else found.entropy.cpu()
    options = {"transform": method.transform, **method.options, **found.options}
    used = guides if method.transform == DEFORMABLE else landmarks  # of a map that was searched
    if used is not None and (guides is not None or len(used.fixed) >= FEWEST):
        options |= {"landmarks": len(used.fixed), "landmark_weight": used.weight}
    return Registration(displacement, inverse, fixed, moving, stages.seconds, options, entropy)


def paired(
    method: Method,
    fixed: Volume,
    moving: Volume,
    device: torch.device,
    start: Tensor | None = None,
    landmarks: Landmarks | None = None,
    *,
    near: bool = False,
    made: Made | None = None,
) -> Pair:
    """Two images as a method takes them; for the arguments and errors see `apply`, the start being on the device."""
    made = made or Made()
    if method.aligned:
        covered, image = _covered(fixed, moving, device, start), image_on_grid_of(fixed, moving, device, start)
    else:
        covered, image = None, _channels(moving).to(device)
    inside = None if fixed.mask is None else fixed.mask[None, None].to(device)
    of_fixed = made.once(
        "prepared",
        (method.prepared, device),
        lambda: _prepared(method, "fixed", _channels(fixed).to(device), inside),
    )
    of_moving = _prepared(method, "moving", image, None if moving.mask is None else covered)
    masks = [None if mask is None else mask.float() for mask in (inside, covered)]
    guides = _guides(method, landmarks, fixed, moving, start)
    return Pair(of_fixed, of_moving, fixed.spacing, masks[0], masks[1], guides, near, made)


def _prepared(method: Method, name: str, images: Tensor, mask: Tensor | None) -> Tensor:
    """Each contrast on its own."""
    return torch.cat([method.prepared(name, image, mask) for image in torch.split(images, 1, 1)], 1)


def _guides(
    method: Method, landmarks: Landmarks | None, fixed: Volume, moving: Volume, start: Tensor | None
) -> Landmarks | None:
    """Landmarks for a method: those of moving where they lie in the image that it is given."""
    if landmarks is None or method.transform != DEFORMABLE:
        return None
    if not method.optimises:
        notice(f"landmarks: the method {method.options['method']} is not guided by them; they are measured only")
        return None
    matrix = torch.from_numpy(voxel_to_voxel(moving.affine, fixed.affine, fixed.data.ndim)).double()
    places = landmarks.moving @ matrix[:, :-1].T + matrix[:, -1]
    if start is not None:  # of which moving's image is warped already
        places = places + at_points(inverted(start).cpu().double(), places)
    return landmarks._replace(moving=places)


def _covered(fixed: Volume, moving: Volume, device: torch.device, start: Tensor | None) -> Tensor | None:
    """Where moving counts and reaches, (1, 1, *fixed) bool; None where it is everywhere."""
    if moving.mask is None and fixed.mask is None and start is None and _one_grid(fixed, moving):
        return None
    counted = torch.ones(moving.data.shape, dtype=torch.bool) if moving.mask is None else moving.mask
    covered = on_grid_of(fixed, moving, counted[None, None].to(device), start=start, mode="nearest", padding="zeros")
    both = covered if fixed.mask is None else covered & fixed.mask[None, None].to(device)
    if not both.any():
        if fixed.mask is None and moving.mask is None:
            raise InputError("moving: expected an image that overlaps the fixed one, but it lies elsewhere")
        raise InputError("fixed_mask, moving_mask: expected what they leave of the two images to overlap")
    return None if covered.all() else covered


def _as_it_is(field: Tensor) -> Tensor:
    return field


def _on_fixed_grid(field: Tensor, fixed: Volume, moving: Volume) -> tuple[Tensor, bool]:
    """From where fixed voxels go in moving, less their own index, to the displacement in voxels of the fixed grid.

    And whether the affines mirror one grid in the other: no map of indices that does not fold is without folds then.
    """
    ndim = field.shape[1]
    matrix = torch.from_numpy(voxel_to_voxel(fixed.affine, moving.affine, ndim)).to(field)
    back = torch.linalg.inv(matrix[:, :ndim])
    axes = torch.meshgrid(*(torch.arange(s).to(field) for s in field.shape[2:]), indexing="ij")
    places = torch.stack(axes).flatten(1)
    reached: Tensor = back @ (places + field[0].flatten(1) - matrix[:, ndim:])
    return (reached - places).view(field.shape), bool(back.det() < 0)
