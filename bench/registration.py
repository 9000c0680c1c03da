"""The whole job: register two real brains, against ConvexAdam; every run in a process of its own."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean, median

import numpy as np
import torch
from torch import Tensor

import l2rfast

from . import machine

PEER = "convexAdam"
PATCHED = f"{PEER}, patched"
FINETUNE = 50
NETWORK, TUNED = "l2rfast VoxelMorph", f"l2rfast VoxelMorph, {FINETUNE} steps"

SUBJECT = "tutorials2019/unsupervised/data/3D/subject_1"
FILES = {
    "fixed": ("voxelmorph/data/test_scan.npz", "vol"),
    "fixed_labels": ("voxelmorph/data/test_scan.npz", "seg"),
    "moving": (f"{SUBJECT}_vol.npz", "vol_data"),
    "moving_labels": (f"{SUBJECT}_seg.npz", "vol_data"),
}

Pair = dict[str, Tensor]


@dataclass(frozen=True)
class Run:
    """One registration: the call's seconds, its process's largest resident memory, and how good the field is.

    HD95 takes longer than most registrations: it is measured in the first run of a method, as all give the same field.
    """

    seconds: float
    peak_bytes: int | None
    dice: float
    hd95: float | None
    log_jacobian_std: float
    folded_percent: float


@dataclass(frozen=True)
class Target:
    """A bound on a figure of a method; ``relation`` is >=, <= or <."""

    method: str
    figure: str
    relation: str
    bound: float

    def met(self, value: float) -> bool:
        compare = {">=": operator.ge, "<=": operator.le, "<": operator.lt}[self.relation]
        return bool(compare(value, self.bound))


TARGETS = [
    Target(PATCHED, "times faster", ">=", 3),
    Target("l2rfast fast", "times faster", ">=", 25),
    Target("l2rfast fast", "Dice", ">=", 0.69),
    Target("l2rfast default", "times faster", ">=", 10),
    Target("l2rfast default", "Dice", ">=", 0.72),
    Target("l2rfast default", "folded, %", "<", 0.3),
    Target("l2rfast default", "peak memory, GB", "<", 1.2),
    Target("l2rfast accurate", "Dice", ">=", 0.74),
    Target("l2rfast accurate", "seconds", "<=", 45),
    Target(NETWORK, "Dice", ">=", 0.7141),
    Target(NETWORK, "seconds", "<=", 4),
    Target(NETWORK, "peak memory, GB", "<", 2),
    Target(TUNED, "Dice", ">=", 0.74),
    Target(TUNED, "folded, %", "<", 0.5),
]


@dataclass
class Comparison:
    """All runs, by method; ``shape`` and ``dice_before`` are those of the pair, ``targets`` those that apply."""

    shape: tuple[int, ...]
    dice_before: float
    targets: list[Target]
    runs: dict[str, list[Run]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def figures(self, method: str) -> dict[str, float]:
        """The medians over the runs of a method, and the largest of the memory; by the names of the targets."""
        runs = self.runs[method]
        figures = {
            "seconds": median(run.seconds for run in runs),
            "Dice": median(run.dice for run in runs),
            "HD95, mm": next(run.hd95 for run in runs if run.hd95 is not None),
            "SD log J": median(run.log_jacobian_std for run in runs),
            "folded, %": median(run.folded_percent for run in runs),
        }
        peaks = [run.peak_bytes for run in runs if run.peak_bytes is not None]
        if peaks:
            figures["peak memory, GB"] = max(peaks) / 1e9
        if method != PEER and PEER in self.runs:
            figures["times faster"] = median(run.seconds for run in self.runs[PEER]) / figures["seconds"]
        return figures


def convexadam(pair: Pair) -> Callable[[], Tensor]:
    """Its defaults, in float32 (of float16 it says itself that CPUs do not support it)."""
    from convexAdam.convex_adam_MIND import convex_adam_pt

    def run() -> Tensor:
        field = convex_adam_pt(
            pair["fixed"], pair["moving"], dtype=torch.float32, device=torch.device("cpu")
        )  # (D, H, W, 3)
        return torch.from_numpy(field).float().movedim(-1, 0)[None]

    return run


def patched(pair: Pair) -> Callable[[], Tensor]:
    """The same after the one line that puts our layers into it."""

    def run() -> Tensor:
        with l2rfast.patch("convexadam"):
            return convexadam(pair)()

    return run


def preset(name: str) -> Callable[[Pair], Callable[[], Tensor]]:
    """A preset of ours."""
    return lambda pair: lambda: l2rfast.register(pair["fixed"], pair["moving"], preset=name).displacement


def network(finetune: int) -> Callable[[Pair], Callable[[], Tensor]]:
    """VoxelMorph with its published weights, and so many steps of Adam on its field."""

    def made(pair: Pair) -> Callable[[], Tensor]:
        options = {"method": "unsupervised", "weights": _weights(), "finetune": finetune}
        fixed, moving = (pair[name] / 255 for name in ("fixed", "moving"))  # as the network was trained
        return lambda: l2rfast.register(fixed, moving, **options).displacement

    return made


def plain_network(pair: Pair) -> Callable[[], Tensor]:
    """The same, of PyTorch's own operations."""
    from l2rfast.methods.intensities import standardised
    from l2rfast.methods.unsupervised import VoxelMorph

    from . import plain

    def run() -> Tensor:
        loaded = VoxelMorph.from_keras(_weights()).eval()
        fixed, moving = (pair[name][None, None] / 255 for name in ("fixed", "moving"))
        with torch.no_grad():
            field = plain.field(loaded, moving, fixed)
        return plain.finetuned(standardised("fixed", fixed), standardised("moving", moving), field, FINETUNE)

    return run


