"""Train VoxelMorph on slices of two real brains, and register slices that it has not seen.

The published 2-D network, trained for longer on many people, is beside it. ``--small`` takes seconds.
"""

# %% Data: every other slice of the two brains, the middle ones kept for validation with a gap on both sides.
import csv
import sys
from pathlib import Path

import numpy as np
import torch

import l2rfast
from l2rfast import data
from l2rfast.data.brains import real_pair
from l2rfast.io import Volume, write_image
from l2rfast.methods.training.options import TrainerOptions
from l2rfast.methods.unsupervised import VoxelMorph
from l2rfast.methods.unsupervised.training import TrainingOptions, train_unsupervised
from l2rfast.metrics import dice

SMALL = "--small" in sys.argv
OUT = Path("build/examples/brains_2d")
STEPS = 100 if SMALL else 1000
HELD_OUT, GAP = range(94, 107), range(90, 111)

brains = real_pair()
OUT.mkdir(parents=True, exist_ok=True)
rows = []
for k in range(60, 152, 4 if SMALL else 2):
    if k in GAP and k not in HELD_OUT:
        continue
    for name, volume in brains.items():
        write_image(OUT / f"{name}{k}.nii.gz", Volume(volume[:, :, k].contiguous(), np.eye(4)))
    for fixed, moving in (("fixed", "moving"), ("moving", "fixed")):
        rows.append({"fixed": f"{fixed}{k}.nii.gz", "moving": f"{moving}{k}.nii.gz"})
        rows[-1] |= {"fixed_labels": f"{fixed}_labels{k}.nii.gz", "moving_labels": f"{moving}_labels{k}.nii.gz"}
        rows[-1]["split"] = "validation" if k in HELD_OUT else "training"
with (OUT / "pairs.csv").open("w", newline="") as stream:
    writer = csv.DictWriter(stream, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)

# %% Training: local NCC and smoothness, small random affine maps on top.
run = OUT / "run"
for file in run.glob("*.*"):
    file.unlink()
train_unsupervised(
    OUT / "pairs.csv",
    run,
    TrainingOptions(),
    TrainerOptions(steps=STEPS, batch=4, rate=1e-3, every=STEPS // 4, affine=0.05),
    progress=lambda step, text: print(f"\rstep {step}: {text}", end="", flush=True),
)
with (run / "validation.csv").open() as stream:
    scores = [float(row["DSC"]) for row in csv.DictReader(stream)]
before, after = scores[0], max(scores)
print(f"\nmean Dice of the slices it has not seen: {before:.3f} -> {after:.3f}; {run / 'curves.png'}")

# %% The published network, on the tutorial's pair: a slice of the moving brain, and an atlas.
published = VoxelMorph.from_keras(data.fetch("tutorials2019/unsupervised/models/brain_2d_shortrun.h5")).eval()
atlas = np.load(data.fetch("tutorials2019/unsupervised/data/slice-100/atlas_norm_2d.npz"), allow_pickle=False)
image, truth = (torch.from_numpy(atlas[key]) for key in ("vol", "seg"))
labels = brains["moving_labels"][:, :, 100].contiguous()
for name, network in (("published", published), ("ours", VoxelMorph.load(run / "weights.safetensors").eval())):
    with torch.no_grad():
        found = network(brains["moving"][None, None, :, :, 100], image[None, None].float()).displacement
    warped = l2rfast.warp(labels[None, None], found, mode="nearest")[0, 0]
    shared = set(truth.unique().tolist()) & set(labels.unique().tolist()) - {0}
    overlaps = [np.mean(list(dice(truth.long(), x.long(), shared).values())) for x in (labels, warped)]
    print(f"slice 100 to the atlas, {name}: mean Dice {overlaps[0]:.3f} -> {overlaps[1]:.3f}")
