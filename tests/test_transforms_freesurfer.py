"""FreeSurfer's files: what surfa, nitransforms and nibabel make of them, its and ours, and numbers worked by hand.

Golden files of surfa 0.6.3 with NumPy 2.2.6, between an oblique, flipped and anisotropic target (7, 6, 5) and another
source (8, 9, 7), `fixed_affine` and `moving_affine` of expected.npz:

    affine = sf.Affine(inv(matrix), source=source, target=target, space="world")
    affine.save("world.lta"), affine.convert(space="voxel").save("voxel.lta"), ... space="surface"
    warp = sf.Warp(vectors, source=source, target=target, format=sf.Warp.Format.disp_ras)
    warp.convert(format=0).save("abs_crs.mgz"), ... 1, 2, 3
    warped, moved = (transform.transform(moving).data for transform in (warp, affine))

surfa and nitransforms 25.1.0 read our .lta and .mgz as they are meant: matrices to 2e-7, vectors to 2e-6 mm, images to
1e-4 of 250. A morph (.m3z) is written here as the layout has it.
"""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from l2rfast import InputError
from l2rfast.io import read_transform, write_transform
from l2rfast.world import Affine, Displacement, Grid, Transform

GOLDEN = Path(__file__).parent / "golden" / "freesurfer"
EXPECTED: dict[str, np.ndarray] = dict(np.load(GOLDEN / "expected.npz"))
FIXED, MOVING = Grid((7, 6, 5), EXPECTED["fixed_affine"]), Grid((8, 9, 7), EXPECTED["moving_affine"])
KINDS = ("abs_crs", "disp_crs", "abs_ras", "disp_ras")


def indices(size: tuple[int, ...]) -> np.ndarray:
    return np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1)


def lead(transform: Transform, places: np.ndarray) -> np.ndarray:
    return transform(torch.from_numpy(places.reshape(-1, 3))).numpy().reshape(places.shape)


def surfaces(grid: Grid) -> np.ndarray:
    """Voxel -> place of surfaces, by nibabel."""
    return nib.MGHImage(np.zeros(grid.size, np.float32), grid.affine).header.get_vox2ras_tkr()


def resampled(transform: Transform) -> np.ndarray:
    went = lead(transform, nib.affines.apply_affine(FIXED.affine, indices(FIXED.size)))
    voxels = nib.affines.apply_affine(np.linalg.inv(MOVING.affine), went)
    return map_coordinates(EXPECTED["moving"].astype(float), np.moveaxis(voxels, -1, 0), order=1, cval=np.nan)


def close(ours: np.ndarray | None, theirs: np.ndarray, within: float) -> None:
    assert ours is not None
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=within)


