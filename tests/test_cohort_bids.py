"""Cohorts of BIDS data sets."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from l2rfast.errors import InputError, InputWarning
from l2rfast.methods.cohort.bids import find_pairs

Made = Callable[..., Path]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    def make(*names: str) -> Path:
        """A data set of files that are empty, written in any order."""
        (tmp_path / "dataset_description.json").write_text("{}")
        for name in random.Random(0).sample(names, len(names)):
            file = tmp_path.joinpath(*(part for part in name.split("_") if part[:4] in ("sub-", "ses-")), "anat", name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        return tmp_path

    return make


def names(root: Path, **options: str) -> dict[str, tuple[str, ...]]:
    """By id: the names of moving, and of fixed where it is told."""
    pairs = find_pairs("PAIRS", root, **options)
    assert all(Path(file).is_file() for pair in pairs for files in pair.options.values() for file in files)
    return {
        pair.id: tuple(Path(pair.options[k][0]).name for k in ("moving", "fixed") if k in pair.options)
        for pair in pairs
    }


TWO = ("sub-01_ses-10_T1w.nii.gz", "sub-01_ses-9_T1w.nii.gz", "sub-02_ses-9_T1w.nii.gz", "sub-02_ses-10_T1w.nii.gz")


def test_every_image_to_a_template(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    root = made("sub-10_T1w.nii.gz", "sub-9_run-1_T1w.nii", "sub-9_run-2_T1w.nii", "sub-9_T2w.nii", "sub-9_T1w.json")
    (root / "sub-9" / "anat" / "._sub-9_T1w.nii.gz").touch()  # macOS's
    (root / "derivatives" / "sub-9" / "anat").mkdir(parents=True)
    (root / "derivatives" / "sub-9" / "anat" / "sub-9_T1w.nii.gz").touch()
    every = {
        "sub-9_run-1": ("sub-9_run-1_T1w.nii",),
        "sub-9_run-2": ("sub-9_run-2_T1w.nii",),
        "sub-10": ("sub-10_T1w.nii.gz",),
    }
    assert list(names(root).items()) == list(every.items())
    assert names(root, suffix="T2w") == {"sub-9": ("sub-9_T2w.nii",)}
    pairs = find_pairs("PAIRS", root)
    assert pairs[2].where == pairs[2].options["moving"][0] == str(root / "sub-10" / "anat" / "sub-10_T1w.nii.gz")
    monkeypatch.chdir(root)
    assert find_pairs("PAIRS", Path()) == pairs


def test_later_sessions_to_the_first(made: Made) -> None:
    root = made(*TWO, "sub-01_ses-11_acq-a_T1w.nii.gz", "sub-01_ses-11_T1w.nii.gz")
    with pytest.warns(InputWarning, match=r"^PAIRS: .* differs in ses- alone: sub-01_ses-11_acq-a_T1w\.nii\.gz$"):
        found = names(root, pairs="sessions")
    assert found == {
        "sub-01_from-ses10_to-ses9": ("sub-01_ses-10_T1w.nii.gz", "sub-01_ses-9_T1w.nii.gz"),
        "sub-01_from-ses11_to-ses9": ("sub-01_ses-11_T1w.nii.gz", "sub-01_ses-9_T1w.nii.gz"),
        "sub-02_from-ses10_to-ses9": ("sub-02_ses-10_T1w.nii.gz", "sub-02_ses-9_T1w.nii.gz"),
    }


def test_any_two_subjects_once(made: Made) -> None:
    root = made(*(f"sub-{i}_FLAIR.nii.gz" for i in range(1, 5)))
    found = find_pairs("PAIRS", root, suffix="FLAIR", pairs="all")
    assert [pair.id for pair in found] == [
        f"from-sub{b}_to-sub{a}" for a, b in ((1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4))
    ]
    assert list(names(made(*TWO), pairs="all").values()) == [
        ("sub-02_ses-9_T1w.nii.gz", "sub-01_ses-9_T1w.nii.gz"),
        ("sub-02_ses-10_T1w.nii.gz", "sub-01_ses-10_T1w.nii.gz"),
    ]


def test_links_to_what_is_not_here_are_images(made: Made) -> None:
    root = made("sub-1_T1w.nii.gz")
    (root / "sub-1" / "anat" / "sub-1_T1w.nii.gz").unlink()
    (root / "sub-1" / "anat" / "sub-1_T1w.nii.gz").symlink_to(".git/annex/objects/x")
    assert [pair.id for pair in find_pairs("PAIRS", root)] == ["sub-1"]


def test_no_description_is_said(made: Made) -> None:
    root = made("sub-1_T1w.nii.gz")
    (root / "dataset_description.json").unlink()
    with pytest.warns(InputWarning, match=f"no dataset_description.json in {root}"):
        find_pairs("PAIRS", root)


@pytest.mark.parametrize(
    ("files", "options", "said"),
    [
        ((), {}, "PAIRS: expected a BIDS data set, .*found none in {}$"),
        (("sub-1_T2w.nii", "sub-1_FLAIR.nii.gz"), {}, r"--bids-suffix: .* in {} have \(FLAIR, T2w\), got 'T1w'$"),
        (("sub-1_T2w.nii",), {"suffix": "*"}, r"--bids-suffix: .* in {} have \(T2w\), got '\*'$"),
        (("sub-1_T1w.nii",), {"pairs": "both"}, "--bids-pairs: expected one of template, sessions, all, got 'both'$"),
        (
            ("sub-1_T1w.nii", "sub-1_T1w.nii.gz"),
            {},
            "expected an id of its own, got 'sub-1' as {}/sub-1/anat/sub-1_T1w",
        ),
        (("sub-1_ses-1_T1w.nii",), {"pairs": "sessions"}, "differ in ses- alone in {}, got sub-1_ses-1_T1w.nii$"),
        (("sub-1_T1w.nii",), {"pairs": "all"}, "differ in sub- alone in {}, got sub-1_T1w.nii$"),
        (("sub-1_x y_T1w.nii",), {}, "expected an id of letters.*, got 'sub-1_x y'$"),
    ],
)
def test_what_is_refused(files: tuple[str, ...], options: dict[str, str], said: str, made: Made) -> None:
    root = made(*files)
    with pytest.raises(InputError, match=said.replace("{}", str(root))):
        find_pairs("PAIRS", root, **options)
