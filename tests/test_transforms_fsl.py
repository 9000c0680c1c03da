"""FSL's linear maps and warps: what fslpy makes of them, its and ours.

GOLDEN is of fslpy 3.29.1, by `theirs` of this file:

    python -c "import test_transforms_fsl as t; print(repr(t.theirs(t.PLUS, t.MINUS)), repr(t.theirs(t.MINUS, t.PLUS)))"
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from l2rfast import InputError, read_transform, write_transform
from l2rfast.io.grids import read_grid
from l2rfast.world import Affine, Displacement, Grid, Transform, compose


def oblique(sizes: list[float], angles: list[float], origin: list[float]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * np.abs(sizes) * np.sign(sizes)
    affine[:3, 3] = origin
    return affine


PLUS = Grid((9, 7, 8), oblique([2, 2.5, 1.5], [10, -20, 30], [-5, 3, 12]))
MINUS = Grid((8, 10, 6), oblique([-1.75, 1.5, 3], [-15, 5, 12], [9, -4, 6]))
FLIRT = np.array([[0.98, -0.12, 0.05, 1.5], [0.1, 1.03, -0.08, -2], [-0.06, 0.07, 0.95, 0.75], [0, 0, 0, 1]])
VOXELS = np.array([[1, 1, 1], [4, 3, 2], [6, 5, 4]])
KNOTS = (3.0, 2.0, 4.0)  # voxels


def waves(*shape: int) -> np.ndarray:
    """(*shape, 3) float32: smooth, and the same everywhere."""
    x, y, z = np.indices(shape)
    parts = [np.sin(x / 3 + y / 4), np.cos(y / 3 - z / 2), np.sin(z / 3 + x / 5 + 1)]
    return (2 * np.stack(parts, -1)).astype(np.float32)


def image(grid: Grid) -> np.ndarray:
    return (50 * waves(*grid.shape).sum(-1)).astype(np.float32)


def save(path: Path, values: np.ndarray, affine: np.ndarray | None, **fields: Any) -> Path:
    """A NIfTI file with some fields of its header."""
    file = nib.Nifti1Image(values, affine)
    if affine is not None:
        file.set_sform(affine, 1)
        file.set_qform(affine, 1)
    for name, value in fields.items():
        file.header[name] = value
    nib.save(file, path)
    return path


def field(path: Path, grid: Grid, **fields: Any) -> Path:
    return save(path, waves(*grid.shape), grid.affine, intent_code=2006, **fields)


def coefficients(path: Path, grid: Grid, **fields: Any) -> Path:
    """As FNIRT's: a start, and one control point before the first voxel and two after the last."""
    file = nib.Nifti1Image(
        waves(*(int(np.ceil((n + 1) / k)) + 2 for n, k in zip(grid.shape, KNOTS, strict=True))), None
    )
    file.header.set_zooms((*KNOTS, 1.0))
    file.set_sform(FLIRT, 1)
    size = np.diag([*KNOTS, 1.0])
    size[:3, 3] = grid.shape
    file.set_qform(size, 1)
    given = {f"intent_p{k}": step for k, step in enumerate(grid.spacing, 1)}
    for name, value in {"intent_code": 2007, **given, **fields}.items():
        file.header[name] = value
    nib.save(file, path)
    return path


def theirs(fixed: Grid, moving: Grid) -> dict[str, list[Any]]:
    """Places in mm of moving to which VOXELS of fixed go, and grey values there, by fslpy."""
    from fsl.data.image import Image
    from fsl.transform import affine, flirt, fnirt, nonlinear

    with tempfile.TemporaryDirectory() as folder:
        src, ref = (
            Image(str(save(Path(folder, f"{k}.nii"), image(grid), grid.affine)))
            for k, grid in enumerate((moving, fixed))
        )
        world = nib.affines.apply_affine(fixed.affine, VOXELS)
        matrix = np.linalg.inv(flirt.fromFlirt(FLIRT, src, ref, "world", "world"))
        paths = [field(Path(folder, "f.nii"), fixed), coefficients(Path(folder, "c.nii"), fixed)]
        kinds = {"relative": ("relative", paths[0]), "absolute": ("absolute", paths[0]), "splines": (None, paths[1])}
        found = {"flirt": affine.transform(world, matrix)}
        for name, (kind, path) in kinds.items():
            warp = fnirt.readFnirt(str(path), src, ref, kind)
            if kind is None:
                warp = nonlinear.coefficientFieldToDeformationField(warp)
            found[name] = warp.transform(world, "world", "world")
            found[f"{name} image"] = nonlinear.applyDeformation(src, warp)[tuple(VOXELS.T)]
        return {name: np.round(values, 5).tolist() for name, values in found.items()}


