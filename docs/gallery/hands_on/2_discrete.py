r"""
2. Discrete registration
========================

Steps downhill end in the nearest valley. A discrete method has no valley: at every place it asks what *each*
displacement of a window costs, and then makes the answers agree. This session builds such a registration layer by
layer, as PDD-Net chains them (Heinrich, MICCAI 2019): features, a cost volume, min-convolution, mean field and a soft
arg-min. Every layer has a gradient, so that at the end the features are learned too.

Some knowledge of PyTorch is enough; the first session explains fields, overlap and folds.
"""

from statistics import fmean

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import Tensor

import l2rfast
from l2rfast.data import scenes
from l2rfast.data.synthetic import anatomies
from l2rfast.figures import show
from l2rfast.methods.discrete.training import non_local
from l2rfast.methods.discrete.tutorial import TutorialNet2d
from l2rfast.metrics import dice, folding_fraction

_ = torch.manual_seed(0)

# %%
# Two images, and the truth
# -------------------------
#
# A generated anatomy and a deformed one: of these the true field is known, so that every layer can be measured by its
# distance from the truth, in voxels. Brains follow below.

template, subject = anatomies(2, (96, 96), structures=6, deformation=0.05, noise=0.04)
fixed, moving, truth = subject.image, template.image, subject.displacement
print(f"true displacements: {truth.norm(dim=1).mean():.1f} voxels on average, {truth.norm(dim=1).max():.1f} at most")
show(
    {"fixed": fixed, "moving": moving, "fixed - moving": fixed - moving, "true field": (fixed, truth)},
    signed=["fixed - moving"],
)

# %%
# Features: what is alike is alike around
# ---------------------------------------
#
# Grey values mean one thing in one scanner and another in the next. MIND-SSC (Heinrich et al., MICCAI 2013) describes a
# voxel by how much the patches around it differ from *each other*; in 2-D there are four such pairs, and so four
# channels. Brightness and contrast cancel, even a contrast that is turned round:

mind = l2rfast.mind_ssc(fixed, radius=1, dilation=2)
show({f"channel {i}": mind[:, i : i + 1] for i in range(4)})
negative = l2rfast.mind_ssc(2 - 3 * fixed, radius=1, dilation=2)
assert (mind - negative).abs().max() < 1e-3

# %%
# The search is on a coarser grid of control points, here every second voxel: ``pool=2`` averages the features.

STEP, RADIUS = 2, 6
at, to = (l2rfast.mind_ssc(image, radius=1, dilation=2, pool=STEP) for image in (fixed, moving))

# %%
# The cost volume
# ---------------
#
# The cost of displacement :math:`d` at control point :math:`x` is the squared difference of features,
#
# .. math:: C(d, x) = \sum_c \bigl(F_c(x) - M_c(x + d)\bigr)^2
#
# for all 13 x 13 displacements of a window. ``l2rfast.correlation`` gives it without a shifted copy of the image:

cost = l2rfast.correlation(at, to, RADIUS)
print(f"cost volume {tuple(cost.shape)}: (N, 13 x 13 displacements, control points), {cost.numel() * 4 / 1e6:.1f} MB")

d = (2, -3)
size = at.shape[2:]
inside = F.pad(to, [RADIUS] * 4)[:, :, RADIUS + d[0] :, RADIUS + d[1] :][:, :, : size[0], : size[1]]
by_hand = (at - inside).square().sum(1)
assert torch.allclose(cost[:, RADIUS + d[0], RADIUS + d[1]], by_hand, atol=1e-4)

# %%
# Whoever takes the cheapest displacement at every point on its own gets noise: most places look like several others.

true_points = F.avg_pool2d(truth, STEP) / STEP  # at the control points, in steps of them
body = F.max_pool2d((subject.labels > 0).float(), STEP)[:, 0] > 0  # outside nothing can be found


def upsampled(points: Tensor) -> Tensor:
    """Displacements at control points, in steps of them, as a field of the whole image, in voxels."""
    return STEP * F.interpolate(points, scale_factor=STEP, mode="bilinear")


def judge(name: str, points: Tensor) -> dict[str, float]:
    field = upsampled(points)
    warped = l2rfast.warp(template.labels, field, mode="nearest")
    found = {
        "error, voxels": STEP * float((points - true_points).norm(dim=1)[body].mean()),
        "overlap": fmean(dice(subject.labels, warped).values()),
        "folded, %": 100 * float(folding_fraction(field)),
    }
    print(f"{name}: " + ", ".join(f"{what} {value:.2f}" for what, value in found.items()))
    return found


