"""The folder of a run: options, checkpoint, logs, curves. Whenever the process dies, it can be resumed from there."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from l2rfast._folders import made, sync
from l2rfast._json import parsed
from l2rfast.errors import InputError
from l2rfast.io.reading import check_file
from l2rfast.output import written_whole

from .board import Board
from .options import TrainerOptions

OPTIONS, CHECKPOINT, CURVES, BOARD = "options.json", "checkpoint.safetensors", "curves.png", "tensorboard"
LOGS = ("training", "validation")


@dataclass(frozen=True)
class Description:
    """What a run is of.

    Attributes:
        options: by name; plain values.
        usual: what options were before there were such ones, by name: what they are unless told.
        free: names of the options that may be others when the run is resumed.
    """

    options: Mapping[str, Any]
    usual: Mapping[str, Any] = field(default_factory=dict)
    free: Collection[str] = ()

    @classmethod
    def of(
        cls,
        method: str,
        data: str | os.PathLike[str],
        cases: str,
        options: Any,
        trainer: TrainerOptions,
        **more: Any,
    ) -> Description:
        """
        Args:
            method: its name.
            data: where the scans come from; empty without any. It may lie elsewhere when the run is resumed, as may the
                weights that it began with.
            cases: what tells the scans from others, as `Pairs.identity` does.
            options: the method's, a dataclass with ``weights``.
            trainer: see `TrainerOptions`.
            more: what else there was to choose.
        """
        told = {"method": method, "data": os.path.abspath(data) if data else "", "cases": cases, **more}
        usual = {f.name: f.default for group in (options, trainer) for f in fields(group)}
        return cls(told | asdict(options) | asdict(trainer), usual, {*trainer.free, "data", "weights", "atlas"})


def _own(path: str, flags: int) -> int:
    """Opens a file, and no link to one elsewhere."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


