"""What is made of a fixed image is kept for the next registration to it, and the results are the same bits."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import formats
import numpy as np
import pytest
import torch

import l2rfast
from l2rfast.cli import overview
from l2rfast.cli.job import run
from l2rfast.data.synthetic import anatomies
from l2rfast.errors import InputWarning
from l2rfast.io import Volume, read_image, write_image
from l2rfast.methods import initial, kept, method, registration, several
from l2rfast.methods.discrete import convex
from l2rfast.methods.registration import Registration

QUICK: dict[str, Any] = {"iterations": 1, "coarse_iterations": 1, "full_iterations": 1}


def volumes(size: tuple[int, ...] = (20, 18, 24), count: int = 3) -> list[Volume]:
    return [Volume(one.image[0, 0], np.eye(4)) for one in anatomies(count, size)]


def fresh(volume: Volume) -> Volume:
    return replace(volume, data=volume.data.clone())


def same(one: Registration, other: Registration) -> bool:
    fields = torch.equal(one.displacement, other.displacement) and torch.equal(one.inverse, other.inverse)
    return fields and np.array_equal(one.initial.matrix, other.initial.matrix)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is made, in order."""
    seen: list[str] = []

    def watch(module: Any, name: str, label: Callable[..., str]) -> None:
        function = getattr(module, name)

        def watched(*arguments: Any, **more: Any) -> Any:
            seen.append(label(*arguments))
            return function(*arguments, **more)

        monkeypatch.setattr(module, name, watched)

    watch(method, "_prepared", lambda method, name, *rest: f"prepared {name}")
    watch(convex, "_searched", lambda compared, side, *rest: f"features {('fixed', 'moving')[side]}")
    watch(initial, "robust_range", lambda *image: "range")
    watch(registration, "filled", lambda volume: "filled")
    return seen


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((20, 18, 24), QUICK),
        ((40, 36), QUICK),
        ((20, 18, 24), QUICK | {"refine_spacing": 1, "metric": "mi"}),
    ],
)
def test_in_a_loop_as_alone(size: tuple[int, ...], options: dict[str, Any]) -> None:
    fixed, *moving = volumes(size)
    before = fixed.data.clone()
    alone = [l2rfast.register(fresh(fixed), fresh(one), **options) for one in moving]
    for k in (0, 1, 0):
        assert same(l2rfast.register(fixed, moving[k], **options), alone[k])
    assert torch.equal(fixed.data, before)


def test_what_is_made_of_fixed_is_made_once(made: list[str]) -> None:
    fixed, *moving = volumes()
    of_fixed = ["prepared fixed", "features fixed"]
    for one in moving:
        l2rfast.register(fixed, one, **QUICK)
    assert [made.count(one) for one in of_fixed] == [1, 1]
    assert made.count("features moving") == 2
    assert made.count("range") == 3
    l2rfast.register(fixed, moving[0], **QUICK, mind_radius=2)  # of the same image other features
    assert [made.count(one) for one in of_fixed] == [1, 2]
    l2rfast.register(moving[0], fixed, **QUICK)
    l2rfast.register(fixed, moving[0], **QUICK)
    assert [made.count(one) for one in of_fixed] == [3, 4]


def test_an_image_that_was_changed_in_place_is_another() -> None:
    fixed, moving, other = volumes()
    first = l2rfast.register(fixed, moving, **QUICK)
    fixed.data.numpy()[:] = other.data.numpy()  # of which PyTorch does not know
    found = l2rfast.register(fixed, moving, **QUICK)
    assert same(found, l2rfast.register(fresh(other), moving, **QUICK))
    assert not same(found, first)


def test_each_mask_makes_another_image_of_it(made: list[str]) -> None:
    fixed, moving, _ = volumes()
    masks = [torch.zeros(fixed.data.shape, dtype=torch.bool) for _ in range(2)]
    masks[0][4:16, 4:15], masks[1][2:12, 3:14, 5:] = True, True
    for mask in masks:
        expected = l2rfast.register(fresh(fixed), moving, fixed_mask=mask, **QUICK)
        made.clear()
        for _ in range(2):
            assert same(l2rfast.register(fixed, moving, fixed_mask=mask, **QUICK), expected)
        assert made.count("prepared fixed") == 1
        assert made.count("filled") == 3


def test_nothing_is_kept_longer_than_the_volume() -> None:
    fixed, moving, _ = volumes()
    found = l2rfast.register(fixed, moving, **QUICK)
    assert list(kept._LAST) == [fixed]
    del fixed
    gc.collect()
    assert not kept._LAST
    l2rfast.register(found.fixed.data, moving, **QUICK)  # nor of anything else
    assert not kept._LAST


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is read."""
    seen: list[str] = []
    whole = several.counted

    def counted(name: str, *rest: Any, **more: Any) -> Volume:
        seen.append(name)
        return whole(name, *rest, **more)

    monkeypatch.setattr(several, "counted", counted)
    monkeypatch.setattr(several, "_LAST", {})
    return seen


def test_a_file_is_read_once_until_it_changes(
    read: list[str], made: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / f"{name}.nii" for name in "abc"]
    for path, volume in zip(paths, volumes(), strict=True):
        write_image(path, volume)

    def results(k: int) -> bytes:
        run(paths[0], paths[k], tmp_path / "out", quiet=True, **QUICK)
        return b"".join((tmp_path / "out" / f"{name}.nii.gz").read_bytes() for name in ("warped", "displacement"))

    monkeypatch.setattr(overview, "draw_overview", lambda file, *rest: file.touch())  # which takes longer than all else
    found = [results(k) for k in (1, 2)]
    assert read.count("FIXED") == made.count("prepared fixed") == made.count("features fixed") == 1
    several._LAST.clear()
    assert results(2) == found[1]
    write_image(paths[0], read_image(paths[2]))
    assert results(1) != found[0]
    assert read.count("FIXED") == made.count("prepared fixed") == 3


def test_what_is_noticed_of_a_file_is_said_each_time(read: list[str], tmp_path: Path) -> None:
    volume = volumes()[0]
    aside = replace(volume, affine=np.eye(4) + 4 * np.eye(4, k=3))
    both = [tmp_path / "a.nii", tmp_path / "b.nii"]
    for path, one in zip(both, (volume, aside), strict=True):
        write_image(path, one)
    found = []
    for _ in range(2):
        with pytest.warns(InputWarning, match="FIXED, contrast 2: covers 80 %"):
            found.append(several.read_once("FIXED", both, "--fixed-mask", None, nan_outside=False))
    assert found[0] is found[1]
    assert len(read) == 2


def test_a_mask_that_changes_and_formats_of_several_files_are_read_again(read: list[str], tmp_path: Path) -> None:
    volume = volumes()[0]
    paths = [tmp_path / name for name in ("a.nii.gz", "mask.nii")]

    def found(path: Path = paths[0], mask: Path | None = paths[1]) -> Volume:
        return several.read_once("FIXED", [path], "--fixed-mask", mask, nan_outside=False)

    write_image(paths[0], volume)
    for least in (0.2, 0.5):
        inside = volume.data > least
        write_image(paths[1], replace(volume, data=inside.to(torch.uint8)))
        for _ in range(2):
            mask = found().mask
            assert mask is not None
            assert torch.equal(mask, inside)
    assert len(read) == 2
    assert found(mask=None).mask is None
    itk = tmp_path / "a.mha"
    formats.sitk.WriteImage(formats.itk_image(volume.data.numpy()), str(itk))
    assert found(itk, None) is not found(itk, None)
    assert len(read) == 5