def cheapest(cost: Tensor) -> Tensor:
    width = cost.shape[1]
    index = cost.flatten(1, 2).argmin(1)
    return torch.stack([index // width, index % width], 1).float() - (width - 1) // 2


unmoved = judge("no registration", torch.zeros_like(true_points))
alone = judge("cheapest displacements", cheapest(cost))
show({"fixed": fixed, "warped": l2rfast.warp(moving, upsampled(cheapest(cost))), "field": upsampled(cheapest(cost))})
assert alone["folded, %"] > 1

# %%
# Min-convolution: displacements nearby are nearly as good
# --------------------------------------------------------
#
# Let a displacement :math:`d` borrow the cost of another one, :math:`e`, for a fee on how far away that is:
#
# .. math:: \tilde C(d, x) = \min_e \; C(e, x) + w \, \lVert d - e \rVert^2
#
# Seen along one axis it is the lower envelope of parabolas that stand on the costs, which is found in linear time
# (Felzenszwalb and Huttenlocher, Theory of Computing 2012). PDD-Net approximates it by pooling: minima of three
# neighbours, then two averages of three.

place = (31, 25)
row = cost[0, RADIUS + 3, :, *place].view(1, 1, -1, 1, 1)
weight = 0.02
envelope = l2rfast.min_convolution(row, weight).flatten()
steps = torch.arange(-RADIUS, RADIUS + 1)
every = row.flatten() + weight * (steps[:, None] - steps).square()
assert torch.allclose(envelope, every.min(1).values, atol=1e-6)

fine = torch.linspace(-RADIUS, RADIUS, 200)
plt.figure(figsize=(6, 3), layout="constrained")
for e, c in zip(steps.tolist(), row.flatten().tolist(), strict=True):
    plt.plot(fine, c + weight * (fine - e) ** 2, color="0.85", linewidth=0.8, zorder=0)
plt.plot(steps, row.flatten(), "o-", color="0.3", linewidth=0.8, label="costs")
plt.plot(steps, envelope, "o-", color="tab:blue", label="min-convolution")
plt.gca().set(xlabel="displacement along axis 1, in control points", ylabel="cost", ylim=(0, 1.3 * float(row.max())))
_ = plt.legend()

# %%
# Mean field: neighbours move alike
# ---------------------------------
#
# The costs of one displacement at neighbouring control points are averaged, for every displacement by itself. After a
# min-convolution this is a step of a mean-field approximation, as used for fully connected random fields by
# Kraehenbuehl and Koltun (NIPS 2011): a displacement is cheap where the neighbours agree with it, or with one close to
# it. Alternating the two spreads what is certain, at edges, to where it is not. We do it twice, as PDD-Net does, which
# mixes in the costs again in between.

once = l2rfast.mean_field(l2rfast.min_convolution(cost, weight), radius=2)
agreed = l2rfast.mean_field(l2rfast.min_convolution(once, weight), radius=2)

volumes = {"costs": cost, "min-convolution": l2rfast.min_convolution(cost, weight), "one round": once, "two": agreed}
here = true_points[0, :, *place]
figure, axes = plt.subplots(1, 4, figsize=(12, 3.4), layout="constrained")
for ax, (name, volume) in zip(axes, volumes.items(), strict=True):
    extent = (-RADIUS - 0.5, RADIUS + 0.5, RADIUS + 0.5, -RADIUS - 0.5)
    ax.imshow(volume[0, :, :, *place].T, extent=extent, cmap="viridis")
    ax.plot(*here.tolist(), "r+", markersize=12)
    ax.set(title=name, xlabel="displacement along axis 0", ylabel="along axis 1")
figure.suptitle(f"costs of all displacements at control point {place}; the truth is red")
points = {name: cheapest(volume) for name, volume in volumes.items()}
errors = {name: judge(name, found)["error, voxels"] for name, found in points.items()}
assert errors["two"] < errors["one round"] < errors["costs"] / 2
assert (points["costs"][0, :, *place] - here).norm() > 3
assert (points["two"][0, :, *place] - here).norm() < 1.5

# %%
# Soft arg-min: a displacement between the displacements, and how sure it is
# --------------------------------------------------------------------------
#
# The least cost is a whole number of steps, and has no gradient. Instead the costs become probabilities, and the
# displacement what they expect:
#
# .. math:: p(d \mid x) = \frac{\exp(-\beta \, \tilde C(d, x))}{\sum_e \exp(-\beta \, \tilde C(e, x))}, \qquad
#    u(x) = \sum_d p(d \mid x) \, d
#
# The entropy of :math:`p` says where it does not know: inside of what is uniform, and outside of the body.

BETA = 60.0
soft, p, entropy = l2rfast.soft_argmin(agreed, BETA, probabilities=True, entropy=True)
assert torch.allclose(p.sum((1, 2)), torch.ones(1, *size), atol=1e-4)
expected = judge("soft arg-min", soft)
field = upsampled(soft)
warped = l2rfast.warp(moving, field)
show(
    {"fixed": fixed, "warped": warped, "fixed - warped": fixed - warped},
    {"found": field, "true": truth, "entropy": entropy},
    signed=["fixed - warped"],
)
assert expected["error, voxels"] < errors["two"]
assert expected["overlap"] > max(alone["overlap"], unmoved["overlap"])
assert expected["folded, %"] < alone["folded, %"] / 4
assert entropy[0, 0][~body[0]].mean() > entropy[0, 0][body[0]].mean()

# %%
# ``l2rfast.discrete_displacement`` does the chain in one call, in 2-D and 3-D, twice over as PDD-Net has it, and in
# little memory if asked; its displacements may be fractions of voxels. ConvexAdam (Siebert et al. 2021), with which
# ``l2rfast register`` starts, takes the same cost volume, and has ``l2rfast.coupled_convex`` in the place of
# min-convolution and mean field.

# %%
# Features that are learned: the tutorial's network
# -------------------------------------------------
#
# All layers have gradients, so that MIND may be replaced by a network that learns which features make the costs right.
# ``TutorialNet2d`` is the 2-D network of the tutorial: a few convolutions down to a quarter of the resolution, and the
# layers from above with 9 x 9 displacements. Nothing in it has to learn what a displacement is.
#
# Its loss is one of labels, and does not warp. At every control point it compares the fixed label with the label
# *expected* of moving under the probabilities of the displacements:
#
# .. math:: \sum_x \Bigl\lVert L_F(x) - \sum_d p(d \mid x) \, L_M(x + d) \Bigr\rVert^2
#
# A displacement may be probable in two places; the gradient weighs both, where a warp would know only one.

slices = scenes.slices()
count = len(slices["fixed"])
unseen = range(2 * count // 5, 3 * count // 5)
seen = torch.tensor([i for i in range(count) if not unseen.start - 1 <= i <= unseen.stop])
kinds = slices["fixed_labels"].unique()[1:]
one_hot = {name: (slices[f"{name}_labels"] == kinds.view(1, -1, 1, 1)).float() for name in ("fixed", "moving")}
STEPS = 40 if scenes.SMALL else 150


def train(network: TutorialNet2d) -> list[float]:
    adam = torch.optim.Adam(network.parameters(), 3e-3)
    losses = []
    for step in range(STEPS):
        chosen = seen[torch.randint(len(seen), (4,))]
        f, m = ("fixed", "moving") if step % 2 else ("moving", "fixed")  # each brain is each role in turns
        found = network(slices[f][chosen], slices[m][chosen], probabilities=True)
        labels = network.labels(found.choices, one_hot[f][chosen], one_hot[m][chosen])
        loss = torch.stack([non_local(*pair) for pair in labels]).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    return losses


def unseen_overlap(displacement: Tensor) -> float:
    labels = {name: slices[f"{name}_labels"][unseen.start : unseen.stop] for name in ("fixed", "moving")}
    warped = l2rfast.warp(labels["moving"], displacement, mode="nearest")
    return fmean(fmean(dice(a, b).values()) for a, b in zip(labels["fixed"], warped, strict=True))


images = [slices[name][unseen.start : unseen.stop] for name in ("fixed", "moving")]
network = TutorialNet2d()
with torch.no_grad():
    untrained = network.eval()(*images).displacement
losses = train(network.train())
with torch.no_grad():
    trained = network.eval()(*images)
overlaps = {
    "no registration": unseen_overlap(torch.zeros_like(untrained)),
    "random features": unseen_overlap(untrained),
    "learned features": unseen_overlap(trained.displacement),
}
print(f"overlap of {len(unseen)} slices kept aside: " + ", ".join(f"{k} {v:.3f}" for k, v in overlaps.items()))

plt.figure(figsize=(6, 2.4), layout="constrained")
plt.plot(losses, linewidth=0.8)
plt.gca().set(xlabel="step", ylabel="loss", title="training")
assert fmean(losses[-10:]) < fmean(losses[:10])
assert overlaps["learned features"] > max(overlaps["no registration"], overlaps["random features"])

# %%
# A pair that it has not seen, and some of its features. Where the entropy is high, ask somebody else.

f, m = (image[:1] for image in images)
found = trained.displacement[:1]
with torch.no_grad():
    features = network.features(f)
show(
    {"fixed": f, "moving": m, "warped": l2rfast.warp(m, found), "field": found},
    {"entropy": trained.choices[0].entropy[:1], **{f"feature {i}": features[:, i : i + 1] for i in (0, 8, 16)}},
)

# %%
# ``l2rfast train discrete`` trains it, and in 3-D PDD-Net, with augmentation and validation, on labels or on images
# alone; ``l2rfast register --method pddnet --weights ...`` registers by it.

# %%
# Exercises
# ---------
#
# 1. *Too small a window.* The window reaches 12 voxels. Halve ``RADIUS``, twice. From where on does the registration
#    fail, and how would you notice without the truth?
# 2. *The fee.* What is the min-convolution for a very large :math:`w`, and for a very small one? Predict, then test.
# 3. *How sharp?* Vary ``BETA`` between 1 and 1000. How do error and entropy go, and why is neither end good?
# 4. *Grey values.* Take the images themselves as features, first as they are, then with the contrast of moving turned
#    round. What about MIND?
# 5. *Another regularisation.* Replace min-convolution, mean field and soft arg-min by ``l2rfast.coupled_convex``.
#    Compare error and folds.
# 6. *Open.* A field on control points is coarse. Use it as the start of ``optimise`` of the first session: how many
#    steps does it save, and in which images does it save the day?

# %%
# Solutions
# ---------
#
# **1.** Fields that would have to go further stop at the edge of the window. Without the truth: widen it. What the
# wider one finds beyond the reach of the narrower one is what the narrower one has lost.


def regularised(cost: Tensor) -> Tensor:
    for _ in range(2):
        cost = l2rfast.mean_field(l2rfast.min_convolution(cost, weight), radius=2)
    return cost


for radius in (6, 3, 1):
    narrow = l2rfast.soft_argmin(regularised(l2rfast.correlation(at, to, radius)), BETA)
    lost = float((soft.abs().amax(1) > radius)[body].float().mean())
    error = judge(f"reach {STEP * radius} voxels", narrow)["error, voxels"]
    print(f"  beyond it: {100 * lost:.0f} %")
assert error > expected["error, voxels"]
assert lost > 0.2

# %%
# **2.** If the fee is large nobody borrows, and costs stay as they are. If it is next to nothing everybody borrows the
# cheapest cost there is, and all displacements are alike.

least = cost.amin((1, 2), keepdim=True)
assert torch.allclose(l2rfast.min_convolution(cost, 1e6), cost)
assert torch.allclose(l2rfast.min_convolution(cost, 1e-9), least.expand_as(cost), atol=1e-5)

# %%
# **3.** A soft one expects a bit of everything: all displacements average to none. A sharp one is the arg-min again, in
# whole steps and with gradients that vanish.

betas = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
curves: dict[str, list[float]] = {"error, voxels": [], "entropy, nats": []}
for beta in betas:
    u, h = l2rfast.soft_argmin(agreed, beta, entropy=True)
    curves["error, voxels"].append(STEP * float((u - true_points).norm(dim=1)[body].mean()))
    curves["entropy, nats"].append(float(h[0, 0][body[0]].mean()))
figure, axes = plt.subplots(1, 2, figsize=(7, 2.6), layout="constrained")
for ax, (name, values) in zip(axes, curves.items(), strict=True):
    ax.plot(betas, values, "o-")
    ax.set(xscale="log", xlabel="sharpness", title=name)
assert curves["entropy, nats"] == sorted(curves["entropy, nats"], reverse=True)
assert min(curves["error, voxels"][1:-1]) < min(curves["error, voxels"][0], curves["error, voxels"][-1])

# %%
# **4.** Grey values do while they mean the same in both images, and lead astray when they do not. MIND cannot tell.

by_features = {}
for name, features_of in (("grey values", lambda x: F.avg_pool2d(x, STEP)), ("MIND", None)):
    for turned in (False, True):
        pair = (fixed, 1 - moving if turned else moving)
        if features_of:
            around = [10 * features_of(image) for image in pair]
        else:
            around = [l2rfast.mind_ssc(image, radius=1, dilation=2, pool=STEP) for image in pair]
        volume = l2rfast.correlation(*around, RADIUS, padding="border")
        text = f"{name}, contrast {'turned' if turned else 'as it is'}"
        by_features[name, turned] = judge(text, l2rfast.soft_argmin(regularised(volume), BETA))["error, voxels"]
assert by_features["grey values", True] > 2 * by_features["grey values", False]
assert abs(by_features["MIND", True] - by_features["MIND", False]) < 0.1

# %%
# **5.** It alternates the same two steps, arg-min and smoothing, with a growing fee on leaving the smoothed field.

convex = judge("coupled convex", l2rfast.coupled_convex(l2rfast.correlation(at, to, RADIUS, smoothing=2)))
assert convex["error, voxels"] < alone["error, voxels"]

# %%
# **6.** It saves most where the displacement is larger than the structures are wide: there the nearest valley of the
# similarity is a wrong one, and no number of steps leads out of it.
