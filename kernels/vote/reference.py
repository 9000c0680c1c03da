"""Labels by votes: the definition.

Every neighbour of a sample (4 in 2-D, 8 in 3-D) votes for its label with its weight of linear interpolation. The label
with the largest sum wins, of equal sums the least: that is the argmax over the linear samples of a channel for each
label, in rising order, that is 1 where the label is and 0 elsewhere. Padding is that of linear interpolation; with
"zeros", what lies outside of the image votes for 0. A coordinate that is not finite makes a label of 0.

A channel for each label would take memory and time for each; here nothing is kept but the votes of one sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from ..common import sampling


def vote(labels: Tensor, disp: Tensor, padding: str) -> Tensor:
    """labels (N, C, *in) of integers or booleans, disp (N, ndim, *out) -> (N, C, *out) in the dtype of labels."""
    return _elected(labels, sampling.displaced(disp), padding)


def affine_vote(labels: Tensor, matrix: Tensor, size: Sequence[int], padding: str) -> Tensor:
    """labels (N, C, *in), matrix (N, ndim, ndim + 1): output voxel -> voxel of labels -> (N, C, *size)."""
    return _elected(labels, sampling.transformed(matrix, sampling.coordinates(list(size), matrix)), padding)


def _elected(labels: Tensor, positions: Tensor, padding: str) -> Tensor:
    # PyTorch compares no unsigned integers of more than 8 bits: all as int64, in which the largest of uint64 wrap.
    lowest = torch.iinfo(torch.int64).min if labels.dtype == torch.uint64 else 0
    ordered, positions = sampling.one_batch(labels.to(torch.int64) ^ lowest, positions)
    around = list(sampling.corners(positions, labels.shape[2:], padding))
    voters = [(sampling.gather(ordered, i), sampling.weight(w, s).unsqueeze(1)) for i, w, s in around]
    if padding == "zeros":
        inside = reduce(torch.mul, [low + high for low, high in zip(around[0][1], around[-1][1], strict=True)])
        voters.append((torch.full_like(voters[0][0], lowest), 1 - inside.unsqueeze(1)))
    best, most = voters[0][0], torch.zeros_like(voters[0][1])
    for i, (label, own) in enumerate(voters):
        # With those of its label that come after it: the first of a label has its whole sum, and none of them more.
        votes = reduce(torch.add, [torch.where(other == label, w, 0) for other, w in voters[i + 1 :]], own)
        better = (votes > most) | ((votes == most) & (label < best))
        best, most = torch.where(better, label, best), torch.where(better, votes, most)
    return (torch.where(sampling.are_finite(positions).unsqueeze(1), best, lowest) ^ lowest).to(labels.dtype)
