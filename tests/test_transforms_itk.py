"""ITK's transform files: what SimpleITK and antspyx write is read as they mean it, and they read what is written.

The files under golden/itk are of antspyx 0.6.3: ``ants.transform_from_displacement_field`` of normal numbers (seed 3,
shape 4 x 5 x 6), ``ants.create_ants_transform`` and ``ants.compose_ants_transforms([field, affine])``, which goes
through the field first, both by ``ants.write_transform``. The places reached are of their ``apply_to_point``.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from grids import oblique
from scipy.io import savemat
from scipy.ndimage import gaussian_filter

from l2rfast import InputError
from l2rfast.errors import InputWarning
from l2rfast.io import read_grid, read_transform, write_displacement, write_transform
from l2rfast.world import Affine, Displacement, Grid, Transform, compose
from l2rfast.world.maps import Map

GOLDEN = Path(__file__).parent / "golden/itk"
LPS = np.diag([-1.0, -1.0, 1.0])
CENTRE, SHIFT = (3.0, -5.0, 7.0), (1.5, 20.0, -4.0)


def kinds() -> dict[str, sitk.Transform]:
    versor, scales, more = sitk.VersorTransform((1, 2, -1), 0.4).GetVersor(), (1.1, 0.9, 1.2), (0.1, 0.2, 0.3)
    affine = sitk.AffineTransform([1.1, 0.1, 0, -0.2, 0.9, 0.05, 0.02, 0, 1.2], SHIFT, CENTRE)
    euler = sitk.Euler3DTransform(CENTRE, 0.3, -0.2, 0.5, SHIFT)
    zyx = sitk.Euler3DTransform(CENTRE, 0.3, -0.2, 0.5, SHIFT)
    zyx.SetComputeZYX(True)
    scale = sitk.ScaleTransform(3, scales)
    scale.SetCenter(CENTRE)
    return {
        "affine": affine,
        "euler": euler,
        "zyx": zyx,
        "versor": sitk.VersorRigid3DTransform(versor, SHIFT, CENTRE),
        "turn": sitk.VersorTransform(versor, CENTRE),
        "similarity": sitk.Similarity3DTransform(1.2, versor, SHIFT, CENTRE),
        "scale": scale,
        "scale versor": sitk.ScaleVersor3DTransform(scales, versor, SHIFT, CENTRE),
        "skew versor": sitk.ScaleSkewVersor3DTransform(scales, (*more, 0.05, 0.02, -0.1), versor, SHIFT, CENTRE),
        "compose skew": sitk.ComposeScaleSkewVersor3DTransform(scales, more, versor, SHIFT, CENTRE),
        "translation": sitk.TranslationTransform(3, SHIFT),
        "identity": sitk.Transform(3, sitk.sitkIdentity),
        "affine 2": sitk.AffineTransform([1.1, 0.1, -0.2, 0.9], SHIFT[:2], CENTRE[:2]),
        "euler 2": sitk.Euler2DTransform(CENTRE[:2], 0.3, SHIFT[:2]),
        "similarity 2": sitk.Similarity2DTransform(1.2, 0.3, SHIFT[:2], CENTRE[:2]),
    }


def reached(theirs: sitk.Transform, places: np.ndarray) -> np.ndarray:
    """Where SimpleITK takes places (M, 3) in RAS millimetres, those of a slice at 0 of the third axis."""
    ndim = theirs.GetDimension()
    return np.stack([np.append(theirs.TransformPoint(p[:ndim]), p[ndim:]) for p in (places @ LPS)]) @ LPS


def taken(ours: Transform, places: np.ndarray) -> np.ndarray:
    return ours(torch.from_numpy(np.ascontiguousarray(places))).numpy()


def scattered(grid: Grid, count: int = 20) -> np.ndarray:
    """Places (M, 3) in the inner part of a grid."""
    size = np.array(grid.size)
    voxels = np.random.default_rng(5).uniform(0.3, 0.65, (count, 3)) * (size - 1)
    return voxels @ grid.affine[:3, :3].T + grid.affine[:3, 3]


@pytest.mark.parametrize("suffix", ["tfm", "mat", "h5"])
@pytest.mark.parametrize("kind", kinds())
def test_linear_ones_take_places_where_itk_does(kind: str, suffix: str, tmp_path: Path) -> None:
    theirs, file = kinds()[kind], tmp_path / f"a.{suffix}"
    sitk.WriteTransform(theirs, str(file))
    ours = read_transform(file)
    assert ours.matrix is not None
    places = np.random.default_rng(0).normal(scale=50, size=(5, 3))
    places[:, theirs.GetDimension() :] = 0
    np.testing.assert_allclose(taken(ours, places), reached(theirs, places), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "numbers", "fixed", "place"),
    [  # a quarter turn about z and a step, by hand; the point (1, 0, 0) of LPS
        ("QuaternionRigidTransform", [0, 0, np.sqrt(0.5), np.sqrt(0.5), 1, 2, 3], [0, 0, 0], [1, 3, 3]),
        ("Rigid3DTransform", [0, -1, 0, 1, 0, 0, 0, 0, 1, 1, 2, 3], [], [1, 3, 3]),
        ("CenteredEuler3DTransform", [0, 0, np.pi / 2, 1, 0, 0, 1, 2, 3], [], [2, 2, 3]),
        ("CenteredAffineTransform", [0, -1, 0, 1, 0, 0, 0, 0, 1, 1, 0, 0, 1, 2, 3], [], [2, 2, 3]),
    ],
)
def test_kinds_that_simpleitk_has_not(
    kind: str, numbers: list[float], fixed: list[float], place: list[float], tmp_path: Path
) -> None:
    texts = [" ".join(map(repr, map(float, values))) for values in (numbers, fixed)]
    content = f"Transform: {kind}_double_3_3\nParameters: {texts[0]}\nFixedParameters: {texts[1]}\n"
    (tmp_path / "a.tfm").write_text(f"#Insight Transform File V1.0\n#Transform 0\n{content}")
    ours = read_transform(tmp_path / "a.tfm")
    np.testing.assert_allclose(taken(ours, np.array([[-1.0, 0, 0]])) @ LPS, [place], atol=1e-12)


def test_the_files_of_ants(tmp_path: Path) -> None:
    place = np.array([[2.775, 7.25, -1.7]]) @ LPS
    both = np.array([4.942427635192871, 7.671873092651367, -8.023207664489746]) @ LPS
    affine = np.array([5.477499961853027, 7.634999752044678, -7.444500923156738]) @ LPS
    np.testing.assert_allclose(taken(read_transform(GOLDEN / "ants.mat"), place)[0], affine, atol=1e-5)
    np.testing.assert_allclose(taken(read_transform(GOLDEN / "ants.h5"), place)[0], both, atol=1e-5)
    # Before ITK 5 the names of the numbers were misspelt; single precision is ANTs' own.
    with h5py.File(GOLDEN / "ants.h5") as today, h5py.File(tmp_path / "old.h5", "w") as old:
        for number, group in today["TransformGroup"].items():
            for name, values in group.items():
                numbers = values.dtype == np.float64
                name = name.replace("Transform", "Tranform") if numbers else name
                old[f"TransformGroup/{number}/{name}"] = np.float32(values) if numbers else values[()]
        assert "TranformParameters" in old["TransformGroup/1"]
    np.testing.assert_allclose(taken(read_transform(tmp_path / "old.h5"), place)[0], both, atol=1e-5)


def test_single_precision_in_matlab(tmp_path: Path) -> None:
    theirs = kinds()["affine"]
    numbers = {
        "AffineTransform_float_3_3": np.array(theirs.GetParameters(), np.float32)[:, None],
        "fixed": np.array(CENTRE, np.float32)[:, None],
    }
    savemat(tmp_path / "0GenericAffine.mat", numbers, format="4")
    places = np.array([[10.0, 20.0, 30.0]])
    np.testing.assert_allclose(
        taken(read_transform(tmp_path / "0GenericAffine.mat"), places), reached(theirs, places), atol=1e-4
    )


FIXED = Grid((10, 12, 14), oblique((2, 2.6, 1.6), (-10, 20, 5), False))
MOVING = Grid((13, 11, 9), oblique((1.8, 2, 2.9), (-6, 3, 3), True))


def smooth(grid: Grid, size: float = 2.0, seed: int = 0) -> Displacement:
    """A field of at most so many voxels."""
    noise = np.random.default_rng(seed).standard_normal((len(grid.shape), *grid.shape))
    field = np.stack([gaussian_filter(each, 2) for each in noise])
    return Displacement(torch.from_numpy(size * field / abs(field).max()).float()[None], grid.affine)


def chain() -> Transform:
    """A field on the fixed grid, an affine, a field on the moving grid."""
    centre = (FIXED.affine @ [*(np.array(FIXED.size) - 1) / 2, 1])[:3]
    there = (MOVING.affine @ [*(np.array(MOVING.size) - 1) / 2, 1])[:3]
    matrix = np.eye(4)
    matrix[:3, :3] = [[1.05, 0.1, 0], [-0.15, 0.9, 0.05], [0.02, 0, 1.1]]
    matrix[:3, 3] = there - matrix[:3, :3] @ centre
    return compose(smooth(FIXED), Affine(matrix), smooth(MOVING, 1.5, 7))


@pytest.mark.parametrize("suffix", ["h5", "nii.gz"])
def test_simpleitk_resamples_by_what_is_written(suffix: str, tmp_path: Path) -> None:
    ours, file = chain(), tmp_path / f"a.{suffix}"
    write_transform(file, ours)
    if suffix == "h5":
        theirs = sitk.ReadTransform(str(file))
        np.testing.assert_allclose(taken(ours, scattered(FIXED)), reached(theirs, scattered(FIXED)), atol=1e-5)
    else:
        theirs = sitk.DisplacementFieldTransform(sitk.ReadImage(str(file), sitk.sitkVectorFloat64))
    moving = gaussian_filter(np.random.default_rng(9).standard_normal(MOVING.shape), 1.5).astype(np.float32)
    nib.save(nib.Nifti1Image(moving, MOVING.affine), tmp_path / "moving.nii")
    nib.save(nib.Nifti1Image(np.zeros(FIXED.shape, np.float32), FIXED.affine), tmp_path / "fixed.nii")
    images = [sitk.ReadImage(str(tmp_path / f"{name}.nii")) for name in ("moving", "fixed")]
    # Whatever lies on the outermost voxels is left out: ITK ends its fields there.
    there = sitk.GetArrayFromImage(sitk.Resample(*images, theirs, sitk.sitkLinear, 99.0)).T
    here = ours.carried(Map.of(FIXED)).sampled(torch.from_numpy(moving)[None, None], MOVING.affine)[0, 0].numpy()
    inner = (slice(2, -2),) * 3
    inside = there[inner] != 99
    assert inside.mean() > 0.8
    np.testing.assert_allclose(here[inner][inside], there[inner][inside], atol=1e-4 * abs(moving).max())
    back = read_transform(file)
    written = ours if suffix == "h5" else ours.on(FIXED)
    np.testing.assert_allclose(taken(back, scattered(FIXED)), taken(written, scattered(FIXED)), atol=1e-5)


@pytest.mark.parametrize("suffix", ["txt", "tfm", "mat", "h5"])
def test_simpleitk_reads_affine_maps(suffix: str, tmp_path: Path) -> None:
    ours = chain().parts[1]  # type: ignore[attr-defined]
    write_transform(tmp_path / f"a.{suffix}", ours)
    theirs = sitk.ReadTransform(str(tmp_path / f"a.{suffix}"))
    np.testing.assert_allclose(taken(ours, scattered(FIXED)), reached(theirs, scattered(FIXED)), atol=1e-9)
    np.testing.assert_allclose(read_transform(tmp_path / f"a.{suffix}").matrix, ours.matrix, atol=1e-12)


def test_a_slice_of_two_axes(tmp_path: Path) -> None:
    affine = np.array([[1.2, 0.5, 0, 3], [-0.6, 1.0, 0, -4], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    slice_ = nib.Nifti1Image(np.zeros((12, 14), np.float32), affine)
    grid = read_grid("fixed", slice_)
    assert grid.shape == (12, 14)
    turn = np.eye(4)
    turn[:2] = [[0.9, -0.2, 0, 1], [0.2, 1.0, 0, -2]]
    ours = compose(smooth(grid), Affine(turn))
    places = scattered(grid)
    for suffix in ("h5", "nii.gz"):
        write_transform(tmp_path / f"a.{suffix}", ours, fixed=slice_)
    write_transform(tmp_path / "a.txt", Affine(turn), fixed=slice_)
    theirs = sitk.ReadTransform(str(tmp_path / "a.h5"))
    assert theirs.GetDimension() == sitk.ReadTransform(str(tmp_path / "a.txt")).GetDimension() == 2
    np.testing.assert_allclose(taken(ours, places), reached(theirs, places), atol=1e-5)
    field = sitk.DisplacementFieldTransform(sitk.ReadImage(str(tmp_path / "a.nii.gz"), sitk.sitkVectorFloat64))
    np.testing.assert_allclose(taken(ours.on(grid), places), reached(field, places), atol=1e-5)
    for suffix in ("h5", "nii.gz", "txt"):
        back, expected = read_transform(tmp_path / f"a.{suffix}"), Affine(turn) if suffix == "txt" else ours.on(grid)
        voxels = np.argwhere(np.ones((3, 3, 1))) @ affine[:3, :3].T + affine[:3, 3]
        np.testing.assert_allclose(taken(back, voxels), taken(expected, voxels), atol=1e-5)


def test_a_slice_that_has_three_axes_in_itk(tmp_path: Path) -> None:
    grid = Grid((12, 14, 1), FIXED.affine)
    field = Displacement(torch.randn(1, 3, 12, 14, 1, generator=torch.Generator().manual_seed(0)), grid.affine)
    write_transform(tmp_path / "a.nii.gz", field)
    theirs = sitk.DisplacementFieldTransform(sitk.ReadImage(str(tmp_path / "a.nii.gz"), sitk.sitkVectorFloat64))
    places = np.argwhere(np.ones((12, 14, 1))) @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    np.testing.assert_allclose(taken(field, places), reached(theirs, places), atol=1e-5)
    np.testing.assert_allclose(taken(read_transform(tmp_path / "a.nii.gz"), places), taken(field, places), atol=1e-5)


@pytest.mark.parametrize("ndim", [2, 3])
def test_bsplines_are_laid_on_the_fixed_grid(ndim: int, tmp_path: Path) -> None:
    affine = FIXED.affine if ndim == 3 else np.diag([-1.5, -1.2, 1, 1])
    fixed = Grid(FIXED.shape[:ndim], affine)
    nib.save(nib.Nifti1Image(np.zeros(fixed.shape, np.float32), affine), tmp_path / "fixed.nii")
    image = sitk.ReadImage(str(tmp_path / "fixed.nii"))
    theirs = sitk.BSplineTransformInitializer(image, [3, 2, 4][:ndim])
    rng = np.random.default_rng(2)
    theirs.SetParameters(rng.normal(scale=4, size=len(theirs.GetParameters())))
    sitk.WriteTransform(theirs, str(tmp_path / "a.tfm"))
    ours = read_transform(tmp_path / "a.tfm", fixed=tmp_path / "fixed.nii")
    places = np.argwhere(np.ones(fixed.size)) @ affine[:3, :3].T + affine[:3, 3]
    assert ours.ndim == ndim
    found, expected = taken(ours, places), reached(theirs, places)
    assert abs(expected - places).max() > 1
    np.testing.assert_allclose(found, expected, atol=1e-5)
    # Beyond the control points a place stays; in a chain the spline is at what came before.
    first = sitk.TranslationTransform(ndim, (5.0, -3.0, 2.0)[:ndim])
    both = sitk.CompositeTransform([theirs, first])
    sitk.WriteTransform(both, str(tmp_path / "b.h5"))
    ours = read_transform(tmp_path / "b.h5", fixed=tmp_path / "fixed.nii")
    away = abs(reached(theirs, reached(first, places)) - reached(first, places)).max(1) == 0
    assert 0 < away.mean() < 1
    np.testing.assert_allclose(taken(ours, places), reached(both, places), atol=1e-5)
    with pytest.raises(InputError, match="fixed: expected the fixed image"):
        read_transform(tmp_path / "a.tfm")


@pytest.mark.parametrize("intent", [1006, 1007])
def test_a_field_in_nifti_and_in_hdf5(intent: int, tmp_path: Path) -> None:
    field = smooth(FIXED)
    write_displacement(tmp_path / "a.nii.gz", field.disp, FIXED.affine)
    image = nib.load(tmp_path / "a.nii.gz")
    values, header = np.asarray(image.dataobj).copy(), image.header.copy()
    if intent == 1006:  # of RAS millimetres
        values[..., :2] *= -1
    header["intent_code"] = intent
    nib.save(nib.Nifti1Image(values, image.affine, header), tmp_path / "b.nii.gz")
    theirs = sitk.DisplacementFieldTransform(sitk.ReadImage(str(tmp_path / "b.nii.gz"), sitk.sitkVectorFloat64))
    sitk.WriteTransform(theirs, str(tmp_path / "b.h5"))
    for name in ("b.nii.gz", "b.h5"):
        found = read_transform(tmp_path / name)
        assert isinstance(found, Displacement)
        np.testing.assert_allclose(found.affine, FIXED.affine, atol=1e-5)
        np.testing.assert_allclose(found.disp, field.disp, atol=1e-5)


@pytest.mark.parametrize("suffix", ["txt", "h5"])
def test_of_several_a_point_goes_through_the_last_first(suffix: str, tmp_path: Path) -> None:
    several = sitk.CompositeTransform([kinds()["affine"], kinds()["euler"], kinds()["versor"]])
    sitk.WriteTransform(several, str(tmp_path / f"three.{suffix}"))
    places = np.array([[10.0, 20.0, 30.0]])
    found = taken(read_transform(tmp_path / f"three.{suffix}"), places)
    np.testing.assert_allclose(found, reached(several, places), atol=1e-9)


def test_of_more_than_ten_as_well(tmp_path: Path) -> None:
    """nitransforms 25.1 takes the names of an HDF5 file's parts, 1, 10, 11, 2 and so on, in the order of texts."""
    parts = [sitk.AffineTransform(3) for _ in range(11)]
    parts[1].Scale(2.0)
    parts[9].Translate((1.0, 2.0, 3.0))
    several = sitk.CompositeTransform(parts)
    sitk.WriteTransform(several, str(tmp_path / "many.h5"))
    places = np.array([[10.0, 20.0, 30.0]])
    np.testing.assert_allclose(taken(read_transform(tmp_path / "many.h5"), places), reached(several, places))


