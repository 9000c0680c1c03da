"""The job of ``l2rfast register``: read, register, measure, draw, write."""

from __future__ import annotations

import math
import resource
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from .. import _threads
from .._dispatch import OPERATORS
from .._native import INSTRUCTION_SET
from ..errors import InputError, notice
from .bars import bars
from .notices import notices
from .report import Report

# What a run may leave in its folder.
FILES = (
    "warped.nii.gz",
    "warped_labels.nii.gz",
    "confidence.nii.gz",
    "displacement.nii.gz",
    "inverse_displacement.nii.gz",
    "fixed_warped.nii.gz",
    "jacobian.nii.gz",
    "affine.txt",
    "overview.png",
    "report.html",
    "report.json",
    "report.md",
)
SEED = 0  # nothing is random; reported so that a later method may be


def run(
    fixed: Path,
    moving: Path,
    out: Path,
    *,
    fixed_contrasts: Sequence[Path] = (),
    moving_contrasts: Sequence[Path] = (),
    fixed_mask: Path | None = None,
    moving_mask: Path | None = None,
    nan_outside: bool = False,
    fixed_labels: Path | None = None,
    moving_labels: Path | None = None,
    fixed_landmarks: Path | None = None,
    moving_landmarks: Path | None = None,
    outside: float | None = None,
    fixed_warped: bool = False,
    jacobian: bool = False,
    threads: int | None = None,
    quiet: bool = False,
    light_report: bool = False,
    **arguments: Any,
) -> Report:
    """The whole job, of one contrast or several; ``arguments`` go to `methods.registration.register`; its report.

    With ``light_report`` the page of the result has no scans in it, and the picture beside it.

    Raises:
        InputError: anything that cannot be read, used or written; nothing is then left in ``out``.
    """
    import torch

    from ..fields import digital_jacobian, jacobian_determinant
    from ..io import (
        axes_in_itk,
        onto_plane,
        paired,
        read_labels,
        read_points,
        write_affine,
        write_displacement,
        write_image,
    )
    from ..methods.method import DEFORMABLE
    from ..methods.metrics import distances, in_both
    from ..methods.registration import register as compute
    from ..methods.result import check_outside
    from ..methods.several import joined, read_once
    from ..methods.stages import Stages
    from ..output import OutputFolder
    from ..viewer.registration import Source, registration
    from ..viewer.volumes import Pair, embedded

    if (fixed_labels is None) != (moving_labels is None):
        raise InputError("--fixed-labels, --moving-labels: expected both or neither")
    if (fixed_landmarks is None) != (moving_landmarks is None):
        raise InputError("--fixed-landmarks, --moving-landmarks: expected both or neither")
    if outside is not None:
        check_outside(torch.float32, outside)  # of the warped image
    with (
        _threads.threads(threads),
        bars(quiet) as (console, progress),
        notices() as noticed,
        OutputFolder(out, FILES) as folder,
        ThreadPoolExecutor(1) as background,
    ):
        stages = Stages(progress)
        with stages.stage("reading"):
            images = (
                read_once("FIXED", [fixed, *fixed_contrasts], "--fixed-mask", fixed_mask, nan_outside=nan_outside),
                joined("MOVING", [moving, *moving_contrasts], "--moving-mask", moving_mask, nan_outside=nan_outside),
            )
            labels = None
            if fixed_labels is not None:
                labels = (
                    read_labels(fixed_labels, images[0], "--fixed-labels"),
                    read_labels(moving_labels, images[1], "--moving-labels"),
                )
                if not in_both(*labels):
                    notice("--fixed-labels, --moving-labels: no label in common, so nothing of them can overlap")
            landmarks = None
            if fixed_landmarks is not None and moving_landmarks is not None:
                landmarks = paired(
                    read_points("--fixed-landmarks", fixed_landmarks, images[0]),
                    read_points("--moving-landmarks", moving_landmarks, images[1]),
                )
        torch.manual_seed(SEED)
        pairs = None if landmarks is None else landmarks[1:]
        result = compute(*images, landmarks=pairs, progress=progress, threads=threads, **arguments)
        # While the rest is computed and drawn: of the files these are nearly all the bytes.
        written = [
            background.submit(
                write_displacement, folder.path(f"{name}.nii.gz"), field, images[0].affine, images[0].flat
            )
            for name, field in (("displacement", result.displacement), ("inverse_displacement", result.inverse))
        ]
        with stages.stage("warping"):
            # Before: where the deformation started, or where there is none, by the headers alone.
            linear = result.options["transform"] != DEFORMABLE
            start = replace(result, moving=images[1]) if linear else result
            both = ((start, False), (result, True))
            before, warped = (r.warp(images[1].data, displaced=d, outside=outside) for r, d in both)
            covered = start.covered(displaced=False) & result.covered()
            warped_labels = None
            if labels is not None:
                warped_labels = [r.warp(labels[1].data, mode="nearest", displaced=d) for r, d in both]
        with stages.stage("measures"):
            folds = digital_jacobian(result.displacement)[0] <= 0
            backend = _backend(torch.device(arguments.get("device", "cpu")).type)
            report = report_of(result, images, (before, warped), covered, folds, labels, warped_labels, backend)
            if landmarks is not None:
                names, *points = landmarks
                measured = (distances(r, *points, displaced=d).tolist() for r, d in both)
                report.tre = dict(zip(names, zip(*measured, strict=True), strict=True))
                report.landmarks = "guiding" if "landmarks" in result.options else "measured only"
        shown = None
        if not light_report:
            on_fixed = {"fixed": images[0].data, "moving": before, "warped": warped}
            outlined = {}
            if labels is not None and warped_labels is not None:
                outlined = {"fixed_labels": labels[0].data, "warped_labels": warped_labels[1]}
            pair = Pair(on_fixed, result.displacement, folds, outlined, images[0].affine)
            shown = background.submit(embedded, pair)
        with stages.stage("picture"):
            from .overview import draw_overview  # Matplotlib takes long to import

            overview = folder.path("overview.png")
            draw_overview(
                overview,
                images[0].data,
                before,
                warped,
                result.displacement,
                folds,
                images[0].spacing,
                None if warped_labels is None else warped_labels[1],
                result.entropy,
                images[0].affine,
            )
        with stages.stage("writing"):
            on_grid = partial(replace, images[0], mask=None)
            write_image(folder.path("warped.nii.gz"), on_grid(data=warped))
            if warped_labels is not None:
                write_image(folder.path("warped_labels.nii.gz"), on_grid(data=warped_labels[1]))
            if result.entropy is not None:
                write_image(folder.path("confidence.nii.gz"), on_grid(data=result.entropy[0, 0]))
            place = onto_plane(result.initial.matrix, *images)
            write_affine(folder.path("affine.txt"), place, axes_in_itk(images[0]))
            if fixed_warped:
                back = result.warp_back(images[0].data)
                write_image(folder.path("fixed_warped.nii.gz"), replace(images[1], data=back, mask=None))
            if jacobian:
                change = jacobian_determinant(result.displacement)[0].log()  # NaN where it folds
                write_image(folder.path("jacobian.nii.gz"), on_grid(data=change))
            for field in written:
                field.result()
            scans = None if shown is None else shown.result()
        report.inputs = {
            name if number == 1 else f"{name}, contrast {number}": {
                "path": path,
                "shape": list(volume.data.shape),
                "spacing": list(volume.spacing),
            }
            for name, paths, volume in (
                ("fixed", [fixed, *fixed_contrasts], images[0]),
                ("moving", [moving, *moving_contrasts], images[1]),
                ("fixed_mask", [fixed_mask], images[0]),
                ("moving_mask", [moving_mask], images[1]),
                ("fixed_labels", [fixed_labels], images[0]),
                ("moving_labels", [moving_labels], images[1]),
            )
            for number, path in enumerate(paths, 1)
            if path is not None
        }
        report.seconds = {"reading": stages.seconds.pop("reading"), **result.seconds, **stages.seconds}
        report.warnings = noticed
        report.peak_memory_mb = _peak_memory() / 1e6
        drawn = None if light_report else overview.read_bytes()
        source = Source("Registration report", report.measures(), report.content(), drawn, scans)
        folder.path("report.html").write_text(registration(source), encoding="utf-8", errors="replace")
        report.write_json(folder.path("report.json"))
        report.write_markdown(folder.path("report.md"))
    if not quiet:
        console.print(report.table())
        for line in report.verdict.lines:
            console.print(line, highlight=False, soft_wrap=True, markup=False)
        console.print(f"Written to {out}", highlight=False, soft_wrap=True)
    return report


