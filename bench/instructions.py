"""``python -m bench.instructions``: how many instructions the main kernels take, by callgrind, and a record of them.

Instructions are no time, but they are the same on every machine and beside any other work: ``--check`` fails where a
kernel takes more than 3 % above the record, ``bench/reports/instructions.json``, and says which. They depend on the
compiler, its flags and PyTorch: where one of these is another than the record's it says that nothing was compared.

Valgrind has no AVX-512: the libraries for AVX2 and for any processor are counted, each in a process with one thread, in
which callgrind starts to count when the inputs are made and every kernel has run once. What is counted is a call from
Python: some 200,000 instructions of it, a few percent, are Python's and PyTorch's.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

import l2rfast

from .build import build_script
from .cases import inputs
from .report import digits, table

ROOT = Path(__file__).parent.parent
RECORD = ROOT / "bench" / "reports" / "instructions.json"
SETS = ("avx2", "default")
RISE = 0.03  # of the instructions of a kernel: more is a fault
SHAPE = (32, 48, 96)
HALF = (16, 32, 32)  # of a velocity
GRID = (12, 12, 16)  # of control points
RADIUS = 3  # of the displacements that are searched

Run = Callable[[], object]


@dataclass
class Counted:
    """What a call of a kernel took.

    Attributes:
        per: what it is counted per, as a voxel.
        of: how many of these the call had.
        instructions: of the call.
    """

    per: str
    of: int
    instructions: int


@dataclass
class Record:
    """Instructions by instruction set and kernel, and what they depend on."""

    software: dict[str, str]
    counted: dict[str, dict[str, Counted]] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> Record:
        content = json.loads(file.read_text())
        counted = {
            name: {kernel: Counted(**one) for kernel, one in kernels.items()}
            for name, kernels in content["counted"].items()
        }
        return cls(content["software"], counted)

    def write(self, file: Path) -> None:
        """The record, and beside it a table for people."""
        file.write_text(json.dumps(asdict(self), indent=1) + "\n")
        file.with_suffix(".md").write_text(self.markdown())

    def markdown(self) -> str:
        sets = list(self.counted)
        rows = [
            [kernel, one.per, *(digits(self.counted[s][kernel].instructions / one.of) for s in sets)]
            for kernel, one in self.counted[sets[0]].items()
        ]
        text = (
            f"Counted by callgrind, one call from Python on one thread, inputs of {inputs.text(SHAPE)} voxels and of "
            f"{inputs.text(GRID)} control points. Valgrind has no AVX-512. `python -m bench.instructions` counts anew, "
            f"`--check` fails where a kernel takes {RISE:.0%} more than here: in the tests, for {SETS[0]}."
        )
        parts = [
            "# Instructions",
            text,
            table(["kernel", "instructions per", *sets], rows),
            table(["software", "version"], [list(item) for item in self.software.items()]),
        ]
        return "\n\n".join(parts) + "\n"


@dataclass(frozen=True)
class Kernel:
    """What is counted: `make` makes a call, on inputs that it has; `of` is how many of `per` the call has."""

    make: Callable[[], Run]
    of: int
    per: str = "voxel"


def kernels() -> dict[str, Kernel]:
    """Those that the README names, and where `register` spends its time."""
    image, other = inputs.image(SHAPE, 1), inputs.image(SHAPE, 3)
    disp, weight = inputs.displacement(SHAPE), inputs.noise(SHAPE, 1, 4, seed=3)
    velocity, weights = inputs.smooth_field(HALF), inputs.noise(HALF, 3, 4, seed=3)
    fixed, moving = (inputs.image(GRID, seed, 12) for seed in (1, 3))
    cost = l2rfast.correlation(fixed, moving, RADIUS, smoothing=2)

    def warp_backward() -> Run:
        leaves = image.clone().requires_grad_(), disp.clone().requires_grad_()
        return partial(torch.autograd.grad, l2rfast.warp(*leaves), leaves, weight)

    local_ncc = partial(inputs.with_gradients, l2rfast.local_ncc, (image, other), (0, 1))
    integrate = partial(l2rfast.integrate_velocity, steps=7)
    calls: dict[str, Run] = {
        "warp": partial(l2rfast.warp, image, disp),
        "local NCC, forward and backward to both images": local_ncc,
        "local NCC of a warped image, and its gradient to the field": partial(
            l2rfast.warp_local_ncc, image, other, disp
        ),
        "the same in windows of blocks of 2 voxels": partial(
            l2rfast.warp_local_ncc, image, other, disp, window=10, blocks=2
        ),
        "compose": partial(l2rfast.compose, disp, disp),
        "box average": partial(l2rfast.box_average, disp, 3),
        "MIND-SSC": partial(l2rfast.mind_ssc, image, 1, 2),
    }
    searches: dict[str, Run] = {
        "correlation, smoothed twice": partial(l2rfast.correlation, fixed, moving, RADIUS, smoothing=2),
        "coupled convex": partial(l2rfast.coupled_convex, cost),
        "min-convolution": partial(l2rfast.min_convolution, cost, 0.3),
    }
    return {
        **{name: Kernel(lambda run=run: run, image.numel()) for name, run in calls.items()},
        "warp, backward to image and field": Kernel(warp_backward, image.numel()),
        "integrate velocity, forward and backward": Kernel(
            lambda: partial(inputs.with_gradients, integrate, (velocity,), (0,), weights), math.prod(HALF)
        ),
        **{name: Kernel(lambda run=run: run, cost.numel(), "cost") for name, run in searches.items()},
    }


def count(requests: Path) -> dict[str, Any]:
    """In the process that callgrind watches: has it write a file for each kernel; what these are counts of."""
    callgrind = ctypes.CDLL(str(requests))
    made = kernels()
    for kernel in made.values():
        kernel.make()()  # what is done once in a process
    gc.disable()
    callgrind.start()
    for name, kernel in made.items():
        run = kernel.make()
        callgrind.forget()
        run()
        callgrind.write(name.encode())
    return {
        "instruction set": l2rfast.info().instruction_set,
        "kernels": {name: (kernel.per, kernel.of) for name, kernel in made.items()},
    }


def total(text: str) -> tuple[str, int]:
    """Of a file of callgrind's: the kernel that it is of, and its instructions."""
    name = re.search(r"^desc: Trigger: Client Request: (.*)$", text, re.M)
    instructions = re.search(r"^summary: (\d+)$", text, re.M)
    assert name is not None
    assert instructions is not None
    return name[1], int(instructions[1])


