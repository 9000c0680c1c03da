r"""
1. Networks that register
=========================

A registration answers one question: where in the moving image :math:`M` does the place :math:`x` of the fixed image
:math:`F` lie? The answer is a displacement field :math:`u`, and :math:`M(x + u(x))` is the warped image. This session
finds :math:`u` in four ways: by optimisation; by a network that learns from images alone (VoxelMorph: Balakrishnan et
al., IEEE TMI 2019); by both, one after the other; and by a network that learns from labels (label-reg: Hu et al.,
Medical Image Analysis 2018), for two images that no intensity has in common. Some knowledge of PyTorch is enough.

Every claim of the text is an ``assert`` below it: if you change something and a claim is no longer true, you will know.
"""

import csv
from dataclasses import replace
from statistics import fmean

import matplotlib.pyplot as plt
import torch
from torch import Tensor

import l2rfast
from l2rfast.data import fetch, scenes
from l2rfast.figures import show
from l2rfast.io import read_image, read_masks
from l2rfast.losses import diffusion_energy, multiscale_dice
from l2rfast.methods.unsupervised import Architecture, VoxelMorph
from l2rfast.methods.weakly_supervised.options import of_preset
from l2rfast.methods.weakly_supervised.training import centroid, train_weakly_supervised
from l2rfast.metrics import dice, folding_fraction

torch.manual_seed(0)
OUT = scenes.folder()

# %%
# Two brains, slice by slice
# --------------------------
#
# Two people were scanned and their scans brought into one affine frame, so that what is left is what differs in shape.
# We take slices, since 2-D is quick and easy to look at; everything below works in 3-D by another number of axes.
# Images are ``(N, 1, H, W)``, intensities from 0 to 1.
#
# Labels of anatomical structures come with the scans. Nothing is trained on them in the first part: they tell how
# good a registration is. ``overlap`` is the mean Dice overlap :math:`2|A \cap B| / (|A| + |B|)` of all structures.

slices = scenes.slices()
middle = len(slices["fixed"]) // 2
pair = {name: values[middle : middle + 1] for name, values in slices.items()}
fixed, moving = pair["fixed"], pair["moving"]


def overlap(fixed_labels: Tensor, moving_labels: Tensor, displacement: Tensor) -> float:
    warped = l2rfast.warp(moving_labels, displacement, mode="nearest")
    return fmean(fmean(dice(a, b).values()) for a, b in zip(fixed_labels, warped, strict=True))


nothing = torch.zeros(1, 2, *fixed.shape[2:])
before = overlap(pair["fixed_labels"], pair["moving_labels"], nothing)
print(f"overlap before registration: {before:.3f}")
show(
    {
        "fixed": fixed,
        "moving": moving,
        "fixed - moving": fixed - moving,
        "moving, outlines of fixed": (moving, pair["fixed_labels"]),
    },
    signed=["fixed - moving"],
)

# %%
# Which way does a field point?
# -----------------------------
#
# A field is ``(N, 2, H, W)``, in voxels; component ``k`` moves along axis ``k``. It is defined where *fixed* is, and
# says where to *look* in moving. So a field of +8 along axis 0, which runs to the right here, takes what lies 8 voxels
# further right, and the picture moves to the left. This is the most frequent mistake in registration code.

shift = nothing.clone()
shift[:, 0] = 8
shifted = l2rfast.warp(moving, shift)
assert torch.equal(shifted[:, :, :-8], moving[:, :, 8:])
show({"moving": moving, "warped by (8, 0)": shifted, "where fixed looks": (moving, shift)})

# %%
# Registration as optimisation
# ----------------------------
#
# What makes a field good? The warped image should look like the fixed one, and neighbours should move alike:
#
# .. math:: E(u) = -\operatorname{LNCC}(F, M(x + u)) + \lambda \, \lVert \nabla u \rVert^2
#
# The local normalised cross-correlation compares windows of 9 x 9 voxels whatever their brightness and contrast; the
# second term is the diffusion energy. Both are differentiable, and the field itself can be the parameter:


