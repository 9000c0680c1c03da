"""``python -m bench.registration``: registers two real brains by ours and by other tools, and writes the report.

Every run is in a process of its own. What an earlier run measured stays in the report: only what is missing, or was
timed beside other work, is measured, or what ``--only`` names.
"""

from __future__ import annotations

import argparse
import json
import math
import operator
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from l2rfast import InputError, data
from l2rfast.data.brains import STRUCTURES
from l2rfast.io import Volume

from . import machine, runs
from .quality import Quality, quality
from .report import digits, left_out, rounded, spread, table
from .runs import BUSY, Taken
from .tools import (
    ACCURATE,
    CONVEXADAM,
    DEFAULT,
    FAST,
    LEARNED,
    MISSING,
    NETWORK,
    PATCHED,
    TOOLS,
    TUNED,
    Fields,
)

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "build" / "bench" / "registration"  # the fields
OURS = (FAST, DEFAULT, ACCURATE)
LONG = 60.0  # seconds: what takes longer is timed once
WITHIN = 0.02  # of our Dice: what other tools reach at least to be compared in time

SUBJECT = "tutorials2019/unsupervised/data/3D/subject_1"
FILES = {
    "fixed": ("voxelmorph/data/test_scan.npz", "vol"),
    "fixed_labels": ("voxelmorph/data/test_scan.npz", "seg"),
    "moving": (f"{SUBJECT}_vol.npz", "vol_data"),
    "moving_labels": (f"{SUBJECT}_seg.npz", "vol_data"),
}
EXPLANATION = """\
Mean Dice and HD95 (in mm) of 30 structures. *Folded* is the percentage of voxels with a Jacobian determinant that is
not positive: by central differences, as in Learn2Reg, and *digitally*, by all one-sided ones and the tetrahedra between
the voxels. The *inverse residual* is the mean distance in voxels from where one field after the other leads, the larger
of both orders; tools without it give no inverse. Every run is a process of its own with the same images, voxels of
1 mm, as files where the tool wants files, and the same number of threads; the call alone is timed, and the peak memory
is that of the whole process, in which Python, PyTorch, the tool and the images take {before} GB. All fields are
converted to ours and measured by the same code; where a tool gives the warped image, our warp of its field has to be
that image (they differ by {conversion} of its standard deviation at most). Times of one *processor* can be compared;
the machine below is that of the last run."""


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
    *(Target(method, "Dice", ">=", dice) for method, dice in zip(OURS, (0.755, 0.770, 0.785), strict=True)),
    *(Target(method, "digitally folded, %", "<=", 0) for method in OURS),
    *(Target(method, "inverse residual", "<", bound) for method, bound in zip(OURS, (0.05, 0.05, 0.03), strict=True)),
    Target(DEFAULT, "peak memory, GB", "<", 1),
    Target(ACCURATE, "Dice above all others", ">=", 0),
    *(Target(method, "times faster than others within 0.02 Dice", ">=", 10) for method in OURS),
    Target(PATCHED, f"times faster than {CONVEXADAM}", ">=", 3),
    Target(NETWORK, "Dice", ">=", 0.7141),
    Target(NETWORK, "seconds", "<=", 4),
    Target(NETWORK, "peak memory, GB", "<", 2),
    Target(TUNED, "Dice", ">=", 0.74),
    Target(LEARNED, "Dice", ">=", 0.76),
    Target(LEARNED, "digitally folded, %", "<=", 0),
    Target(TUNED, "digitally folded, %", "<=", 0),
]


@dataclass
class Entry:
    """A method: when it was measured, how good its field is, and what each run took."""

    date: str
    quality: Quality
    taken: list[Taken]

    @property
    def busy(self) -> float:
        """How many processors others kept busy meanwhile."""
        return max(taken.others for taken in self.taken)

    @property
    def seconds(self) -> float:
        """Wall time, the median."""
        return median(taken.seconds for taken in self.taken)

    @property
    def cpu_seconds(self) -> float:
        """The median."""
        return median(taken.cpu_seconds for taken in self.taken)

    def times_faster(self, other: Entry) -> float:
        """Than another; by CPU seconds where one of both was timed beside other work."""
        if max(self.busy, other.busy) > BUSY:
            return other.cpu_seconds / self.cpu_seconds
        return other.seconds / self.seconds


