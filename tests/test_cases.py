"""Finding pairs of scans in folders of all kinds, and what is no data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

import l2rfast
from l2rfast.errors import InputWarning
from l2rfast.io import Volume, write_image
from l2rfast.methods.training.cases import AllPairs, Case, Pair, Pairs, cases_of, find_pairs, read


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scans")
    datasets.write(root, 4, (16, 16))
    (root / "landmarks").mkdir()
    for i in (0, 1):
        (root / "landmarks" / f"case{i}.csv").write_text(f"1,2\n{i}.5,4\n")
    return root


def names(pairs: Sequence[Pair]) -> list[tuple[str, str]]:
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


def files(root: Path, *names: str) -> Path:
    """Empty ones: which files there are is all that counts here."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def labels(pairs: Pairs) -> dict[str, str | None]:
    """Of every case, the name of the file."""
    return {case.name: case.labels and case.labels.name for case in cases_of(pairs.training)}


def test_channels_of_nnu_net(tmp_path: Path) -> None:
    root = files(tmp_path, *(f"imagesTr/{i}_000{channel}.nii.gz" for i in "ab" for channel in (0, 1)))
    files(root, "labelsTr/a.nii.gz", "labelsTr/b.nii.gz")
    with pytest.warns(InputWarning, match=r"a_0001\.nii\.gz, b_0001\.nii\.gz, as only the first channel of a case is"):
        found = find_pairs(root)
    assert labels(found) == {"a_0000": "a.nii.gz", "b_0000": "b.nii.gz"}


def test_numbers_of_learn2reg_are_scans_of_their_own(tmp_path: Path) -> None:
    names = [f"S_0001_000{modality}" for modality in (0, 1)]
    root = files(tmp_path, *(f"{kind}Tr/{name}.nii.gz" for name in names for kind in ("images", "labels")))
    files(root, *(f"landmarksTr/{name}.csv" for name in names), f"keypointsTr/{names[0]}.csv")
    found = find_pairs(root)
    assert labels(found) == {name: f"{name}.nii.gz" for name in names}
    first, second = cases_of(found.training)
    assert (first.landmarks, first.keypoints) == (
        root / "landmarksTr" / f"{names[0]}.csv",
        root / "keypointsTr" / f"{names[0]}.csv",
    )
    assert second.keypoints is None


@pytest.mark.parametrize("layout", ["one folder", "two folders"])
@pytest.mark.parametrize("ends", [("_vol", "_seg"), ("", "_label"), ("_img", "_dseg")])
def test_labels_by_the_ending_of_their_names(layout: str, ends: tuple[str, str], tmp_path: Path) -> None:
    folders = ("", "") if layout == "one folder" else ("img/", "seg/")
    names = [f"{folder}subject_{i}{end}.nii.gz" for i in (1, 2) for folder, end in zip(folders, ends, strict=True)]
    found = find_pairs(files(tmp_path, *names))
    assert labels(found) == {f"subject_{i}{ends[0]}": f"subject_{i}{ends[1]}.nii.gz" for i in (1, 2)}


@pytest.mark.parametrize("end", ["_segmentation", "-seg", "_gt", "_aseg"])
def test_label_maps_among_the_images_are_no_images(end: str, tmp_path: Path) -> None:
    root = files(tmp_path, "a.nii", "b.nii", f"a{end}.nii", f"b{end}.nii", f"c{end}.nii", "a_mask.nii")
    with pytest.warns(InputWarning) as caught:
        assert labels(find_pairs(root)) == {name: f"{name}{end}.nii" for name in "ab"}
    said = " ".join(str(warning.message) for warning in caught)
    assert "a_mask.nii" in said
    assert f"c{end}.nii" in said


def test_an_image_that_is_called_seg_is_one(tmp_path: Path) -> None:
    assert len(find_pairs(files(tmp_path, "a_seg.nii.gz", "b_seg.nii.gz")).training) == 2


@pytest.mark.parametrize("suffix", [".NII", ".Nii.Gz"])
def test_suffixes_in_large_letters(suffix: str, tmp_path: Path) -> None:
    found = find_pairs(files(tmp_path, *(f"{kind}/case{i}{suffix}" for kind in ("images", "labels") for i in (0, 1))))
    assert labels(found) == {f"case{i}": f"case{i}{suffix}" for i in (0, 1)}


