"""Inductor's code for a GPU that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import l2rfast
from bench import inductor


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_kernels_and_calls_of_ours_are_generated_and_compiled(tmp_path: Path) -> None:
    disp = torch.zeros(1, 2, 8, 9, requires_grad=True)

    def step(image: Tensor) -> Tensor:
        return (l2rfast.warp(image, disp.tanh()) - image).square().sum()

    found = inductor.graphs_of(step, torch.rand(1, 1, 8, 9))
    assert len(found) == 2
    for (module, given), name in zip(found, ("warp", "warp_backward"), strict=True):
        with inductor.card():
            code = inductor.code_of(module, given, backward=name == "warp_backward")
            kernels = inductor.kernels_of(code, tmp_path)
        assert inductor._CALLED.findall(code) == [f"torch.ops.l2rfast.{name}.default"]
        built = [inductor.compiled(kernel, "sm_90") for kernel in kernels.values()]
        assert [one.spills for one in built] == [0] * len(built) != []
    assert not torch.cuda.is_available()


@pytest.mark.parametrize("size", ["7", "0", "many"])
def test_a_size_that_cannot_be_is_refused_in_a_sentence(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        inductor.main(["--size", size])
    said = "a multiple of 16, as the network takes" if size == "7" else "a whole number from 1 on"
    assert capsys.readouterr().err.endswith(f"argument --size: expected {said}, got {size!r}\n")