GOLDEN: list[dict[str, list[Any]]] = [
    {
        "flirt": [[-4.41824, -3.32087, 7.64013], [-0.25333, 3.16844, 6.55384], [2.07579, 9.66316, 7.29346]],
        "relative": [[-6.61241, -1.97638, 9.52961], [-2.49004, 4.06349, 8.48899], [2.25518, 10.16202, 7.65828]],
        "relative image": [130.566, 39.079, 54.64],
        "absolute": [[7.54398, -1.83301, 7.51064], [6.89145, -2.14251, 6.83875], [8.76782, -2.3851, 4.75909]],
        "absolute image": [241.757, 250.375, 205.28],
        "splines": [[-6.16285, -1.33401, 9.1469], [-2.48673, 5.02265, 7.96846], [-0.10174, 11.4302, 8.41653]],
        "splines image": [114.387, 5.931, 9.372],
    },
    {
        "flirt": [[5.20464, 12.45149, 19.83427], [-1.39146, 10.97538, 21.4442], [-7.294, 9.7707, 26.55152]],
        "relative": [[2.78768, 10.44248, 21.68939], [-4.1145, 9.44913, 22.25165], [-7.75666, 9.83323, 25.88568]],
        "relative image": [62.61, 76.55, -37.265],
        "absolute": [[5.6422, 10.98634, 19.26691], [5.2586, 10.94655, 18.359], [7.32549, 12.41837, 17.14808]],
        "absolute image": [152.677, 191.273, 175.409],
        "splines": [[2.63616, 12.70452, 21.44687], [-4.33934, 11.04624, 22.76037], [-10.11914, 9.95122, 27.60571]],
        "splines image": [87.386, 78.569, -7.914],
    },
]
PAIRS = [(PLUS, MINUS), (MINUS, PLUS)]


def moved(transform: Transform, grid: Grid) -> np.ndarray:
    return transform(torch.from_numpy(nib.affines.apply_affine(grid.affine, VOXELS))).numpy()


def apart(transform: Transform, fixed: Grid, moving: Grid, golden: dict[str, list[Any]], name: str) -> None:
    went = moved(transform, fixed)
    np.testing.assert_allclose(went, golden[name], rtol=0, atol=2e-5)
    if f"{name} image" in golden:
        places = nib.affines.apply_affine(np.linalg.inv(moving.affine), went)
        ours = map_coordinates(image(moving).astype(float), places.T, order=1, mode="nearest")
        np.testing.assert_allclose(ours, golden[f"{name} image"], rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    ("pair", "golden"), list(zip(PAIRS, GOLDEN, strict=True)), ids=["plus to minus", "minus to plus"]
)
def test_places_and_images_are_theirs(pair: tuple[Grid, Grid], golden: dict[str, list[Any]], tmp_path: Path) -> None:
    fixed, moving = pair
    np.savetxt(tmp_path / "a.mat", FLIRT)
    warp, splines = field(tmp_path / "f.nii", fixed), coefficients(tmp_path / "c.nii.gz", fixed)
    matrix = read_transform(tmp_path / "a.mat", format="flirt", fixed=fixed, moving=moving)
    apart(matrix, fixed, moving, golden, "flirt")
    apart(read_transform(warp, format="fnirt", moving=moving), fixed, moving, golden, "relative")
    apart(read_transform(warp, format="fnirt-absolute", moving=moving), fixed, moving, golden, "absolute")
    apart(read_transform(splines, fixed=fixed, moving=moving), fixed, moving, golden, "splines")


