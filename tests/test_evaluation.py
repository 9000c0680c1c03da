"""``l2rfast evaluate``: what it measures, and what it writes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from runs import invoke
from typer.testing import CliRunner

import l2rfast
from l2rfast import cli, metrics
from l2rfast.data.synthetic import anatomies
from l2rfast.errors import InputWarning
from l2rfast.io import Volume, write_image
from l2rfast.methods.metrics import measures
from l2rfast.methods.result import Registration
from l2rfast.methods.training.cases import Scan


def evaluate(*arguments: str) -> tuple[int, str]:
    return invoke("evaluate", "--quiet", *arguments)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two 3-D pairs with labels and landmarks, and one with neither."""
    folder = tmp_path_factory.mktemp("scans")
    subjects = datasets.write(folder, 3, (48, 48, 48), structures=4, deformation=0.03)
    inner = [24, 16, 28]
    where = np.array(inner) + subjects[1].displacement[0, :, 24, 16, 28].numpy()
    (folder / "fixed.csv").write_text(",".join(map(str, inner)) + "\n")
    (folder / "moving.csv").write_text(",".join(map(str, where)) + "\n")
    rows = []
    for i in (1, 2):
        row = {"fixed": f"images/case{i}.nii.gz", "moving": "images/case0.nii.gz"}
        rows.append(row | {f"{role}_labels": row[role].replace("images", "labels") for role in row})
    points = {"fixed_landmarks": "fixed.csv", "moving_landmarks": "moving.csv"}
    without = dict.fromkeys(("fixed_labels", "moving_labels", *points), "")
    return datasets.table(
        folder / "pairs.csv",
        [rows[0] | points, rows[1] | dict.fromkeys(points, ""), {n: rows[0][n] for n in ("fixed", "moving")} | without],
    )


def test_the_files(table: Path, tmp_path: Path) -> None:
    assert evaluate(f"--data={table}", f"--out={tmp_path / 'out'}") == (0, "")
    files = [*(f"evaluation.{e}" for e in ("csv", "json", "png")), "report.html"]
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == files
    with (tmp_path / "out" / "evaluation.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["fixed"], row["moving"]) for row in rows] == [
        ("case1", "case0"),
        ("case2", "case0"),
        ("case1", "case0"),
    ]
    for row in rows[:2]:
        assert float(row["DSC"]) > float(row["DSC before"]) + 0.02
        assert float(row["HD95"]) < float(row["HD95 before"])
        by_label = [float(row[f"DSC {label}"]) for label in range(1, 5)]
        assert float(row["DSC"]) == pytest.approx(np.mean(by_label))
    assert float(rows[0]["TRE_lm"]) < float(rows[0]["TRE_lm before"])
    assert rows[1]["TRE_lm"] == rows[2]["DSC"] == "nan"
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())["discrete"]
    assert set(content) == {"case", "aggregates"}
    assert content["case"]["DSC"] == {"0": float(rows[0]["DSC"]), "1": float(rows[1]["DSC"]), "2": None}
    scores = [float(row["DSC"]) for row in rows[:2]]
    found = {kind: values["DSC"] for kind, values in content["aggregates"].items()}
    expected = {"mean": np.mean(scores), "std": np.std(scores, ddof=1), "30": np.quantile(scores, 0.3)}
    assert found == pytest.approx(expected)
    assert set(content["aggregates"]["mean"]) == {
        "DSC",
        "HD95",
        "TRE_lm",
        "LogJacDetStd",
        "num_foldings",
        "digital_foldings",
    }
    assert (tmp_path / "out" / "evaluation.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<tr>") > 3 + len(content["aggregates"]["mean"])
    assert f'<td class="n">{float(rows[0]["DSC"]):.4g}</td>' in page


