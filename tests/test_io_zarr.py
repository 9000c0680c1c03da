"""OME-Zarr: where voxels lie, what is read of them, and what is refused; fields as the transformation of 0.6."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr as library
from grids import oblique

from l2rfast import io
from l2rfast.errors import InputError, InputWarning
from l2rfast.io import zarr
from l2rfast.world import Affine, Displacement, Grid, compose
from l2rfast.world.maps import Map

SHAPE = (7, 9, 8)
AFFINE = np.array(
    [[0, 0, -0.002, -0.5], [0, -0.003, 0, 1], [0.004, 0, 0, 0.25], [0, 0, 0, 1.0]]
)  # voxels of 4, 3, 2 um
UNITS = ("micrometer",) * 3
SPACE = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]


def values(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2**16, shape, np.uint16)


def image(path: Path, array: np.ndarray, grid: Grid | None = None) -> Path:
    with zarr.written(path, [grid or Grid(array.shape, AFFINE)], array.dtype, UNITS) as (whole,):
        whole[...] = array
    return path


def field(path: Path, disp: torch.Tensor, affine: np.ndarray = AFFINE) -> Path:
    grid = Grid(tuple(disp.shape[2:]), affine)
    with zarr.written_field(path, grid, UNITS) as writer:
        writer.write(zarr.whole(grid.shape), disp)
    return path


def foreign(path: Path, array: np.ndarray, version: str = "0.4", **changes: Any) -> Path:
    """As another program writes it: 0.4 on Zarr v2, 0.5 on v3."""
    group = library.create_group(str(path), zarr_format=2 if version == "0.4" else 3)
    group.create_array("s0", data=array)
    steps = [
        {"type": "scale", "scale": [4.0, 3.0, 2.0]},
        {"type": "translation", "translation": [250.0, -1000.0, 500.0]},
    ]
    shown = {"axes": SPACE, "datasets": [{"path": "s0", "coordinateTransformations": steps}], **changes}
    if version == "0.4":
        group.attrs["multiscales"] = [{"version": version, **shown}]
    else:
        group.attrs["ome"] = {"version": version, "multiscales": [shown]}
    return path


def told(path: Path) -> dict[str, Any]:
    return json.loads((path / "zarr.json").read_text())["attributes"]["ome"]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_images_lie_where_their_scales_and_translations_say(tmp_path: Path, version: str) -> None:
    path = foreign(tmp_path / "other.zarr", values(), version)
    (level,) = zarr.open_levels("fixed", path)
    assert np.allclose(level.grid.affine, AFFINE, rtol=0, atol=1e-15)
    assert level.units == UNITS
    assert np.allclose(level.scales, [4, 3, 2])
    # In ITK's space x points left and y back; array axes stay in their order.
    assert np.allclose(level.grid.affine @ [1, 2, 3, 1], [-0.5 - 3 * 0.002, 1 - 2 * 0.003, 0.25 + 0.004, 1])
    assert np.array_equal(io.read_image(path).data.numpy(), values().astype(np.float32))
    assert np.allclose(io.read_grid("fixed", path).affine, AFFINE, rtol=0, atol=1e-15)


def test_a_block_is_read_and_nothing_else(tmp_path: Path) -> None:
    (level,) = zarr.open_levels("fixed", image(tmp_path / "a.zarr", values((70, 9, 8))))
    at = [slice(65, 69), slice(2, 5), slice(0, 8)]
    (tmp_path / "a.zarr/0/c/0/0/0").write_bytes(b"damaged")
    assert np.array_equal(level.block(at).numpy(), values((70, 9, 8))[65:69, 2:5])
    assert level.block(at).dtype == torch.uint16
    volume = level.volume(at)
    assert volume.data.dtype == torch.float32
    assert np.allclose(volume.affine @ [0, 0, 0, 1], AFFINE @ [65, 2, 0, 1])
    with pytest.raises(InputError, match="damaged"):
        level.block([slice(0, 70), *at[1:]])


def test_resolutions_and_what_follows_all_of_them(tmp_path: Path) -> None:
    axes = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}, *SPACE]
    path = tmp_path / "a.zarr"
    group = library.create_group(str(path), zarr_format=2)
    group.create_array("0", data=values()[None, None])
    group.create_array("1", data=values((3, 4, 4))[None, None])
    sizes = {"0": [1, 1, 4.0, 3.0, 2.0], "1": [1, 1, 8.0, 6.0, 4.0]}
    datasets = [{"path": k, "coordinateTransformations": [{"type": "scale", "scale": s}]} for k, s in sizes.items()]
    more = [{"type": "scale", "scale": [0.1, 1, 2, 2, 2]}, {"type": "translation", "translation": [0, 0, 1, 2, 3]}]
    shown = {"version": "0.4", "axes": axes, "datasets": datasets, "coordinateTransformations": more}
    group.attrs["multiscales"] = [shown]
    fine, coarse = zarr.open_levels("fixed", path)
    assert (fine.grid.shape, coarse.grid.shape) == (SHAPE, (3, 4, 4))
    assert np.allclose(fine.grid.spacing, [0.008, 0.006, 0.004])
    assert np.allclose(coarse.grid.spacing, [0.016, 0.012, 0.008])
    assert np.allclose(coarse.grid.affine[:3, 3], [-0.003, -0.002, 0.001])
    assert np.array_equal(fine.block(zarr.whole(SHAPE)).numpy(), values())


def change(**axis: Any) -> dict[str, Any]:
    return {"axes": [{**SPACE[0], **axis}, *SPACE[1:]]}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (change(unit="parsec"), "expected a unit of angstrom, .*, got parsec"),
        (change(name="c", type="channel"), "expected the axes z, y and x in space, got c, y, x"),
        (change(name="depth"), "expected the axes z, y and x in space, got depth, y, x"),
        (
            {"coordinateTransformations": [{"type": "affine", "affine": [[1]]}]},
            "scales and translations .*, got affine",
        ),
        ({"coordinateTransformations": [{"type": "scale", "scale": [1, 1]}]}, "a scale of 3 numbers, got"),
        ({"coordinateTransformations": [{"type": "scale", "scale": [1, 0, 1]}]}, "scales above 0"),
        ({"coordinateTransformations": [{"type": "scale", "path": "0"}]}, "that stand in its metadata, got scale"),
        ({"coordinateTransformations": [{"type": "scale", "scale": [1e-200] * 3}]}, "scales above 0"),
        ({"datasets": []}, "but it has no resolution"),
        ({"datasets": [{"path": "s1", "coordinateTransformations": []}]}, "damaged or of another kind"),
        ({"version": "0.3"}, r"expected OME-Zarr of version 0.4, 0.5, 0.6, got 0.3"),
    ],
)
def test_what_is_not_known_is_refused(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    path = foreign(tmp_path / "a.zarr", values(), **{"version": "0.4"})
    if changes:
        group = library.open_group(str(path))
        group.attrs["multiscales"] = [{**group.attrs["multiscales"][0], **changes}]
    with pytest.raises(InputError, match=text):
        zarr.open_levels("fixed", path)


def test_channels_and_folders_of_other_kinds_are_refused(tmp_path: Path) -> None:
    axes = [{"name": "c", "type": "channel"}, *SPACE]
    steps = [{"type": "scale", "scale": [1, 4, 3, 2]}]
    datasets = [{"path": "s0", "coordinateTransformations": steps}]
    path = foreign(tmp_path / "a.zarr", values((2, *SHAPE)), axes=axes, datasets=datasets)
    with pytest.raises(InputError, match="expected a length of 1 along the axis c, got 2"):
        io.read_image(path)
    with pytest.raises(InputError, match="there is no such file"):
        io.read_image(tmp_path / "none.zarr")
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(InputError, match="expected an OME-Zarr image, but the file is empty, damaged"):
        io.read_grid("fixed", tmp_path / "empty.zarr")


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (values().astype(np.complex64), "expected an integer or floating dtype of up to 64 bits, got complex64"),
        (np.zeros(SHAPE, [("a", "i4"), ("b", "f4")]), "expected an integer or floating dtype of up to 64 bits, got"),
        (np.zeros((7, 0, 8)), r"expected voxels, got an array of shape \(7, 0, 8\)"),
    ],
)
def test_arrays_that_are_no_images_are_refused(tmp_path: Path, array: np.ndarray, text: str) -> None:
    with pytest.raises(InputError, match=text):
        zarr.open_levels("fixed", foreign(tmp_path / "a.zarr", array))


def test_the_finest_resolution_is_the_first(tmp_path: Path) -> None:
    grids = [Grid(SHAPE, AFFINE @ np.diag([2, 2, 2, 1])), Grid(SHAPE, AFFINE)]
    with zarr.written(tmp_path / "a.zarr", grids, np.dtype(np.uint8), UNITS):
        pass
    with pytest.raises(InputError, match="expected the finest resolution first, got voxels of"):
        zarr.open_levels("fixed", tmp_path / "a.zarr")


def test_what_is_not_finite_is_said(tmp_path: Path) -> None:
    (level,) = zarr.open_levels("fixed", image(tmp_path / "a.zarr", np.full(SHAPE, np.inf, np.float32)))
    with pytest.raises(InputError, match="expected finite values, but 9 of 9 that were read are NaN or infinite"):
        level.volume([slice(0, 1), slice(0, 9), slice(0, 1)])
    lost = zarr.read_field("f", field(tmp_path / "f.zarr", torch.full((1, 3, *SHAPE), torch.nan)))
    with pytest.warns(InputWarning, match="f: its field is not finite everywhere; such voxels lead nowhere"):
        assert lost.disp.isnan().all()


def test_units_and_orientations_that_are_not_used_are_said(tmp_path: Path) -> None:
    path = foreign(tmp_path / "a.zarr", values(), **{"axes": [{"name": name, "type": "space"} for name in "zyx"]})
    with pytest.warns(InputWarning, match="without a unit is taken to be in millimetres"):
        (level,) = zarr.open_levels("fixed", path)
    assert np.allclose(level.grid.spacing, [4, 3, 2])
    turned = {"type": "anatomical", "value": "superior-to-inferior"}
    path = foreign(tmp_path / "b.zarr", values(), **change(orientation=turned))
    with pytest.warns(InputWarning, match="the orientation of z is not used"):
        zarr.open_levels("fixed", path)


def test_chunks_that_are_not_there_are_said(tmp_path: Path) -> None:
    """Of zeros too, which other programs leave out, and ours does not."""
    path = image(tmp_path / "image.zarr", (values((70, 9, 8)) * (np.arange(70) < 64)[:, None, None]).astype(np.uint16))
    io.as_volume("image", path, dims=(3,))
    (path / "0/c/1/0/0").unlink()
    with pytest.warns(InputWarning, match="1 of its 2 chunks are not there, and are read as 0: was it written to the"):
        io.as_volume("image", path, dims=(3,))
    field(path := tmp_path / "field.zarr", torch.zeros(1, 3, *SHAPE))
    io.read_transform(path)
    (path / "0/c/0/0/0/0").unlink()
    with pytest.warns(InputWarning, match="1 of its 1 chunks are not there"):
        io.read_transform(path)


def test_zarr_is_asked_for_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = image(tmp_path / "a.zarr", values())
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(InputError, match="an OME-Zarr image needs zarr, which is not here: pip install zarr"):
        io.read_image(path)


def test_images_are_written_as_version_0_5(tmp_path: Path) -> None:
    grids = [Grid(SHAPE, AFFINE), Grid((3, 4, 4), AFFINE @ np.diag([2, 2, 2, 1]))]
    with zarr.written(tmp_path / "a.zarr", grids, np.dtype(np.uint16), UNITS) as arrays:
        for array in arrays:
            array[...] = values(array.shape)
    shown = told(tmp_path / "a.zarr")
    assert shown["version"] == "0.5"
    assert shown["multiscales"][0]["axes"] == SPACE
    steps = shown["multiscales"][0]["datasets"][1]["coordinateTransformations"]
    assert [step["type"] for step in steps] == ["scale", "translation"]
    assert np.allclose(steps[0]["scale"], [8, 6, 4])
    assert np.allclose(steps[1]["translation"], [250, -1000, 500])
    array = json.loads((tmp_path / "a.zarr/0/zarr.json").read_text())
    assert (array["zarr_format"], array["dimension_names"]) == (3, ["z", "y", "x"])
    for level, grid in zip(zarr.open_levels("a", tmp_path / "a.zarr"), grids, strict=True):
        assert np.allclose(level.grid.affine, grid.affine)


def test_a_grid_that_lies_otherwise_is_refused(tmp_path: Path) -> None:
    for affine in (np.eye(4), oblique((1, 1, 1), (0, 0, 0), flip=False)):
        with (
            pytest.raises(InputError, match="expected a grid of three axes, along left, posterior and superior"),
            zarr.written(tmp_path / "a.zarr", [Grid(SHAPE, affine)], np.dtype(np.uint8)),
        ):
            pass
    with (
        pytest.raises(InputError, match="expected a grid of three axes"),
        zarr.written(tmp_path / "a.zarr", [Grid(SHAPE[1:], np.eye(4))], np.dtype(np.uint8), UNITS),
    ):
        pass
    assert not list(tmp_path.iterdir())


def write_image(path: Path) -> Any:
    return zarr.written(path, [Grid(SHAPE, AFFINE)], np.dtype(np.uint8))


def write_field(path: Path) -> Any:
    return zarr.written_field(path, Grid(SHAPE, AFFINE))


@pytest.mark.parametrize("write", [write_image, write_field])
def test_a_folder_comes_whole_or_not_at_all(tmp_path: Path, write: Callable[[Path], Any]) -> None:
    path = tmp_path / "results/a.zarr"

    def interrupted() -> None:
        with write(path):
            assert not path.exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(path.parent.iterdir())
    with write(path):
        pass
    before = path.stat().st_ino
    with write(path):  # takes the place of a Zarr
        pass
    assert [file.name for file in path.parent.iterdir()] == ["a.zarr"]
    assert path.stat().st_ino != before
    other = tmp_path / "other.zarr"
    other.mkdir()
    (other / "mine.txt").write_text("kept")
    with (
        pytest.raises(InputError, match="expected a new folder, but it is there and holds something else"),
        write(other),
    ):
        pass
    assert (other / "mine.txt").read_text() == "kept"
    with pytest.raises(InputError, match=r"expected a name that ends with \.zarr"), write(tmp_path / "a.tif"):
        pass


def test_a_field_is_what_displacements_of_0_6_finds(tmp_path: Path) -> None:
    disp = torch.randn(1, 3, *SHAPE, generator=torch.Generator().manual_seed(0))
    path = field(tmp_path / "f.zarr", disp)
    shown = told(path)
    (system,) = shown["multiscales"][0]["coordinateSystems"]
    assert shown["version"] == "0.6"
    assert system["axes"] == [{"name": "c", "type": "displacement", "discrete": True}, *SPACE]
    (step,) = shown["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    assert (step["input"], step["output"]) == ({"path": "0"}, {"name": system["name"]})
    assert np.allclose(step["transformations"][0]["scale"], [1, 4, 3, 2])
    # Component i along axis i, in its unit.
    stored = library.open_array(str(path / "0"), mode="r")[...]
    assert np.allclose(stored, disp[0].numpy() * np.array([4, 3, 2]).reshape(3, 1, 1, 1), rtol=1e-6)
    read = io.read_transform(path)
    assert isinstance(read, zarr.StoredField)
    assert torch.allclose(read.disp, disp, rtol=1e-6, atol=0)
    points = torch.rand(20, 3, dtype=torch.float64) * torch.tensor([-0.01, -0.02, 0.02]) + torch.tensor(AFFINE[:3, 3])
    assert torch.allclose(read(points), Displacement(disp, AFFINE)(points), atol=1e-8)
    with pytest.raises(InputError, match="expected an image, got a displacement field"):
        io.read_image(path)
    with pytest.raises(InputError, match="expected a displacement field, with an axis of the type displacement"):
        io.read_transform(image(tmp_path / "a.zarr", values()))


def test_components_may_be_the_last_axis(tmp_path: Path) -> None:
    disp = torch.randn(1, 3, *SHAPE, generator=torch.Generator().manual_seed(1))
    array = np.moveaxis(disp[0].numpy() * np.array([4, 3, 2], np.float32).reshape(3, 1, 1, 1), 0, -1)
    axes = [*SPACE, {"name": "d", "type": "displacement", "discrete": True}]
    steps = [{"type": "scale", "scale": [4, 3, 2, 1], "input": {"path": "s0"}, "output": {"name": "physical"}}]
    changes = {
        "coordinateSystems": [{"name": "other", "axes": SPACE}, {"name": "physical", "axes": axes}],
        "datasets": [{"path": "s0", "coordinateTransformations": steps}],
    }
    path = foreign(tmp_path / "f.zarr", array, "0.6", **changes)
    group = library.open_group(str(path))
    shown = group.attrs["ome"]
    del shown["multiscales"][0]["axes"]
    group.attrs["ome"] = shown
    assert torch.allclose(zarr.read_field("f", path).disp, disp, rtol=1e-6, atol=0)


def test_of_a_field_that_is_read_which_a_map_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (20, 18, 16)
    disp = torch.randn(1, 3, *shape, generator=torch.Generator().manual_seed(2))
    stored = zarr.read_field("f", field(tmp_path / "f.zarr", disp))
    whole, sizes = Displacement(stored.disp, AFFINE), []
    block = zarr.Level.block

    def counted(level: zarr.Level, at: Any) -> torch.Tensor:
        sizes.append([part.stop - part.start for part in at])
        return block(level, at)

    monkeypatch.setattr(zarr.Level, "block", counted)
    part = stored.grid.part([slice(3, 9), slice(0, 5), slice(10, 16)])
    assert torch.equal(stored.carried(Map.of(part)).disp, stored.disp[..., 3:9, :5, 10:16])
    assert sizes == [[6, 5, 6]]
    # After another transform, between its voxels and beyond its border.
    shift = np.eye(4)
    shift[:3, 3] = [0.0031, -0.0042, 0.0101]
    found, wanted = (compose(Affine(shift), each).on(part).disp for each in (stored, whole))
    assert torch.allclose(found, wanted, atol=2e-5)
    assert all(n <= 6 + 6 for n in sizes[1])