def counted(instruction_set: str) -> dict[str, Counted]:
    """Of the library for an instruction set, in a process under callgrind.

    Raises:
        subprocess.CalledProcessError: it failed, and has said why.
        RuntimeError: it has taken another library.
    """
    with tempfile.TemporaryDirectory() as folder:
        requests, files = Path(folder, "requests.so"), Path(folder, "counted")
        source = ROOT / "bench" / "callgrind.cpp"
        subprocess.run(["g++", "-shared", "-fPIC", source, "-o", requests], check=True)
        command = ["valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={files}"]
        command += [sys.executable, "-m", "bench.instructions", f"--count={requests}"]
        own = {"ATEN_CPU_CAPABILITY": instruction_set, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
        done = subprocess.run(command, cwd=ROOT, env=os.environ | own, stdout=subprocess.PIPE, text=True, check=True)
        told = json.loads(done.stdout)
        if told["instruction set"] != instruction_set:
            raise RuntimeError(f"the library for {told['instruction set']} was loaded, not that for {instruction_set}")
        totals = dict(total(file.read_text()) for file in Path(folder).glob("counted.*"))
    return {name: Counted(per, of, totals[name]) for name, (per, of) in told["kernels"].items()}


def library(instruction_set: str) -> Path:
    return Path(l2rfast.__file__).with_name(f"_cpp_{instruction_set}.so")


def compiler() -> str:
    """What it says of itself in what it has compiled."""
    said = [found for name in SETS for found in re.findall(rb"GCC: \([^)]*\) [\d.]+", library(name).read_bytes())]
    return ", ".join(sorted({found.decode() for found in said}))


def software() -> dict[str, str]:
    """What instructions depend on, besides the sources."""
    setup = build_script()
    version = subprocess.run(["valgrind", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return {
        "compiler": compiler(),
        "flags": " ".join(setup.FLAGS),
        "flags, Python's own": str(sysconfig.get_config_var("CFLAGS")),  # setuptools adds these
        **{f"flags, {name}": " ".join(setup.INSTRUCTION_SETS[name]) for name in SETS},
        "torch": torch.__version__,
        "valgrind": version,
    }


def hindrance(record: Record) -> str | None:
    """Why nothing can be compared here; None where it can."""
    if shutil.which("valgrind") is None:
        return "there is no valgrind"
    if l2rfast.info().instruction_set not in ("avx512", "avx2"):
        return "this processor has no AVX2, or ATEN_CPU_CAPABILITY excludes it"
    missing = [name for name in SETS if not library(name).exists()]
    if missing:
        return f"there is no library for {' and '.join(missing)}"
    return other_software(record.software, software())


def other_software(before: dict[str, str], now: dict[str, str]) -> str | None:
    """How what instructions depend on differs from the record's; None where it does not."""
    differ = [name for name in before | now if before.get(name) != now.get(name)]
    told = [f"{name} {now.get(name) or 'none'!r}, the record's {before.get(name) or 'none'!r}" for name in differ]
    return "; ".join(told) or None


def rises(before: dict[str, Counted], now: dict[str, Counted]) -> list[str]:
    """A sentence for every kernel that takes more than the record allows, or that it does not have."""
    told = []
    for name, one in now.items():
        old = before.get(name)
        if old is None or (old.per, old.of) != (one.per, one.of):
            told.append(f"{name}: the record has none of these inputs")
        elif one.instructions > (1 + RISE) * old.instructions:
            rise = one.instructions / old.instructions - 1
            each = [digits(count.instructions / count.of) for count in (old, one)]
            told.append(f"{name}: {rise:.1%} more instructions, {each[1]} a {one.per} where the record has {each[0]}")
    return told


def check(sets: Sequence[str]) -> list[str]:
    """What takes too many instructions now, by what there is to compare with."""
    record = Record.read(RECORD)
    return [f"{name}, {told}" for name in sets for told in rises(record.counted.get(name, {}), counted(name))]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.instructions", description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail where there are more than in the record")
    parser.add_argument("--count", type=Path, help=argparse.SUPPRESS)  # what the process under callgrind is told
    arguments = parser.parse_args(argv)
    if arguments.count:
        print(json.dumps(count(arguments.count)))
        return 0
    if not arguments.check:
        record = Record(software(), {name: counted(name) for name in SETS})
        record.write(RECORD)
        print(record.markdown())
        return 0
    reason = hindrance(Record.read(RECORD))
    if reason:
        print(f"Instructions were not compared: {reason}.")
        return 0
    told = check(SETS)
    print("\n".join(told) or f"No kernel takes over {RISE:.0%} more instructions than in {RECORD.relative_to(ROOT)}.")
    return int(bool(told))


if __name__ == "__main__":
    sys.exit(main())
