"""Memory of large results that is kept: the same results, and nothing that lives is written over."""

from __future__ import annotations

import gc
import threading

import pytest
import torch
from evaluation import evaluate
from native import memory_in_use
from operators import OPERATIONS, Operation
from torch import Tensor

from l2rfast import box_average
from l2rfast._native import INSTRUCTION_SET, kept_memory

LARGE = (1, 1, 64, 80, 70)  # more than a MiB

compiled = pytest.mark.skipif(INSTRUCTION_SET is None, reason="the C++ kernels were not built")


def image(seed: int = 0) -> Tensor:
    return torch.randn(LARGE, generator=torch.Generator().manual_seed(seed))


@compiled
def test_what_is_gone_makes_room_for_the_next_of_its_size() -> None:
    with kept_memory():
        first = box_average(image())
        place = first.data_ptr()
        del first
        assert box_average(image(1)).data_ptr() == place
        smaller = box_average(image()[:, :, 1:])
        assert smaller.data_ptr() != place


@compiled
def test_what_lives_is_left_alone() -> None:
    expected = [box_average(image(seed)) for seed in range(3)]
    with kept_memory():
        with kept_memory():
            found = [box_average(image(0))]
            view = box_average(image(1))[0, 0]  # which keeps the whole
        found += [view[None, None], box_average(image(2))]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    found = [2 * one for one in found]  # after the block, and then they are gone
    assert all(torch.equal(a, 2 * b) for a, b in zip(found, expected, strict=True))


@compiled
def test_results_are_tensors_like_others() -> None:
    with kept_memory():
        made = box_average(image())
    assert made.is_contiguous()
    assert made.dtype == torch.float32
    assert torch.equal(torch.from_numpy(made.numpy()), made)
    made += 1
    halves = box_average(image()[..., ::2].half())
    assert halves.dtype == torch.half


@compiled
def test_threads_share_it() -> None:
    expected, wrong = [box_average(image(seed)) for seed in range(4)], []

    def work(seed: int) -> None:
        for _ in range(5):
            with kept_memory():
                if not torch.equal(box_average(image(seed)), expected[seed]):
                    wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@compiled
def test_an_error_ends_the_block() -> None:
    with pytest.raises(ValueError, match="its own"), kept_memory():
        raise ValueError("its own")
    place = (one := box_average(image())).data_ptr()
    assert torch.equal(one, box_average(image()))
    assert place


@compiled
@pytest.mark.parametrize("operation", [o for o in OPERATIONS if "cpp" in o.backends], ids=lambda o: o.name)
def test_calls_leave_nothing_in_memory(operation: Operation) -> None:
    """Not even a name among the arguments, of 32 bytes; what is made once, as a cache, is not of every call."""
    sample = operation.some()[0]

    def kept(calls: int) -> int:
        gc.collect()
        before = memory_in_use()
        for _ in range(calls):
            evaluate(operation, sample.inputs, sample.options, backend="cpp")
        gc.collect()
        return memory_in_use() - before

    gc.freeze()  # what other tests left need not be looked at again and again
    try:
        kept(5)
        assert min(kept(20) for _ in range(3)) < 20 * 32
    finally:
        gc.unfreeze()
