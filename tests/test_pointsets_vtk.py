"""VTK's surfaces, in its legacy files and in XML: what it writes itself, and what it reads of ours.

tests/golden/points is made by VTK 9.7.2: ``vtkSphereSource`` (4 by 4, of radius 5, about 3, -4, 6) with point scalars
``thickness`` and cell data ``label``, through ``vtkPolyDataWriter`` (``SetFileVersion`` 51 as text and binary; 42 as
binary with the header that 3D Slicer gives it) and ``vtkXMLPolyDataWriter``, with Slicer's field ``SPACE``, LPS:
``text`` as text, ``base64`` and ``lzma`` as binary, ``zlib`` and ``raw`` appended; ``raw`` is big-endian and as it is,
it and ``lzma`` have 64-bit headers.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from pointfiles import LPS

from l2rfast import InputError
from l2rfast.errors import InputWarning
from l2rfast.io import read_pointset

GOLDEN = Path(__file__).parent / "golden" / "points"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("name", "flip"), [("text51", LPS), ("binary51", LPS), ("binary42", 1)])
def test_vtks_own_files(name: str, flip: np.ndarray | int) -> None:
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
def test_vtks_files_of_xml(name: str) -> None:
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
    def test_vtk_reads_what_was_written(name: str) -> None:
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


def test_a_slicer_model_says_itself_what_it_is() -> None:
    Path("points.vtk").write_bytes((GOLDEN / "binary42.vtk").read_bytes())
    with (
        pytest.warns(InputWarning),
        pytest.raises(InputError, match="expected no --coordinates lps: the file says"),
    ):
        read_pointset("points.vtk", coordinates="lps")


def test_damaged_xml_is_refused() -> None:
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
