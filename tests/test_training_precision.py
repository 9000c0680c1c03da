"""In which numbers convolutions are computed in training."""

from __future__ import annotations

import pytest
import torch

from l2rfast.methods.training.precision import LIMITS, is_narrow


@pytest.fixture(params=[False, True], ids=["plain", "AMX"])
def amx(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the processor has it."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "amx_bf16": request.param}, raising=False)
    for name in LIMITS:
        monkeypatch.delenv(name, raising=False)
    return bool(request.param)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_is_told_is_done(device: str, amx: bool) -> None:
    assert is_narrow("bfloat16", device)
    assert not is_narrow("float32", device)


def test_unless_told_it_is_bfloat16_where_that_is_faster(amx: bool) -> None:
    assert is_narrow("auto", "cuda")
    assert is_narrow("auto", "cpu") == amx


def test_a_pytorch_that_does_not_tell_is_taken_to_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not is_narrow("auto", "cpu")


@pytest.mark.parametrize("limit", LIMITS)
def test_not_where_convolutions_are_held_to_fewer_instructions(
    limit: str, amx: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(limit, "AVX2")
    assert not is_narrow("auto", "cpu")
