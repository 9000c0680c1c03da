"""The benchmark over scans of many kinds: what a registration is worth, and the report."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import pairs, scans
from bench.runs import Taken
from bench.scans import Result, Survey
from bench.tools import ACCURATE, DEFAULT, FAST, GREEDY_AFFINE, LEARNED, MIND, MUTUAL, OTHERS, TOOLS, Fields
from l2rfast import InputError
from l2rfast.io import Volume

SHAPE = (6, 8, 7)


def shift(*by: float) -> torch.Tensor:
    return torch.tensor(by, dtype=torch.float32)[None, :, None, None, None].expand(1, 3, *SHAPE).contiguous()


def volume(affine: np.ndarray | None = None) -> Volume:
    return Volume(torch.rand(SHAPE), np.eye(4) if affine is None else affine)


def test_labels_are_scored_where_the_map_and_the_field_take_them() -> None:
    labels = torch.zeros(SHAPE, dtype=torch.int32)
    labels[2:4, 2:5, 2:4] = 7
    labels[0, 0, 0] = 9  # of one of them alone
    matrix = np.eye(4)
    matrix[0, 3] = 1
    fixed, moving, score = pairs.labelled(volume(), volume(), (labels.roll((-1, -1), (0, 1)) == 7).int() * 7, labels)
    assert score(scans.registration(fixed, moving, Fields(shift(0, 1, 0), shift(0, -1, 0), matrix))) == 1
    assert score(scans.registration(fixed, moving, Fields(shift(0, 0, 0), None, matrix))) == pytest.approx(2 / 3)


def test_points_are_scored_in_the_unit_that_is_asked_for() -> None:
    spacing = np.diag([2.0, 3.0, 0.5, 1])
    points = torch.tensor([[1.0, 2, 3], [3, 1, 2]])
    pair = pairs.placed(volume(spacing), volume(spacing), points, points + torch.tensor([0, 1.0, 0]), spacing[:3, :3])
    assert pair.score(scans.registration(pair.fixed, pair.moving, Fields(shift(0, 0, 0)))) == pytest.approx(3)
    assert pair.score(scans.registration(pair.fixed, pair.moving, Fields(shift(0, 1, 2)))) == pytest.approx(1)


def test_the_field_that_made_an_anatomy_is_right() -> None:
    ((_, pair),) = pairs.generated(1, size=24, seeds=1)
    _, subject = pairs.anatomies(2, (24, 24, 24), seed=0)
    nothing = torch.zeros_like(subject.displacement)
    off = pair.score(scans.registration(pair.fixed, pair.moving, Fields(nothing)))
    assert pair.score(scans.registration(pair.fixed, pair.moving, Fields(subject.displacement))) < 1e-5
    assert off > 0.5


def test_contrasts_are_tried_with_the_metrics_for_them() -> None:
    plain, contrasts = pairs.SETS["brain-malf"], pairs.SETS["spine"]
    assert scans.methods_of("brain-malf", plain) == [FAST, DEFAULT, ACCURATE, LEARNED, GREEDY_AFFINE]
    assert scans.methods_of("spine", contrasts) == [FAST, DEFAULT, ACCURATE, LEARNED, MIND, MUTUAL]
    assert LEARNED not in scans.methods_of("histology-2d", pairs.SETS["histology-2d"])
    assert {MIND, MUTUAL, GREEDY_AFFINE, FAST} <= (TOOLS | OTHERS).keys()


def result() -> Result:
    return Result(0.3, 0.4, 0.5, 0.0, 0.02, Taken(2.0, 3.0, 0.0, None, None, "avx2"))


def test_the_report_has_means_and_the_worst_and_is_read_again(tmp_path: Path) -> None:
    other = replace(result(), score=0.7, folded_percent=0.25, inverse_residual=None)
    survey = Survey("2026-01-01", {"cpu": "x"}, {}, {"spine": {FAST: {"one": result(), "two": other}}}, {"a": "b"})
    text = survey.write(tmp_path).read_text()
    row = f"| spine | {FAST} | 2 | Dice | 0.3000 | 0.4000 | 0.6000 | 0.5000 | 0.2500 | 0.0200 | 2.00 | 3.00 |"
    assert row in text
    assert "Skipped: a (b)." in text
    assert f"; spine, {DEFAULT}; " in text.partition("Not measured yet: ")[2]
    assert asdict(Survey.restored(json.loads((tmp_path / "scans.json").read_text()))) == asdict(survey)


def test_what_is_missing_is_measured_and_a_refusal_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def measured(name: str, method: str, threads: int) -> dict[str, Result]:
        asked.append(method)
        if method == MUTUAL:
            raise InputError("metric: no such")
        if method == GREEDY_AFFINE:
            raise ModuleNotFoundError("No module named 'picsl_greedy'")
        return {"one": result()}

    monkeypatch.setattr(scans, "measured", measured)
    monkeypatch.setattr(scans, "SETS", {name: pairs.SETS[name] for name in ("brain-malf", "spine")})
    busy = replace(result(), taken=replace(result().taken, others=0.5))
    Survey(sets={"spine": {FAST: {"one": result()}, DEFAULT: {"one": result(), "two": busy}}}).write(tmp_path)
    assert scans.main(["--out", str(tmp_path)]) == 1  # ours refused
    assert asked == [FAST, DEFAULT, ACCURATE, LEARNED, GREEDY_AFFINE, DEFAULT, ACCURATE, LEARNED, MIND, MUTUAL]
    content = json.loads((tmp_path / "scans.json").read_text())
    assert list(content["sets"]) == ["brain-malf", "spine"]
    assert list(content["sets"]["spine"]) == [FAST, DEFAULT, ACCURATE, LEARNED, MIND]
    assert set(content["skipped"]) == {f"spine, {MUTUAL}", f"brain-malf, {GREEDY_AFFINE}"}
    asked.clear()
    assert scans.main(["--out", str(tmp_path), "--only", "spine", "--method", DEFAULT]) == 0
    assert asked == [DEFAULT]
