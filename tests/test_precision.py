"""In which form GPUs keep sums that float32 cannot hold."""

from __future__ import annotations

import pytest
import torch

from l2rfast.kernels.common import precision
from l2rfast.kernels.common.precision import in_pairs, sums_in

CARDS = {(8, 0): False, (9, 0): False, (10, 0): False, (8, 6): True, (8, 9): True, (10, 3): True, (12, 0): True}


@pytest.mark.parametrize(("capability", "expected"), CARDS.items())
def test_pairs_where_float64_is_slow(
    capability: tuple[int, int], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    precision._slow_float64.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert in_pairs(torch.device("cuda", 0)) == expected
    with sums_in("float64"):
        assert not in_pairs(torch.device("cuda", 0))
    precision._slow_float64.cache_clear()


def test_the_compiled_kernels_are_told() -> None:
    assert not torch.ops.l2rfast_cuda.in_pairs(-1)
    with sums_in("pairs"):
        assert torch.ops.l2rfast_cuda.in_pairs(-1)
    assert not torch.ops.l2rfast_cuda.in_pairs(-1)
