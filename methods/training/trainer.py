"""The trainer of all methods.

Every random number of a step comes from a seed made of the run's seed and the place of the sample in the run: where a
run is resumed, or several processes share the samples of a step, the numbers stay the same.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, default_collate

from l2rfast import _threads
from l2rfast.errors import InputError, notice
from l2rfast.output import held

from ..names import some
from .bad_scans import skip
from .options import TrainerOptions
from .precision import is_narrow
from .processes import World, world
from .run import Description, RunFolder

Batch = dict[str, Tensor]
WORKERS = 4  # processes that prepare samples for a GPU


class Task(nn.Module, ABC):
    """What a method trains. Called with a batch, it gives its losses by name, means over the batch; their sum is
    minimised.

    Attributes:
        validations: how many pairs there are to validate with.
        scores: the measures that may be the score of a run, the first choice first; and whether the larger are better.
    """

    validations: int = 0
    scores: ClassVar[Mapping[str, bool]]

    @abstractmethod
    def sample(self, random: torch.Generator) -> Batch:
        """One pair, drawn and augmented; tensors without the axis of the batch, on the CPU."""

    def names(self, random: torch.Generator) -> tuple[str, str]:
        """What the scans of the pair are called that `sample` draws of the same numbers, for messages."""
        return ("", "")

    @abstractmethod
    def validate(self, index: int) -> dict[str, float]:
        """Measures of one pair kept for validation: those that it has. NaN where one is not defined."""

    @abstractmethod
    def picture(self) -> Tensor:
        """What to look at while it trains: (H, W) from 0 to 1."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the network's weights."""


def seeded(*numbers: int) -> int:
    """A seed from several numbers."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()) >> 1


def _generator(seed: int, index: int) -> torch.Generator:
    """Of the random numbers of a sample."""
    return torch.Generator().manual_seed(seeded(seed, index))


class _Samples(Dataset[Batch | InputError]):
    """An error is returned: of one that a worker raises PyTorch makes a page."""

    def __init__(self, task: Task, seed: int) -> None:
        self._task, self._seed = task, seed

    def __getitem__(self, index: int) -> Batch | InputError:
        try:
            return self._task.sample(_generator(self._seed, index))
        except InputError as error:
            return error


def _together(samples: Sequence[Batch | InputError]) -> Any:
    """A batch, or the first error."""
    return next((each for each in samples if isinstance(each, InputError)), None) or default_collate(list(samples))


def _workers(device: torch.device) -> int:
    return WORKERS if device.type == "cuda" else 0


@dataclass(frozen=True)
class _Indices:
    """Of the samples of every step that are this process's."""

    steps: range
    batch: int
    world: World

    def __iter__(self) -> Iterator[list[int]]:
        return map(self.of, self.steps)

    def of(self, step: int) -> list[int]:
        first = ((step - 1) * self.world.size + self.world.rank) * self.batch
        return list(range(first, first + self.batch))

    def __len__(self) -> int:
        return len(self.steps)


Progress = Callable[[int, str], None]


def train(
    task: Task,
    out: str | os.PathLike[str],
    options: TrainerOptions,
    *,
    described: Description,
    device: torch.device,
    resume: bool = False,
    progress: Progress | None = None,
) -> None:
    """Train, from the start or from the last checkpoint, and fill the folder of the run.

    Args:
        task: what to train, on the CPU.
        out: the folder: ``checkpoint.safetensors``, the weights that the task saves, ``training.csv``,
            ``validation.csv``, ``curves.png``, ``tensorboard/`` and ``options.json``. The weights are those of the best
            validation, the last ones where there is none.
        options: see `TrainerOptions`.
        described: what the run is of; a run that is resumed has to be of the same.
        device: where to compute; under ``torchrun`` each process takes the GPU of its local rank.
        resume: go on where a run in that folder stopped.
        progress: called by the first process after every step, with a line about it.

    Raises:
        InputError: a folder that cannot be used, scans that cannot be read or do not fit, a loss that is not finite;
            of several processes, another one has ended.
    """
    with _threads.threads(), world(device, out) as processes, ExitStack() as stack:
        _Trainer(task, out, options, described, processes, resume, progress or (lambda step, text: None), stack).run()


