"""PDD-Net in 3-D: trained on generated anatomies, then the published weights. ``--small`` takes seconds."""

# %% Training on labels.
import csv
import sys
from pathlib import Path

import numpy as np
import torch

import l2rfast
from l2rfast import data
from l2rfast.data.synthetic import anatomies
from l2rfast.io import Volume, write_image
from l2rfast.methods.discrete.pddnet import PDDNet
from l2rfast.methods.discrete.training import TrainingOptions, train_discrete
from l2rfast.methods.training.options import TrainerOptions

SMALL = "--small" in sys.argv
OUT = Path("build/examples/pddnet_3d")
SIDE, CASES, STEPS = (30, 5, 40) if SMALL else (60, 12, 200)
for i, subject in enumerate(anatomies(CASES, (SIDE, SIDE, SIDE), structures=5, deformation=0.03)):
    for kind, values in (("images", subject.image), ("labels", subject.labels)):
        (OUT / "scans" / kind).mkdir(parents=True, exist_ok=True)
        write_image(OUT / "scans" / kind / f"case{i:02}.nii.gz", Volume(values[0, 0], np.eye(4)))
run = OUT / "run"
for file in run.glob("*.*"):
    file.unlink()
train_discrete(
    OUT / "scans",
    run,
    TrainingOptions(features="cnn", grid=(10,), search=(7,), extent=(0.3,)),
    TrainerOptions(steps=STEPS, batch=2, rate=3e-3, every=STEPS // 2),
    hold_out=2,
    progress=lambda step, text: print(f"\rstep {step}: {text}", end="", flush=True),
)
with (run / "validation.csv").open() as stream:
    scores = [float(row["DSC"]) for row in csv.DictReader(stream)]
print(f"\nmean Dice of the pairs kept aside: {scores[0]:.3f} -> {scores[-1]:.3f}")

# %% Registration, and where it is unsure.
paths = [OUT / "scans" / "images" / f"case{i:02}.nii.gz" for i in (CASES - 1, CASES - 2)]
result = l2rfast.register(*paths, method="pddnet", weights=run / "weights.safetensors")
print(f"entropy of the displacements: {result.entropy.min():.2f} to {result.entropy.max():.2f} nats")

# %% The published weights, of CT in units of 500 HU: a body of soft tissue that moves by some voxels.
published = [data.fetch(f"pdd_net/dense_reg_{part}_v01.pth") for part in ("feat", "deeds")]
network = PDDNet.from_published(*published).eval()
torch.manual_seed(0)
organs = l2rfast.box_average(torch.randn(1, 1, 96, 80, 112), 6, passes=2)
body = 0.1 + 0.2 * (organs > 0) + 0.05 * torch.randn(organs.shape)
moving = l2rfast.box_average(body, 1)
fixed = torch.roll(moving, (-6, 4, 8), (2, 3, 4))  # lies at x + (6, -4, -8) in moving
with torch.no_grad():
    found = network(fixed, moving).displacement
inner = found[0, :, 16:-16, 16:-16, 16:-16].flatten(1).median(1).values
print(f"moved by (6, -4, -8), found {[round(v, 1) for v in inner.tolist()]}: the softmax pulls towards nothing")
