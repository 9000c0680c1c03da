"""``l2rfast template``: many scans in, their mean in intensity and shape out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import Progress

from .. import _check, _threads
from ..errors import InputError
from ..io import Volume
from ..methods.cohort.listed import Listed, checked
from ..methods.cohort.memory import shape as read_shape
from ..methods.cohort.table import ids
from ..methods.cohort.workers import Team
from ..methods.template.members import Member
from ..methods.template.rounds import AFFINE, DEFORMABLE, FEWEST, MAPS, SAMPLED, Round, TemplateFolder, image_name
from ..output import held
from . import crew, lines
from .answer import Answer
from .bars import bar
from .shared_options import Quiet

TABLES = (".csv", ".tsv", ".txt")
# Of register: what the rounds say themselves, and what a template has not, or would not keep.
WITHOUT: tuple[str, ...] = ("transform", "initial", "init", "fixed_mask", "fixed_labels", "moving_labels")
WITHOUT += ("fixed_landmarks", "moving_landmarks", "landmark_weight", "outside", "fixed_warped", "jacobian")
WITHOUT += ("time_budget",)
# And what affine maps have.
OF_AFFINE = ("moving", "moving-mask", "nan-outside", "init-metric", "device", "threads")


@crew.with_register_options((*WITHOUT, "fixed_contrasts", "moving_contrasts", "preset"))
def template(
    *,
    images: Annotated[
        list[Path], typer.Argument(help="Images; or a table of them, .csv or .tsv; or the folder of a BIDS data set.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the template, created if absent.")],
    fixed: Annotated[
        list[Path] | None, typer.Option(help="What to begin with, repeated for further contrasts; the first image.")
    ] = None,
    affine_rounds: Annotated[int, typer.Option(help="By affine maps; 0: the headers bring the images together.")] = 1,
    rounds: Annotated[int, typer.Option(help="By deformations, then.")] = 3,
    sharpen: Annotated[float, typer.Option(help="How much of an unsharp mask each round adds; 0: nothing.")] = 0.25,
    preset: Annotated[str | None, typer.Option(help="Of the method discrete; fast if not given.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on: what is finished stays.")] = False,
    workers: crew.Workers = None,
    memory: crew.Memory = None,
    dask: crew.Dask = None,
    bids_suffix: crew.BidsSuffix = "T1w",
    quiet: Quiet = False,
    common: dict[str, Any],
) -> Answer:
    """Build a template of IMAGES: in every round all are registered to it, and it becomes the mean of their intensities
    in the mean of their shapes.

    It has the grid of what it begins with. An image that cannot be registered is left out, and the
    exit code is 1.
    """
    kinds, sharpen = _kinds(affine_rounds, rounds), _check.not_negative("sharpen", sharpen)
    if preset is None:  # of what full resolution adds by default hardly anything is seen in a mean
        preset = "fast" if common["method"] == "discrete" else "default"
    listed, shape = _listed(images, bids_suffix), cache(read_shape)
    jobs = crew.jobs(listed, lines.given({**common, "preset": preset}), ("moving",))
    _check_alike(listed, fixed, shape)
    folder, console = (
        TemplateFolder(out, [_member(*one) for one in jobs.items()]),
        Console(stderr=True, markup=False, quiet=quiet),
    )
    asked: dict[str, Any] = {
        "rounds": kinds,
        "sharpen": sharpen,
        "fixed": [os.path.abspath(image) for image in fixed or ()],
    }
    asked |= {"members": {id: lines.line(given) for id, given in jobs.items()}}
    with held(out), _threads.threads(common["threads"]):
        first = ("--fixed", fixed) if fixed else ("IMAGES", folder.members[0].images)
        folder.check(asked, resume=resume)
        begun = {"fixed": tuple(map(str, folder.images(0) if folder.mean(0).exists() else first[1]))}
        sized = [{**_given(folder, 1, id, kinds[-1], given), **begun} for id, given in jobs.items()]
        those = crew.assembled(sized, workers, memory, shape)
        came: list[Round] = []
        try:
            with those.at_work(dask) as team:
                folder.begin(asked, *first)
                console.print(f"{len(jobs)} members, {len(kinds)} rounds; {those}", highlight=False)
                with bar(console, quiet) as shown:
                    waiting = sum(not folder.mean(number).exists() for number in range(1, len(kinds) + 1))
                    shown.add_task("", total=len(WORKS) * waiting * len(jobs), visible=waiting > 0)
                    for number, kind in enumerate(kinds, 1):
                        if not folder.mean(number).exists():
                            _found(folder, number, kind, jobs, those, team, shown)
                            folder.average(number, kind, sharpen)
                        folder.tidy(number)
                        done = folder.done(number)
                        came.append(done)
                        moved = f"the template moved by {done.moved:.3g} mm to the mean shape"
                        console.print(f"round {number} of {len(kinds)}, {kind}: {moved}", highlight=False)
        except KeyboardInterrupt as error:
            error.add_note("interrupted: what is finished stays, and --resume goes on")
            raise
        folder.last(len(kinds))
    console.print(f"Written to {out}", highlight=False, soft_wrap=True)
    made = [folder.folder / image_name(contrast) for contrast in range(folder.contrasts)]
    content = {"out": out, "templates": made, "rounds": [asdict(each) for each in came]}
    return Answer(content, failed=bool(done.left_out))


def _check_alike(listed: Sequence[Listed], fixed: Sequence[Path] | None, shape: crew.Shape) -> None:
    """See by their headers whether images can be a template; one that cannot be read costs itself alone.

    Raises:
        InputError: images of another number of contrasts, or of axes.
    """
    places = [(one.where, one.options["moving"]) for one in listed]
    if fixed:
        places.append(("--fixed", tuple(map(str, fixed))))
    first: dict[str, tuple[int, str]] = {}
    for where, images in places:
        axes = sum(n > 1 for n in shape(images[0]) or ())
        for what, number in {"contrasts": len(images), "axes": axes if axes in (2, 3) else 0}.items():
            expected, alike = first.setdefault(what, (number, where)) if number else (0, "")
            if number != expected:
                raise InputError(f"{where}: expected {expected} {what}, as {alike} has, got {number}")


def _found(
    folder: TemplateFolder,
    number: int,
    kind: str,
    jobs: Mapping[str, crew.Options],
    those: crew.Crew,
    team: Team,
    shown: Progress,
) -> None:
    """Register all members to the template of the round before, but those that are, and sample them in their mean
    shape.

    Raises:
        InputError: what came of one cannot be written, as where the disk is full: its round waits for it.
    """
    given = {id: _given(folder, number, id, kind, options) for id, options in jobs.items()}
    folder.mend(number)
    for work, title, proof in WORKS:
        study = folder.round(number, proof)
        if proof == SAMPLED:
            folder.shape(number)
            given = {id: options for id, options in given.items() if folder.round(number).finished(id)}
        todo = {id: options for id, options in given.items() if not study.finished(id)}
        (whole,) = shown.tasks
        fewer = len(jobs) - len(todo)  # that are done, or cannot be
        shown.update(whole.id, description=f"round {number}, {kind}: {title}", total=(whole.total or 0) - fewer)
        crew.register(work, study, todo, those, team, partial(shown.advance, whole.id))
        for why in filter(None, map(study.error, todo)):
            if why.startswith("--out"):
                raise InputError(why)


def align_member(words: Sequence[str]) -> str | None:
    """As `lines.run`, of a member: nothing is kept but the maps. A process that works finds it by its name."""
    return lines.outcome(partial(_align, words))


def sample_member(words: Sequence[str]) -> str | None:
    """Likewise, of one that is registered."""
    return lines.outcome(partial(_sample, words))


# Of a round, for each member: what is done, what it is called, and what there is then.
WORKS = ((align_member, "registered", MAPS), (sample_member, "averaged", SAMPLED))


def _align(words: Sequence[str]) -> None:
    from ..methods.template.rounds import align

    template, member, values = _pair(words)
    rest = {name: values[name] for name in ("initial", "init", "init_metric", "device", "threads")}
    align(template, member, values["out"], **rest, **lines.method(values))


def _sample(words: Sequence[str]) -> None:
    from ..methods.template.rounds import sample

    template, member, values = _pair(words)
    with _threads.threads(values["threads"]), torch.no_grad():
        sample(template, member, values["out"])


def _pair(words: Sequence[str]) -> tuple[Volume, Member, dict[str, Any]]:
    """A template, a member, and the values of the command line."""
    from ..methods.several import read_once

    values = lines.parsed(words)
    template = read_once("template", values["fixed_contrasts"], "fixed_mask", None, nan_outside=False)
    return template, Member("", values["moving_contrasts"], values["moving_mask"], values["nan_outside"]), values


def _member(id: str, given: crew.Options) -> Member:
    mask = given.get("moving-mask")
    images = [Path(image) for image in given["moving"]]
    return Member(id, images, None if mask is None else Path(mask[0]), given.get("nan-outside") == ("true",))


def _given(folder: TemplateFolder, number: int, id: str, kind: str, options: crew.Options) -> crew.Options:
    """What register is to be given for a member in a round."""
    fixed = tuple(str(image.absolute()) for image in folder.images(number - 1))
    start = folder.start(number - 1, id)
    if kind == AFFINE:
        options = {name: values for name, values in options.items() if name in OF_AFFINE}
    initial = {} if start is None else {"initial": (str(start.absolute()),)}
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
    if len(images) == 1 and (os.path.isdir(images[0]) or images[0].suffix.lower() in TABLES):
        found = crew.listed("IMAGES", images[0], suffix, "template", (*WITHOUT, "fixed_contrasts"))
    else:
        given = [{"moving": (os.path.abspath(image),)} for image in images]
        found = checked([Listed(id, one, one["moving"][0]) for id, one in zip(ids(given), given, strict=True)])
    if len(found) < FEWEST:
        raise InputError(f"IMAGES: expected {FEWEST} images at least, got {len(found)}")
    return found
