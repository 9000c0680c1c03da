"""``l2rfast apply``: an image, or a series of them, through transforms, interpolated once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError, notice
from .register import Quiet
from .transforms import parse_transforms

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
    out: Annotated[Path, typer.Option(help="NIfTI to write, in the dtype of the image.")],
    transform: Transforms = None,
    interpolation: Annotated[
        str, typer.Option(help="linear, nearest, cubic (B-spline) or sinc; of label maps vote, or nearest.")
    ] = "linear",
    outside: Annotated[float, typer.Option(help="Value where the image does not reach.")] = 0.0,
    quiet: Quiet = False,
) -> None:
    """Resample an image to the grid of another, through transforms, interpolating once."""
    import numpy as np
    import torch

    from ..io import read_grid
    from ..io.series import Series, open_series, write_series
    from ..output import written_whole
    from ..resampling import LABELS, Resampler, rounded
    from ..world import within

    series, fixed = open_series("image", image), read_grid("--reference", reference)
    whole = interpolation in LABELS
    stored = series.number
    if interpolation == "vote" and stored.kind not in "iub":
        raise InputError(f"--interpolation: expected another than vote for an image of {stored}, which has no labels")
    if stored.kind in "iu" and not _holds(stored, float(series.unscaled(np.array(outside)))):
        raise InputError(f"--outside: expected a number that the image's {stored} holds, got {outside:g}")
    real = _real(stored, whole)
    through = parse_transforms(transform or [], reference, image)
    places = torch.float64 if real == torch.float64 else torch.float32
    resampler = Resampler(through, fixed, series.grid, interpolation=interpolation, outside=outside, dtype=places)
    if not resampler.covered:
        notice("image: nothing of it reaches the reference: is the direction of the transforms right, and its header?")
    reached = float(within(through, fixed).double().mean())
    if reached < 1:
        notice(f"--transform: fields cover {100 * reached:.0f} % of the reference, and go on beyond as at their border")

    def resampled(series: Series) -> Iterator[np.ndarray]:
        for volume in series.volumes():
            values = torch.from_numpy(volume.astype(_numpy(real), copy=False))[None]
            found = resampler(values)[0]
            yield series.joined(rounded(series.unscaled(found.numpy()), stored))

    with written_whole(out) as part, torch.no_grad():
        write_series(part, series, fixed, resampled(series))
    if not quiet:
        typer.echo(out)


def _holds(stored: Any, value: float) -> bool:
    import numpy as np

    return float(value).is_integer() and np.iinfo(stored).min <= value <= np.iinfo(stored).max


def _real(stored: Any, whole: bool) -> Any:
    """The dtype in which numbers are interpolated: float64 where float32 does not hold all of them."""
    import torch

    if whole and stored.kind in "iub":
        return {1: torch.int16, 2: torch.int32}.get(stored.itemsize, torch.int64)
    small = stored.itemsize <= (4 if stored.kind == "f" else 2)
    return torch.float32 if small else torch.float64


def _numpy(dtype: Any) -> Any:
    import torch

    return torch.zeros((), dtype=dtype).numpy().dtype
