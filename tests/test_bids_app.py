"""A cohort of a BIDS data set, called as a BIDS app is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from l2rfast.cli import bids_app, crew
from l2rfast.methods.cohort.study import Study
from l2rfast.methods.cohort.workers import Team


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two subjects, slices alike."""
    pixels = np.add.outer(np.arange(20.0), np.arange(18.0) ** 2)[..., None]
    for name in ("01", "02"):
        folder = tmp_path / f"data/sub-{name}/anat"
        folder.mkdir(parents=True)
        nib.save(nib.Nifti1Image(pixels, np.eye(4)), folder / f"sub-{name}_T1w.nii.gz")
    (tmp_path / "data/dataset_description.json").write_text("{}")
    return tmp_path / "data"


def called(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        bids_app.main(list(map(str, words)))
    code = ended.value.code
    assert isinstance(code, int)
    return code


@contextmanager
def here(workers: int) -> Iterator[Team]:
    """In this process."""
    yield lambda work, lines: ((id, work(words)) for id, words in lines.items())


def test_participants_are_tasks_of_one_study_and_the_group_sums_up(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "processes", here)
    out, fixed = tmp_path / "out", root / "sub-01/anat/sub-01_T1w.nii.gz"
    options = (f"--fixed={fixed}", "--preset=fast", "--init=none", "--quiet")
    assert called(root, out, "participant", "--participant_label", "02", *options) == 0
    assert [Study(out).finished(f"sub-{name}") for name in ("01", "02")] == [False, True]
    told = json.loads((out / "dataset_description.json").read_text())
    assert told["DatasetType"] == "derivative"
    assert told["GeneratedBy"] == [{"Name": "l2rfast", "Version": metadata.version("l2rfast")}]
    assert called(root, out, "group", *options) == 0
    rows = (out / "summary.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in rows[1:]] == [["sub-01", "finished"], ["sub-02", "finished"]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("participant", "--participant-label", "03"), "--bids-participant: expected a subject that a pair moves, got"),
        (("group", "--participant-label", "01"), "--participant-label: of the level participant, got it with group"),
        (("participant", "--out=elsewhere"), "--out: expected it not to be given, as output_dir says"),
        (("session",), "invalid choice: 'session'"),
        (("participant", "--no-such"), "No such option: --no-such"),
    ],
)
def test_what_it_cannot_do_is_said(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    fixed = f"--fixed={root / 'sub-01/anat/sub-01_T1w.nii.gz'}"
    assert called(root, tmp_path / "out", *words, fixed) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
