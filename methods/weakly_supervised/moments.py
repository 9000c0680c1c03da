"""Alignment by what each image says alone: where its first label is.

With few cases a network that sees both images at once learns them by heart: it can tell the pairs apart. Two networks
that see one image each, and say where the label is, cannot. The map of moving is then laid on that of fixed, at the
translation where both are most likely one label: the log-odds of fixed's map, summed up where moving's is, and the
logarithm of how likely the label lies there at all; places of which fixed's image has little are none. Where only one
end of it is seen in an ultrasound, the other one is where moving says. How much larger it is in one image than in the
other is that of the pairs it was trained on to begin with; both are then what is most likely together.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2rfast import affine_warp

from ..translations import lag, quick
from .nets import NORMS, Plan, affine_field, groups

DEPTH = 3  # levels below the first
CONFIDENT = 0.5  # of less nothing counts as label: far away it would move the moments
SUREST = 4.0  # log-odds of a voxel; networks are surer than they may be
VOTES = 4.0  # voxels that tell as much as all of the label do: a map errs of a whole side of it
STEPS = 60  # of Adam
PACES, DECAY = (0.1, 0.02), 0.97  # learning rates, of voxels and of logarithms of sizes, and their factor per step
FEWEST = 2  # labels, of which a mean has a variance
WITHIN = 0.5  # of what the fixed image can have of the label: with less it is not where the image was taken of it


class _Twice(nn.Sequential):
    """Two convolutions, each normalised in groups of four channels."""

    def __init__(self, plan: Plan, channels: int, out: int) -> None:
        kind = nn.Conv3d if plan.ndim == 3 else nn.Conv2d
        layers: list[nn.Module] = []
        for inputs in (channels, out):
            layers += [kind(inputs, out, 3, padding=1), nn.GroupNorm(groups(out, 4), out), nn.LeakyReLU(0.1)]
        super().__init__(*layers)


class LabelMap(nn.Module):
    """A U-Net: (N, 1, *spatial) -> the logit of the label at every voxel, likewise."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        widths = [plan.width * min(2**level, 4) for level in range(DEPTH + 1)]
        self.down = nn.ModuleList(_Twice(plan, i, o) for i, o in zip([1, *widths], widths, strict=False))
        outs = [widths[max(level - 1, 0)] for level in reversed(range(DEPTH))]
        wide = [
            above + widths[level] for above, level in zip([widths[-1], *outs], reversed(range(DEPTH)), strict=False)
        ]
        self.up = nn.ModuleList(_Twice(plan, i, o) for i, o in zip(wide, outs, strict=True))
        self.out = (nn.Conv3d if plan.ndim == 3 else nn.Conv2d)(outs[-1], 1, 1)
        if plan.ndim == 3:  # the order of memory in which these convolutions are faster
            self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        pool = F.max_pool3d if x.ndim == 5 else F.max_pool2d
        mode = "trilinear" if x.ndim == 5 else "bilinear"
        kept: list[Tensor] = []
        for level, layer in enumerate(self.down):
            x = layer(x if level == 0 else pool(x, 2, ceil_mode=True))
            kept.append(x)
        x = kept.pop()
        for layer in self.up:
            beside = kept.pop()
            x = layer(torch.cat([F.interpolate(x, size=beside.shape[2:], mode=mode), beside], 1))
        return _wide(self.out(x))  # which autocast may have narrowed


