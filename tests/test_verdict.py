"""The verdict on a registration: what its measures say, and no more."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import l2rfast
from l2rfast.cli.report import Report
from l2rfast.cli.verdict import BAD, BARELY, CLOSE, COVERED, FARTHER, FOLDED, GOOD, LOOK, LOOSE, LOST, MEASURE, MISSED
from l2rfast.methods.contrast import DARK, association

FINE: dict[str, Any] = {
    "inputs": {},
    "options": {"metric": "lncc"},
    "seed": 0,
    "backend": "",
    "seconds": {},
    "peak_memory_mb": 0.0,
    "similarity": {MEASURE: (0.6, 0.95)},
    "covered_percent": 98.0,
    "folding_percent": 0.0,
    "digital_folding_percent": 0.0,
    "log_jacobian_std": 0.1,
    "inverse_residual": 0.02,
}


def report(**changes: Any) -> Report:
    return Report(**{**FINE, **changes})


def test_where_all_is_well_it_says_that_nothing_speaks_against_it() -> None:
    verdict = report().verdict
    assert verdict.level == GOOD
    assert verdict.lines == (
        "Aligned? Nothing measured speaks against it: correlation ratio 0.95, 0.60 before, over the 98 % of FIXED that "
        "MOVING covers.",
        "Folds? None: the map is one to one; there and back misses by 0.02 voxels on average.",
        "Look at overview.png: outlines and inner borders in FIXED and the warped image.",
    )


@pytest.mark.parametrize(
    ("changes", "level", "said"),
    [
        ({"similarity": {MEASURE: (0.6, CLOSE - 0.01)}}, LOOK, "The measures cannot tell"),
        ({"covered_percent": COVERED - 1}, LOOK, "The measures cannot tell"),
        ({"covered_percent": 5.0}, BAD, "MOVING covers hardly any of FIXED"),
        ({"covered_percent": 0.0, "similarity": {MEASURE: (math.nan, math.nan)}}, BAD, "hardly anything to compare"),
        ({"similarity": {MEASURE: (0.1, 0.4)}}, BAD, "hardly go together"),
        # Of two contrasts no function need say one by the other.
        ({"similarity": {MEASURE: (0.1, 0.4)}, "options": {"metric": "mind"}}, LOOK, "cannot tell"),
        ({"similarity": {MEASURE: (0.1, 0.4)}, "options": {"metric": ("lncc", "mind")}}, LOOK, "cannot tell"),
        ({"similarity": {MEASURE: (0.1, 0.4)}, "options": {}}, LOOK, "cannot tell"),
        ({"similarity": {MEASURE: (0.98, 0.95)}}, BAD, "go together less than before"),
        ({"dice": {1: (0.8, 0.7), 2: (0.8, 0.7)}}, BAD, "labels overlap less than before (Dice 0.7, 0.8 before)"),
        ({"tre": {"a": (2.0, 3.0)}}, BAD, "landmarks are farther apart (mm: 3, 2 before)"),
        ({"tre": {"a": (3.0, 2.0)}, "landmarks": "guiding"}, GOOD, "landmarks are 2 mm apart (guiding), 3 before"),
    ],
)
def test_aligned(changes: dict[str, Any], level: str, said: str) -> None:
    verdict = report(**changes).verdict
    assert verdict.level == level
    assert said in verdict.aligned


@pytest.mark.parametrize(
    ("changes", "level", "said"),
    [
        ({"digital_folding_percent": 0.01}, LOOK, "0.01 % of the voxels, where the map is not one to one"),
        ({"digital_folding_percent": 1.0}, BAD, "1 % of the voxels"),
        ({"inverse_residual": 0.7}, LOOK, "misses by 0.7 voxels"),
    ],
)
def test_folds(changes: dict[str, Any], level: str, said: str) -> None:
    verdict = report(**changes).verdict
    assert verdict.level == level
    assert said in verdict.folds


def test_it_says_where_to_look() -> None:
    found = report(
        digital_folding_percent=1.0,
        covered_percent=40.0,
        dice={2: (0.1, 0.3), 17: (0.1, 0.2), 3: (0.1, 0.9), 4: (math.nan, math.nan)},
        tre={"a": (3.0, 1.0), "b": (3.0, 2.5)},
        warnings=["one", "two"],
    ).verdict.look
    assert "the folds" in found
    assert "the border of MOVING" in found
    assert "label 17 (Dice 0.20), the worst of 2" in found
    assert "landmark b (2.5 mm)" in found
    assert "the 2 warnings" in found


def test_it_is_in_the_reports() -> None:
    found, text = report().content(), report().markdown()
    assert (found["verdict"], found["verdict_level"]) == ([*report().verdict.lines], GOOD)
    assert all(line in text for line in report().verdict.lines)


def test_the_correlation_ratio_asks_for_no_contrast() -> None:
    generator = torch.Generator().manual_seed(0)
    image = l2rfast.box_average(torch.rand(1, 1, 24, 24, 24, generator=generator), 2)[0, 0]
    other = l2rfast.box_average(torch.rand(1, 1, 24, 24, 24, generator=generator), 2)[0, 0]
    middle = float(image.mean())
    assert association(image, 5 - 3 * image) > 0.99
    assert association(image, (image - middle).square()) > 0.95
    assert association(image, other) < 0.4
    assert math.isnan(association(image, torch.zeros_like(image)))
    assert np.isnan(association(image[:2, :2, :2], other[:2, :2, :2]))


def test_the_page_has_the_thresholds() -> None:
    page = (Path(__file__).parent.parent / "docs" / "concepts" / "6-verdict.md").read_text()
    for text in (
        f"| the correlation ratio is less than before | by more than {LOST} |",
        f"(`lncc`, `ssd`) | below {LOOSE} |",
        f"there is nothing to compare | below {BARELY:g} % |",
        f"the labels is less than before | by more than {LOST} |",
        f"than before, on average | by more than {100 * (FARTHER - 1):.0f} % |",
        f"| folds | more than {FOLDED} % of the voxels |",
        f"| correlation ratio after | at least {CLOSE} |",
        f"| covered | at least {COVERED:g} % |",
        f"| there and back | at most {MISSED} voxels |",
        f"above {100 * DARK:g} % of its range",
    ):
        assert text in page


def test_the_page_has_the_counts_of_the_report() -> None:
    root = Path(__file__).parent.parent
    outcomes = json.loads((root / "bench" / "reports" / "verdict.json").read_text())["outcomes"]
    page = (root / "docs" / "concepts" / "6-verdict.md").read_text()
    assert f"| of {len(outcomes)} | `good` | `look` | `bad` |" in page
    for name, aligned in (("aligned", True), ("not aligned", False)):
        counts = Counter(one["level"] for one in outcomes if one["aligned"] == aligned)
        assert f"| {name} | {counts[GOOD]} | {counts[LOOK]} | {counts[BAD]} |" in page
    good = [one for one in outcomes if one["level"] == GOOD]
    misses = [one for one in good if not one["aligned"]]
    assert f"Of {len(good)} verdicts `good` {len(misses)} are misses" in page
    assert all(one["kind"].startswith("generated") for one in misses)
    other = [one for one in misses if "another anatomy" in one["kind"]]
    assert f"{len(other)} of another anatomy" in page
    new = [one for one in good if not one["chosen_on"]]
    assert f"before {sum(not one['aligned'] for one in new)} of {len(new)} are" in page.replace("\n  ", " ")
