"""Registration by blocks: no seams, the same bits whoever works and in whatever order, near what the whole gives."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from l2rfast import jacobian_determinant, local_ncc, register, warp
from l2rfast.cli import app
from l2rfast.cli import blocks as cli
from l2rfast.data.synthetic import anatomies
from l2rfast.errors import InputError
from l2rfast.io import zarr
from l2rfast.methods.blocks import register as blocks
from l2rfast.methods.blocks.blend import blended
from l2rfast.methods.blocks.block import work
from l2rfast.methods.blocks.cover import sides, tiles, wider
from l2rfast.methods.cohort.memory import PROCESS
from l2rfast.methods.cohort.workers import processes
from l2rfast.world import Grid

N, UNIT, HALO = 40, 16, 6
AFFINE = np.diag([-0.002, -0.002, 0.002, 1])[:, [2, 1, 0, 3]]
HALF = AFFINE @ np.array([[2, 0, 0, 0.5], [0, 2, 0, 0.5], [0, 0, 2, 0.5], [0, 0, 0, 1]])
GRIDS = [Grid((N,) * 3, AFFINE), Grid((N // 2,) * 3, HALF)]
runner = CliRunner()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Tensor]:
    """Fixed and moving, of two resolutions, and the field between them in voxels."""
    folder = tmp_path_factory.mktemp("pair")
    moving, fixed = anatomies(2, (N,) * 3)
    for name, subject in (("fixed", fixed), ("moving", moving)):
        image = (subject.image * 20000 + 1000).round()
        with zarr.written(folder / f"{name}.zarr", GRIDS, np.dtype(np.uint16), ("micrometer",) * 3) as (fine, coarse):
            fine[...] = image[0, 0].numpy().astype(np.uint16)
            coarse[...] = torch.nn.functional.avg_pool3d(image, 2)[0, 0].numpy().astype(np.uint16)
    return folder / "fixed.zarr", folder / "moving.zarr", fixed.displacement


def serial(order: int) -> Callable[[], AbstractContextManager[Any]]:
    """Who works on one line after the other, the first first (1) or last (-1)."""

    def outcomes(work: Any, lines: Mapping[str, Any]) -> Generator[tuple[str, str | None]]:
        for id in list(lines)[::order]:
            yield id, work(lines[id])

    @contextmanager
    def team() -> Generator[Any]:
        yield outcomes

    return team


def by_blocks(
    pair: tuple[Path, Path, Tensor], folder: Path, team: Callable[[], AbstractContextManager[Any]]
) -> tuple[Tensor, dict[str, Any]]:
    images = blocks.opened(*pair[:2])
    per_voxel = blocks.planned(images, 10**9, {}, UNIT, HALO).per_voxel
    plan = blocks.Plan([(1, 1), (0, 0)], per_voxel, int(PROCESS + per_voxel * 40 * 40 * 28), 1)
    folder.mkdir()
    report = blocks.register(
        images,
        plan,
        folder / "field.zarr",
        folder,
        team,
        threads=1,
        progress=lambda name, done: None,
        unit=UNIT,
        halo=HALO,
        options={"preset": "default"},
        init="none",
    )
    assert [file.name for file in folder.iterdir() if file.suffix == ".npy"] == []
    return zarr.read_field("field", folder / "field.zarr").disp, report


@pytest.fixture(scope="module")
def one_by_one(
    pair: tuple[Path, Path, Tensor], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tensor, dict[str, Any]]:
    return by_blocks(pair, tmp_path_factory.mktemp("serial") / "run", serial(1))


def killed_once(words: Sequence[str]) -> str | None:
    """The first who works on a block is killed there."""
    marker = Path(json.loads(words[0])["out"]).with_name("killed")
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return work(words)


def test_blocks_give_about_the_field_of_the_whole_in_any_order(
    pair: tuple[Path, Path, Tensor], one_by_one: tuple[Tensor, dict[str, Any]], tmp_path: Path
) -> None:
    (found, report), (again, _) = one_by_one, by_blocks(pair, tmp_path / "run", serial(-1))
    assert [level["blocks"] > 1 for level in report["levels"]] == [False, True]
    assert torch.equal(found, again)
    volumes = [zarr.open_levels("image", path)[0].volume(zarr.whole((N,) * 3)) for path in pair[:2]]
    whole, inside = register(*volumes, init="none").displacement, volumes[0].data > 2000
    before, by_whole, by_parts = (
        float((field - pair[2]).norm(dim=1)[0][inside].mean()) for field in (torch.zeros_like(found), whole, found)
    )
    assert by_parts < 1.1 * by_whole < before
    assert (jacobian_determinant(found) > 0).float().mean() > 0.99


def test_bits_are_the_same_where_a_process_is_killed(
    pair: tuple[Path, Path, Tensor],
    one_by_one: tuple[Tensor, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blocks, "work", killed_once)
    found, _ = by_blocks(pair, tmp_path / "run", partial(processes, 1))
    assert (tmp_path / "run/killed").exists()
    assert torch.equal(found, one_by_one[0])


BY_DASK = """
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from test_blocks_register import by_blocks
from l2rfast.methods.cohort.workers import dask_workers

