"""In which numbers convolutions are computed in training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from runs import invoke

from l2rfast.data.synthetic import anatomies
from l2rfast.io import Volume, write_image
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


@pytest.mark.parametrize(("size", "narrow"), [((1, 24, 24), False), ((8, 24, 24), False), ((9, 24, 24), True)])
def test_volumes_of_few_slices_are_not(size: tuple[int, ...], narrow: bool, amx: bool) -> None:
    """Of which convolutions with AMX may make values like 1e38."""
    image = torch.zeros(2, 1, *size)
    assert is_narrow("auto", "cpu", [image]) == (narrow and amx)
    assert is_narrow("auto", "cuda", [image])
    assert is_narrow("bfloat16", "cpu", [image])


def test_thin_volumes_are_trained_on(tmp_path: Path) -> None:
    """Whatever this processor has."""
    (tmp_path / "scans").mkdir()
    for i, anatomy in enumerate(anatomies(4, (16, 32, 32), structures=2)):
        write_image(tmp_path / "scans" / f"case{i}.nii.gz", Volume(anatomy.image[0, 0, :3], np.eye(4)))
    options = ("--steps=2", "--network=pyramid", "--quiet", f"--out={tmp_path / 'run'}")
    assert invoke("train", "unsupervised", f"--data={tmp_path / 'scans'}", *options) == (0, "")