def optimise(fixed: Tensor, moving: Tensor, start: Tensor, smoothness: float, steps: int = 100) -> Tensor:
    field = start.clone().requires_grad_()
    adam = torch.optim.Adam([field], 0.1)
    for _ in range(steps):
        similarity = l2rfast.local_ncc(fixed, l2rfast.warp(moving, field)).mean()
        loss = smoothness * diffusion_energy(field) - similarity
        adam.zero_grad()
        loss.backward()
        adam.step()
    return field.detach()


# %%
# First without the second term: similarity is all.


def judge(name: str, field: Tensor) -> dict[str, float]:
    found = {
        "similarity": float(l2rfast.local_ncc(fixed, l2rfast.warp(moving, field))),
        "overlap": overlap(pair["fixed_labels"], pair["moving_labels"], field),
        "folded, %": 100 * float(folding_fraction(field)),
    }
    print(f"{name}: " + ", ".join(f"{what} {value:.3f}" for what, value in found.items()))
    return found


def panels(field: Tensor) -> dict[str, Tensor | tuple[Tensor, ...]]:
    warped = l2rfast.warp(moving, field)
    folds = l2rfast.jacobian_determinant(field) <= 0
    return {"fixed": fixed, "warped": warped, "fixed - warped": fixed - warped, "grid, folds": (field, folds)}


unmoved = judge("no registration", nothing)
rough = optimise(fixed, moving, nothing, smoothness=0)
alone = judge("similarity alone", rough)
show(panels(rough), signed=["fixed - warped"])

# %%
# The warped image looks excellent. The field is torn: where the Jacobian determinant of :math:`x + u(x)` is not
# positive (red), tissue is turned inside out. **A good picture is no proof of a good registration**; look at the field.

assert alone["similarity"] > unmoved["similarity"]
assert alone["folded, %"] > 1

# %%
# With the second term the similarity is a little lower, and the field is one that tissue could follow.

smooth = optimise(fixed, moving, nothing, smoothness=1)
weighed = judge("and smoothness", smooth)
show(panels(smooth), signed=["fixed - warped"])
assert weighed["folded, %"] < alone["folded, %"] / 4
assert weighed["overlap"] > max(alone["overlap"], before)

# %%
# A network that predicts the field
# ---------------------------------
#
# Optimisation begins anew for every pair. A network :math:`g_\theta(M, F) = u` learns once, from many pairs, to give in
# one pass what minimises the same energy on average:
#
# .. math:: \min_\theta \; \sum_{(F, M)} E\bigl(g_\theta(M, F)\bigr)
#
# No label and no true field is needed: the training is unsupervised. VoxelMorph's network is a U-Net: convolutions that
# halve the resolution, convolutions that double it with the finer images beside, and a last one whose channels are the
# field. We keep the middle fifth of the slices for validation, with a gap of one slice, as neighbours look alike.

