"""A registration by any tool in a process of its own: what it found, in a file, and what it took."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from l2rfast.io import Volume

from . import machine
from .tools import DISTRIBUTIONS, OTHERS, TOOLS, Fields

THREADS = ("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
BUSY = 0.1  # processors that others may keep busy before a time is said to be taken beside other work


@dataclass(frozen=True)
class Taken:
    """What a registration took.

    Attributes:
        seconds: wall time of the call.
        cpu_seconds: of all its threads and processes.
        others: how many processors everything else kept busy meanwhile.
        peak_bytes: the largest resident memory of its process.
        before_bytes: that before the call: Python, PyTorch, l2rfast, the tool and the images.
        instruction_set: the best that the machine has, or was told to take.
        cpu: the machine's; empty in reports of before it was noted.
    """

    seconds: float
    cpu_seconds: float
    others: float
    peak_bytes: int | None
    before_bytes: int | None
    instruction_set: str
    cpu: str = ""

    @property
    def processor(self) -> str:
        """What ran it, in words."""
        return ", ".join(filter(None, (self.cpu, self.instruction_set)))


def run(
    tool: str, fixed: Volume, moving: Volume, threads: int, kept: Path, instruction_set: str | None = None
) -> Taken:
    """Register in a process of its own with so many threads, and keep the fields in a file.

    With no better instruction set than this, if one is given.

    Raises:
        ImportError: its package is absent.
    """
    environment = dict.fromkeys(THREADS, str(threads)) | machine.limited(instruction_set)
    return machine.in_a_fresh_process(_run, tool, fixed, moving, threads, kept, **environment)


def _run(tool: str, fixed: Volume, moving: Volume, threads: int, kept: Path) -> Taken:
    torch.set_num_threads(threads)
    folder = Path(tempfile.mkdtemp(prefix="l2rfast-bench-"))
    try:
        call = (TOOLS | OTHERS)[tool](fixed, moving, folder)
        machine.reset_peak_memory()  # of reading the images
        before = machine.peak_memory()
        start, own, others = time.perf_counter(), _own_seconds(), machine.seconds_of_others()
        converted = call()
        seconds = time.perf_counter() - start
        taken = Taken(
            seconds,
            _own_seconds() - own,
            (machine.seconds_of_others() - others) / seconds,
            machine.peak_memory(),
            before,
            machine.instruction_set(),
            machine.describe()["cpu"],
        )
        save(kept, converted(), taken)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return taken


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def versions(before: dict[str, str]) -> dict[str, str]:
    """Of the software, the tools among it; what is not installed keeps the version that it was measured with."""
    return {
        name: before.get(name, version) if version == machine.ABSENT else version
        for name, version in machine.software(*DISTRIBUTIONS).items()
    }


def save(file: Path, fields: Fields, taken: Taken) -> None:
    """All or nothing."""
    arrays = {name: value for name, value in vars(fields).items() if value is not None}
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(".new.npz")
    np.savez(new, **arrays, **{f"taken_{name}": value for name, value in asdict(taken).items() if value is not None})
    new.replace(file)


def load(file: Path) -> Fields:
    """What `save` kept."""
    with np.load(file) as found:
        arrays = {name: found[name] for name in found.files if not name.startswith("taken_")}
    return Fields(**{name: a if name == "matrix" else torch.from_numpy(a) for name, a in arrays.items()})