def test_fslpy_still_says_so() -> None:
    pytest.importorskip("fsl", reason="fslpy is not here")
    for pair, golden in zip(PAIRS, GOLDEN, strict=True):
        for name, values in theirs(*pair).items():
            np.testing.assert_allclose(values, golden[name], rtol=0, atol=2e-3)


@pytest.mark.parametrize("pair", PAIRS, ids=["plus to minus", "minus to plus"])
def test_fslpy_takes_ours(pair: tuple[Grid, Grid], tmp_path: Path) -> None:
    pytest.importorskip("fsl", reason="fslpy is not here")
    from fsl.data.image import Image
    from fsl.transform import affine, flirt, fnirt

    fixed, moving = pair
    src, ref = (Image(str(save(tmp_path / f"{k}.nii", image(g), g.affine))) for k, g in enumerate((moving, fixed)))
    world = nib.affines.apply_affine(fixed.affine, VOXELS)
    ours = Affine(oblique([1.1, 0.9, 1], [5, 8, -3], [1, -2, 3]))
    write_transform(tmp_path / "a.mat", ours, format="flirt", fixed=fixed, moving=moving)
    matrix = flirt.fromFlirt(flirt.readFlirt(tmp_path / "a.mat"), src, ref, "world", "world")
    # Theirs has the places of headers, which are float32.
    np.testing.assert_allclose(affine.transform(world, np.linalg.inv(matrix)), moved(ours, fixed), rtol=0, atol=1e-5)
    both = compose(ours, Displacement.of_world(torch.from_numpy(waves(*fixed.shape)).movedim(-1, 0), fixed.affine))
    write_transform(tmp_path / "a.nii.gz", both, format="fnirt", fixed=fixed, moving=moving)
    warp = fnirt.readFnirt(str(tmp_path / "a.nii.gz"), src, ref, "relative")
    np.testing.assert_allclose(warp.transform(world, "world", "world"), moved(both.on(fixed), fixed), atol=1e-4)


def test_a_matrix_by_hand(tmp_path: Path) -> None:
    """Voxels of (2, 1, 1) mm, 5 along the first axis, which FSL turns: x in FSL is 8 mm less 2 per voxel. Moving, of
    3 mm, is not turned. The map adds (1, 2, 3) to moving's places."""
    fixed = Grid((5, 4, 4), np.array([[2.0, 0, 0, 10], [0, 1, 0, 20], [0, 0, 1, 30], [0, 0, 0, 1]]))
    moving = Grid((6, 4, 4), np.array([[-3.0, 0, 0, 7], [0, 3, 0, 8], [0, 0, 3, 9], [0, 0, 0, 1]]))
    (tmp_path / "a.mat").write_text("1 0 0 1\n0 1 0 2\n0 0 1 3\n0 0 0 1\n")
    found = read_transform(tmp_path / "a.mat", format="flirt", fixed=fixed, moving=moving)
    # The voxel (1, 3, 3) is in FSL at (6, 3, 3), of moving at (5, 1, 0): 5 mm below its first voxel, 1 mm above, at it.
    place = torch.tensor([[12.0, 23, 33]], dtype=torch.float64)
    np.testing.assert_allclose(found(place), [[7 - 5, 8 + 1, 9]], atol=1e-12)
    write_transform(tmp_path / "b.mat", found, format="flirt", fixed=fixed, moving=moving)
    np.testing.assert_allclose(np.loadtxt(tmp_path / "b.mat"), np.loadtxt(tmp_path / "a.mat"), atol=1e-12)


def test_an_image_without_a_place_counts_from_the_last_voxel(tmp_path: Path) -> None:
    """As fslpy 3.29.1 has it, see findings/fsl_unplaced.sh: with the last voxels together the first are one apart."""
    fixed, moving = (save(tmp_path / f"{n}.nii", np.zeros((n, 4, 3), np.float32), None) for n in (5, 6))
    np.savetxt(tmp_path / "a.mat", np.eye(4))
    found = read_transform(tmp_path / "a.mat", format="flirt", fixed=fixed, moving=moving)
    voxels = np.linalg.inv(read_grid("moving", moving).affine) @ found.matrix @ read_grid("fixed", fixed).affine
    np.testing.assert_allclose(voxels[:3, 3], [1, 0, 0], atol=1e-12)