def test_files_that_others_write_beside_are_no_scans(tmp_path: Path) -> None:
    """macOS, Windows, and converters from DICOM."""
    root = files(
        tmp_path, *(f"images/{i}.nii.gz" for i in "ab"), "images/._a.nii.gz", "images/.DS_Store", "images/a.json"
    )
    assert len(find_pairs(root).training) == 2


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["labels/a.nii.gz"], "data: no labels of b, but of others"),
        (["labels/a.nii.gz", "labels/b.nii.gz", "labels/c.nii.gz"], r"not used of .*labels: c\.nii\.gz$"),
        (["landmarks/a.fcsv"], r"not used of .*landmarks: a\.fcsv$"),
        (["images/c.mha", "images/notes.txt"], r"not used of .*images: c\.mha, notes\.txt$"),
        ([f"masks{i}/a.nii.gz" for i in range(5)], r"not used of .*: masks0, masks1, masks2 and 2 more$"),
        (["images/a.nii"], r"not used of .*images: a\.nii$"),
    ],
)
def test_what_is_not_used_is_said_by_name(names: list[str], said: str, tmp_path: Path) -> None:
    root = files(tmp_path, "images/a.nii.gz", "images/b.nii.gz", *names)
    with pytest.warns(InputWarning, match=said) as caught:
        assert len(find_pairs(root).training) == 2
    assert len(caught) == 1


def test_what_is_not_used_of_roles(tmp_path: Path) -> None:
    root = files(tmp_path, "mr_images/a.nii.gz", "us_images/a.nii.gz", "mr_labels/b.nii.gz", "mr_masks/a.nii.gz")
    with pytest.warns(InputWarning) as caught:
        assert len(find_pairs(root).training) == 1
    said = [str(warning.message) for warning in caught]
    assert said == [
        f"data: not used of {root / 'mr_labels'}: b.nii.gz",
        f"data: not used of {root}: mr_masks",
    ]


def test_bids(tmp_path: Path) -> None:
    """Labels of one subject in the data set, of another from a program, once more in another space, and none."""
    root = files(
        tmp_path, *(f"sub-{i}/anat/sub-{i}_T1w.nii.gz" for i in ("01", "02", "03")), "dataset_description.json"
    )
    files(
        root, "sub-01/anat/sub-01_T1w.json", "sub-01/anat/sub-01_dseg.nii.gz", "sub-02/func/sub-02_task-a_bold.nii.gz"
    )
    anat = "derivatives/program/sub-02/anat"
    for name in ("sub-02_dseg", "sub-02_desc-aseg_dseg", "sub-02_space-MNI152_dseg", "sub-02_label-GM_probseg"):
        files(root, f"{anat}/{name}.nii.gz")
    files(root, "sub-03/anat/sub-03_T2w.nii.gz")
    with pytest.warns(InputWarning) as caught:
        found = find_pairs(root)
    assert len(found.training) == 6
    assert labels(found) == {
        "sub-01_T1w": "sub-01_dseg.nii.gz",
        "sub-02_T1w": "sub-02_dseg.nii.gz",
        "sub-03_T1w": None,
    }
    assert [str(warning.message) for warning in caught] == [
        f"data: of {root} only images T1w are used, none of T2w",
        "data: no labels of sub-03_T1w, but of others",
    ]


def test_bids_of_several_sessions(tmp_path: Path) -> None:
    """Every session has its own; of two maps that fit none is taken."""
    names = [f"sub-1_ses-{i}" for i in (1, 2)]
    root = files(tmp_path, *(f"sub-1/{n[6:]}/anat/{n}_FLAIR.nii.gz" for n in names))
    files(
        root, *(f"derivatives/a/sub-1/{n[6:]}/anat/{n}_desc-{d}_dseg.nii.gz" for n in names for d in "xy"[: int(n[-1])])
    )
    with pytest.warns(InputWarning, match="there are several|but of others"):
        found = find_pairs(root)
    assert labels(found) == {f"{names[0]}_FLAIR": f"{names[0]}_desc-x_dseg.nii.gz", f"{names[1]}_FLAIR": None}


