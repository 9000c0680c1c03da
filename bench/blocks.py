"""``python -m bench.blocks``: a volume larger than memory, registered by blocks, beside one of half the size, whole.

A generated image, uint16 in OME-Zarr, and the same moved by a known field; made slab by slab, so that it is never in
memory as a whole. What is measured: the mean endpoint error in voxels of each, the memory of all processes at their
peak, and voxels in a second.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d, interpolate

from l2rfast import spline_coefficients, warp
from l2rfast.io import zarr
from l2rfast.methods.cohort.memory import parsed
from l2rfast.world import Grid

from . import machine
from .report import digits, table

ROOT = Path(__file__).parent.parent
L2RFAST = [sys.executable, "-m", "l2rfast.cli"]
MOST = 1.1  # times the error of the whole volume of half the size, in voxels of that
UNITS = ("micrometer",) * 3
MM = 0.001  # of a voxel
SLAB = zarr.CHUNK
TEXTURE, APART = (
    96,
    2.0,
)  # numbers of what is painted along each axis, mirrored on and on; voxels of half the size apart
OCTAVES = (12, 24, 48)  # of noise in it
FARTHEST = 0.03  # of the shortest side, that anything moves
INTERVAL = 0.05  # seconds between looks at the memory


class Scene:
    """An image that is known between its voxels, splines through smooth noise, and how it moves: by a few long waves.

    Args:
        size: of the volume, in voxels.
        scale: 2 for the volume itself, 1 for the same scene in voxels of twice the length.
    """

    def __init__(self, size: Sequence[int], scale: int) -> None:
        random, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
        self.size, self.scale = tuple(n * scale // 2 for n in size), scale
        noise = [torch.randn(1, 1, n, n, n, generator=generator) * (TEXTURE / n) ** 0.5 for n in OCTAVES]
        texture = sum(interpolate(each, (TEXTURE,) * 3, mode="trilinear") for each in noise)
        self.painted = spline_coefficients(20000 + 4000 * texture / texture.std())
        self.turns, self.shifts = random.integers(1, 3, (3, 3)), random.uniform(0, 2 * np.pi, (3, 3))

    def field(self, planes: slice) -> Tensor:
        """(1, 3, planes, H, W) in voxels: fixed at x is moving at x + field(x)."""
        far = FARTHEST * min(self.size) / 3**0.5
        axes = [torch.arange(n, dtype=torch.float32) / n for n in self.size]
        axes[0] = axes[0][planes]
        waves = [
            [torch.sin(2 * np.pi * int(self.turns[k, j]) * axes[j] / 2 + float(self.shifts[k, j])) for j in range(3)]
            for k in range(3)
        ]
        return torch.stack([far * torch.einsum("i,j,k->ijk", *wave) for wave in waves])[None]

    def image(self, planes: slice, *, moved: bool) -> np.ndarray:
        """uint16 at the voxels of moving, or at those of fixed, which is what moving is where the field leads."""
        axes = [torch.arange(n, dtype=torch.float32) for n in self.size]
        axes[0] = axes[0][planes]
        places = torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]
        own = torch.tensor([planes.start, 0, 0]).view(1, 3, 1, 1, 1)
        leads = places + self.field(planes) if moved else places
        disp = leads / (APART * self.scale) - (places - own)
        found = warp(self.painted, disp, mode="cubic", padding="reflection", prefilter=False)
        return found[0, 0].clamp(0, 65535).round().numpy().astype(np.uint16)

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Fixed and moving, in resolutions down to some 64 voxels along the shortest side."""
        count = 1 + max(1, int(np.log2(min(self.size) / 64)))
        grids = [self._grid(2**k) for k in range(count)]
        paths = folder / f"fixed{self.scale}.zarr", folder / f"moving{self.scale}.zarr"
        for path, moved in zip(paths, (True, False), strict=True):
            with zarr.written(path, grids, np.dtype(np.uint16), UNITS) as arrays:
                for start in range(0, self.size[0], SLAB):
                    stop = min(start + SLAB, self.size[0])
                    parts = [self.image(slice(k, min(k + 8, stop)), moved=moved) for k in range(start, stop, 8)]
                    slab = np.concatenate(parts)
                    for k, array in enumerate(arrays):
                        n, begin = 2**k, start // 2**k
                        shape = [side // n * n for side in slab.shape]
                        whole = torch.from_numpy(slab[tuple(slice(0, side) for side in shape)].astype(np.float32))
                        mean = avg_pool3d(whole[None], n)[0].round().numpy().astype(np.uint16)
                        array[begin : begin + mean.shape[0]] = mean[:, : array.shape[1], : array.shape[2]]
        return paths

    def _grid(self, n: int) -> Grid:
        """Of means over n voxels along each axis."""
        affine = np.diag([-MM, -MM, MM, 1])[:, [2, 1, 0, 3]]
        affine[:3, 3] += affine[:3, :3].sum(1) * (n - 1) / 2
        affine[:3, :3] *= n
        return Grid(tuple(side // n for side in self.size), affine)

    def error(self, field: Path) -> float:
        """The mean endpoint error of a field in OME-Zarr, in voxels, but for what moving does not reach."""
        stored, total, count = zarr.read_field("field", field), 0.0, 0
        most = torch.tensor([n - 1.0 for n in self.size]).view(3, 1, 1, 1)
        for start in range(0, self.size[0], SLAB):
            planes = slice(start, min(start + SLAB, self.size[0]))
            truth = self.field(planes)
            axes = [torch.arange(n, dtype=torch.float32) for n in self.size]
            axes[0] = axes[0][planes]
            there = torch.stack(torch.meshgrid(*axes, indexing="ij")) + truth[0]
            inside = ((there >= 0) & (there <= most)).all(0)
            off = (stored.part([planes, *zarr.whole(self.size[1:])]) - truth).norm(dim=1)[0]
            total, count = total + float(off[inside].double().sum()), count + int(inside.sum())
        return total / count


def run(words: Sequence[str]) -> tuple[float, int]:
    """Seconds of a command, and the most memory that it and all its processes had at a time, in bytes: what each has
    for itself, and its share of what several have."""
    start = machine.clock()
    process = subprocess.Popen(words, env=dict(os.environ))
    peak, ended = 0, threading.Event()

    def look() -> None:
        nonlocal peak
        while not ended.wait(INTERVAL):
            peak = max(peak, _together(process.pid))

    watch = threading.Thread(target=look)
    watch.start()
    code = process.wait()
    ended.set()
    watch.join()
    if code:
        raise subprocess.CalledProcessError(code, list(words))
    return machine.clock() - start, peak


def _together(pid: int) -> int:
    total = 0
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # it has just ended
            continue
    return total


def measure(size: Sequence[int], memory: str) -> dict[str, Any]:
    """What became of the volume by blocks, and of half the size as a whole."""
    with tempfile.TemporaryDirectory(prefix="l2rfast-bench-") as name:
        folder, found = Path(name), {}
        for title, scale, room in (("blocks", 2, memory), ("half the size, whole", 1, "1TB")):
            scene = Scene(size, scale)
            fixed, moving = scene.write(folder)
            out = folder / f"out{scale}"
            words = ["register", str(fixed), str(moving), f"--out={out}", f"--memory={room}", "--init=none", "--quiet"]
            seconds, peak = run([*L2RFAST, *words])
            found[title] = {
                "size": list(scene.size),
                "error": scene.error(out / "displacement.zarr"),
                "moved": float(scene.field(slice(0, scene.size[0], 8)).norm(dim=1).mean()),
                "seconds": seconds,
                "peak": peak,
                "levels": json.loads((out / "report.json").read_text())["levels"],
            }
            print(title, found[title], flush=True)
    return found


def page(record: dict[str, Any]) -> str:
    """What was measured, in Markdown."""
    rows = []
    for name, of in record["found"].items():
        rows.append(
            [
                name,
                " x ".join(map(str, of["size"])),
                digits(of["moved"]),
                digits(of["error"]),
                digits(of["peak"] / 1e9),
                digits(of["seconds"]),
                digits(np.prod(of["size"]) / of["seconds"]),
                ", ".join(str(level["blocks"]) for level in of["levels"]),
            ]
        )
    head = ["", "voxels", "moved, voxels", "endpoint error, voxels", "peak, GB", "seconds", "voxels a second", "blocks"]
    blocks, half = record["found"].values()
    parts = [
        "# Volumes larger than memory",
        f"{record['date']}. `l2rfast register --memory {record['memory']}`, uint16 in OME-Zarr, a known field; seconds"
        " with the start of the processes and the warped image.",
        table(head, rows),
        f"The error is {blocks['error'] / half['error']:.2f} times that of half the size, in voxels of each (target: "
        f"{MOST:g}); the peak {blocks['peak'] / parsed(record['memory']):.2f} of the memory that was given.",
        table(["machine", ""], [[name, str(value)] for name, value in record["machine"].items()]),
        table(["software", "version"], [list(item) for item in record["versions"].items()]),
    ]
    return "\n\n".join(parts) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.blocks", description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, nargs=3, default=[1024, 1024, 512], help="(default: 1024 1024 512)")
    parser.add_argument("--memory", default="4GB", help="(default: 4GB)")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "reports", help="folder of the report")
    arguments = parser.parse_args(argv)
    record = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "memory": arguments.memory,
        "machine": machine.describe(),
        "versions": machine.software(),
        "found": measure(arguments.size, arguments.memory),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "blocks.json").write_text(json.dumps(record, indent=1) + "\n")
    (arguments.out / "blocks.md").write_text(page(record))
    print(page(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
