"""VTK's XML files of surfaces and lines (.vtp), read and written by VTK, which nothing else needs.

3D Slicer says by a string SPACE among the field data whether a model is LPS or RAS; nothing else says it. Arrays and
cells stay; how the numbers are encoded and compressed is up to VTK. Checked with VTK 9.7.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError, notice
from .stored import SYSTEMS, Format, Stored

_MODULES = ("vtkCommonCore", "vtkIOXML", "util.numpy_support")


def _read(path: Path, asked: str | None) -> Stored:
    try:
        core, xml, numpy_support = (import_module(f"vtkmodules.{name}") for name in _MODULES)
    except ImportError as error:
        raise InputError("expected VTK, which reads .vtp, to be installed: pip install vtk") from error
    reader, said = xml.vtkXMLPolyDataReader(), list[str]()
    for each in (reader, reader.GetOutputDataObject(0)):
        if each is not None:
            each.AddObserver("ErrorEvent", lambda *_: said.append("the file is damaged"))
    reader.SetFileName(str(path))
    if not reader.CanReadFile(str(path)):
        raise ValueError("another kind of file")
    reader.Update()
    mesh: Any = reader.GetOutput()
    if said or mesh.GetPoints() is None:
        raise ValueError(said[0] if said else "no points in it")
    numbers = numpy_support.vtk_to_numpy(mesh.GetPoints().GetData())
    data = mesh.GetPointData()
    if data.GetNormals() is not None or data.GetVectors() is not None or data.GetTensors() is not None:
        notice(f"{path}: normals, vectors and tensors of the file stay as they are: directions are not turned")
    space = mesh.GetFieldData().GetAbstractArray("SPACE")
    system = "" if space is None or not space.GetNumberOfValues() else str(space.GetValue(0)).strip().lower()

    def write(path: Path, values: np.ndarray) -> None:
        points = core.vtkPoints()
        points.SetData(numpy_support.numpy_to_vtk(values.astype(numbers.dtype), deep=True))
        mesh.SetPoints(points)
        writer = xml.vtkXMLPolyDataWriter()
        writer.SetFileName(str(path))
        writer.SetInputData(mesh)
        if not writer.Write():
            raise OSError(f"VTK could not write {path}")

    return Stored(numbers.astype(np.float64), SYSTEMS.get(system), [""] * len(numbers), write)


FORMAT = Format("VTK's file of a surface", (".vtp",), _read)
