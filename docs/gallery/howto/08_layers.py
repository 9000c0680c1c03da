r"""
Use the layers in my code
=========================

The operations that the commands are made of are functions on PyTorch's tensors, with gradients. They take the place
of ``F.grid_sample``, of local correlation by convolutions, of a cost volume by shifted copies, in a network or in
an optimisation of your own.
"""

import torch
import torch.nn.functional as F

import l2rfast
from l2rfast.data.scenes import slices
from l2rfast.figures import show
from l2rfast.losses import diffusion_energy

# sphinx_gallery_thumbnail_number = 2

# %%
# The convention
# --------------
# Images are (N, C, D, H, W) or (N, C, H, W). A displacement field is (N, 3, D, H, W) or (N, 2, H, W), **in voxels**;
# component k moves along spatial axis k; and ``out(x) = image(x + disp(x))``. There is no grid to build or to
# normalise, and no reversed order of axes.

cut = slices()
fixed, moving = (cut[name][4:5] / cut["fixed"].max() for name in ("fixed", "moving"))
disp = torch.zeros(1, 2, *fixed.shape[2:])
disp[:, 0] = 10  # fetches each value from 10 voxels further along the first axis
show({"moving": moving, "moved by 10 along axis 0": l2rfast.warp(moving, disp)})

# %%
# The same by ``F.grid_sample`` takes a grid, in -1 to 1, with its axes reversed:

axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in disp.shape[2:]), indexing="ij")
places = [2 * (axis + d) / (axis.max()) - 1 for axis, d in zip(axes, disp[0], strict=True)]
grid = torch.stack(places[::-1], dim=-1)[None]
theirs = F.grid_sample(moving, grid, padding_mode="border", align_corners=True)
print(f"largest difference: {(theirs - l2rfast.warp(moving, disp)).abs().max():.1e}")

# %%
# A registration in a dozen lines
# -------------------------------
# A velocity field, integrated to a deformation; local correlation as similarity; a penalty on rough velocities; Adam.


def register(weight: float) -> tuple[torch.Tensor, float]:
    """The field (1, 2, H, W) after 80 steps, and the squared local correlation that it reaches."""
    velocity = torch.zeros_like(disp, requires_grad=True)
    optimiser = torch.optim.Adam([velocity], lr=0.1)
    for _ in range(80):
        field = l2rfast.integrate_velocity(velocity)
        similarity = l2rfast.local_ncc(fixed, l2rfast.warp(moving, field), window=9)
        optimiser.zero_grad()
        (weight * diffusion_energy(velocity) - similarity).backward()
        optimiser.step()
    return field.detach(), similarity.item()


# %%
# Did it work? The similarity alone does not tell: with a small weight it is higher, and the field folds, which no
# tissue does. (In theory the field of a velocity cannot fold; on a grid, where the velocities of neighbours differ by
# much, it does.) ``digital_jacobian`` finds all folds, as it takes the least of the one-sided differences at each
# pixel.

print(f"before:     local correlation {l2rfast.local_ncc(fixed, moving, window=9):.3f}")
rows = [{"fixed": fixed, "moving": moving, "difference": fixed - moving}]
for weight in (0.1, 5.0):
    field, reached = register(weight)
    folded = l2rfast.digital_jacobian(field)[0] <= 0
    print(f"weight {weight:.1f}: local correlation {reached:.3f}, {int(folded.sum())} pixels folded")
    warped = l2rfast.warp(moving, field)
    rows.append(
        {f"warped, {weight}": warped, f"difference, {weight}": fixed - warped, f"field, {weight}": [field, folded]}
    )
show(*rows, signed=[title for row in rows for title in row if title.startswith("difference")])

# %%
# In a network
# ------------
# ``l2rfast.nn`` has them as modules.

torch.manual_seed(0)
last = torch.nn.Conv2d(2, 2, 3, padding=1)
warp = l2rfast.nn.Warp(padding="zeros")
predicted = warp(moving, last(torch.cat([fixed, moving], dim=1)))
l2rfast.losses.LocalNCCLoss(window=9)(predicted, fixed).backward()
print(warp, "gradient to the weights:", f"{last.weight.grad.norm():.2e}")

# %%
# In code that is there already
# -----------------------------
# If the code is built on MONAI, VoxelMorph, neurite, FireANTs, ConvexAdam or ``F.grid_sample`` itself, nothing has to
# be rewritten. Within the block each call of ``F.grid_sample`` is ours.

before = F.grid_sample(moving, grid, padding_mode="border", align_corners=True)
with l2rfast.patch("torch"):
    after = F.grid_sample(moving, grid, padding_mode="border", align_corners=True)
print(f"largest difference: {(before - after).abs().max():.1e}")

# %%
# How much faster that is was measured, layer by layer and for whole training scripts: :doc:`/reference/compat`.
#
# Which backend runs
# ------------------
# The fastest that is there for the device. It can be forced; one that is not there is an error and never silently
# another.

with l2rfast.backend("reference"):  # the definition of each operation, in plain PyTorch
    defined = l2rfast.warp(moving, field)
print(f"largest difference to the definition: {(defined - warped).abs().max():.1e}")

# %%
# :doc:`/reference/layers` lists the operations; each has a page in :doc:`/api/index`.
