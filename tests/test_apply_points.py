"""``l2rfast apply-points``: ITK takes points to the same places, and the rest of their files stays as it is."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from pointfiles import FIXED, KINDS, LPS, MOVING, RAS, csv, fcsv, fcsv_back, gifti, gifti_back, trk, vtk, vtk_back
from test_world import affine, smooth
from typer.testing import CliRunner, Result

from l2rfast import InputError, cli
from l2rfast.errors import InputWarning
from l2rfast.io import read_pointset, write_affine, write_displacement
from l2rfast.world import Displacement, Grid, compose, followed

FIELD, AFFINE = "--transform=field.nii.gz", "--transform=affine.txt"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, ["apply-points", *arguments])


def done(*arguments: str) -> str:
    result = run(*arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    nib.save(nib.Nifti1Image(np.zeros(FIXED.shape, np.float32), FIXED.affine), "fixed.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros(MOVING.shape, np.float32), MOVING.affine), "moving.nii.gz")
    write_displacement("field.nii.gz", smooth(FIXED.shape, 0.7), FIXED.affine)
    write_affine("affine.txt", affine().array)
    return tmp_path


def by_itk(points: np.ndarray) -> np.ndarray:
    """Through the field, then through the affine map, in RAS millimetres."""
    field = sitk.ReadImage("field.nii.gz", sitk.sitkVectorFloat64)
    chain = sitk.CompositeTransform([sitk.ReadTransform("affine.txt"), sitk.DisplacementFieldTransform(field)])
    return np.array([chain.TransformPoint(point * LPS) for point in points]) * LPS


@pytest.mark.parametrize("kind", KINDS)
def test_itk_takes_points_to_the_same_places(files: Path, kind: str) -> None:
    write, read, options, numbers = KINDS[kind]
    write(RAS)
    said = done(f"points.{kind}", FIELD, AFFINE, f"--out=moved.{kind}", *options)
    assert said == "9 points of the fixed image -> moving image, through field.nii.gz, then affine.txt\n"
    np.testing.assert_allclose(read(f"moved.{kind}"), by_itk(RAS), atol=2e-5)
    before, after = (Path(f"{name}.{kind}").read_bytes() for name in ("points", "moved"))
    if numbers:
        assert re.sub(numbers, b"", after, flags=re.S) == re.sub(numbers, b"", before, flags=re.S)
    else:
        assert len(after) == len(before)
    # And back, over itself.
    said = done(f"moved.{kind}", FIELD, AFFINE, f"--out=moved.{kind}", "--from=moving", *options)
    way = "through the inverse of affine.txt, then the inverse of field.nii.gz"
    assert said == f"9 points of the moving image -> fixed image, {way}\n"
    np.testing.assert_allclose(read(f"moved.{kind}"), RAS, atol=1e-3)
    assert not [path for path in files.iterdir() if path.name.startswith(".")]


def test_voxels_of_one_image_become_those_of_the_other(files: Path) -> None:
    voxels = (RAS - FIXED.affine[:3, 3]) @ np.linalg.inv(FIXED.affine[:3, :3]).T
    lines = [",".join(f"{value:.12g}" for value in row) + "  # a, b" for row in voxels]
    Path("points.csv").write_text("\n".join(["# i, j, k", *lines, ""]))
    images = ("--coordinates=voxels", "--fixed=fixed.nii.gz", "--moving=moving.nii.gz")
    done("points.csv", FIELD, AFFINE, "--out=moved.csv", *images)
    moved = np.loadtxt("moved.csv", delimiter=",")
    np.testing.assert_allclose(moved @ MOVING.affine[:3, :3].T + MOVING.affine[:3, 3], by_itk(RAS), atol=2e-5)
    assert Path("moved.csv").read_text().count("  # a, b\n") == 9
    done("moved.csv", FIELD, AFFINE, "--out=back.csv", "--from=moving", *images)
    np.testing.assert_allclose(np.loadtxt("back.csv", delimiter=","), voxels, atol=1e-3)
    result = run("points.csv", FIELD, AFFINE, "--out=none.csv", *images[:2])
    assert (result.exit_code, Path("none.csv").exists()) == (2, False)
    assert "--coordinates voxels: expected the image that the points go to" in result.stderr


def test_pixels_of_a_slice_stay_two_numbers(files: Path) -> None:
    grid = Grid((20, 24), np.diag([1.5, 2.0, 1.0, 1.0]))
    nib.save(nib.Nifti1Image(np.zeros(grid.shape, np.float32), grid.affine), "slice.nii.gz")
    write_displacement("slice_field.nii.gz", torch.full((1, 2, *grid.shape), 2.0), grid.affine)
    Path("points.csv").write_text("x,y\n3,4\n10.5,6\n")
    images = ("--coordinates=voxels", "--fixed=slice.nii.gz", "--moving=slice.nii.gz")
    done("points.csv", "--transform=slice_field.nii.gz", "--out=moved.csv", *images)
    assert Path("moved.csv").read_text() == "x,y\n5,6\n12.5,8\n"


@pytest.mark.parametrize("encoding", ["ASCII", "B64BIN", "B64GZ"])
def test_every_encoding_of_gifti(files: Path, encoding: str) -> None:
    gifti(RAS, f"GIFTI_ENCODING_{encoding}")
    done("points.surf.gii", FIELD, AFFINE, "--out=moved.gii")
    np.testing.assert_allclose(gifti_back("moved.gii"), by_itk(RAS), atol=1e-5)
    moved = nib.load("moved.gii").darrays
    assert [array.data.dtype for array in moved] == ["f4", "i4", "f4", "f8"]
    assert moved[0].coordsys.xform[0, 0] == 2
    assert moved[0].meta == {"a": "b"}


def test_the_inverse_of_an_inverse_is_the_transform(files: Path) -> None:
    fcsv(RAS)
    said = done("points.fcsv", "--transform=inverse:itk:affine.txt", "--out=moved.fcsv", "--from=moving")
    assert said == "9 points of the moving image -> fixed image, through itk:affine.txt\n"
    matrix = affine().array
    np.testing.assert_allclose(fcsv_back("moved.fcsv"), RAS @ matrix[:3, :3].T + matrix[:3, 3], atol=1e-6)
    said = done("points.fcsv", "--transform=inverse:affine.txt", "--out=moved.fcsv")
    assert said == "9 points of the fixed image -> moving image, through the inverse of affine.txt\n"


def test_binary_vtk(files: Path) -> None:
    vtk(RAS, binary=True)
    done("points.vtk", FIELD, AFFINE, "--out=moved.vtk", "--coordinates=lps")
    np.testing.assert_allclose(vtk_back("moved.vtk"), by_itk(RAS), atol=1e-6)


@pytest.mark.parametrize("datatype", ["Float32LE", "Float32BE", "Float64LE", "Float64BE"])
def test_a_header_of_mrtrix_stays(files: Path, datatype: str) -> None:
    """Repeated keys and colons, which nibabel does not write; and what lies behind the end."""
    head = "mrtrix tracks\ntimestamp: 2026-11-27T09:30:00\ncommand_history: tckgen a b\ncommand_history: tcksift a b\n"
    head += f"datatype: {datatype}\ncount: 2\nfile: . 300\nEND\n"
    kind = {"32": "f4", "64": "f8"}[datatype[5:7]]
    nan = np.full((1, 3), np.nan)
    numbers = np.concatenate([RAS[:5], nan, RAS[5:], nan, np.full((1, 3), np.inf)])
    numbers = numbers.astype(f"{'>' if 'BE' in datatype else '<'}{kind}")
    data = head.encode().ljust(300, b"\0") + numbers.tobytes()
    Path("points.tck").write_bytes(data)
    done("points.tck", FIELD, AFFINE, "--out=moved.tck")
    moved = Path("moved.tck").read_bytes()
    assert (moved[:300], len(moved)) == (data[:300], len(data))
    found = np.frombuffer(moved, numbers.dtype, offset=300).reshape(-1, 3)
    np.testing.assert_allclose(found[[*range(5), *range(6, 10)]], by_itk(RAS), atol=1e-5)
    np.testing.assert_array_equal(np.isnan(found).all(1), np.isnan(numbers).all(1))


def test_a_header_of_trackvis_stays(files: Path) -> None:
    """Of an oblique image whose voxels are in another order than the matrix; its scalars and properties too."""
    trk(RAS)
    data = bytearray(Path("points.trk").read_bytes())
    at = 948  # the order of voxels
    order = "".join(nib.aff2axcodes(FIXED.affine))
    opposite = order.translate(str.maketrans("RLAPSI", "LRPAIS"))
    data[at : at + 3] = opposite.encode()
    Path("points.trk").write_bytes(data)
    world = np.concatenate(list(nib.streamlines.load("points.trk").streamlines))
    moved = read_pointset("points.trk")
    np.testing.assert_allclose(moved.points, world, atol=1e-5)
    moved.replaced(moved.points + 1).write("moved.trk")
    after = nib.streamlines.load("moved.trk")
    np.testing.assert_allclose(np.concatenate(list(after.streamlines)), world + 1, atol=1e-5)
    assert Path("moved.trk").read_bytes()[:1000] == bytes(data[:1000])
    assert np.concatenate(list(after.tractogram.data_per_point["fa"])).ravel().tolist() == [0, 1, 2, 3, 0, 0, 1, 2, 3]
    assert after.tractogram.data_per_streamline["weight"].tolist() == [[1, 2], [3, 4], [5, 6]]


def test_trackvis_without_an_order_of_voxels(files: Path) -> None:
    trk(RAS)
    data = Path("points.trk").read_bytes()
    Path("points.trk").write_bytes(data[:948] + bytes(4) + data[952:])
    with pytest.warns(InputWarning, match="points.trk: Voxel order is not specified, will assume 'LPS'"):
        found = read_pointset("points.trk")
    Path("points.trk").write_bytes(data[:948] + b"LPS\0" + data[952:])
    np.testing.assert_array_equal(found.points, read_pointset("points.trk").points)


def test_points_beyond_a_field_are_said(files: Path) -> None:
    Path("points.csv").write_text("x,y,z\n0,0,0\n100,0,0\n0,-80,0\n")
    result = run("points.csv", FIELD, "--out=moved.csv", "--coordinates=ras")
    assert result.exit_code == 0
    said = "points.csv: 2 of 3 points lie outside of the grid of a field, which goes on as at its border"
    assert result.stderr == f"l2rfast: warning: {said}\n"


def test_the_field_that_a_point_has_left() -> None:
    """The second field of a chain, and an inverse, of which the place it leads to counts."""
    grid = Grid((8, 8, 8), np.eye(4))
    shift = torch.zeros(1, 3, 8, 8, 8)
    shift[:, 0] = 5.0
    field = Displacement(shift, grid.affine)
    points = torch.tensor([[1.0, 4, 4], [4.0, 4, 4], [11.0, 4, 4]], dtype=torch.float64)
    assert followed(field, points)[1].tolist() == [True, True, False]
    assert followed(compose(field, field), points)[1].tolist() == [True, False, False]
    moved, inside, off = followed(field.inverse, points)
    assert off.max() < 1e-3
    np.testing.assert_allclose(moved, points - torch.tensor([5.0, 0, 0]), atol=1e-3)
    assert inside.tolist() == [False, False, True]
    flat = Displacement(torch.zeros(1, 2, 8, 8), grid.affine)
    assert followed(flat, torch.tensor([[1.0, 1, 50]], dtype=torch.float64))[1].tolist() == [True]


def test_points_that_nothing_comes_from_are_said(files: Path) -> None:
    """All of the field's grid goes to one half of it, twice."""
    shift = torch.zeros(1, 3, *FIXED.shape)
    shift[0, 0] = 2 * (torch.arange(20.0)[:, None, None] - 10).abs() - torch.arange(20.0)[:, None, None]
    write_displacement("folded.nii.gz", shift, FIXED.affine)
    voxels = [[-8.0, 12, 11], [4.0, 12, 11]]  # the first below all that the field reaches
    Path("points.csv").write_text("\n".join(",".join(map(str, row)) for row in voxels))
    images = ("--coordinates=voxels", "--fixed=fixed.nii.gz", "--moving=fixed.nii.gz")
    result = run("points.csv", "--transform=folded.nii.gz", "--from=moving", "--out=moved.csv", *images)
    assert result.exit_code == 0
    assert "1 of 2 points have no place in the other image, as a field folds there" in result.stderr