@pytest.mark.parametrize("space", ["world", "voxel", "surface"])
def test_linear_ones_of_surfa(space: str) -> None:
    close(read_transform(GOLDEN / f"{space}.lta").matrix, EXPECTED["matrix"], 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_warps_of_surfa(kind: str) -> None:
    transform = read_transform(GOLDEN / f"{kind}.mgz")
    assert isinstance(transform, Displacement)
    close(transform.vectors.movedim(0, -1).numpy(), EXPECTED["vectors"], 1e-5)
    close(transform.affine, FIXED.affine, 1e-5)


@pytest.mark.parametrize(("file", "image"), [("disp_ras.mgz", "warped"), ("voxel.lta", "moved")])
def test_the_images_that_surfa_makes(file: str, image: str) -> None:
    ours = resampled(read_transform(GOLDEN / file))
    inside = np.isfinite(ours)
    assert inside.mean() > 0.7
    close(ours[inside], EXPECTED[image][inside], 1e-3)


def lta(kind: int, matrix: np.ndarray, *, valid: int = 1, count: int = 1) -> str:
    """A file of text like surfa's, with comments as FreeSurfer's have them."""
    rows = "\n".join(" ".join(map(repr, row)) for row in matrix.tolist())
    volumes = (GOLDEN / "world.lta").read_text().split("1.000000000000000e+00\nsrc")[1]
    return (
        f"# transform file /a = b/c.lta\ntype      = {kind} # A_TYPE\nnxforms   = {count}\nmean      = 0 0 0\n"
        f"sigma     = 1.0000\n1 4 4\n{rows}\nsrc{volumes}".replace("valid = 1", f"valid = {valid}  # volume info")
        + "subject none\nfscale 0.15\n"
    )


def by_sizes(grid: Grid) -> np.ndarray:
    return np.diag([*grid.spacing, 1])


@pytest.mark.parametrize(
    ("kind", "frame"),
    [(0, lambda grid: np.eye(4)), (2, by_sizes), (3, surfaces), (14, surfaces)],
    ids=["0", "2", "3", "14"],
)
@pytest.mark.parametrize("valid", [0, 1])
def test_types_by_hand(kind: int, frame: object, valid: int, tmp_path: Path) -> None:
    """Type 14 goes from dst to src, all others from src to dst."""
    assert callable(frame)
    to = {grid: frame(grid) @ np.linalg.inv(grid.affine) for grid in (FIXED, MOVING)}
    matrix = to[MOVING] @ EXPECTED["matrix"] @ np.linalg.inv(to[FIXED])
    (tmp_path / "a.lta").write_text(lta(kind, matrix if kind == 14 else np.linalg.inv(matrix), valid=valid))
    within = 1e-5 if kind in (3, 14) else 1e-9  # nibabel's surfaces are float32
    if valid:
        close(read_transform(tmp_path / "a.lta").matrix, EXPECTED["matrix"], within)
        return
    close(read_transform(tmp_path / "a.lta", fixed=FIXED, moving=MOVING).matrix, EXPECTED["matrix"], within)
    with pytest.raises(InputError, match="fixed: expected the fixed image"):
        read_transform(tmp_path / "a.lta", moving=MOVING)


def test_a_matrix_in_the_world_needs_no_volumes(tmp_path: Path) -> None:
    (tmp_path / "a.lta").write_text(lta(1, np.linalg.inv(EXPECTED["matrix"]), valid=0))
    close(read_transform(tmp_path / "a.lta").matrix, EXPECTED["matrix"], 1e-12)


def test_the_register_of_tkregister(tmp_path: Path) -> None:
    matrix = surfaces(MOVING) @ np.linalg.inv(MOVING.affine) @ EXPECTED["matrix"]
    matrix = matrix @ FIXED.affine @ np.linalg.inv(surfaces(FIXED))
    rows = "\n".join(" ".join(f"{value:.15e}" for value in row) for row in matrix[:3])
    (tmp_path / "register.dat").write_text(f"bert\n3.000000\n2.500000\n0.150000\n{rows}\n0 0 0 1\nround\n")
    transform = read_transform(tmp_path / "register.dat", fixed=FIXED, moving=MOVING)
    close(transform.matrix, EXPECTED["matrix"], 1e-5)
    with pytest.raises(InputError, match="moving: expected the moving image"):
        read_transform(tmp_path / "register.dat", fixed=FIXED)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (lta(21, np.eye(4)), "type 0, 1, 2, 3, 14, got type 21"),
        (lta(15, np.eye(4)), "got type 15"),
        (lta(1, np.eye(4), count=2), "one transform in the file, got 2"),
        (lta(0, np.eye(4)).replace("xras", "aras"), "without xras"),
        (lta(0, np.eye(4)).replace("volume = 8 9 7", "volume = 8 -9 7"), "sizes above 0"),
        (lta(0, np.eye(4)).replace("3.000000000000001e+00", "inf"), "three independent axes"),
        (lta(1, np.eye(4)).split("1 4 4")[0], "FreeSurfer.* a file without a matrix"),
        (lta(1, np.zeros((4, 4))), "whose last row is 0 0 0 1"),
        ("nxforms", "without type"),
    ],
)
def test_texts_that_are_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.lta").write_text(text)
    with pytest.raises(InputError, match=said):
        read_transform(tmp_path / "a.lta")


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    affine = Affine(EXPECTED["matrix"])
    write_transform(tmp_path / "a.lta", affine, format="freesurfer", fixed=FIXED, moving=MOVING)
    close(read_transform(tmp_path / "a.lta").matrix, EXPECTED["matrix"], 1e-12)
    # Where its volumes lie, in voxels of both.
    text = (tmp_path / "a.lta").read_text()
    theirs = (GOLDEN / "world.lta").read_text()
    for line, other in zip(text.splitlines(), theirs.splitlines(), strict=True):
        if "=" in line and "valid" not in line and "type" not in line:
            name, numbers = line.split("=")
            assert name == other.split("=")[0]
            if "filename" not in line:
                close(np.array(numbers.split(), float), np.array(other.split("=")[1].split(), float), 1e-9)
    field = Displacement.of_world(torch.from_numpy(EXPECTED["vectors"]).movedim(-1, 0), FIXED.affine)
    for suffix in ("mgz", "mgh"):
        write_transform(tmp_path / f"a.{suffix}", field, format="freesurfer", moving=MOVING)
        again = read_transform(tmp_path / f"a.{suffix}")
        assert isinstance(again, Displacement)
        close(again.vectors.movedim(0, -1).numpy(), EXPECTED["vectors"], 1e-5)
        close(again.affine, FIXED.affine, 1e-5)
        with pytest.raises(InputError, match="moving: expected the moving image"):
            write_transform(tmp_path / f"b.{suffix}", field, format="freesurfer")
    with pytest.raises(InputError, match="expected a linear map"):
        write_transform(tmp_path / "b.lta", field, format="freesurfer", fixed=FIXED, moving=MOVING)


