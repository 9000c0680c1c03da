"""Volumes larger than memory: the bits are those of one block, whatever fits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr as library
from typer.testing import CliRunner

from l2rfast import io, jacobian_determinant
from l2rfast.cli import app
from l2rfast.errors import InputError
from l2rfast.io import zarr
from l2rfast.methods.blocks import cover
from l2rfast.methods.blocks.jacobian import jacobian
from l2rfast.methods.blocks.resample import resample
from l2rfast.methods.cohort.memory import PROCESS
from l2rfast.resampling import Resampler
from l2rfast.world import Affine, Grid, compose

AFFINE = np.diag([-0.002, -0.002, 0.003, 1])[:, [2, 1, 0, 3]]  # voxels of 3, 2, 2 um
SHAPE = (34, 21, 40)
UNITS = ("micrometer",) * 3
CELL = 16
SMALL, LARGE = PROCESS + 1.2e3 * CELL**3, PROCESS + 1e9  # bytes: of blocks of a few cells, of all
runner = CliRunner()


def smooth(shape: tuple[int, ...], channels: int, seed: int) -> torch.Tensor:
    """(1, channels, *shape)."""
    coarse = torch.randn(1, channels, 5, 5, 5, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, shape, mode="trilinear", align_corners=True)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """An image and a field on one grid."""
    grid = Grid(SHAPE, AFFINE)
    with zarr.written(tmp_path / "image.zarr", [grid], np.dtype(np.uint16), UNITS) as (array,):
        array[...] = (1000 * smooth(SHAPE, 1, 0)[0, 0] + 5000).numpy().astype(np.uint16)
    with zarr.written_field(tmp_path / "field.zarr", grid, UNITS) as writer:
        writer.write(zarr.whole(SHAPE), 2 * smooth(SHAPE, 3, 1))
    return tmp_path / "image.zarr", tmp_path / "field.zarr"


def test_blocks_cover_a_grid_once_and_fit() -> None:
    count = np.zeros(SHAPE, int)
    for block in cover.tiles(zarr.whole(SHAPE), [16, 7, 40]):
        count[block] += 1
    assert (count == 1).all()
    sides = cover.sides((200, 100, 30), CELL, int(PROCESS + 50 * 1e5), 50)
    assert np.prod(sides) <= 1e5
    assert all(side % CELL == 0 or side == n for side, n in zip(sides, (200, 100, 30), strict=True))
    assert cover.sides(SHAPE, CELL, int(LARGE), 50) == list(SHAPE)
    # Of all that fit, those with the fewest voxels: as they are counted one by one.
    shape, halo, room = (96, 64, 48), 4, 60000

    def counted(of: Sequence[int]) -> tuple[int, int]:
        each = [math.prod(part.stop - part.start for part in cover.wider(at, halo, shape)) for at in tiled(of)]
        return sum(each), max(each)

    def tiled(of: Sequence[int]) -> list[cover.At]:
        return cover.tiles(zarr.whole(shape), of)

    found = cover.sides(shape, CELL, int(PROCESS + 50 * room), 50, halo)
    every = [counted(of) for of in itertools.product(*(range(CELL, n + 1, CELL) for n in shape))]
    assert counted(found)[0] == min(total for total, longest in every if longest <= room)
    assert counted(found)[0] == cover.voxels(shape, found, halo)
    with pytest.raises(
        InputError, match=r"--memory: expected 0\.45 GB or more for blocks of 16 x 16 x 16 voxels, got 0.44 GB"
    ):
        cover.sides(SHAPE, CELL, int(PROCESS), 50)
    assert cover.sides(SHAPE, CELL, int(0.45e9), 50)  # as much as is asked for


@pytest.mark.parametrize("interpolation", ["linear", "nearest", "sinc"])
@pytest.mark.parametrize("chained", [False, True])
def test_an_image_is_resampled_with_the_same_bits_in_any_memory(
    pair: tuple[Path, Path], interpolation: str, chained: bool
) -> None:
    (level,), transform = zarr.open_levels("image", pair[0]), io.read_transform(pair[1])
    if chained:
        turn = np.eye(4)
        turn[:2, :2] = [[0.98, -0.2], [0.2, 0.98]]
        transform = compose(Affine(turn), transform)
    found = [np.empty(SHAPE, np.uint16) for _ in range(2)]
    for result, memory in zip(found, (SMALL, LARGE), strict=True):
        resample(
            level,
            transform,
            level.grid,
            result,
            memory=int(memory),
            taken=lambda values: torch.from_numpy(values.astype(np.float32)),
            stored=lambda values: np.rint(values).astype(np.uint16),
            interpolation=interpolation,
            outside=3.0,
            dtype=torch.float32,
            cell=CELL,
        )
    assert np.array_equal(*found)
    image = level.volume(zarr.whole(SHAPE)).data[None, None]
    whole = Resampler(transform, level.grid, level.grid, interpolation=interpolation, outside=3.0)(image)[0, 0]
    off = np.abs(found[0].astype(float) - np.rint(whole.numpy()))
    # But for voxels that lie on an edge, places are rounded otherwise by no more than that.
    assert np.mean(off > 1) < 1e-3
    assert (found[0] == 3).any()


def test_the_determinants_have_the_bits_of_the_whole_field(pair: tuple[Path, Path]) -> None:
    field = zarr.read_field("field", pair[1])
    wanted = jacobian_determinant(field.disp)[0]
    for memory in (SMALL, LARGE):
        found = np.empty(SHAPE, np.float32)
        folded = jacobian(field, found, log=False, memory=int(memory), cell=CELL)
        assert np.array_equal(found, wanted.numpy())
        assert folded == int((wanted <= 0).sum())


def test_commands_write_zarr(pair: tuple[Path, Path], tmp_path: Path) -> None:
    image, field = map(str, pair)
    words = ["apply", image, f"--reference={image}", f"--transform={field}", "--memory=1GB"]
    for out in ("a.zarr", "a.nii.gz"):
        assert runner.invoke(app, [*words, f"--out={tmp_path / out}"], catch_exceptions=False).exit_code == 0
    (level,) = zarr.open_levels("a", tmp_path / "a.zarr")
    assert (level.units, level.dtype) == (UNITS, np.uint16)
    assert np.allclose(level.grid.affine, AFFINE)
    written, whole = (io.read_image(tmp_path / name).data for name in ("a.zarr", "a.nii.gz"))
    assert (written - whole).abs().max() <= 1
    out = f"--out={tmp_path / 'j.zarr'}"
    assert runner.invoke(app, ["jacobian", field, "--no-log", out], catch_exceptions=False).exit_code == 0
    wanted = jacobian_determinant(zarr.read_field("field", pair[1]).disp)[0]
    assert np.array_equal(library.open_array(str(tmp_path / "j.zarr/0"), mode="r")[...], wanted.numpy())


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["apply", "IMAGE", "--reference=IMAGE", "--interpolation=cubic"], "expected another than cubic for OME-Zarr"),
        (["apply", "IMAGE", "--reference=IMAGE", "--memory=400MB"], "--memory: expected 0.45 GB or more for blocks"),
        (["jacobian", "inverse:FIELD"], "expected one displacement field in .zarr"),
    ],
)
def test_what_cannot_be_done_in_blocks_is_said(
    pair: tuple[Path, Path], tmp_path: Path, words: list[str], text: str
) -> None:
    files = {"IMAGE": str(pair[0]), "FIELD": str(pair[1])}
    for name, file in files.items():
        words = [word.replace(name, file) for word in words]
    said = runner.invoke(app, [*words, f"--out={tmp_path / 'out.zarr'}"])
    assert said.exit_code == 2
    assert text in said.stderr
    assert not (tmp_path / "out.zarr").exists()


def test_memory_that_is_not_used_is_said(pair: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.nii.gz"
    for words in (["apply", str(pair[0]), f"--reference={pair[0]}"], ["jacobian", str(pair[1])]):
        said = runner.invoke(app, [*words, f"--out={out}", "--memory=4GB"])
        assert said.exit_code == 0
        assert f"l2rfast: warning: --memory: not used, as {out} is no .zarr\n" in said.stderr
