"""Two ways in which a registration network fails, and how to see it. ``--small`` takes seconds."""

# %% 1. Intensities that it was not trained on: the published 2-D network, the moving image five times as bright.
import sys

import numpy as np
import torch

import l2rfast
from l2rfast import data
from l2rfast.data.brains import real_pair
from l2rfast.data.synthetic import anatomies
from l2rfast.losses import diffusion_energy
from l2rfast.methods.unsupervised import Architecture, VoxelMorph
from l2rfast.metrics import folding_fraction, global_correlation

SMALL = "--small" in sys.argv
STEPS = 400 if SMALL else 800

brains = real_pair()
network = VoxelMorph.from_keras(data.fetch("tutorials2019/unsupervised/models/brain_2d_shortrun.h5")).eval()
fixed, moving = (brains[name][None, None, :, :, 100].contiguous() for name in ("fixed", "moving"))
correlations = {}
for factor in (1, 5):
    with torch.no_grad():
        displacement = network(factor * moving, fixed).displacement
    correlations[factor] = global_correlation(l2rfast.warp(moving, displacement), fixed).item()
    print(
        f"intensities times {factor}: correlation with fixed {correlations[factor]:.3f}, "
        f"largest displacement {displacement.abs().max():.1f} voxels"
    )
# Bring intensities to where the network was trained, as `l2rfast register` does, or train with --intensity.

# %% 2. Nothing but the mean squared error: the picture is right, the field is not.
subjects = anatomies(2, (48, 48) if SMALL else (96, 96), deformation=0.04, noise=0.05)
fixed, moving = subjects[1].image.clamp(0, 1), subjects[0].image.clamp(0, 1)
folds, errors = {}, {}
for smoothness in (0.0, 0.01):
    torch.manual_seed(0)
    network = VoxelMorph(Architecture(2, (16, 32, 32), (32, 32, 32, 16, 16)))
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(STEPS):
        field = network(moving, fixed).displacement
        loss = l2rfast.warp_ssd(fixed, moving, field)[0].mean() + smoothness * diffusion_energy(field)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    field = field.detach()
    folds[smoothness] = 100 * folding_fraction(field).item()
    errors[smoothness] = (l2rfast.warp(moving, field) - fixed).square().mean().item()
    true = (field - subjects[1].displacement).square().sum(1).sqrt()[subjects[1].labels[:, 0] > 0].mean()
    print(
        f"smoothness {smoothness}: mean squared error {errors[smoothness]:.5f}, {folds[smoothness]:.2f} % folded, "
        f"{true:.1f} voxels from the truth"
    )
print("before: mean squared error", np.round((moving - fixed).square().mean().item(), 5))