class _Trainer:
    def __init__(
        self,
        task: Task,
        out: str | os.PathLike[str],
        options: TrainerOptions,
        described: Description,
        processes: World,
        resume: bool,
        progress: Progress,
        stack: ExitStack,
    ) -> None:
        self.options, self.world, self.progress = options, processes, progress
        self.task = task.to(processes.device)
        self.optimizer = torch.optim.Adam(self.task.parameters(), options.rate)
        self.step, self.best, self.worse = 0, -math.inf, 0
        self.score = ""  # the measure by which the best weights are found, of one kind for the whole run
        self.folder: RunFolder | None = None

        def opened() -> Any:
            try:
                stack.enter_context(held(Path(out)))
            except InputError as error:
                raise InputError(f"out: {error}") from error
            self.folder = RunFolder(out, described, resume=resume)
            return self.folder.restore()

        found = processes.from_first(opened)
        if found is not None:
            self._restore(*found)
        self.fresh = found is None
        self.model = DistributedDataParallel(self.task) if processes.size > 1 else self.task
        if self.folder is not None:
            self.folder.begin(self.step)

    def _restore(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        try:
            self.task.load_state_dict(_under("task", tensors))
        except RuntimeError as error:
            raise InputError("weights: expected those that the run to resume began with, or alike") from error
        state = self.optimizer.state_dict()
        parts = _under("optimizer", tensors)
        state["state"] = {i: _under(str(i), parts) for i in range(len(state["param_groups"][0]["params"]))}
        try:
            self.optimizer.load_state_dict(state)
            self.step, self.best, self.worse = numbers["step"], numbers["best"], numbers["worse"]
            self.score = numbers["score"]
        except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
            raise InputError(f"out: expected a checkpoint of this run, but it is damaged: {error!r}") from error

    def run(self) -> None:
        try:
            self._run()
        finally:
            if self.folder is not None:
                self.folder.close()

    def _run(self) -> None:
        o = self.options
        if self.fresh:
            self._keep_if_better()
        workers = _workers(self.world.device)
        batches = DataLoader(
            _Samples(self.task, o.seed),
            batch_sampler=_Indices(range(self.step + 1, o.steps + 1), o.batch, self.world),
            num_workers=workers,
            pin_memory=self.world.device.type == "cuda",
            collate_fn=_together,
        )
        iterator = iter(batches)
        while self.step < o.steps and not (o.patience and self.worse >= o.patience):
            self._one_step(self._next(iterator))
            if self.step % o.every == 0 or self.step == o.steps:
                self._checkpoint()
        if self.folder is not None:
            self.folder.draw_curves()

    def _next(self, batches: Iterator[Batch | InputError]) -> Batch:
        """
        Raises:
            InputError: a scan that cannot be used, or the process that read it was killed.
        """
        try:
            batch = next(batches)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise InputError(
                f"a process that read scans of step {self.step + 1} has ended, as one does that takes more memory than"
                f" there is; --resume goes on from the last checkpoint"
            ) from error
        if isinstance(batch, InputError):
            raise batch
        return {name: value.to(self.world.device, non_blocking=True) for name, value in batch.items()}

    def _one_step(self, batch: Batch) -> None:
        start, device = time.perf_counter(), self.world.device.type
        self.step += 1
        torch.manual_seed(seeded(self.options.seed, -self.step, self.world.rank))  # of networks that draw
        with torch.autocast(device, torch.bfloat16, enabled=is_narrow(self.options.precision, device, batch.values())):
            losses = self.model(batch)
        total = torch.stack(list(losses.values())).sum()
        if self.options.cosine:
            for group in self.optimizer.param_groups:
                group["lr"] = self.options.rate * (1 + math.cos(math.pi * self.step / self.options.steps)) / 2
        self.optimizer.zero_grad()
        torch.autograd.backward(total)
        values = self.world.means({"loss": total, **losses})
        gradients = [p.grad for p in self.task.parameters() if p.grad is not None]
        if not all(map(math.isfinite, values.values())):
            raise self._diverged(f"losses of step {self.step} are not finite, {values}", losses.values())
        if not torch.isfinite(nn.utils.get_total_norm(gradients)):  # the weights that they lead to may be kept
            raise self._diverged(f"gradients of step {self.step} are not finite", losses.values())
        self.optimizer.step()
        if self.folder is not None:
            values["seconds"] = time.perf_counter() - start
            self.folder.log("training", self.step, values)
            self.progress(self.step, f"loss {values['loss']:.4f}")

    def _diverged(self, what: str, losses: Collection[Tensor]) -> InputError:
        """Of all processes, with the pairs of the step, or those alone by which a loss is not finite."""
        pairs = []
        for index in _Indices(range(self.step, self.step + 1), self.options.batch, self.world).of(self.step):
            pairs.append(" and ".join(self.task.names(_generator(self.options.seed, index))))
        own = [] if all(bool(loss.isfinite()) for loss in losses) else pairs
        named = some(self.world.gathered(own) or self.world.gathered(pairs))
        return InputError(f"rate: the {what}, of {named}; expected a lower one; the last checkpoint is kept")

    def _checkpoint(self) -> None:
        """Weights first: whoever is killed in between comes here again and writes the same ones."""
        self._keep_if_better()
        if self.folder is not None:
            tensors = {f"task.{name}": value for name, value in self.task.state_dict().items()}
            for i, state in self.optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{i}.{name}": value for name, value in state.items()}
            self.folder.save(tensors, self._numbers())

    def _numbers(self) -> dict[str, Any]:
        return {"step": self.step, "best": self.best, "worse": self.worse, "score": self.score}

    def _keep_if_better(self) -> None:
        score = self._validated() if self.task.validations else math.nan
        # What is not defined is no worse; and until a score is, the weights to keep are the last ones.
        if score > self.best or self.best == -math.inf:
            self.best, self.worse = max(self.best, score), 0
            if self.folder is not None:
                self.task.save(self.folder.path)
        elif not math.isnan(score):
            self.worse += 1

    def _validated(self) -> float:
        """The score, the larger the better; NaN where it is not defined for any pair."""
        self.task.eval()
        with torch.no_grad():
            own = [self._measured(i) for i in range(self.world.rank, self.task.validations, self.world.size)]
        known = _known(self.world.gathered(own))
        if not known:
            raise InputError("data: expected scans to validate with, but not one pair of them can be used")
        with torch.no_grad():
            shown = self.task.picture() if self.folder is not None else None
        self.task.train()
        self.score = self.score or self._chosen(known)
        means = {name: fmean(known[name]) if known.get(name) else math.nan for name in {self.score: None} | known}
        if self.folder is not None and shown is not None:
            self.folder.log("validation", self.step, means)
            self.folder.show("validation", self.step, shown)
        return means[self.score] if self.task.scores[self.score] else -means[self.score]

    def _measured(self, index: int) -> dict[str, float]:
        """Nothing of scans that are skipped."""
        try:
            return self.task.validate(index)
        except InputError as error:
            skip(error, self.options.bad_scans)
            return {}

    def _chosen(self, known: Mapping[str, Sequence[float]]) -> str:
        """The first of the measures for a score that any pair has."""
        names = [name for name in self.task.scores if name in known]
        chosen = next((name for name in names if known[name]), names[0])
        count, total = len(known[chosen]), self.task.validations
        if self.world.rank == 0 and (count < total or chosen != names[0]):
            why = "" if chosen == names[0] else f", as {names[0]} is not defined for any"
            notice(f"data: the score is {chosen}, of {count} of {total} validation pairs{why}")
        return chosen


def _known(measured: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Of each measure that any pair has, the values that are defined."""
    names = dict.fromkeys(name for pair in measured for name in pair)
    return {name: [pair[name] for pair in measured if not math.isnan(pair.get(name, math.nan))] for name in names}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}
