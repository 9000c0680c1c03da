"""What a patch is: what it changes, what it refuses, what it counts."""

from __future__ import annotations

import importlib.metadata
import sys
import types
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from others import MARKS, images, monai, vxf
from torch import Tensor

import l2rfast
from l2rfast.compat import patching
from l2rfast.errors import InputError

pytestmark = MARKS
ALL = tuple(patching.LIBRARIES)


@pytest.fixture(autouse=True)
def _unpatched() -> Iterator[None]:
    yield
    assert not patching._patched


def test_nothing_is_patched_by_importing() -> None:
    for name in ALL:
        for owner, attribute, original, ours in patching._library(name).replacements:
            assert getattr(owner, attribute) is original
            assert original is not ours


def test_functions_that_were_imported_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("somebodys_script")
    original = vars(module)["warp"] = vxf.spatial_transform
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with l2rfast.patch("voxelmorph"):
        assert vars(module)["warp"] is vxf.spatial_transform is not original
    assert vars(module)["warp"] is vxf.spatial_transform is original


def test_nested_patches_end_with_the_first() -> None:
    original = F.grid_sample
    with l2rfast.patch("torch"):
        with l2rfast.patch("torch", "monai"):
            assert F.grid_sample is not original
        assert F.grid_sample is not original
    assert F.grid_sample is original
    l2rfast.patch("torch", "neurite")
    l2rfast.unpatch("neurite")
    assert F.grid_sample is not original
    l2rfast.unpatch()
    assert F.grid_sample is original


def test_what_cannot_be_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"names: expected some of torch, .* got 'tensorflow'"):
        l2rfast.patch("torch", "tensorflow")
    with pytest.raises(InputError, match=r"names: expected some of torch, .* got none"):
        l2rfast.patch()
    with pytest.raises(InputError, match="names: expected patched libraries, none, got 'torch'"):
        l2rfast.unpatch("torch")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.9.1")
    with pytest.raises(InputError, match=r"monai: expected a version >=1\.6,<1\.7, got 0\.9\.1"):
        patching.Library("monai", ">=1.6,<1.7")


def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "l2rfast.compat.neurite")
    monkeypatch.setitem(sys.modules, "neurite.nn.functional", None)
    with pytest.raises(InputError, match="names: expected libraries that are installed, but neurite is not"):
        l2rfast.patch("torch", "neurite")


def test_each_reason_is_told_once_and_counted() -> None:
    image, _, disp = images(2)
    jittered = monai.networks.blocks.Warp(jitter=True)
    name = "monai.networks.blocks.warp.Warp.forward"
    patching._fallen.pop(name, None)
    with l2rfast.patch("monai"):
        with pytest.warns(l2rfast.FallbackWarning, match=f"{name} runs the library's own code: jitter"):
            jittered(image, disp)
        jittered(image, disp)  # a second warning would be an error
    assert l2rfast.patch_report()[name].fallen == {"jitter": 2}


def test_the_librarys_own_errors() -> None:
    image, _, disp = images(2)
    with l2rfast.patch("monai"), pytest.raises(ValueError, match="the input DDF shape must be"):
        monai.networks.blocks.Warp()(image, disp[:, :1])


def sampled(image: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(image, grid, align_corners=True)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")  # FutureWarning from 2.14 on
def test_torchscript_compiles_the_librarys_own_code() -> None:
    image, _, disp = images(2)
    grid = disp.detach().movedim(1, -1) / 4
    with l2rfast.patch("torch"):
        before = l2rfast.patch_report().get("torch.nn.functional.grid_sample")
        found = torch.jit.script(sampled)(image.detach(), grid)
        assert l2rfast.patch_report().get("torch.nn.functional.grid_sample") == before
    torch.testing.assert_close(found, sampled(image.detach(), grid))