count = len(slices["fixed"])
unseen = range(2 * count // 5, 3 * count // 5)
seen = torch.tensor([i for i in range(count) if not unseen.start - 1 <= i <= unseen.stop])
STEPS = 60 if scenes.SMALL else 150


def train(network: VoxelMorph, smoothness: float, steps: int = STEPS) -> list[float]:
    adam = torch.optim.Adam(network.parameters(), 3e-3)
    losses = []
    for step in range(steps):
        chosen = seen[torch.randint(len(seen), (4,))]
        roles = ("fixed", "moving") if step % 2 else ("moving", "fixed")  # each brain is each role in turns
        f, m = (slices[role][chosen] for role in roles)
        found = network(m, f)
        similarity = l2rfast.local_ncc(f, l2rfast.warp(m, found.displacement))
        loss = smoothness * diffusion_energy(found.field) - similarity
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    return losses


network = VoxelMorph(Architecture(2, encoder=(16, 32, 32, 32), decoder=(32, 32, 32, 32, 16, 16)))
losses = train(network, smoothness=1)
print(f"{sum(p.numel() for p in network.parameters())} parameters")

plt.figure(figsize=(6, 2.4), layout="constrained")
plt.plot(losses, linewidth=0.8)
plt.gca().set(xlabel="step", ylabel="loss", title="training")
assert fmean(losses[-10:]) < fmean(losses[:10])

# %%
# Slices that it has not seen: the network is called once for all of them, and nothing is optimised.

unseen_slices = {name: values[unseen.start : unseen.stop] for name, values in slices.items()}


def unseen_overlap(displacement: Tensor) -> float:
    return overlap(unseen_slices["fixed_labels"], unseen_slices["moving_labels"], displacement)


with torch.no_grad():
    fields = network(unseen_slices["moving"], unseen_slices["fixed"]).displacement
before_all, after_all = unseen_overlap(torch.zeros_like(fields)), unseen_overlap(fields)
print(f"overlap of {len(unseen)} slices kept aside: {before_all:.3f} -> {after_all:.3f}")
predicted = fields[middle - unseen.start][None]
of_network = judge("network", predicted)
show(panels(predicted), signed=["fixed - warped"])
assert after_all > before_all + 0.02
assert of_network["similarity"] > unmoved["similarity"]

# %%
# Trained weights, and what they expect
# -------------------------------------
#
# Weights are a file. ``VoxelMorph.load`` reads those of ``save`` and of ``l2rfast train unsupervised``, which does what
# ``train`` does above with augmentation, checkpoints and validation; ``VoxelMorph.from_keras`` reads those that were
# published for Keras, without TensorFlow. At full size we take the tutorial's published 2-D network.
#
# A network knows only what it was trained on. The same image, five times as bright, is the same anatomy to you:

network.save(OUT / "ours.safetensors")
if scenes.SMALL:
    trained = VoxelMorph.load(OUT / "ours.safetensors").eval()
else:
    trained = VoxelMorph.from_keras(fetch("tutorials2019/unsupervised/models/brain_2d_shortrun.h5")).eval()
with torch.no_grad():
    as_trained, too_bright = (trained(factor * moving, fixed).displacement for factor in (1, 5))
known, unknown = judge("trained weights", as_trained), judge("moving five times as bright", too_bright)
show(
    {"fixed": fixed, "warped": l2rfast.warp(moving, as_trained), "grid": as_trained},
    {"moving, times 5": moving, "warped": l2rfast.warp(moving, too_bright), "grid": too_bright},
)
assert known["similarity"] > unmoved["similarity"]
assert unknown["similarity"] < known["similarity"]

# %%
# So intensities are brought to where the network was trained: ``l2rfast register`` does so by itself, and
# ``l2rfast train`` has ``--intensity`` to vary them in training.

# %%
# The best of both: instance optimisation
# ---------------------------------------
#
# The network is quick and near; optimisation is slow and exact for the pair at hand. From the network's field on, few
# steps do. ``optimise`` takes it as its start; what the lesson above said of smoothness holds here as well.

tuned = optimise(fixed, moving, predicted, smoothness=1, steps=25)
from_zero = optimise(fixed, moving, nothing, smoothness=1, steps=25)
of_tuned = judge("network, then 25 steps", tuned)
of_zero = judge("25 steps alone", from_zero)
show(panels(tuned), signed=["fixed - warped"])
assert of_tuned["similarity"] > of_network["similarity"]
assert of_tuned["overlap"] > max(of_network["overlap"], of_zero["overlap"])

# %%
# One call does both, with a better optimiser (small steps on both images that are composed) and a field without folds:

result = l2rfast.register(
    fixed[0, 0], moving[0, 0], method="unsupervised", weights=OUT / "ours.safetensors", finetune=50, init="none"
)
of_register = judge("l2rfast.register, 50 steps", result.displacement)
assert of_register["folded, %"] == 0
assert of_register["overlap"] > of_network["overlap"]

# %%
# Flows: fields with a way back
# -----------------------------
#
# Take the parameter to be a velocity :math:`v` that does not change in time, and the transform to be where its flow
# takes every place in unit time, :math:`\phi = \exp(v)`. A flow is invertible, by the flow of :math:`-v`. Scaling and
# squaring computes it (Arsigny et al., MICCAI 2006): :math:`\exp(v / 2^7)` is next to a displacement by
# :math:`v / 2^7`, and composing that with itself, seven times in turn, gives :math:`\exp(v)`.
# ``l2rfast.integrate_velocity`` does, with its gradient. Even with little smoothness hardly anything tears:


def optimise_velocity(fixed: Tensor, moving: Tensor, smoothness: float, steps: int = 100) -> Tensor:
    velocity = nothing.clone().requires_grad_()
    adam = torch.optim.Adam([velocity], 0.1)
    for _ in range(steps):
        warped = l2rfast.warp(moving, l2rfast.integrate_velocity(velocity))
        loss = smoothness * diffusion_energy(velocity) - l2rfast.local_ncc(fixed, warped)
        adam.zero_grad()
        loss.backward()
        adam.step()
    return velocity.detach()


velocity = optimise_velocity(fixed, moving, smoothness=0.1)
there, back = l2rfast.integrate_velocity(velocity), l2rfast.integrate_velocity(-velocity)
loose = optimise(fixed, moving, nothing, smoothness=0.1)
of_loose, of_flow = judge("displacement, smoothness 0.1", loose), judge("velocity, smoothness 0.1", there)
round_trip = l2rfast.compose(there, back).norm(dim=1)[..., 8:-8, 8:-8]
print(f"there and back: {round_trip.mean():.3f} voxels from the start on average")
show({"displacement": (loose, l2rfast.jacobian_determinant(loose) <= 0), "flow": there, "its inverse": back})
assert of_flow["folded, %"] < of_loose["folded, %"] / 5
assert of_flow["overlap"] > of_loose["overlap"]
assert round_trip.mean() < 0.3

# %%
# The flow itself folds nowhere. What is computed on a grid of voxels is near it, so that a few folds are left where it
# is steep: count them. ``Architecture(velocity=True)`` makes a network predict a velocity (Dalca et al., Medical Image
# Analysis 2019).

# %%
# When intensities do not help: labels
# ------------------------------------
#
# In a biopsy of the prostate the lesion is seen in MR, and the needle in ultrasound. No intensity of one means one of
# the other. What both have is anatomy: a gland, and landmarks in it, drawn by somebody in the training scans. The
# network sees the images alone, and its loss sees the labels alone:
#
# .. math:: \min_\theta \; \sum \; 1 - \operatorname{Dice}\bigl(L_F, L_M(x + u)\bigr) + \lambda \, B(u),
#    \qquad u = g_\theta(M, F)
#
# with the bending energy :math:`B`. So, once trained, it needs no labels any more. (At small size the scans are
# generated, in two contrasts.)

scans = scenes.prostates()
cases = sorted(file.name for file in (scans / "us_images").iterdir())
us, mr = (read_image(scans / f"{kind}_images" / cases[-1]) for kind in ("us", "mr"))
us_gland, mr_gland = (
    read_masks(scans / f"{kind}_labels" / cases[-1], image)[0] for kind, image in (("us", us), ("mr", mr))
)
show(
    {
        "ultrasound (fixed), gland": (us.data, us_gland.int()),
        "MR (moving), gland": (mr.data, mr_gland.int()),
    }
)

# %%
# Dice has a weakness as a loss. Where two labels do not touch it is 1 however far apart they are, with a gradient of 0:
# nothing tells where to go. Labels smoothed by Gaussians touch. The multi-scale Dice averages over five scales:

apart = torch.zeros(2, 1, 1, 48, 48)
for label, place in zip(apart, (12, 34), strict=True):
    label[..., place - 4 : place + 4, 20:28] = 1
flat, scaled = l2rfast.losses.dice(*apart), multiscale_dice(*apart)
gradients = []
for loss_of in (l2rfast.losses.dice, multiscale_dice):
    field = torch.zeros(1, 2, 48, 48, requires_grad=True)
    loss_of(apart[0], l2rfast.warp(apart[1], field)).backward()
    gradients.append(float(field.grad.abs().max()))
blurred = l2rfast.filters.gaussian_filter(apart.sum(0), 8.0)
print(f"loss of two squares that do not touch: Dice {flat:.3f}, multi-scale Dice {scaled:.3f}")
show({"two labels": apart.sum(0), "smoothed by 8 voxels": blurred})
assert flat == 1
assert scaled < 1
assert gradients[0] == 0
assert gradients[1] > 0

# %%
# ``train_weakly_supervised`` has the loop: at every step a case and one of its labels are drawn, and images and labels
# are deformed at random. It writes a folder of a run, as ``l2rfast train weakly-supervised`` does. Eight cases are very
# few, of which two are kept for validation; the published network was trained on 108 pairs.

options, trainer = of_preset("cpu")
if scenes.SMALL:
    options, trainer = replace(options, width=4), replace(trainer, batch=2, steps=20, every=10)
else:
    trainer = replace(trainer, steps=60, every=20)
train_weakly_supervised(scans, OUT / "run", options, replace(trainer, mirror=(1,)), hold_out=2)
with (OUT / "run" / "validation.csv").open(newline="") as stream:
    validations = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(stream)]