@pytest.mark.parametrize("ending", [".mha", ".png"])
def test_images_and_labels_of_other_formats(ending: str, tmp_path: Path) -> None:
    """The same numbers as of the same scans in NIfTI."""
    shape = (40, 44) if ending == ".png" else (32, 34, 36)
    affine = np.diag([-1.0, -1, 1, 1])
    outcomes = []
    for end in (".nii.gz", ending):
        folder = tmp_path / end
        for i, subject in enumerate(anatomies(2, shape, structures=4)):
            for kind, data in (("images", subject.image * 250), ("labels", subject.labels)):
                (folder / kind).mkdir(parents=True, exist_ok=True)
                write_image(folder / kind / f"case{i}.nii.gz", Volume(data[0, 0].byte(), affine))
        for file in [*folder.rglob("*.nii.gz")] if end != ".nii.gz" else []:
            sitk.WriteImage(sitk.ReadImage(str(file)), str(file.with_name(file.name.replace(".nii.gz", ending))))
            file.unlink()
        assert evaluate(f"--data={folder}", f"--out={folder / 'out'}", "--preset=fast") == (0, "")
        with (folder / "out" / "evaluation.csv").open() as stream:
            outcomes.append([{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(stream)])
    assert len(outcomes[0]) == 2
    assert outcomes[0] == outcomes[1]


def test_pairs_that_are_kept_for_validation_are_the_ones(table: Path, tmp_path: Path) -> None:
    assert evaluate(f"--data={table}", f"--out={tmp_path}", "--preset=fast", "--hold-out=1") == (0, "")
    assert len((tmp_path / "evaluation.csv").read_text().splitlines()) == 2


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "evaluation.csv").open() as stream:
        return list(csv.DictReader(stream))


def small(folder: Path, name: str, shift: float = 0.0, seed: int = 0) -> str:
    """An image of 20 voxels each way that lies somewhere."""
    affine = np.eye(4)
    affine[0, 3] = shift
    image = torch.rand(20, 20, 20, generator=torch.Generator().manual_seed(seed))
    write_image(folder / name, Volume(image, affine))
    return name


def test_measures_that_the_first_pair_does_not_have(table: Path, tmp_path: Path) -> None:
    with table.open() as stream:
        first, second, third = csv.DictReader(stream)
    turned = datasets.table(table.parent / "turned.csv", [third, second, first])
    assert evaluate(f"--data={turned}", f"--out={tmp_path / 'a'}", "--preset=fast") == (0, "")
    assert evaluate(f"--data={table}", f"--out={tmp_path / 'b'}", "--preset=fast") == (0, "")
    a, b = (json.loads((tmp_path / name / "evaluation.json").read_text())["discrete"]["aggregates"] for name in "ab")
    assert {kind: {name: pytest.approx(value) for name, value in of.items()} for kind, of in a.items()} == b
    assert list(rows(tmp_path / "a")[0]) == list(rows(tmp_path / "b")[0])
    panels = [plt_panels(tmp_path / name) for name in "ab"]
    assert panels[0] == panels[1]


def plt_panels(out: Path) -> tuple[int, int]:
    """The size of the picture, which goes by the number of panels."""
    from matplotlib.image import imread

    height, width, _ = imread(out / "evaluation.png").shape
    return height, width


def test_the_table_on_the_terminal_has_every_measure(table: Path, tmp_path: Path) -> None:
    with table.open() as stream:
        first, _, third = csv.DictReader(stream)
    turned = datasets.table(table.parent / "two.csv", [third, first])
    result = CliRunner().invoke(cli.app, ["evaluate", f"--data={turned}", f"--out={tmp_path}", "--preset=fast"])
    assert result.exit_code == 0
    for name in ("DSC", "HD95", "TRE_lm", "LogJacDetStd", "num_foldings", "digital_foldings"):
        assert name in result.stderr


