"""``l2rfast template``: many scans in, their mean in intensity and shape out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress as Bar

from .. import _check, _interrupt, _threads
from ..errors import InputError
from ..methods.cohort.listed import Listed, checked
from ..methods.cohort.table import ids
from ..methods.template.members import Member
from ..methods.template.rounds import AFFINE, DEFORMABLE, FEWEST, TemplateFolder
from ..output import held
from . import crew, lines
from .shared_options import Quiet

TABLES = (".csv", ".tsv", ".txt")
# Of register: what the rounds say themselves, and what a template has not, or would not keep.
WITHOUT: tuple[str, ...] = (
    "transform",
    "initial",
    "init",
    "fixed_mask",
    "fixed_labels",
    "moving_labels",
    "time_budget",
)
WITHOUT += ("fixed_landmarks", "moving_landmarks", "landmark_weight", "outside", "fixed_warped", "jacobian")
# And what affine maps have.
OF_AFFINE = ("moving", "moving-mask", "nan-outside", "init-metric", "device", "threads")


@crew.with_register_options((*WITHOUT, "moving_contrasts"))
def template(
    *,
    images: Annotated[
        list[Path], typer.Argument(help="Images; or a table of them, .csv or .tsv; or the folder of a BIDS data set.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the template, created if absent.")],
    affine_rounds: Annotated[int, typer.Option(help="By affine maps; 0: the headers bring the images together.")] = 2,
    rounds: Annotated[int, typer.Option(help="By deformations, then.")] = 4,
    sharpen: Annotated[float, typer.Option(help="How much of an unsharp mask each round adds; 0: nothing.")] = 0.25,
    resume: Annotated[bool, typer.Option("--resume", help="Go on: what is finished stays.")] = False,
    workers: crew.Workers = None,
    memory: crew.Memory = None,
    dask: crew.Dask = None,
    bids_suffix: crew.BidsSuffix = "T1w",
    quiet: Quiet = False,
    common: dict[str, Any],
) -> None:
    """Build a template of IMAGES: in every round all are registered to it, and it becomes the mean of their intensities
    in the mean of their shapes.

    It begins as --fixed, or the first image, and has its grid. An image that cannot be registered is left out, and the
    exit code is 1.
    """
    kinds, sharpen = _kinds(affine_rounds, rounds), _check.not_negative("sharpen", sharpen)
    jobs = crew.jobs(_listed(images, bids_suffix), lines.given(common), ("moving",))
    folder, console = TemplateFolder(out, [_member(*one) for one in jobs.items()]), Console(stderr=True, quiet=quiet)
    asked = {"rounds": kinds, "sharpen": sharpen, "members": {id: lines.line(given) for id, given in jobs.items()}}
    with held(out), _threads.threads(common["threads"]):
        folder.begin(asked, resume=resume)
        one = next(iter(jobs.values()))
        folder.first(one.get("fixed", one["moving"]))
        those = crew.assembled([_given(folder, 1, id, kinds[-1], given) for id, given in jobs.items()], workers, memory)
        console.print(f"{len(jobs)} members, {len(kinds)} rounds; {those}", highlight=False)
        try:
            with those.at_work(dask) as team:
                for number, kind in enumerate(kinds, 1):
                    if not folder.mean(number).exists():
                        with Bar(console=console, disable=quiet) as bar:
                            task = bar.add_task(f"round {number} of {len(kinds)}, {kind}", total=len(jobs))
                            todo = {id: _given(folder, number, id, kind, given) for id, given in jobs.items()}
                            study = folder.round(number)
                            todo = {id: given for id, given in todo.items() if not study.finished(id)}
                            bar.advance(task, len(jobs) - len(todo))
                            crew.register(study, todo, those, team, partial(bar.advance, task))
                        folder.average(number, kind, sharpen)
                    folder.tidy(number)
                    done = folder.done(number)
                    console.print(
                        f"round {number}, {done.kind}: {done.moved:.3g} mm to the mean shape", highlight=False
                    )
        except KeyboardInterrupt as error:
            typer.echo("l2rfast: interrupted: what is finished stays, and --resume goes on", err=True)
            raise typer.Exit(_interrupt.exit_code(error)) from error
        folder.last(len(kinds))
    console.print(f"Written to {out}", highlight=False, soft_wrap=True)
    if done.left_out:
        raise typer.Exit(1)


def _member(id: str, given: crew.Options) -> Member:
    mask = given.get("moving-mask")
    images = [Path(image) for image in given["moving"]]
    return Member(id, images, None if mask is None else Path(mask[0]), given.get("nan-outside") == ("true",))


def _given(folder: TemplateFolder, number: int, id: str, kind: str, options: crew.Options) -> crew.Options:
    """What register is to be given for a member in a round."""
    fixed = tuple(map(str, folder.images(number - 1)))
    start = folder.start(number - 1, id)
    if kind == AFFINE:
        options = {name: values for name, values in options.items() if name in OF_AFFINE}
    initial = {} if start is None else {"initial": (str(start),)}
    if kind == DEFORMABLE:
        # A member that no round before could bring near is tried once more.
        initial = initial or {"init": ("none" if number == 1 else "affine",)}
        options = {name: values for name, values in options.items() if name != "init-metric" or "init" in initial}
    return {**options, "fixed": fixed, "transform": (kind,), **initial}


def _kinds(affine: int, deformable: int) -> list[str]:
    """Of every round."""
    numbers = [_check.at_least(name, value, 0) for name, value in (("affine_rounds", affine), ("rounds", deformable))]
    if not any(numbers):
        raise InputError("--affine-rounds, --rounds: expected a round at least, got none")
    return [AFFINE] * numbers[0] + [DEFORMABLE] * numbers[1]


def _listed(images: Sequence[Path], suffix: str) -> list[Listed]:
    """Of files, a table or a BIDS data set.

    Raises:
        InputError: fewer than two images.
    """
    if len(images) == 1 and (images[0].is_dir() or images[0].suffix.lower() in TABLES):
        found = crew.listed("IMAGES", images[0], suffix, "template", (*WITHOUT, "fixed_contrasts"))
    else:
        given = [{"moving": (os.path.abspath(image),)} for image in images]
        found = checked([Listed(id, one, one["moving"][0]) for id, one in zip(ids(given), given, strict=True)])
    if len(found) < FEWEST:
        raise InputError(f"IMAGES: expected {FEWEST} images at least, got {len(found)}")
    return found