def test_bids_label_maps_of_another_kind_are_said(tmp_path: Path) -> None:
    seg = "derivatives/x/sub-1/anat/sub-1"
    root = files(
        *(tmp_path, "sub-1/anat/sub-1_T1w.nii", "sub-2/anat/sub-2_T1w.nii"),
        *(f"{seg}_space-MNI_dseg.nii", f"{seg}_label-GM_probseg.nii", f"{seg}_desc-brain_mask.nii"),
    )
    with pytest.warns(InputWarning, match=r"brain_mask\.nii, .*GM_probseg\.nii, .*space-MNI_dseg\.nii"):
        assert labels(find_pairs(root)) == {"sub-1_T1w": None, "sub-2_T1w": None}


def test_thousands_of_cases_have_pairs_without_a_list(tmp_path: Path) -> None:
    cases = [Case(Path(f"{i}.nii.gz")) for i in range(3)]
    pairs = AllPairs(cases)
    assert names(list(pairs)) == [("0", "1"), ("0", "2"), ("1", "0"), ("1", "2"), ("2", "0"), ("2", "1")]
    assert pairs[-1] == Pair(cases[2], cases[1])
    assert pairs[1:3] == [pairs[1], pairs[2]]
    many = AllPairs([Case(Path(f"{i}.nii.gz")) for i in range(4000)])
    assert len(many) == 4000 * 3999
    assert many[len(many) - 1] == Pair(many.cases[3999], many.cases[3998])
    assert len(AllPairs([])) == len(AllPairs(cases[:1])) == 0


def test_a_file_that_has_changed_is_read_anew(tmp_path: Path) -> None:
    case = Case(tmp_path / "a.nii.gz")
    write_image(case.image, Volume(torch.rand(4, 4), np.eye(4)))
    first = read(case)
    assert read(case) is first
    write_image(case.image, Volume(torch.rand(5, 4), np.eye(4)))
    assert read(case).image.data.shape == (5, 4)


def test_the_identity_of_pairs_is_of_what_they_are_not_of_where(tmp_path: Path) -> None:
    for root in ("one", "two", "other sizes", "other names"):
        datasets.write(tmp_path / root, 4, (16, 18) if root == "other sizes" else (16, 16))
    (tmp_path / "other names" / "images" / "case2.nii.gz").rename(tmp_path / "other names" / "images" / "case9.nii.gz")
    (tmp_path / "other names" / "labels" / "case2.nii.gz").rename(tmp_path / "other names" / "labels" / "case9.nii.gz")
    one, two, *others = (
        find_pairs(tmp_path / root).identity() for root in ("one", "two", "other sizes", "other names")
    )
    assert one == two
    assert one.startswith("12 pairs, 0 for validation, ")
    others.append(find_pairs(tmp_path / "one", hold_out=2).identity())
    others.append(find_pairs(tmp_path / "one", atlas="case0").identity())
    others.append(find_pairs(tmp_path / "one" / "images").identity())
    assert len({one, *others}) == 6


