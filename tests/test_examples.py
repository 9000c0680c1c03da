"""The examples run, at their small size, and show what they say that they show."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from l2rfast.cli import lines

FOLDER = Path(__file__).parent.parent / "methods"

pytestmark = pytest.mark.usefixtures("real_data")


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs one where it may write, and gives its variables."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")

    def run(name: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", [name, "--small"])
        return runpy.run_path(str(FOLDER / name))

    return run


def test_shapes(example: Any) -> None:
    found = example("unsupervised/examples/shapes_2d.py")
    assert found["after"] > found["before"] + 0.02
    assert (found["OUT"] / "pair.png").exists()


def test_brain_slices(example: Any) -> None:
    found = example("unsupervised/examples/brains_2d.py")
    assert found["after"] > found["before"] + 0.01
    assert (found["run"] / "curves.png").exists()


def test_brains(example: Any) -> None:
    found = example("unsupervised/examples/brains_3d.py")
    assert found["after"] > found["before"] + 0.1


def test_what_fails(example: Any) -> None:
    found = example("unsupervised/examples/failures.py")
    assert found["correlations"][5] < found["correlations"][1] - 0.1
    assert found["folds"][0.0] > 0 == found["folds"][0.01]
    assert found["errors"][0.0] < found["errors"][0.01]


def test_diffeomorphic(example: Any) -> None:
    found = example("unsupervised/examples/diffeomorphic.py")
    assert found["folds"][False] > 0 == found["folds"][True]
    assert found["inner"].mean() < 0.2


def test_fine_tuning(example: Any) -> None:
    scores = example("unsupervised/examples/finetuning.py")["scores"]
    assert scores[50] > scores[10] > scores[0]


def test_prostate(example: Any) -> None:
    found = example("weakly_supervised/examples/prostate.py")
    assert len(found["scores"]) == 5
    assert found["result"].displacement.shape == (1, 3, 44, 59, 41)


def test_slices(example: Any) -> None:
    found = example("discrete/examples/slices_2d.py")
    for before, after in (found["generated"], found["real"]):
        assert after > before + 0.05


def test_pddnet(example: Any) -> None:
    found = example("discrete/examples/pddnet_3d.py")
    assert len(found["scores"]) == 3
    assert found["result"].entropy.shape == found["result"].displacement[:, :1].shape
    assert (found["inner"] - torch.tensor([6.0, -4.0, -8.0])).norm() < 0.5 * 116**0.5


def test_snakemake_gives_options_that_there_are() -> None:
    """Snakemake itself, which brings dozens of packages, is not run here."""
    text = (FOLDER / "cohort/examples/Snakefile").read_text()
    (words,) = re.findall(r'"l2rfast register (.*)"\n +"(.*)"', text)
    given = set(re.findall(r"--([a-z-]+)", " ".join(words)))
    assert given
    assert given <= {"out", "quiet", *(option.name for option in lines.options().values())}


def test_every_example_is_run() -> None:
    tests = Path(__file__).read_text()
    examples = sorted(FOLDER.glob("*/examples/[!_]*"))
    assert examples
    for file in examples:
        name = file.relative_to(FOLDER)
        assert (f'example("{name}")' if file.suffix == ".py" else str(name)) in tests