class RunFolder:
    """Writes and reads what is in it.

    Args:
        path: of the folder, created if absent.
        described: what the run is of.
        resume: go on with the run that is there, if one is.

    Raises:
        InputError: a run is there and not to be resumed, or is another; or the folder cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], described: Description, *, resume: bool) -> None:
        self.path = Path(path)
        self._columns: dict[str, list[str]] = {}  # of each log
        self._board: Board | None = None
        file = self.path / OPTIONS
        with self._writing():
            made(self.path)
            if file.exists():
                if not resume:
                    raise InputError(f"out: a run is in {self.path} already; go on with it by --resume")
                self._compare(file, described)
            with written_whole(file, links=False) as new:
                new.write_text(json.dumps(dict(described.options), indent=1) + "\n")

    def _compare(self, file: Path, described: Description) -> None:
        check_file(f"out: {file}", file)
        try:
            before = dict(parsed(file.read_text()))
        except (ValueError, TypeError) as error:
            raise InputError(f"out: {file} is damaged: {error}") from error
        now, usual = (json.loads(json.dumps(dict(values))) for values in (described.options, described.usual))
        for name in sorted((before.keys() | now.keys()) - set(described.free)):
            expected = before.get(name, usual.get(name, now.get(name)))
            if expected != now.get(name):
                option = "data" if name == "cases" else name  # what tells its pairs from others is no option
                run = "the run to resume" + ", over whose steps the cosine falls" * (name == "steps")
                raise InputError(f"{option}: expected {expected!r}, as in {run}, got {now.get(name)!r}")

    def restore(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The last checkpoint's tensors and numbers, None if there is none. Logs are cut back to it.

        Where the numbers do not have the ``score`` of the run, it is the first measure of ``validation.csv``.

        Raises:
            InputError: it cannot be read.
        """
        file, found = self.path / CHECKPOINT, None
        if file.exists():
            check_file(f"out: {file}", file)
            try:
                with safe_open(file, "pt") as opened:
                    tensors = {name: opened.get_tensor(name) for name in [*opened.keys()]}
                    found = tensors, parsed(opened.metadata()["run"])
            except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
                raise InputError(f"out: cannot use {file}: {error}") from error
        for log in LOGS:
            try:
                with self._writing():
                    self._cut(log, int(found[1]["step"]) if found else -1)
            except (ValueError, TypeError, LookupError, csv.Error) as error:
                if isinstance(error, InputError):
                    raise
                raise InputError(f"out: {self.path / log}.csv or {file.name} beside it is damaged: {error}") from error
        if found:
            found[1].setdefault("score", next(iter(self._columns.get("validation", [])[1:]), ""))
        return found

    def _cut(self, log: str, step: int) -> None:
        file = self.path / f"{log}.csv"
        rows = self._rows(file)
        if rows:
            if rows[0][:1] != ["step"]:
                raise ValueError(f"expected a first column step in {file.name}, got {rows[0][:1]}")
            kept = [row for row in rows[1:] if len(row) == len(rows[0]) and int(row[0]) <= step]
            for value in (value for row in kept for value in row):
                float(value)  # by which curves are drawn
            self._columns[log] = rows[0] if step >= 0 else []
            self._replace(file, [rows[0], *kept] if step >= 0 else [])

    @staticmethod
    def _replace(file: Path, rows: Sequence[Sequence[str]]) -> None:
        with written_whole(file, links=False) as new:
            new.write_text("".join(",".join(row) + "\n" for row in rows))

    @staticmethod
    def _rows(file: Path) -> list[list[str]]:
        if not file.exists():
            return []
        check_file(f"out: {file}", file)
        with file.open(newline="") as stream:
            return list(csv.reader(stream))

    def save(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Replace the checkpoint. ``numbers`` has the ``step``.

        Raises:
            InputError: it cannot be written; the last one is there still.
        """
        packed = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        with self._writing():
            for log in LOGS:  # whose rows the checkpoint goes on from
                if (file := self.path / f"{log}.csv").exists():
                    sync(file)
            with written_whole(self.path / CHECKPOINT, links=False) as new:
                new.write_bytes(save(packed, {"run": json.dumps(numbers)}))
            if self._board is not None:
                self._board.flush()

    def log(self, log: str, step: int, values: Mapping[str, float]) -> None:
        """Append a row to ``training.csv`` or ``validation.csv``, and show it in TensorBoard. What older rows do
        not have is NaN there."""
        file, row = self.path / f"{log}.csv", {"step": step, **values}
        columns = self._columns.setdefault(log, [])
        new = [name for name in row if name not in columns]
        with self._writing():
            if new:
                rows = [line + [str(math.nan)] * len(new) for line in self._rows(file)[1:]]
                columns += new
                self._replace(file, [columns, *rows])
            with open(file, "a", opener=_own) as stream:
                stream.write(",".join(str(row.get(name, math.nan)) for name in columns) + "\n")
            if self._board is not None:
                self._board.scalars(step, {f"{log}/{name}": value for name, value in values.items()})

    def begin(self, step: int) -> None:
        """Have TensorBoard show what is logged, from that step on. The caller has to `close` it."""
        with self._writing():
            self._board = Board(self.path / BOARD, step)

    def show(self, log: str, step: int, image: Tensor) -> None:
        """A picture of a step in TensorBoard: (H, W) from 0 to 1."""
        if self._board is not None:
            with self._writing():
                self._board.picture(step, log, image)

    def close(self) -> None:
        if self._board is not None:
            with self._writing():
                self._board.close()

    def draw_curves(self) -> None:
        """``curves.png``: every column of both logs against the step."""
        import matplotlib
        from matplotlib.figure import Figure

        with matplotlib.rc_context({"axes.grid": True, "grid.alpha": 0.3}):
            figure = Figure(figsize=(10, 4), layout="constrained")
            for log, axes in zip(LOGS, figure.subplots(1, len(LOGS)), strict=True):
                axes.set(title=log, xlabel="step")
                rows = self._rows(self.path / f"{log}.csv")
                steps = [int(row[0]) for row in rows[1:]]
                for i, name in enumerate(rows[0] if rows else []):
                    if name not in ("step", "seconds"):
                        axes.plot(steps, [float(row[i]) for row in rows[1:]], label=name, marker="." * (log == LOGS[1]))
                if steps:
                    axes.legend()
            with self._writing(), written_whole(self.path / CURVES, links=False) as new:
                figure.savefig(new, dpi=120, format="png")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"out: expected a folder that can be written, but of {self.path}: {error}") from error
