"""Surfaces in GIFTI (.gii): the arrays of intent POINTSET, each in millimetres of a system that is RAS.

- An array says by its coordinate systems in which one it is: scanner, aligned, Talairach and MNI coordinates are the
  world's. An unknown one that comes with a matrix to scanner or aligned coordinates is brought there by it, and back.
- FreeSurfer 7.4 and later writes that; earlier ones write the surface's own RAS (tkregister's, whose origin is the
  middle of the image) as unknown, and the image's place as VolGeom... among the metadata: from these comes the matrix.
  Where both are and disagree, as after a shift that only one of them was told, the file is refused.
- Of one that says nothing at all nobody can know; it is taken for scanner coordinates, which is said. With
  ``--coordinates`` the numbers are what it says, whatever the metadata say.

nibabel reads it. It does not write it, as it keeps one coordinate system of several, and six decimals of its matrix:
only the text of the numbers is replaced, in their own encoding. Checked with nibabel 5.4 and, for what FreeSurfer
means, against its sources (utils/gifti.cpp of 7.4) and a hand-worked example; FreeSurfer itself was not run.
"""

from __future__ import annotations

import base64
import math
import re
import warnings
import zlib
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree
from xml.parsers.expat import ExpatError

import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.gifti.gifti import GiftiDataArray, GiftiImage

from ...errors import notice
from .stored import Format, Stored, replaced

# Parts that hold no start of another: each is looked for once.
_ARRAY = re.compile(rb"<DataArray\b[^<]*(?:<(?!/?DataArray\b)[^<]*)*</DataArray>")
_DATA = re.compile(rb"<Data>([^<]*)</Data>")
_START = re.compile(rb"<DataArray\b([^<>]*)>")
_ATTRIBUTE = re.compile(rb"""(\w+)\s*=\s*["']([^"'<>]*)["']""")
_ENCODING = re.compile(rb"""<\?xml[^<>]*\bencoding\s*=\s*["']([^"'<>]*)["']""")
_AXES = 6
_POINTSET = 1008
_WORLD = tuple(f"NIFTI_XFORM_{name}" for name in ("SCANNER_ANAT", "ALIGNED_ANAT", "TALAIRACH", "MNI_152"))
_PLACED = _WORLD[:2]
_NEAR = 0.01  # mm by which two matrices may differ at a point: they have six decimals
_ASCII, _BASE64, _ZIPPED = 1, 2, 3
_NOWHERE = ("Inflated", "VeryInflated", "Spherical", "SemiSpherical", "Ellipsoid", "Flat")  # kinds of surfaces


def _read(path: Path, asked: str | None) -> Stored:
    data = path.read_bytes()
    try:
        _check(data)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Actual # of data arrays")  # another than the file says
            image = GiftiImage.from_bytes(data)  # which, as it has no folder, opens no other file
    except (ExpatError, ImageFileError, AssertionError, UserWarning, zlib.error) as error:
        raise ValueError(str(error)) from error
    blocks = list(_ARRAY.finditer(data))
    if not isinstance(image, GiftiImage) or len(blocks) != len(image.darrays):
        raise ValueError("no GIFTI, or arrays within others")
    pairs = [(b, a) for b, a in zip(blocks, image.darrays, strict=True) if a.intent == _POINTSET]
    if not pairs:
        raise ValueError("no array of intent NIFTI_INTENT_POINTSET, as surfaces have")
    texts, values, frames, placed = [], [], [], False
    for block, array in pairs:
        text = _DATA.search(data, block.start(), block.end())
        if text is None or array.encoding not in (_ASCII, _BASE64, _ZIPPED):
            raise ValueError("numbers in a file of their own")
        if array.data is None or array.data.ndim != 2 or array.data.shape[1] != 3:
            raise ValueError(f"points of shape {None if array.data is None else array.data.shape}")
        texts.append(text)
        values.append(array.data.astype(np.float64))
        said = _system(block[0])
        placed |= said.world
        if said.kind in _NOWHERE:
            notice(f"{path}: a surface of the kind {said.kind}, whose points are no places of an image")
        frames.append(np.eye(4) if asked else _frame(path, said, values[-1]))
    if any(array.intent == 1007 for array in image.darrays):
        notice(f"{path}: vectors of the file stay as they are: directions are not turned")
    ends = np.cumsum([len(each) for each in values])[:-1]

    def write(path: Path, moved: np.ndarray) -> None:
        pieces = [
            (text.start(1), text.end(1), _encoded(array, _applied(np.linalg.inv(frame), each)))
            for text, (_, array), frame, each in zip(texts, pairs, frames, np.split(moved, ends), strict=True)
        ]
        path.write_bytes(replaced(data, pieces))

    world = np.concatenate([_applied(frame, each) for frame, each in zip(frames, values, strict=True)])
    return Stored(world, None if asked and not placed else np.eye(4), [""] * len(world), write)