def test_an_inverse_is_written_as_the_field_that_it_is(tmp_path: Path) -> None:
    """On the grid of what it is the inverse of: where its places come from, a point goes back to within that grid."""
    ours = smooth(FIXED).inverse
    write_transform(tmp_path / "a.h5", ours)
    theirs = sitk.ReadTransform(str(tmp_path / "a.h5"))
    voxels = np.argwhere(np.ones((3, 3, 3))) + 4
    places = voxels @ FIXED.affine[:3, :3].T + FIXED.affine[:3, 3]
    np.testing.assert_allclose(reached(theirs, places), taken(ours, places), atol=1e-4)
    np.testing.assert_allclose(taken(smooth(FIXED), reached(theirs, places)), places, atol=5e-3)


def test_a_list_that_is_no_composite_is_a_chain_to_ants(tmp_path: Path) -> None:
    """A scale by 2 and a step of 1: antspyx 0.6.3 takes (0, 0, 0) to (2, 0, 0), SimpleITK, by the first alone, to 0."""
    (tmp_path / "two.tfm").write_text(
        "#Insight Transform File V1.0\n#Transform 0\nTransform: ScaleTransform_double_3_3\nParameters: 2 2 2\n"
        "FixedParameters: 0 0 0\n#Transform 1\nTransform: TranslationTransform_double_3_3\nParameters: 1 0 0\n"
        "FixedParameters:\n"
    )
    with pytest.warns(InputWarning, match="no composite, are taken for a chain whose last comes first, as ANTs does"):
        ours = read_transform(tmp_path / "two.tfm")
    np.testing.assert_allclose(taken(ours, np.zeros((1, 3))) @ LPS, [[2, 0, 0]])