@pytest.mark.parametrize("pair", PAIRS, ids=["plus to minus", "minus to plus"])
def test_a_warp_is_written_as_it_is_read(pair: tuple[Grid, Grid], tmp_path: Path) -> None:
    fixed, moving = pair
    path = field(tmp_path / "a.nii", fixed)
    found = read_transform(path, format="fnirt", moving=moving)
    write_transform(tmp_path / "b.nii.gz", found, format="fnirt", moving=moving)
    written = nib.load(tmp_path / "b.nii.gz")
    assert written.shape == (*fixed.shape, 3)
    assert written.header["intent_code"] == 2006
    np.testing.assert_allclose(written.affine, fixed.affine, atol=1e-5)
    np.testing.assert_allclose(written.get_fdata(), waves(*fixed.shape), rtol=0, atol=1e-5)


def test_there_and_back(tmp_path: Path) -> None:
    found = read_transform(field(tmp_path / "a.nii", PLUS), format="fnirt", moving=MINUS)
    small = Displacement(0.3 * found.on(PLUS).disp, PLUS.affine)
    world = torch.from_numpy(nib.affines.apply_affine(PLUS.affine, VOXELS))
    np.testing.assert_allclose(small.inverse(small(world)), world, atol=1e-3)


def test_a_field_without_a_place_is_where_fixed_is(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", waves(*PLUS.shape), None, intent_code=2006)
    found = read_transform(path, format="fnirt", fixed=PLUS, moving=MINUS)
    np.testing.assert_allclose(moved(found, PLUS), GOLDEN[0]["relative"], atol=2e-5)
    with pytest.raises(InputError, match=r"a\.nii\): fixed: expected the fixed image, of which the places are not"):
        read_transform(path, format="fnirt", moving=MINUS)
    with pytest.raises(
        InputError, match=r"fixed: expected the image of the field, \(9, 7, 8\) voxels, got \(8, 10, 6\)"
    ):
        read_transform(path, format="fnirt", fixed=MINUS, moving=MINUS)


def test_what_can_mean_two_things_is_to_be_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"one thing only, say which: fnirt:a\.nii \(.*\) or fnirt-absolute:a\.nii"):
        read_transform(field(tmp_path / "a.nii", PLUS), moving=MINUS)
    np.savetxt(tmp_path / "a.mat", FLIRT)
    with pytest.raises(
        InputError,
        match=r"one thing only, say which: dipy:a\.mat .* or flirt:a\.mat .* or greedy:a\.mat .* or niftyreg:a\.mat",
    ):
        read_transform(tmp_path / "a.mat", fixed=PLUS, moving=MINUS)


