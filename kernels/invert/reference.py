"""The inverse of a displacement field: the definition.

w with w(x) + u(x + w(x)) = 0, by Newton's method at every voxel: with r = w + u(x + w) and G the derivatives of the
interpolated field there, w <- w - (I + G)^-1 r. Where the map is pressed together, det(I + G) <= LEAST, half of r is
taken instead (a damped step of the fixed-point iteration of Chen et al., "A simple fixed-point approach to invert a
deformation field", Med Phys 2008). No step is longer than LONG along an axis, and each of the next than half of that,
down to SHORT. Of the places that were tried, that with the least r counts. The field is sampled with its border
repeated.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..warp.reference import warp_with_gradient

LEAST, SHORT, LONG = 0.05, 2.0, 64.0


def invert(disp: Tensor, start: Tensor, tries: int) -> Tensor:
    """disp and start (N, ndim, *spatial), of one shape, to the inverse field of that shape."""
    ndim = disp.shape[1]
    one = torch.eye(ndim, dtype=disp.dtype, device=disp.device)
    w, best, least = start, start, torch.full_like(start[:, :1], torch.inf)
    for k in range(tries):
        value, slope = warp_with_gradient(disp, w, "border")
        r = w + value
        size = r.square().sum(1, keepdim=True)
        best, least = torch.where(size < least, w, best), torch.fmin(size, least)
        matrix = (slope.movedim((1, 2), (-2, -1)) + one).contiguous()
        invertible = torch.linalg.det(matrix) > LEAST
        matrix = torch.where(invertible[..., None, None], matrix, 2 * one)
        step = torch.linalg.solve_ex(matrix, r.movedim(1, -1)).result.movedim(-1, 1)
        longest = max(SHORT, LONG / 2**k)
        w = w - step.clamp(-longest, longest)
    return best