# The version of NumPy that antspyx asks for is older than that of the tests.
@pytest.mark.parametrize("library", ["nitransforms", *(["antspyx"] if find_spec("ants") else [])])
def test_others_read_what_is_written(library: str, tmp_path: Path) -> None:
    """antspyx 0.6.3, nitransforms 25.1.0; at voxels, as nitransforms is of order 3 between them."""
    ours = compose(*chain().parts[:2])  # type: ignore[attr-defined]
    write_transform(tmp_path / "a.h5", ours)
    places = (np.argwhere(np.ones((3, 3, 3)))[::5] + 4) @ FIXED.affine[:3, :3].T + FIXED.affine[:3, 3]
    if library == "antspyx":
        import ants

        theirs = ants.read_transform(str(tmp_path / "a.h5"))
        found = np.array([theirs.apply_to_point(place.tolist()) for place in places @ LPS]) @ LPS
    else:
        from nitransforms import manip

        found = manip.TransformChain.from_filename(tmp_path / "a.h5", fmt="itk").map(places)
    np.testing.assert_allclose(found, taken(ours, places), atol=1e-4)


def text(kind: str, numbers: str, fixed: str) -> str:
    return f"#Insight Transform File V1.0\nTransform: {kind}\nParameters: {numbers}\nFixedParameters: {fixed}\n"


