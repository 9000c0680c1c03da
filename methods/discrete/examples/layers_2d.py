"""A discrete registration step by step, in 2-D: from a cost volume to a displacement field. Takes seconds."""

# %% Two images: a generated anatomy and a deformed one, and for every voxel what is around it.
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

import l2rfast
from l2rfast.data.synthetic import anatomies
from l2rfast.metrics import dice

OUT = Path("build/examples/layers_2d")
OUT.mkdir(parents=True, exist_ok=True)
template, subject = anatomies(2, (96, 80), structures=5, deformation=0.03)
fixed, moving = subject.image, template.image
around = [F.avg_pool2d(l2rfast.mind_ssc(image, radius=1, dilation=2), 2) for image in (fixed, moving)]
RADIUS = 5

# %% The costs of all displacements, step by step: every patch of moving, less the middle of fixed.
width = 2 * RADIUS + 1
patches = F.unfold(around[1], width, padding=RADIUS)
patches = patches.view(1, around[1].shape[1], width**2, *around[1].shape[2:])
unfolded = (around[0][:, :, None] - patches).square().sum(1).unflatten(1, (width, width))
# The same in one call, and no patch is stored.
cost = l2rfast.correlation(*around, RADIUS)
assert torch.allclose(cost, unfolded, rtol=1e-4, atol=1e-5)
sizes = [4 * some.nelement() / 1e6 for some in (patches, cost)]
print(f"costs {tuple(cost.shape)}: {sizes[0]:.1f} MB of patches, {sizes[1]:.1f} MB of costs")

# %% Neighbouring displacements agree, exactly or by pooling; then neighbouring places do.
volumes = {
    "costs": cost,
    "min-convolution, exact": l2rfast.min_convolution(cost, 0.05),
    "min-convolution, pooled": l2rfast.min_convolution(cost, method="pooled"),
}
volumes["and mean field"] = l2rfast.mean_field(volumes["min-convolution, exact"], radius=2)
place = (around[0].shape[2] // 2, around[0].shape[3] // 3)
figure, panels = plt.subplots(1, len(volumes), figsize=(14, 3.6))
for panel, (name, volume) in zip(panels, volumes.items(), strict=True):
    panel.imshow(volume[0, :, :, *place].numpy(), extent=(-RADIUS - 0.5, RADIUS + 0.5, RADIUS + 0.5, -RADIUS - 0.5))
    panel.set_title(name)
figure.suptitle(f"the costs of all displacements at {place}")
figure.savefig(OUT / "costs.png")

# %% Probabilities, the displacement that they expect, and how sure they are; then the labels overlap more.
errors, overlaps = {}, {}
truth = F.avg_pool2d(subject.displacement, 2) / 2
for name, volume in volumes.items():
    displacement, entropy = l2rfast.soft_argmin(volume, 20.0, entropy=True)
    errors[name] = float((displacement - truth).norm(dim=1).mean())
    whole = 2 * F.interpolate(displacement, scale_factor=2, mode="bilinear")
    warped = l2rfast.warp(template.labels, whole, mode="nearest")
    scores = dice(subject.labels[0, 0], warped[0, 0])
    overlaps[name] = sum(scores.values()) / len(scores)
    print(f"{name}: {errors[name]:.2f} voxels from the truth, entropy {entropy.mean():.2f}, Dice {overlaps[name]:.3f}")
