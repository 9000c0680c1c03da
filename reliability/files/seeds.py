"""Files that can be read, small, of every format: what is damaged. Made here, but those that other programs made."""

from __future__ import annotations

import gzip
import json
import locale
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from nibabel.streamlines import Tractogram

from l2rfast import io
from l2rfast.world import Affine, Composite, Displacement, Grid, compose

Make = Callable[[Path], object]

GOLDEN = Path(__file__).parents[2] / "tests" / "golden"
AFFINE = np.diag([-1.5, -1.0, 2.0, 1.0])
AFFINE[:3, 3] = 20, 31, -7.5
FIXED, MOVING = Grid((7, 6, 5), AFFINE), Grid((7, 6, 5), np.diag([1.0, 1.2, 1.5, 1.0]))
LINEAR = Affine(np.array([[1.1, 0.1, 0, 3], [-0.1, 0.9, 0, -2], [0, 0.05, 1, 1], [0, 0, 0, 1]]))
_RANDOM = np.random.default_rng(7)
FIELD = Displacement(torch.from_numpy(_RANDOM.normal(0, 0.3, (1, 3, *FIXED.size)).astype(np.float32)), FIXED.affine)
CHAIN = compose(LINEAR, FIELD)
VALUES = _RANDOM.integers(-900, 900, FIXED.size).astype(np.int16)
LABELS = np.zeros(FIXED.size, np.uint8)
LABELS[2:5, 1:4, 1:3], LABELS[5:, 4:, 3:] = 1, 2
SLICE = io.Volume(torch.from_numpy(VALUES[:, :, 0].astype(np.float32)).T.contiguous(), np.diag([-1.0, -1.0, 1.0, 1.0]))
LIKE = io.Volume(torch.from_numpy(VALUES.astype(np.float32)), FIXED.affine)
POINTS = _RANDOM.uniform(-4, 4, (9, 3))


def golden(name: str) -> Make:
    """A file that another program made; unpacked where its name says so."""

    def make(path: Path) -> None:
        data = (GOLDEN / name).read_bytes()
        path.write_bytes(gzip.decompress(data) if name.endswith(".gz") and path.suffix != ".gz" else data)

    return make


def nifti(dtype: Any = np.int16, *, slope: float | None = None, extension: bool = False, endian: str = "<") -> Make:
    """An image; 2 has other header bits than 1."""

    def make(path: Path) -> None:
        image = nib.Nifti1Image(VALUES.astype(dtype), AFFINE, nib.Nifti1Header(endianness=endian))
        image.set_sform(AFFINE, 1)
        if slope is not None:
            image.header.set_slope_inter(slope, 1)
        if extension:
            image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"a comment"))
        nib.save(image, path)

    return make


def nifti2(path: Path) -> None:
    nib.save(nib.Nifti2Image(VALUES, AFFINE), path)


def labels(path: Path) -> None:
    image = nib.Nifti1Image(LABELS, AFFINE)
    image.set_sform(AFFINE, 1)
    nib.save(image, path)


def mgh(path: Path) -> None:
    nib.save(nib.MGHImage(VALUES, AFFINE), path)


def brik(path: Path) -> None:
    """AFNI's header, as text, with the values beside."""
    origin = (np.diag([-1, -1, 1]) @ AFFINE[:3, 3]).tolist()
    numbers = {
        "DATASET_DIMENSIONS": ("integer", [*FIXED.size, 0, 0]), "BRICK_TYPES": ("integer", [1]),
        "DATASET_RANK": ("integer", [3, 1, 0, 0, 0, 0, 0, 0]), "ORIENT_SPECIFIC": ("integer", [0, 3, 4]),
        "ORIGIN": ("float", origin), "DELTA": ("float", [1.5, 1.0, 2.0]), "BRICK_FLOAT_FACS": ("float", [0.0]),
        "IJK_TO_DICOM_REAL": ("float", (np.diag([-1, -1, 1, 1]) @ AFFINE)[:3].ravel().tolist()),
        "SCENE_DATA": ("integer", [0, 2, 0, -999, -999, -999, -999, -999]),
    }  # fmt: skip
    parts = [
        f"type = {kind}-attribute\nname = {name}\ncount = {len(values)}\n {' '.join(map(str, values))}\n\n"
        for name, (kind, values) in numbers.items()
    ]
    parts.append("type = string-attribute\nname = BYTEORDER_STRING\ncount = 10\n'LSB_FIRST~\n\n")
    parts.append("type = string-attribute\nname = TYPESTRING\ncount = 15\n'3DIM_HEAD_ANAT~\n\n")
    path.write_text("".join(parts).removesuffix("\n"))
    path.with_suffix(".BRIK").write_bytes(VALUES.tobytes("F"))