def _check(data: bytes) -> None:
    """What nibabel would take at its word, however large: the number of axes, and what is packed.

    Raises:
        ValueError: there is no such array.
    """
    said = _ENCODING.match(data)
    if b"\0" in data or b"<!ENTITY" in data or (said and said[1].lower() not in (b"utf-8", b"us-ascii", b"iso-8859-1")):
        raise ValueError("XML of another encoding, or with definitions of its own")
    starts = list(_START.finditer(data))
    for start, end in pairwise([*(each.start() for each in starts), len(data)]):
        found = _START.match(data, start)
        assert found is not None
        of = dict(_ATTRIBUTE.findall(found[1]))
        axes = int(of.get(b"Dimensionality", b"0"))
        if not 0 <= axes <= _AXES:
            raise ValueError(f"an array of {axes} axes")
        if of.get(b"Encoding") != b"GZipBase64Binary":
            continue
        sizes = [int(of.get(b"Dim%d" % axis, b"0")) for axis in range(axes)]
        begin, close = data.find(b"<Data>", start, end), data.find(b"</Data>", start, end)
        if begin >= 0 and close >= 0:
            room = 8 * math.prod(sizes)  # bytes of no number are more
            unpack = zlib.decompressobj()
            if room < 0 or len(unpack.decompress(base64.b64decode(data[begin + 6 : close]), room + 1)) > room:
                raise ValueError(f"more numbers than those of an array of {sizes}")


class System(NamedTuple):
    """What an array says of its coordinates.

    Attributes:
        kind: of the surface, empty where it does not say.
        world: that they are the world's.
        matrices: (4, 4) from them to the world, by where they stand.
    """

    kind: str
    world: bool
    matrices: dict[str, np.ndarray]


def _system(block: bytes) -> System:
    try:
        array = ElementTree.fromstring(block)  # noqa: S314  one element, before which nothing can define an entity
    except ElementTree.ParseError as error:  # of what is defined elsewhere in the file
        raise ValueError(str(error)) from error
    meta = {md.findtext("Name", "").strip(): md.findtext("Value", "").strip() for md in array.iter("MD")}
    found, kind = dict[str, np.ndarray](), meta.get("GeometricType", "")
    for system in array.findall("CoordinateSystemTransformMatrix"):
        own, other = ((system.findtext(name) or "").strip() for name in ("DataSpace", "TransformedSpace"))
        if own in _WORLD:
            return System(kind, True, {})
        if other in _PLACED:
            matrix = np.array((system.findtext("MatrixData") or "").split(), np.float64).reshape(4, 4)
            if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:3, :3])) < 1e-6:
                raise ValueError("a coordinate system whose matrix is singular")
            found["the matrix of its coordinate system"] = matrix
    if "VolGeomC_R" in meta:
        found["the place of its image (VolGeom)"] = _tkregister(meta)
    return System(kind, False, found)


def _frame(path: Path, said: System, points: np.ndarray) -> np.ndarray:
    """(4, 4) from the numbers of an array to RAS millimetres of its image."""
    if said.world:
        return np.eye(4)
    if not said.matrices:
        notice(f"{path}: it does not say in which coordinates it is: taken for scanner RAS (--coordinates ras)")
        return np.eye(4)
    (how, frame), *rest = said.matrices.items()
    for other, theirs in rest:
        apart = np.linalg.norm(_applied(frame, points) - _applied(theirs, points), axis=1)
        if len(apart) and apart.max() > _NEAR:
            raise ValueError(
                f"{how} and {other} that differ by {apart.max():.3g} mm; --coordinates ras says that its numbers are "
                "in scanner RAS"
            )
    if not np.allclose(frame, np.eye(4), atol=1e-5):
        notice(f"{path}: its numbers are FreeSurfer's surface RAS, brought to scanner RAS by {how}, and back")
    return frame


def _tkregister(meta: dict[str, str]) -> np.ndarray:
    """From the middle of an image along its axes, as tkregister names them, to scanner RAS.

    Its x is the first axis of voxels backwards, its y the third and its z the second backwards, wherever these point.
    """
    axes = np.array([[float(meta[f"VolGeom{axis}_{row}"]) for axis in "XYZ"] for row in "RAS"])
    named = np.array([[-1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    frame = np.eye(4)
    frame[:3, :3] = axes @ named.T
    frame[:3, 3] = [float(meta[f"VolGeomC_{row}"]) for row in "RAS"]
    return frame


def _applied(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    moved: np.ndarray = points @ matrix[:3, :3].T + matrix[:3, 3]
    return moved


def _encoded(array: GiftiDataArray, values: np.ndarray) -> bytes:
    """Numbers as the array has them."""
    assert array.data is not None
    kind = array.data.dtype  # in the order of bytes of the file
    if array.encoding == _ASCII:
        digits = "%.17g" if kind.itemsize > 4 else "%.9g"
        return "\n".join(" ".join(digits % number for number in row) for row in values.tolist()).encode()
    block = values.astype(kind).tobytes("C" if array.ind_ord == 1 else "F")
    return base64.b64encode(zlib.compress(block) if array.encoding == _ZIPPED else block)


FORMAT = Format("a surface in GIFTI", (".gii",), _read)