def test_landmarks_and_keypoints_are_measured_each(table: Path, tmp_path: Path) -> None:
    folder = table.parent
    (folder / "here.csv").write_text("20,22,18\n")
    (folder / "there.csv").write_text("20,22,21\n")
    row = {"fixed": "images/case1.nii.gz", "moving": "images/case0.nii.gz", "fixed_landmarks": "here.csv"}
    row |= {"moving_landmarks": "here.csv", "fixed_keypoints": "here.csv", "moving_keypoints": "there.csv"}
    file = datasets.table(folder / "points.csv", [row])
    assert evaluate(f"--data={file}", f"--out={tmp_path}", "--preset=fast") == (0, "")
    (found,) = rows(tmp_path)
    assert float(found["TRE_lm before"]) == pytest.approx(0, abs=1e-5)
    assert float(found["TRE_kp before"]) == pytest.approx(3, abs=1e-5)
    means = json.loads((tmp_path / "evaluation.json").read_text())["discrete"]["aggregates"]["mean"]
    assert means["TRE_kp"] == pytest.approx(float(found["TRE_kp"]))


def test_a_pair_that_fails_costs_its_own_row(tmp_path: Path) -> None:
    names = [small(tmp_path, f"{name}.nii.gz", seed=i) for i, name in enumerate("abc")]
    (tmp_path / names[1]).write_bytes(b"no")
    table = [{"fixed": names[i], "moving": names[j]} for i, j in ((0, 1), (0, 2))]
    code, error = evaluate(
        f"--data={datasets.table(tmp_path / 'p.csv', table)}", f"--out={tmp_path / 'out'}", "--preset=fast"
    )
    assert code == 1
    assert error.startswith(f"l2rfast: error: {tmp_path / 'a.nii.gz'}, {tmp_path / 'b.nii.gz'}: data (")
    assert error.count("\n") == 1
    failed, found = rows(tmp_path / "out")
    assert failed["LogJacDetStd"] == failed["seconds"] == "nan"
    assert f"l2rfast: error: {failed['error']}\n" == error
    assert found["error"] == ""
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())["discrete"]
    assert content["errors"] == {"0": failed["error"]}
    assert content["case"]["LogJacDetStd"] == {"0": None, "1": pytest.approx(float(found["LogJacDetStd"]))}
    assert content["aggregates"]["mean"]["LogJacDetStd"] == pytest.approx(float(found["LogJacDetStd"]))


def test_images_of_one_name_in_several_folders_have_rows_of_their_own(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"s{i}").mkdir()
        small(tmp_path, f"s{i}/t1.nii.gz", seed=i)
    write_image(tmp_path / "s2" / "t1.nii.gz", Volume(torch.rand(20, 20), np.eye(4)))
    table = datasets.table(tmp_path / "p.csv", [{"fixed": "s0/t1.nii.gz", "moving": f"s{i}/t1.nii.gz"} for i in (1, 2)])
    code, error = evaluate(f"--data={table}", f"--out={tmp_path / 'out'}", "--preset=fast")
    assert code == 1
    assert error.endswith("moving: expected 3 axes, as fixed has, got 2\n")
    found = [(row["fixed"], row["moving"]) for row in rows(tmp_path / "out")]
    assert found == [("t1", "s1/t1.nii.gz"), ("t1", "s2/t1.nii.gz")]


def test_where_all_fail_nothing_is_written(tmp_path: Path) -> None:
    small(tmp_path, "a.nii.gz")
    (tmp_path / "b.nii.gz").write_bytes(b"no")
    table = datasets.table(tmp_path / "p.csv", [{"fixed": "a.nii.gz", "moving": "b.nii.gz"}])
    code, error = evaluate(f"--data={table}", f"--out={tmp_path / 'out'}")
    assert code == 2
    assert error.startswith(f"l2rfast: error: {tmp_path / 'a.nii.gz'}, {tmp_path / 'b.nii.gz'}: data (")
    assert not (tmp_path / "out").exists()


