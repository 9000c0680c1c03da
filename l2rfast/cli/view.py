"""``l2rfast view``: a result in a browser, at full resolution."""

from __future__ import annotations

import webbrowser
from dataclasses import replace
from os.path import isfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from .._json import parsed
from ..errors import InputError, notice
from ..output import settle
from ..viewer.folders import Folder, Result, Study
from ..viewer.niivue import niivue
from ..viewer.page import NAME
from ..viewer.registration import Source, registration
from ..viewer.server import Find, Server
from ..viewer.volumes import Embedded, Pair, embedded
from . import evaluate, job
from .answer import Answer
from .report import Report
from .shared_options import Quiet

_STUDY = (NAME, "summary.csv")


def view(
    result: Annotated[Path, typer.Argument(help="Folder that register, cohort or evaluate has written.")],
    minutes: Annotated[float, typer.Option(help="It ends after so many without a request.")] = 30.0,
    no_open: Annotated[bool, typer.Option("--no-open", help="Open no browser.")] = False,
    quiet: Quiet = False,
) -> Answer:
    """Show RESULT in a browser, its scans at full resolution, from this machine to it alone, until Ctrl-C."""
    if not minutes > 0:
        raise InputError(f"--minutes: expected a positive number, got {minutes:g}")
    find, console = found(result), Console(stderr=True, markup=False, quiet=quiet)
    with Server(find) as server:
        console.print(server.address, highlight=False, soft_wrap=True)
        if not no_open:
            webbrowser.open(server.address)
        console.print(f"Ends after {minutes:g} minutes without a request, or by Ctrl-C", highlight=False)
        try:
            server.serve(60 * minutes)
        except KeyboardInterrupt:
            console.print("Ended")
    return Answer({"result": result, "address": server.address})


def found(folder: Path) -> Find:
    """What is sent of a folder of results.

    Raises:
        InputError: it is none.
    """
    settle(folder)
    if isfile(folder / "cohort.json"):
        return Study(folder, _STUDY, folder / "pairs", _result)
    if isfile(folder / "evaluation.json"):
        return Folder(folder, evaluate.FILES)
    if isfile(folder / "report.json") and isfile(folder / "displacement.nii.gz"):
        return _result(folder)
    raise InputError(f"RESULT ({folder}): expected a folder that register, cohort or evaluate has written")


def _result(folder: Path) -> Result:
    return Result(folder, job.FILES, lambda: _page(folder))


def _page(folder: Path) -> tuple[str, dict[str, bytes]]:
    """Of a registration, and what it asks for.

    Raises:
        InputError: its report is damaged, or another version's.
    """
    settle(folder)
    try:
        content = parsed((folder / "report.json").read_text(encoding="utf-8"))
        return _drawn(folder, content, Report.of(content))
    except InputError:
        raise
    # Whatever a part of another type leads to: nothing of it is checked one by one.
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise InputError(f"RESULT ({folder}): expected a report that this version writes, got another") from error


def _drawn(folder: Path, content: dict[str, Any], report: Report) -> tuple[str, dict[str, bytes]]:
    scans: Embedded | None = None
    if niivue() is not None:
        try:
            scans = embedded(_pair(folder, report), limit=None)
        except InputError as error:
            notice(f"{folder}: its scans cannot be shown: {error}")
    volumes = {} if scans is None else {f"volumes/{name}.nii.gz": file for name, file in scans.files.items()}
    places = {name: f"volumes/{name}.nii.gz" for name in (scans.files if scans else ())}
    title = f"Registration report, {folder.name}"
    return registration(Source(title, report.measures(), content, None, scans, places)), volumes


def _pair(folder: Path, report: Report) -> Pair:
    """All of a registration on the grid of fixed, of the files of a result and of the scans.

    Raises:
        InputError: a file that is not there, or is another than it was.
    """
    from ..fields import digital_jacobian
    from ..io import as_volume, read_displacement, read_labels, read_transform
    from ..methods.method import DEFORMABLE
    from ..methods.result import Registration

    def image(role: str, path: Any) -> Any:
        return as_volume(role, path, dims=(2, 3), nan_outside=True)

    def scan(role: str) -> Any:
        known = report.inputs[role]
        volume = image(role, known["path"])
        if list(volume.data.shape) != known["shape"]:
            raise InputError(f"{role} ({known['path']}): expected the scan that was registered, got another shape")
        return volume

    fixed, moving, warped = scan("fixed"), scan("moving"), image("warped", folder / "warped.nii.gz")
    field, _ = read_displacement(folder / "displacement.nii.gz")
    ndim = fixed.data.ndim
    axes = [axis for axis in range(field.shape[1]) if axis != fixed.flat][:ndim]
    displacement = field.reshape(1, -1, *fixed.data.shape)[:, axes]
    lies = moving.affine
    if report.options["transform"] == DEFORMABLE:
        start: Any = read_transform(folder / "affine.txt")
        lies = np.linalg.solve(start.array, lies)
    result = Registration(displacement, displacement, fixed, replace(moving, affine=lies), {}, {})
    before = result.warp(moving.data, displaced=False)
    labels = {}
    if "fixed_labels" in report.inputs:
        labels["fixed_labels"] = read_labels(report.inputs["fixed_labels"]["path"], fixed, "fixed_labels").data
        labels["warped_labels"] = read_labels(folder / "warped_labels.nii.gz", fixed, "warped_labels").data
    images = {"fixed": fixed.data, "moving": before, "warped": warped.data.reshape(fixed.data.shape)}
    return Pair(images, displacement, digital_jacobian(displacement)[0] <= 0, labels, fixed.affine)
