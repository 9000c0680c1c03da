"""The expected displacement under a softmax of costs: the definition.

    p(e, x) = exp(-beta cost(e, x)) / Z(x),    Z(x) = sum over e of exp(-beta cost(e, x))
    displacement_k(x) = sum over e of p(e, x) (e_k - (n_k - 1) / 2) dilation_k
    entropy(x) = -sum over e of p(e, x) log p(e, x)

with n_k displacements along axis k. A cost of infinity has probability 0; where all costs are infinite, all is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..common.sampling import arithmetic_dtype


def _steps(cost: Tensor, dilation: Sequence[float]) -> Tensor:
    """(ndim, E, 1, ...): every displacement."""
    search = cost.shape[1 : 1 + len(dilation)]
    axes = [
        d * (torch.arange(n, dtype=cost.dtype, device=cost.device) - (n - 1) / 2)
        for n, d in zip(search, dilation, strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).reshape(len(dilation), -1, *[1] * len(dilation))


def _flat(cost: Tensor, dilation: Sequence[float]) -> Tensor:
    return cost.reshape(cost.shape[0], -1, *cost.shape[1 + len(dilation) :])


def _finite(p: Tensor, values: Tensor) -> Tensor:
    """p * values, 0 where p is."""
    return torch.where(p == 0, 0, p * values)


def soft_argmin(
    cost: Tensor, beta: Tensor, dilation: Sequence[float], probabilities: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """cost (N, *search, *spatial), beta () -> displacement (N, ndim, *spatial), entropy and log Z (N, 1, *spatial).

    These in the dtype of the arithmetic; then p, or nothing, in the shape and dtype of cost.
    """
    dtype, cost = cost.dtype, cost.to(arithmetic_dtype(cost))
    logits = -beta.to(cost.dtype) * _flat(cost, dilation)
    log_z = logits.logsumexp(1, keepdim=True)
    p = (logits - log_z).exp()
    displacement = (_steps(cost, dilation) * p.unsqueeze(1)).sum(2)
    entropy = -_finite(p, logits - log_z).sum(1, keepdim=True)
    return displacement, entropy, log_z, (p.reshape(cost.shape) if probabilities else cost.new_empty(0)).to(dtype)


def soft_argmin_backward(
    grad: Tensor,
    grad_entropy: Tensor,
    grad_p: Tensor | None,
    cost: Tensor,
    beta: Tensor,
    displacement: Tensor,
    entropy: Tensor,
    log_z: Tensor,
    dilation: Sequence[float],
) -> tuple[Tensor, Tensor]:
    """Gradients to cost and beta of what came out, in the dtype of the arithmetic."""
    cost = cost.to(arithmetic_dtype(cost))
    flat = _flat(cost, dilation)
    logits = -beta.to(cost.dtype) * flat
    p = (logits - log_z).exp()
    # Every output is a sum of p h up to what p's own sum of 1 takes away, and p's gradient in that is this.
    h = (_steps(cost, dilation) * grad.unsqueeze(2)).sum(1)
    h = h - grad_entropy * torch.where(p == 0, 0, logits - log_z + 1)
    if grad_p is not None:
        h = h + _flat(grad_p.to(cost.dtype), dilation)
    to_logits = p * (h - (p * h).sum(1, keepdim=True))
    return (-beta.to(cost.dtype) * to_logits).reshape(cost.shape), -_finite(to_logits, flat).sum()
