"""Register two brains with the published 3-D network, without TensorFlow. ``--small`` takes every other voxel."""

# %% The scans and the network.
import sys
import time
from statistics import fmean

import torch

import l2rfast
from l2rfast import data
from l2rfast.data.brains import STRUCTURES, real_pair
from l2rfast.methods.unsupervised import VoxelMorph
from l2rfast.metrics import dice, folding_fraction

SMALL = "--small" in sys.argv
brains = real_pair()
if SMALL:
    brains = {name: volume[::2, ::2, ::2].contiguous() for name, volume in brains.items()}
network = VoxelMorph.from_keras(data.fetch("tutorials2019/unsupervised/models/cvpr2018_vm2_cc.h5")).eval()
print(network.architecture)

# %% One call of the network.
fixed, moving = brains["fixed"][None, None], brains["moving"][None, None]
with torch.inference_mode():
    network(moving, fixed)  # the first call sets up PyTorch's convolutions
    start = time.perf_counter()
    displacement = network(moving, fixed).displacement
print(f"{time.perf_counter() - start:.2f} s for {tuple(fixed.shape[2:])} voxels")

# %% How good it is: the overlap of 30 structures, which the network has never seen.
labels = l2rfast.warp(brains["moving_labels"][None, None], displacement, mode="nearest")[0, 0]
before, after = (fmean(dice(brains["fixed_labels"], x, STRUCTURES).values()) for x in (brains["moving_labels"], labels))
print(f"mean Dice {before:.4f} -> {after:.4f}, {100 * folding_fraction(displacement).item():.3f} % folded")
# On the command line: l2rfast register FIXED MOVING --out RESULT --method unsupervised --weights cvpr2018_vm2_cc.h5
