"""Statistics of log Jacobians over a cohort, against NumPy's."""

import errno
import math
import weakref
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor

from l2rfast import InputError
from l2rfast.io import Volume, read_grid, write_image
from l2rfast.methods.cohort import jacobians
from l2rfast.methods.cohort.jacobians import FILES, write_jacobians
from l2rfast.methods.cohort.listed import Listed
from l2rfast.methods.cohort.study import Study

SHAPE = (5, 4, 6)
AFFINE = np.array([[-1.5, 0, 0.1, 9], [0, 1.25, 0, -4], [0.1, 0, 2, 7], [0, 0, 0, 1]])


def listed(ids: str) -> list[Listed]:
    return [Listed(id, {}, "pairs.csv") for id in ids]


def finish(study: Study, id: str, data: Tensor | None, affine: np.ndarray = AFFINE, flat: int | None = None) -> None:
    study.pair(id).mkdir(parents=True)
    if data is not None:
        write_image(study.pair(id) / "jacobian.nii.gz", Volume(data, affine, flat=flat))
    (study.pair(id) / "report.json").write_text("{}")


def values(study: Study) -> list[np.ndarray]:
    images: list[Any] = [nib.load(study.folder / name) for name in FILES]  # type: ignore[attr-defined]
    assert [image.get_data_dtype() for image in images] == [np.float32, np.float32, np.int32]
    return [np.asarray(image.dataobj) for image in images]


def test_mean_deviation_and_count_are_of_the_finite(tmp_path: Path) -> None:
    study, data = Study(tmp_path), 0.2 * torch.randn(6, *SHAPE)
    data[2] = 0  # nothing moved
    data[1, 0] = data[:5, 1, 1] = data[:, 2, 2] = math.nan
    data[3, 3, 0] = -math.inf
    for id, image in zip("abcdef", data, strict=True):
        finish(study, id, image)
    study.failed("x", "no")
    write_jacobians(study, listed("abxcdefy"))
    mean, deviation, count = values(study)
    known = data.double().numpy()
    known[~np.isfinite(known)] = np.nan
    expected = np.isfinite(known).sum(0)
    assert set(expected.flatten()) == {0, 1, 5, 6}
    np.testing.assert_array_equal(count, expected)
    some, two = expected > 0, expected > 1
    np.testing.assert_allclose(mean[some], np.nanmean(known[:, some], axis=0), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(deviation[two], np.nanstd(known[:, two], axis=0, ddof=1), rtol=1e-6)
    assert np.isnan(mean[~some]).all()
    assert np.isnan(deviation[~two]).all()
    assert read_grid("mean", tmp_path / FILES[0]).agrees(read_grid("pair", study.pair("a") / "jacobian.nii.gz"))


def test_small_deviations_of_large_values_are_not_lost(tmp_path: Path) -> None:
    study, near = Study(tmp_path), 1000 + torch.arange(3.0).reshape(3, 1, 1, 1).expand(-1, *SHAPE) / 1024
    for id, image in zip("abc", near, strict=True):
        finish(study, id, image)
    write_jacobians(study, listed("abc"))
    mean, deviation, _ = values(study)
    np.testing.assert_array_equal(mean, np.float32(1000 + 1 / 1024))
    np.testing.assert_allclose(deviation, 1 / 1024, rtol=1e-6)


def test_bits_do_not_depend_on_who_finished_first(tmp_path: Path) -> None:
    data = dict(zip("abcd", torch.randn(4, *SHAPE), strict=True))
    written = []
    for folder, order in ((tmp_path / "one", "abcd"), (tmp_path / "other", "dbca")):
        study = Study(folder)
        for id in order:
            finish(study, id, data[id])
        write_jacobians(study, listed("abcd"))
        written.append([(folder / name).read_bytes() for name in FILES])
    assert written[0] == written[1]


@pytest.mark.parametrize(("flat", "shape"), [(None, (5, 4)), (1, (5, 1, 4))])
def test_slices_keep_their_form(tmp_path: Path, flat: int | None, shape: tuple[int, ...]) -> None:
    study = Study(tmp_path)
    for id in "ab":
        finish(study, id, torch.randn(5, 4), np.eye(4), flat)
    write_jacobians(study, listed("ab"))
    assert [image.shape for image in values(study)] == [shape] * 3


def test_one_image_is_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, alive = Study(tmp_path), []

    def find(*arguments: Any, **options: Any) -> Any:
        assert not [image for image in alive if image() is not None]
        source = found(*arguments, **options)
        alive.append(weakref.ref(source.data))
        return source

    found = jacobians.find
    monkeypatch.setattr(jacobians, "find", find)
    for id in "abc":
        finish(study, id, torch.randn(SHAPE))
    write_jacobians(study, listed("abc"))
    assert len(alive) >= 3


@pytest.mark.parametrize("other", ["shape", "affine"])
def test_two_grids_are_named(tmp_path: Path, other: str) -> None:
    study, moved = Study(tmp_path), AFFINE.copy()
    moved[0, 3] += 0.5
    finish(study, "a", torch.randn(SHAPE))
    finish(study, "b", torch.randn(SHAPE))
    finish(study, "c", *((torch.randn(5, 4, 7), AFFINE) if other == "shape" else (torch.randn(SHAPE), moved)))
    with pytest.raises(InputError, match=r"pairs/a/.*pairs/c/.*: expected log Jacobians on one grid, got shapes"):
        write_jacobians(study, listed("abc"))
    assert [path.name for path in tmp_path.iterdir()] == ["pairs"]


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    study = Study(tmp_path)
    study.failed("x", "no")
    with pytest.raises(InputError, match="expected finished pairs"):
        write_jacobians(study, listed("xy"))
    finish(study, "a", torch.randn(SHAPE))
    finish(study, "b", None)
    with pytest.raises(InputError, match=r"pairs/b/jacobian.nii.gz: expected a log Jacobian .* --jacobian"):
        write_jacobians(study, listed("ab"))
    (study.pair("b") / "jacobian.nii.gz").write_bytes((study.pair("a") / "jacobian.nii.gz").read_bytes()[:300])
    with pytest.raises(InputError, match=r"log Jacobian \(.*pairs/b/jacobian.nii.gz\)"):
        write_jacobians(study, listed("ab"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["errors", "pairs"]


def test_all_are_written_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study(tmp_path)
    finish(study, "a", torch.randn(SHAPE))
    (tmp_path / FILES[0]).write_text("old")

    def full(path: Path, volume: Volume) -> None:
        if path.name == FILES[2]:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_image(path, volume)

    monkeypatch.setattr(jacobians, "write_image", full)
    with pytest.raises(InputError, match="No space left"):
        write_jacobians(study, listed("a"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILES[0], "pairs"]
    assert (tmp_path / FILES[0]).read_text() == "old"