def test_it_starts_as_register_does(tmp_path: Path) -> None:
    """Two images of the same, one of which its header puts half a metre away."""
    small(tmp_path, "a.nii.gz")
    small(tmp_path, "b.nii.gz", shift=500)
    for name, shift in (("a", 0.0), ("b", 500.0)):
        affine = np.eye(4)
        affine[0, 3] = shift
        labels = torch.zeros(20, 20, 20, dtype=torch.uint8)
        labels[5:12, 6:14, 4:11] = 1
        write_image(tmp_path / f"{name}_labels.nii.gz", Volume(labels, affine))
    row = {"fixed": "a.nii.gz", "moving": "b.nii.gz"}
    row |= {"fixed_labels": "a_labels.nii.gz", "moving_labels": "b_labels.nii.gz"}
    arguments = (f"--data={datasets.table(tmp_path / 'p.csv', [row])}", f"--out={tmp_path / 'out'}", "--preset=fast")
    code, error = evaluate(*arguments, "--init=none")
    assert code == 2
    assert "moving: expected an image that overlaps the fixed one, but it lies elsewhere" in error
    assert evaluate(*arguments, "--init=moments") == (0, "")
    assert float(rows(tmp_path / "out")[0]["DSC before"]) == pytest.approx(1)
    images = [tmp_path / f"{name}.nii.gz" for name in "ab"]
    expected = l2rfast.register(*images, preset="fast", init="moments").displacement
    assert float(rows(tmp_path / "out")[0]["LogJacDetStd"]) == pytest.approx(float(metrics.log_jacobian_std(expected)))


def test_pairs_for_validation_alone_or_for_the_test_alone(tmp_path: Path) -> None:
    names = [small(tmp_path, f"{name}.nii.gz", seed=i) for i, name in enumerate("abc")]
    row = {"fixed": names[0], "moving": names[1], "split": "validation"}
    table = datasets.table(tmp_path / "held.csv", [row])
    assert evaluate(f"--data={table}", f"--out={tmp_path / 'held'}", "--preset=fast") == (0, "")
    assert [found["moving"] for found in rows(tmp_path / "held")] == ["b"]
    content = {"training": [{"image": name} for name in names]}
    content["registration_test"] = [{"fixed": names[0], "moving": names[2]}]
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    code, error = evaluate(f"--data={tmp_path / 'dataset.json'}", f"--out={tmp_path / 'test'}", "--preset=fast")
    assert code == 0
    assert error.startswith("l2rfast: warning: --data: there are no pairs for validation in")
    content = json.loads((tmp_path / "test" / "evaluation.json").read_text())["discrete"]
    assert [f"l2rfast: warning: {text}" for text in content["warnings"]] == error.splitlines()
    assert [found["moving"] for found in rows(tmp_path / "test")] == ["c"]


def test_labels_that_moving_does_not_have_are_not_counted() -> None:
    """As in Learn2Reg's evaluation, which takes the mean over labels that are in both."""
    labels = torch.zeros(12, 12, 12, dtype=torch.uint8)
    labels[2:5], labels[6:9] = 1, 2
    without = torch.where(labels == 2, 0, labels)
    volumes = [Volume(x.float(), np.eye(4)) for x in (labels, without)]
    scans = [Scan(v, Volume(x, np.eye(4))) for v, x in zip(volumes, (labels, without), strict=True)]
    result = Registration(*[torch.zeros(1, 3, 12, 12, 12)] * 2, *volumes, {}, {})
    found = measures(result, *scans, surfaces=True)
    assert (found["DSC"], found["HD95"]) == (1, 0)
    nothing = Scan(volumes[1], Volume(torch.zeros_like(labels), np.eye(4)))
    with pytest.warns(InputWarning, match="no label in common: neither Dice nor HD95 is defined"):
        assert np.isnan(measures(result, scans[0], nothing)["DSC"])


