"""Registration of two images in world space: the Python entry point behind ``l2rfast.register``."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from l2rfast import _check, _threads
from l2rfast.errors import InputError, notice
from l2rfast.io import Volume, read_transform
from l2rfast.world import Affine, Grid, Transform, within

from .discrete.method import discrete
from .discrete.register import pddnet
from .initial import AUTO, GIVEN, NONE, SEARCHED, initialise
from .initial import checked as checked_metric
from .kept import Made, made_of
from .landmarks import Landmarks, checked
from .linear import TRANSFORMS, linear
from .masks import filled
from .method import DEFORMABLE, Method, apply
from .result import Registration
from .several import joined
from .stages import Progress, Stages
from .unsupervised.register import learned, unsupervised
from .weakly_supervised.register import weakly_supervised

METHODS: dict[str, Callable[..., Method]] = {
    "discrete": discrete,
    "learned": learned,
    "pddnet": pddnet,
    "unsupervised": unsupervised,
    "weakly-supervised": weakly_supervised,
}


def register(
    fixed: Any,
    moving: Any,
    *,
    method: str = "discrete",
    preset: str = "default",
    transform: str = DEFORMABLE,
    initial: str | os.PathLike[str] | None = None,
    init: str = AUTO,
    init_metric: str | None = None,
    fixed_mask: Any = None,
    moving_mask: Any = None,
    nan_outside: bool = False,
    landmarks: Any = None,
    landmark_weight: float = 1.0,
    device: str | torch.device = "cpu",
    threads: int | None = None,
    time_budget: float | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Registration:
    """Register a moving image to a fixed one.

    Args:
        fixed, moving: 3-D images, or 2-D ones, each a path, a nibabel image, an `l2rfast.io.Volume`, or a tensor or
            array of shape ([1, 1,] [D,] H, W), whose voxels are then taken as 1 mm. Grids may differ: moving is
            resampled to the fixed grid through both affines. An image of one slice counts as 2-D. Of a fixed `Volume`
            that comes again, what was made of it alone is kept (`methods.kept`). Or of several
            contrasts of the same, a list each, as many in the same order, for the method discrete: one field is found
            by all of them, the start by the first, which is what is warped and reported.
        method: ``"discrete"``, which needs no training (`methods.discrete`), or a trained network: ``"learned"``, which
            comes with the package (`methods.unsupervised.register.learned`), ``"unsupervised"``
            (`methods.unsupervised`), ``"pddnet"`` (`methods.discrete.pddnet`), or ``"weakly-supervised"``
            (`methods.weakly_supervised`), which takes images of different kinds, and no notice of the affines.
        preset: of the discrete method: ``"fast"``, ``"default"`` or ``"accurate"``.
        transform: ``"rigid"``, ``"affine"`` or ``"deformable"``. Of the first two the result is a map of the world
            (``initial``) beside a displacement of zero, and they have no method, preset or options.
        init: where to start, see `methods.initial.initialise`: ``"none"``, ``"moments"``, ``"rigid"``, ``"affine"``,
            ``"learned"``, or ``"auto"``: none where the headers of the two agree, else affine. Where the transform is
            rigid or affine, that is found in any case.
        initial: a transform to go on from, fixed -> moving, see `l2rfast.io.read_transform`. A map of the world is
            followed by what ``init`` finds, which by ``"auto"`` is nothing then; a displacement field by nothing but
            the deformation, and is part of the displacement.
        init_metric: what a rigid or affine start is found by: ``"mi"`` (when None), ``"lncc"`` or ``"mind"``. Where it
            is given and nothing is searched, that is said.
        fixed_mask, moving_mask: where the images count, from the start on: what `l2rfast.io.read_mask` takes, on the
            grid of each, 0 elsewhere. The field there is what is around it makes of it, smoothly. Networks see
            whole images: of them only the fine-tuning of unsupervised has masks.
        nan_outside: voxels that are NaN are not there, as outside of a mask; else they are refused.
        landmarks: points of fixed and of moving that belong together, a tensor (M, ndim) each, in voxels of its image:
            four and more are one of the rigid maps from which a start is searched, and the deformation is guided by
            all (`methods.landmarks`), of networks in the fine-tuning of unsupervised.
        landmark_weight: how much they count: by 1 they take the place of the images near the points; by 0 in nothing.
        device: where to compute.
        threads: number of CPU threads. When None PyTorch's, where a user set that, else the cores, or fewer where a CPU
            quota or affinity allows fewer. The discrete method gives the same bits for any.
        time_budget: seconds in which it is to end, reading included: steps of the refinement for which there is no time
            are left out, which a warning says. What comes of it depends on how fast the machine is just then.
        progress: called with the name of the stage and the fraction of it that is done.
        options: changes to the preset, see `methods.discrete.options.DiscreteOptions`; or, of the method unsupervised,
            ``weights`` and ``finetune``, see `methods.unsupervised.register.UnsupervisedOptions`, of learned
            ``finetune``, or of the methods pddnet and weakly-supervised, ``weights``.

    Raises:
        InputError: an image that cannot be used, images that do not overlap, an unknown method, preset or option.
    """
    with _defaults(), _threads.threads(threads), _budgeted(time_budget, progress) as stages:
        chosen, place = choose(method, preset, transform, **options), usable(device)
        volumes = (
            joined("fixed", fixed, "fixed_mask", fixed_mask, nan_outside=nan_outside),
            joined("moving", moving, "moving_mask", moving_mask, nan_outside=nan_outside),
        )
        guides = checked(landmarks, landmark_weight, [volume.data.shape for volume in volumes])
        start = None
        if initial is not None:
            start = read_transform(initial, fixed=volumes[0], moving=volumes[1], name="initial")
        made = made_of(fixed, volumes[0])
        found = registered(chosen, *volumes, init, init_metric, place, stages, start, guides, made)
        return found if initial is None else replace(found, options={**found.options, "initial": os.fspath(initial)})


def registered(
    method: Method,
    fixed: Volume,
    moving: Volume,
    init: str,
    metric: str | None,
    device: torch.device,
    stages: Stages,
    start: Transform | None = None,
    landmarks: Landmarks | None = None,
    made: Made | None = None,
) -> Registration:
    """Start as `methods.initial.initialise` has it, and go on from there by a method.

    Args:
        method: its options chosen, see `choose`.
        fixed, moving: 2-D or 3-D, as the method takes them. Outside of their masks nothing of them is seen.
        init, metric: where to start, and what a rigid or affine start is found by.
        device: see `usable`.
        stages: times it.
        start: before that, see ``initial`` of `register`.
        landmarks: that guide it, each in voxels of its image.
        made: of ``fixed`` before, see `methods.kept`.

    Raises:
        InputError: as `register`.
    """
    if fixed.data.ndim != moving.data.ndim:
        raise InputError(f"moving: expected {fixed.data.ndim} axes, as fixed has, got {moving.data.ndim}")
    if not method.aligned:
        if init not in (AUTO, NONE) or start is not None:
            name, got = ("init", init) if start is None else ("initial", "a transform")
            raise InputError(f"{name}: expected none, as this method takes no notice of affines, got {got!r}")
        init = NONE
    if method.transform != DEFORMABLE:
        if init not in (AUTO, method.transform):
            raise InputError(f"init: expected {method.transform}, as the transform is that, got {init!r}")
        init = method.transform
    if len(fixed.contrasts) != len(moving.contrasts):
        numbers = f"{1 + len(fixed.contrasts)} and {1 + len(moving.contrasts)}"
        raise InputError(f"fixed, moving: expected as many contrasts of one as of the other, got {numbers}")
    method.check_contrasts(1 + len(fixed.contrasts))
    checked_metric(metric)
    made, images = made or Made(), (fixed, moving)
    fixed, moving = made.once("filled", None, lambda: filled(images[0])), filled(moving)
    matrix = None if start is None else start.matrix
    if matrix is not None and not Affine(matrix).invertible:
        raise InputError("initial: expected a map that has an inverse, got a singular matrix")
    if start is not None and matrix is None:
        if init not in (AUTO, NONE):
            raise InputError(f"initial: expected a map of the world to go on from by {init}, got a displacement field")
        found = apply(method, fixed, moving, device, stages, _on_grid(start, fixed), landmarks, made=made)
        _unused(metric, "a displacement field is given")
        initial = replace(GIVEN, why="a displacement field, which the displacement includes")
        return replace(found, initial=initial, fixed=images[0], moving=images[1])
    if matrix is None:
        initial = initialise(fixed, moving, init, metric, device, stages, landmarks, made)
    else:
        given = replace(GIVEN, matrix=matrix)
        onward = NONE if init == AUTO else init
        initial = given.then(initialise(fixed, given.moved(moving), onward, metric, device, stages, landmarks, made))
    near = initial.kind in SEARCHED
    if not near:
        _unused(metric, initial.why)
    found = apply(method, fixed, initial.moved(moving), device, stages, landmarks=landmarks, near=near, made=made)
    return replace(found, initial=initial, fixed=images[0], moving=initial.moved(images[1]))


def _unused(metric: str | None, why: str) -> None:
    if metric is not None:
        notice(f"init_metric: not used, as no rigid or affine start was searched ({why})")


def _on_grid(start: Transform, fixed: Volume) -> Tensor:
    """(1, ndim, *fixed), in voxels of fixed. Where a field does not reach it goes on as at its border: ITK has 0
    there, and a jump, where everything folds. Where that is beyond the next of its own voxels, it is said.

    Raises:
        InputError: it has other axes, reaches nowhere, or is not finite.
    """
    ndim, grid = fixed.data.ndim, Grid(tuple(fixed.data.shape), fixed.affine)
    own = start.grid
    axes = ndim if own is None else sum(n > 1 for n in own.size)
    if axes != ndim:
        raise InputError(f"initial: expected a field of {ndim} axes, as the images have, got one of {axes}")
    reached = within(start, grid)
    if not reached.any():
        raise InputError("initial: expected a field that overlaps the fixed image, but it lies elsewhere")
    if not reached.all():
        share = f"{100 * float(reached.double().mean()):.0f} %"
        notice(f"initial: its field covers {share} of the fixed image, and goes on beyond as at its border")
    disp = start.on(grid).disp[:, :ndim].reshape(1, ndim, *fixed.data.shape)
    if lost := int((~disp.isfinite().all(1)).sum()):
        raise InputError(
            f"initial: expected a finite field, but {lost} of {disp[0, 0].numel()} voxels of fixed lead nowhere"
        )
    return disp


def choose(method: str, preset: str, transform: str = DEFORMABLE, **options: Any) -> Method:
    """A method by name, its options chosen.

    Raises:
        InputError: an unknown method, preset, transform or option, one that is missing, or that the transform has not.
    """
    if not isinstance(transform, str) or transform not in TRANSFORMS:
        raise InputError(f"transform: expected one of {', '.join(TRANSFORMS)}, got {transform!r}")
    if transform != DEFORMABLE:
        return linear(transform, method, preset, **options)
    if not isinstance(method, str) or method not in METHODS:
        raise InputError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    return METHODS[method](preset, **options)


def usable(device: str | torch.device) -> torch.device:
    """A device that is here.

    Raises:
        InputError: it is not.
    """
    try:
        place = torch.device(device)
        torch.zeros(1, device=place).item()
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise InputError(f"device: cannot use {str(device)!r} here: {reason}") from error
    return place


@contextmanager
def _defaults() -> Iterator[None]:
    """PyTorch's own, whatever device and dtype its user wants for what is made without them, and no inference mode: in
    it there are no gradients, by which some metrics and the fine-tuning go."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        # The device only where it is another one: every operation passes through its Python then, and an interrupt
        # there makes PyTorch fail at the end ("trying to pop from empty mode stack"), which hides it.
        elsewhere = torch.get_default_device().type != "cpu"
        inference = torch.is_inference_mode_enabled()
        with (
            torch.device("cpu") if elsewhere else nullcontext(),
            torch.inference_mode(False) if inference else nullcontext(),
        ):
            yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _budgeted(seconds: float | None, progress: Progress | None) -> Iterator[Stages]:
    """Stages that end in time, or say that they did not."""
    seconds = _check.plain(seconds)
    if seconds is not None and not (_check.is_number(seconds) and seconds > 0):
        raise InputError(f"time_budget: expected a positive number of seconds, got {seconds!r}")
    stages = Stages(progress, math.inf if seconds is None else seconds)
    yield stages
    if stages.left_out or stages.overdue:
        of, left_out = "of the steps of the refinement were left out", stages.left_out
        left = f"{left_out} {of}" if left_out else "nothing of it could be left out"
        more = f", and it took {stages.overdue:.1f} s more" if stages.overdue else ""
        notice(f"time_budget: {seconds:g} s are short for this: {left}{more}")