plt.figure(figsize=(6, 2.4), layout="constrained")
plt.plot([row["step"] for row in validations], [row["DSC"] for row in validations], "o-")
plt.gca().set(xlabel="step", ylabel="Dice of the gland", title="the two cases kept aside")
best = max(row["DSC"] for row in validations)
assert best > validations[0]["DSC"]

# %%
# A curve that rises and then falls is that of a network which learns its few cases by heart. Of the run the weights of
# the best validation are kept; they were chosen by these two cases, on which they look better than they are.
#
# One of the two, through the same call as above, with another method. The affines of these files say nothing, and the
# method goes by the index of the voxels.

result = l2rfast.register(us, mr, method="weakly-supervised", weights=OUT / "run" / "weights.safetensors")
warped_gland = result.warp(mr_gland.float()) >= 0.5
show(
    {
        "ultrasound, its gland": (us.data, us_gland.int()),
        "warped MR, gland of ultrasound": (result.warp(mr.data), us_gland.int()),
        "ultrasound, warped gland of MR": (us.data, warped_gland.int()),
    }
)

# %%
# Exercises
# ---------
#
# 1. *Which way?* The image ``shifted`` is ``moving`` after a field of +8. Which field brings ``shifted`` back to
#    ``moving``? Predict, then test, away from the border.
# 2. *How smooth?* Register with ``optimise`` at a smoothness of 0.01, 0.1, 1 and 10. How do overlap and folds go? Which
#    would you choose, and what would you need to choose it honestly?
# 3. *Which similarity?* Turn the moving image's contrast round, ``1 - moving``, and register it by mean squared
#    differences (``l2rfast.warp_ssd``) and by local NCC. Which of the two still works, and why?
# 4. *A network of flows.* Train a network with ``velocity=True`` and a smoothness of 0.1 for as many steps as ours.
#    Count its folds, and test that ``displacement`` and ``inverse`` undo each other.
# 5. *A fair rival.* Before you praise a network, find what a ruler can do. Move the MR by the vector between the
#    centroids of the two glands and measure the overlap of the gland. Does our network beat it? Is it a fair rival?
# 6. *Open.* Train on scans of your own by ``l2rfast train unsupervised --data FOLDER --out RUN --hold-out 5``, and
#    measure by ``l2rfast evaluate``. When do you stop?

