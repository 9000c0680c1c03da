"""Composing displacement fields, and integrating a stationary velocity field, in Triton."""

from __future__ import annotations

from torch import Tensor

from ..common import triton_samplers as samplers
from ..common.recompute import backwards
from ..warp.triton import warp_backward


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """outer (N, ndim, *in), inner (N, ndim, *out) -> inner(x) + outer(x + inner(x)), (N, ndim, *out)."""
    return samplers.sample([outer], inner, inner.shape[2:], "displacement", [False], "border", compose=True)[0][0]


def integrate_velocity(velocity: Tensor, steps: int) -> Tensor:
    """velocity (N, ndim, *spatial) -> displacement field of the same shape. Holds two fields at a time."""
    u: Tensor = (velocity / 2**steps).contiguous()
    for _ in range(steps):
        u = compose(u, u)
    return u


def integrate_velocity_backward(grad: Tensor, velocity: Tensor, steps: int) -> Tensor:
    """Gradient to velocity; the fields of the steps are computed again rather than kept."""

    def back(u: Tensor) -> None:
        nonlocal grad
        to_outer, to_inner = warp_backward(grad, u, u, "linear", "border", True, True)
        grad = to_inner.add_(to_outer).add_(grad)

    backwards(0, steps, velocity / 2**steps, lambda u: compose(u, u), back)
    to_velocity: Tensor = (grad / 2**steps).contiguous()
    return to_velocity
