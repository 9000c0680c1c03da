"""``python -m bench.transforms``: images, series and inverses through transforms, beside the tools that do the same.

Ours and theirs take turns in one process, with the same threads; medians of the wall time, and of the CPU's seconds,
which suffer less where others use the machine. What both give is compared first.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from l2rfast import compose as composed
from l2rfast import invert, warp
from l2rfast.cli.apply import apply
from l2rfast.io import Volume, write_affine, write_displacement, write_image
from l2rfast.resampling import Resampler
from l2rfast.world import Affine, Displacement, Grid, compose

from . import machine
from .report import digits, table

ROOT = Path(__file__).parent.parent
SHAPE, SMALL = (160, 192, 224), (64, 64, 40)
VOLUMES = 200
HEADER = np.array([[-1.0, 0, 0, 80], [0, 1, 0, -95], [0, 0, 1, -110], [0, 0, 0, 1]])
LPS = np.diag([-1.0, -1, 1])

EXPLANATION = """\
160 x 192 x 224, float32, unless said. Ours and theirs take turns in one process, with the same threads; medians of the
wall time, and of the CPU's seconds, which suffer less where others use the machine. What both give is compared
first."""

Run = Callable[[], Any]


@dataclass
class Case:
    """Ours beside theirs.

    Attributes:
        name, peer: of what is done, and by whom else.
        target: how many times faster ours is to be.
        agreement: by how much the results differ, in words.
    """

    name: str
    peer: str
    target: float
    agreement: str = ""
    ours: list[tuple[float, float]] = field(default_factory=list)
    theirs: list[tuple[float, float]] = field(default_factory=list)

    @property
    def times(self) -> float:
        """By the wall clock."""
        return median(wall for wall, _ in self.theirs) / median(wall for wall, _ in self.ours)

    @property
    def cpu_times(self) -> float:
        return median(cpu for _, cpu in self.theirs) / median(cpu for _, cpu in self.ours)

    def row(self) -> list[str]:
        seconds = [digits(median(wall for wall, _ in runs)) for runs in (self.ours, self.theirs)]
        met = "met" if self.times >= self.target else "**not met**"
        ratios = [digits(self.times), digits(self.cpu_times), f"{self.target:g}", met]
        return [self.name, *seconds, self.peer, *ratios, self.agreement]


def smooth(shape: tuple[int, ...], voxels: float) -> Tensor:
    """A field whose longest displacement is so many voxels."""
    noise = torch.randn(1, 3, *(max(3, n // 24) for n in shape), generator=torch.Generator().manual_seed(0))
    disp = F.interpolate(noise, size=shape, mode="trilinear", align_corners=True)
    return disp * (voxels / float(disp.norm(dim=1).max()))


def grid(shape: tuple[int, ...]) -> Grid:
    return Grid(shape, HEADER)


def affine() -> Affine:
    matrix = np.eye(4)
    matrix[:3] += np.hstack([0.03 * np.random.default_rng(0).normal(size=(3, 3)), [[2.0], [-1.5], [3]]])
    return Affine(matrix)


def itk_image(values: np.ndarray, vectors: bool = False) -> sitk.Image:
    """Of (D, H, W[, 3]), in the world of HEADER."""
    axes = (2, 1, 0, 3) if vectors else (2, 1, 0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(values.transpose(axes)), isVector=vectors)
    image.SetOrigin((LPS @ HEADER[:3, 3]).tolist())
    image.SetDirection((LPS @ HEADER[:3, :3]).ravel().tolist())
    return image


def itk_chain(disp: Tensor, linear: Affine) -> sitk.Transform:
    vectors = np.einsum("ij,j...->...i", LPS @ HEADER[:3, :3], disp[0].double().numpy())
    matrix = LPS @ linear.array[:3, :3] @ LPS
    last = sitk.AffineTransform(matrix.ravel().tolist(), (LPS @ linear.array[:3, 3]).tolist())
    return sitk.CompositeTransform([last, sitk.DisplacementFieldTransform(itk_image(vectors, vectors=True))])


def resampling() -> Iterator[tuple[Case, Run, Run]]:
    disp, linear = smooth(SHAPE, 6), affine()
    image = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=SHAPE).astype(np.float32), 1)
    chain, theirs, volume = compose(Displacement(disp, HEADER), linear), itk_chain(disp, linear), itk_image(image)
    mine = torch.from_numpy(image)[None, None]
    case = Case("one image, through a field and an affine map, linear", "SimpleITK, Resample", 15)
    ours = lambda: Resampler(chain, grid(SHAPE), grid(SHAPE))(mine)  # noqa: E731
    other = lambda: sitk.Resample(volume, volume, theirs, sitk.sitkLinear, 0.0)  # noqa: E731
    case.agreement = _differ(ours()[0, 0].numpy(), sitk.GetArrayFromImage(other()).T)
    yield case, ours, other

    case = Case("cubic B-spline, prefilter included", "SciPy, map_coordinates of order 3", 8)
    places = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij")) + disp[0].numpy()
    ours = lambda: warp(mine, disp, mode="cubic")  # noqa: E731
    other = lambda: ndimage.map_coordinates(image, places, order=3, mode="nearest")  # noqa: E731
    inner = (slice(8, -8),) * 3
    case.agreement = _differ(ours()[0, 0].numpy()[inner], other()[inner])
    yield case, ours, other


def series() -> Iterator[tuple[Case, Run, Run]]:
    disp, linear = smooth(SMALL, 3), affine()
    volumes = np.random.default_rng(0).integers(0, 2000, (VOLUMES, *SMALL), dtype=np.int16)
    chain, theirs = compose(Displacement(disp, HEADER), linear), itk_chain(disp, linear)
    reference = itk_image(volumes[0])

    def ours() -> list[np.ndarray]:
        resampler = Resampler(chain, grid(SMALL), grid(SMALL))
        warped = resampler.series(torch.from_numpy(volume).float()[None] for volume in volumes)
        return [volume[0].round_().short().numpy() for volume in warped]

    def other() -> list[np.ndarray]:
        warped = (sitk.Resample(itk_image(volume), reference, theirs, sitk.sitkLinear, 0.0) for volume in volumes)
        return [sitk.GetArrayFromImage(image) for image in warped]

    case = Case(f"{VOLUMES} volumes of {' x '.join(map(str, SMALL))}, int16", "SimpleITK, Resample of each", 10)
    case.agreement = _differ(ours()[3].astype(float), other()[3].T.astype(float)) + ", which SimpleITK cuts"
    yield case, ours, other


def inverses() -> Iterator[tuple[Case, Run, Run]]:
    disp = smooth(SHAPE, 6)
    vectors = itk_image(np.einsum("ij,j...->...i", LPS @ HEADER[:3, :3], disp[0].double().numpy()), vectors=True)
    ours = lambda: invert(disp)  # noqa: E731
    other = lambda: sitk.InvertDisplacementField(vectors, 20, 0.01, 0.001, True)  # noqa: E731
    found = np.einsum("ij,...j->i...", LPS @ HEADER[:3, :3], sitk.GetArrayFromImage(other()).transpose(2, 1, 0, 3))
    left = [float(composed(disp, back).norm(dim=1).mean()) for back in (ours(), torch.from_numpy(found)[None].float())]
    case = Case("inverse of a field of 6 voxels", "SimpleITK, InvertDisplacementField", 10)
    case.agreement = f"mean residual {left[0]:.2g} voxel, theirs {left[1]:.2g}"
    yield case, ours, other


def whole_calls() -> Iterator[tuple[Case, Run, Run]]:
    for suffix in (".nii.gz", ".nii"):
        yield from _whole_call(suffix)


def _whole_call(suffix: str) -> Iterator[tuple[Case, Run, Run]]:
    import ants

    with tempfile.TemporaryDirectory() as folder:
        image, warp_, out = (str(Path(folder) / f"{name}{suffix}") for name in ("a", "u", "o"))
        linear = str(Path(folder) / "a.txt")
        values = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=SHAPE).astype(np.float32), 1)
        write_image(image, Volume(torch.from_numpy(values), HEADER))
        write_displacement(warp_, smooth(SHAPE, 6), HEADER)
        write_affine(linear, affine().array)

        def ours() -> None:
            apply(Path(image), Path(image), Path(out), transform=[warp_, linear], quiet=True)

        def other() -> None:
            fixed, moving = ants.image_read(image), ants.image_read(image)
            ants.image_write(ants.apply_transforms(fixed, moving, [warp_, linear]), out)

        other()
        theirs = sitk.GetArrayFromImage(sitk.ReadImage(out))
        ours()
        case = Case(f"whole call, {suffix} files read and written", "antspyx, apply_transforms", 10)
        case.agreement = _differ(sitk.GetArrayFromImage(sitk.ReadImage(out)), theirs)
        yield case, ours, other


def _differ(one: np.ndarray, other: np.ndarray) -> str:
    """In words; beside the range of values, but where one is beyond the border and the other not yet."""
    off = np.abs(one - other) / np.ptp(other)
    return f"99.9 % within {float(np.quantile(off, 0.999)):.1g} of the range"


def _timed(run: Run) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.transforms", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "reports")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(arguments.threads)
    cases = []
    for make in (resampling, series, inverses, whole_calls):
        for case, ours, theirs in make():
            for _ in range(arguments.rounds):
                case.ours.append(_timed(ours))
                case.theirs.append(_timed(theirs))
            cases.append(case)
            print(*case.row(), sep=" | ", flush=True)
    described = machine.describe()
    versions = machine.software("antspyx", "simpleitk", "scipy")
    head = ["what", "ours, s", "theirs, s", "of", "times faster", "by CPU seconds", "target", "", "the results differ"]
    text = "\n\n".join(
        [
            "# Transforms applied and inverted",
            EXPLANATION,
            table(head, [case.row() for case in cases]),
            table(["machine", ""], [[name, str(value)] for name, value in described.items()]),
            table(["software", "version"], [list(item) for item in versions.items()]),
        ]
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    content = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cases": [asdict(case) for case in cases],
        "machine": described,
        "versions": versions,
    }
    (arguments.out / "transforms.json").write_text(json.dumps(content, indent=1) + "\n")
    (arguments.out / "transforms.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