class MomentsNet(nn.Module):
    """A translation and a scaling along the axes, from two label maps and the labels that were trained on.

    Args:
        plan: its ``width`` and ``ndim`` count.

    Attributes:
        count: of the pairs of labels that were seen in training.
        mean, deviations: (2, ndim) of them, and the sum of squared deviations from it: of where the label of fixed lies
            from the middle of its image, in voxels, and of the logarithm of how much larger that of moving is.
    """

    count: Tensor
    mean: Tensor
    deviations: Tensor

    def __init__(self, plan: Plan | None = None) -> None:
        super().__init__()
        self.plan = plan = plan or Plan(width=12)
        assert plan.norm in NORMS
        self.of_moving, self.of_fixed = LabelMap(plan), LabelMap(plan)
        self.register_buffer("count", torch.zeros(()))
        for name in ("mean", "deviations"):
            self.register_buffer(name, torch.zeros(2, plan.ndim))

    def maps(self, moving: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of the first label in both images."""
        return self.of_moving(moving), self.of_fixed(fixed)

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """As `LocalNet.forward`."""
        maps = self.maps(moving, fixed)
        return affine_field(self.matrix(*maps), maps[1].shape[2:])

    @torch.no_grad()
    def observe(self, moving: Tensor, fixed: Tensor) -> None:
        """Take note of pairs of labels, (N, 1, *spatial) each, from 0 to 1; of empty ones none is taken."""
        both = (moving.flatten(1).amax(1) > CONFIDENT) & (fixed.flatten(1).amax(1) > CONFIDENT)
        (_, large), (at, small) = _moments(moving[both]), _moments(fixed[both])
        for each in torch.stack([at - _middle(fixed), (large / small).log()], 1):  # Welford
            self.count += 1
            off = each - self.mean
            self.mean += off / self.count
            self.deviations += off * (each - self.mean)

    def forget(self) -> None:
        """Take no note any more of what was observed."""
        for seen in (self.count, self.mean, self.deviations):
            seen.zero_()

    @torch.no_grad()
    def matrix(self, of_moving: Tensor, of_fixed: Tensor) -> Tensor:
        """(N, ndim, ndim + 1): voxel of the second map -> voxel of the first. No gradient flows through it."""
        of_moving, of_fixed = _wide(of_moving), _wide(of_fixed)
        to, _ = _moments(torch.sigmoid(of_moving))
        label = (of_moving > 0).to(of_moving)
        at, scale = self._placed(label, to, of_fixed), self.mean[1].expand_as(to)
        if self.count >= FEWEST:
            at, scale = self._likeliest(label, to, of_fixed, at, scale)
        return _scaled(scale, to, at)

    def _likeliest(
        self, label: Tensor, centre: Tensor, of_fixed: Tensor, at: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(N, ndim) each: the place and the logarithm of how much larger the label is in moving, both as near it."""
        usual = torch.stack([self.mean[0] + _middle(of_fixed), self.mean[1]])[:, None]
        variance, odds = self._variance()[:, None], self._odds(label, of_fixed)
        with torch.inference_mode(False), torch.enable_grad():  # a gradient is needed whatever the caller does
            label, centre, odds, usual, variance = (x.detach().clone() for x in (label, centre, odds, usual, variance))
            found = [x.detach().clone().requires_grad_() for x in (at, scale)]
            adam = torch.optim.Adam([{"params": [x], "lr": pace} for x, pace in zip(found, PACES, strict=True)])
            decay = torch.optim.lr_scheduler.ExponentialLR(adam, DECAY)
            for _ in range(STEPS):
                shown = affine_warp(label, _scaled(found[1], centre, found[0]), odds.shape[2:], padding="zeros")
                unlikely = ((torch.stack(found) - usual).square() / (2 * variance)).sum() - (shown * odds).sum()
                adam.zero_grad()
                unlikely.backward()  # type: ignore[no-untyped-call]
                adam.step()
                decay.step()
        return found[0].detach(), found[1].detach()

    def _odds(self, label: Tensor, of_fixed: Tensor) -> Tensor:
        """What a voxel of fixed tells for a label in it, the others of that label told."""
        voxels = (label.flatten(1).sum(1) / self.mean[1].sum().exp()).clamp(min=1)
        return of_fixed.clamp(-SUREST, SUREST) * (VOTES / voxels).view(-1, *[1] * (of_fixed.ndim - 1))

    def _variance(self) -> Tensor:
        """(2, ndim), as `deviations`."""
        return (self.deviations / (self.count - 1)).clamp(min=1e-3)

    def _placed(self, label: Tensor, centre: Tensor, of_fixed: Tensor) -> Tensor:
        """(N, ndim): the voxel of fixed where the centre of moving's label, of its usual size, most likely lies."""
        ratio = self.mean[1].exp()
        spatial, size = tuple(range(1, centre.shape[1] + 1)), of_fixed.shape[2:]
        own = [max(1, round(s / r)) for s, r in zip(label.shape[2:], ratio.tolist(), strict=True)]
        middle = torch.tensor([(s - 1) / 2 for s in own]).to(centre)
        # Moving's label as large as it is in fixed, its centre in the middle of a grid.
        shown = affine_warp(label, _scaled(self.mean[1].expand_as(centre), centre, middle), own, padding="zeros")
        odds = self._odds(label, of_fixed)[:, 0]
        sizes = [quick(a + b - 1) for a, b in zip(size, own, strict=True)]
        spectra = [torch.fft.rfftn(x, sizes, spatial) for x in (shown[:, 0], odds, torch.ones_like(odds))]
        likely, seen = (torch.fft.irfftn(spectra[0].conj() * x, sizes, spatial) for x in spectra[1:])
        axes = [torch.tensor([float(lag([i], [a], [s])) for i in range(s)]) for a, s in zip(size, sizes, strict=True)]
        places = torch.stack(torch.meshgrid(*axes, indexing="ij")).to(centre)
        if self.count >= FEWEST:
            off = places + (middle - _middle(of_fixed) - self.mean[0]).view(-1, *[1] * len(size))
            likely = likely - (off.square() / (2 * self._variance()[0].view(-1, *[1] * len(size)))).sum(0)
        # Outside of the image nothing speaks against the label, of which there is more than fixed's map has.
        outside = seen < WITHIN * seen.amax(spatial, keepdim=True)
        likely = torch.where(outside, likely.amin(spatial, keepdim=True), likely)
        index = likely.flatten(1).argmax(1)
        return middle + places.flatten(1)[:, index].T + _within(likely, index)


def _scaled(logarithm: Tensor, centre: Tensor, at: Tensor) -> Tensor:
    """(N, ndim, ndim + 1): at a place of fixed the centre of moving's label, which is larger by (N, ndim) factors."""
    ratio = logarithm.exp()
    return torch.cat([torch.diag_embed(ratio), (centre - ratio * at)[..., None]], 2)


def _within(values: Tensor, index: Tensor) -> Tensor:
    """(N, ndim): where between the neighbours of the largest of (N, *spatial) values the top of parabolas is."""
    tops = []
    for axis in range(1, values.ndim):
        before, here, after = (values.roll(by, axis).flatten(1).gather(1, index[:, None])[:, 0] for by in (1, 0, -1))
        bend = before - 2 * here + after
        tops.append(((before - after) / (2 * bend).clamp(max=-1e-6)).clamp(-0.5, 0.5))
    return torch.stack(tops, 1)


def _middle(image: Tensor) -> Tensor:
    """(ndim,) in voxels."""
    return torch.tensor([(s - 1) / 2 for s in image.shape[2:]]).to(image)


def _moments(probability: Tensor) -> tuple[Tensor, Tensor]:
    """The centroid and the standard deviations along the axes, (N, ndim) each, of the probability of a label."""
    probability = _wide(probability)
    weights = (probability * (probability > CONFIDENT)).flatten(1)
    weights = torch.where(weights.amax(1, keepdim=True) > 0, weights, 1)  # of no label the middle of the image
    weights = (weights / weights.sum(1, keepdim=True))[:, None]
    axes = [torch.arange(s, dtype=weights.dtype, device=weights.device) for s in probability.shape[2:]]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)
    # No products of matrices, which autocast narrows.
    centre = (weights * places).sum(2)
    variance = (weights * (places - centre[..., None]).square()).sum(2)
    return centre, variance.clamp(min=0.25).sqrt()


def _wide(x: Tensor) -> Tensor:
    """Of 16 bits as float32, of which there are spectra."""
    return x.float() if x.dtype.itemsize == 2 else x
