"""Finding pairs of scans: folders, tables, Learn2Reg's dataset.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

import l2rfast
from l2rfast.io import Volume, write_image
from l2rfast.methods.training.cases import Pair, find_pairs, read


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scans")
    datasets.write(root, 4, (16, 16))
    (root / "landmarks").mkdir()
    for i in (0, 1):
        (root / "landmarks" / f"case{i}.csv").write_text(f"1,2\n{i}.5,4\n")
    return root


def names(pairs: list[Pair]) -> list[tuple[str, str]]:
    return [(pair.fixed.name, pair.moving.name) for pair in pairs]


def test_all_ordered_pairs_of_a_folder(folder: Path) -> None:
    found = find_pairs(folder)
    assert len(set(names(found.training))) == len(found.training) == 12
    assert found.validation == []
    for pair in found.training:
        assert pair.fixed.labels == folder / "labels" / f"{pair.fixed.name}.nii.gz"
    scan = read(next(pair.fixed for pair in found.training if pair.fixed.name == "case1"))
    assert scan.image.data.shape == (16, 16)
    assert scan.labels is not None
    assert scan.landmarks is not None
    assert scan.landmarks.tolist() == [[1, 2], [1.5, 4]]


def test_images_may_lie_in_the_folder_itself(folder: Path) -> None:
    found = find_pairs(folder / "images")
    assert len(found.training) == 12
    assert found.training[0].fixed.labels is None


def test_cases_that_are_held_out_are_in_no_pair_for_training(folder: Path) -> None:
    found = find_pairs(folder, hold_out=2)
    assert names(found.training) == [("case0", "case1"), ("case1", "case0")]
    assert names(found.validation) == [("case2", "case3"), ("case3", "case2")]


@pytest.mark.parametrize("atlas", ["case2", "case2.nii.gz"])
def test_an_atlas_is_always_fixed(folder: Path, atlas: str) -> None:
    found = find_pairs(folder, atlas=atlas, hold_out=1)
    assert names(found.training) == [("case2", "case0"), ("case2", "case1")]
    assert names(found.validation) == [("case2", "case3")]


def test_a_table(folder: Path) -> None:
    rows = [
        {"fixed": "images/case0.nii.gz", "moving": "images/case1.nii.gz", "split": "training"},
        {"fixed": "images/case2.nii.gz", "moving": "images/case3.nii.gz", "split": "validation"},
    ]
    rows = [{**row, "fixed_labels": row["fixed"].replace("images", "labels"), "moving_landmarks": ""} for row in rows]
    found = find_pairs(datasets.table(folder / "pairs.csv", rows))
    assert names(found.training) == [("case0", "case1")]
    assert names(found.validation) == [("case2", "case3")]
    assert found.training[0].fixed.labels == folder / "labels" / "case0.nii.gz"
    assert found.training[0].moving.labels is None
    plain = [{name: row[name] for name in ("fixed", "moving")} for row in rows]
    held = find_pairs(datasets.table(folder / "plain.csv", plain), hold_out=1)
    assert (names(held.training), names(held.validation)) == (names(found.training), names(found.validation))


def learn2reg(root: Path, **changes: Any) -> Path:
    """A data set of four scans, laid out as theirs."""
    for kind in ("images", "labels", "keypoints"):
        (root / f"{kind}Tr").mkdir(parents=True, exist_ok=True)
    images = [f"./imagesTr/Set_{i:04}_0000.nii.gz" for i in range(4)]
    for image in images:
        write_image(root / image, Volume(torch.rand(8, 8, 8), np.eye(4)))
    write_image(root / images[2].replace("images", "labels"), Volume(torch.ones(8, 8, 8).byte(), np.eye(4)))
    (root / "keypointsTr" / "Set_0003_0000.csv").write_text("1,2,3\n")
    entries = [{"image": image} for image in images]
    content = {"name": "Set", "training": entries, "registration_val": [{"fixed": images[2], "moving": images[3]}]}
    file = root / "dataset.json"
    file.write_text(json.dumps(content | changes))
    return file


def test_learn2reg(tmp_path: Path) -> None:
    found = find_pairs(learn2reg(tmp_path))
    a, b, c, d = (f"Set_{i:04}_0000" for i in range(4))
    assert names(found.training) == [(a, b), (b, a)]
    assert names(found.validation) == [(c, d)]
    (pair,) = found.validation
    assert pair.fixed.labels == tmp_path / "labelsTr" / f"{c}.nii.gz"
    assert pair.fixed.landmarks is None
    assert read(pair.moving).landmarks.tolist() == [[1, 2, 3]]  # type: ignore[union-attr]


@pytest.mark.parametrize("by_modality", [False, True])
def test_learn2regs_own_pairs(tmp_path: Path, by_modality: bool) -> None:
    files = [f"./imagesTr/Set_{i:04}_0000.nii.gz" for i in range(4)]
    pairs: Any = [{"fixed": files[0], "moving": files[3]}, {"fixed": files[2], "moving": files[3]}]
    found = find_pairs(learn2reg(tmp_path, training_paired_images={"0": pairs} if by_modality else pairs))
    assert names(found.training) == [("Set_0000_0000", "Set_0003_0000")]


@pytest.mark.parametrize(
    ("data", "options", "begins"),
    [
        ("absent", {}, "data: expected a folder, a CSV file or a dataset.json"),
        ("absent.csv", {}, "data: cannot read"),
        ("empty", {}, "data: expected at least one pair"),
        ("scans", {"atlas": "case9"}, "atlas: expected one of the cases"),
        ("scans", {"hold_out": -1}, "hold_out: expected"),
        ("scans", {"hold_out": 1}, "hold_out: 1 of 4 cases leave no pair"),
        ("scans", {"hold_out": 4}, "data: expected at least one pair"),
        ("columns.csv", {}, "data: expected columns"),
        ("file.csv", {}, "data: expected the file"),
        ("split.csv", {}, "data: expected a value for each column"),
        ("short.csv", {}, "data: expected a value for each column"),
        ("split.csv", {"hold_out": 1}, "hold_out: expected 0"),
        ("split.csv", {"atlas": "case0"}, "atlas: expected a folder"),
        ("list.json", {}, "data: expected Learn2Reg's dataset.json"),
        ("broken.json", {}, "data: expected Learn2Reg's dataset.json"),
        ("broken.json", {"hold_out": 1}, "hold_out: expected 0"),
    ],
)
def test_what_is_wrong_is_named(data: str, options: dict[str, Any], begins: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    datasets.write(tmp_path / "scans", 4, (16, 16))
    for name, text in {
        "columns.csv": "fixed,target\na,b\n",
        "file.csv": "fixed,moving\nabsent.nii,absent.nii\n",
        "split.csv": "fixed,moving,split\na,b,test\n",
        "short.csv": "fixed,moving,split\na,b\n",
        "list.json": "[1, 2]",
        "broken.json": "{",
    }.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(l2rfast.InputError) as caught:
        find_pairs(tmp_path / data, **options)
    assert str(caught.value).startswith(begins)


@pytest.mark.parametrize("text", ["", "1,2\n", "1,2,3,4\n", "a,b,c\n", "1,2,nan\n"])
def test_landmarks_that_are_none_are_named(text: str, tmp_path: Path) -> None:
    file = tmp_path / "landmarks.csv"
    file.write_text(text)
    with pytest.raises(l2rfast.InputError, match="expected lines of 3 comma-separated voxel coordinates"):
        l2rfast.io.read_landmarks(file, Volume(torch.zeros(4, 4, 4), np.eye(4)))
