"""Whether two images are of one contrast, so that their intensities can be compared as they are."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .intensities import in_range

LEVELS, ENOUGH = 256, 500  # of intensities that one image is given another's for, at most; and voxels of each
BINS = 32  # of the intensities, for the best function of them
DARK = 0.05  # of the robust range, from its lower end: where either image has not more there is nothing to compare
FEWEST = 100  # voxels to tell by
MANY = 10**6  # that are enough to tell by
LEAST, LINEAR = 0.4, 0.91  # correlation, and as a share of that with the best function


def one_contrast(fixed: Tensor, moving: Tensor, counts: Tensor | None, *, linear: float = LINEAR) -> tuple[bool, str]:
    """By how the intensities of two images that are roughly aligned go together where neither is dark.

    Of one contrast they rise together, and a straight line says nearly as much of one from the other as any function
    does: the correlation r is at least 0.4, and at least a share of the correlation ratio eta (Roche et al., MICCAI
    1998), the larger of both directions. Two contrasts of the same anatomy may well have a large eta.

    Args:
        fixed, moving: of one shape, floating.
        counts: in their shape, 0 to 1: voxels below 0.5 do not count; None where all do.
        linear: that share.

    Returns:
        Whether they are, and why, in a sentence.
    """
    valid = np.ones(fixed.numel(), dtype=bool) if counts is None else counts.cpu().numpy().ravel() >= 0.5
    x, y = (in_range(image).cpu().numpy().ravel().astype(np.float64) for image in (fixed, moving))
    valid &= (x > DARK) & (y > DARK)
    x, y = x[valid], y[valid]
    if len(x) < FEWEST or not (x.std() > 0 and y.std() > 0):
        return True, "there is hardly anything to compare intensities by"
    r = float(((x - x.mean()) * (y - y.mean())).mean() / (x.std() * y.std()))
    eta = max(_correlation_ratio(x, y), _correlation_ratio(y, x), abs(r))
    found = f"intensities have a correlation of {r:.2f}, and one of {eta:.2f} by the best function of them"
    return r >= max(LEAST, linear * eta), found


def association(fixed: Tensor, moving: Tensor) -> float:
    """How well the best function of one image's intensities says those of the other: the correlation ratio (Roche et
    al., MICCAI 1998), the larger of both directions, where either is not dark.

    It does not ask which contrasts they are of. Two images of one contrast that lie on each other have nearly 1; but a
    deformation that is free enough brings images of other anatomies near it too.

    Args:
        fixed, moving: of one shape, floating.

    Returns:
        0 to 1; NaN where there is hardly anything to compare. Of more than 2 x 10^6 voxels every so many-th counts.
    """
    step = max(1, fixed.numel() // MANY)
    x, y = (in_range(image.flatten()[::step]).cpu().numpy().ravel().astype(np.float64) for image in (fixed, moving))
    valid = (x > DARK) | (y > DARK)
    x, y = x[valid], y[valid]
    if len(x) < FEWEST or not (x.std() > 0 and y.std() > 0):
        return float("nan")
    return max(_correlation_ratio(x, y), _correlation_ratio(y, x))


def recast(moving: Tensor, warped: Tensor, fixed: Tensor, counts: Tensor | None) -> Tensor:
    """An image in the contrast of another: each of its intensities becomes the mean of the other where it lies on it.

    That is the function by which the correlation ratio (Roche et al., MICCAI 1998) goes. Where the two are not quite
    aligned yet its values lie nearer together than the other's, in their order. Intensities are told apart by ranks, as
    fluid or bone may be far from all else, and told from the flatter half of what is not flat: on edges they are
    mixtures, which may have those of something else.

    Args:
        moving: of any shape, floating: whose intensities are replaced.
        warped: moving as it lies on fixed.
        fixed: in the shape of warped.
        counts: likewise, 0 to 1: how much a voxel counts; None where all do.

    Returns:
        The shape, dtype and device of moving; moving itself where nothing tells its intensities apart.
    """
    seen, to = (image.cpu().numpy().ravel().astype(np.float64) for image in (warped, fixed))
    share = _even(warped).cpu().numpy().ravel().astype(np.float64)
    if counts is not None:
        share *= counts.cpu().numpy().ravel()
    counted = share > 0
    seen, to, share = seen[counted], to[counted], share[counted]
    if not seen.size:
        return moving
    several = min(LEVELS, 2 + seen.size // ENOUGH)
    ranks = np.quantile(seen[:: max(1, seen.size // MANY)], np.linspace(0, 1, several))
    levels = np.unique(np.concatenate([ranks, np.linspace(ranks[0], ranks[-1], several)]))
    nearest = np.rint(np.interp(seen, levels, np.arange(len(levels)))).astype(np.int64)
    number, total = (np.bincount(nearest, weight, len(levels)) for weight in (share, share * to))
    there = number > 0
    values = moving.cpu().numpy().ravel().astype(np.float64)
    means = np.interp(values, levels[there], total[there] / number[there])
    if means.min() == means.max():
        return moving
    return torch.from_numpy(means).view(moving.shape).to(moving)


def _even(image: Tensor) -> Tensor:
    """Where it is flat, or flatter than where it is not by the median: bool in its shape."""
    squares = torch.zeros_like(image)
    for axis, size in enumerate(image.shape):
        if size > 1:
            steps = image.diff(dim=axis).square_()
            squares.narrow(axis, 0, size - 1).add_(steps)
            squares.narrow(axis, 1, size - 1).add_(steps)
    steep = squares > 0
    return squares <= squares[steep].median() if steep.any() else ~steep


def _correlation_ratio(x: np.ndarray, y: np.ndarray) -> float:
    """Of y with the best function of x, steps in bins; what as many bins find in noise is taken off."""
    bins = np.minimum((BINS * x).astype(np.int64), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    used = counts > 0
    means = np.bincount(bins, y, BINS)[used] / counts[used]
    explained = float((counts[used] * (means - y.mean()) ** 2).sum()) / (len(y) * float(y.var()))
    degrees = int(used.sum())
    if degrees >= len(y):
        return 0.0
    return float(max(0.0, 1 - (1 - explained) * (len(y) - 1) / (len(y) - degrees)) ** 0.5)
