"""The folder of a run: options, checkpoint, logs, curves. Whenever the process dies, it can be resumed from there."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tensorboardX import SummaryWriter
from torch import Tensor

from l2rfast.errors import InputError

from ..files import remove_unfinished, write_whole

OPTIONS, CHECKPOINT, CURVES, BOARD = "options.json", "checkpoint.safetensors", "curves.png", "tensorboard"
LOGS = ("training", "validation")


class RunFolder:
    """Writes and reads what is in it.

    Args:
        path: of the folder, created if absent.
        options: of the run, by name; plain values.
        resume: go on with the run that is there, if one is.
        free: names of the options that may be others than they were then.

    Raises:
        InputError: a run is there and not to be resumed, or had other options; or the folder cannot be written.
    """

    def __init__(
        self, path: str | os.PathLike[str], options: Mapping[str, Any], *, resume: bool, free: Sequence[str] = ()
    ) -> None:
        self.path = Path(path)
        file = self.path / OPTIONS
        with self._writing():
            self.path.mkdir(parents=True, exist_ok=True)
            if file.exists():
                if not resume:
                    raise InputError(f"out: a run is in {self.path} already; go on with it by --resume")
                self._compare(file, options, free)
            remove_unfinished(self.path)
            text = json.dumps(dict(options), indent=1) + "\n"
            write_whole(file, lambda new: new.write_text(text))

    def _compare(self, file: Path, options: Mapping[str, Any], free: Sequence[str]) -> None:
        try:
            before = dict(json.loads(file.read_text()))
        except (ValueError, TypeError) as error:
            raise InputError(f"out: {file} is damaged: {error}") from error
        now = json.loads(json.dumps(dict(options)))
        for name in sorted((before.keys() | now.keys()) - set(free)):
            if before.get(name) != now.get(name):
                raise InputError(
                    f"{name}: expected {before.get(name)!r}, as in the run to resume, got {now.get(name)!r}"
                )

    def restore(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The last checkpoint's tensors and numbers, None if there is none. Logs are cut back to it.

        Raises:
            InputError: it cannot be read.
        """
        file, found = self.path / CHECKPOINT, None
        if file.exists():
            try:
                with safe_open(file, "pt") as opened:
                    tensors = {name: opened.get_tensor(name) for name in [*opened.keys()]}
                    found = tensors, json.loads(opened.metadata()["run"])
            except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
                raise InputError(f"out: cannot use {file}: {error}") from error
        with self._writing():
            for log in LOGS:
                self._cut(self.path / f"{log}.csv", found[1]["step"] if found else -1)
        return found

    def _cut(self, file: Path, step: int) -> None:
        if file.exists():
            rows = self._rows(file)
            kept = rows[:1] + [row for row in rows[1:] if len(row) == len(rows[0]) and int(row[0]) <= step]
            text = "".join(",".join(row) + "\n" for row in kept) if step >= 0 else ""
            write_whole(file, lambda new: new.write_text(text))

    @staticmethod
    def _rows(file: Path) -> list[list[str]]:
        with file.open(newline="") as stream:
            return list(csv.reader(stream))

    def save(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Replace the checkpoint. ``numbers`` has the ``step``.

        Raises:
            InputError: it cannot be written; the last one is there still.
        """
        packed = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        with self._writing():
            write_whole(self.path / CHECKPOINT, lambda new: save_file(packed, new, {"run": json.dumps(numbers)}))

    def log(self, log: str, step: int, values: Mapping[str, float]) -> None:
        """Append a row to ``training.csv`` or ``validation.csv``."""
        file = self.path / f"{log}.csv"
        with self._writing(), file.open("a") as stream:
            if stream.tell() == 0:
                stream.write(",".join(["step", *values]) + "\n")
            stream.write(",".join(map(str, [step, *values.values()])) + "\n")

    def board(self, step: int) -> Any:
        """TensorBoard's writer, for what comes after that step."""
        with self._writing():
            return SummaryWriter(str(self.path / BOARD), purge_step=step + 1)

    def draw_curves(self) -> None:
        """``curves.png``: every column of both logs against the step."""
        import matplotlib
        from matplotlib.figure import Figure

        with matplotlib.rc_context({"axes.grid": True, "grid.alpha": 0.3}):
            figure = Figure(figsize=(10, 4), layout="constrained")
            for log, axes in zip(LOGS, figure.subplots(1, len(LOGS)), strict=True):
                axes.set(title=log, xlabel="step")
                file = self.path / f"{log}.csv"
                rows = self._rows(file) if file.exists() else []
                steps = [int(row[0]) for row in rows[1:]]
                for i, name in enumerate(rows[0] if rows else []):
                    if name not in ("step", "seconds"):
                        axes.plot(steps, [float(row[i]) for row in rows[1:]], label=name, marker="." * (log == LOGS[1]))
                if steps:
                    axes.legend()
            with self._writing():
                write_whole(self.path / CURVES, lambda new: figure.savefig(new, dpi=120, format="png"))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"out: expected a folder that can be written, but of {self.path}: {error}") from error
        except SafetensorError as error:
            raise InputError(f"out: cannot write to {self.path}: {error}") from error