def analyze(path: Path) -> None:
    nib.save(nib.Nifti1Pair(VALUES, AFFINE), path.with_suffix(".img"))


def itk_image(compressed: bool = False) -> Make:
    def make(path: Path) -> None:
        import SimpleITK as sitk

        image = sitk.GetImageFromArray(VALUES.T)
        image.SetSpacing([1.5, 1.0, 2.0])
        sitk.WriteImage(image, str(path), compressed)

    return make


def dicom(folder: Path, names: tuple[str, ...] = ("a.dcm", "b.dcm", "c.dcm")) -> None:
    """A series of slices."""
    import SimpleITK as sitk

    before = locale.setlocale(locale.LC_ALL)  # which SimpleITK leaves as "C", see findings/simpleitk_locale.sh

    folder.mkdir(exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k, name in enumerate(names):
        image = sitk.GetImageFromArray(VALUES[:, :, k].T[None])
        tags = {
            "0008|0016": "1.2.840.10008.5.1.4.1.1.4", "0008|0018": f"1.2.3.4.{k + 1}", "0008|0060": "MR",
            "0020|000d": "1.2.3", "0020|000e": "1.2.3.4", "0020|0013": str(k),
            "0020|0032": f"1\\2\\{2 * k}", "0020|0037": "1\\0\\0\\0\\1\\0",
        }  # fmt: skip
        for tag, text in tags.items():
            image.SetMetaData(tag, text)
        writer.SetFileName(str(folder / f"{name}.dcm"))
        writer.Execute(image)
        (folder / f"{name}.dcm").rename(folder / name)
    locale.setlocale(locale.LC_ALL, before)


def dicom_slice(path: Path) -> None:
    dicom(path.parent, (path.name,))


def picture(mode: str = "L", **options: Any) -> Make:
    """By Pillow."""

    def make(path: Path) -> None:
        from PIL import Image

        if mode == "I;16":
            image = Image.fromarray((VALUES[:, :, 0] + 900).astype(np.uint16))
        else:
            image = Image.fromarray((VALUES[:, :, 0] % 256).astype(np.uint8)).convert(mode)
        image.save(path, **options)

    return make


def tiff(dtype: Any = np.float64, **options: Any) -> Make:
    """By tifffile, of numbers that Pillow does not read."""

    def make(path: Path) -> None:
        import tifffile

        tifffile.imwrite(path, VALUES[:, :, 0].astype(dtype), **options)

    return make


def zarr_image(path: Path) -> None:
    with io.zarr.written(path, [FIXED], np.dtype(np.int16), ["millimeter"] * 3) as (array,):
        array[:] = VALUES


def zarr_image2(path: Path) -> None:
    """Of Zarr v2 and OME-Zarr 0.4."""
    import zarr

    group = zarr.create_group(str(path), zarr_format=2)
    array = group.create_array("0", shape=FIXED.size, chunks=(4, 6, 5), dtype="<i2")
    array[:] = VALUES
    axes = [{"name": name, "type": "space", "unit": "millimeter"} for name in "zyx"]
    placed = [{"type": "scale", "scale": [1.0, 2.0, 1.5]}]
    datasets = [{"path": "0", "coordinateTransformations": placed}]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]


def zarr_field(path: Path) -> None:
    grid = Grid(FIXED.size, np.diag([-1.5, -1.0, 2.0, 1.0]))
    with io.zarr.written_field(path, grid) as writer:
        writer.write([slice(0, n) for n in grid.size], FIELD.disp)


def transform(which: Any, format: str) -> Make:
    """By l2rfast."""
    return lambda path: io.write_transform(path, which, format=format, fixed=FIXED, moving=MOVING)


def chain(format: str) -> Make:
    return transform(CHAIN if isinstance(CHAIN, Composite) else FIELD, format)


def array(path: Path) -> None:
    np.save(path, FIELD.disp[0].numpy())


def arrays(path: Path) -> None:
    """As Learn2Reg's, and compressed."""
    np.savez_compressed(path, arr_0=FIELD.disp[0].numpy().astype(np.float16), other=np.array("x"))


def field_without_intent(path: Path) -> None:
    nib.save(nib.Nifti1Image(FIELD.disp[0].movedim(0, -1).numpy(), AFFINE), path)


