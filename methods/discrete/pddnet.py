"""PDD-Net (Heinrich, MICCAI 2019): the costs of many displacements of learned features, regularised, their softmax."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from l2rfast import _check, compose, discrete_displacement, shift_labels, warp
from l2rfast.correlation import at_control_points, lattice
from l2rfast.discrete import ALPHAS
from l2rfast.errors import InputError
from l2rfast.kernels.common.constants import numbers
from l2rfast.regularisation import METHODS

from .. import weights
from ..options import make_plain
from ..refine import pool
from .features import THIRD, Obelisk, PlainFeatures
from .points import Choice, Prediction, check_images, smooth, spread

FORMAT = "l2rfast.methods.discrete.PDDNet"
FEATURES, INTENSITIES = ("obelisk", "cnn"), ("zero-to-one", "ct")
SINGLE = 3  # factors of a chain of one pass: scale, offset, sharpness


@dataclass(frozen=True)
class Architecture:
    """What a `PDDNet` is made of.

    Attributes:
        features: ``"obelisk"`` or ``"cnn"``.
        channels: of the features.
        grid: control points along every axis, one number for each warp.
        search: displacements along every axis, likewise.
        extent: how far they reach, as a fraction of half the size of the image, likewise.
        passes: 1 or 2: how often min-convolution and mean field regularise the costs.
        smoothness: weight of the squared differences of neighbouring control points, in the fit of a smooth field to
            their displacements; 0 for none.
        intensities: ``"zero-to-one"``, or ``"ct"``, in units of 500 HU: what images are brought to.
        min_convolution: ``"pooled"``, as published, or ``"exact"``, with a weight that is learned.
        align_corners: see `l2rfast.lattice_correlation`.
    """

    features: str = "obelisk"
    channels: int = 24
    grid: tuple[int, ...] = (29, 39)
    search: tuple[int, ...] = (11, 11)
    extent: tuple[float, ...] = (0.25, 0.15)
    passes: int = 2
    smoothness: float = 0.5
    intensities: str = "zero-to-one"
    min_convolution: str = "pooled"
    align_corners: bool = False

    def __post_init__(self) -> None:
        make_plain(self)
        allowed_values = {
            "features": FEATURES,
            "passes": (1, 2),
            "intensities": INTENSITIES,
            "min_convolution": METHODS,
        }
        for name, allowed in allowed_values.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"{name}: expected one of {', '.join(map(str, allowed))}, got {getattr(self, name)!r}")
        counts = len(self.grid), len(self.search), len(self.extent)
        if counts[0] < 1 or len(set(counts)) > 1:
            raise InputError(f"grid, search, extent: expected one number of each for a warp, got {counts}")
        if not all(_check.is_integer(n) and n >= 2 for n in (*self.grid, *self.search, self.channels)):
            raise InputError("grid, search, channels: expected integers >= 2")
        if not all(_check.is_number(value) and value >= 0 for value in (*self.extent, self.smoothness)):
            raise InputError("extent, smoothness: expected finite numbers >= 0")

    @property
    def lattices(self) -> Iterator[tuple[int, int, float]]:
        """Of every warp, as `l2rfast.lattice_correlation` takes it."""
        return zip(self.grid, self.search, self.extent, strict=True)


# What the published weights of version 01 are of: before PyTorch 1.3, and one pass.
PUBLISHED = Architecture(
    grid=(32,), search=(15,), extent=(0.4,), passes=1, smoothness=0.0, intensities="ct", align_corners=True
)


class PDDNet(nn.Module):
    """Displacement fields of two 3-D images of one size, over all lattices of displacements in turn.

    After the first warp the features of moving, warped, are compared again.

    Attributes:
        ndim: of the images.
        multiple: of which sizes have to be where labels are compared.

    Args:
        architecture: see `Architecture`.
    """

    ndim, multiple = 3, THIRD

    def __init__(self, architecture: Architecture | None = None) -> None:
        super().__init__()
        self.architecture = a = architecture or Architecture()
        obelisk = a.features == "obelisk"
        self.features = Obelisk(a.channels, align_corners=a.align_corners) if obelisk else PlainFeatures(a.channels)
        factors = ALPHAS if a.passes == 2 else (*ALPHAS[:2], ALPHAS[-1])
        self.alphas = nn.Parameter(torch.tensor(factors))
        # Of an exact min-convolution, its logarithm.
        self.log_weight = nn.Parameter(torch.zeros(())) if a.min_convolution == "exact" else None

    def forward(self, fixed: Tensor, moving: Tensor, *, probabilities: bool = False) -> Prediction:
        """Args:
            fixed, moving: (N, 1, D, H, W), of one shape, floating; of the intensities that it was trained on.
            probabilities: return them as well.

        Raises:
            InputError: other shapes, or images that are too small.
        """
        check_images(fixed, moving, 3, 2 * THIRD)
        a, size = self.architecture, fixed.shape[2:]
        at, to = (self.features(x).to(x.dtype) for x in (fixed, moving))  # which autocast may have narrowed
        coarse = at.shape[2:]
        ratio = [(s - 1) / max(c - 1, 1) if a.align_corners else s / c for s, c in zip(size, coarse, strict=True)]
        scale = numbers(ratio, at).view(-1, 1, 1, 1)  # voxels of the image in one of the features
        total: Tensor | None = None
        choices = []
        for on in a.lattices:
            found = discrete_displacement(
                at,
                to if total is None else warp(to, total),
                *on,
                self.alphas,
                method=a.min_convolution,
                weight=None if self.log_weight is None else self.log_weight.exp(),
                align_corners=a.align_corners,
                # Whole cost volumes are faster; going backward would keep several of them.
                memory="low" if torch.is_grad_enabled() else "normal",
                probabilities=probabilities,
                entropy=True,
            )
            choices.append(Choice(found[0] * scale, found[-1], found[1] if probabilities else None, total))
            with torch.autocast(fixed.device.type, enabled=False):  # which narrows matrix products, here of positions
                points = smooth(found[0], a.smoothness)
            dense = spread(points, coarse, a.align_corners)
            total = dense if total is None else compose(total, dense)
        assert total is not None
        # Where there is one warp, linear between control points, and not between features too.
        whole = spread(points if len(choices) == 1 else total, size, a.align_corners)
        return Prediction(whole * scale, tuple(choices))

    def labels(self, choices: Sequence[Choice], fixed: Tensor, moving: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Of each warp, labels at its control points: those of fixed, and those expected of moving.

        Args:
            choices: with probabilities.
            fixed, moving: (N, K, D, H, W), likelihoods; sizes are multiples of 3.

        Yields:
            Twice (N, K, *grid).
        """
        a = self.architecture
        truth, shifted = pool(fixed, THIRD), pool(moving, THIRD)
        for choice, (grid, search, extent) in zip(choices, a.lattices, strict=True):
            assert choice.probabilities is not None
            here = shifted if choice.before is None else warp(shifted, choice.before)
            on = lattice(truth.shape[2:], grid, search, extent, a.align_corners)
            expected = shift_labels(choice.probabilities, here, extent, align_corners=a.align_corners)
            yield at_control_points(truth, on), expected

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the weights to a ``.safetensors`` file and the architecture to a ``.json`` beside it.

        Raises:
            InputError: another ending, or a place that cannot be written.
        """
        weights.save(self, self.architecture, FORMAT, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PDDNet:
        """Read what `save` wrote.

        Raises:
            InputError: files that are absent, damaged, or not of such a network.
        """
        described = weights.describe(path, FORMAT, Architecture)
        return weights.made(lambda: cls(described), path)

    @classmethod
    def from_published(cls, features: str | os.PathLike[str], regulariser: str | os.PathLike[str]) -> PDDNet:
        """The network of the public weights of version 01: ``dense_reg_feat_v01.pth`` and ``dense_reg_deeds_v01.pth``.

        They are of CT in units of 500 HU.

        Raises:
            InputError: files that are absent or damaged, or other weights.
        """
        network = cls(PUBLISHED)
        state = {f"features.{name}": value for name, value in _tensors(features).items()}
        alphas = _tensors(regulariser).get("alpha", torch.empty(0))
        state["alphas"] = alphas[:SINGLE]  # the fourth is of a second pass that came later
        weights.fill(network, state, Path(features))
        return network


def _tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Of a file of plain tensors: nothing else in it is read."""
    with weights.named(Path(path), OSError):
        try:
            weights.check_packed(Path(path))
            found = torch.load(path, map_location="cpu", weights_only=True)
            return {name: value for name, value in found.items() if isinstance(value, Tensor)}
        except OSError:
            raise
        except Exception as error:  # whatever a damaged file leads to; PyTorch's own advice is to trust it
            raise InputError(f"path: expected a file of PyTorch's with plain tensors, got another in {path}") from error
