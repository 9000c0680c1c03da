"""Tables of pairs, as programs and spreadsheets write them."""

from __future__ import annotations

import warnings
from pathlib import Path

import datasets
import pytest

from l2rfast.errors import InputWarning
from l2rfast.methods.training.cases import Pairs, find_pairs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scans")
    for kind in ("images", "labels"):
        (root / kind).mkdir()
        for i in range(4):
            (root / kind / f"case{i}.nii.gz").write_bytes(b"")
    (root / "points 1, fixed.csv").write_text("1,2\n")
    return root


def names(pairs: Pairs) -> dict[str, list[tuple[str, str]]]:
    parts = {"training": pairs.training, "validation": pairs.validation, "test": pairs.test}
    return {part: [(pair.fixed.name, pair.moving.name) for pair in found] for part, found in parts.items() if found}


def test_a_table(folder: Path) -> None:
    rows = [
        {"fixed": "images/case0.nii.gz", "moving": "images/case1.nii.gz", "split": "training"},
        {"fixed": "images/case2.nii.gz", "moving": "images/case3.nii.gz", "split": "validation"},
    ]
    rows = [{**row, "fixed_labels": row["fixed"].replace("images", "labels"), "moving_landmarks": ""} for row in rows]
    found = find_pairs(datasets.table(folder / "pairs.csv", rows))
    assert names(found) == {"training": [("case0", "case1")], "validation": [("case2", "case3")]}
    assert found.training[0].fixed.labels == folder / "labels" / "case0.nii.gz"
    assert found.training[0].moving.labels is None
    plain = [{name: row[name] for name in ("fixed", "moving")} for row in rows]
    held = find_pairs(datasets.table(folder / "plain.csv", plain), hold_out=1)
    assert names(held) == names(found)


A, B = "images/case0.nii.gz", "images/case1.nii.gz"


@pytest.mark.parametrize(
    "text",
    [
        f"\ufefffixed,moving\n{A},{B}\n",
        f"fixed, moving\n{A}, {B}\n",
        f" fixed , moving \n {A} , {B} \n",
        f"fixed;moving\r\n{A};{B}\r\n",
        f"fixed\tmoving\n{A}\t{B}\n",
        f"fixed,moving\r{A},{B}\r",
        f"fixed,moving,,\n{A},{B},,\n,,,\n\n , \n",
        f"fixed,moving\n{A},{B},,\n",
        f"fixed,moving,fixed_labels,moving_landmarks\n{A},{B},NA,n/a\n",
        f"Fixed,MOVING,Split\n{A},{B},Train\n",
        f'"fixed","moving"\n"{A}","{B}"',
        "fixed,moving\nimages\\case0.nii.gz,images\\case1.nii.gz\n",
        "fixed;moving;fixed_landmarks\n" + f"{A};{B};points 1, fixed.csv\n",
        f'fixed,moving,fixed_landmarks\n{A},{B},"points 1, fixed.csv"\n',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("suffix", [".csv", ".CSV", ".tsv"])
def test_what_spreadsheets_write(text: str, encoding: str, suffix: str, folder: Path) -> None:
    file = folder / f"table{suffix}"
    file.write_text(text if encoding == "utf-8" else text.removeprefix("\ufeff"), encoding=encoding, newline="")
    found = find_pairs(file)
    assert names(found) == {"training": [("case0", "case1")]}
    (pair,) = found.training
    assert (pair.fixed.landmarks is not None) == ("points" in text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"id,fixed,moving\n7,{A},{B}\n", "id"),
        (f"fixed,moving,Age,fixed_label,sex,site\n{A},{B},7,x,,a\n", "Age, fixed_label, sex and 1 more"),
        (f",fixed,moving\n0,{A},{B}\n", "a column without a name"),
    ],
)
def test_columns_of_ones_own_are_said_once(text: str, said: str, folder: Path) -> None:
    (folder / "own.csv").write_text(text)
    with pytest.warns(InputWarning) as caught:
        found = find_pairs(folder / "own.csv")
    assert names(found) == {"training": [("case0", "case1")]}
    assert [str(warning.message) for warning in caught] == [f"data: not used of {folder / 'own.csv'}: {said}"]


def test_splits_and_absolute_paths(folder: Path, tmp_path: Path) -> None:
    rows = [f"{folder / A},{folder / B},{split}" for split in ("train", "VAL", "test", "")]
    (tmp_path / "pairs.csv").write_text("\n".join(["fixed,moving,split", *rows]))
    one = [("case0", "case1")]
    assert names(find_pairs(tmp_path / "pairs.csv")) == {"training": 2 * one, "validation": one, "test": one}


def test_pairs_to_train_on_are_asked_for_where_that_is_done(folder: Path) -> None:
    (folder / "held.csv").write_text(f"fixed,moving,split\n{A},{B},validation\n")
    assert names(find_pairs(folder / "held.csv", to_train=False)) == {"validation": [("case0", "case1")]}
    with pytest.raises(ValueError, match="expected at least one pair to train on"):
        find_pairs(folder / "held.csv")


def test_keypoints_and_landmarks_have_columns_of_their_own(folder: Path) -> None:
    file = datasets.table(
        folder / "points.csv",
        [
            {
                "fixed": A,
                "moving": B,
                "fixed_landmarks": "points 1, fixed.csv",
                "moving_keypoints": "points 1, fixed.csv",
            }
        ],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (pair,) = find_pairs(file).training
    assert (pair.fixed.landmarks, pair.fixed.keypoints) == (folder / "points 1, fixed.csv", None)
    assert (pair.moving.landmarks, pair.moving.keypoints) == (None, folder / "points 1, fixed.csv")


@pytest.mark.parametrize("first", ["# of the second visit\n", "sep=;\n", "\n# a;b\n\n"])
def test_comments_and_excels_delimiter_are_no_columns(first: str, folder: Path) -> None:
    (folder / "first.csv").write_text(f"{first}fixed;moving\n{A};{B}\n# {B};{A}\n")
    assert names(find_pairs(folder / "first.csv")) == {"training": [("case0", "case1")]}
