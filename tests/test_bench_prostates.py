"""The rotation over prostates: who is held out, what is measured, and what the report says."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import l2rfast
from bench import prostates as command
from bench.prostates import Experiment, Measured, measured, page, pairs_in, with_values
from l2rfast.data.prostates import write_prostates
from l2rfast.methods.training.cases import Pair
from l2rfast.methods.training.options import TrainerOptions
from l2rfast.methods.weakly_supervised import LabelReg, Plan
from l2rfast.methods.weakly_supervised.model import Architecture
from l2rfast.methods.weakly_supervised.options import TrainingOptions


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prostates")
    write_prostates(folder, 4)
    return folder


def test_every_pair_is_held_out_once(scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[tuple[list[str], int]] = []

    def train(pairs: list[Pair], out: Path, options: object, trainer: TrainerOptions) -> Path:
        trained.append(([pair.fixed.name[-1] for pair in pairs], trainer.seed))
        return out

    one = Measured(0.1, 0.2, 0.3, 0.85, [2.0], [4.0], [0.4] * 3, 0.0)
    monkeypatch.setattr(command, "public_pairs", lambda: pairs_in(scans))
    monkeypatch.setattr(command, "train", train)
    monkeypatch.setattr(command, "measured", lambda pair, weights, fold=0: one)
    assert command.main(["rotation", "--folds=3", f"--out={tmp_path}", "--set=steps=5,mirror=0;1"]) == 0
    assert trained == [(["1", "2"], 0), (["0", "2", "3"], 1), (["0", "1", "3"], 2)]
    record = json.loads((tmp_path / "prostates.json").read_text())["experiments"]["rotation, moments"]
    assert sorted(record["pairs"]) == [f"case{i:06}" for i in range(4)]
    assert (record["options"]["steps"], record["options"]["mirror"]) == (5, [0, 1])
    assert command.main(["rotation", "--folds=3", f"--out={tmp_path}", "--name=other"]) == 0
    lines = (tmp_path / "prostates.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines if line.startswith("| rotation")] == [
        "| rotation, moments",
        "| rotation, other",
    ]


def test_a_pair_is_measured_as_it_is_registered(scans: Path, tmp_path: Path) -> None:
    """A network that says nothing leaves the centres of the grids on each other."""
    network = LabelReg(Architecture("local", Plan(width=1), level=2))
    network.save(tmp_path / "weights.safetensors")
    pair = list(pairs_in(scans).values())[2]
    found = measured(pair, tmp_path / "weights.safetensors")
    assert found.dice == pytest.approx(found.centres, abs=2e-3)
    assert found.landmarks == pytest.approx(found.landmarks_before, abs=0.5)
    assert 0 <= found.zero < found.known < 1
    assert found.centres < found.known
    assert found.folded_percent == 0
    assert found.spacing == [1, 1, 1]


def test_what_is_shipped_is_trained_on_all_pairs_and_small(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "public_pairs", lambda: pairs_in(scans))
    monkeypatch.setattr(command, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(command, "SHIPPED", {"prostates": tmp_path / "shipped.safetensors"})
    assert command.main(["ship", "--set=width=2,steps=2,every=2"]) == 0
    assert len((tmp_path / "runs" / "ship, moments.csv").read_text().splitlines()) == 1 + 4
    trained, shipped = (
        LabelReg.load(path)
        for path in (tmp_path / "runs" / "ship, moments" / "weights.safetensors", tmp_path / "shipped.safetensors")
    )
    for one, other in zip(trained.parameters(), shipped.parameters(), strict=True):
        assert torch.equal(one.half().float(), other)
    for one, other in zip(trained.buffers(), shipped.buffers(), strict=True):
        assert torch.equal(one, other)


def test_the_card_tells_of_pairs_that_were_held_out() -> None:
    one = Measured(0.1, 0.2, 0.3, 0.85, [2.0], [4.0], [0.4] * 3, 0.0)
    names = ("generated, local", "rotation, quarter")
    experiments = {name: asdict(Experiment("command", "", {}, pairs={"a": one})) for name in names}
    text = command.card({"experiments": experiments})
    assert "| rotation, quarter |" in text
    assert "generated" not in text


def test_what_was_lost_is_said() -> None:
    lost = Measured(0.1, 0.2, 0.3, 0.5, [float("nan"), 3.0], [4.0, 5.0], [0.4] * 3, 0.0)
    text = "\n".join(page({"rotation, moments": Experiment("command", "", {}, pairs={"a": lost})}))
    assert "3.0, 1 lost (4.5)" in text
    assert "3.0 (1.2 mm), 1 lost" in text
    assert ">= 0.8: **not met**" in text


def test_options_are_read_as_what_they_are() -> None:
    told = {"width": "8", "levels": "2;3", "sigmas": "0;1.5", "shift": "2", "network": "local", "steps": "3"}
    options = with_values(TrainingOptions(), told)
    assert (options.width, options.levels, options.sigmas, options.shift) == (8, (2, 3), (0.0, 1.5), 2.0)
    assert told == {"steps": "3"}
    assert with_values(TrainerOptions(), {"cosine": "true"}).cosine is True
    with pytest.raises(l2rfast.InputError, match="set: expected width like 12, got 'wide'"):
        with_values(TrainingOptions(), {"width": "wide"})
    with pytest.raises(l2rfast.InputError, match="set: expected options of the command line, got depth"):
        command.main(["rotation", "--set=depth=3"])


def test_masks_overlap() -> None:
    a = torch.tensor([True, True, False])
    assert command.overlap(a, a) == 1
    assert command.overlap(a, ~a) == 0
    assert command.overlap(~a & a, ~a & a) == 0
