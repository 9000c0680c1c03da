"""What people found who tried to break the command line by hand: names, places, streams, headers, transforms."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import typer
from runs import PATIENCE, invoke

from l2rfast import InputError, _interrupt, cli, data, io
from l2rfast.cli import bids_app
from l2rfast.cli.notices import notices
from l2rfast.errors import notice
from l2rfast.io import reading
from l2rfast.methods.cohort.bids import find_pairs
from l2rfast.methods.cohort.study import JOBS, Study
from l2rfast.methods.tables import text_of
from l2rfast.methods.training.run import Description, RunFolder
from l2rfast.world import Affine, Displacement, Grid
from l2rfast.world.maps import Map

SIZE = (12, 11, 10)
FAST = ("--quiet", "--init=none", "--preset=fast", "--light-report")


def image(path: Path, edit: Callable[[nib.Nifti1Header], object] = lambda header: None, seed: int = 0) -> Path:
    found = nib.Nifti1Image(np.random.default_rng(seed).normal(size=SIZE).astype("f4"), np.eye(4))
    edit(found.header)
    nib.save(found, path.absolute())
    return path


def shifted(path: Path, matrix: np.ndarray) -> Path:
    io.write_transform(path, Affine(matrix))
    return path


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Names


def test_a_name_that_begins_with_a_tilde_is_a_name(inside: Path) -> None:
    image(Path("~.nii.gz"))
    assert invoke("apply", "~.nii.gz", "--reference=~.nii.gz", "--out=~x.nii.gz")[0] == 0
    assert Path("~x.nii.gz").is_file()


def test_brackets_in_a_name_are_no_markup(inside: Path) -> None:
    image(Path("a.nii.gz"))
    code, text = invoke("register", "a.nii.gz", "a.nii.gz", "--out=[bold]x[/red]", *FAST[1:])
    assert code == 0, text
    assert "[bold]x[/red]" in text.replace("\n", "")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["register", "a", "b", "--out="], "--out"),
        (["register", "", "b", "--out", "x"], "FIXED"),
        (["register", "a", "b", "--out=x", "--fixed-mask", ""], "--fixed-mask"),
        (["register", "a", "b", "--out=x", "--fixed", ""], "--fixed"),
        (["view", ""], "RESULT"),
        (["cohort", "a.csv", "--out", ""], "--out"),
    ],
)
def test_an_empty_text_is_no_path(inside: Path, words: list[str], name: str) -> None:
    """Else a variable of a shell that is not set is the folder that one is in, whose files are replaced."""
    code, text = invoke(*words)
    assert (code, text) == (2, f"l2rfast: error: {name}: expected a path, got an empty text\n")
    assert not list(inside.iterdir())


def test_a_suffix_of_bids_is_no_pattern(inside: Path) -> None:
    folder = inside / "sub-1" / "anat"
    folder.mkdir(parents=True)
    image(folder / "sub-1_T1w.nii.gz")
    (inside / "dataset_description.json").write_text("{}")
    assert len(find_pairs("PAIRS", inside)) == 1
    for suffix in ("**", "T**", "*", "?1w", "[T]1w", "", "/", "../T1w"):
        with pytest.raises(InputError, match=r"^--bids-suffix: expected what images in"):
            find_pairs("PAIRS", inside, suffix=suffix)


def test_a_file_that_cannot_be_opened_is_not_called_damaged(inside: Path) -> None:
    with pytest.raises(InputError, match=r"it cannot be read \(File name too long\)$"):
        io.as_volume("FIXED", "m" * 300 + ".nii.gz")


# Places


@pytest.mark.parametrize("suffix", ["", ".nii", ".nii.gz", ".png", ".mha", ".dcm", ".nrrd", ".csv", ".txt", ".h5"])
def test_pipes_and_devices_are_refused_before_they_are_opened(inside: Path, suffix: str) -> None:
    """A pipe to which nobody writes is waited for without end, and /dev/zero fills the memory."""
    like = io.as_volume("FIXED", image(Path("a.nii")))
    os.mkfifo(pipe := Path(f"pipe{suffix}"))
    (zero := Path(f"zero{suffix}")).symlink_to("/dev/zero")
    for place in (pipe, zero):
        for read in (
            lambda path: io.as_volume("FIXED", path),
            lambda path: io.read_transform(path),
            lambda path: io.read_points("--fixed-landmarks", path, like),
            lambda path: io.read_landmarks(path, like),
            lambda path: text_of("PAIRS", path),
        ):
            with pytest.raises(InputError, match=r": expected a file, got a pipe, a socket or a device$"):
                read(place)
    if suffix == ".csv":
        with pytest.raises(InputError, match="got a pipe"):
            io.read_pointset(pipe, coordinates="ras")
    if suffix == ".h5":
        code, text = invoke("register", "a.nii", "a.nii", "--out=o", "--method=unsupervised", f"--weights={pipe}")
        assert code == 2
        assert f"--weights ({pipe}): expected a file, got a pipe" in text


def test_the_other_file_of_an_image_in_two_is_no_pipe(inside: Path) -> None:
    nib.save(nib.Nifti1Pair(np.zeros(SIZE, "f4"), np.eye(4)), "a.hdr")
    Path("a.img").unlink()
    os.mkfifo("a.img")
    with pytest.raises(InputError, match="expected a file, got a pipe"):
        io.as_volume("FIXED", "a.hdr")


def test_a_grid_that_promises_terabytes_is_refused_before_memory_is_taken(
    inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image(Path("a.nii"))
    large = nib.Nifti1Header()
    large.set_data_dtype("u1")
    large.set_data_shape((30000, 30000, 30000))
    Path("large.nii").write_bytes(large.binaryblock + bytes(4))
    header = Path("large.nii").read_bytes()
    Path("large.nii").write_bytes(header[:344] + b"n+1\0" + header[348:])
    monkeypatch.setattr(reading, "available", lambda: 10**9)
    disp = torch.zeros(1, 3, *SIZE)
    io.write_transform("field.nii.gz", Displacement(disp, np.eye(4)))
    for words in (
        ["apply", "a.nii", "--reference=large.nii", "--out=x.nii.gz"],
        ["jacobian", "field.nii.gz", "--fixed=large.nii", "--out=x.nii.gz"],
        ["convert", "field.nii.gz", "--fixed=large.nii", "--out=x.nii.gz"],
    ):
        code, text = invoke(*words)
        assert code == 2, words
        assert "expected what fits into the memory that is free" in text, words
    assert not Path("x.nii.gz").exists()


def test_a_study_that_cannot_be_written_is_one_sentence_of_the_bids_app(
    inside: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("study").mkdir()
    (Path("study") / JOBS).write_text('{"pairs": {}}')
    (Path("study") / bids_app.DESCRIPTION).mkdir()  # no file takes its place

    def fail(words: list[str]) -> None:
        raise SystemExit(1)

    monkeypatch.setattr(bids_app, "run", fail)
    with pytest.raises(SystemExit) as caught:
        bids_app.main([".", "study", "group"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(f"l2rfast-bids: error: study/{bids_app.DESCRIPTION}: expected a file")


@pytest.mark.parametrize("line", [5, None, "a b", [5], {"a": 1}])
def test_a_study_whose_pairs_have_no_command_lines_is_damaged(inside: Path, line: object) -> None:
    study = Study(inside)
    study.pair("a").mkdir(parents=True)
    (study.pair("a") / study.proof).write_text("{}")
    (inside / JOBS).write_text(json.dumps({"pairs": {"a": line}}))
    with pytest.raises(InputError, match="expected the pairs of a study"):
        study.check({"a": ["--preset=fast"]}, resume=True)


# Streams and signals


def started(body: str, *closed: int) -> subprocess.CompletedProcess[bytes]:
    """Lines of Python in a process of its own, some of whose standard streams are closed."""
    closing = "".join(f"os.close({number});" for number in closed)
    start = f"import os, sys; {closing} os.execv(sys.executable, [sys.executable, '-c', {body!r}])"
    return subprocess.run([sys.executable, "-c", start], capture_output=True, timeout=PATIENCE)


def test_closed_streams_are_no_reason_to_fail(inside: Path) -> None:
    """Nor does a file that is opened then take the number of one of them, to which libraries write."""
    body = """
        from l2rfast import cli, data

        def names():
            with open("file", "w") as file:
                file.write(str(file.fileno()))
            return []

        data.names = names
        cli.main(["data", "list"])
    """
    found = started(textwrap.dedent(body), 0, 1, 2)
    assert found.returncode == 0, found.stderr
    assert int(Path("file").read_text()) > 2


def test_what_cannot_be_said_is_no_reason_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the standard error goes to a disk that is full."""

    def full(*arguments: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(typer, "echo", full)
    with notices() as said:
        notice("a warning")
    assert said == ["a warning"]


@pytest.mark.parametrize("before", [signal.SIG_DFL, signal.SIG_IGN])
def test_a_terminal_that_closes_interrupts_but_under_nohup(before: signal.Handlers) -> None:
    kept = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)}
    try:
        signal.signal(signal.SIGHUP, before)
        _interrupt.handle()
        if before is signal.SIG_IGN:
            assert signal.getsignal(signal.SIGHUP) is before
        else:
            with pytest.raises(KeyboardInterrupt) as caught:
                os.kill(os.getpid(), signal.SIGHUP)
            assert _interrupt.exit_code(caught.value) == 128 + signal.SIGHUP
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def test_an_interrupt_is_handled_where_a_sentence_is_made_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of others Typer says ``Aborted.``, and has one exit code for all signals."""
    came: list[str] = []
    parse = cli._Commands.parse_args

    def parsed(self: Any, ctx: Any, args: list[str]) -> list[str]:
        came.append("parsed")
        return parse(self, ctx, args)

    monkeypatch.setattr(cli._Commands, "parse_args", parsed)
    monkeypatch.setattr(cli._interrupt, "handle", lambda: came.append("handled"))
    monkeypatch.setattr(data, "names", lambda: came.append("ran") or [])
    with pytest.raises(SystemExit):
        cli.main(["data", "list"])
    assert came == ["parsed", "handled", "ran"]


# Headers


@pytest.mark.parametrize(
    ("field", "value"), [("xyzt_units", 7), ("xyzt_units", 255), ("intent_code", 1007), ("intent_code", 1006)]
)
def test_odd_headers_are_resampled(inside: Path, field: str, value: int) -> None:
    """A unit that NIfTI does not define; and vectors, by the intent, in an image of one volume."""

    def edit(header: nib.Nifti1Header) -> None:
        header[field] = value

    code, text = invoke("apply", image(Path("a.nii"), edit), "--reference=a.nii", "--out=x.nii.gz")
    assert code == 0, text
    assert np.array_equal(nib.load("x.nii.gz").dataobj, nib.load("a.nii").dataobj)


@pytest.mark.parametrize("dims", [(0, 1, 1, 1), (3, -3, 4, 4), (3, 4, 0, 4)])
def test_a_grid_without_voxels_is_named(inside: Path, dims: tuple[int, ...]) -> None:
    image(Path("a.nii"))
    raw = bytearray(Path("a.nii").read_bytes())
    raw[40:48] = np.array(dims, "<i2").tobytes()
    Path("b.nii").write_bytes(raw)
    code, text = invoke("apply", "a.nii", "--reference=b.nii", "--out=x.nii.gz")
    assert code == 2
    assert text.startswith("l2rfast: error: --reference (b.nii): expected voxels, got shape (")


# Transforms and landmarks


def test_a_start_that_has_no_inverse_is_refused(inside: Path) -> None:
    image(Path("a.nii"))
    for scales in ((1, 1, 0), (0, 0, 0)):
        shifted(Path("a.txt"), np.diag([*scales, 1.0]))
        code, text = invoke("register", "a.nii", "a.nii", "--out=o", "--initial=a.txt", *FAST)
        assert (code, text) == (
            2,
            "l2rfast: error: --initial: expected a map that has an inverse, got a singular matrix\n",
        )
    assert not Path("o").exists()


def test_a_start_that_is_not_finite_is_told(inside: Path) -> None:
    image(Path("a.nii"))
    disp = torch.zeros(1, 3, *SIZE)
    disp[0, 0, 5, 5, 5] = torch.nan
    io.write_transform("field.nii.gz", Displacement(disp, np.eye(4)))
    code, text = invoke("register", "a.nii", "a.nii", "--out=o", "--initial=field.nii.gz", *FAST)
    assert code == 2
    assert f"--initial: expected a finite field, but 1 of {disp[0, 0].numel()} voxels of fixed lead nowhere" in text


def test_what_is_huge_is_computed_without_remarks_of_numpy() -> None:
    """Warnings are errors here."""
    huge = Affine(np.diag([1e308, 1e308, 1e308, 1.0]))
    assert huge.invertible
    Map.of(Grid(SIZE, np.diag([2.0, 2.0, 2.0, 1.0]))).moved(huge.array)
    assert huge.inverse.array[0, 0] == pytest.approx(1e-308)


def test_points_that_a_transform_leads_nowhere_are_counted(inside: Path) -> None:
    disp = torch.full((1, 3, *SIZE), torch.nan)
    io.write_transform("field.nii.gz", Displacement(disp, np.eye(4)))
    Path("a.csv").write_text("x,y,z\n1,2,3\n4,5,6\n")
    code, text = invoke("apply-points", "a.csv", "--out=b.csv", "--transform=field.nii.gz", "--coordinates=ras")
    assert code == 2
    assert text.endswith("points: expected places that are finite, but 2 of 2 lead nowhere\n")
    assert not Path("b.csv").exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x,y,z\n", "expected points, got none"),
        ("x,y\n1,2\n", "expected points of 3 axes, as their image has, got 2"),
        ("x,y,z\n1,2,3\nnan,1,2\n", "expected finite points, but 1 of 2 are not"),
        ("x,y,z\n1,2\n", "expected a table of points, got 3 columns and a line of 2"),
        (None, "expected a table of points, got No such file or directory"),
    ],
)
def test_what_is_wrong_with_landmarks_is_told(inside: Path, text: str | None, reason: str) -> None:
    like = io.as_volume("FIXED", image(Path("a.nii")))
    if text is not None:
        Path("a.csv").write_text(text)
    with pytest.raises(InputError, match=f"^--fixed-landmarks \\(a.csv\\): {reason}$"):
        io.read_points("--fixed-landmarks", "a.csv", like)


@pytest.mark.parametrize(
    "text", ["null", "loss\n1\n", "step,loss\n0,x\n", "step,loss\nnan,1\n", "step,loss\n0,\n", None]
)
def test_a_damaged_log_of_a_run_to_resume_is_told(inside: Path, text: str | None) -> None:
    """And one that is a pipe, which is waited for without end."""
    described = Description({"rate": 1.0})
    folder = RunFolder(inside, described, resume=False)
    folder.save({"weights": torch.zeros(1)}, {"step": 5})
    log = inside / "training.csv"
    os.mkfifo(log) if text is None else log.write_text(text)
    expected = "expected a file, got a pipe" if text is None else "training.csv or checkpoint.safetensors beside it is"
    with pytest.raises(InputError, match=expected):
        RunFolder(inside, described, resume=True).restore()
