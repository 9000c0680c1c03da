"""Composing displacement fields, and integrating a stationary velocity field: the definition.

Scaling and squaring (Arsigny et al., "A log-Euclidean framework for statistics on diffeomorphisms", MICCAI 2006):
u_0 = velocity / 2^steps, then u_{i + 1} = compose(u_i, u_i), steps times. A field is sampled with its border repeated.
"""

from __future__ import annotations

from torch import Tensor

from ..warp.reference import warp, warp_backward


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """outer (N, ndim, *in), inner (N, ndim, *out) -> inner(x) + outer(x + inner(x)), (N, ndim, *out)."""
    return inner + warp(outer, inner, "linear", "border")


def integrate_velocity(velocity: Tensor, steps: int) -> Tensor:
    """velocity (N, ndim, *spatial) -> displacement field of the same shape."""
    u = velocity / 2.0**steps
    for _ in range(steps):
        u = compose(u, u)
    return u


def integrate_velocity_backward(grad: Tensor, velocity: Tensor, steps: int) -> Tensor:
    """Gradient to velocity."""
    fields = [velocity / 2.0**steps]
    for _ in range(steps - 1):
        fields.append(compose(fields[-1], fields[-1]))
    for u in reversed(fields[:steps]):
        to_outer, to_inner = warp_backward(grad, u, u, "linear", "border", True, True)
        grad = grad + to_outer + to_inner
    return grad / 2.0**steps