def report_of(
    result: Any,
    images: tuple[Any, Any],
    pair: tuple[Any, Any],
    covered: Any,
    folds: Any,
    labels: Any,
    warped_labels: Any,
    backend: str,
) -> Report:
    """Everything of the report that is measured on the results; the caller adds what the job cost.

    The similarities are of the voxels that count and that moving covers both before and after.

    Args:
        images: fixed and moving, as they were read.
        pair: moving on the grid of fixed, before and after.
        covered: (*fixed), bool: the voxels of the similarities.
        folds: likewise, where the field folds.
        labels, warped_labels: of fixed and moving, and those of moving before and after; None where there are none.
    """
    from ..methods.contrast import DARK, association
    from ..methods.intensities import in_range
    from ..metrics import (
        dice,
        folding_fraction,
        global_correlation,
        hd95,
        log_jacobian_std,
        mean_squared_error,
    )

    places = covered.flatten().nonzero()[:, 0]
    fixed, before, after = (image.flatten()[places][None, None, None] for image in (images[0].data, *pair))

    def similar(measure: Callable[..., Any], image: Any) -> float:
        return float(measure(fixed, image)) if fixed.numel() else math.nan

    bright = in_range(images[0].data, images[0].mask) > DARK
    counting = bright if images[0].mask is None else bright & images[0].mask

    report = Report(
        inputs={},
        options={**result.options, "init": result.initial.kind, "init_because": result.initial.why},
        seed=SEED,
        backend=backend,
        seconds={},
        peak_memory_mb=0.0,
        similarity={
            name: (similar(measure, before), similar(measure, after))
            for name, measure in (
                ("correlation", global_correlation),
                ("MSE", mean_squared_error),
                ("correlation ratio", association),
            )
        },
        covered_percent=100 * float(result.covered()[counting].double().mean()),
        folding_percent=100 * float(folding_fraction(result.displacement)),
        digital_folding_percent=100 * float(folds.sum()) / folds.numel(),
        log_jacobian_std=float(log_jacobian_std(result.displacement)),
        inverse_residual=result.inverse_residual,
    )
    if labels is not None:
        truth, spacing = labels[0].data, images[0].spacing
        report.dice = _paired(*(dice(truth, x) for x in warped_labels))
        report.hd95 = _paired(*(hd95(truth, x, spacing=spacing) for x in warped_labels))
    return report


def _peak_memory() -> float:
    """Largest resident memory of this process so far, in bytes."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:  # not Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
    # Not ru_maxrss, which starts from the memory of the process that this one was started from.
    return 1024.0 * int(status.split("VmHWM:")[1].split()[0])


def _backend(device: str) -> str:
    chosen = OPERATORS["warp"].chosen(device)
    return f"{chosen} ({INSTRUCTION_SET})" if chosen == "cpp" else chosen


def _paired(before: dict[int, float], after: dict[int, float]) -> dict[int, tuple[float, float]]:
    return {label: (value, after[label]) for label, value in before.items()}
