"""The report and the picture of a registration."""

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from rich.console import Console

from l2rfast.cli.overview import draw_overview
from l2rfast.cli.report import Report

NAN = math.nan
SHAPE = (20, 24, 16)


def report(**changes: Any) -> Report:
    scan = {"path": Path("a|b.nii.gz"), "shape": (160, 192, 224), "spacing": (1.0, 1.0, 1.2)}
    values: dict[str, Any] = {
        "inputs": {"fixed": scan, "moving": scan},
        "options": {"preset": "fast", "threads": None, "weights": (0.5, 2)},
        "seed": 7,
        "backend": "cpp (avx2)",
        "seconds": {"read": 0.25, "cost volume": 1.5, "adam": 2.0},
        "peak_memory_mb": 812.34,
        "threads": 3,
        "similarity": {"correlation": (0.87, 0.9757557), "mean squared error": (0.0045, NAN)},
        "covered_percent": 98.76543,
        "folding_percent": 0.0123456789,
        "digital_folding_percent": 0.23456789,
        "log_jacobian_std": 0.1,
        "inverse_residual": 0.0123456789,
        "dice": {2: (0.5, 0.75), 17: (0.7, 0.85), 80: (NAN, NAN)},
        "hd95": {2: (4.0, 2.0), 17: (NAN, 3.0)},
    }
    return Report(**{**values, **changes})


def read_json(path: Path) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_json_is_strict_and_complete(tmp_path: Path) -> None:
    report().write_json(tmp_path / "report.json")
    found = read_json(tmp_path / "report.json")
    assert list(found["seconds"].items()) == [
        ("read", 0.25),
        ("cost volume", 1.5),
        ("adam", 2.0),
        ("total", 3.75),
    ]
    assert found["similarity"] == {"correlation": [0.87, 0.975756], "mean squared error": [0.0045, None]}
    assert found["dice"] == {"mean": [0.6, 0.8], "2": [0.5, 0.75], "17": [0.7, 0.85], "80": [None, None]}
    assert found["hd95"] == {"mean": [4.0, 2.0], "2": [4.0, 2.0], "17": [None, 3.0]}
    assert (found["folding_percent"], found["digital_folding_percent"]) == (0.0123457, 0.234568)
    assert found["inverse_residual"] == 0.0123457
    assert found["options"] == {"preset": "fast", "threads": None, "weights": [0.5, 2]}
    assert found["inputs"]["fixed"] == {
        "path": "a|b.nii.gz",
        "shape": [160, 192, 224],
        "spacing": [1, 1, 1.2],
    }
    assert (found["seed"], found["backend"], found["peak_memory_mb"]) == (7, "cpp (avx2)", 812.34)
    assert found["threads"] == 3
    assert set(found["versions"]) == {"l2rfast", "torch", "numpy", "python"}
    assert found["versions"]["torch"] == torch.__version__


def test_json_without_labels(tmp_path: Path) -> None:
    report(dice={}, hd95={}).write_json(tmp_path / "report.json")
    found = read_json(tmp_path / "report.json")
    assert found["dice"] == found["hd95"] == {}


def test_markdown_shows_every_figure(tmp_path: Path) -> None:
    report().write_markdown(tmp_path / "report.md")
    lines = (tmp_path / "report.md").read_text().splitlines()
    for line in (
        "| correlation | 0.87 | 0.9758 |",
        "| mean squared error | 0.0045 | - |",
        "| mean Dice of 3 labels | 0.6 | 0.8 |",
        "| mean HD95, mm | 4 | 2 |",
        "| folded voxels, % |  | 0.01235 |",
        "| digital folds, % |  | 0.2346 |",
        "| mean inverse residual, voxels |  | 0.01235 |",
        "| **total** | **3.75** |",
        "| **mean** | 0.6 | 0.8 | 4 | 2 |",
        "| 17 | 0.7 | 0.85 | - | 3 |",
        "| 80 | - | - | - | - |",
        "| moving | a\\|b.nii.gz | 160 x 192 x 224 | 1 x 1 x 1.2 |",
        "| seed | 7 |",
    ):
        assert line in lines
    assert "Labels" not in report(dice={}, hd95={}).markdown()


