"""The way to the formats of transforms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import l2rfast
from l2rfast import InputError
from l2rfast.world import Affine


def test_what_cannot_be_one_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        l2rfast.read_transform(tmp_path / "absent.tfm")
    with pytest.raises(InputError, match="initial: expected a path, got 3"):
        l2rfast.read_transform(3, name="initial")  # type: ignore[arg-type]
    (tmp_path / "a.txt").write_text("nothing of this kind")
    with pytest.raises(InputError, match=r"a.txt.: expected a transform of one of the formats .*elastix"):
        l2rfast.read_transform(tmp_path / "a.txt")
    with pytest.raises(InputError, match=r"format: expected one of .*elastix.*, got 'other'"):
        l2rfast.read_transform(tmp_path / "a.txt", format="other")


def test_a_file_that_can_mean_two_things_is_refused() -> None:
    """Four rows of four numbers are an affine map of greedy or of FSL's flirt, in other units."""
    file = Path(__file__).parent / "golden/greedy/affine.mat"
    with pytest.raises(InputError) as said:
        l2rfast.read_transform(file)
    assert "expected a file that can mean one thing only" in str(said.value)
    assert "greedy:affine.mat (an affine map of greedy" in str(said.value)
    assert "flirt:affine.mat (a linear map of FSL's FLIRT" in str(said.value)
    assert l2rfast.read_transform(file, format="greedy").matrix is not None


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a.png: expected a name that ends with .nii.gz or"):
        l2rfast.write_transform(tmp_path / "a.png", Affine(np.eye(4)))
    assert not list(tmp_path.iterdir())