@pytest.mark.parametrize("scale", [1, 2])
def test_measures_on_other_grids(scale: int) -> None:
    """A shift that is known, of a label map and landmarks whose voxels are half as far apart."""
    fixed_affine = np.diag([2.0, 2.0, 2.0, 1.0])
    moving_affine = np.diag([2.0 / scale] * 3 + [1.0])
    fixed_labels = torch.zeros(20, 20, 20, dtype=torch.uint8)
    fixed_labels[5:11, 6:12, 7:13] = 3
    whole = fixed_labels.roll((2, 0, -1), (0, 1, 2))
    moving_labels = whole
    if scale == 2:
        moving_labels = torch.zeros(39, 39, 39, dtype=torch.uint8)
        moving_labels[::2, ::2, ::2] = whole
    displacement = torch.tensor([2.0, 0, -1]).view(1, 3, 1, 1, 1).expand(1, 3, 20, 20, 20)
    volumes = [Volume(x.float(), a) for x, a in ((fixed_labels, fixed_affine), (moving_labels, moving_affine))]
    points = torch.tensor([[8.0, 8, 8], [10, 7, 12]])
    scans = [
        Scan(volumes[0], Volume(fixed_labels, fixed_affine), points),
        Scan(volumes[1], Volume(moving_labels, moving_affine), (points + torch.tensor([2.0, 0, -1.5])) * scale),
    ]
    result = Registration(displacement, -displacement, *volumes, {}, {})
    after = measures(result, *scans, surfaces=True)
    assert after == pytest.approx(
        {"DSC": 1.0, "HD95": 0.0, "TRE_lm": 1.0, "LogJacDetStd": 0.0, "num_foldings": 0.0, "digital_foldings": 0.0},
        abs=1e-5,
    )
    before = measures(result, *scans, surfaces=True, displaced=False)
    assert set(before) == {"DSC", "HD95", "TRE_lm"}
    assert before["TRE_lm"] == pytest.approx(2 * (4 + 1.5**2) ** 0.5)
    assert before["DSC"] == pytest.approx(metrics.dice(fixed_labels, whole)[3])


@pytest.mark.parametrize(
    ("arguments", "begins"),
    [
        (["--data=absent"], "--data: expected a folder"),
        (["--method=other"], "--method: expected one of"),
        (["--method=unsupervised"], "--weights: expected a file"),
        (["--preset=slow"], "--preset: expected"),
        (["--device=nowhere"], "--device: cannot use"),
    ],
)
def test_what_is_wrong_is_named(arguments: list[str], begins: str, table: Path, tmp_path: Path) -> None:
    code, error = evaluate(f"--data={table}", f"--out={tmp_path / 'out'}", *arguments)
    assert code == 2
    assert error.startswith(f"l2rfast: error: {begins}"), error
    assert not (tmp_path / "out").exists()


def test_the_command_line_and_python_measure_the_same(table: Path, tmp_path: Path) -> None:
    evaluate(f"--data={table}", f"--out={tmp_path}", "--preset=fast", "--hold-out=2")
    folder: Any = table.parent
    images = [l2rfast.io.read_image(folder / "images" / f"case{i}.nii.gz") for i in (2, 0)]
    labels = [l2rfast.io.read_labels(folder / "labels" / f"case{i}.nii.gz", images[0]) for i in (2, 0)]
    result = l2rfast.register(*images, preset="fast")
    expected = metrics.dice(labels[0].data, result.warp(labels[1].data, mode="nearest"))
    with (tmp_path / "evaluation.csv").open() as stream:
        row = next(csv.DictReader(stream))
    assert {label: float(row[f"DSC {label}"]) for label in expected} == pytest.approx(expected)


def test_what_only_one_of_a_pair_has_is_said(tmp_path: Path) -> None:
    datasets.write(tmp_path, 2, (16, 16))
    (tmp_path / "points.csv").write_text("1,2\n")
    row = {"fixed": "images/case0.nii.gz", "moving": "images/case1.nii.gz", "fixed_labels": "labels/case0.nii.gz"}
    table = datasets.table(tmp_path / "pairs.csv", [row | {"moving_landmarks": "points.csv"}])
    line = ["evaluate", "--data", str(table), "--out", str(tmp_path / "out"), "--preset", "fast", "--quiet"]
    done = CliRunner().invoke(cli.app, line)
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "out/evaluation.json").read_text())["discrete"]["warnings"] == [
        f"--data: {kind} of only one of case0 and case1: nothing is measured on them"
        for kind in ("labels", "landmarks")
    ]