# %%
# Solutions
# ---------
#
# **1.** A field of -8: it looks 8 voxels further left. Composed with the first, it is nothing.

returned = l2rfast.warp(shifted, -shift)
assert torch.equal(returned[:, :, 8:-8], moving[:, :, 8:-8])
assert l2rfast.compose(shift, -shift).abs().max() == 0

# %%
# **2.** The similarity falls with smoothness, as it must: less is allowed. The overlap is best in between. To
# choose honestly you need pairs that you do not report afterwards; on this pair alone the choice is made to fit.

weights = (0.01, 0.1, 1.0, 10.0)
sweep = [judge(f"smoothness {w}", optimise(fixed, moving, nothing, w)) for w in weights]
figure, axes = plt.subplots(1, 3, figsize=(9, 2.4), layout="constrained")
for ax, what in zip(axes, sweep[0], strict=True):
    ax.plot(weights, [found[what] for found in sweep], "o-")
    ax.set(xscale="log", xlabel="smoothness", title=what)
assert sweep[0]["similarity"] > sweep[-1]["similarity"]
assert sweep[0]["folded, %"] > sweep[-1]["folded, %"] == 0
assert max(found["overlap"] for found in sweep) == max(sweep[1]["overlap"], sweep[2]["overlap"])

# %%
# **3.** The local NCC is squared here: it asks whether one window is a linear function of the other, of either sign, so
# nothing changes but the background. Squared differences bring bright to bright, which is now wrong.