fixed, moving, run = map(Path, sys.argv[2:])
by_blocks((fixed, moving, None), run, partial(dask_workers, "local", 2, threads=1, memory=10**9))
"""


def test_bits_are_the_same_by_dask(
    pair: tuple[Path, Path, Tensor], one_by_one: tuple[Tensor, dict[str, Any]], tmp_path: Path
) -> None:
    # In a process of its own: Dask leaves sockets open, which the next tests would be told of.
    words = [sys.executable, "-W", "ignore", "-c", BY_DASK, Path(__file__).parent, *pair[:2], tmp_path / "run"]
    subprocess.run(list(map(str, words)), check=True, capture_output=True, timeout=300)
    found = zarr.read_field("field", tmp_path / "run/field.zarr").disp
    assert torch.equal(found, one_by_one[0])


def test_seams_vanish() -> None:
    shape, halo = (24, 20, 9), 4
    cores = tiles(zarr.whole(shape), [8, 12, 9])
    field = torch.randn(1, 3, *shape, generator=torch.Generator().manual_seed(0))

    def joined(fields: Callable[[int], np.ndarray]) -> Tensor:
        return torch.cat(
            [
                blended((slice(k, k + 6), *map(slice, [0, 0], shape[1:])), cores, halo, shape, fields)
                for k in range(0, 24, 6)
            ],
            2,
        )

    # Of one field the parts give it back, and of different constants one without jumps.
    one = joined(lambda i: field[0][(slice(None), *wider(cores[i], halo, shape))].numpy())
    assert torch.allclose(one, field, atol=1e-6)
    steps = joined(
        lambda i: np.full((3, *(part.stop - part.start for part in wider(cores[i], halo, shape))), i, np.float32)
    )
    assert steps.amin() == 0
    assert steps.amax() == len(cores) - 1
    largest = 2 * 1.5 / (2 * halo)  # of the slope of 3 t^2 - 2 t^3 between numbers that differ by 2, over two halos
    assert steps.diff(dim=2).abs().amax() <= largest + 1e-6
    assert steps.diff(dim=3).abs().amax() <= largest / 2 + 1e-6


def test_the_plan_fits_the_memory(pair: tuple[Path, Path, Tensor]) -> None:
    images = blocks.opened(*pair[:2])
    assert blocks.planned(images, 10**9, {}).levels == [(0, 0)]
    with pytest.raises(InputError, match=r"--memory: expected 0\.45 GB or more for the coarsest resolution of FIXED"):
        blocks.planned(images, 400 * 10**6, {})
    # One process hands out the blocks, and one has to work.
    with pytest.raises(
        InputError, match=r"--memory: expected 0\.9 GB or more for blocks of 40 x 40 x 40 voxels, got 0\.45 GB"
    ):
        blocks.planned(images, int(PROCESS + 1e7), {})


def test_one_block_at_a_time_or_two_by_which_takes_less() -> None:
    grids = [Grid(tuple(n // 2**k for n in (1024, 1024, 512)), AFFINE @ np.diag([2.0**k] * 3 + [1])) for k in range(4)]
    levels = [zarr.Level("image", None, (0, 1, 2), None, ("micrometer",) * 3, grid) for grid in grids]
    images, together = blocks.Images(levels, levels, (Path(), Path())), {}
    for memory in (15 * 10**8, 4 * 10**9, 10**11):
        plan = blocks.planned(images, memory, {})
        together[memory] = plan.together
        if len(plan.levels) > 1:
            side = sides(grids[0].shape, blocks.UNIT, plan.memory, plan.per_voxel, blocks.HALO)
            most = max(
                math.prod(part.stop - part.start for part in wider(core, blocks.HALO, grids[0].shape))
                for core in tiles(zarr.whole(grids[0].shape), side)
            )
            assert PROCESS + plan.together * (PROCESS + plan.per_voxel * most) <= memory
    assert together == {15 * 10**8: 1, 4 * 10**9: 2, 10**11: 2}
    assert plan.levels == [(0, 0)]


def test_a_block_that_fails_fails_all(pair: tuple[Path, Path, Tensor], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(blocks, "work", lambda words: "no room")
    with pytest.raises(InputError, match="block 0 of resolution 0: no room"):
        by_blocks(pair, tmp_path / "run", serial(1))
    assert not (tmp_path / "run/field.zarr").exists()


def test_the_command_writes_field_image_and_report(pair: tuple[Path, Path, Tensor], tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["register", *map(str, pair[:2]), f"--out={out}", "--memory=1GB", "--preset=fast", "--init=none", "--quiet"]
    said = runner.invoke(app, words, catch_exceptions=False)
    assert said.exit_code == 0, said.output
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out"]
    assert sorted(file.name for file in out.iterdir()) == ["displacement.zarr", "report.json", "warped.zarr"]
    assert json.loads((out / "report.json").read_text())["levels"] == [{"fixed": 0, "moving": 0, "blocks": 1}]
    fixed, moving, warped = (
        zarr.open_levels("image", path)[0].volume(zarr.whole((N,) * 3)).data
        for path in (*pair[:2], out / "warped.zarr")
    )
    assert (warped - fixed).abs().mean() < 0.7 * (moving - fixed).abs().mean()
    assert "expected a new folder" in runner.invoke(app, words).stderr


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        (10_000, "out/scratch/1.zarr: expected a folder that can be written (File too"),
        (100_000, "block 0 of resolution 0: {out}/scratch/0-0.npy: expected a file that can be written (File too"),
    ],
)
def test_a_disk_that_is_full_ends_in_one_sentence_and_leaves_nothing(
    pair: tuple[Path, Path, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, text: str
) -> None:
    """Of the first resolution, and of a block: no file may be longer."""
    monkeypatch.setattr(blocks, "planned", lambda *arguments: blocks.Plan([(1, 1), (0, 0)], 165, 10**9, 1))
    monkeypatch.setattr(cli, "processes", lambda number: serial(1)())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        out = tmp_path / "out"
        said = runner.invoke(app, ["register", *map(str, pair[:2]), f"--out={out}", "--memory=1GB", "--init=none"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert said.exit_code == 2, said.output
    assert text.format(out=out) in said.stderr
    assert ".l2rfast-" not in said.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--memory=1GB", "--jacobian"], "--jacobian: expected it not to be given with --memory"),
        (["--memory=1GB", "--transform=rigid"], "--transform: expected it not to be given with --memory"),
        (["--memory=1GB", "--workers=0"], "--workers: expected an integer >= 1, got 0"),
        (["--memory=much"], "memory: expected a size like 4GB"),
        (["--workers=2"], "--workers, --dask: expected --memory as well"),
    ],
)
def test_what_blocks_have_not_is_said(
    pair: tuple[Path, Path, Tensor], tmp_path: Path, words: list[str], text: str
) -> None:
    said = runner.invoke(app, ["register", *map(str, pair[:2]), f"--out={tmp_path / 'out'}", *words])
    assert said.exit_code == 2
    assert text in said.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("cut", [slice(8, 20), slice(17, 31), slice(0, 9)])
def test_kernels_of_a_slab_with_its_halo_give_the_bits_of_the_whole(cut: slice) -> None:
    """`warp` where places are exact in float32, as they are rounded by the number of the voxel, which is another in the
    slab; values of `local_ncc`. Its gradients are not the same: docs/reference/blocks.md."""
    generator, shape, halo = torch.Generator().manual_seed(0), (34, 14, 15), 5
    a, b = (torch.rand(1, 1, *shape, generator=generator) + torch.arange(34.0)[:, None, None] for _ in range(2))
    disp = torch.randint(-256, 256, (1, 3, *shape), generator=generator).float() / 64
    part = slice(max(0, cut.start - halo), min(cut.stop + halo, shape[0]))
    inner = slice(cut.start - part.start, cut.stop - part.start)
    assert torch.equal(warp(a[:, :, part], disp[:, :, part])[:, :, inner], warp(a, disp)[:, :, cut])
    ends = [each[:, :, part].contiguous() for each in (a, b)]
    whole, slab = (local_ncc(*images, window=9, reduction="none") for images in ((a, b), ends))
    assert torch.equal(slab[:, :, inner], whole[:, :, cut])
