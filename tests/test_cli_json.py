"""With ``--json`` every command prints one JSON document, and nothing else, on the standard output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from l2rfast import cli, data
from l2rfast.cli import crew
from l2rfast.data.synthetic import anatomies
from l2rfast.io import Volume, write_affine, write_image
from tests import datasets

FIELDS = ("--transform=field.nii.gz", "--transform=affine.txt")
SMALL = ("--encoder=4,4", "--decoder=4,4,4,4", "--steps=2", "--quiet")


@pytest.fixture(autouse=True, scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two scans, transforms between them, and a data set, in the folder where commands run."""
    folder, before = tmp_path_factory.mktemp("json"), Path.cwd()
    os.chdir(folder)
    for name, one in zip(("moving", "fixed"), anatomies(2, (24, 24, 24), structures=3), strict=True):
        write_image(f"{name}.nii.gz", Volume(one.image[0, 0], np.eye(4)))
        write_image(f"{name}_labels.nii.gz", Volume(one.labels[0, 0], np.eye(4)))
    write_affine("affine.txt", np.eye(4))
    Path("points.csv").write_text("x,y,z\n-3,-4,5\n")
    Path("pairs.csv").write_text("id,moving\na,moving.nii.gz\nb,absent.nii.gz\n")
    datasets.write(Path("scans"), 4, (20, 20))
    document("convert", "affine.txt", "--fixed=fixed.nii.gz", "--out=field.nii.gz")
    yield folder
    os.chdir(before)


def document(*arguments: str, code: int = 0) -> Any:
    """What a command prints, which is all that it prints."""
    result = CliRunner().invoke(cli.app, [*arguments, "--json"])
    assert result.exit_code == code, (result.stderr, result.exception)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(result.stdout, parse_constant=refuse)


def test_every_command_has_the_option() -> None:
    def commands(group: Any) -> Iterator[Any]:
        for command in group.commands.values():
            yield from commands(command) if hasattr(command, "commands") else [command]

    every = [*commands(typer.main.get_command(cli.app))]
    assert len(every) > 15
    assert not [command.name for command in every if "json" not in [each.name for each in command.params]]


