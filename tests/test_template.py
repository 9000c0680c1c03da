"""Templates: the mean of scans in intensity and shape."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from runs import invoke
from scipy.linalg import expm

from l2rfast.data.synthetic import anatomies
from l2rfast.errors import InputError, InputWarning
from l2rfast.fields import integrate_velocity
from l2rfast.filters import box_average
from l2rfast.io import Volume, as_volume, write_affine, write_image
from l2rfast.methods.registration import register
from l2rfast.methods.template.members import MeanImage, Member, grid_of, sampled, sharpness
from l2rfast.methods.template.rounds import MAPS, TemplateFolder, align
from l2rfast.methods.template.shape import MeanMap, length, logarithm, velocity
from l2rfast.world import Affine, Displacement, Grid, compose

SIZE, MEMBERS = (44, 40), 4
ROUNDS = ("--affine-rounds=1", "--rounds=3", "--preset=fast", "--workers=1", "--quiet")
GRID = Grid((24, 28, 20), np.diag([2.0, 1.0, 3.0, 1.0]))


def velocities(count: int, length: float) -> list[torch.Tensor]:
    """Smooth ones of so many voxels, random, whose mean is 0, as they are at the border."""
    noise = box_average(torch.randn(count, 3, *GRID.shape), 4, passes=3)
    for axis, n in enumerate(GRID.shape):
        noise *= torch.sin(torch.linspace(0, torch.pi, n)).view([-1 if i == axis else 1 for i in range(3)])
    noise -= noise.mean(0)
    return list(torch.split(noise * (length / noise.std()), 1))


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What members are the mean of, and they: deformed from it so that the mean of their shapes is its own."""
    folder = tmp_path_factory.mktemp("scans")
    truth, *others = anatomies(MEMBERS + 1, SIZE, deformation=0.04, noise=0.01, centred=True, seed=3)
    for name, one in (("truth", truth), *((f"m{i}", one) for i, one in enumerate(others))):
        write_image(folder / f"{name}.nii.gz", Volume(one.image[0, 0], np.eye(4)))
    return folder


def read(file: Path) -> Volume:
    return as_volume("image", file, dims=(2,))


def turned(turn: np.ndarray) -> Affine:
    """The exponential of (4, 4)."""
    return Affine(np.vstack([expm(turn)[:3], [0, 0, 0, 1]]))


def members(scans: Path) -> list[str]:
    return [str(scans / f"m{i}.nii.gz") for i in range(MEMBERS)]


