"""The table of a cohort: every pair's measures, and which stand out."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from l2rfast.cli.report import Report
from l2rfast.methods.cohort.listed import Listed
from l2rfast.methods.cohort.study import Study
from l2rfast.methods.cohort.summary import (
    FAILED,
    FINISHED,
    MEASURES,
    NOT_DONE,
    Row,
    measured,
    middle,
    summarised,
    write_csv,
)


def listed(id: str, fixed: tuple[str, ...] = ("/data/fixed.nii.gz",)) -> Listed:
    return Listed(id, {"fixed": fixed, "moving": (f"/data/{id}, 1.nii.gz",)}, "pairs.csv, line 2")


def finish(study: Study, id: str, **changes: Any) -> Path:
    """As ``l2rfast register`` does; the time, memory and threads are others each time."""
    values: dict[str, Any] = {
        "inputs": {},
        "options": {},
        "seed": 0,
        "backend": "cpp (avx2)",
        "seconds": {"reading": 0.1 * len(list(study.folder.rglob("*")))},
        "peak_memory_mb": 800.0 + len(list(study.folder.rglob("*"))),
        "similarity": {"correlation": (0.5, 0.9), "MSE": (0.25, 0.0123456789)},
        "covered_percent": 95.0,
        "folding_percent": 0.0,
        "digital_folding_percent": 0.0,
        "log_jacobian_std": 0.1,
        "inverse_residual": 0.02,
    }
    study.pair(id).mkdir(parents=True)
    Report(**{**values, **changes}).write_json(study.pair(id) / "report.json")
    return study.pair(id) / "report.json"


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_a_row_says_what_the_report_says(tmp_path: Path) -> None:
    study, nan = Study(tmp_path), math.nan
    finish(
        study,
        "a",
        dice={1: (0.5, 0.75), 2: (0.25, 0.5), 3: (nan, nan)},
        hd95={1: (4.0, 2.0), 2: (6.0, 3.0)},
        tre={"tip": (9.0, 1.0)},
        inverse_residual=nan,
        warnings=["one", "two"],
    )
    study.failed("b", "MOVING (x):\n  expected an image")
    rows = summarised(study, [listed("a", ("/t1.nii", "/t2.nii")), listed("b"), listed("c")])
    assert [(row.id, row.status, row.error) for row in rows] == [
        ("a", FINISHED, ""),
        ("b", FAILED, "MOVING (x): expected an image"),
        ("c", NOT_DONE, ""),
    ]
    assert (rows[0].fixed, rows[0].moving, rows[0].warnings) == ("/t1.nii; /t2.nii", "/data/a, 1.nii.gz", 2)
    assert {name: value for name, value in rows[0].values.items() if not math.isnan(value)} == {
        "correlation_before": 0.5,
        "correlation_after": 0.9,
        "mse_before": 0.25,
        "mse_after": 0.0123457,
        "dice_before": 0.375,
        "dice_after": 0.625,
        "hd95_before": 5.0,
        "hd95_after": 2.5,
        "tre_before": 9.0,
        "tre_after": 1.0,
        "folding_percent": 0.0,
        "digital_folding_percent": 0.0,
        "log_jacobian_std": 0.1,
    }
    assert middle(rows, "dice_after") == 0.625
    assert math.isnan(middle(rows, "inverse_residual"))
    write_csv(tmp_path / "summary.csv", rows)
    first, second, third = lines(tmp_path / "summary.csv")
    assert list(first) == [
        *("id", "status", "fixed", "moving"),
        *(f"{name}_{when}" for name in ("correlation", "mse", "dice", "hd95", "tre") for when in ("before", "after")),
        *("folding_percent", "digital_folding_percent", "log_jacobian_std", "warnings", "error"),
    ]
    assert (first["mse_after"], first["folding_percent"], first["warnings"]) == ("0.0123457", "0", "2")
    assert (second["status"], second["error"], second["warnings"]) == (FAILED, "MOVING (x): expected an image", "")
    assert set(third.values()) == {"c", NOT_DONE, "/data/fixed.nii.gz", "/data/c, 1.nii.gz", ""}


def test_columns_that_no_pair_has_are_left_out(tmp_path: Path) -> None:
    study = Study(tmp_path)
    rows = summarised(study, [listed("a")])
    write_csv(tmp_path / "summary.csv", rows)
    assert list(lines(tmp_path / "summary.csv")[0]) == ["id", "status", "fixed", "moving"]
    assert measured(rows) == []
    finish(study, "a")
    rows = summarised(study, [listed("a")])
    write_csv(tmp_path / "summary.csv", rows)
    columns = set(lines(tmp_path / "summary.csv")[0])
    assert not columns & {"dice_before", "dice_after", "hd95_after", "tre_after", "error", "outlier", "outlier_measure"}
    assert columns >= {"warnings", "correlation_before", "inverse_residual"}
    assert {measure.name for measure in MEASURES} - {m.name for m in measured(rows)} == {"dice", "hd95", "tre"}


def test_the_same_study_gives_the_same_bytes(tmp_path: Path) -> None:
    written = []
    for folder, order in ((tmp_path / "one", "abcdef"), (tmp_path / "other", "fdbace")):
        study = Study(folder)
        for id in order:
            if id == "d":
                study.failed(id, "no")
            else:
                finish(study, id, log_jacobian_std=0.1 + 0.001 * ord(id) ** 2)
        write_csv(folder / "summary.csv", summarised(study, [listed(id) for id in "abcdef"]))
        written.append((folder / "summary.csv").read_bytes())
    assert written[0] == written[1]
    assert b"\r" not in written[0]


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        ("", "cannot be read"),
        ('{"similarity": {"corr', "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ("[]", "not one that"),
        ("{}", "not one that"),
        ("7", "not one that"),
    ],
)
def test_a_damaged_report_is_said_in_its_row(tmp_path: Path, damage: str, why: str) -> None:
    study = Study(tmp_path)
    finish(study, "a").write_text(damage)
    finish(study, "b")
    rows = summarised(study, [listed("a"), listed("b")])
    assert [row.status for row in rows] == [FAILED, FINISHED]
    assert why in rows[0].error
    assert "\n" not in rows[0].error
    assert not rows[0].values


@pytest.mark.parametrize(
    "change",
    [
        {"similarity": {"correlation": [0.5], "MSE": [1, 2]}},
        {"similarity": {"correlation": 0.5, "MSE": [1, 2]}},
        {"dice": {"1": [0.5, 0.6]}},
        {"dice": None},
        {"folding_percent": [1]},
        {"folding_percent": float("inf")},
        {"log_jacobian_std": "much"},
        {"inverse_residual": 10**400},
        {"warnings": 3},
    ],
)
def test_another_versions_report_is_said_in_its_row(tmp_path: Path, change: dict[str, Any]) -> None:
    study = Study(tmp_path)
    file = finish(study, "a")
    report = json.loads(file.read_text())
    file.write_text(json.dumps(report | change))
    (row,) = summarised(study, [listed("a")])
    assert (row.status, row.warnings) == (FAILED, None)
    assert row.error.startswith("report.json: not one that this version of l2rfast writes")
    for key in ("similarity", "dice", "inverse_residual", "warnings"):
        file.write_text(json.dumps({name: value for name, value in report.items() if name != key}))
        assert summarised(study, [listed("a")])[0].status == FAILED
    file.write_bytes(b"\xff\xfe")
    assert "cannot be read" in summarised(study, [listed("a")])[0].error


def scores(tmp_path: Path, **columns: list[Any]) -> list[Row]:
    """Rows of pairs of which each differs as listed."""
    study, names = Study(tmp_path), list(columns)
    for number, values in enumerate(zip(*columns.values(), strict=True)):
        finish(study, f"p{number}", **dict(zip(names, values, strict=True)))
    count = len(next(iter(columns.values())))
    return summarised(study, [listed(f"p{number}") for number in range(count)])


def test_the_score_is_the_worst_measures(tmp_path: Path) -> None:
    correlation = [0.90, 0.91, 0.92, 0.93, 0.60]
    rows = scores(
        tmp_path,
        similarity=[{"correlation": (0.5, value), "MSE": (1, value)} for value in correlation],
        log_jacobian_std=[0.10, 0.12, 0.14, 0.30, 0.05],
    )
    # By hand: medians 0.91 and 0.12, absolute deviations of the middle 0.01 and 0.02.
    assert rows[4].outlier == pytest.approx(0.6745 * 31)
    assert rows[3].outlier == pytest.approx(0.6745 * 9)
    assert [row.outlier_measure for row in rows[2:]] == ["log_jacobian_std", "log_jacobian_std", "correlation"]
    assert rows[1].outlier == 0  # the median of both
    assert rows[0].outlier == pytest.approx(0.6745)


def test_where_most_agree_the_mean_deviation_is_the_measure(tmp_path: Path) -> None:
    rows = scores(tmp_path, folding_percent=[0.0, 0.0, 0.0, 0.0, 0.1, 0.4])
    mean = 0.5 / 6 * math.sqrt(math.pi / 2)
    assert [row.outlier for row in rows] == pytest.approx([0, 0, 0, 0, 0.1 / mean, 0.4 / mean])
    assert [row.outlier_measure for row in rows[4:]] == ["folding_percent"] * 2
    write_csv(tmp_path / "summary.csv", rows)
    assert lines(tmp_path / "summary.csv")[0]["outlier"] == "0"


def test_few_pairs_have_no_score(tmp_path: Path) -> None:
    rows = scores(tmp_path, folding_percent=[0.0, 0.1, 0.2, 90.0])
    assert all(math.isnan(row.outlier) and not row.outlier_measure for row in rows)
    rows = scores(
        tmp_path / "undefined",
        inverse_residual=[0.01, 0.02, 0.03, 0.04, 9.0, math.nan],
        tre=[{"tip": (1.0, 1.0 + n)} if n < 4 else {} for n in range(6)],
    )
    assert [row.outlier_measure == "inverse_residual" for row in rows] == [False, False, False, True, True, False]
    assert rows[5].outlier == 0  # by what it has