def test_a_warp_of_a_sheared_grid_is_not_written(tmp_path: Path) -> None:
    sheared = Grid((4, 4, 4), np.eye(4) + np.eye(4, k=1) * [[1], [0], [0], [0]])
    with pytest.raises(InputError, match="right angles"):
        write_transform(tmp_path / "a.mgz", Affine(np.eye(4)), format="freesurfer", fixed=sheared, moving=MOVING)


def volume(grid: Grid, valid: int = 1) -> bytes:
    """The notes of a volume, in big-endian numbers, from its affine map by hand."""
    spacing = np.linalg.norm(grid.affine[:3, :3], axis=0)
    centre = grid.affine @ [*(np.array(grid.size) / 2), 1]
    numbers = [*spacing, *(grid.affine[:3, :3] / spacing).T.ravel(), *centre[:3]]
    return struct.pack(">4i15f512x", valid, *grid.size, *numbers)


def morph(kind: int | None, *, valid: int = 1, spacing: int = 2, labels: bool = False) -> tuple[bytes, np.ndarray]:
    """A file, not compressed, and the places in RAS millimetres of its nodes; the first of these is not valid."""
    size = (4, 3, 2)
    nodes = indices(size)
    places = np.random.default_rng(0).uniform(1, 6, (*size, 3)).astype(np.float32)
    places[0, 0, 0] = 0
    records = b"".join(
        struct.pack(">6f3i", *((0, 0, 0) if not place.any() else (9, 9, 9)), *place, *node)
        for place, node in zip(places.reshape(-1, 3), nodes.reshape(-1, 3), strict=True)
    )
    tags = struct.pack(">i", 10) + volume(MOVING, valid) + volume(FIXED, valid)
    tags += b"" if kind is None else struct.pack(">2i", 11, kind)
    tags += struct.pack(">i24i", 12, *range(24)) if labels else b""
    tags += struct.pack(">2iq1600s", 31, 0, 1600, b"Matrix 1 0 0 0") + struct.pack(">i", 0)
    world = places if kind == 1 else nib.affines.apply_affine(MOVING.affine, places)
    return struct.pack(">f4if", 1, *size, spacing, 0) + records + tags, world


@pytest.mark.parametrize("kind", [None, 1, 2])
@pytest.mark.parametrize("suffix", ["m3z", "m3d"])
def test_morphs(kind: int | None, suffix: str, tmp_path: Path) -> None:
    contents, places = morph(kind, labels=kind == 2)
    (tmp_path / f"a.{suffix}").write_bytes(gzip.compress(contents) if suffix == "m3z" else contents)
    transform = read_transform(tmp_path / f"a.{suffix}")
    nodes = nib.affines.apply_affine(FIXED.affine, 2 * indices((4, 3, 2)))
    went = lead(transform, nodes)
    close(went.reshape(-1, 3)[1:], places.reshape(-1, 3)[1:], 2e-5)
    # One of its neighbours, as it goes along with the nearest.
    moves = (places - nodes)[[0, 0, 1], [0, 1, 0], [1, 0, 0]]
    assert np.abs(moves - (went - nodes)[0, 0, 0]).max(1).min() < 1e-4


