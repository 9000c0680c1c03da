"""``l2rfast apply-points``: ITK takes points to the same places, and the rest of their files stays as it is.

tests/golden/points is made by VTK 9.7.2: ``vtkSphereSource`` (4 by 4, of radius 5, about 3, -4, 6) with point scalars
``thickness`` and cell data ``label``, through ``vtkPolyDataWriter`` (``SetFileVersion`` 51 as text and binary; 42 as
binary with the header that 3D Slicer gives it) and ``vtkXMLPolyDataWriter``, with Slicer's field ``SPACE``, LPS:
``text`` as text, ``base64`` and ``lzma`` as binary, ``zlib`` and ``raw`` appended; ``raw`` is big-endian and as it is,
it and ``lzma`` have 64-bit headers.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nibabel.gifti import GiftiCoordSystem, GiftiDataArray, GiftiImage
from nibabel.streamlines import Tractogram
from test_world import affine, oblique, smooth
from typer.testing import CliRunner, Result

from l2rfast import InputError, cli
from l2rfast.errors import InputWarning
from l2rfast.io import read_pointset, write_affine, write_displacement
from l2rfast.world import Displacement, Grid, compose, followed

GOLDEN = Path(__file__).parent / "golden" / "points"
FIXED, MOVING = oblique((20, 24, 22), 0), oblique((26, 21, 18), 1)
LPS = np.array([-1.0, -1.0, 1.0])
RAS = np.random.default_rng(5).uniform(-4, 4, (9, 3))
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


# Files as other programs write them, and as those read them: each in RAS millimetres.


def csv(points: np.ndarray) -> None:
    rows = [f'"{x:.9g}", {z:.9g},"a ""b"", {i}",{y:.9g},7\r\n' for i, (x, y, z) in enumerate(points * LPS)]
    Path("points.csv").write_bytes(("\ufeffX,z,label,Y,t\r\n" + "".join(rows)).encode())


def csv_back(path: str) -> np.ndarray:
    lines = [re.fullmatch(r'"(.+)", (.+),"a ""b"", (\d)",(.+),7', x) for x in Path(path).read_text().splitlines()[1:]]
    return LPS * [[float(line[column]) for column in (1, 4, 2)] for line in lines if line is not None]


def fcsv(points: np.ndarray) -> None:
    head = "# Markups fiducial file version = 4.10\n# CoordinateSystem = 0\n# columns = id,x,y,z,ow,label,desc\n"
    rows = [f'vtk{i},{x:.9g},{y:.9g},{z:.9g},1,F#{i},"a, b"\n' for i, (x, y, z) in enumerate(points)]
    Path("points.fcsv").write_text(head + "".join(rows))


def fcsv_back(path: str) -> np.ndarray:
    return np.loadtxt(path, delimiter=",", usecols=(1, 2, 3), skiprows=3, comments=None, quotechar='"')


def markups(points: np.ndarray) -> None:
    control = [{"id": str(i), "label": "ä", "position": list(point)} for i, point in enumerate(points * LPS)]
    preview = {"id": "p", "position": [0.0, 0.0, 0.0], "positionStatus": "preview"}
    nodes = [
        {"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": [*control[:4], preview]},
        {"type": "Curve", "coordinateSystem": "RAS", "coordinateUnits": "mm", "controlPoints": control[4:]},
    ]
    for each in control[4:]:
        each["position"] = list(np.array(each["position"]) * LPS)
    Path("points.mrk.json").write_text(
        json.dumps({"@schema": "markups-schema-v1.0.3.json#", "markups": nodes}, ensure_ascii=False)
    )


def markups_back(path: str) -> np.ndarray:
    first, second = json.loads(Path(path).read_text())["markups"]
    assert first["controlPoints"][4] == {"id": "p", "position": [0.0, 0.0, 0.0], "positionStatus": "preview"}
    found = [LPS * point["position"] for point in first["controlPoints"][:4]]
    return np.array([*found, *(point["position"] for point in second["controlPoints"])])


def gifti(points: np.ndarray, encoding: str = "GIFTI_ENCODING_B64GZ", system: GiftiCoordSystem | None = None) -> None:
    """Two arrays of points, the second in float64, before and after other ones."""
    system = system or GiftiCoordSystem(1, 4, np.diag([2.0, 2, 2, 1]))
    triangles = np.array([[0, 1, 2], [1, 2, 3]], "i4")
    faces = GiftiDataArray(triangles, "NIFTI_INTENT_TRIANGLE", "NIFTI_TYPE_INT32", encoding)
    shape = GiftiDataArray(np.arange(4, dtype="f4"), "NIFTI_INTENT_SHAPE", "NIFTI_TYPE_FLOAT32", encoding)
    sets = [
        GiftiDataArray(part.astype(kind), "NIFTI_INTENT_POINTSET", datatype, encoding, coordsys=system, meta={"a": "b"})
        for part, kind, datatype in (
            (points[:4], "f4", "NIFTI_TYPE_FLOAT32"),
            (points[4:], "f8", "NIFTI_TYPE_FLOAT64"),
        )
    ]
    image = GiftiImage(darrays=[sets[0], faces, shape, sets[1]])
    Path("points.surf.gii").write_bytes(image.to_xml(mode="force"))  # float64 too


def gifti_back(path: str) -> np.ndarray:
    return np.concatenate([array.data for array in nib.load(path).get_arrays_from_intent(1008)])


def vtk(points: np.ndarray, binary: bool = False) -> None:
    """As ITK writes them, in LPS, of an older version, between other things."""
    block = (
        (points * LPS).astype(">f8").tobytes()
        if binary
        else "\n".join(" ".join(f"{value:.17g}" for value in row) for row in points * LPS).encode()
    )
    head = f"# vtk DataFile Version 3.0\nvtk output\n{'BINARY' if binary else 'ASCII'}\nDATASET POLYDATA\n"
    Path("points.vtk").write_bytes(
        head.encode() + b"POINTS 9 double\n" + block + b"\n\nPOLYGONS 1 4\n3 0 1 2\nPOINT_DATA 9\nSCALARS a int 1\n"
    )


def vtk_back(path: str) -> np.ndarray:
    block = re.split(rb"POINTS 9 double\n|\n\nPOLYGONS", Path(path).read_bytes())[1]
    numbers = np.frombuffer(block, ">f8") if b"BINARY" in Path(path).read_bytes() else np.array(block.split(), float)
    return numbers.reshape(-1, 3) * LPS


HEADER = {
    "voxel_to_rasmm": FIXED.affine.astype("f4"),
    "voxel_sizes": np.array(FIXED.spacing, "f4"),
    "dimensions": np.array(FIXED.shape, "i2"),
    "voxel_order": "".join(nib.aff2axcodes(FIXED.affine)),
}


def streamlines(points: np.ndarray) -> Tractogram:
    """Of four points, one and four."""
    lines = [points[:4], points[4:5], points[5:]]
    return Tractogram([line.astype("f4") for line in lines], affine_to_rasmm=np.eye(4))


def trk(points: np.ndarray) -> None:
    tractogram = streamlines(points)
    tractogram.data_per_point["fa"] = [np.arange(n, dtype="f4")[:, None] for n in (4, 1, 4)]
    tractogram.data_per_streamline["weight"] = np.array([[1.0, 2], [3, 4], [5, 6]], "f4")
    nib.streamlines.save(tractogram, "points.trk", header=HEADER)


def tck(points: np.ndarray) -> None:
    nib.streamlines.save(streamlines(points), "points.tck")


def streamlines_back(path: str) -> np.ndarray:
    found = nib.streamlines.load(path)
    assert [len(line) for line in found.streamlines] == [4, 1, 4]
    return np.concatenate(list(found.streamlines))


KINDS: dict[str, tuple[Callable[[np.ndarray], None], Callable[[str], np.ndarray], tuple[str, ...], bytes]] = {
    "csv": (csv, csv_back, ("--coordinates=lps",), rb"-?\d+\.\d+(e-\d+)?"),
    "fcsv": (fcsv, fcsv_back, (), rb"-?\d+\.\d+(e-\d+)?"),
    "mrk.json": (markups, markups_back, (), rb"-?\d+\.\d+(e-\d+)?|\s"),
    "surf.gii": (gifti, gifti_back, (), rb"<Data>.*?</Data>"),
    "vtk": (vtk, vtk_back, ("--coordinates=lps",), rb"-?\d+\.\d+(e-\d+)?"),
    "trk": (trk, streamlines_back, (), rb""),
    "tck": (tck, streamlines_back, (), rb""),
}


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


def surface(dataspace: str, transformed: str, matrix: np.ndarray, meta: dict[str, str]) -> None:
    """By hand: big-endian, columns one after the other, two coordinate systems, as gifticlib takes."""
    data = base64.b64encode(RAS.astype(">f4").tobytes("F")).decode()
    meta_text = "".join(
        f"<MD><Name><![CDATA[{name}]]></Name><Value><![CDATA[{value}]]></Value></MD>" for name, value in meta.items()
    )
    systems = "".join(
        f"<CoordinateSystemTransformMatrix><DataSpace><![CDATA[{own}]]></DataSpace><TransformedSpace><![CDATA[{to}]]>"
        f"</TransformedSpace><MatrixData>{' '.join(map(str, numbers.ravel()))}</MatrixData>"
        "</CoordinateSystemTransformMatrix>"
        for own, to, numbers in (
            (dataspace, transformed, matrix),
            (dataspace, "NIFTI_XFORM_TALAIRACH", np.diag([3.0, 3, 3, 1])),
        )
    )
    Path("points.surf.gii").write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE GIFTI SYSTEM "http://www.nitrc.org/frs/download.php/115/gifti.dtd">'
        '\n<GIFTI Version="1.0" NumberOfDataArrays="1"><MetaData/><LabelTable/>\n<DataArray '
        'Intent="NIFTI_INTENT_POINTSET" DataType="NIFTI_TYPE_FLOAT32" ArrayIndexingOrder="ColumnMajorOrder" '
        'Dimensionality="2" Dim0="9" Dim1="3" Encoding="Base64Binary" Endian="BigEndian" ExternalFileName="" '
        f'ExternalFileOffset="">\n<MetaData>{meta_text}</MetaData>{systems}<Data>{data}</Data></DataArray></GIFTI>\n'
    )


# An oblique image of unequal voxels, and by its header, as nibabel has it, from surface RAS to scanner RAS.
MGH = nib.MGHImage(np.zeros(MOVING.shape, np.float32), MOVING.affine).header
VOLUME = {
    **{
        f"VolGeom{axis}_{row}": f"{MGH['Mdc'][i, j]:.6f}" for i, axis in enumerate("XYZ") for j, row in enumerate("RAS")
    },
    **{f"VolGeomC_{row}": f"{value:.6f}" for row, value in zip("RAS", MGH["Pxyz_c"] + [5, -6, 7], strict=True)},
}
TKREGISTER = MGH.get_vox2ras() @ np.linalg.inv(MGH.get_vox2ras_tkr())
TKREGISTER[:3, 3] += [5, -6, 7]
UNKNOWN, SCANNER = "NIFTI_XFORM_UNKNOWN", "NIFTI_XFORM_SCANNER_ANAT"


@pytest.mark.parametrize(
    ("own", "other", "matrix", "meta", "how"),
    [
        (UNKNOWN, SCANNER, TKREGISTER, {"Name": "lh.white"}, "the matrix of its coordinate system"),
        (UNKNOWN, SCANNER, TKREGISTER, VOLUME, "the matrix of its coordinate system"),
        (UNKNOWN, UNKNOWN, np.eye(4), VOLUME, r"the place of its image \(VolGeom\)"),
    ],
)
def test_freesurfers_surfaces_are_brought_to_the_scanner_and_back(
    files: Path, own: str, other: str, matrix: np.ndarray, meta: dict[str, str], how: str
) -> None:
    surface(own, other, matrix, meta)
    world = RAS @ TKREGISTER[:3, :3].T + TKREGISTER[:3, 3]
    with pytest.warns(InputWarning, match=f"its numbers are FreeSurfer's surface RAS, brought to scanner RAS by {how}"):
        found = read_pointset("points.surf.gii")
    np.testing.assert_allclose(found.points, world, atol=2e-5)
    shifted = world + np.array([1, 2, 3])
    found.replaced(torch.from_numpy(shifted)).write("moved.surf.gii")
    array = nib.load("moved.surf.gii").darrays[0]
    np.testing.assert_allclose(
        array.data, (shifted - TKREGISTER[:3, 3]) @ np.linalg.inv(TKREGISTER[:3, :3]).T, atol=2e-5
    )
    assert Path("moved.surf.gii").read_text().count("<CoordinateSystemTransformMatrix>") == 2


def test_surfaces_of_the_scanner_are_as_they_are(files: Path) -> None:
    surface(SCANNER, UNKNOWN, np.linalg.inv(TKREGISTER), VOLUME)
    np.testing.assert_allclose(read_pointset("points.surf.gii").points, RAS, atol=1e-5)
    with pytest.raises(InputError, match="expected no --coordinates lps: the file says itself"):
        read_pointset("points.surf.gii", coordinates="lps")


def test_a_sphere_is_said(files: Path) -> None:
    surface(SCANNER, SCANNER, np.eye(4), {"GeometricType": "Spherical"})
    with pytest.warns(InputWarning, match="kind Spherical, whose points are no places of an image"):
        read_pointset("points.surf.gii")


def test_the_inverse_of_an_inverse_is_the_transform(files: Path) -> None:
    fcsv(RAS)
    said = done("points.fcsv", "--transform=inverse:itk:affine.txt", "--out=moved.fcsv", "--from=moving")
    assert said == "9 points of the moving image -> fixed image, through itk:affine.txt\n"
    matrix = affine().array
    np.testing.assert_allclose(fcsv_back("moved.fcsv"), RAS @ matrix[:3, :3].T + matrix[:3, 3], atol=1e-6)
    said = done("points.fcsv", "--transform=inverse:affine.txt", "--out=moved.fcsv")
    assert said == "9 points of the fixed image -> moving image, through the inverse of affine.txt\n"


def test_a_surface_that_does_not_say_where_it_is(files: Path) -> None:
    surface(UNKNOWN, UNKNOWN, np.eye(4), {})
    with pytest.warns(InputWarning, match="does not say in which coordinates it is: taken for scanner RAS"):
        found = read_pointset("points.surf.gii")
    np.testing.assert_allclose(found.points, RAS, atol=1e-5)
    for coordinates, flip in (("ras", 1), ("lps", LPS)):  # which nobody doubts then
        np.testing.assert_allclose(
            read_pointset("points.surf.gii", coordinates=coordinates).points, RAS * flip, atol=1e-5
        )


def test_a_surface_that_says_two_things_is_refused(files: Path) -> None:
    """Moved to the scanner by a program that has put the middle of the image to 0, and left the matrix."""
    surface(UNKNOWN, SCANNER, TKREGISTER, {**VOLUME, "VolGeomC_R": "0", "VolGeomC_A": "0", "VolGeomC_S": "0"})
    with pytest.raises(InputError, match=r"differ by .* mm; --coordinates ras says that its numbers are in scanner"):
        read_pointset("points.surf.gii")
    np.testing.assert_allclose(read_pointset("points.surf.gii", coordinates="ras").points, RAS, atol=1e-5)


@pytest.mark.parametrize(("name", "flip"), [("text51", LPS), ("binary51", LPS), ("binary42", 1)])
def test_vtks_own_files(files: Path, name: str, flip: np.ndarray | int) -> None:
    """The poles of the sphere are its first points; what is not their numbers stays, to the byte."""
    data = (GOLDEN / f"{name}.vtk").read_bytes()
    Path("points.vtk").write_bytes(data)
    with pytest.warns(InputWarning, match="NORMALS of the file stay as they are"):
        found = read_pointset("points.vtk", coordinates=None if name == "binary42" else "lps")
    assert len(found.points) == 10
    np.testing.assert_allclose(found.points[:2].numpy() * flip, [[3, -4, 11], [3, -4, 1]], atol=1e-5)
    found.replaced(found.points).write("same.vtk")
    if "binary" in name:
        assert Path("same.vtk").read_bytes() == data
    else:
        assert Path("same.vtk").read_text().split() == data.decode().split()
    found.replaced(found.points + 1).write("moved.vtk")
    moved = Path("moved.vtk").read_bytes()
    assert moved[: moved.index(b"POINTS")] == data[: data.index(b"POINTS")]
    assert moved[moved.index(b"POLYGONS") :] == data[data.index(b"POLYGONS") :]


XML = ("text", "base64", "zlib", "raw", "lzma")


@pytest.mark.parametrize("name", XML)
def test_vtks_files_of_xml(files: Path, name: str) -> None:
    data = (GOLDEN / f"{name}.vtp").read_bytes()
    Path("points.vtp").write_bytes(data)
    with pytest.warns(InputWarning, match="normals, vectors and tensors of the file stay as they are"):
        found = read_pointset("points.vtp")
    assert len(found.points) == 10
    np.testing.assert_allclose(found.points[:2].numpy() * LPS, [[3, -4, 11], [3, -4, 1]], atol=1e-5)
    found.replaced(found.points + 1).write("moved.vtp")
    moved = Path("moved.vtp").read_bytes()
    points = rb"(?s)<Points>.*?</Points>"
    assert re.sub(points, b"", moved) == re.sub(points, b"", data)
    with pytest.warns(InputWarning, match="normals, vectors and tensors"):
        again = read_pointset("moved.vtp")
    np.testing.assert_allclose(again.points, found.points + 1, atol=1e-5)


if find_spec("vtkmodules"):  # large, and no part of the tests' packages

    @pytest.mark.parametrize("name", XML)
    def test_vtk_reads_what_was_written(files: Path, name: str) -> None:
        from vtkmodules import vtkIOXML as xml

        Path("points.vtp").write_bytes((GOLDEN / f"{name}.vtp").read_bytes())
        with pytest.warns(InputWarning, match="normals, vectors and tensors"):
            found = read_pointset("points.vtp")
        found.replaced(found.points + 1).write("moved.vtp")
        meshes = []
        for file in ("points.vtp", "moved.vtp"):
            reader = xml.vtkXMLPolyDataReader()
            reader.SetFileName(file)
            reader.Update()
            meshes.append(reader.GetOutput())
        before, after = meshes
        places = [[mesh.GetPoint(i) for i in range(mesh.GetNumberOfPoints())] for mesh in meshes]
        np.testing.assert_allclose(places[1], places[0] + np.array([-1, -1, 1]), atol=1e-5)
        assert after.GetNumberOfPolys() == before.GetNumberOfPolys() > 0
        assert [after.GetPointData().GetArray("thickness").GetValue(i) for i in range(10)] == list(range(10))
        assert after.GetFieldData().GetAbstractArray("SPACE").GetValue(0) == "LPS"


def test_a_slicer_model_says_itself_what_it_is(files: Path) -> None:
    Path("points.vtk").write_bytes((GOLDEN / "binary42.vtk").read_bytes())
    with (
        pytest.warns(InputWarning),
        pytest.raises(InputError, match="expected no --coordinates lps: the file says"),
    ):
        read_pointset("points.vtk", coordinates="lps")


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


def test_damaged_streamlines_and_surfaces_are_refused(files: Path) -> None:
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
    for name, old, new, sentence in (
        ("zlib", b'offset="', b'offset="99999', "fewer numbers than its header says"),
        ("zlib", b'NumberOfPoints="10"', b'NumberOfPoints="999999999999"', "999999999999 points and 30 numbers in it"),
        ("zlib", b"AQAAAACAAA", b"/////wCAAA", "fewer numbers than its header says"),
        ("base64", b'type="Float32" Name="Points"', b'type="Int32" Name="Points"', "points of Int32"),
        ("text", b'type="Float32" Name="Points" ', b'Name="Points" ', "expected VTK's file of a surface, got 'type'"),
    ):
        data = (GOLDEN / f"{name}.vtp").read_bytes()
        assert old in data
        Path("damaged.vtp").write_bytes(data.replace(old, new))
        with pytest.raises(InputError, match=sentence):
            read_pointset("damaged.vtp")
    gifti(RAS)
    xml = Path("points.surf.gii").read_text()
    for damaged, sentence in (
        (xml[: len(xml) // 2], "expected a surface in GIFTI"),
        (xml.replace("POINTSET", "SHAPE"), "no array of intent NIFTI_INTENT_POINTSET"),
        (xml.replace('Dim0="4"', 'Dim0="400000000"'), "expected a surface in GIFTI"),
    ):
        Path("damaged.gii").write_text(damaged)
        with pytest.raises(InputError, match=sentence):
            read_pointset("damaged.gii")


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
    with pytest.raises(InputError, match="points: expected finite ones"):
        read_pointset("points.fcsv").replaced(torch.full((9, 3), float("nan")))
