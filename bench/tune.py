"""``python -m bench.tune``: finds the shape in which each operator's Triton kernels are the fastest on this GPU.

Writes them to ``kernels/common/triton_tuned.json``, where every launch looks them up, and prints them. The calls are
those that the benchmark's cases make.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import l2rfast
from l2rfast._dispatch import OPERATORS
from l2rfast.kernels.common.triton_launch import TUNED, USUAL, Shape, flat, shaped, tuned_shape
from l2rfast.output import written_whole

from . import cases, given, harness, machine
from .report import digits, table

SHAPES = (USUAL, Shape(128, 4), Shape(256, 8), Shape(512, 4), Shape(512, 8), Shape(1024, 8))
ROUNDS = 5
# Whose first cases make the calls.
FAMILIES = [
    *("warp", "warp-gradient", "integrate-velocity", "affine-warp", "grid-sample", "warp-many", "local-ncc"),
    *("warp-local-ncc", "cost-volume", "coupled-convex", "lattice-correlation", "min-convolution", "mean-field"),
    *("soft-argmin", "mutual-information"),
]

Call = tuple[Any, ...]


class Largest(TorchDispatchMode):
    """Records, of the calls of each registered operator, the one with the most numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, Call] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "l2rfast" and numbers(args) > numbers(self.calls.get(func._opname, ())):
            self.calls[func._opname] = args
        return func(*args, **(kwargs or {}))


def numbers(call: Sequence[Any]) -> int:
    return sum(argument.numel() for argument in flat(call) if isinstance(argument, Tensor))


def recorded(size: cases.Size, families: Sequence[str] = FAMILIES, end: float = float("inf")) -> dict[str, Call]:
    """A call of every operator that the cases use and Triton has, of as many as begin before some time."""
    found: dict[str, Call] = {}
    for family in families:
        if time.perf_counter() > end:
            print(f"{family}: not tuned: no time left")
            continue
        ours = cases.FAMILIES[family][0](size).contestants[harness.OURS]  # its inputs by any backend
        try:
            with l2rfast.backend("triton"), Largest() as largest:
                ours.run()
        except l2rfast.BackendError as error:
            print(f"{family}: not tuned: {error}")
            continue  # what is not in Triton needs no shape
        found |= {name: call for name, call in largest.calls.items() if numbers(call) > numbers(found.get(name, ()))}
    return found


def fastest(
    call: Callable[[], object], shapes: Iterable[Shape], rounds: int = ROUNDS
) -> tuple[Shape, dict[Shape, float]]:
    """The shape in which a call takes the least, and the seconds of all, the best of some."""
    taken = {}
    for shape in shapes:
        with shaped(shape):
            call()  # compiles
            calls = max(1, round(harness.BRIEF / machine.seconds(call)))
            taken[shape] = min(machine.seconds(call, calls) for _ in range(rounds))
    return min(taken, key=taken.__getitem__), taken


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.tune", description=__doc__)
    parser.add_argument("--size", choices=cases.SIZES, default="full", help="of the inputs (default: full)")
    parser.add_argument("--device", type=given.device, default="cuda", help="(default: cuda)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="tune no further operator after so many")
    parser.add_argument("--shapes", type=given.times, default=len(SHAPES), help="try so many alone (default: all)")
    parser.add_argument("--rounds", type=given.times, default=ROUNDS, help=f"(default: {ROUNDS})")
    parser.add_argument("--only", action="append", choices=FAMILIES, help="the calls of these cases alone")
    parser.add_argument("--out", type=given.file, default=TUNED, help="file of the shapes (default: in the package)")
    arguments = parser.parse_args(argv)
    start = time.perf_counter()
    torch.set_default_device(arguments.device)
    tuned_shape.cache_clear()
    gpu = torch.cuda.get_device_name() if machine.on_a_gpu() else "interpreted"
    found = json.loads(TUNED.read_text())
    rows = []
    # Interpreted, the cases take most of the time.
    half = start + 30 * arguments.minutes
    for name, call in sorted(recorded(cases.SIZES[arguments.size], arguments.only or FAMILIES, half).items()):
        if time.perf_counter() - start > 60 * arguments.minutes:
            rows.append([name, "not tuned: no time left", "", ""])
            continue
        with l2rfast.backend("triton"):
            best, taken = fastest(partial(OPERATORS[name], *call), SHAPES[: arguments.shapes], arguments.rounds)
        found.setdefault(gpu, {})[name] = [best.block, best.warps]
        with written_whole(arguments.out) as file:  # also for a run that is cut off
            file.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
        usual, chosen = (digits(1e3 * taken[shape]) for shape in (USUAL, best))
        rows.append([name, f"{best.block} voxels, {best.warps} warps", chosen, usual])
    print(table([f"operator, on {gpu}", "chosen", "ms", "ms as usual"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