@pytest.fixture(scope="module")
def built(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("template") / "out"
    assert invoke("template", *members(scans), f"--out={out}", *ROUNDS) == (0, "")
    return out


def test_every_round_is_nearer_to_the_true_mean(scans: Path, built: Path) -> None:
    truth, off, apart = read(scans / "truth.nii.gz"), [], []
    for number in range(5):
        template = read(built / "rounds" / str(number) / "mean" / "template.nii.gz")
        off.append(register(truth, template, preset="fast", init="none").displacement.square().sum(1).mean().sqrt())
        apart.append(1 - np.corrcoef(template.data.flatten(), truth.data.flatten())[0, 1])
    assert off == sorted(off, reverse=True)
    assert apart == sorted(apart, reverse=True)
    assert off[-1] < 0.5 * off[0]
    assert apart[-1] < 0.2 * apart[0]


def test_it_is_sharper_than_the_mean_of_affine_maps(built: Path) -> None:
    rounds = [json.loads((built / "rounds" / str(i) / "mean" / "round.json").read_text()) for i in range(1, 5)]
    assert [each["kind"] for each in rounds] == ["affine"] + ["deformable"] * 3
    assert rounds[-1]["sharpness"] > rounds[0]["sharpness"]
    volume = read(built / "template.nii.gz")
    assert rounds[-1]["sharpness"] == sharpness(volume)


def test_nothing_but_the_rounds_and_the_template_stays(built: Path) -> None:
    assert sorted(path.name for path in built.iterdir()) == ["rounds", "template.json", "template.nii.gz"]
    assert [path for path in built.rglob("*") if path.name in ("pairs", "displacement.nii.gz")] == []


def test_it_goes_on_where_it_ended(scans: Path, built: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(built, out)
    expected = (out / "template.nii.gz").read_bytes()
    (out / "template.nii.gz").unlink()
    shutil.rmtree(out / "rounds" / "4")
    words = ("template", *members(scans), f"--out={out}", *ROUNDS)
    code, said = invoke(*words)
    assert (code, said) == (
        2,
        f"l2rfast: error: --out {out}: holds a template; expected --resume to go on with it, or another\n",
    )
    code, said = invoke(*words, "--resume", "--sharpen=0")
    assert (code, said.count("\n")) == (2, 1)
    assert "--resume: " in said
    assert invoke(*words, "--resume") == (0, "")
    assert (out / "template.nii.gz").read_bytes() == expected


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("template.json", None, "expected what a template was begun with, but there is no such file"),
        ("template.json", b"\xff", "expected the members and options that it was begun with"),
        ("rounds/4/mean/round.json", None, "expected what came of a round, but there is no such file"),
        ("rounds/4/mean/round.json", b"[1]", "expected what came of a round, but the file is empty, damaged"),
        ("rounds/4/mean/template.nii.gz", None, "expected the template after a round, but there is no such file"),
    ],
)
def test_damaged_files_of_a_template_are_said(
    scans: Path, built: Path, tmp_path: Path, file: str, content: bytes | None, said: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(built, out)
    (out / file).unlink()
    if content is not None:
        (out / file).write_bytes(content)
    again = refused(*members(scans), f"--out={out}", *ROUNDS, "--resume")
    assert f"{out / file}: {said}" in again
    assert "expected --resume" in refused(*members(scans), f"--out={out}", *ROUNDS)


def test_damaged_files_of_a_round_are_said(scans: Path, built: Path, tmp_path: Path) -> None:
    out, given = tmp_path / "out", [Member(f"m{i}", [scans / f"m{i}.nii.gz"]) for i in range(2)]
    shutil.copytree(built, out)
    folder, round = TemplateFolder(out, given), out / "rounds" / "5"
    field = torch.zeros(1, 3, *SIZE, 1)
    for member in given:
        (round / "pairs" / member.id).mkdir(parents=True)
        np.savez(round / "pairs" / member.id / "maps.npz", velocity=field, displacement=field, affine=np.eye(4))
    folder.shape(5)
    for member in given:
        np.save(round / "pairs" / member.id / "sampled.npy", np.zeros((1, *SIZE), np.float32))
    for name in ("pairs/m1/sampled.npy", "pairs/m1/maps.npz", "shape.npz"):
        whole = (round / name).read_bytes()
        for content in (b"", b"damaged", whole[: len(whole) // 2]):
            (round / name).write_bytes(content)
            mend = folder.shape if name == "shape.npz" else folder.mend
            with pytest.warns(InputWarning, match=f"{name}: it is damaged, and made again"):
                mend(5)
            assert (round / name).exists() == (name == "shape.npz")
        (round / name).write_bytes(whole)
    (round / "shape.npz").unlink()
    folder.mend(5)
    folder.shape(5)
    for shape in ((0,), (1, 3, 3)):
        for member in given:
            np.save(round / "pairs" / member.id / "sampled.npy", np.zeros(shape))
        with pytest.raises(InputError, match=r"sampled.npy: expected a member in the mean shape, but the file is"):
            folder.average(5, "deformable", 0.0)


def test_a_member_that_is_not_there_costs_itself_alone(scans: Path, tmp_path: Path) -> None:
    gone, out = scans / "gone.nii.gz", tmp_path / "out"
    words = ("--affine-rounds=0", "--rounds=1", "--preset=fast", "--workers=1", "--quiet")
    code, said = invoke("template", *members(scans)[:2], str(gone), f"--out={out}", *words)
    assert (code, said) == (
        1,
        f"l2rfast: error: gone: IMAGES ({gone}): expected a NIfTI image, but there is no such file\n",
    )
    told = json.loads((out / "rounds" / "1" / "mean" / "round.json").read_text())
    assert (told["members"], told["left_out"]) == (2, ["gone"])


def test_a_member_with_whose_map_there_is_no_mean_costs_itself_alone(scans: Path, built: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(built, out)
    shutil.rmtree(out / "rounds" / "4")
    write_affine(out / "rounds" / "3" / "mean" / "m1.txt", np.diag([-1.0, 1, 1, 1]), 2)
    code, said = invoke("template", *members(scans), f"--out={out}", *ROUNDS, "--resume")
    assert (code, said.count("\n")) == (1, 1)
    assert said.startswith("l2rfast: error: m1: affine: expected a map that neither mirrors nor turns by half a turn")
    last = out / "rounds" / "4"
    assert (last / "errors" / "m1.txt").read_text() in said
    told = json.loads((last / "mean" / "round.json").read_text())
    assert (told["members"], told["left_out"]) == (MEMBERS - 1, ["m1"])


def test_a_slice_of_a_volume_keeps_its_axis(scans: Path, tmp_path: Path) -> None:
    """Fields of one are written with another order of axes than its images."""
    for i in range(2):
        image = read(scans / f"m{i}.nii.gz")
        nib.save(nib.Nifti1Image(image.data.numpy()[:, None], np.diag([2.0, 3, 1.5, 1])), tmp_path / f"{i}.nii.gz")
    files = [str(tmp_path / f"{i}.nii.gz") for i in range(2)]
    words = ("--affine-rounds=0", "--rounds=1", "--preset=fast", "--workers=1", "--quiet")
    assert invoke("template", *files, f"--out={tmp_path / 'out'}", *words) == (0, "")
    assert nib.load(tmp_path / "out" / "template.nii.gz").shape == (SIZE[0], 1, SIZE[1])


def test_several_contrasts_are_averaged_alike(scans: Path, tmp_path: Path) -> None:
    rows = [f"s{i};{scans / f'm{i}.nii.gz'};{scans / f'm{i}.nii.gz'}" for i in range(2)]
    (tmp_path / "scans.csv").write_text("\n".join(["id;moving;moving", *rows]) + "\n")
    words = ("--affine-rounds=0", "--rounds=1", "--preset=fast", "--workers=1", "--quiet")
    assert invoke("template", str(tmp_path / "scans.csv"), f"--out={tmp_path / 'out'}", *words) == (0, "")
    one, two = (read(tmp_path / "out" / name).data for name in ("template.nii.gz", "template_2.nii.gz"))
    assert one.std() > 0.1
    assert torch.equal(one, two)


def test_affine_maps_are_found_by_the_first_contrast(scans: Path, tmp_path: Path) -> None:
    template, file = read(scans / "m0.nii.gz"), scans / "m1.nii.gz"
    for name, images in (("one", [file]), ("two", [file, scans / "m2.nii.gz"])):
        fixed = replace(template, contrasts=(template.data,) * (len(images) - 1))
        align(fixed, Member(name, images), tmp_path / name, transform="affine")
    one, two = (np.load(tmp_path / name / MAPS) for name in ("one", "two"))
    with one, two:
        assert np.array_equal(one["affine"], two["affine"])


def refused(*words: str) -> str:
    code, said = invoke("template", *words)
    assert (code, said.count("\n")) == (2, 1), said
    return said.removeprefix("l2rfast: error: ").rstrip()


def test_what_cannot_be_is_refused(scans: Path, tmp_path: Path) -> None:
    out, every = f"--out={tmp_path / 'out'}", members(scans)
    assert refused(every[0], out) == "IMAGES: expected 2 images at least, got 1"
    none = refused(*every, out, "--affine-rounds=0", "--rounds=0")
    assert none == "--affine-rounds, --rounds: expected a round at least, got none"
    assert refused(*every, out, "--rounds=-1") == "--rounds: expected an integer >= 0, got -1"
    assert refused(*every, out, "--sharpen=nan") == "--sharpen: expected a number >= 0, got nan"
    more = refused(*every, out, f"--fixed={every[0]}", f"--fixed={every[0]}")
    assert more == f"--fixed: expected 1 contrasts, as {every[0]} has, got 2"
    assert "window: expected" in refused(*every, out, "--window=4")
    gone = tmp_path / "gone.nii.gz"
    said = refused(str(gone), *every, out)
    assert said == f"IMAGES ({gone}): expected a NIfTI image, but there is no such file"
    for option in ("--workers=0", "--memory=much", "--dask=nowhere"):
        assert f"{option.split('=')[0]}: expected" in refused(*every, out, "--quiet", option)
    assert list(tmp_path.iterdir()) == []


def test_members_that_are_not_alike_are_refused(scans: Path, tmp_path: Path) -> None:
    out, every = f"--out={tmp_path / 'out'}", members(scans)
    for name, shape in (("deep", (8, 9, 7)), ("flat", (8, 1, 9)), ("long", (8, 9, 7, 2))):
        nib.save(nib.Nifti1Image(np.random.default_rng(0).random(shape), np.eye(4)), tmp_path / f"{name}.nii.gz")
    deep, flat, long = (str(tmp_path / f"{name}.nii.gz") for name in ("deep", "flat", "long"))
    assert refused(*every, out, f"--fixed={deep}") == f"--fixed: expected 2 axes, as {every[0]} has, got 3"
    assert refused(deep, deep, every[0], out) == f"{every[0]}: expected 3 axes, as {deep} has, got 2"
    rows = tmp_path / "scans.csv"
    rows.write_text(f"moving\n{flat}\ngone.nii.gz\n{long}\n{every[0]};{every[0]}\n")
    assert refused(str(rows), out) == f"{rows}, line 5: expected 1 contrasts, as {rows}, line 2 has, got 2"
    rows.write_text(f"moving\ngone.nii.gz\n{long}\n{flat}\n{deep}\n")
    assert refused(str(rows), out) == f"{rows}, line 5: expected 2 axes, as {rows}, line 4 has, got 3"
    assert not (tmp_path / "out").exists()


def test_the_mean_of_maps_and_their_inverses_is_nothing() -> None:
    torch.manual_seed(0)
    shape, turns = (
        MeanMap(GRID),
        [np.array([[0, a, 0, 3], [-a, 0, b, -1], [0, -b, 0.1, 2], [0] * 4]) for a, b in ((0.4, 0.1), (-0.2, 0.3))],
    )
    turns.append(-turns[0] - turns[1])
    for turn, one in zip(turns, velocities(3, 0.7), strict=True):
        there, back = (integrate_velocity(sign * one) for sign in (1, -1))
        shape.add(velocity(there, back), turned(turn))
    assert length(shape.back.transform, GRID) < 0.06 * length(Displacement(there, GRID.affine), GRID)
    assert np.allclose(shape.back.affine.array, np.eye(4), atol=1e-12)


def test_the_mean_of_one_map_leads_back() -> None:
    torch.manual_seed(1)
    shape, (one, _) = MeanMap(GRID), velocities(2, 0.7)
    fields = [integrate_velocity(sign * one) for sign in (1, -1)]
    there = Displacement(fields[0], GRID.affine)
    turn = turned(np.array([[0, 0.3, 0, 5], [-0.3, 0, 0, 1], [0, 0, 0, 2], [0] * 4]))
    shape.add(velocity(*fields), turn)
    assert length(compose(shape.back.transform, there, turn), GRID) < 0.06 * length(there, GRID)


@pytest.mark.parametrize("matrix", [np.diag([-1.0, 1, 1, 1]), np.diag([-1.0, -1, 1, 1]), np.diag([0.0, 1, 1, 1])])
def test_maps_without_a_logarithm_are_refused(matrix: np.ndarray) -> None:
    with pytest.raises(InputError, match="neither mirrors nor turns by half a turn"):
        logarithm(matrix)


def test_what_is_masked_out_is_not_in_the_mean(tmp_path: Path) -> None:
    base = torch.rand(10, 9, 8)
    mask = torch.ones(base.shape, dtype=torch.uint8)
    mask[:, :, 5:] = 0
    spoilt = torch.where(mask > 0, base, 7)
    for name, data in (("a", base), ("b", spoilt), ("mask", mask)):
        write_image(tmp_path / f"{name}.nii.gz", Volume(data, np.eye(4)))
    images = [Member("a", [tmp_path / "a.nii.gz"]), Member("b", [tmp_path / "b.nii.gz"], tmp_path / "mask.nii.gz")]
    one, two = (member.read() for member in images)
    mean, still = MeanImage(one), Affine(np.eye(4))
    for volume in (one, two):
        mean.add(sampled(volume, still, grid_of(one)))
    found = mean.volume(0).data
    assert torch.equal(found[:, :, 5:], one.data[:, :, 5:])
    assert torch.allclose(found[:, :, :5], (one.data + two.data)[:, :, :5] / 2)
