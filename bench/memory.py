"""``python -m bench.memory``: the memory that registrations take, beside what `methods.cohort.memory` predicts.

What an earlier run measured stays in the report, and only what is missing is measured.
Generated images of several sizes, each pair registered by ``l2rfast register`` in a process of its own with one thread.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from l2rfast.data.synthetic import anatomies
from l2rfast.io import Volume, write_image
from l2rfast.methods.cohort.memory import predicted

from . import machine
from .report import table
from .runs import THREADS

ROOT = Path(__file__).parent.parent
MOST, FROM = 1.6, 128**3  # times what is measured that may be predicted, of so many voxels and more
EXPLANATION = f"""\
The largest resident memory of `l2rfast register`, one thread, Python and PyTorch included, of generated images, and
what is predicted before a cohort starts: no less than measured, and of 128^3 voxels and more at most {MOST:g} times
that."""
Size = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """A registration.

    Attributes:
        fixed, moving: sizes.
        options: of the command line, by their names; of those without a value it is empty.
        spacing: of both, in mm.
        contrasts: how many there are of both.
        besides: ``"labels"`` or ``"mask"``, of both.
    """

    fixed: Size
    moving: Size
    options: Mapping[str, str] = field(default_factory=dict)
    spacing: tuple[float, ...] = (1, 1, 1)
    contrasts: int = 1
    besides: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        sizes = [" x ".join(map(str, size)) for size in dict.fromkeys((self.fixed, self.moving))]
        told = [" to ".join(reversed(sizes)), *(f"--{name} {value}".strip() for name, value in self.options.items())]
        return ", ".join([*told, *([f"{self.contrasts} contrasts"] if self.contrasts > 1 else []), *self.besides])

    def given(self, folder: Path) -> dict[str, tuple[str, ...]]:
        """The options with those of the files, which are in a folder."""
        found = {name: (value,) if value else () for name, value in self.options.items()}
        for side, size in (("fixed", self.fixed), ("moving", self.moving)):
            image, labels = self.files(folder, side, size)
            found[side] = self.contrasts * (str(image),)
            found |= {f"{side}-{name}": (str(labels),) for name in self.besides}
        return found

    def files(self, folder: Path, side: str, size: Size) -> tuple[Path, Path]:
        """An image and its labels, which count as its mask as well."""
        name = "-".join([side, "x".join(map(str, size)), "x".join(f"{mm:g}" for mm in self.spacing)])
        return folder / f"{name}.nii.gz", folder / f"{name}-labels.nii.gz"

    def make(self, folder: Path) -> None:
        """The files, those that are not there yet."""
        for k, (side, size) in enumerate((("fixed", self.fixed), ("moving", self.moving))):
            image, labels = self.files(folder, side, size)
            if not image.exists():
                subject, affine = anatomies(2, size)[k], np.diag([*self.spacing, 1.0])
                write_image(image, Volume(subject.image[0, 0], affine))
                write_image(labels, Volume(subject.labels[0, 0], affine))

    def taken(self, folder: Path) -> int:
        """The largest resident memory of a process that registers, in bytes.

        Raises:
            subprocess.CalledProcessError: it fails.
        """
        self.make(folder)
        command = [sys.executable, "-m", "l2rfast.cli", "register", "--out", str(folder / "out"), "--quiet"]
        for name, values in self.given(folder).items():
            command += [word for value in values or ("",) for word in (f"--{name}", value) if word]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL, env=os.environ | dict.fromkeys(THREADS, "1"))
        return round(1e6 * json.loads((folder / "out" / "report.json").read_text())["peak_memory_mb"])

    def predicted(self) -> int:
        return predicted(self.fixed, self.moving, self.given(Path())) or 0

    def good(self, peak: int) -> bool:
        """Whether no less is predicted than was taken, and of large images not many times that."""
        large = max(map(math.prod, (self.fixed, self.moving))) >= FROM
        return peak <= self.predicted() <= (MOST * peak if large else math.inf)


def cube(n: int, options: Mapping[str, str] | None = None, **more: Any) -> Case:
    return Case((n, n, n), (n, n, n), options or {}, **more)


METRICS = "lncc", "ssd", "mi", "mind"
SMALL, LARGE, SLABS, FLAT = (64, 64, 64), (160, 192, 224), (48, 256, 256), (1024, 1024)
CASES = [
    *(cube(n, {"transform": kind}) for kind in ("affine", "deformable") for n in (32, 64, 96, 128)),
    *(cube(128, {"metric": metric}) for metric in METRICS),
    *(cube(128, {"preset": preset}) for preset in ("fast", "accurate")),
    cube(128, {"preset": "accurate", "metric": "ssd"}),
    cube(128, {"transform": "rigid"}),
    cube(128, {"init": "affine"}),
    cube(128, {"fixed-warped": "", "jacobian": ""}),
    *(cube(128, besides=(name,)) for name in ("labels", "mask")),
    cube(128, contrasts=2),
    cube(128, {"metric": "ssd"}, contrasts=3),
    cube(96, {"grid-spacing": "3"}),
    cube(96, {"grid-spacing": "3", "search-radius": "6"}),
    *(cube(96, {"refine-spacing": "1", "metric": metric}) for metric in ("mind", "lncc")),
    Case(SMALL, LARGE),
    Case(LARGE, SMALL),
    *(Case(FLAT, FLAT, {"metric": metric}) for metric in ("lncc", "ssd", "mind")),
    *(Case(LARGE, LARGE, {"metric": metric}) for metric in ("lncc", "ssd")),
    *(Case(SLABS, SLABS, {"metric": metric}, (3, 1, 1)) for metric in ("lncc", "ssd")),
    Case(LARGE, LARGE, {"transform": "affine"}),
]


@dataclass
class Record:
    """The largest resident memory of cases, by their names, and where it was measured last."""

    date: str = ""
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)

    def measure(self, case: Case, folder: Path) -> None:
        self.peaks[case.name] = case.taken(folder)
        self.date = datetime.now(UTC).strftime("%Y-%m-%d")
        self.machine, self.versions = machine.describe(), machine.software()

    def known(self) -> list[tuple[Case, int]]:
        return [(case, self.peaks[case.name]) for case in CASES if case.name in self.peaks]

    def page(self) -> str:
        """What was measured and what is predicted, in Markdown."""
        rows = []
        for case, peak in self.known():
            times = f"{case.predicted() / peak:.2f}{'' if case.good(peak) else ' **not met**'}"
            rows.append([case.name, f"{peak / 1e6:.0f}", f"{case.predicted() / 1e6:.0f}", times])
        parts = [
            "# Memory of registrations",
            f"{self.date}.",
            EXPLANATION,
            table(["moving to fixed", "measured, MB", "predicted, MB", "times"], rows),
            table(["machine", ""], [[name, str(value)] for name, value in self.machine.items()]),
            table(["software", "version"], [list(item) for item in self.versions.items()]),
        ]
        return "\n\n".join(parts) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__.partition("\n")[0])
    parser.add_argument("--anew", action="store_true", help="measure what was measured before as well")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "reports", help="folder of the report")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    file = arguments.out / "memory.json"
    record = Record(**json.loads(file.read_text())) if file.exists() else Record()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="l2rfast-bench-") as folder:
        for case in CASES:
            if arguments.anew or case.name not in record.peaks:
                record.measure(case, Path(folder))
                print(f"{case.name}: {record.peaks[case.name] / 1e6:.0f} MB", flush=True)
                file.write_text(json.dumps(asdict(record), indent=1) + "\n")
    file.with_suffix(".md").write_text(record.page())
    print(f"Report: {file.with_suffix('.md')}")
    return 0 if all(case.good(peak) for case, peak in record.known()) else 1


if __name__ == "__main__":
    sys.exit(main())
