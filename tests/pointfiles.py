"""Files of points as other programs write them, and as those read them: in the current folder, in RAS millimetres."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.gifti import GiftiCoordSystem, GiftiDataArray, GiftiImage
from nibabel.streamlines import Tractogram
from test_world import oblique

FIXED, MOVING = oblique((20, 24, 22), 0), oblique((26, 21, 18), 1)
LPS = np.array([-1.0, -1.0, 1.0])
RAS = np.random.default_rng(5).uniform(-4, 4, (9, 3))


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


# How each is written and read, with which options, and what of it changes when its points do.
KINDS: dict[str, tuple[Callable[[np.ndarray], None], Callable[[str], np.ndarray], tuple[str, ...], bytes]] = {
    "csv": (csv, csv_back, ("--coordinates=lps",), rb"-?\d+\.\d+(e-\d+)?"),
    "fcsv": (fcsv, fcsv_back, (), rb"-?\d+\.\d+(e-\d+)?"),
    "mrk.json": (markups, markups_back, (), rb"-?\d+\.\d+(e-\d+)?|\s"),
    "surf.gii": (gifti, gifti_back, (), rb"<Data>.*?</Data>"),
    "vtk": (vtk, vtk_back, ("--coordinates=lps",), rb"-?\d+\.\d+(e-\d+)?"),
    "trk": (trk, streamlines_back, (), rb""),
    "tck": (tck, streamlines_back, (), rb""),
}
