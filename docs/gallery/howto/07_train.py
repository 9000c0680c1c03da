r"""
Train on my data
================

A network that has seen many scans of a kind predicts the field of a new pair at once, where an optimisation
searches it for each pair anew. This page trains VoxelMorph on a folder of images and asks whether it was worth it.
It takes generated slices of 64 x 64 pixels and some seconds, where yours takes volumes and hours: what it shows are
the steps.
"""

import json

import numpy as np

from l2rfast.cli.shell import shell
from l2rfast.data.scenes import SMALL, pair
from l2rfast.data.synthetic import anatomies
from l2rfast.figures import show, show_file
from l2rfast.io import Volume, write_image

folder = pair().fixed.parent

# sphinx_gallery_thumbnail_number = 2

# %%
# The data
# --------
# A folder ``images``, and where there are label maps a folder ``labels`` with the same names. The labels measure;
# they are trained on only if you say so. Tables of pairs, BIDS, nnU-Net's layout and Learn2Reg's ``dataset.json`` are
# taken as well: :doc:`/reference/data`.

subjects = anatomies(20, (64, 64), structures=6, deformation=0.04)
for kind in ("images", "labels"):
    (folder / "scans" / kind).mkdir(parents=True, exist_ok=True)
for i, subject in enumerate(subjects):
    write_image(folder / "scans" / "images" / f"head{i:02}.nii.gz", Volume(subject.image[0, 0], np.eye(4)))
    write_image(folder / "scans" / "labels" / f"head{i:02}.nii.gz", Volume(subject.labels[0, 0], np.eye(4)))
show({f"head{i:02}": [subjects[i].image, subjects[i].labels] for i in range(5)})

# %%
# The command
# -----------
# All ordered pairs of the images are trained on, but for the last three images, which are held out. ``--velocity``
# makes fields without folds. The network is smaller than the published one, and so is the number of steps.

steps = 100 if SMALL else 1000
shell(
    rf"""
    l2rfast train unsupervised --data scans --out run --hold-out 3 --velocity --quiet \
        --encoder 8,16,16,16 --decoder 16,16,16,16,8,8 --rate 2e-3 --batch 4 --steps {steps} --every {steps // 5}
    """,
    folder,
)

# %%
# Ended by Ctrl-C, a kill or a power cut, the same command with ``--resume`` goes on, and ends with the same weights.
#
# Did it learn?
# -------------
# ``curves.png`` has the loss of the training, and the measures of the pairs that it has not seen. While those still
# get better, more steps help. Where they get worse although the loss goes down, the network has begun to learn its
# pairs by heart. The weights that are kept are those of the best validation.

show_file(folder / "run" / "curves.png")

# %%
# Was it worth it?
# ----------------
# ``evaluate`` registers the pairs that were held out: by the network, and by the default method, which needs no
# training.

shell(
    r"""
    l2rfast evaluate --data scans --out by_network --hold-out 3 --quiet \
        --method unsupervised --weights run/weights.safetensors
    l2rfast evaluate --data scans --out by_default --hold-out 3 --quiet
    """,
    folder,
)
for name in ("by_network", "by_default"):
    (found,) = json.loads((folder / name / "evaluation.json").read_text()).values()
    mean = found["aggregates"]["mean"]
    print(f"{name}: mean Dice {mean['DSC']:.3f}, HD95 {mean['HD95']:.2f} mm, folds {mean['digital_foldings']:.0f}")

# %%
# So short a training loses against an optimisation. What a network is for is what an optimisation does not see:
# labels, keypoints, what is typical of the anatomy; and the time of a pair. Measure both on your own data before you
# decide. The network's pairs, before and after:

show_file(folder / "by_network" / "evaluation.png")

# %%
# Use it
# ------
# The weights are one file, for ``register``, ``cohort`` and ``template`` alike. ``--finetune`` goes on from the
# network's field for the one pair.

shell(
    r"""
    l2rfast register scans/images/head18.nii.gz scans/images/head19.nii.gz --out by_weights --quiet \
        --method unsupervised --weights run/weights.safetensors --finetune 20
    """,
    folder,
)
show_file(folder / "by_weights" / "overview.png")

# %%
# On your own data
# ----------------
# - Bring all scans to one size and spacing, roughly aligned. 3-D goes as 2-D does.
# - With labels, ``--segmentation 1`` adds their overlap to the loss. Report then the overlap of other structures too:
#   that of the same ones says less than it did.
# - Images of two modalities: ``--similarity mind``, or ``l2rfast train weakly-supervised``, which is trained on
#   labels.
# - Large motion, as in CT of lungs: ``l2rfast train discrete``, PDD-Net.
# - Several GPUs or processes: ``torchrun --nproc-per-node 2 -m l2rfast.cli train ...``.
#
# :doc:`/reference/unsupervised`, :doc:`/reference/weakly-supervised` and :doc:`/reference/pddnet` have the losses,
# the files and longer examples.
