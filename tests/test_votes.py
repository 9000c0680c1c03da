"""Labels by votes: against the argmax over linearly warped channels of one label each."""

from __future__ import annotations

import pytest
import torch
from operators import PADDINGS, runnable
from samples import noise, positions
from torch import Tensor

import l2rfast

INTEGERS = {
    torch.bool: (0, 1),
    torch.uint8: (0, 7, 200, 255),
    torch.int8: (-128, -5, 0, 7),
    torch.int16: (-300, 0, 7, 300),
    torch.uint16: (0, 7, 40000, 65535),
    torch.int32: (-(2**31), 0, 7, 2**30),
    torch.uint32: (0, 7, 2**31 + 3, 2**32 - 1),
    torch.int64: (-(2**50), 0, 2**40, 2**40 + 1),
    torch.uint64: (0, 7, 2**40, 2**64 - 3),
}

each_backend = pytest.mark.parametrize("backend", runnable("vote"))
each_padding = pytest.mark.parametrize("padding", PADDINGS)


def labels_of(values: tuple[int, ...], chosen: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype == torch.uint64:
        return torch.tensor([v - 2**64 if v >= 2**63 else v for v in values])[chosen].view(torch.uint64)
    return torch.tensor(values)[chosen].to(dtype)


def elected(chosen: Tensor, zero: int, places: Tensor, padding: str) -> Tensor:
    """What of the values, in rising order, wins; what lies outside is the one that is 0, for padding with zeros."""
    channels = torch.stack([chosen == i for i in range(int(chosen.max()) + 1)], 2).double()
    if padding == "zeros":
        channels[:, :, zero] -= 1
    linear = torch.stack([l2rfast.warp(c, places, padding=padding) for c in channels.unbind(2)], 2)
    if padding == "zeros":
        linear[:, :, zero] += 1
    return torch.where(linear[:, :, 0].isnan(), zero, linear.nan_to_num().argmax(2))  # the first of the largest


@each_padding
@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("size", [(5, 4), (3, 4, 5), (1, 2, 1)])
def test_votes_are_the_argmax_of_warped_channels(size: tuple[int, ...], dtype: torch.dtype, padding: str) -> None:
    values = INTEGERS[dtype]
    chosen = torch.randint(len(values), (2, 2, *size))
    # Among them places half-way, where votes are even, and nowhere.
    places = positions(size, (7, 6, 5)[: len(size)], smooth=False, finite=False)
    disp = places - torch.stack(torch.meshgrid(*(torch.arange(s) for s in places.shape[2:]), indexing="ij"))
    expected = labels_of(values, elected(chosen, values.index(0), disp, padding), dtype)
    for backend in runnable("vote", devices=("cpu",)):
        with l2rfast.backend(backend):
            for real in (torch.float32, torch.float64):
                got = l2rfast.warp(labels_of(values, chosen, dtype), disp.to(real), mode="vote", padding=padding)
                assert got.dtype == dtype
                assert torch.equal(got.long(), expected.long()), (backend, real)


@each_backend
def test_the_lesser_of_two_labels_with_as_many_votes(backend: str) -> None:
    labels = torch.tensor([[5, -2, 9, 9]])[None, None]
    disp = torch.zeros(1, 2, 1, 4)
    disp[:, 1] = 0.5
    with l2rfast.backend(backend):
        assert l2rfast.warp(labels, disp, mode="vote").flatten().tolist() == [-2, -2, 9, 9]
        assert l2rfast.warp(labels, disp, mode="vote", padding="zeros").flatten().tolist() == [-2, -2, 9, 0]


def test_many_neighbours_outvote_the_nearest() -> None:
    """Where three labels meet, linear samples of the labels would be of none of them."""
    labels = torch.tensor([[1, 8], [8, 8]])[None, None]
    disp = torch.full((1, 2, 1, 1), 0.25)
    assert l2rfast.warp(labels, disp, mode="nearest").item() == 1
    assert l2rfast.warp(labels, disp, mode="vote").item() == 1  # 9 / 16 of the votes
    assert l2rfast.warp(labels, disp + 0.125, mode="vote").item() == 8  # 1 - 25 / 64


@each_padding
@pytest.mark.parametrize("ndim", [2, 3])
def test_along_an_affine_map_as_by_its_field(ndim: int, padding: str) -> None:
    size, out = (6, 7, 5)[:ndim], (5, 8, 6)[:ndim]
    labels = torch.randint(-3, 4, (2, 2, *size), dtype=torch.int16)
    matrix = torch.round(16 * (torch.eye(ndim, ndim + 1) + noise(2, ndim, ndim + 1) / 3)) / 16
    x = torch.stack(torch.meshgrid(*(torch.arange(s).double() for s in out), indexing="ij"))
    disp = torch.einsum("nij,j...->ni...", matrix[..., :-1], x) + matrix[..., -1].view(2, ndim, *[1] * ndim) - x
    expected = l2rfast.warp(labels, disp, mode="vote", padding=padding)
    for backend in runnable("affine_vote", devices=("cpu",)):
        with l2rfast.backend(backend):
            got = l2rfast.affine_warp(labels, matrix, out, mode="vote", padding=padding)
        assert torch.equal(got, expected), backend


def test_through_a_field_and_then_a_matrix() -> None:
    labels = torch.randint(0, 4, (1, 1, 6, 7))
    matrix = torch.tensor([[[1.0, 0.25, -0.5], [-0.25, 1.0, 1.0]]])
    disp = torch.round(8 * noise(1, 2, 5, 8)) / 8
    x = torch.stack(torch.meshgrid(torch.arange(5), torch.arange(8), indexing="ij"))
    places = torch.einsum("ij,njhw->nihw", matrix[0, :, :2].double(), x + disp) + matrix[..., 2].view(1, 2, 1, 1)
    got = l2rfast.affine_warp(labels, matrix, disp=disp, mode="vote", padding="zeros")
    assert torch.equal(got, l2rfast.warp(labels, places - x, mode="vote", padding="zeros"))


def test_votes_of_a_field_with_gradients_are_without() -> None:
    disp = torch.zeros(1, 2, 3, 4, requires_grad=True)
    result = l2rfast.warp(torch.ones(1, 1, 3, 4, dtype=torch.uint8), disp, mode="vote")
    assert not result.requires_grad


@pytest.mark.parametrize("function", [l2rfast.warp, l2rfast.affine_warp])
def test_only_labels_vote(function: object) -> None:
    where = torch.zeros(1, 2, 3, 3)
    arguments = (noise(1, 1, 3, 3), where if function is l2rfast.warp else where[..., 0])
    with pytest.raises(l2rfast.InputError, match="image: expected integers or booleans, got"):
        function(*arguments, mode="vote")  # type: ignore[operator]
