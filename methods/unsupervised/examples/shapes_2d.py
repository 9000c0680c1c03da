"""Train VoxelMorph on 2-D shapes that are generated here, and look at what it has learned.

Run it as a script, or cell by cell in an editor that knows ``# %%``. ``--small`` takes seconds.
"""

# %% Data: one anatomy, deformed at random; labels only to measure with.
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import l2rfast
from l2rfast.data.synthetic import anatomies
from l2rfast.io import Volume, write_image
from l2rfast.methods.training.options import TrainerOptions
from l2rfast.methods.unsupervised import VoxelMorph
from l2rfast.methods.unsupervised.training import TrainingOptions, train_unsupervised
from l2rfast.metrics import dice

SMALL = "--small" in sys.argv
OUT = Path("build/examples/shapes_2d")
SIZE, SUBJECTS, STEPS = ((48, 48), 8, 40) if SMALL else ((96, 96), 40, 1000)

subjects = anatomies(SUBJECTS, SIZE, deformation=0.03)
for i, subject in enumerate(subjects):
    for kind, data in (("images", subject.image), ("labels", subject.labels)):
        (OUT / "scans" / kind).mkdir(parents=True, exist_ok=True)
        write_image(OUT / "scans" / kind / f"subject{i:02}.nii.gz", Volume(data[0, 0], np.eye(4)))

# %% Training: mean squared error and smoothness, on all pairs but those of the last four subjects.
# On the command line: l2rfast train unsupervised --data SCANS --out RUN --hold-out 4 --similarity mse ...
run = OUT / "run"
for file in run.glob("*.*"):
    file.unlink()
train_unsupervised(
    OUT / "scans",
    run,
    TrainingOptions(similarity="mse"),
    TrainerOptions(steps=STEPS, batch=4, rate=1e-3, every=STEPS // 4),
    hold_out=4,
    progress=lambda step, text: print(f"\rstep {step}: {text}", end="", flush=True),
)

# %% Two subjects that it has not seen.
network = VoxelMorph.load(run / "weights.safetensors").eval()
fixed, moving = subjects[-1], subjects[-2]
with torch.no_grad():
    displacement = network(moving.image.clamp(0, 1), fixed.image.clamp(0, 1)).displacement
warped = l2rfast.warp(moving.image, displacement)
labels = l2rfast.warp(moving.labels, displacement, mode="nearest")
before, after = (float(np.mean(list(dice(fixed.labels, x).values()))) for x in (moving.labels, labels))
print(f"\nmean Dice {before:.3f} -> {after:.3f}")

# %% The picture.
figure, axes = plt.subplots(1, 4, figsize=(12, 3.2), layout="constrained")
for ax, image, title in zip(axes, (fixed.image, moving.image, warped), ("fixed", "moving", "warped"), strict=False):
    ax.imshow(image[0, 0].numpy(), cmap="gray", vmin=0, vmax=1)
    ax.set(title=title, xticks=[], yticks=[])
places = torch.stack(torch.meshgrid(*(torch.arange(s) for s in SIZE), indexing="ij")) + displacement[0]
for lines in (places[:, ::4], places[:, :, ::4].transpose(1, 2)):
    axes[3].plot(lines[1].T.numpy(), lines[0].T.numpy(), color="tab:blue", linewidth=0.5)
axes[3].set(title="x + displacement(x)", aspect="equal", xticks=[], yticks=[])
axes[3].invert_yaxis()
figure.savefig(OUT / "pair.png")
