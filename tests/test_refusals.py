"""The table of docs/reference/refusals.md: every row is made to happen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from l2rfast import cli
from l2rfast.io import Volume, write_image

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "refusals.md"


def rows() -> list[tuple[str, str, str]]:
    table = PAGE.read_text().partition("\n## ")[0]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| `")]
    return [(command.strip("`"), what, message.strip("`")) for command, what, message in cells]


def written(name: str, data: torch.Tensor) -> None:
    write_image(name, Volume(data, np.eye(4)))


def register(*arguments: str, fixed: str = "good.nii.gz", out: str = "out") -> list[str]:
    return ["register", fixed, "good.nii.gz", f"--out={out}", "--quiet", *arguments]


def train(*arguments: str, data: str = "scans") -> list[str]:
    small = ("--encoder=4,4", "--decoder=4,4,4,4", "--quiet")
    return ["train", "unsupervised", f"--data={data}", "--out=run", "--steps=3", *small, *arguments]


def damaged_weights() -> list[str]:
    Path("damaged.h5").write_bytes(b"\x89HDF")
    return register("--method=unsupervised", "--weights=damaged.h5")


def other_columns() -> list[str]:
    Path("pairs.csv").write_text("target,source\na,b\n")
    return train(data="pairs.csv")


def several_sizes() -> list[str]:
    written("scans/images/other.nii.gz", torch.rand(20, 36))
    written("scans/labels/other.nii.gz", torch.ones(20, 36, dtype=torch.uint8))
    return train("--batch=8")


def a_scan_with_nan() -> list[str]:
    spoiled = torch.rand(20, 20)
    spoiled[0] = torch.nan
    for file in Path("scans/images").iterdir():
        written(str(file), spoiled)
    return train()


def a_run_that_is_there() -> list[str]:
    assert CliRunner().invoke(cli.app, train()).exit_code == 0
    return train()


CAUSES: dict[str, Callable[[], list[str]]] = {
    "a file that is not there": lambda: register(fixed="absent.nii.gz"),
    "a file that is no NIfTI, or damaged": lambda: register(fixed="damaged.nii.gz"),
    "a folder that is no DICOM series": lambda: register(fixed="scans"),
    "several pages of a TIFF": lambda: register(fixed="pages.tif"),
    "an image with NaN": lambda: register(fixed="nan.nii.gz"),
    "a constant image": lambda: register(fixed="constant.nii.gz"),
    "labels on another grid": lambda: register("--fixed-labels=small.nii.gz", "--moving-labels=small.nii.gz"),
    "a place that cannot be written": lambda: register(out="good.nii.gz"),
    "a device that is not here": lambda: register("--device=nowhere"),
    "an unknown option of a method": lambda: register("--preset=slow"),
    "weights that are damaged": damaged_weights,
    "data that is not there": lambda: train(data="absent"),
    "a table with other columns": other_columns,
    "scans of several sizes in a batch": several_sizes,
    "a run that is there already": a_run_that_is_there,
    "a scan that holds NaN, unless `--bad-scans skip`": a_scan_with_nan,
    "a loss that is not finite": lambda: train("--rate=1e30"),
    "no weights for a network": lambda: ["evaluate", "--data=scans", "--out=out", "--method=unsupervised"],
}


@pytest.mark.parametrize(("command", "what", "message"), rows())
def test_what_is_refused(
    command: str, what: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    datasets.write(Path("scans"), 3, (20, 20))
    image = torch.rand(20, 20, 20)
    written("good.nii.gz", image)
    Path("damaged.nii.gz").write_bytes(Path("good.nii.gz").read_bytes()[:500])
    pages = [Image.new("L", (20, 20), shade) for shade in (0, 1, 2)]
    pages[0].save("pages.tif", save_all=True, append_images=pages[1:])
    written("nan.nii.gz", image.clone().fill_diagonal_(torch.nan))
    written("constant.nii.gz", torch.full_like(image, 3))
    written("small.nii.gz", torch.ones(4, 4, 4, dtype=torch.uint8))
    arguments = CAUSES[what]()
    assert arguments[0] == command
    before = sorted(Path().rglob("*"))
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 2, result.exception
    assert result.stderr.startswith(f"l2rfast: error: {message}"), result.stderr
    assert result.stderr.count("\n") == 1
    if command != "train":
        assert sorted(Path().rglob("*")) == before


def test_every_cause_stands_in_the_table() -> None:
    assert {what for _, what, _ in rows()} == set(CAUSES)
