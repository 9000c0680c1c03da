"""Points of images: the files of other programs, pairs, and distances before and after."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_initial import turned, world
from typer.testing import CliRunner

from l2rfast import InputError, cli
from l2rfast.data.brains import synthetic_pair
from l2rfast.errors import InputWarning
from l2rfast.io import Points, Volume, paired, read_points, read_pointset, write_image

AFFINE = world(20, 15, np.zeros(3)) @ np.diag([1.5, 1.0, 2.0, 1.0])
LIKE = Volume(torch.zeros(30, 40, 20), AFFINE)
VOXELS = np.array([[3.0, 4.5, 5.0], [20.0, 30.0, 11.25]])
RAS = VOXELS @ AFFINE[:3, :3].T + AFFINE[:3, 3]
LPS = RAS * [-1, -1, 1]
COLUMNS = "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"


def fcsv(places: np.ndarray, *head: str) -> str:
    rows = [f"vtkMRML{i},{x:.9g},{y:.9g},{z:.9g},0,0,0,1,1,1,0,F-{i},," for i, (x, y, z) in enumerate(places)]
    return "\n".join([*head, COLUMNS, *rows, ""])


def markups(places: np.ndarray, system: str) -> str:
    points = [{"label": f"F-{i}", "position": place.tolist()} for i, place in enumerate(places)]
    points.insert(1, {"label": "preview", "position": [0.0, 0.0, 0.0], "positionStatus": "preview"})
    return json.dumps({"markups": [{"type": "Fiducial", "coordinateSystem": system, "controlPoints": points}]})


def table(places: np.ndarray, head: str, end: str) -> str:
    return "\n".join([head, *(f"{x:.9g},{y:.9g},{z:.9g}{end.format(i)}" for i, (x, y, z) in enumerate(places))])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.fcsv", fcsv(LPS, "# Markups fiducial file version = 5.6", "# CoordinateSystem = LPS")),
        ("b.fcsv", fcsv(RAS, "# Markups fiducial file version = 4.10", "# CoordinateSystem = 0")),
        ("c.fcsv", fcsv(RAS, "# Markups fiducial file version = 4.11", "# CoordinateSystem = RAS")),
        ("d.fcsv", fcsv(LPS, "# CoordinateSystem = 1")),
        ("e.fcsv", fcsv(RAS)),
        ("a.mrk.json", markups(LPS, "LPS")),
        ("b.mrk.json", markups(RAS, "RAS")),
        ("ants.csv", table(LPS, "x,y,z,t,label", ",0,F-{}")),
        ("spaces.csv", "\ufeff" + table(LPS, "X, Y, Z, name", ", F-{}")),
    ],
)
def test_points_in_the_world(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    found = read_points("--fixed-landmarks", tmp_path / name, LIKE)
    np.testing.assert_allclose(found.voxels, VOXELS, atol=1e-5)
    assert found.names == ["F-0", "F-1"]


def test_all_markups_of_a_file_are_points(tmp_path: Path) -> None:
    """Each in its own coordinates; planes are none."""
    content = [json.loads(markups(places, system))["markups"][0] for places, system in ((LPS, "LPS"), (RAS, "RAS"))]
    (tmp_path / "a.mrk.json").write_text(json.dumps({"markups": content}))
    found = read_points("landmarks", tmp_path / "a.mrk.json", LIKE)
    np.testing.assert_allclose(found.voxels, [*VOXELS, *VOXELS], atol=1e-5)
    content[1]["type"] = "Plane"
    (tmp_path / "a.mrk.json").write_text(json.dumps({"markups": content}))
    with pytest.raises(InputError, match="a Plane, which is no set of points"):
        read_points("landmarks", tmp_path / "a.mrk.json", LIKE)


def test_a_name_with_half_a_pair_of_utf_16_is_written_as_it_was(tmp_path: Path) -> None:
    """JSON may have it, UTF-8 not."""
    (tmp_path / "a.mrk.json").write_text(markups(LPS, "LPS").replace("F-0", "\\ud800é"), encoding="utf-8")
    points = read_pointset(tmp_path / "a.mrk.json")
    points.write(tmp_path / "b.mrk.json")
    assert points.names[0] == "\ud800é"
    assert "\\ud800é" in (tmp_path / "b.mrk.json").read_text(encoding="utf-8")
    assert read_pointset(tmp_path / "b.mrk.json").names == points.names


def test_names_with_commas_and_quotation_marks(tmp_path: Path) -> None:
    rows = [f'"a, ""{i}""\n",{x:.9g},{y:.9g},{z:.9g}' for i, (x, y, z) in enumerate(LPS)]
    (tmp_path / "a.csv").write_text("\n".join(["label,x,y,z", *rows]))
    found = read_points("landmarks", tmp_path / "a.csv", LIKE)
    np.testing.assert_allclose(found.voxels, VOXELS, atol=1e-5)
    assert found.names == ['a, "0"', 'a, "1"']


def test_points_in_voxels_and_pixels(tmp_path: Path) -> None:
    (tmp_path / "voxels.csv").write_text("3,4.5,5\n20,30,11.25\n")
    found = read_points("landmarks", tmp_path / "voxels.csv", LIKE)
    assert (found.voxels.tolist(), found.names) == (VOXELS.tolist(), ["", ""])
    (tmp_path / "pixels.csv").write_text(",X,Y\n1,63,309\n2,77,441\n")
    picture = Volume(torch.zeros(400, 500), np.diag([-1.0, -1.0, 1.0, 1.0]))  # columns, rows
    assert read_points("landmarks", tmp_path / "pixels.csv", picture).voxels.tolist() == [[63, 309], [77, 441]]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.mrk.json", "{}"),
        ("b.mrk.json", markups(LPS, "IJK")),
        ("c.fcsv", "# CoordinateSystem = LPS\nvtk,1,2\n"),
        ("d.fcsv", ""),
        ("e.csv", "x,y,z\n1,2\n"),
        ("f.csv", "x,y,z\n1,2,nan\n"),
        ("g.csv", "x,y\n1,2\n"),
        ("absent.fcsv", None),
    ],
)
def test_files_that_hold_none_are_refused(name: str, text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=rf"^--fixed-landmarks \(.*{name}\): expected "):
        read_points("--fixed-landmarks", tmp_path / name, LIKE)


def test_points_outside_their_image_are_said(tmp_path: Path) -> None:
    (tmp_path / "a.fcsv").write_text(fcsv(LPS + 500.0, "# CoordinateSystem = LPS"))
    with pytest.warns(InputWarning, match="2 of 2 points lie outside their image"):
        read_points("landmarks", tmp_path / "a.fcsv", LIKE)


def test_pairs_are_by_name_or_by_row() -> None:
    one, other = torch.arange(9).view(3, 3).double(), 10 + torch.arange(12).view(4, 3).double()
    with pytest.warns(InputWarning, match="2 points have no partner, which is by name"):
        names, a, b = paired(Points(["x", "y", "z"], one), Points(["z", "w", "x", "v"], other))
    assert (names, a.tolist(), b.tolist()) == (["x", "z"], one[[0, 2]].tolist(), other[[2, 0]].tolist())
    for theirs in (["", "", "", ""], ["x", "x", "y", "z"]):
        with pytest.warns(InputWarning, match="1 points have no partner, which is by row"):
            names, a, b = paired(Points(["x", "y", "z"], one), Points(theirs, other))
        assert (names, b.tolist()) == (["x", "y", "z"], other[:3].tolist())
    with pytest.raises(InputError, match="expected a name that both have"):
        paired(Points(["x"], one[:1]), Points(["y"], one[:1]))


def test_the_distance_before_and_after_is_in_the_report(tmp_path: Path) -> None:
    """In mm, by the headers alone before, as the map is the result."""
    affine = np.diag([1.5, 1.5, 2.0, 1.0])
    image = synthetic_pair(40)["moving"]
    by = world(8, 5, np.array([30.0, 30.0, 40.0]))
    write_image(tmp_path / "fixed.nii.gz", Volume(image, affine))
    write_image(tmp_path / "moving.nii.gz", Volume(turned(image, affine, by), affine))
    fixed = np.array([[20.0, 30.0, 40.0], [35.0, 25.0, 50.0], [30.0, 40.0, 30.0]])
    moving = fixed @ by[:3, :3].T + by[:3, 3]
    (tmp_path / "f.fcsv").write_text(fcsv(fixed, "# CoordinateSystem = RAS"))
    (tmp_path / "m.mrk.json").write_text(markups(moving * [-1, -1, 1], "LPS"))
    files = [str(tmp_path / f"{name}.nii.gz") for name in ("fixed", "moving")]
    landmarks = [f"--fixed-landmarks={tmp_path / 'f.fcsv'}", f"--moving-landmarks={tmp_path / 'm.mrk.json'}"]
    command = ["register", *files, *landmarks, "--transform=rigid", f"--out={tmp_path / 'out'}", "--quiet"]
    result = CliRunner().invoke(cli.app, command)
    assert (result.exit_code, result.stderr) == (0, ""), result.exception
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert set(report["tre"]) == {"mean", "F-0", "F-1", "F-2"}
    apart = np.linalg.norm(fixed - moving, axis=1)
    np.testing.assert_allclose([report["tre"][f"F-{i}"][0] for i in range(3)], apart, rtol=1e-4)
    assert report["tre"]["mean"][0] == pytest.approx(apart.mean(), rel=1e-4)
    assert report["tre"]["mean"][1] < 0.5
    assert report["similarity"]["correlation"][0] < 0.8 < 0.95 < report["similarity"]["correlation"][1]
    assert "mean TRE of 3 landmarks, mm" in (tmp_path / "out/report.md").read_text()


def test_one_of_the_files_alone_is_refused(tmp_path: Path) -> None:
    command = ["register", "a.nii", "b.nii", f"--out={tmp_path / 'out'}", "--fixed-landmarks=a.csv"]
    result = CliRunner().invoke(cli.app, command)
    assert result.exit_code == 2
    assert "--fixed-landmarks, --moving-landmarks: expected both or neither" in result.stderr
