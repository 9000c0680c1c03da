"""``l2rfast apply-points``: points, surfaces and streamlines through transforms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError, notice
from .answer import Answer
from .shared_options import Quiet
from .transforms import INVERSE, parse_transforms

NEAR = 0.01  # mm by which the way back may miss a point
IMAGES = ("fixed", "moving")
Transforms = Annotated[
    list[str] | None,
    typer.Option(
        "--transform",
        help="[inverse:][FORMAT:]FILE; may be given again, in the order in which a point of fixed goes through them.",
    ),
]


def apply_points(
    points: Annotated[
        Path,
        typer.Argument(help="Points: .csv, .fcsv, .mrk.json; surface: .gii, .vtk, .vtp; streamlines: .trk, .tck."),
    ],
    out: Annotated[Path, typer.Option(help="File to write, of the same format; it may be POINTS.")],
    transform: Transforms = None,
    origin: Annotated[
        str, typer.Option("--from", help="Image on which the points lie: fixed, or moving, through the inverse.")
    ] = "fixed",
    coordinates: Annotated[
        str | None, typer.Option(help="What the numbers are, in files that do not say so: voxels, ras, lps (mm).")
    ] = None,
    fixed: Annotated[Path | None, typer.Option(help="Fixed image, for voxels and for some transforms.")] = None,
    moving: Annotated[Path | None, typer.Option(help="Moving image, likewise.")] = None,
    quiet: Quiet = False,
) -> Answer:
    """Move points, a surface or streamlines from one image to the other, through transforms.

    A transform takes places of the fixed image to the moving one: images are resampled from moving to fixed by it, and
    points go the other way. Those of the moving image go through the inverse."""
    from ..io import read_pointset
    from ..world import followed

    if origin not in IMAGES:
        raise InputError(f"--from: expected fixed or moving, got {origin!r}")
    if not transform:
        raise InputError("--transform: expected one or more, got none")
    grids = (fixed, moving) if origin == "fixed" else (moving, fixed)
    found = read_pointset(points, coordinates=coordinates, grid=grids[0], name="POINTS")
    through = parse_transforms(transform, fixed, moving)
    moved, inside, off = followed(through if origin == "fixed" else through.inverse, found.points)
    beyond, homeless = int((~inside).sum()), int((off > NEAR).sum())
    if beyond:
        notice(
            f"{points}: {beyond} of {len(inside)} points lie outside of the grid of a field, which goes "
            "on as at its border"
        )
    if homeless:
        notice(
            f"{points}: {homeless} of {len(off)} points have no place in the other image, as a field "
            f"folds there: the nearest is taken, whose own place is up to {float(off.max()):.3g} mm off"
        )
    found.replaced(moved, grids[1]).write(out)
    content = {"out": out, "points": len(moved), "from": origin, "beyond_field": beyond, "without_place": homeless}
    return Answer(content, None if quiet else _said(len(moved), origin, transform))


def _said(count: int, origin: str, transforms: list[str]) -> str:
    """What was done, in one line."""
    other = IMAGES[origin == "fixed"]
    ways = transforms if origin == "fixed" else [_turned(each) for each in reversed(transforms)]
    parts = [f"the inverse of {way.removeprefix(INVERSE)}" if way.startswith(INVERSE) else way for way in ways]
    return f"{count} points of the {origin} image -> {other} image, through {', then '.join(parts)}"


def _turned(value: str) -> str:
    return value.removeprefix(INVERSE) if value.startswith(INVERSE) else INVERSE + value