def _weights() -> str:
    from l2rfast import data

    return str(data.path("tutorials2019/unsupervised/models/cvpr2018_vm2_cc.h5"))


METHODS: dict[str, Callable[[Pair], Callable[[], Tensor]]] = {
    PEER: convexadam,
    PATCHED: patched,
    NETWORK: network(0),
    TUNED: network(FINETUNE),
    f"plain VoxelMorph, {FINETUNE} steps": plain_network,
    "l2rfast fast": preset("fast"),
    "l2rfast default": preset("default"),
    "l2rfast accurate": preset("accurate"),
}


def compare(rounds: int, *, full: bool) -> Comparison:
    """Run every method ``rounds`` times, in turns; on every other voxel of each axis unless ``full``.

    Raises:
        InputError: the scans are not on this machine.
    """
    step = 1 if full else 2
    pair = load_pair(step)
    comparison = Comparison(
        shape=tuple(pair["fixed"].shape),
        dice_before=_dice(pair, torch.zeros(1, 3, *pair["fixed"].shape)),
        targets=TARGETS if full else [],
    )
    for _ in range(rounds):
        for method in METHODS:
            if method in comparison.skipped:
                continue
            try:
                run = machine.in_a_fresh_process(_run, method, step, method not in comparison.runs)
            except ImportError as error:
                if method not in (PEER, PATCHED):
                    raise
                comparison.skipped[method] = str(error)
            else:
                comparison.runs.setdefault(method, []).append(run)
                print(f"{method}: {run.seconds:.1f} s, Dice {run.dice:.3f}", flush=True)
    return comparison


def load_pair(step: int = 1) -> Pair:
    """The images, (D, H, W) float32 from 0 to 255, and their labels."""
    # Here, as they bring packages that a machine for the layers alone may lack.
    from l2rfast import data
    from l2rfast.cli.demo import STRUCTURES

    pair = {}
    for name, (file, key) in FILES.items():
        values = np.load(data.path(file), allow_pickle=False)[key][::step, ::step, ::step]
        if name.endswith("labels"):
            pair[name] = torch.from_numpy(np.where(np.isin(values, STRUCTURES), values, 0).astype(np.uint8))
        else:
            pair[name] = torch.from_numpy(values.astype(np.float32) * 255)
    return pair


def _run(method: str, step: int, surfaces: bool) -> Run:
    pair = load_pair(step)
    call = METHODS[method](pair)
    machine.reset_peak_memory()  # of reading the images
    start = time.perf_counter()
    field = call()
    seconds = time.perf_counter() - start
    peak = machine.peak_memory()
    from l2rfast import metrics

    deviation, folded = (float(measure(field)) for measure in (metrics.log_jacobian_std, metrics.folding_fraction))
    return Run(seconds, peak, _dice(pair, field), _hd95(pair, field) if surfaces else None, deviation, 100 * folded)


def _hd95(pair: Pair, field: Tensor) -> float:
    """In mm, the mean over the structures."""
    from l2rfast import metrics
    from l2rfast.cli.demo import STRUCTURES

    distances = metrics.hd95(pair["fixed_labels"], _warped_labels(pair, field), STRUCTURES)
    return fmean(distance for distance in distances.values() if not math.isnan(distance))


def _dice(pair: Pair, field: Tensor) -> float:
    """Mean over the structures of the overlap of the fixed labels and the warped moving ones."""
    from l2rfast import metrics
    from l2rfast.cli.demo import STRUCTURES

    return fmean(metrics.dice(pair["fixed_labels"], _warped_labels(pair, field), STRUCTURES).values())


def _warped_labels(pair: Pair, field: Tensor) -> Tensor:
    return l2rfast.warp(pair["moving_labels"][None, None], field, mode="nearest")[0, 0]
