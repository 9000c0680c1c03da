"""``l2rfast apply``: an image, or a series of them, through transforms, interpolated once."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError, notice
from .answer import Answer
from .shared_options import Memory, Quiet, tell_unused
from .transforms import parse_transforms

_NOTHING = "image: nothing of it reaches the reference: is the direction of the transforms right, and its header?"
_LABEL = 1002  # NIfTI's intent
_DIRECTED = {1005: "tensors", 1006: "displacements", 1007: "vectors"}  # NIfTI's intents

Transforms = Annotated[
    list[str] | None,
    typer.Option(
        "--transform",
        help="[inverse:][FORMAT:]FILE; may be given again, in the order in which a point of the reference goes through"
        " them.",
    ),
]


def apply(
    image: Annotated[Path, typer.Argument(help="Image, label map or series, of any kind of numbers.")],
    reference: Annotated[Path, typer.Option(help="Image whose grid the result gets.")],
    out: Annotated[Path, typer.Option(help="NIfTI to write, in the dtype of the image; or .zarr, of one that is.")],
    transform: Transforms = None,
    interpolation: Annotated[
        str, typer.Option(help="linear, nearest, cubic (B-spline) or sinc; of label maps vote, or nearest.")
    ] = "linear",
    vectors: Annotated[
        str | None, typer.Option(help="The image's three volumes are vectors along these axes: ras, lps, voxels, fsl.")
    ] = None,
    tensors: Annotated[
        str | None, typer.Option(help="Its six volumes are symmetric tensors as in a file of itk, fsl or mrtrix.")
    ] = None,
    outside: Annotated[
        float | None, typer.Option(help="Value where the image does not reach: 0, or the nearest that the file holds.")
    ] = None,
    memory: Memory = None,
    quiet: Quiet = False,
) -> Answer:
    """Resample an image to the grid of another, through transforms, interpolating once."""
    import torch
    from torch import Tensor

    from ..io import read_grid, zarr
    from ..io.nifti import check_suffix
    from ..io.reading import check_memory
    from ..io.series import open_series, write_series
    from ..output import written_whole
    from ..reorientation import reorient
    from ..resampling import LABELS, Resampler, rounded
    from ..world import within

    blocks = zarr.is_zarr(out)
    if not blocks:
        check_suffix(out)
        tell_unused(out, memory)
    series, fixed = open_series("image", image), read_grid("--reference", reference)
    convention = _convention(series, vectors, tensors)
    stored = series.number
    labels = interpolation in LABELS and stored.kind in "iub" and not convention  # which go as they are stored
    if (told := _told(series)) and interpolation not in LABELS:
        notice(
            f"image: {told}, in which {interpolation} makes labels that were not there; --interpolation nearest or vote"
            f" keep them"
        )
    real = _real(stored, interpolation, labels)
    beyond = _beyond(series, outside, real, labels)
    through = parse_transforms(transform or [], reference, image)
    places = torch.float64 if real == torch.float64 else torch.float32
    if blocks:
        if convention or not zarr.is_zarr(image):
            raise InputError(f"image: expected one in .zarr, of no vectors, for {out}")
        _in_blocks(
            image,
            through,
            reference,
            out,
            memory,
            taken=lambda voxels: _tensor(voxels, real),
            stored=lambda numbers: numbers.astype(stored) if labels else rounded(numbers, stored),
            interpolation=interpolation,
            outside=beyond,
            dtype=places,
        )
        return Answer({"out": out}, None if quiet else str(out))
    check_memory(f"--reference ({reference})", real.itemsize * math.prod(fixed.size))
    resampler = Resampler(through, fixed, series.grid, interpolation=interpolation, outside=beyond, dtype=places)
    if not resampler.reaches:
        notice(_NOTHING)
    reached = float(within(through, fixed).double().mean())
    if reached < 1:
        notice(f"--transform: fields cover {100 * reached:.0f} % of the reference, and go on beyond as at their border")

    with written_whole(out) as part, torch.no_grad():
        volumes: Iterable[Tensor] = resampler.series(
            _tensor(volume, real) for volume in series.volumes(scaled=not labels)
        )
        if convention:
            volumes = reorient(torch.cat(list(volumes)), through, fixed, series.grid, convention)[:, None]
        numbers = (volume.numpy() for volume in volumes)
        stores = (each.astype(stored) if labels else rounded(series.unscaled(each), stored) for each in numbers)
        write_series(part, series, fixed, map(series.joined, stores))
    return Answer({"out": out, "reached": reached}, None if quiet else str(out))


def _in_blocks(image: Path, through: Any, reference: Path, out: Path, memory: str | None, **how: Any) -> None:
    """See `methods.blocks.resample.resample`. The result has the units of the reference, if that is in Zarr."""
    from ..io import read_grid, zarr
    from ..methods.blocks.resample import resample
    from ..methods.cohort.memory import room

    source, grid = zarr.open_levels(f"image ({image})", image)[0], read_grid("--reference", reference)
    zarr.whether_whole(source)
    like = zarr.open_levels(f"--reference ({reference})", reference)[0] if zarr.is_zarr(reference) else source
    with zarr.written(out, [grid], source.dtype, like.units) as (array,):
        if not resample(source, through, grid, array, memory=room(memory), **how):
            notice(_NOTHING)


def _told(series: Any) -> str:
    """By what a file says that it is a label map; empty where it does not."""
    if series.intent == _LABEL and series.number.kind in "iu":
        return f"by its intent, {_LABEL}, it is a label map"
    return "its pixels are numbers in a palette" if getattr(series.image, "indexed", False) else ""


def _convention(series: Any, vectors: str | None, tensors: str | None) -> str:
    """Of vectors or tensors; empty where each volume is on its own."""
    from ..reorientation import TENSORS, VECTORS

    if vectors is None and tensors is None:
        if series.intent in _DIRECTED and series.rest[-1:] in ((3,), (6,)):
            notice(
                f"image: by its intent, {series.intent}, its volumes are {_DIRECTED[series.intent]}: each is resampled"
                f" on its own, and nothing is turned; --vectors and --tensors turn them"
            )
        return ""
    if vectors is not None and tensors is not None:
        raise InputError("--vectors, --tensors: expected one of the two")
    choices = (("--vectors", 3, VECTORS, vectors), ("--tensors", 6, TENSORS, tensors))
    name, count, known, value = next(choice for choice in choices if choice[-1] is not None)
    if len(series) != count or series.dtype.kind not in "biuf":
        raise InputError(f"{name}: expected an image of {count} volumes of real numbers, got {series.rest}")
    if value not in known:
        raise InputError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
    return str(value)


def _beyond(series: Any, asked: float | None, real: Any, labels: bool) -> float:
    """What is outside, as it is interpolated, 0 unless told. Of scaled integers the one nearest to it is meant; where 0
    is out of their range unless told, the end of that, which is said.

    Raises:
        InputError: the image, or what it is interpolated in, has no such number.
    """
    import numpy as np
    import torch

    outside = 0.0 if asked is None else asked
    stored, value, held = series.number, outside, str(series.number)
    if stored.kind in "iu":
        ends = np.iinfo(stored)
        if series.scale is not None:
            value = float(np.rint(series.unscaled(outside)))
            low, high = sorted(end * series.scale.slope + series.scale.inter for end in (ends.min, ends.max))
            held = f"{stored}, scaled, from {low:g} to {high:g},"
            if asked is None and not ends.min <= value <= ends.max:
                value = min(max(value, ends.min), ends.max)
                outside = float(value * series.scale.slope + series.scale.inter)
                notice(f"image: it is {outside:g} where it ends, as its {held} holds no 0; --outside says another")
        fits = float(value).is_integer() and ends.min <= value <= ends.max
    elif real.is_floating_point:
        fits = not np.isfinite(value) or abs(value) <= torch.finfo(real).max
    else:
        fits = _whole(value)
    if not fits:
        raise InputError(f"--outside: expected a number that the image's {held} holds, got {outside:g}")
    return int(np.array(int(value), stored).astype(_numpy(real))) if labels else outside


def _whole(values: Any) -> Any:
    """Which floats int64 holds."""
    import numpy as np

    return (values == np.rint(values)) & (np.abs(values) < 2.0**63)


def _numpy(dtype: Any) -> Any:
    import torch

    return torch.zeros((), dtype=dtype).numpy().dtype


def _real(stored: Any, interpolation: str, labels: bool) -> Any:
    """The dtype in which numbers are interpolated: float64 where float32 does not hold all of them."""
    import torch

    if labels:
        return {1: torch.int16, 2: torch.int32}.get(stored.itemsize, torch.int64)
    if interpolation == "vote":
        return torch.int64
    small = stored.itemsize <= (4 if stored.kind == "f" else 2)
    return torch.float32 if small else torch.float64


def _tensor(volume: Any, real: Any) -> Any:
    """In the dtype in which it is interpolated.

    Raises:
        InputError: numbers that are no labels are to vote.
    """
    import torch

    dtype = _numpy(real)
    if dtype.kind == "i" and volume.dtype.kind == "f" and not _whole(volume).all():
        raise InputError("--interpolation: expected another than vote for an image of numbers that are not whole")
    return torch.from_numpy(volume.astype(dtype, copy=False))
