"""``l2rfast train``: networks of the methods on one's own scans."""

from __future__ import annotations

import csv
import json
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console

from ..errors import InputError, InputWarning
from ..methods.discrete.training import TrainingOptions as DiscreteOptions
from ..methods.discrete.training import train_discrete
from ..methods.training.options import TrainerOptions
from ..methods.training.run import LOGS, OPTIONS
from ..methods.training.trainer import Progress
from ..methods.unsupervised.synthetic import PRESETS as UNSUPERVISED_PRESETS
from ..methods.unsupervised.synthetic import SyntheticOptions, train_synthetic
from ..methods.unsupervised.training import TrainingOptions
from ..methods.unsupervised.training import train_unsupervised as train
from ..methods.weakly_supervised.options import PRESETS as WEAK_PRESETS
from ..methods.weakly_supervised.options import TrainingOptions as WeakOptions
from ..methods.weakly_supervised.training import train_weakly_supervised as train_weak
from .answer import Answer
from .bars import bar
from .options import with_options
from .shared_options import Device, Quiet

Data = Annotated[str, typer.Option(help="Folder of images, BIDS, CSV of pairs, or Learn2Reg's dataset.json.")]
Out = Annotated[Path, typer.Option(help="Folder of the run, created if absent.")]
Atlas = Annotated[str | None, typer.Option(help="Of a folder: the name of the case that is always the fixed one.")]
HoldOut = Annotated[int, typer.Option(help="Cases of a folder, or pairs of a CSV, that are kept for validation.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint of the run in OUT, if any.")]


@with_options(presets=UNSUPERVISED_PRESETS, options=TrainingOptions, synthetic=SyntheticOptions, trainer=TrainerOptions)
def unsupervised(
    out: Out,
    options: TrainingOptions,
    synthetic: SyntheticOptions,
    trainer: TrainerOptions,
    data: Annotated[str | None, Data.__metadata__[0]] = None,
    atlas: Atlas = None,
    hold_out: HoldOut = 0,
    device: Device = "cpu",
    resume: Resume = False,
    quiet: Quiet = False,
) -> Answer | None:
    """Train VoxelMorph, from images alone or with labels, or from no scans at all; under torchrun on several
    processes."""
    from ..methods.registration import usable

    if synthetic.synthetic and (data is not None or atlas is not None or hold_out):
        raise InputError("--data, --atlas, --hold-out: of scans, expected none of them with --synthetic")
    if data is None and not synthetic.synthetic:
        raise InputError("--data: expected scans to train on, or --synthetic")
    place = usable(device)
    with _progress(trainer.steps, out, quiet) as progress:
        if data is None:
            train_synthetic(out, synthetic, options, trainer, device=place, resume=resume, progress=progress)
        else:
            train(
                *(data, out, options, trainer),
                atlas=atlas,
                hold_out=hold_out,
                device=place,
                resume=resume,
                progress=progress,
            )
    return _answer(out)


@with_options(options=DiscreteOptions, trainer=TrainerOptions)
def discrete(
    data: Data,
    out: Out,
    options: DiscreteOptions,
    trainer: TrainerOptions,
    atlas: Atlas = None,
    hold_out: HoldOut = 0,
    device: Device = "cpu",
    resume: Resume = False,
    quiet: Quiet = False,
) -> Answer | None:
    """Train PDD-Net, on 2-D scans the tutorial's network, on labels or images; under torchrun on several processes."""
    from ..methods.registration import usable

    place = usable(device)
    with _progress(trainer.steps, out, quiet) as progress:
        train_discrete(
            *(data, out, options, trainer),
            atlas=atlas,
            hold_out=hold_out,
            device=place,
            resume=resume,
            progress=progress,
        )
    return _answer(out)


@with_options(presets=WEAK_PRESETS, options=WeakOptions, trainer=TrainerOptions)
def weakly_supervised(
    data: Data,
    out: Out,
    options: WeakOptions,
    trainer: TrainerOptions,
    hold_out: HoldOut = 0,
    device: Device = "cpu",
    resume: Resume = False,
    quiet: Quiet = False,
) -> Answer | None:
    """Train label-reg on labels, for images of different kinds; under torchrun on several processes."""
    from ..methods.registration import usable

    place = usable(device)
    with _progress(trainer.steps, out, quiet) as progress:
        train_weak(*(data, out, options, trainer), hold_out=hold_out, device=place, resume=resume, progress=progress)
    return _answer(out)


@contextmanager
def _progress(steps: int, out: Path, quiet: bool) -> Iterator[Progress]:
    """A bar on standard error, of the first process; and what to do after an interrupt."""
    console = Console(stderr=True, markup=False)
    try:
        first = _first()
        with _interrupts() as check, warnings.catch_warnings():
            if not first:
                warnings.simplefilter("ignore", InputWarning)  # the first process says it, but not whom it skips here
                warnings.filterwarnings("always", ".*; skipped$", InputWarning)
            if quiet or not first:
                yield lambda step, text: check()
                return
            with bar(console) as shown:
                task = shown.add_task("training", total=steps, start=False)

                def show(step: int, text: str) -> None:
                    check()
                    if not shown.tasks[task].started:  # a run that is resumed was no faster than it is
                        shown.reset(task, completed=step)
                    shown.update(task, completed=step, description=text)

                yield show
        console.print(f"Written to {out}", highlight=False, soft_wrap=True)
    except KeyboardInterrupt as interrupt:
        interrupt.add_note(f"interrupted; --resume goes on from the last checkpoint in {out}")
        raise


def _first() -> bool:
    """Whether this is the first process of those that torchrun started, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def _answer(out: Path) -> Answer | None:
    """Of the first process: the options of a run, and the last line of each of its logs."""
    if not _first():
        return None
    content: dict[str, Any] = {"out": out, "options": json.loads((out / OPTIONS).read_text())}
    for log in LOGS:
        if (file := out / f"{log}.csv").exists():
            with file.open(newline="") as lines:
                *_, last = csv.DictReader(lines)
            content[log] = {name: float(value) for name, value in last.items()}
    return Answer(content)


@contextmanager
def _interrupts() -> Iterator[Callable[[], None]]:
    """What raises an interrupt again that came before: where Python collects garbage, say, one is swallowed."""
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        signal.default_int_handler(number, frame)

    def check() -> None:
        if came:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)
