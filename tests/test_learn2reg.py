"""Pairs of Learn2Reg's dataset.json, as each of its tasks has it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from l2rfast.errors import InputError, InputWarning
from l2rfast.io import Volume, write_image
from l2rfast.methods.training.cases import Case, Pair, find_pairs, read


def names(pairs: Sequence[Pair]) -> list[tuple[str, str]]:
    return [(pair.fixed.name, pair.moving.name) for pair in pairs]


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
    assert pair.fixed.keypoints is None
    assert pair.moving.landmarks is None
    assert read(pair.moving).keypoints.tolist() == [[1, 2, 3]]  # type: ignore[union-attr]


@pytest.mark.parametrize("by_modality", [False, True])
def test_learn2regs_own_pairs(tmp_path: Path, by_modality: bool) -> None:
    files = [f"./imagesTr/Set_{i:04}_0000.nii.gz" for i in range(4)]
    pairs: Any = [{"fixed": files[0], "moving": files[3]}, {"fixed": files[2], "moving": files[3]}]
    file = learn2reg(tmp_path, training_paired_images={"0": pairs} if by_modality else pairs)
    with pytest.warns(InputWarning, match=r"dataset\.json: Set_0001_0000, in no pair$"):
        found = find_pairs(file)
    assert names(found.training) == [("Set_0000_0000", "Set_0003_0000")]


def task(root: Path, content: dict[str, Any], *points: str, absent: Sequence[str] = ()) -> Path:
    """Its file, and empty images and labels that it names; points of those names."""
    told = json.dumps(content)
    for name in {*told.replace("'", '"').split('"')} - set(absent):
        if name.endswith(".nii.gz") and "points" not in name:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(b"")
    for name in points:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("1,2,3\n")
    file = root / "Task_dataset.json"
    about = {"name": "Task", "licence": "", "tensorImageShape": {"0": [1, 2, 3]}, "numTraining": 2, "labels": {}}
    file.write_text(json.dumps(about | content))
    return file


def pair(fixed: str, moving: str) -> dict[str, str]:
    return {role: f"./imagesTr/{name}.nii.gz" for role, name in (("fixed", fixed), ("moving", moving))}


def entry(name: str, **more: str) -> dict[str, str]:
    return {"image": f"./imagesTr/{name}.nii.gz", **more}


def test_abdomen_mr_ct_lists_scans_by_modality(tmp_path: Path) -> None:
    scans = {
        str(k): [entry(f"A_000{i}_000{k}", label=f"./labelsTr/A_000{i}_000{k}.nii.gz") for i in (1, 2)] for k in (0, 1)
    }
    pairs = [pair(f"A_000{i}_0000", f"A_000{i}_0001") for i in (1, 2)]
    found = find_pairs(
        task(tmp_path, {"training": scans, "training_paired_images": pairs, "registration_val": pairs[1:]})
    )
    assert names(found.training) == [("A_0001_0000", "A_0001_0001")]
    assert names(found.validation) == [("A_0002_0000", "A_0002_0001")]
    assert found.training[0].moving.labels == tmp_path / "labelsTr" / "A_0001_0001.nii.gz"


def test_lung_ct_has_landmarks_and_keypoints(tmp_path: Path) -> None:
    ends = ("0001_0000", "0001_0001")
    scans = [entry(f"L_{e}", landmarks=f"./landmarksTr/L_{e}.csv", mask=f"./masksTr/L_{e}.nii.gz") for e in ends]
    points = [f"{kind}Tr/L_{e}.csv" for e in ends for kind in ("landmarks", "keypoints")]
    content = {"training": scans, "training_paired_images": [pair("L_0001_0000", "L_0001_0001")]}
    with pytest.warns(InputWarning, match=r"not used of .*Task_dataset\.json: mask$"):
        found = find_pairs(task(tmp_path, content, *points))
    (only,) = found.training
    assert (only.fixed.landmarks, only.fixed.keypoints) == tuple(tmp_path / p for p in points[:2])
    assert (only.moving.landmarks, only.moving.keypoints) == tuple(tmp_path / p for p in points[2:])


def test_thorax_cbct_has_keypoints_of_each_pair_of_modalities(tmp_path: Path) -> None:
    """Its entries name them as if they were images."""
    scans = [
        entry("T_0001_0000", **{f"keypoints0{k}": f"./keypoints0{k}Tr/T_0001_0000.nii.gz" for k in (1, 2)}),
        *(entry(f"T_0001_000{k}", **{f"keypoints0{k}": f"./keypoints0{k}Tr/T_0001_000{k}.nii.gz"}) for k in (1, 2)),
    ]
    points = [f"keypoints0{k}Tr/T_0001_000{m}.csv" for k in (1, 2) for m in (0, k)]
    pairs = [pair(f"T_0001_000{k}", "T_0001_0000") for k in (1, 2)]
    found = find_pairs(task(tmp_path, {"training": scans, "training_paired_images": pairs, "test": []}, *points))
    first, second = found.training
    assert (first.moving.keypoints, first.fixed.keypoints) == tuple(tmp_path / p for p in points[:2])
    assert (second.moving.keypoints, second.fixed.keypoints) == tuple(tmp_path / p for p in points[2:])


def test_points_that_no_entry_names_lie_in_their_folders(tmp_path: Path) -> None:
    points = [f"landmarks02Tr/T_0001_000{k}.csv" for k in (0, 2)]
    points += [f"keypointsTr/T_0001_000{k}.csv" for k in (0, 2)]
    content = {"training": [], "training_paired_images": [pair("T_0001_0002", "T_0001_0000")]}
    (only,) = find_pairs(task(tmp_path, content, *points)).training
    assert (only.moving.landmarks, only.fixed.landmarks) == tuple(tmp_path / p for p in points[:2])
    assert (only.moving.keypoints, only.fixed.keypoints) == tuple(tmp_path / p for p in points[2:])


def test_oasis_has_no_pairs_to_train_on_but_all(tmp_path: Path) -> None:
    scans = [entry(f"OASIS_{i:04}_0000", label=f"./labelsTr/OASIS_{i:04}_0000.nii.gz") for i in range(1, 6)]
    held = [pair("OASIS_0004_0000", "OASIS_0005_0000")]
    test = [{role: name.replace("Tr", "Ts") for role, name in held[0].items()}]
    content = {"training": scans, "registration_val": held, "registration_test": test}
    file = task(tmp_path, content, absent=list(test[0].values()))
    with pytest.warns(InputWarning, match="1 of 1 pairs for the test, whose files are not there"):
        found = find_pairs(file)
    assert len(found.training) == 3 * 2
    assert {p.fixed.name for p in found.training} == {f"OASIS_{i:04}_0000" for i in range(1, 4)}
    assert found.test == []


def test_lumir_has_validation_and_no_labels(tmp_path: Path) -> None:
    scans = [{"image": f"imagesTr/LUMIRMRI_000{i}_0000.nii.gz"} for i in range(3)]
    held = [{role: f"imagesVal/LUMIRMRI_345{i}_0000.nii.gz" for role, i in (("fixed", 5), ("moving", 4))}]
    found = find_pairs(task(tmp_path, {"training": scans, "validation": held}))
    assert len(found.training) == 3 * 2
    assert names(found.validation) == [("LUMIRMRI_3455_0000", "LUMIRMRI_3454_0000")]


def test_the_decathlon_lists_images_alone(tmp_path: Path) -> None:
    """nnU-Net has the same list, and a channel in the names of the images."""
    scans = [entry(f"h_{i}", label=f"./labelsTr/h_{i}.nii.gz") for i in (1, 2)]
    file = task(tmp_path, {"training": scans, "test": ["./imagesTs/h_3.nii.gz"]})
    assert names(find_pairs(file).training) == [("h_1", "h_2"), ("h_2", "h_1")]
    for i in (1, 2):
        image = tmp_path / "imagesTr" / f"h_{i}.nii.gz"
        image.with_name(f"h_{i}_0001.nii.gz").write_bytes(b"")
        image.rename(image.with_name(f"h_{i}_0000.nii.gz"))
    with pytest.warns(InputWarning, match="of several channels in .*imagesTr the first is used"):
        found = find_pairs(file)
    assert [p.fixed for p in found.training] == [
        Case(tmp_path / "imagesTr" / f"h_{i}_0000.nii.gz", tmp_path / "labelsTr" / f"h_{i}.nii.gz") for i in (1, 2)
    ]


def test_pairs_for_the_test_are_not_trained_on(tmp_path: Path) -> None:
    pairs = [pair("a", "b"), pair("c", "d")]
    content = {"training": [entry(n) for n in "abcd"], "training_paired_images": pairs, "registration_test": pairs[1:]}
    found = find_pairs(task(tmp_path, content | {"test_paired_images": pairs[1:]}))
    assert names(found.training) == [("a", "b")]
    assert names(found.test) == names(found.evaluated) == [("c", "d")]
    assert names(find_pairs(task(tmp_path, {"registration_test": pairs}), to_train=False).evaluated) == [
        ("a", "b"),
        ("c", "d"),
    ]


def test_training_may_list_pairs(tmp_path: Path) -> None:
    pairs = [pair("a", "b") | {"weight": "2"}, pair("b", "c")]
    with pytest.warns(InputWarning, match=r"not used of .*Task_dataset\.json: weight$"):
        found = find_pairs(task(tmp_path, {"training": pairs, "validation": pairs[1:]}))
    assert names(found.training) == [("a", "b")]
    assert names(found.validation) == [("b", "c")]


def test_keys_that_are_not_known_are_said(tmp_path: Path) -> None:
    content = {"training": [entry("a", distance="1"), entry("b", segmentation="x")], "pairs_val": [], "relation": ""}
    with pytest.warns(InputWarning, match=r"Task_dataset\.json: pairs_val, distance, segmentation$") as caught:
        find_pairs(task(tmp_path, content))
    assert len(caught) == 1


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_none_of_the_content(encoding: str, tmp_path: Path) -> None:
    file = task(tmp_path, {"training": [entry("ä"), entry("b")]})
    (tmp_path / "imagesTr" / "ä.nii.gz").write_bytes(b"")
    file.write_text(file.read_text(), encoding=encoding)
    assert names(find_pairs(file).training) == [("ä", "b"), ("b", "ä")]


def test_an_image_that_is_listed_twice_is_one(tmp_path: Path) -> None:
    file = task(tmp_path, {"training": [entry("a"), entry("b"), entry("a")]})
    assert names(find_pairs(file).training) == [("a", "b"), ("b", "a")]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], r"expected an object, got \[\]"),
        ({"training": "x"}, "expected a list under training, got 'x'"),
        (
            {"training": [{"image": ["a", "b"]}]},
            "under training names of .*, got {'image': \\['a', 'b'\\]}",
        ),
        (
            {"registration_val": [{"fixed": "a"}]},
            "under registration_val names of .*, got {'fixed': 'a'}",
        ),
    ],
)
def test_says_which_entry_is_none(content: Any, said: str, tmp_path: Path) -> None:
    file = tmp_path / "dataset.json"
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"dataset.json is not: .*{said}"):
        find_pairs(file)
