"""``python -m bench.jobs``: whole jobs on one device, each with its seconds and peak memory, as JSON and as a table.

Registrations of two generated brains by every preset, and a step of training VoxelMorph, its network in bfloat16 and
our layers in float32. One that fails leaves the others alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch

import l2rfast
from l2rfast.losses import diffusion_energy, local_ncc
from l2rfast.output import written_whole

from . import cases, given, machine
from .report import digits, table

Job = Callable[[], object]
ROUNDS = 3


def registration(size: Sequence[int], device: str, preset: str) -> Job:
    """Of two subjects of a generated anatomy."""
    from l2rfast.data.synthetic import anatomies

    with torch.device("cpu"):
        fixed, moving = (subject.image for subject in anatomies(2, size))
    return lambda: l2rfast.register(fixed, moving, preset=preset, device=device)


def training_step(size: Sequence[int], device: str) -> Job:
    """Forward, loss, backward and Adam's step."""
    from l2rfast.methods.unsupervised import VoxelMorph

    network = VoxelMorph().to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4)
    multiple = network.architecture.multiple
    fixed, moving = (torch.rand(1, 1, *(-(-n // multiple) * multiple for n in size), device=device) for _ in range(2))

    def run() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16):
            found = network(moving, fixed)
        disp = found.displacement
        loss = local_ncc(fixed, l2rfast.warp(moving, disp)).mean() + 0.1 * diffusion_energy(disp).mean()
        torch.autograd.backward(loss)
        optimiser.step()

    return run


def jobs(size: Sequence[int], device: str) -> dict[str, Callable[[], Job]]:
    """What makes each ready."""
    found: dict[str, Callable[[], Job]] = {
        f"register, {preset}": lambda preset=preset: registration(size, device, preset)  # type: ignore[misc]
        for preset in ("fast", "default", "accurate")
    }
    return found | {"VoxelMorph, a step of training, bfloat16": lambda: training_step(size, device)}


def measured(make: Callable[[], Job], rounds: int) -> dict[str, Any]:
    """Seconds of the calls after the first, which compiles and allocates, and the GB that it needs."""
    job = make()
    first = machine.seconds(job)
    memory = machine.memory_growth(job)
    seconds = [machine.seconds(job) for _ in range(rounds)]
    return {"first": first, "seconds": seconds, "GB": None if memory is None else memory / 1e9}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.jobs", description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=cases.SIZES, default="full", help="of the images (default: full)")
    parser.add_argument("--device", type=given.device, default="cpu", help="(default: cpu)")
    parser.add_argument("--rounds", type=given.times, default=ROUNDS, help=f"after the first call (default: {ROUNDS})")
    parser.add_argument("--out", type=given.file, required=True, help="file of the figures, JSON")
    arguments = parser.parse_args(argv)
    torch.set_default_device(arguments.device)
    figures: dict[str, Any] = {}
    for name, make in jobs(cases.SIZES[arguments.size].dense, arguments.device).items():
        try:
            figures[name] = measured(make, arguments.rounds)
        except Exception as error:  # the others are wanted all the same
            figures[name] = {"failed": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}
        written = {"machine": machine.describe(), "jobs": figures}
        with written_whole(arguments.out) as file:  # also for a run that is cut off
            file.write_text(json.dumps(written, indent=1) + "\n")
    rows = [
        [name, f"Error: {of['failed']}", "", ""]
        if "failed" in of
        else [name, digits(median(of["seconds"])), digits(of["first"]), "" if of["GB"] is None else digits(of["GB"])]
        for name, of in figures.items()
    ]
    print(table([f"job, on {machine.device_name()}", "seconds", "the first time", "GB"], rows))
    return 1 if any("failed" in of for of in figures.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