def fnirt_splines(path: Path) -> None:
    """Coefficients of every second voxel."""
    image = nib.Nifti1Image(_RANDOM.normal(0, 1, (6, 6, 5, 3)).astype(np.float32), np.eye(4))
    header = image.header
    header["intent_code"], header["pixdim"][1:4] = 2007, 2
    for k, (axis, size) in enumerate(zip("xyz", FIXED.size, strict=True)):
        header[f"intent_p{k + 1}"] = FIXED.spacing[k]
        header[f"qoffset_{axis}"] = size
    image.set_sform(np.eye(4), 1)
    nib.save(image, path)


def itk_splines(path: Path) -> None:
    grid = "5 5 5 0 0 0 2 2 2 1 0 0 0 1 0 0 0 1"
    numbers = " ".join(f"{value:.3f}" for value in _RANDOM.normal(0, 1, 375))
    head = "#Insight Transform File V1.0\n#Transform 0\nTransform: BSplineTransform_double_3_3\n"
    path.write_text(f"{head}Parameters: {numbers}\nFixedParameters: {grid}\n")


def register_dat(path: Path) -> None:
    path.write_text("subject\n1.0\n1.0\n0.15\n1 0 0 2\n0 1 0 3\n0 0 1 4\n0 0 0 1\n")


def morph(path: Path) -> None:
    """FreeSurfer's .m3z, compressed, and .m3d."""
    node = np.dtype([("first", ">f4", 3), ("place", ">f4", 3), ("of_atlas", ">i4", 3)])
    nodes = np.zeros((4, 3, 3), node)
    nodes["first"], nodes["place"] = 1, _RANDOM.normal(0, 3, (4, 3, 3, 3))
    volume = np.zeros(1, [("valid", ">i4"), ("size", ">i4", 3), ("numbers", ">f4", 15), ("name", "V512")])
    volume["valid"], volume["size"], volume["numbers"][0, :12] = 1, FIXED.size, [1, 1, 1, *np.eye(3).ravel()]
    head = struct.pack(">f4if", 1.0, *nodes.shape, 2, 0.0)
    content = head + nodes.tobytes() + struct.pack(">i", 10) + volume.tobytes() * 2 + struct.pack(">ii", 11, 1)
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".m3z" else content)


def table(path: Path) -> None:
    rows = "".join(f'{x:.4g},{y:.4g},{z:.4g},"a ""{i}"""\n' for i, (x, y, z) in enumerate(POINTS))
    path.write_text("x,y,z,label\n" + rows)


def landmarks(path: Path) -> None:
    path.write_text("# a comment\n1,2,3\n2.5,3,1\n4,4,4\n")


def fcsv(path: Path) -> None:
    head = "# Markups fiducial file version = 4.10\n# CoordinateSystem = LPS\n# columns = id,x,y,z,ow,label\n"
    path.write_text(head + "".join(f"n{i},{x:.4g},{y:.4g},{z:.4g},1,F{i}\n" for i, (x, y, z) in enumerate(POINTS)))


def markups(path: Path) -> None:
    points = [{"id": str(i), "label": f"F{i}", "position": list(point)} for i, point in enumerate(POINTS)]
    nodes = [{"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": points}]
    path.write_text(json.dumps({"@schema": "markups-schema-v1.0.3.json#", "markups": nodes}))


def gifti(encoding: str) -> Make:
    def make(path: Path) -> None:
        from nibabel.gifti import GiftiCoordSystem, GiftiDataArray, GiftiImage

        system = GiftiCoordSystem(1, 4, np.diag([2.0, 2, 2, 1]))
        points = GiftiDataArray(
            POINTS.astype("f4"),
            "NIFTI_INTENT_POINTSET",
            "NIFTI_TYPE_FLOAT32",
            encoding,
            coordsys=system,
            meta={"a": "b"},
        )
        faces = GiftiDataArray(np.array([[0, 1, 2]], "i4"), "NIFTI_INTENT_TRIANGLE", "NIFTI_TYPE_INT32", encoding)
        path.write_bytes(GiftiImage(darrays=[points, faces]).to_xml())

    return make


def trk(path: Path) -> None:
    header = {
        "voxel_to_rasmm": AFFINE.astype("f4"), "voxel_sizes": np.array(FIXED.spacing, "f4"),
        "dimensions": np.array(FIXED.shape, "i2"), "voxel_order": "".join(nib.aff2axcodes(AFFINE)),
    }  # fmt: skip
    nib.streamlines.save(_lines(), str(path), header=header)


def tck(path: Path) -> None:
    nib.streamlines.save(_lines(), str(path))


def _lines() -> Tractogram:
    return Tractogram([POINTS[:4].astype("f4"), POINTS[4:].astype("f4")], affine_to_rasmm=np.eye(4))