def test_a_morph_that_does_not_tell_its_volumes(tmp_path: Path) -> None:
    contents, places = morph(2, valid=0)
    (tmp_path / "a.m3z").write_bytes(gzip.compress(contents))
    with pytest.raises(InputError, match="fixed: expected the fixed image"):
        read_transform(tmp_path / "a.m3z")
    transform = read_transform(tmp_path / "a.m3z", fixed=FIXED, moving=MOVING)
    node = nib.affines.apply_affine(FIXED.affine, [[2.0, 4, 2]])
    close(lead(transform, node)[0], places[1, 2, 1], 2e-5)


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        (morph(2)[0][:300], "ends early|fit into"),
        (morph(2)[0][:8] + struct.pack(">i", -3) + morph(2)[0][12:], "nodes"),
        (morph(2)[0][:8] + struct.pack(">i", 2**31 - 1) + morph(2)[0][12:], "do not fit into the file"),
        (morph(2, spacing=0)[0], "0 voxels apart"),
        (morph(7)[0], "type 7"),
        (struct.pack(">f", 1), "fit into the file"),
    ],
    ids=["cut", "negative", "vast", "spacing", "type", "nothing"],
)
def test_morphs_that_are_none(contents: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.m3d").write_bytes(contents)
    with pytest.raises(InputError, match=f"FreeSurfer.*({said})"):
        read_transform(tmp_path / "a.m3d")
    (tmp_path / "a.m3z").write_bytes(gzip.compress(contents)[:-12])
    with pytest.raises(InputError):
        read_transform(tmp_path / "a.m3z")


def warp(kind: int, *, spacing: int = 1, frames: int = 3, intent: int = 3, size: tuple[int, ...] = FIXED.size) -> bytes:
    """A file, not compressed, of ones and twos and threes."""
    values = np.broadcast_to(np.arange(1, frames + 1, dtype=">f4"), (*size, frames))
    header = struct.pack(">7ih", intent << 8 | 1, *size, frames, 3, 0, 1).ljust(284, b"\0")
    tags = struct.pack(">iq8s", 41, 8, b"UNKNOWN") + struct.pack(">i", 10) + volume(MOVING) + volume(FIXED)
    return header + values.tobytes("F") + bytes(20) + tags + struct.pack(">iq2if", 13, 12, kind, spacing, 0)


@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize(("spacing", "frames"), [(1, 3), (2, 4)])
def test_warps_by_hand(kind: int, spacing: int, frames: int, tmp_path: Path) -> None:
    """What is further apart than a voxel is beside the number of the node, as FreeSurfer's Warpfield::read has it."""
    (tmp_path / "a.mgh").write_bytes(warp(kind, spacing=spacing, frames=frames))
    node, values = np.array([2.0, 1, 2]), np.array([1.0, 2, 3])
    expected = {
        0: nib.affines.apply_affine(MOVING.affine, values),
        1: nib.affines.apply_affine(MOVING.affine, values + node),
        2: values,
        3: nib.affines.apply_affine(FIXED.affine, node) + values,
    }[kind]
    place = nib.affines.apply_affine(FIXED.affine, spacing * node)
    close(lead(read_transform(tmp_path / "a.mgh"), place[None])[0], expected, 2e-5)


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        (warp(4), "kind 4"),
        (warp(3, spacing=0), "every 0 voxels"),
        (warp(3, intent=4), "its inverse"),
        (warp(3, frames=2), "2 components"),
        (warp(3)[:-24], "kind -1"),
        (warp(3)[:200], "fit into|ends early"),
        (warp(3)[:4] + struct.pack(">i", 2**31 - 1) + warp(3)[8:], "fit into"),
    ],
    ids=["kind", "spacing", "inverse", "frames", "no kind", "cut", "vast"],
)
def test_warps_that_are_none(contents: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.mgh").write_bytes(contents)
    with pytest.raises(InputError, match=said):
        read_transform(tmp_path / "a.mgh")


def test_a_volume_of_three_components_can_be_anything(tmp_path: Path) -> None:
    nib.save(nib.MGHImage(np.ones((4, 4, 4, 3), np.float32), np.eye(4)), tmp_path / "a.mgz")
    with pytest.raises(InputError, match="expected a transform of one of the formats"):
        read_transform(tmp_path / "a.mgz")
    with pytest.raises(InputError, match="does not say what its components are"):
        read_transform(tmp_path / "a.mgz", format="freesurfer")


def test_a_shear_counts(tmp_path: Path) -> None:
    """Tag 15 of surfa: as 10, with shears before the name."""
    plain = warp(3)
    start = plain.index(struct.pack(">i", 13) + struct.pack(">q", 12))
    notes = [note[:-512] + struct.pack(">3f", 0.1, 0, 0) + bytes(512) for note in (volume(MOVING), volume(FIXED))]
    (tmp_path / "a.mgh").write_bytes(plain[:start] + struct.pack(">iq", 15, 1200) + b"".join(notes) + plain[start:])
    grid = read_transform(tmp_path / "a.mgh").grid
    assert grid is not None
    expected = FIXED.affine[:3, :3] / FIXED.spacing @ np.diag(FIXED.spacing) @ [[1, 0.1, 0], [0, 1, 0], [0, 0, 1]]
    close(grid.affine[:3, :3], expected, 1e-6)
