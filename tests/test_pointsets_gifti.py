"""Surfaces in GIFTI: where their points are, by what FreeSurfer and others say in them."""

from __future__ import annotations

import base64
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from pointfiles import LPS, MOVING, RAS, gifti

from l2rfast import InputError
from l2rfast.errors import InputWarning
from l2rfast.io import read_pointset


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


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
    own: str, other: str, matrix: np.ndarray, meta: dict[str, str], how: str
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


def test_surfaces_of_the_scanner_are_as_they_are() -> None:
    surface(SCANNER, UNKNOWN, np.linalg.inv(TKREGISTER), VOLUME)
    np.testing.assert_allclose(read_pointset("points.surf.gii").points, RAS, atol=1e-5)
    with pytest.raises(InputError, match="expected no --coordinates lps: the file says itself"):
        read_pointset("points.surf.gii", coordinates="lps")


def test_a_sphere_is_said() -> None:
    surface(SCANNER, SCANNER, np.eye(4), {"GeometricType": "Spherical"})
    with pytest.warns(InputWarning, match="kind Spherical, whose points are no places of an image"):
        read_pointset("points.surf.gii")


def test_a_surface_that_does_not_say_where_it_is() -> None:
    surface(UNKNOWN, UNKNOWN, np.eye(4), {})
    with pytest.warns(InputWarning, match="does not say in which coordinates it is: taken for scanner RAS"):
        found = read_pointset("points.surf.gii")
    np.testing.assert_allclose(found.points, RAS, atol=1e-5)
    for coordinates, flip in (("ras", 1), ("lps", LPS)):  # which nobody doubts then
        np.testing.assert_allclose(
            read_pointset("points.surf.gii", coordinates=coordinates).points, RAS * flip, atol=1e-5
        )


def test_a_surface_that_says_two_things_is_refused() -> None:
    """Moved to the scanner by a program that has put the middle of the image to 0, and left the matrix."""
    surface(UNKNOWN, SCANNER, TKREGISTER, {**VOLUME, "VolGeomC_R": "0", "VolGeomC_A": "0", "VolGeomC_S": "0"})
    with pytest.raises(InputError, match=r"differ by .* mm; --coordinates ras says that its numbers are in scanner"):
        read_pointset("points.surf.gii")
    np.testing.assert_allclose(read_pointset("points.surf.gii", coordinates="ras").points, RAS, atol=1e-5)


def test_damaged_surfaces_are_refused() -> None:
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