def test_table_is_the_short_summary() -> None:
    shown = io.StringIO()
    Console(file=shown, width=80).print(report().table())
    for figure in ("0.9758", "mean Dice of 3 labels", "3.8 s", "812 MB"):
        assert figure in shown.getvalue()


def draw(path: Path, disp: torch.Tensor, folds: torch.Tensor, moving: torch.Tensor) -> np.ndarray:
    fixed = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    draw_overview(path, fixed, moving, fixed[None, None], disp, folds, (1.0, 0.8, 2.0))
    pixels: np.ndarray = imread(path)[..., :3]
    return pixels


def red(pixels: np.ndarray) -> np.ndarray:
    """Where the colour that marks folds is, #ff2d3f."""
    distance: np.ndarray = np.abs(pixels - np.array([255, 45, 63]) / 255).max(-1)
    return distance < 0.02


def test_overview_marks_folds_and_only_folds(tmp_path: Path) -> None:
    still, none = torch.zeros(1, 3, *SHAPE), torch.zeros(SHAPE, dtype=torch.bool)
    moving = torch.rand(SHAPE, generator=torch.Generator().manual_seed(1))
    calm = draw(tmp_path / "calm.png", still, none, moving)
    assert calm.shape[1] == 2200
    assert not red(calm).any()
    folds = none.clone()
    folds[10, 12:15, 8:11] = True  # in the middle slice of every axis
    marked = red(draw(tmp_path / "folded.png", still, folds, moving))
    height, width = marked.shape
    column = marked[:, 5 * width // 6 :]
    assert marked.sum() == column.sum()
    for third in range(3):
        assert column[third * height // 3 + 40 : (third + 1) * height // 3].any()


def test_overview_draws_the_deformation(tmp_path: Path) -> None:
    none = torch.zeros(SHAPE, dtype=torch.bool)
    moving = torch.rand(SHAPE, generator=torch.Generator().manual_seed(1))
    still = draw(tmp_path / "still.png", torch.zeros(3, *SHAPE), none, moving)
    moved = draw(tmp_path / "moved.png", torch.full((3, *SHAPE), 0.5), none, moving)
    differs = (still != moved).any(-1).any(0)
    first = int(np.flatnonzero(differs)[0])
    assert first > 0.82 * still.shape[1]  # in the last column of panels and nowhere else


def test_overview_of_a_moving_image_that_misses_the_grid(tmp_path: Path) -> None:
    none = torch.zeros(SHAPE, dtype=torch.bool)
    draw(tmp_path / "a.png", torch.zeros(3, *SHAPE), none, torch.zeros(SHAPE))


def test_overview_raises_what_the_file_system_says(tmp_path: Path) -> None:
    none = torch.zeros(SHAPE, dtype=torch.bool)
    with pytest.raises(FileNotFoundError):
        draw(tmp_path / "missing" / "a.png", torch.zeros(3, *SHAPE), none, torch.ones(SHAPE))


@pytest.mark.parametrize(
    ("affine", "top"),
    [
        (None, False),
        (np.eye(4), False),
        (np.diag([-1.0, -1, 1, 1]), True),
        (np.eye(4)[:, [0, 2, 1, 3]] * [1, -1, 1, 1], True),
        (np.eye(4)[:, [1, 0, 2, 3]] * [1, -1, 1, 1], False),
    ],
)
def test_what_is_posterior_or_inferior_is_drawn_below(tmp_path: Path, affine: np.ndarray | None, top: bool) -> None:
    image = torch.zeros(30, 30)
    image[:8, :8] = 1  # at the first voxels of both axes
    field, folds = torch.zeros(2, 30, 30), torch.zeros(30, 30, dtype=torch.bool)
    draw_overview(tmp_path / "a.png", image, image, image, field, folds, (1, 1), affine=affine)
    first = imread(tmp_path / "a.png")[:, :370, :3].min(-1)
    titles = first.shape[0] // 8
    bright = np.argwhere(first[titles:-titles] > 0.95)
    assert (bright.mean(0)[0] < first[titles:-titles].shape[0] / 2) == top
    assert bright.mean(0)[1] < 185  # from left to right as before