turned = 1 - moving
field = nothing.clone().requires_grad_()
adam = torch.optim.Adam([field], 0.1)
for _ in range(100):
    loss = l2rfast.warp_ssd(fixed, turned, field)[0].mean() + 0.01 * diffusion_energy(field)
    adam.zero_grad()
    loss.backward()
    adam.step()
by_ssd = judge("contrast turned, squared differences", field.detach())
by_lncc = judge("contrast turned, local NCC", optimise(fixed, turned, nothing, 1))
assert by_ssd["overlap"] < before < by_lncc["overlap"]

# %%
# **4.** Next to no folds, and the way back for nothing.

torch.manual_seed(0)
flows = VoxelMorph(Architecture(2, (16, 32, 32, 32), (32, 32, 32, 32, 16, 16), velocity=True))
train(flows, smoothness=0.1)
with torch.no_grad():
    found = flows(unseen_slices["moving"], unseen_slices["fixed"])
round_trip = l2rfast.compose(found.displacement, found.inverse).norm(dim=1)[..., 8:-8, 8:-8]
folded = 100 * float(folding_fraction(found.displacement).mean())
after_flows = unseen_overlap(found.displacement)
print(f"overlap {after_flows:.3f}, {folded:.3f} % folded, there and back {round_trip.mean():.3f} voxels")
assert after_flows > before_all
assert folded < 0.1
assert round_trip.mean() < 0.3

# %%
# **5.** The centroids come from the labels of the very case, which a network does not get: it is no method, but says
# what a translation can do. Six cases are too few to reach it reliably; whoever reports a network should give that
# figure beside it.

offset = centroid(mr_gland) - centroid(us_gland)
by_centroids = offset.float().view(1, 3, 1, 1, 1).expand(1, 3, *us_gland.shape).contiguous()
glands = {"network": warped_gland}
glands["centroids"] = l2rfast.warp(mr_gland[None, None].float(), by_centroids, padding="zeros")[0, 0] >= 0.5
overlaps = {name: dice(us_gland.int(), gland.int())[1] for name, gland in glands.items()}
print(overlaps)
assert overlaps["centroids"] > 0.7

# %%
# **6.** When the validation no longer improves, and it is the validation that you stop by, not the test.
