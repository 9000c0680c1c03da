"""Train on MR and ultrasound of the prostate, and register two cases kept aside. ``--small`` takes a minute.

No intensity is like another between the two, so that labels drive the training: of the gland, and of landmarks.
"""

# %% Data: eight cases of the tutorial; the last two are kept for validation.
import csv
import sys
from dataclasses import replace
from pathlib import Path

import torch

import l2rfast
from l2rfast import data
from l2rfast.io import read_image, read_masks
from l2rfast.methods.weakly_supervised.options import of_preset
from l2rfast.methods.weakly_supervised.training import centroid, train_weakly_supervised

SMALL = "--small" in sys.argv
OUT = Path("build/examples/prostate")
FOLDER = "tutorials2019/weakly/data/train"
for i in range(8):
    for kind in ("mr_images", "us_images", "mr_labels", "us_labels"):
        file = data.fetch(f"{FOLDER}/{kind}/case{i:06}.nii.gz")
scans = file.parent.parent

# %% Training, mirrored from left to right as well.
# On the command line: l2rfast train weakly-supervised --data SCANS --out RUN --hold-out 2 --mirror 1
run = OUT / "run"
for file in run.glob("*.*"):
    file.unlink()
options, trainer = of_preset("cpu")
if SMALL:
    options, trainer = replace(options, width=4), replace(trainer, steps=16, every=4)
train_weakly_supervised(
    scans,
    run,
    options,
    replace(trainer, mirror=(1,)),
    hold_out=2,
    progress=lambda step, text: print(f"\rstep {step}: {text}", end="", flush=True),
)
with (run / "validation.csv").open() as stream:
    scores = [float(row["DSC"]) for row in csv.DictReader(stream)]
print(f"\ngland Dice of the two cases: {scores[0]:.3f} at the start, {scores[-1]:.3f} at the end")

# %% A case that it has not seen. The affines of the files say nothing, so registration goes by the index.
fixed, moving = (read_image(scans / f"{role}_images" / "case000007.nii.gz") for role in ("us", "mr"))
result = l2rfast.register(fixed, moving, method="weakly-supervised", weights=run / "weights.safetensors")
masks = [
    read_masks(scans / f"{role}_labels" / "case000007.nii.gz", image) for role, image in (("us", fixed), ("mr", moving))
]
for number in sorted(masks[0].keys() & masks[1].keys()):
    warped = result.warp(masks[1][number].float())
    both = (warped >= 0.5) & masks[0][number]
    overlap = 2 * both.sum() / ((warped >= 0.5).sum() + masks[0][number].sum())
    apart = torch.linalg.norm(centroid(warped) - centroid(masks[0][number]))
    print(f"label {number}: Dice {overlap:.3f}, centroids {apart:.1f} voxels apart")
