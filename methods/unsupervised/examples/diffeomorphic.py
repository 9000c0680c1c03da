"""Displacements against velocities: one network and pair, with and without integration. ``--small`` takes seconds."""

# %% A pair, and what both networks are trained on.
import sys

import torch

import l2rfast
from l2rfast.data.synthetic import anatomies
from l2rfast.methods.unsupervised import Architecture, VoxelMorph
from l2rfast.metrics import folding_fraction

SMALL = "--small" in sys.argv
STEPS, SIZE = (400, (48, 48)) if SMALL else (500, (96, 96))
template, subject = anatomies(2, SIZE, deformation=0.05, noise=0.05)
fixed, moving = subject.image.clamp(0, 1), template.image.clamp(0, 1)


# %% Training on the one pair; no smoothness asked for, so that folds may appear.
def trained(velocity: bool) -> VoxelMorph:
    torch.manual_seed(0)
    network = VoxelMorph(Architecture(2, (16, 32, 32), (32, 32, 32, 16, 16), velocity=velocity))
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(STEPS):
        found = network(moving, fixed)
        loss = l2rfast.warp_ssd(fixed, moving, found.displacement)[0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


# %% What comes out.
folds = {}
for velocity in (False, True):
    network = trained(velocity)
    with torch.no_grad():
        found = network(moving, fixed)
    folds[velocity] = 100 * folding_fraction(found.displacement).item()
    error = (l2rfast.warp(moving, found.displacement) - fixed).square().mean().item()
    print(f"{'velocity' if velocity else 'displacement'}: {folds[velocity]:.3f} % folded, error {error:.5f}")

# %% A velocity gives the way back too: the two fields undo each other.
there_and_back = l2rfast.compose(found.displacement, found.inverse)
inner = there_and_back[..., 8:-8, 8:-8].abs()
print(f"there and back: {inner.mean():.3f} voxels on average, {inner.max():.2f} at most, away from the border")
