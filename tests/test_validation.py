"""What training is judged by: the score of a run, where pairs for validation have other measures each."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from runs import events, partly, rows, train
from safetensors import safe_open

import l2rfast
from l2rfast.errors import InputWarning
from l2rfast.methods.training.cases import find_pairs, read
from l2rfast.methods.training.options import TrainerOptions
from l2rfast.methods.training.run import Description
from l2rfast.methods.training.trainer import train as run
from l2rfast.methods.unsupervised.training import TrainingOptions, UnsupervisedTask


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    datasets.write(folder, 4, (30, 26))
    return folder


def held_out(data: Path, out: Path, *options: str) -> tuple[int, str]:
    return train(data, out, "--hold-out=3", "--steps=4", "--every=2", *options)


def test_labels_of_some_scans_for_validation(tmp_path: Path) -> None:
    """Dice is the mean over the pairs that have one, as measured pair by pair, and the score."""
    data = partly(tmp_path / "scans", labelled=(2, 3), landmarks=(2, 4))
    code, error = held_out(data, tmp_path / "run")
    assert code == 0
    assert error.splitlines() == [
        "l2rfast: warning: --data: no labels of case0, case1, case4, but of others",
        "l2rfast: warning: --data: the score is DSC, of 2 of 6 validation pairs",
    ]
    with (tmp_path / "run" / "validation.csv").open() as stream:
        assert next(csv.reader(stream))[:2] == ["step", "DSC"]
    first = rows(tmp_path / "run", "validation")[0]
    with pytest.warns(InputWarning):
        pairs = find_pairs(data, hold_out=3)
    scans = [[read(case) for case in (pair.fixed, pair.moving)] for pair in pairs.validation]
    scores = [
        np.mean([*l2rfast.metrics.dice(a.labels.data, b.labels.data).values()])
        for a, b in scans
        if a.labels is not None and b.labels is not None
    ]
    assert len(scores) == 2
    assert first["DSC"] == pytest.approx(np.mean(scores), abs=1e-3)
    assert first["TRE_lm"] == pytest.approx(2, abs=1e-3)  # of the landmarks, two voxels apart
    assert first["similarity"] > 0


@pytest.mark.parametrize(
    ("options", "score"),
    [
        ({"labelled": (0, 1)}, "similarity"),
        ({"landmarks": (3, 4)}, "TRE_lm"),
        ({"empty": (2, 3, 4)}, "similarity"),
        ({"labelled": range(5), "empty": (4,), "landmarks": (2, 3)}, "DSC"),
        ({"labelled": range(5), "landmarks": (2, 3)}, "DSC"),
    ],
)
def test_the_score_is_of_one_kind_and_there_are_weights(options: dict[str, Any], score: str, tmp_path: Path) -> None:
    code, error = held_out(partly(tmp_path / "scans", **options), tmp_path / "run")
    assert code == 0
    assert ("as DSC is not defined for any" in error) == (options.keys() == {"empty"})
    with (tmp_path / "run" / "validation.csv").open() as stream:
        assert next(csv.reader(stream))[1] == score
    assert all(math.isfinite(row[score]) for row in rows(tmp_path / "run", "validation"))
    assert (tmp_path / "run" / "weights.safetensors").exists()
    with safe_open(tmp_path / "run" / "checkpoint.safetensors", "pt") as opened:
        assert json.loads(opened.metadata()["run"])["score"] == score


class Told(UnsupervisedTask):
    """Measures what it is told, one list of pairs after another."""

    told: Iterator[list[dict[str, float]]]
    validations = 2

    def validate(self, index: int) -> dict[str, float]:
        if index == 0:
            self.now = next(self.told)
        return self.now[index]


def run_told(scans: Path, out: Path, told: list[list[dict[str, float]]], patience: int = 0) -> list[int]:
    """Of which steps the weights were saved."""
    trainer = TrainerOptions(steps=len(told) - 1, every=1, patience=patience)
    pairs = find_pairs(scans, hold_out=2)
    options = TrainingOptions(encoder=(4, 4), decoder=(4, 4, 4, 4))
    learner, saved = Told(pairs, options, trainer), []
    learner.told = iter(told)
    learner.save = lambda folder: saved.append(len(rows(folder, "validation")) - 1)  # type: ignore[method-assign]
    learner.validations = 2
    described = Description.of("told", scans, pairs.identity(), options, trainer)
    run(learner, out, trainer, described=described, device=torch.device("cpu"))
    return saved


NAN = float("nan")


def test_what_is_not_defined_is_no_worse(scans: Path, tmp_path: Path) -> None:
    """Until there is a score the last weights are kept, and patience does not run out."""
    nothing = [{"DSC": NAN, "similarity": NAN}] * 2
    with pytest.warns(InputWarning, match="the score is DSC, of 0 of 2 validation pairs"):
        assert run_told(scans, tmp_path / "a", [nothing] * 5, patience=2) == [0, 1, 2, 3, 4]
    some = [[{"DSC": NAN}, {"DSC": score}] for score in (0.5, 0.4, 0.6, 0.3, 0.2)]
    with pytest.warns(InputWarning, match="the score is DSC, of 1 of 2 validation pairs"):
        saved = run_told(scans, tmp_path / "b", [some[0], some[1], nothing, some[2], nothing, some[3], some[4]], 2)
    assert saved == [0, 3]
    assert [row["DSC"] for row in rows(tmp_path / "b", "validation")] == pytest.approx(
        [0.5, 0.4, NAN, 0.6, NAN, 0.3, 0.2], nan_ok=True
    )
    assert not [
        value
        for event in events(tmp_path / "b" / "tensorboard")
        for value in event.summary.value
        if value.tag == "validation/DSC" and not math.isfinite(value.simple_value)
    ]


def test_of_distances_the_smaller_is_better(scans: Path, tmp_path: Path) -> None:
    errors = [[{"TRE_lm": error, "similarity": -error}, {"TRE_lm": error}] for error in (3.0, 2.0, 4.0, 1.0)]
    assert run_told(scans, tmp_path / "a", errors) == [0, 1, 3]


def test_measures_that_come_later_have_a_column(scans: Path, tmp_path: Path) -> None:
    run_told(scans, tmp_path, [[{"DSC": 0.5}] * 2, [{"DSC": 0.6, "TRE_kp": 2.0}] * 2])
    found = rows(tmp_path, "validation")
    assert [row["DSC"] for row in found] == [0.5, 0.6]
    assert [row["TRE_kp"] for row in found] == pytest.approx([NAN, 2.0], nan_ok=True)