GRID = "4 5 6 0 0 0 1 1 1 1 0 0 0 1 0 0 0 1"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (text("AffineTransform_double_3_3", "1 2", "0 0 0"), "got cannot reshape"),
        (text("AffineTransform_double_3_3", "1 0 0 0 1 0 0 0 nan 1 2 3", "0 0 0"), "finite"),
        (text("AffineTransform_double_4_4", "1 2", "0 0 0"), "got a AffineTransform_double_4_4"),
        (text("ThinPlateSplineKernelTransform_double_3_3", "1 2", "0 0 0"), "got a ThinPlateSpline"),
        (text("CompositeTransform_double_3_3", "", ""), "got a list without the transforms of its composite"),
        ("#Insight Transform File V1.0\n", "got a list without the transforms"),
        (text("DisplacementFieldTransform_double_3_3", "1 2 3", GRID), "got 3 parameters for a grid of 4 x 5 x 6"),
        (text("DisplacementFieldTransform_double_3_3", "1 2 3", GRID.replace("4 5", "-1 -1")), "for a grid of 3 axes"),
        (text("DisplacementFieldTransform_double_3_3", "1 2 3", GRID.replace("4 5", "1e9 1e9")), "got 3 parameters"),
        (text("DisplacementFieldTransform_double_3_3", "1 2 3", GRID.replace("4 5", "nan 5")), "for a grid of 3 axes"),
        (text("DisplacementFieldTransform_double_3_3", "1 2 3", "1 1 1"), "for a grid of 3 axes"),
        (
            text("BSplineTransform_double_3_3", "0 " * 180, GRID.replace("4 5", "3 10")),
            r"got \(3, 10, 6\) control points",
        ),
    ],
)
def test_damaged_text_is_said(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.tfm").write_text(content)
    with pytest.raises(InputError, match=f"a.tfm.: .*{said}"):
        read_transform(tmp_path / "a.tfm")


def test_damaged_binaries_are_said(tmp_path: Path) -> None:
    flirt = "1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n"
    write_transform(tmp_path / "whole.h5", chain())
    write_transform(tmp_path / "whole.mat", Affine(np.eye(4)))
    write_transform(tmp_path / "whole.nii.gz", chain())
    whole = {suffix: (tmp_path / f"whole.{suffix}").read_bytes() for suffix in ("h5", "mat", "nii.gz")}
    broken = {
        "text.h5": flirt.encode(),
        "short.h5": whole["h5"][:9000],
        "short.mat": whole["mat"][:60],
        "empty.mat": b"",
        "two.mat": b"\0\0",
        "spoilt.h5": whole["h5"].replace(b"TREE", b"TRIE").replace(b"HEAP", b"HEAT"),
        "long.mat": whole["mat"][:4] + (2**30).to_bytes(4, "little") + whole["mat"][8:],
        "short.nii.gz": whole["nii.gz"][:400],
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name}.?: expected"):
            read_transform(tmp_path / name)
    with h5py.File(tmp_path / "vast.h5", "w") as file:
        group = file.create_group("TransformGroup/0")
        group["TransformType"] = np.array(["AffineTransform_double_3_3"], h5py.string_dtype())
        group.create_dataset("TransformParameters", (2**40,), "f8", chunks=(2**20,))
    with pytest.raises(InputError, match=r"got .*TransformParameters of shape \(1099511627776,\), for which the file"):
        read_transform(tmp_path / "vast.h5")
    theirs = sitk.CompositeTransform([kinds()["affine"], kinds()["euler"]])
    sitk.WriteTransform(theirs, str(tmp_path / "two.mat"))  # keeps the last of them, under the composite's name
    with pytest.raises(InputError, match="got a list without the transforms of its composite"):
        read_transform(tmp_path / "two.mat")


def test_what_a_file_cannot_hold_is_said(tmp_path: Path) -> None:
    for suffix in ("txt", "mat"):
        with pytest.raises(InputError, match=f"a linear map, as a .{suffix} file of ITK's holds no other"):
            write_transform(tmp_path / f"a.{suffix}", chain())
    with pytest.raises(InputError, match="fixed: expected the fixed image, at whose voxels"):
        write_transform(tmp_path / "a.nii.gz", Affine(np.eye(4)))
    assert not list(tmp_path.iterdir())
