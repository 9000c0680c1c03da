"""The benchmark of the verdict: what is taken for right, and how its page counts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bench import verdict
from bench.verdict import Outcome


def test_a_pair_is_right_where_its_truth_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict, "SIZES", ((32, 32),))
    monkeypatch.setattr(verdict, "NEAR", 1.0)
    whole, half, other, *_ = verdict.generated()
    assert whole.right is not None
    assert half.right is not None
    assert other.right is None
    found, still = verdict.outcomes(whole)
    assert (found.kind, still.kind) == ("generated, 1 contrast", "generated, 1 contrast, not registered")
    assert found.aligned
    assert not still.aligned
    assert found.after > found.before
    assert still.after == still.before
    (wrong,) = verdict.outcomes(other)
    assert not wrong.aligned


def test_half_of_a_template_has_its_places_where_they_were() -> None:
    template, subject = verdict.anatomies(2, (32, 32), seed=0)
    affine = torch.eye(4).double().numpy()
    affine[0, 3] = 16
    fixed = verdict.Volume(subject.image[0, 0], torch.eye(4).double().numpy())
    moving = verdict.Volume(template.image[0, 0, 16:].clone(), affine)
    true = verdict.Registration(subject.displacement, subject.displacement, fixed, moving, {}, {})
    right = verdict.near(subject, 16)
    assert right(true)
    assert not right(replace(true, displacement=subject.displacement + 5))


def test_the_page_counts_misses_and_false_alarms() -> None:
    def one(aligned: bool, level: str, chosen: bool = True) -> Outcome:
        return Outcome("heads", "", chosen, aligned, level, 0.5, 0.9, 100.0)

    levels = [one(True, "good"), one(True, "bad"), one(False, "good"), one(False, "look"), one(False, "good")]
    page = "\n\n".join(verdict.paragraphs([*levels, one(True, "look", chosen=False)]))
    lines = [line for line in page.splitlines() if line.startswith("| heads")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert rows[0] == ["heads", "5", "2", "0.90 to 0.90", "1", "0", "1", "2", "1", "0", "2", "1"]
    assert rows[1] == ["heads", "1", "1", "0.90 to 0.90", "0", "1", "0", "0", "0", "0", "0", "0"]
