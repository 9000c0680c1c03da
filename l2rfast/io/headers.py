"""Where an image lies by its header: RAS millimetres, as ITK reads them.

What l2rfast writes is for ITK too, which has to find the images that were registered where l2rfast found them. nibabel
takes the sform whenever it has a code, and no notice of units; ITK's rules (itkNiftiImageIO.cxx of ITK 5.4) are others:

- The sform counts if its axes are at right angles and its code is 1 (scanner), or the qform has none; else the qform.
- The voxel sizes are those of ``pixdim``, for either: 1 where they are 0 or not finite; those below 0 turn the axis.
- Without a code of either there are the sizes alone: the first voxel is the origin, and the axes point left, posterior
  and superior.
- Sizes and origin are in the unit of ``xyzt_units``: micrometres, metres, or else millimetres.

What ITK refuses, a sheared sform alone, is taken as it is.
"""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
from nibabel.quaternions import quat2mat
from nibabel.spatialimages import SpatialImage

from ..errors import InputError, notice
from .volume import SAME, apart

_MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # by NIfTI's code: unknown, metre, millimetre, micrometre


def affine_of(name: str, image: SpatialImage, *, stored: bool = False) -> tuple[np.ndarray, bool | None]:
    """The (4, 4) affine of an image, voxel -> RAS millimetres, and whether its header says where it lies, None if it
    cannot.

    Args:
        name: for messages.
        image: of any format that nibabel reads; the rules above are for NIfTI.
        stored: whether it is as its file has it, which is read again: nibabel has changed what it finds invalid.

    Forms that disagree and units that are not NIfTI's are said by `notice`.

    Raises:
        InputError: the affine is singular or not finite.
    """
    header: Any = image.header
    if not isinstance(image, nib.Nifti1Pair):
        if image.affine is None:
            return checked(name, header.get_best_affine()), None
        return checked(name, image.affine), True
    if stored:
        file = image.file_map["header" if "header" in image.file_map else "image"]
        with file.get_prepare_fileobj("rb") as stream:
            header = type(header).from_fileobj(stream, check=False)
    if not np.isfinite(header["pixdim"][1:4]).all():
        notice(f"{name}: of its header, pixdim[1,2,3] should be finite: it is read as ITK does")
    with np.errstate(all="ignore"):  # what is not finite is found below
        used, affine, forms = _form(header)
    if not stored and image.affine is not None and not np.allclose(image.affine, header.get_best_affine()):
        # Changed in memory: nibabel would write this affine, whatever the header says.
        used, affine, forms = "affine", image.affine, {}
    scale = np.diag([_millimetres(name, header)] * 3 + [1.0])
    with np.errstate(all="ignore"):
        affine = checked(name, scale @ affine)
    for form, other in forms.items():
        if not np.isfinite(other).all():
            notice(f"{name}: the {form} in its header is not finite: it is not used, the {used} is")
            continue
        length, voxels = apart(affine, scale @ other, image.shape)
        if voxels > SAME:
            notice(
                f"{name}: two places in its header, {length:.3g} mm apart at the farthest corner: "
                f"the {form} is not used, the {used} is, as ITK does"
            )
    return affine, bool(used)


def checked(name: str, value: Any) -> np.ndarray:
    """An affine in float64.

    Raises:
        InputError: it is singular, not finite or of another shape.
    """
    affine: np.ndarray = np.asarray(value, np.float64)
    if affine.shape != (4, 4):
        raise InputError(f"{name}: expected an affine of shape (4, 4), got {affine.shape}")
    with np.errstate(all="ignore"):
        # Of the axes as unit vectors: tiny voxels are fine, axes in one plane but for rounding are not, nor those
        # whose length is no number.
        volume = abs(np.linalg.det(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)))
    if not np.isfinite(affine).all() or not volume > 1e-4:
        raise InputError(f"{name}: expected an affine with three independent axes, got {affine.tolist()}")
    return affine


def _form(header: Any) -> tuple[str, np.ndarray, dict[str, np.ndarray]]:
    """The name (empty where there is nothing) and the affine of what ITK uses, and all forms that have a code."""
    codes = {form: max(int(header[f"{form}_code"]), 0) for form in ("sform", "qform")}
    affines = {"sform": header.get_sform(), "qform": _qform(header)}
    forms = {f"{form} (code {code})": affines[form] for form, code in codes.items() if code}
    sform, qform = (f"{form} (code {code})" for form, code in codes.items())
    sizes = _sizes(header)
    axes = affines["sform"][:3, :3] / np.maximum(np.linalg.norm(affines["sform"][:3, :3], axis=0), 1e-30)
    square = np.allclose(axes @ axes.T, np.eye(3), rtol=0, atol=1e-4)
    if codes["sform"] and square and (codes["sform"] == 1 or not codes["qform"] or _alike(*forms.values())):
        affine = affines["sform"].copy()
        affine[:3, :3] = axes * sizes
        return f"{sform} with the voxel sizes of pixdim", affine, forms
    if codes["qform"]:
        return qform, affines["qform"], forms
    if codes["sform"]:
        return sform, affines["sform"], forms
    return "", np.diag([-sizes[0], -sizes[1], sizes[2], 1.0]), forms


def _qform(header: Any) -> np.ndarray:
    """As NIfTI's library has it, which takes any quaternion and ``qfac``; nibabel raises where they are not exact."""
    vector = np.array([header[f"quatern_{name}"] for name in "bcd"], np.float64)
    rest = 1 - vector @ vector
    affine = np.eye(4)
    affine[:3, :3] = quat2mat([np.sqrt(rest) if rest > 1e-7 else 0.0, *vector])  # type: ignore[no-untyped-call]
    affine[:3, :3] *= _sizes(header) * [1, 1, -1 if header["pixdim"][0] < 0 else 1]
    affine[:3, 3] = [header[f"qoffset_{axis}"] for axis in "xyz"]
    return affine


def _sizes(header: Any) -> np.ndarray:
    sizes = np.array(header["pixdim"][1:4], np.float64)
    return np.where(np.isfinite(sizes) & (sizes != 0), sizes, 1.0)


def _alike(sform: np.ndarray, qform: np.ndarray) -> bool:
    """But for rounding: the sform is then the more exact."""
    return bool(np.allclose(sform, qform, rtol=1e-4, atol=1e-4 * np.abs(qform[:3, :3]).max()))


def _millimetres(name: str, header: Any) -> float:
    """Of one unit of length; the unit of time is in other bits of the code."""
    code = int(header["xyzt_units"]) & 7
    if code not in _MILLIMETRES:
        notice(f"{name}: unit of length {code} in its header is none of NIfTI's: taken for millimetres")
    return _MILLIMETRES.get(code, 1.0)
