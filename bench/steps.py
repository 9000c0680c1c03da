"""``python -m bench.steps``: a step of training VoxelMorph, by our layers and by plain ones, in float32 and bfloat16,
with and without ``torch.compile``, with every instruction set.

A step is all that a loop of training does with two images: the network forward, local NCC of window 9 and diffusion,
backward, Adam. The contestants of an instruction set take turns in one process, which keeps the memory that it once
has; the memory that each needs is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

import l2rfast
from l2rfast.losses import diffusion_energy
from l2rfast.methods.unsupervised import VoxelMorph, network

from . import cases, given, machine, peers, plain
from .cases import inputs
from .harness import KEEPING, OURS
from .report import REPORTS, digits, kept, rounded, table
from .runs import BUSY

Step = Callable[[], float]
PLAIN = "plain VoxelMorph, voxelmorph's warp, neurite's NCC"
ROUNDS = 3
TIMES, SHARE = 2.0, 0.6  # faster than plain layers, and of their memory, that ours is to be
NARROW = "bfloat16"  # of which oneDNN has fast convolutions from AVX-512 on
EXPLANATION = """\
Medians [fastest, slowest] of the rounds, after a first step that is not counted (*first*, with what compiling takes,
or taking it from the cache of an earlier run).
*Memory* is the growth of the resident memory during a second step. *Faster* and *share* are against the plain network.
Convolutions are oneDNN's, in `channels_last_3d` but where it says otherwise; with AVX2 `ONEDNN_MAX_CPU_ISA=AVX2` holds
them to it as `ATEN_CPU_CAPABILITY=avx2` does the rest."""


def plain_step(size: Sequence[int]) -> Step:
    identity, ncc = peers.identity_grid(tuple(size))[0], peers.neurite_local_ncc()

    def loss(model: VoxelMorph, moving: Tensor, fixed: Tensor) -> Tensor:
        disp = plain.field(model, moving, fixed)
        return plain.diffusion(disp) - ncc(fixed, peers.voxelmorph_transform(moving, disp, identity))

    return step(size, loss)


def our_step(size: Sequence[int], *, narrow: bool = False, compiled: bool = False, layout: Any = None) -> Step:
    def loss(model: VoxelMorph, moving: Tensor, fixed: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            disp = model(moving, fixed).displacement
        return l2rfast.warp_local_ncc(fixed, moving, disp)[0].mean() + diffusion_energy(disp)

    run = step(size, torch.compile(loss) if compiled else loss)
    if layout is None:
        return run

    def other_layout() -> float:
        with patch.dict(network.LAYOUTS, {3: layout}):
            return run()

    return other_layout


def step(size: Sequence[int], loss: Callable[[VoxelMorph, Tensor, Tensor], Tensor]) -> Step:
    """That gives the loss."""
    torch.manual_seed(0)
    model = VoxelMorph()
    torch.nn.init.normal_(model.field.weight, std=0.01)  # a field that is of some voxels
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4)
    fixed, moving = (inputs.image(tuple(size), seed) for seed in (1, 3))

    def run() -> float:
        optimiser.zero_grad()
        value = loss(model, moving, fixed)
        torch.autograd.backward(value)
        optimiser.step()
        return float(value.detach())

    return run


CONTESTANTS: dict[str, Callable[[Sequence[int]], Step]] = {
    PLAIN: plain_step,
    OURS: our_step,
    f"{OURS}, {NARROW}": lambda size: our_step(size, narrow=True),
    f"{OURS}, torch.compile": lambda size: our_step(size, compiled=True),
    f"{OURS}, {NARROW}, torch.compile": lambda size: our_step(size, narrow=True, compiled=True),
    f"{OURS}, contiguous": lambda size: our_step(size, layout=torch.contiguous_format),
}


@dataclass
class Taken:
    """What a contestant took: seconds of the first step and of each round, bytes, and the loss before each step."""

    first: float
    extra_bytes: int | None
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


def growth(name: str, size: Sequence[int]) -> int | None:
    """In bytes, of the second step."""
    run = CONTESTANTS[name](size)
    run()
    return machine.memory_growth(run)


def taken(names: Sequence[str], size: Sequence[int], rounds: int) -> dict[str, Taken]:
    """In turns."""
    found: dict[str, Taken] = {}
    steps = {name: CONTESTANTS[name](size) for name in names}
    for turn in range(rounds + 1):
        for name, run in steps.items():
            start = machine.clock()
            loss = run()
            seconds = machine.clock() - start
            of = found.setdefault(name, Taken(seconds, None))
            of.losses.append(loss)
            if turn:
                of.seconds.append(seconds)
            print(f"{name}: {seconds:.2f} s, loss {loss:.5f}", flush=True)
    return found


def measured(names: Sequence[str], size: Sequence[int], rounds: int) -> dict[str, dict[str, Taken]]:
    """By instruction set and contestant."""
    found = {}
    for best in machine.instruction_sets():
        environment = machine.limited(best)
        fast = [name for name in names if NARROW not in name or best == "avx512"]
        found[best] = machine.in_a_fresh_process(taken, fast, size, rounds, **environment, **KEEPING)
        for name, of in found[best].items():
            of.extra_bytes = machine.in_a_fresh_process(
                growth, name, size, **environment, MALLOC_MMAP_THRESHOLD_=str(1 << 20)
            )
    return found


def page(found: dict[str, dict[str, Taken]], size: Sequence[int], others: float) -> list[str]:
    """In paragraphs of Markdown."""
    rows, targets = [], []
    for best, of in found.items():
        for name, one in of.items():
            times, share = _against(one, of.get(PLAIN))
            seconds = f"{digits(median(one.seconds))} [{digits(min(one.seconds))}, {digits(max(one.seconds))}]"
            memory = "" if one.extra_bytes is None else f"{one.extra_bytes / 1e9:.2f}"
            told = ["" if value is None else f"{value:.2f}" for value in (times, share)]
            rows.append([name, best, seconds, digits(one.first), memory, *told, f"{one.losses[-1]:.4f}"])
            if name == OURS and times is not None and share is not None:
                targets.append([f"faster, {best}", f">= {TIMES:g}", f"{times:.2f}", times >= TIMES])
                targets.append([f"share of memory, {best}", f"<= {SHARE:g}", f"{share:.2f}", share <= SHARE])
    busy = f"Others kept {others:.1f} processors busy meanwhile: times are not to be compared." if others > BUSY else ""
    head = ["layers", "set", "seconds", "first", "memory, GB", "faster", "share", "loss at the end"]
    judged = table(["target", "asked", "found", ""], [[*row, "met" if met else "**not met**"] for *row, met in targets])
    title = f"# A step of training VoxelMorph, {inputs.text(tuple(size))}"
    return [title, table(head, rows), judged if targets else "", EXPLANATION, busy]


def _against(one: Taken, other: Taken | None) -> tuple[float | None, float | None]:
    """How many times faster, and its share of memory."""
    if other is None:
        return None, None
    share = None if one.extra_bytes is None or not other.extra_bytes else one.extra_bytes / other.extra_bytes
    return median(other.seconds) / median(one.seconds), share


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.steps", description=__doc__)
    parser.add_argument("--only", choices=CONTESTANTS, nargs="+", default=list(CONTESTANTS), help="(default: all)")
    parser.add_argument("--size", choices=cases.SIZES, default="full", help="of the images (default: full)")
    parser.add_argument("--rounds", type=given.times, default=ROUNDS, help=f"after the first step (default: {ROUNDS})")
    parser.add_argument("--threads", type=given.times, default=os.cpu_count(), help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, default=REPORTS, help="folder of the report")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    multiple = VoxelMorph().architecture.multiple
    size = [-(-n // multiple) * multiple for n in cases.SIZES[arguments.size].dense]
    names = [name for name in arguments.only if name != PLAIN or find_spec("neurite") is not None]
    if len(names) < len(arguments.only):
        print(f"Skipped: {PLAIN} (neurite is not installed).")
    before, start = machine.seconds_of_others(), machine.clock()
    found = measured(names, size, arguments.rounds)
    others = (machine.seconds_of_others() - before) / (machine.clock() - start)
    record = {
        "size": size,
        "steps": {best: {name: asdict(one) for name, one in of.items()} for best, of in found.items()},
        "others": others,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine.describe(),
        "versions": machine.software("voxelmorph", "neurite"),
    }
    print(kept(arguments.out, "steps", rounded(record), [part for part in page(found, size, others) if part]))
    return 0


if __name__ == "__main__":  # the processes that are started import this file as well
    sys.exit(main())
