"""Train the tutorial's 2-D network on labels: of generated anatomies, then of slices of two real brains.

``--small`` takes seconds.
"""

# %% Generated anatomies, which are always there.
import csv
import sys
from pathlib import Path
from statistics import fmean

import numpy as np

from l2rfast.data.brains import real_pair
from l2rfast.data.synthetic import anatomies
from l2rfast.io import Volume, write_image
from l2rfast.methods.discrete.training import TrainingOptions, train_discrete
from l2rfast.methods.training.cases import find_pairs, read
from l2rfast.methods.training.options import TrainerOptions
from l2rfast.metrics import dice

SMALL = "--small" in sys.argv
OUT = Path("build/examples/slices_2d")
STEPS = 60 if SMALL else 400


def trained(data: Path, name: str, **options: int) -> tuple[float, float]:
    """Mean Dice of the pairs kept aside, as they are and registered by the network of the last step."""
    run = OUT / name
    for file in run.glob("*.*"):
        file.unlink()
    train_discrete(
        data,
        run,
        TrainingOptions(),
        TrainerOptions(steps=STEPS, batch=4, rate=1e-3, every=STEPS // 2, affine=0.05),
        progress=lambda step, text: print(f"\rstep {step}: {text}", end="", flush=True),
        **options,
    )
    with (run / "validation.csv").open() as stream:
        after = [float(row["DSC"]) for row in csv.DictReader(stream)][-1]
    kept = [(read(pair.fixed).labels, read(pair.moving).labels) for pair in find_pairs(data, **options).validation]
    before = fmean(fmean(dice(a.data.long(), b.data.long()).values()) for a, b in kept)
    print(f"\n{name}: mean Dice {before:.3f} -> {after:.3f}; {run / 'curves.png'}")
    return before, after


for i, subject in enumerate(anatomies(6 if SMALL else 16, (64, 64), structures=5, deformation=0.03)):
    for kind, values in (("images", subject.image), ("labels", subject.labels)):
        (OUT / "anatomies" / kind).mkdir(parents=True, exist_ok=True)
        write_image(OUT / "anatomies" / kind / f"case{i:02}.nii.gz", Volume(values[0, 0], np.eye(4)))
generated = trained(OUT / "anatomies", "generated", hold_out=2 if SMALL else 4)

# %% Slices of two brains, the middle ones kept aside, with a gap.
HELD_OUT, GAP = range(94, 107), range(90, 111)
brains = real_pair()
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
real = trained(OUT / "pairs.csv", "brains")
