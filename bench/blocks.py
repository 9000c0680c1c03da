"""``python -m bench.blocks``: a volume larger than memory, registered by blocks, beside one of half the size, whole.

A generated image, uint16 in OME-Zarr, and the same moved by a known field; made slab by slab, so that it is never in
memory as a whole. What is measured: the mean endpoint error, the memory of all processes at their peak, and voxels in a
second. Errors are compared as lengths, as the scene is the same at both sizes: its finest detail is as long as 4 voxels
of the volume and 2 of half the size, so that what can be seen is a length, and no number of voxels.

``--peer`` registers a smaller volume by blocks instead, by ours and by elastix, a loop over blocks that overlap with as
many threads: its default B-spline from the identity, a control point every 16 voxels at last, and the fields put
together as ours are.
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
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d, interpolate

from l2rfast import spline_coefficients, warp
from l2rfast.io import Volume, zarr
from l2rfast.methods.blocks.blend import blended
from l2rfast.methods.blocks.cover import tiles, wider
from l2rfast.methods.cohort.memory import parsed
from l2rfast.world import Grid

from . import machine
from .report import REPORTS, digits, kept, table
from .runs import THREADS
from .tools.elastix import elastix

L2RFAST = [sys.executable, "-m", "l2rfast.cli"]
MOST = 1.1  # times the error of the whole volume of half the size, as a length
OURS, HALF, ELASTIX = "blocks", "half the size, whole", "elastix by blocks"
SIDE, HALO = 128, 16  # of elastix' blocks, in voxels
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


def measured(scene: Scene, folder: Path, memory: str) -> dict[str, Any]:
    """What ours makes of a scene."""
    fixed, moving = scene.write(folder)
    out = folder / f"out{scene.scale}"
    words = ["register", str(fixed), str(moving), f"--out={out}", f"--memory={memory}", "--init=none", "--quiet"]
    seconds, peak = run([*L2RFAST, *words])
    levels = json.loads((out / "report.json").read_text())["levels"]
    return judged(scene, out / "displacement.zarr", seconds) | {"peak": peak, "levels": levels}


def judged(scene: Scene, field: Path, seconds: float) -> dict[str, Any]:
    """What a field is like; lengths are in voxels of the volume, and not of half the size."""
    unit = 2 / scene.scale
    found = {
        "size": list(scene.size),
        "moved": unit * float(scene.field(slice(0, scene.size[0], 8)).norm(dim=1).mean()),
        "voxels": scene.error(field),
        "seconds": seconds,
    }
    found["length"] = unit * found["voxels"]
    print(found, flush=True)
    return found


def measure(size: Sequence[int], memory: str) -> dict[str, Any]:
    """What became of the volume by blocks, and of half the size as a whole."""
    found = {}
    for title, scale, room in ((OURS, 2, memory), (HALF, 1, "1TB")):
        with tempfile.TemporaryDirectory(prefix="l2rfast-bench-") as name:
            found[title] = measured(Scene(size, scale), Path(name), room)
    return found


def compare(size: Sequence[int], memory: str, threads: int) -> dict[str, Any]:
    """What became of a volume by blocks of ours, and of elastix."""
    scene = Scene(size, 2)
    with tempfile.TemporaryDirectory(prefix="l2rfast-bench-") as name:
        found = {OURS: measured(scene, Path(name), memory)}
        if find_spec("itk") is not None:
            field, variables = Path(name) / "elastix.zarr", dict.fromkeys(THREADS, str(threads))
            seconds = machine.in_a_fresh_process(_by_elastix, tuple(size), Path(name), field, **variables)
            found[ELASTIX] = judged(scene, field, seconds)
    return found


def _by_elastix(size: Sequence[int], folder: Path, out: Path) -> float:
    """Seconds that the field takes, from images that `Scene.write` has written."""
    levels = [zarr.open_levels(name, folder / f"{name}2.zarr")[0] for name in ("fixed", "moving")]
    grid, around = levels[0].grid, HALO + int(FARTHEST * min(size))
    cores = tiles(zarr.whole(size), [SIDE] * 3)
    start, fields = machine.clock(), []
    for core in cores:
        block = wider(core, HALO, size)
        images = [_millimetres(level, at) for level, at in zip(levels, (block, wider(core, around, size)), strict=True)]
        with tempfile.TemporaryDirectory(dir=folder) as name:
            fields.append(elastix(*images, Path(name))()().displacement[0].numpy())
    with zarr.written_field(out, grid, UNITS) as writer:
        for core in cores:
            writer.write(core, blended(core, cores, HALO, size, fields.__getitem__))
    return machine.clock() - start


def _millimetres(level: zarr.Level, at: Sequence[slice]) -> Volume:
    """A part of an image, in voxels of a millimetre: elastix' defaults are lengths of that."""
    volume = level.volume(at)
    affine = volume.affine.copy()
    affine[:3] /= MM
    return Volume(volume.data, affine)