@pytest.mark.parametrize("which", ["fixed", "moving"])
def test_what_else_has_to_be_known_is_said(which: str, tmp_path: Path) -> None:
    known: dict[str, Any] = {"fixed": PLUS, "moving": MINUS, which: None}
    np.savetxt(tmp_path / "a.mat", FLIRT)
    with pytest.raises(InputError, match=f"{which}: expected the {which} image, of which FLIRT's places"):
        read_transform(tmp_path / "a.mat", format="flirt", **known)
    with pytest.raises(InputError, match=f"{which}: expected the {which} image, of which FLIRT's places"):
        write_transform(tmp_path / "b.mat", Affine(np.eye(4)), format="flirt", **known)
    with pytest.raises(InputError, match=f"{which}: expected the {which} image, of which the voxels"):
        read_transform(coefficients(tmp_path / "c.nii", PLUS), **known)
    with pytest.raises(InputError, match=f"{which}: expected the {which} image"):
        write_transform(tmp_path / "b.nii", Affine(np.eye(4)), format="fnirt", **known)
    assert not list(tmp_path.glob("b.*"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "got no four rows of four numbers"),
        ("1 0 0 0\n" * 3, "got no four rows of four numbers"),
        ("a b c d\n" * 4, "got no four rows of four numbers"),
        ("1 0 0 nan\n0 1 0 0\n0 0 1 0\n0 0 0 1\n", "finite"),
        ("1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 1 1\n", "last row"),
        ("1 0 0 0\n0 0 0 0\n0 0 1 0\n0 0 0 1\n", "singular"),
    ],
)
def test_a_matrix_that_is_none_is_said(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.mat").write_text(content)
    with pytest.raises(InputError, match=rf"a\.mat\): .*{said}"):
        read_transform(tmp_path / "a.mat", format="flirt", fixed=PLUS, moving=MINUS)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"intent_code": 2008}, "expected a warp of FSL's FNIRT, .* got intent 2008 and the shape"),
        ({"intent_code": 2009}, "expected a warp of FSL's FNIRT, .* got intent 2009 and the shape"),
        (
            {"intent_p1": 3},
            r"fixed: expected the image of the coefficients, \(9.0, 7.0, 8.0\) voxels of \[3.0, 2.5, 1.5\]",
        ),
        ({"qoffset_y": np.nan}, r"fixed: expected the image of the coefficients, \(9.0, nan, 8.0\) voxels"),
        ({"srow_x": [0, 0, 0, 0]}, "expected a warp of .* got Singular matrix"),
        ({"pixdim": [1, np.nan, 2, 2, 1, 1, 1, 1]}, "expected a warp of .* got control points every .nan"),
        ({"pixdim": [1, np.inf, 2, 2, 1, 1, 1, 1]}, "expected a warp of .* got control points every .inf"),
    ],
)
def test_coefficients_of_another_kind_are_said(fields: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = edited(coefficients(tmp_path / "a.nii", PLUS), **fields)
    with pytest.raises(InputError, match=rf"a\.nii\): {said}"):
        read_transform(path, fixed=PLUS, moving=MINUS)


def edited(path: Path, **fields: Any) -> Path:
    """With other fields in its header, byte by byte: nibabel mends what it does not like."""
    content = path.read_bytes()
    header = nib.Nifti1Header(content[:348], check=False)
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(header.binaryblock + content[348:])
    return path


def test_fields_of_another_kind_are_said(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", np.zeros((4, 4, 4, 2), np.float32), np.eye(4), intent_code=2006)
    for format in ("fnirt", "fnirt-absolute"):
        with pytest.raises(InputError, match=r"got intent 2006 and the shape \(4, 4, 4, 2\)"):
            read_transform(path, format=format, moving=MINUS)
    path = coefficients(tmp_path / "c.nii", PLUS)
    with pytest.raises(InputError, match=r"expected a warp of FSL's that holds the places of moving, got intent 2007"):
        read_transform(path, format="fnirt-absolute", moving=MINUS)
    path = field(tmp_path / "f.nii", PLUS)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match=r"f\.nii"):
        read_transform(path, format="fnirt", moving=MINUS)
    with pytest.raises(InputError, match="fnirt-absolute is only read"):
        write_transform(tmp_path / "g.nii", Affine(np.eye(4)), format="fnirt-absolute", fixed=PLUS, moving=MINUS)


def test_a_matrix_holds_no_field(tmp_path: Path) -> None:
    warp = Displacement(torch.zeros(1, 3, 4, 4, 4), np.eye(4))
    with pytest.raises(InputError, match=r"a linear map, as a matrix of FLIRT's holds no other"):
        write_transform(tmp_path / "a.mat", warp, format="flirt", fixed=PLUS, moving=MINUS)


def test_a_slice(tmp_path: Path) -> None:
    flat = Grid((6, 5), np.array([[2.0, 0, 0, 5], [0, 3, 0, -7], [0, 0, 1, 0], [0, 0, 0, 1]]))
    disp = Displacement(torch.full((1, 2, 6, 5), 0.5), flat.affine)
    write_transform(tmp_path / "a.nii", disp, format="fnirt", fixed=flat, moving=flat)
    written = nib.load(tmp_path / "a.nii")
    np.testing.assert_allclose(written.get_fdata(), np.broadcast_to([-1, 1.5, 0], (6, 5, 1, 3)), atol=1e-6)
    found = read_transform(tmp_path / "a.nii", format="fnirt", moving=flat)
    torch.testing.assert_close(found.on(flat).disp, disp.disp)
