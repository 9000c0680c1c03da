"""What the tests themselves rest on."""

from __future__ import annotations

import pytest
import torch

import l2rfast


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_memory_that_nothing_has_written_is_not_a_number(dtype: torch.dtype) -> None:
    like = torch.zeros(3, 4, dtype=dtype)
    for made in (torch.empty(70, 2, dtype=dtype), torch.empty_like(like), like.new_empty(9), like.resize_(5, 6)[3:]):
        assert made.isnan().all()


def test_memory_of_integers_holds_no_label() -> None:
    assert (torch.empty(100, dtype=torch.int16) == -1).all()


def test_an_unwritten_voxel_is_seen_by_who_reads_it() -> None:
    assert l2rfast.warp(torch.empty(1, 1, 4, 4), torch.zeros(1, 2, 4, 4)).isnan().all()
