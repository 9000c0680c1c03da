"""``python -m bench.painting``: how long a pair of painted images takes, beside VoxelMorph's and neurite's functions.

Neither package has SynthMorph's generator for PyTorch whole. Theirs is made of their functions for its parts, in the
fastest of the ways that each offers: twice a random affine and nonlinear transform, the label map warped by it,
intensities sampled from it, a Gaussian, a smooth bias field, and gamma.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from l2rfast.data.painted import Range, label_map, painted_pair

from .machine import OWN, describe, seconds, software
from .report import REPORTS, digits, kept, rounded, spread, table

OURS, THEIRS = "l2rfast", "voxelmorph and neurite"
PEERS = ("voxelmorph", "neurite")
# What theirs has not.
SAME = Range(thick=0, cropped=0)


def theirs(labels: Tensor) -> tuple[Tensor, Tensor]:
    """The image and the label map of one of two."""
    import neurite.nn.functional as ne
    import voxelmorph.nn.functional as vxm

    moved = vxm.spatial_transform(labels.float(), vxm.random_transform(labels.shape), method="nearest")
    image = ne.sample_image_from_labels(moved.int(), noise_std=0.06)
    image = ne.gaussian_smoothing(image, sigma=0.5, method="separable")
    bias = ne.fractal_noise(labels.shape, scales=[48.0], magnitude=0.15, method="upsample")
    image = image * bias.exp()
    image = (image - image.min()) / (image.max() - image.min())
    return image ** float(torch.exp(0.25 * torch.randn(()))), moved


def measured(size: Sequence[int], repetitions: int) -> dict[str, list[float]]:
    """Seconds of a pair, of both in turns, each of another label map."""
    random = torch.Generator().manual_seed(0)
    maps = [label_map(size, random) for _ in range(repetitions + 1)]
    runs: dict[str, Callable[[Tensor], object]] = {
        OURS: lambda labels: painted_pair(labels, random, SAME),
        THEIRS: lambda labels: [theirs(labels) for _ in range(2)],
    }
    found: dict[str, list[float]] = {name: [] for name in runs}
    for k, labels in enumerate(maps):
        for name, run in runs.items():
            passed = seconds(lambda run=run, labels=labels: run(labels))  # type: ignore[misc]
            if k:  # the first is to get ready
                found[name].append(passed)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.painting", description=__doc__)
    parser.add_argument("--size", type=int, default=96, help="of the cubes, voxels (default: 96)")
    parser.add_argument("--repetitions", type=int, default=15, help="pairs of each (default: 15)")
    parser.add_argument("--threads", type=int, default=2, help="(default: 2)")
    parser.add_argument("--out", type=Path, default=REPORTS, help="folder of the report")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    found = measured([arguments.size] * 3, arguments.repetitions)
    times = median(t / o for o, t in zip(found[OURS], found[THEIRS], strict=True))
    record = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": describe(),
        "versions": software(*OWN, *PEERS),
        "size": arguments.size,
        "seconds": rounded(found),
        "times_faster": rounded(times),
    }
    rows = [[name, spread([1000 * one for one in values])] for name, values in found.items()]
    text = (
        f"A pair of painted images and their label maps, {arguments.size}^3, from a label map that is there: "
        f"milliseconds, median [least, largest] of {arguments.repetitions}, in turns. Theirs takes {digits(times)} "
        "times as long, the median of the ratios. It is made of their functions, as neither has the generator whole."
    )
    print(kept(arguments.out, "painting", record, ["# Painted images", text, table(["", "ms"], rows)]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