@dataclass
class Comparison:
    """All methods that were measured; ``before`` is the quality of no displacement."""

    size: str
    shape: list[int]
    before: Quality
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    methods: dict[str, Entry] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @classmethod
    def restored(cls, content: dict[str, Any]) -> Comparison:
        """From the JSON of a report."""
        known = {name: content[name] for name in ("size", "shape", "machine", "versions", "skipped")}
        methods = {
            name: Entry(entry["date"], Quality(**entry["quality"]), [Taken(**taken) for taken in entry["taken"]])
            for name, entry in content["methods"].items()
        }
        return cls(**known, before=Quality(**content["before"]), methods=methods)

    def figures(self, method: str) -> dict[str, float]:
        """By the names of the targets: medians over the runs, and the largest memory."""
        entry = self.methods[method]
        figures = {
            "Dice": entry.quality.dice,
            "HD95, mm": entry.quality.hd95,
            "folded, %": entry.quality.folded_percent,
            "digitally folded, %": entry.quality.digital_percent,
            "SD log J": entry.quality.log_jacobian_std,
            "seconds": entry.seconds,
            "CPU seconds": entry.cpu_seconds,
            "processors kept busy by others": entry.busy,
        }
        if entry.quality.inverse_residual is not None:
            figures["inverse residual"] = entry.quality.inverse_residual
        peaks = [taken.peak_bytes for taken in entry.taken if taken.peak_bytes is not None]
        if peaks:
            figures["peak memory, GB"] = max(peaks) / 1e9
        if CONVEXADAM in self.methods and method != CONVEXADAM:
            figures[f"times faster than {CONVEXADAM}"] = entry.times_faster(self.methods[CONVEXADAM])
        others = [other for name, other in self.methods.items() if not name.startswith("l2rfast")]
        if method in OURS and others:
            figures["Dice above all others"] = entry.quality.dice - max(other.quality.dice for other in others)
            near = [other for other in others if other.quality.dice >= entry.quality.dice - WITHIN]
            faster = min((entry.times_faster(other) for other in near), default=math.inf)
            figures["times faster than others within 0.02 Dice"] = faster
        return figures

    def content(self) -> dict[str, Any]:
        """All that was measured, and what follows from it."""
        figures = {method: self.figures(method) for method in self.methods}
        result: dict[str, Any] = rounded(asdict(self) | {"figures": figures})
        return result

    def markdown(self) -> str:
        conversions = [entry.quality.conversion or 0 for entry in self.methods.values()]
        before = [taken.before_bytes or 0 for entry in self.methods.values() for taken in entry.taken]
        explained = EXPLANATION.format(
            conversion=f"{max(conversions, default=0):.1g}",
            before=f"{min(before, default=0) / 1e9:.1f} to {max(before, default=0) / 1e9:.1f}",
        )
        parts = [
            "# Registration of two brains",
            f"{' x '.join(map(str, self.shape))}, float32. Targets: {self._summary()}.",
            self._table(),
        ]
        if any(entry.busy > BUSY for entry in self.methods.values()):
            parts.append(
                "\\* timed while others kept so many processors busy, in brackets: not to be compared. The CPU "
                "seconds, which suffer less, are compared instead, and no target of time counts as measured."
            )
        verdicts = self.verdicts()
        if verdicts:
            rows = [[method, text, value, verdict] for method, text, value, verdict in verdicts]
            parts.append(table(["method", "target", "measured", ""], rows))
        waiting = [name for name in TOOLS if name not in self.methods and name not in self.skipped]
        parts += [
            explained,
            *([f"Not measured yet: {'; '.join(waiting)}."] if waiting else []),
            *left_out(self.skipped | MISSING),
            table(["machine", ""], [[name, str(value)] for name, value in self.machine.items()]),
            table(["software", "version"], [list(item) for item in self.versions.items()]),
        ]
        return "\n\n".join(parts) + "\n"

    def _table(self) -> str:
        head = ["method", "Dice", "HD95", "folded, %", "digitally, %", "SD log J", "inverse residual"]
        head += ["seconds", "CPU seconds", "peak memory, GB", "processor", "measured"]
        rows = [["before", f"{self.before.dice:.3f}", f"{self.before.hd95:.2f}", *[""] * 9]]
        for method, entry in self.methods.items():
            figures, found = self.figures(method), entry.quality
            seconds = spread([taken.seconds for taken in entry.taken])
            rows.append(
                [
                    method,
                    f"{found.dice:.4f}",
                    f"{found.hd95:.2f}",
                    f"{found.folded_percent:.4f}",
                    f"{found.digital_percent:.4f}",
                    f"{found.log_jacobian_std:.3f}",
                    "-" if found.inverse_residual is None else f"{found.inverse_residual:.4f}",
                    f"{seconds}\\* ({entry.busy:.1f})" if entry.busy > BUSY else seconds,
                    digits(figures["CPU seconds"]),
                    digits(figures["peak memory, GB"]) if "peak memory, GB" in figures else "-",
                    entry.taken[-1].processor,
                    entry.date,
                ]
            )
        return table(head, rows)

    def verdicts(self) -> list[tuple[str, str, str, str]]:
        """Per target: the method, the bound, the figure and whether it is met; none of a smaller size."""
        result = []
        for target in TARGETS if self.size == "full" else ():
            value = self.figures(target.method).get(target.figure) if target.method in self.methods else None
            if value is None or (math.isfinite(value) and self._disturbed(target)):
                verdict = "not measured"
            else:
                verdict = "met" if target.met(value) else "**not met**"
            said = "-" if value is None else "there is none" if math.isinf(value) else f"{value:.4g}"
            result.append((target.method, f"{target.figure} {target.relation} {target.bound:g}", said, verdict))
        return result

    def _disturbed(self, target: Target) -> bool:
        """Whether it is of a time that was taken beside other work; of a comparison, any, or on another machine."""
        methods = [target.method] if target.figure == "seconds" else self.methods if "than" in target.figure else []
        sets = {taken.processor for method in methods for taken in self.methods[method].taken}
        return len(sets) > 1 or any(self.methods[method].busy > BUSY for method in methods)

    def _summary(self) -> str:
        said = [verdict for *_, verdict in self.verdicts()]
        kinds = ("met", "**not met**", "not measured")
        return ", ".join(f"{said.count(kind)} {kind}" for kind in kinds) if said else "none"

    def write(self, folder: Path) -> Path:
        """``registration.json`` and ``registration.md``; the second's path."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "registration.json").write_text(json.dumps(self.content(), indent=1, allow_nan=False) + "\n")
        (folder / "registration.md").write_text(self.markdown())
        return folder / "registration.md"


def cost(figures: dict[str, float]) -> str:
    """Of a method: its seconds, or those of the CPU where it was timed beside other work."""
    if figures["processors kept busy by others"] > BUSY:
        return f"{digits(figures['CPU seconds'])} s of CPU beside other work"
    return f"{digits(figures['seconds'])} s"


def load_pair(step: int = 1) -> tuple[Volume, Volume, tuple[Tensor, Tensor]]:
    """Fixed and moving, from 0 to 255, and their labels; every ``step``-th voxel of each axis.

    Raises:
        InputError: the scans are not on this machine.
    """
    values = {
        name: np.load(data.path(file), allow_pickle=False)[key][::step, ::step, ::step]
        for name, (file, key) in FILES.items()
    }
    fixed, moving = (
        Volume(torch.from_numpy(values[name].astype(np.float32) * 255), np.eye(4)) for name in ("fixed", "moving")
    )
    labels = tuple(
        torch.from_numpy(np.where(np.isin(values[name], STRUCTURES), values[name], 0).astype(np.uint8))
        for name in ("fixed_labels", "moving_labels")
    )
    return fixed, moving, (labels[0], labels[1])


def measured(method: str, step: int, threads: int, rounds: int) -> Entry:
    """A method, run so often as it is quick.

    Raises:
        ImportError: its package is absent.
        RuntimeError: its result is not what it says.
    """
    fixed, moving, labels = load_pair(step)
    kept = KEPT / f"{step}-{''.join(c if c.isalnum() else '-' for c in method)}.npz"
    taken: list[Taken] = []
    while len(taken) < rounds and sum(one.seconds for one in taken) < LONG:
        taken.append(runs.run(method, fixed, moving, threads, kept))
    found = quality(fixed, moving, labels, STRUCTURES, runs.load(kept))
    return Entry(datetime.now(UTC).strftime("%Y-%m-%d"), found, taken)


def compare(comparison: Comparison, chosen: Sequence[str], arguments: argparse.Namespace, folder: Path) -> bool:
    """Measure these methods, write the report after each, and tell whether all of ours were."""
    good = True
    for method in chosen:
        try:
            entry = measured(method, 1 if comparison.size == "full" else 2, arguments.threads, arguments.rounds)
        except Exception as error:  # whatever a tool raises, or dies of, is its own
            lines = str(error).splitlines() or [""]
            reason = lines[0] if isinstance(error, ImportError) else f"{type(error).__name__}: {lines[0]}"
            print(f"{method}: skipped ({reason})", flush=True)
            if method not in comparison.methods:
                comparison.skipped[method] = reason
            good = good and not method.startswith("l2rfast")
        else:
            comparison.methods[method] = entry
            comparison.skipped.pop(method, None)
            figures = comparison.figures(method)
            print(f"{method}: {figures['seconds']:.1f} s, Dice {figures['Dice']:.4f}", flush=True)
        order = [name for name in TOOLS if name in comparison.methods]
        comparison.methods = {name: comparison.methods[name] for name in order}
        comparison.write(folder)
    return good


def begun(folder: Path, size: str) -> Comparison:
    """What the folder's report has, or none yet, with the machine and the software as they are."""
    file = folder / "registration.json"
    comparison = Comparison.restored(json.loads(file.read_text())) if file.exists() else None
    if comparison is None or comparison.size != size:
        fixed, moving, labels = load_pair(1 if size == "full" else 2)
        nothing = Fields(torch.zeros(1, 3, *fixed.data.shape))
        comparison = Comparison(size, list(fixed.data.shape), quality(fixed, moving, labels, STRUCTURES, nothing))
    comparison.machine = machine.describe()
    comparison.versions = runs.versions(comparison.versions)
    return comparison


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.registration", description=__doc__)
    parser.add_argument("--only", action="append", choices=TOOLS, help="measure this anew; can be given several times")
    parser.add_argument("--omit", action="append", choices=TOOLS, default=[], help="leave this as it is; likewise")
    parser.add_argument("--size", choices=["quick", "full"], default="full", help="of the images (default: full)")
    parser.add_argument("--rounds", type=int, default=3, help="of what takes less than a minute in all (default: 3)")
    parser.add_argument("--threads", type=int, default=2, help="(default: 2)")
    parser.add_argument("--out", type=Path, help="folder of the report (default: bench/reports; build/bench for quick)")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    folder = arguments.out or ROOT / ("bench/reports" if arguments.size == "full" else "build/bench")
    try:
        comparison = begun(folder, arguments.size)
    except InputError as error:
        print(f"Skipped: {error}")
        return 0
    methods = comparison.methods
    open_ones = [name for name in TOOLS if name not in methods or methods[name].busy > BUSY]
    chosen = [name for name in arguments.only or open_ones if name not in arguments.omit]
    good = compare(comparison, chosen, arguments, folder)
    print(f"\n{comparison.markdown()}\nReport: {comparison.write(folder)}")
    return 0 if good else 1


if __name__ == "__main__":  # the processes that are started import this file as well
    sys.exit(main())