def text(name: str, content: str | bytes) -> str:
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return name


ASCII = "# vtk DataFile Version 3.0\nt\nASCII\nDATASET POLYDATA\n"
MRTRIX = "mrtrix tracks\ndatatype: Float32LE\nfile: . 60\nEND\n"
REFUSED: dict[str, tuple[str, str | bytes, str]] = {
    "another kind of file": ("a.ply", "ply\n", "expected a file of points, whose name ends with one of .csv, .fcsv"),
    "NaN": ("a.csv", "x,y,z\n1,2,3\n1,nan,3\n", r"expected finite points, got \[1.0, nan, 3.0\] as the 2. of 2"),
    "empty table": ("a.csv", "", "expected points, got none"),
    "a table without rows": ("a.csv", "x,y,z\n", "expected points, got none"),
    "missing columns": ("a.csv", "a,b,c\n1,2,3\n", "expected a table of points, got .*no columns x and y"),
    "the same column twice": ("a.csv", "x,y,y\n1,2,3\n", "the columns x, y, y; expected x, y and z, each once"),
    "a short row": ("a.csv", "x,y,z\n1,2\n", "3 columns and a line of 2"),
    "words for numbers": ("a.csv", "x,y,z\n1,2,three\n", "could not convert string to float: 'three'"),
    "one column": ("a.csv", "1\n2\n", "expected points of 2 or 3 axes, got 1"),
    "no text": ("a.csv", b"\xff\xfe1\0,\0", "expected a table of points, got .*utf-8"),
    "fcsv of another system": ("a.fcsv", "# CoordinateSystem = IJK\n1,2,3,4\n", "system 'IJK'; expected LPS or RAS"),
    "fcsv, short": ("a.fcsv", "1,2,3\n", "a line without coordinates"),
    "json of another kind": ("a.mrk.json", "[]", "expected 3D Slicer's markups, got"),
    "json, cut": ("a.mrk.json", '{"markups": [', "expected 3D Slicer's markups, got"),
    "a plane": ("a.mrk.json", '{"markups": [{"type": "Plane", "controlPoints": []}]}', "got a Plane, which is no set"),
    "metres": (
        "a.mrk.json",
        '{"markups": [{"coordinateUnits": "m", "controlPoints": []}]}',
        "the units m; expected",
    ),
    "no GIFTI": ("a.gii", "points", "expected a surface in GIFTI, got"),
    "no VTK": ("a.vtk", "points", "no legacy file of VTK's"),
    "an image of VTK's": ("a.vtk", ASCII.replace("POLYDATA", "STRUCTURED_POINTS"), "a STRUCTURED_POINTS, which has no"),
    "points of integers": (
        "a.vtk",
        f"{ASCII}POINTS 1 int\n1 2 3\n",
        "no points of float or double .*, but of int",
    ),
    "too few numbers": ("a.vtk", f"{ASCII}POINTS 2 float\n1 2 3\nPOLYGONS 0 0\n", "2 points and 3 numbers in it"),
    "too few bytes": (
        "a.vtk",
        f"{ASCII.replace('ASCII', 'BINARY')}POINTS 99999999999 float\n",
        "99999999999 points and fewer in it: the file is damaged",
    ),
    "no XML of VTK's": ("a.vtp", "<a/>", "expected VTK's file of a surface, got a file of None"),
    "XML of a volume": ("a.vtp", '<VTKFile type="ImageData">', "a file of ImageData"),
    "XML without points": ("a.vtp", '<VTKFile type="PolyData"><PolyData/></VTKFile>', "no points in it"),
    "XML by LZ4": ("a.vtp", '<VTKFile type="PolyData" compressor="vtkLZ4DataCompressor">', "by vtkLZ4DataCompressor"),
    "no TRK": ("a.trk", b"TRACK" + bytes(1000), "expected streamlines of TrackVis, got"),
    "no TCK": ("a.tck", "tracks", "expected streamlines of MRtrix, got no header"),
    "TCK of integers": ("a.tck", MRTRIX.replace("Float32LE", "Int32LE"), "datatype 'Int32LE'"),
    "TCK elsewhere": ("a.tck", MRTRIX.replace(". 60", "other.dat 60"), "file 'other.dat 60'"),
    "TCK, cut": ("a.tck", MRTRIX.encode().ljust(60) + bytes(24), "no end of its streamlines: the file is damaged"),
    "TCK, header alone": ("a.tck", MRTRIX, "numbers that begin at 60, of 49 bytes: the file is damaged"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(files: Path, name: str) -> None:
    path, content, sentence = REFUSED[name]
    text(path, content)
    result = run(path, FIELD, f"--out=moved{Path(path).suffix}", *(["--coordinates=ras"] if ".csv" in path else []))
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert re.match(rf"l2rfast: error: POINTS \({path}\): .*{sentence}", result.stderr)
    assert not list(files.glob("moved*"))


def test_damaged_streamlines_are_refused(files: Path) -> None:
    trk(RAS)
    whole = Path("points.trk").read_bytes()
    for damaged, sentence in (
        (whole[:-8], "a streamline of 4 points: the file is damaged"),
        (whole[:-3], "a size that does not fit"),
        (whole[: 1000 + 4 * (1 + 4 * 4 + 2)], "3 streamlines in its header and 1 in it"),
        (whole[:1000] + b"\xff\xff\xff\xff" + whole[1004:], "expected streamlines of TrackVis"),
        (whole[:1076] + b"\xff\xff\xff\xff" + whole[1080:], "a streamline of -1 points"),
        (whole[:440] + bytes(64) + whole[504:], "a header without the matrix"),
        (whole[:12] + bytes(4) + whole[16:], "voxels of size"),
        (whole[:500], "expected streamlines of TrackVis"),
    ):
        Path("damaged.trk").write_bytes(damaged)
        with pytest.raises(InputError, match=sentence):
            read_pointset("damaged.trk")


def test_arguments_that_are_refused(files: Path) -> None:
    csv(RAS)
    for arguments, sentence in (
        (
            (FIELD,),
            "POINTS (points.csv): expected --coordinates voxels, ras, lps: the file does not say in which",
        ),
        ((FIELD, "--coordinates=mm"), "--coordinates: expected one of voxels, ras, lps, got 'mm'"),
        ((FIELD, "--coordinates=voxels"), "--coordinates voxels: expected the image that"),
        ((FIELD, "--coordinates=ras", "--from=here"), "--from: expected fixed or moving, got 'here'"),
        (("--coordinates=ras",), "--transform: expected one or more, got none"),
        ((FIELD, "--coordinates=ras", "--out=moved.fcsv"), "moved.fcsv: expected a name that ends with .csv"),
        ((FIELD, "--coordinates=ras", "--out=none/moved.csv"), "none/moved.csv: expected a file that can be written"),
    ):
        result = run("points.csv", "--out=moved.csv", *arguments)
        assert result.exit_code == 2
        assert sentence in result.stderr
    assert "expected a table of points, got No such file" in run("absent.csv", FIELD, "--out=a.csv").stderr
    fcsv(RAS)
    for coordinates in ("lps", "voxels"):
        with pytest.raises(InputError, match="the file says itself that it is in others"):
            read_pointset("points.fcsv", coordinates=coordinates)
    assert len(read_pointset("points.fcsv", coordinates="ras").points) == 9
    with pytest.raises(InputError, match="points: expected places that are finite"):
        read_pointset("points.fcsv").replaced(torch.full((9, 3), float("nan")))
