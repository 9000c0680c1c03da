"""The command line in this process, or waited for in another, images that are refused, and small runs of training."""

from __future__ import annotations

import csv
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from l2rfast import InputError, cli, io
from l2rfast.io import Volume, write_image

PATIENCE = 600  # seconds; what hangs is told from a machine that stalls, which may last minutes
SMALL = ("--encoder=4,4", "--decoder=4,4,4,4", "--rate=1e-3")


def refused(path: Path) -> str:
    """What an image is refused with: one sentence that names it."""
    with pytest.raises(InputError) as caught:
        io.as_volume("FIXED", path, dims=(2, 3))
    message = str(caught.value)
    assert message.startswith(f"FIXED ({path}): ")
    assert "\n" not in message
    return message


def partly(
    folder: Path, labelled: Sequence[int] = (), landmarks: Sequence[int] = (), empty: Sequence[int] = ()
) -> Path:
    """Five subjects, some with labels, some with landmarks, some with label maps that have none."""
    subjects = datasets.write(folder, 5, (30, 26))
    (folder / "landmarks").mkdir()
    for i, subject in enumerate(subjects):
        if i in landmarks:
            (folder / "landmarks" / f"case{i}.csv").write_text(f"10,{12 + i}\n")
        if i in empty:
            file = folder / "labels" / f"case{i}.nii.gz"
            write_image(file, Volume(torch.zeros_like(subject.labels[0, 0]), np.eye(4)))
        elif i not in labelled:
            (folder / "labels" / f"case{i}.nii.gz").unlink()
    return folder


def command(scans: Path, out: Path, *options: str) -> list[str]:
    arguments = ["train", "unsupervised", f"--data={scans}", f"--out={out}", "--hold-out=2", "--quiet"]
    return [*arguments, *SMALL, *options]


def train(scans: Path, out: Path, *options: str) -> tuple[int, str]:
    return invoke(*command(scans, out, *options))


def invoke(*arguments: object, **context: Any) -> tuple[int, str]:
    """The command line in this process, in a context of Click's: its exit code and what is on the standard error."""
    result = CliRunner().invoke(cli.app, [*map(str, arguments)], **context)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stderr


def until(condition: Callable[[], object], process: subprocess.Popen[Any]) -> None:
    """Wait for something that a process does within seconds of its start."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, f"it ended too early, with code {process.returncode}"
        assert time.monotonic() < deadline
        time.sleep(0.001)


def rows(out: Path, log: str = "training") -> list[dict[str, float]]:
    with (out / f"{log}.csv").open() as stream:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(stream)]


def same_run(a: Path, b: Path) -> bool:
    """The same weights, state of the optimiser and measures, bit for bit."""
    for file in ("checkpoint.safetensors", "weights.safetensors"):
        one, other = load_file(a / file), load_file(b / file)
        if one.keys() != other.keys() or not all(torch.equal(value, other[name]) for name, value in one.items()):
            return False
    losses = [[{**row, "seconds": 0.0} for row in rows(run)] for run in (a, b)]
    return losses[0] == losses[1] and rows(a, "validation") == rows(b, "validation")


def events(folder: Path) -> Iterator[Any]:
    """The records of TensorBoard's files."""
    from tensorboardX.proto.event_pb2 import Event

    for file in sorted(folder.iterdir()):
        content, place = file.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            yield Event.FromString(content[place + 12 : place + 12 + length])
            place += length + 16