def page(record: dict[str, Any]) -> list[str]:
    """What was measured, in paragraphs of Markdown."""
    parts = ["# Volumes larger than memory", *(text.replace("``", "`") for text in str(__doc__).split("\n\n")[1:])]
    if found := record.get("found"):
        ours, half = found[OURS], found[HALF]
        parts += [
            f"{record['date']}, `--memory {record['memory']}`; seconds with the start of the processes and the warped "
            f"image.",
            _table(found),
            f"The error is {ours['length'] / half['length']:.2f} times that of half the size as a length (target: "
            f"{MOST:g}), {ours['voxels'] / half['voxels']:.2f} times in voxels of each; the peak "
            f"{ours['peak'] / parsed(record['memory']):.2f} of the memory that was given.",
        ]
    if beside := record.get("beside"):
        parts += [
            f"{record['beside_date']}, ours with `--memory {record['beside_memory']}`, {record['threads']} threads.",
            _table(beside),
        ]
    return parts


def _table(found: dict[str, Any]) -> str:
    rows = []
    for name, of in found.items():
        peak = digits(of["peak"] / 1e9) if "peak" in of else ""
        blocks = ", ".join(str(level["blocks"]) for level in of.get("levels", []))
        lengths = [digits(of[key]) for key in ("moved", "length", "voxels")]
        speed = digits(float(np.prod(of["size"])) / of["seconds"])
        rows.append([name, " x ".join(map(str, of["size"])), *lengths, peak, digits(of["seconds"]), speed, blocks])
    lengths = ["moved", "endpoint error", "the same in voxels of its own"]
    return table(["", "voxels", *lengths, "peak, GB", "seconds", "voxels a second", "blocks"], rows)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.blocks", description=__doc__.partition("\n")[0])
    parser.add_argument("--peer", action="store_true", help="compare with elastix instead")
    parser.add_argument("--size", type=int, nargs=3, help="(default: 1024 1024 512; with --peer 256 256 256)")
    parser.add_argument("--memory", help="(default: 4GB; with --peer 1.5GB)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of elastix (default: all)")
    parser.add_argument("--out", type=Path, default=REPORTS, help="folder of the report")
    arguments = parser.parse_args(argv)
    file, today = arguments.out / "blocks.json", datetime.now(UTC).strftime("%Y-%m-%d")
    record = json.loads(file.read_text()) if file.exists() else {}
    record |= {"machine": machine.describe(), "versions": machine.software("itk-elastix")}
    if arguments.peer:
        size, memory, threads = arguments.size or (256, 256, 256), arguments.memory or "1.5GB", arguments.threads
        record |= {"beside_date": today, "beside_memory": memory, "threads": threads}
        record["beside"] = compare(size, memory, threads)
    else:
        size, memory = arguments.size or (1024, 1024, 512), arguments.memory or "4GB"
        record |= {"date": today, "memory": memory, "found": measure(size, memory)}
    print(kept(arguments.out, "blocks", record, page(record)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