@pytest.mark.parametrize(
    ("data", "options", "begins"),
    [
        ("absent", {}, "data: expected a folder, a CSV file or a dataset.json"),
        (
            "absent.csv",
            {},
            "data ({}): expected a table, in UTF-8 or in UTF-16 with a byte order mark, but there is no",
        ),
        ("empty", {}, "data: expected at least one pair"),
        ("scans", {"atlas": "case9"}, "atlas: expected one of the cases"),
        ("scans", {"hold_out": -1}, "hold_out: expected"),
        ("scans", {"hold_out": 1}, "hold_out: expected 0, or at least 2 of 4 cases"),
        ("scans", {"hold_out": 4}, "hold_out: expected to leave a pair to train on"),
        ("columns.csv", {}, "data: expected columns"),
        ("file.csv", {}, "data: expected the file"),
        ("split.csv", {}, "data: expected a value for each column"),
        ("short.csv", {}, "data: expected a value for each column"),
        ("long.csv", {}, "data: expected a value for each column"),
        ("none.csv", {}, "data: expected a value for each column"),
        ("twice.csv", {}, "data: expected each column once, got fixed twice"),
        (
            "latin.csv",
            {},
            "data ({}): expected a table, in UTF-8 or in UTF-16 with a byte order mark, but the file is of",
        ),
        ("roles", {"atlas": "case0"}, "atlas: expected a folder of cases, but"),
        ("split.csv", {"hold_out": 1}, "hold_out: expected 0"),
        ("split.csv", {"atlas": "case0"}, "atlas: expected a folder"),
        ("list.json", {}, "data: expected Learn2Reg's dataset.json"),
        ("file.json", {}, "data: expected the file"),
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
        "split.csv": "fixed,moving,split\na,b,held\n",
        "short.csv": "fixed,moving,split\na,b\n",
        "long.csv": "fixed,moving\na,b,c\n",
        "none.csv": "fixed,moving\na,\n",
        "twice.csv": "fixed,moving,Fixed\na,b,a\n",
        "list.json": "[1, 2]",
        "file.json": '{"training": [{"image": "absent.nii"}]}',
        "broken.json": "{",
    }.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "latin.csv").write_text("fixed,moving\nä,ö\n", encoding="latin-1")
    for role in ("fixed", "moving"):
        (tmp_path / "roles" / f"{role}_images").mkdir(parents=True)
    with pytest.raises(l2rfast.InputError) as caught:
        find_pairs(tmp_path / data, **options)
    assert str(caught.value).startswith(begins.format(tmp_path / data))


@pytest.mark.parametrize("text", ["", "1,2\n", "1,2,3,4\n", "a,b,c\n", "1,2,nan\n"])
def test_landmarks_that_are_none_are_named(text: str, tmp_path: Path) -> None:
    file = tmp_path / "landmarks.csv"
    file.write_text(text)
    with pytest.raises(l2rfast.InputError, match="expected lines of 3 comma-separated voxel coordinates"):
        l2rfast.io.read_landmarks(file, Volume(torch.zeros(4, 4, 4), np.eye(4)))


@pytest.mark.parametrize("ending", [".mha", ".nrrd", ".mgz", ".png", ".tif", ".jpg", ".NII", ".Nrrd"])
def test_images_of_any_format(tmp_path: Path, ending: str) -> None:
    found = files(tmp_path, *(f"images/{i}{ending}" for i in "ab"), "labels/a.png", "labels/b.png")
    assert labels(find_pairs(found)) == {"a": "a.png", "b": "b.png"}


def test_the_images_of_a_folder_are_of_one_format(tmp_path: Path) -> None:
    names = [f"{folder}/{i}{ending}" for folder in ("images", "labels") for i in "ab" for ending in (".mha", ".png")]
    with pytest.warns(InputWarning) as caught:
        pairs = find_pairs(files(tmp_path, *names))
    assert labels(pairs) == {"a": "a.mha", "b": "b.mha"}
    assert sorted(str(w.message) for w in caught) == [
        f"data: not used of {tmp_path / folder}: a.png, b.png" for folder in ("images", "labels")
    ]


@pytest.mark.parametrize(("header", "ending"), [(".mhd", ".raw"), (".mhd", ".zraw"), (".nhdr", ".raw.gz")])
def test_values_in_a_file_of_their_own_belong_to_their_header(tmp_path: Path, header: str, ending: str) -> None:
    names = [f"{i}{end}" for i in ("a", "a_seg", "b", "b_seg") for end in (header, ending)]
    assert labels(find_pairs(files(tmp_path, *names))) == {"a": f"a_seg{header}", "b": f"b_seg{header}"}


def test_a_dicom_series_in_a_table_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "1.2.840.1").mkdir()
    files(tmp_path, "1.2.840.1/slice.dcm", "a.nii.gz")
    table = datasets.table(tmp_path / "pairs.csv", [{"fixed": "1.2.840.1", "moving": "a.nii.gz"}])
    assert names(find_pairs(table).training) == [("1.2.840.1", "a")]


def test_channels_of_nnu_net_in_another_format(tmp_path: Path) -> None:
    files(tmp_path, *(f"imagesTr/{i}_0000.mha" for i in "ab"), "labelsTr/a.mha", "labelsTr/b.mha")
    assert labels(find_pairs(tmp_path)) == {"a_0000": "a.mha", "b_0000": "b.mha"}