def test_register_prints_its_report() -> None:
    labels = ("--fixed-labels=fixed_labels.nii.gz", "--moving-labels=moving_labels.nii.gz")
    found = document("register", "fixed.nii.gz", "moving.nii.gz", "--out=result", "--preset=fast", *labels)
    assert found.pop("out") == "result"
    assert found == json.loads(Path("result/report.json").read_text())
    assert len(found["verdict"]) == 3
    assert found["warnings"] == []


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many pairs are registered in this process, as others take long to begin."""

    def team(work: Callable[[str], str | None], todo: dict[str, str]) -> Iterator[tuple[str, str | None]]:
        yield from ((id, work(words)) for id, words in todo.items())

    monkeypatch.setattr(crew, "processes", lambda workers: nullcontext(team))


@pytest.mark.usefixtures("here")
def test_a_cohort_says_which_pair_failed() -> None:
    found = document("cohort", "pairs.csv", "--fixed=fixed.nii.gz", "--out=study", "--preset=fast", "--quiet", code=1)
    assert [(row["id"], row["status"]) for row in found["pairs"]] == [("a", "finished"), ("b", "failed")]
    assert "no such file" in found["pairs"][1]["error"]
    assert found["pairs"][0]["values"]["correlation_after"] > 0.5


@pytest.mark.usefixtures("here")
def test_no_pair_of_a_cohort_has_it() -> None:
    Path("own.csv").write_text("id,moving,json\na,moving.nii.gz,true\n")
    found = document("cohort", "own.csv", "--fixed=fixed.nii.gz", "--out=own", "--preset=fast", "--quiet")
    assert any("json" in text for text in found["warnings"])  # a column that is not used
    assert "--json" not in json.loads(Path("own/cohort.json").read_text())["pairs"]["a"]


@pytest.mark.usefixtures("here")
def test_a_template_says_what_its_rounds_did() -> None:
    found = document("template", "fixed.nii.gz", "moving.nii.gz", "--out=template", "--rounds=1", "--quiet")
    assert [(each["kind"], each["members"]) for each in found["rounds"]] == [("affine", 2), ("deformable", 2)]
    assert all(Path(file).is_file() for file in found["templates"])


def test_training_and_evaluation_print_what_they_measured() -> None:
    found = document("train", "unsupervised", "--data=scans", "--out=run", "--hold-out=2", *SMALL)
    assert found["options"]["steps"] == found["training"]["step"] == found["validation"]["step"] == 2
    assert found["training"]["loss"] < 1
    found = document("evaluate", "--data=scans", "--out=evaluated", "--hold-out=2", "--quiet")
    assert found.pop("out") == "evaluated"
    del found["warnings"]
    assert found == {
        name: value
        for name, value in json.loads(Path("evaluated/evaluation.json").read_text()).items()
        if name != "warnings"
    }


def test_of_a_training_on_several_processes_the_first_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    from l2rfast.cli import train

    Path("alone").mkdir()
    Path("alone/options.json").write_text("{}")
    assert train._answer(Path("alone")) is not None
    monkeypatch.setenv("RANK", "1")
    assert train._answer(Path("alone")) is None


def test_what_is_carried() -> None:
    found = document("apply", "moving.nii.gz", "--reference=fixed.nii.gz", "--out=warped.nii.gz", *FIELDS)
    assert found == {"out": "warped.nii.gz", "reached": 1, "warnings": []}
    found = document("apply-points", "points.csv", "--out=moved.csv", "--coordinates=lps", *FIELDS)
    assert (found["points"], found["from"], found["beyond_field"], found["without_place"]) == (1, "fixed", 0, 0)


@pytest.mark.parametrize("command", ["invert", "compose", "convert", "jacobian"])
def test_what_is_made_of_transforms(command: str) -> None:
    between = ("--fixed=fixed.nii.gz", "--moving=fixed.nii.gz")
    found = document(command, "field.nii.gz", f"--out={command}.nii.gz", *between)
    assert Path(found["out"]).is_file()
    assert command != "jacobian" or (found["folded"], found["voxels"]) == (0, 24**3)


def test_a_description_in_numbers() -> None:
    linear, field = (document("describe", name)["parts"] for name in ("affine.txt", "field.nii.gz"))
    assert linear[0]["kind"] == "rigid"
    assert linear[0]["matrix"] == np.eye(4).tolist()
    assert (field[0]["kind"], field[0]["size"], field[0]["folded"]) == ("displacement field", [24, 24, 24], 0)


def test_what_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    assert document("info")["backends"]["warp"][-1] == "reference"
    files = document("data", "list")["files"]
    assert [each["name"] for each in files] == list(data.names())
    monkeypatch.setattr(data, "fetch", lambda name: Path(f"/somewhere/{name}"))
    assert document("data", "fetch", "x") == {"path": "/somewhere/x", "warnings": []}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("describe", "absent.txt"), "transform (absent.txt): expected a transform"),
        (("register", "fixed.nii.gz", "moving.nii.gz", "--out=r", "--preset=best"), "--preset: expected one of"),
        (("register", "fixed.nii.gz", "moving.nii.gz"), "Missing option"),
        (("data", "nonsense"), "No such command"),
        (("info", "--nonsense"), "No such option"),
        (("--nonsense", "info"), "No such option"),
        ((), "No such option"),
    ],
)
def test_an_error_is_a_document_too(arguments: tuple[str, ...], said: str) -> None:
    found = document(*arguments, code=2)
    assert list(found) == ["error"]
    assert found["error"].startswith(said)


def test_a_defect_and_an_interrupt_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(error: BaseException) -> Any:
        def path(name: str) -> Path:
            raise error

        monkeypatch.setattr(data, "path", path)

    fail(RuntimeError("a defect"))
    assert document("data", "path", "x", code=1) == {"error": "RuntimeError: a defect"}
    fail(KeyboardInterrupt(signal.SIGTERM))
    assert document("data", "path", "x", code=143) == {"error": "interrupted, nothing was written"}


def test_the_version_is_no_error() -> None:
    result = CliRunner().invoke(cli.app, ["--version", "info", "--json"])
    assert result.exit_code == 0
    assert result.stdout.startswith("l2rfast ")


def test_without_it_nothing_changes() -> None:
    result = CliRunner().invoke(cli.app, ["describe", "absent.txt"])
    assert (result.exit_code, result.stdout) == (2, "")


def test_a_full_disk_is_one_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "l2rfast.cli", "data", "list", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert ended.returncode == 2
    assert ended.stderr == "l2rfast: error: no space left on the device of the output\n"
