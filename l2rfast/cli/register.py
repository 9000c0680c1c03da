"""``l2rfast register``: two images in, a folder of results out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from .answer import Answer
from .job import run
from .shared_options import (
    OF_METHODS,
    Device,
    Finetune,
    Init,
    InitMetric,
    MethodName,
    Preset,
    Quiet,
    Transform,
    Weights,
    choice,
)


def register(
    out: Annotated[Path, typer.Option(help="Folder for the results, created if absent.")],
    fixed: Annotated[
        Path | None, typer.Argument(help="Fixed image: NIfTI, MGH, MetaImage, NRRD, DICOM, PNG, TIFF, JPEG.")
    ] = None,
    moving: Annotated[Path | None, typer.Argument(help="Moving image, on any grid.")] = None,
    fixed_contrasts: Annotated[
        list[Path] | None, typer.Option("--fixed", help="A further contrast of FIXED, or the first; repeated.")
    ] = None,
    moving_contrasts: Annotated[
        list[Path] | None, typer.Option("--moving", help="Likewise of MOVING, in the same order.")
    ] = None,
    weight: Annotated[list[float] | None, typer.Option(help="Of each contrast, in order; all alike.")] = None,
    method: MethodName = "discrete",
    preset: Preset = "default",
    weights: Weights = None,
    finetune: Finetune = None,
    transform: Transform = "deformable",
    initial: Annotated[
        Path | None, typer.Option(help="Transform to go on from: ITK's .txt, .tfm, .mat, .h5, or a field.")
    ] = None,
    init: Init = "auto",
    init_metric: InitMetric = None,
    fixed_mask: Annotated[Path | None, typer.Option(help="Where FIXED counts: a mask, 0 elsewhere.")] = None,
    moving_mask: Annotated[Path | None, typer.Option(help="Where MOVING counts.")] = None,
    nan_outside: Annotated[bool, typer.Option("--nan-outside", help="What is NaN in an image is not there.")] = False,
    fixed_labels: Annotated[Path | None, typer.Option(help="Label map of the fixed image.")] = None,
    moving_labels: Annotated[Path | None, typer.Option(help="Label map of the moving image.")] = None,
    fixed_landmarks: Annotated[
        Path | None, typer.Option(help="Points of FIXED that guide: .csv (x, y, z: LPS mm), .fcsv, .mrk.json.")
    ] = None,
    moving_landmarks: Annotated[Path | None, typer.Option(help="Likewise of MOVING: by name or row.")] = None,
    landmark_weight: Annotated[float, typer.Option(help="How much they count; 0: they are measured only.")] = 1.0,
    device: Device = "cpu",
    threads: Annotated[int | None, typer.Option(help="CPU threads, if not for all cores that it may use.")] = None,
    time_budget: Annotated[float | None, typer.Option(help="Seconds it may take; late steps are left out.")] = None,
    quiet: Quiet = False,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="Refinement: lncc, ssd, mi, mind; auto. Of all contrasts, or repeated: of each."),
    ] = None,
    mind_radius: Annotated[int | None, typer.Option(help="MIND-SSC patch radius, voxels.")] = None,
    mind_dilation: Annotated[int | None, typer.Option(help="MIND-SSC neighbour distance, voxels.")] = None,
    grid_spacing: Annotated[int | None, typer.Option(help="Voxels between control points.")] = None,
    search_radius: Annotated[int | None, typer.Option(help="Discrete search, control points.")] = None,
    window: Annotated[int | None, typer.Option(help="LNCC window, voxels, odd.")] = None,
    refine_spacing: Annotated[int | None, typer.Option(help="Voxels between the refined points.")] = None,
    coarse_iterations: Annotated[int | None, typer.Option(help="Steps of the refinement, at twice that.")] = None,
    step_spacing: Annotated[int | None, typer.Option(help="Voxels between steps at refine-spacing (LNCC).")] = None,
    iterations: Annotated[int | None, typer.Option(help="Steps at refine-spacing, then.")] = None,
    full_iterations: Annotated[int | None, typer.Option(help="Steps at full resolution, last; not MIND.")] = None,
    rate: Annotated[float | None, typer.Option(help="Longest step, voxels of the level.")] = None,
    outside: Annotated[
        float | None, typer.Option(help="What the warped image is where MOVING does not reach; its least if not given.")
    ] = None,
    fixed_warped: Annotated[bool, typer.Option("--fixed-warped", help="Write FIXED on the grid of MOVING.")] = False,
    jacobian: Annotated[bool, typer.Option("--jacobian", help="Write the log Jacobian determinant.")] = False,
    light_report: Annotated[
        bool, typer.Option("--light-report", help="report.html without scans and picture in it, up to 15 MB smaller.")
    ] = False,
    memory: Annotated[str | None, typer.Option(help="Of images in .zarr: by blocks that fit it, as 4GB.")] = None,
    workers: Annotated[int | None, typer.Option(help="With --memory: processes for blocks, two at most.")] = None,
    dask: Annotated[str | None, typer.Option(help="With --memory: local, slurm, or a scheduler's address.")] = None,
) -> Answer:
    """Register MOVING to FIXED and write the warped image, the displacement fields there and back, a picture and a
    report."""
    given = locals().copy()
    fixed, *fixed_others = _contrasts("FIXED", fixed, fixed_contrasts)
    moving, *moving_others = _contrasts("MOVING", moving, moving_contrasts)
    if memory is not None:
        from .blocks import register_in_blocks

        if fixed_others or moving_others:
            raise InputError("--fixed, --moving: expected one contrast with --memory")
        return Answer({"out": out, **register_in_blocks(fixed, moving, out, memory, workers, dask, given)})
    if workers is not None or dask is not None:
        raise InputError("--workers, --dask: expected --memory as well, as blocks are what they work on")
    report = run(
        fixed,
        moving,
        out,
        fixed_contrasts=fixed_others,
        moving_contrasts=moving_others,
        fixed_mask=fixed_mask,
        moving_mask=moving_mask,
        nan_outside=nan_outside,
        fixed_labels=fixed_labels,
        moving_labels=moving_labels,
        fixed_landmarks=fixed_landmarks,
        moving_landmarks=moving_landmarks,
        landmark_weight=landmark_weight,
        outside=outside,
        fixed_warped=fixed_warped,
        jacobian=jacobian,
        quiet=quiet,
        light_report=light_report,
        initial=initial,
        init=init,
        init_metric=init_metric,
        device=device,
        threads=threads,
        time_budget=time_budget,
        **choice(method, preset, transform, {name: given[name] for name in OF_METHODS}),
    )
    return Answer({"out": out, **report.content()})


def _contrasts(name: str, first: Path | None, more: list[Path] | None) -> list[Path]:
    """In order.

    Raises:
        InputError: there is none.
    """
    every = [*([] if first is None else [first]), *(more or [])]
    if not every:
        raise InputError(f"{name}: expected an image, or --{name.lower()} for each contrast, got none")
    return every
