"""The network of prostates that comes with the package."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runs import invoke

import l2rfast
from l2rfast.io import read_image, read_masks
from l2rfast.methods.weakly_supervised import LabelReg
from l2rfast.methods.weakly_supervised.options import of_preset
from l2rfast.methods.weakly_supervised.register import SHIPPED

CASE = "tutorials2019/weakly/data/train/{role}_{kind}/case000002.nii.gz"


def test_it_is_small_and_has_a_card() -> None:
    for file in SHIPPED.values():
        assert file.stat().st_size < 2e6
        assert file.with_suffix(".md").exists()
        network = LabelReg.load(file)
        assert network.architecture.kind == "moments"
        assert all(value.dtype == torch.float32 for value in network.state_dict().values())


def test_it_can_be_trained_further(real_data: Path, tmp_path: Path) -> None:
    data = real_data / "tutorials2019" / "weakly" / "data" / "train"
    options = ("--weights=prostates", "--steps=1", "--rate=0", "--precision=float32", "--quiet")
    out = tmp_path / "run"
    assert invoke("train", "weakly-supervised", f"--data={data}", f"--out={out}", *options) == (0, "")
    files = SHIPPED["prostates"], out / "weights.safetensors"
    before, after = (LabelReg.load(file).state_dict() for file in files)
    assert before.keys() == after.keys()
    same = {name: torch.equal(before[name], value) for name, value in after.items()}
    assert [name.removeprefix("network.") for name in same if not same[name]] == ["count", "mean", "deviations"]
    assert after["network.count"] == of_preset("cpu")[1].batch  # of these pairs alone


def test_a_gland_that_it_has_seen_lies_on_itself(real_data: Path) -> None:
    """That it was trained is all that this can tell."""
    fixed, moving = (read_image(real_data / CASE.format(role=role, kind="images")) for role in ("us", "mr"))
    truth, mask = (
        read_masks(real_data / CASE.format(role=role, kind="labels"), image)[0]
        for role, image in (("us", fixed), ("mr", moving))
    )
    found = l2rfast.register(fixed, moving, method="weakly-supervised", weights="prostates")
    warped = found.warp(mask.float()) >= 0.5
    assert 2 * (warped & truth).sum() / (warped.sum() + truth.sum()) > 0.8
    assert found.options["weights"] == "prostates"


def test_it_is_named_where_weights_are_missing() -> None:
    image = torch.rand(16, 16, 16)
    with pytest.raises(l2rfast.InputError, match=r"expected a file of weights .*, or prostates, which come"):
        l2rfast.register(image, image, method="weakly-supervised")
    with pytest.raises(l2rfast.InputError, match=r"ends in \.safetensors, or prostates, got 'prostate'"):
        l2rfast.register(image, image, method="weakly-supervised", weights="prostate")
    with pytest.raises(l2rfast.InputError, match="weights: expected those of a 2-D network"):
        l2rfast.register(image[0], image[0], method="weakly-supervised", weights="prostates")
    with pytest.raises(l2rfast.InputError, match="weights: expected"):
        l2rfast.register(image, image, method="pddnet", weights="prostates")


def test_it_is_named_on_the_command_line(real_data: Path, tmp_path: Path) -> None:
    scans = [str(real_data / CASE.format(role=role, kind="images")) for role in ("us", "mr")]
    options = ("--method=weakly-supervised", "--weights=prostates", "--quiet", f"--out={tmp_path / 'result'}")
    assert invoke("register", *scans, *options)[0] == 0
    assert (tmp_path / "result" / "report.json").exists()
