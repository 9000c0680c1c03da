"""Many pairs: a folder each, whatever happens to the processes that register them."""

from __future__ import annotations

import csv
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import psutil
import pytest
import torch
from runs import PATIENCE, invoke, until

from l2rfast.cli import crew
from l2rfast.errors import InputError
from l2rfast.methods.cohort import workers
from l2rfast.methods.cohort.study import Study
from l2rfast.output import held

IDS = [f"s{i}" for i in range(5)]


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slice to register to, others that are like it, and one that is not there."""
    folder, noise = tmp_path_factory.mktemp("scans"), torch.rand(1, 1, 6, 6)
    smooth = torch.nn.functional.interpolate(noise, size=(26, 24), mode="bicubic")[0, 0, ..., None].numpy()
    nib.save(nib.Nifti1Image(smooth, np.eye(4)), folder / "fixed.nii.gz")
    for i, id in enumerate(IDS):
        nib.save(nib.Nifti1Image(np.roll(smooth, i % 3, 0), np.eye(4)), folder / f"{id}.nii.gz")
    rows = [f"{id},{id}.nii.gz,{7 if id == 's1' else ''}" for id in [*IDS, "gone"]]
    (folder / "pairs.csv").write_text("\n".join(["id,moving,window", *rows]) + "\n")
    return folder


def words(scans: Path, out: Path, *options: str) -> list[str]:
    every = (f"--fixed={scans / 'fixed.nii.gz'}", "--preset=fast", "--init=none", "--quiet")
    return ["cohort", str(scans / "pairs.csv"), f"--out={out}", *every, *options]


def begun(scans: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    """In a process of its own, which can be killed."""
    line = [sys.executable, "-c", "from l2rfast.cli import main; main()", *words(scans, out, *options)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, said


def gone(scans: Path) -> tuple[int, str]:
    """How a cohort ends of which one image is not there."""
    why = f"MOVING ({scans / 'gone.nii.gz'}): expected a NIfTI image, but there is no such file"
    return 1, f"l2rfast: error: gone: {why}\n"


def finished(out: Path) -> list[str]:
    return [id for id in IDS if Study(out).finished(id)]


def contents(out: Path) -> dict[str, bytes]:
    """Of all files that do not tell what registering cost."""
    files = [path for path in out.rglob("*") if path.is_file() and not path.name.startswith("report.")]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def one_by_one(work: Callable[[Sequence[str]], str | None], lines: Mapping[str, Sequence[str]]) -> Iterator[Any]:
    """A team of this process alone."""
    for id, line in lines.items():
        yield id, work(line)


@pytest.fixture(scope="module")
def serial(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study by one process."""
    out = tmp_path_factory.mktemp("serial") / "study"
    assert invoke(*words(scans, out, "--workers=1")) == gone(scans)
    return out


def test_each_has_a_folder_and_a_row(serial: Path) -> None:
    assert finished(serial) == IDS
    rows = list(csv.DictReader((serial / "summary.csv").read_text().splitlines()))
    assert [row["id"] for row in rows] == [*IDS, "gone"]
    assert [row["status"] for row in rows] == ["finished"] * len(IDS) + ["failed"]
    windows = [json.loads((serial / "pairs" / id / "report.json").read_text())["options"]["window"] for id in IDS[:2]]
    assert windows[1] == 7 != windows[0]


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that register: those that have imported the kernels."""
    children = psutil.Process(process.pid).children(recursive=True)
    found = []
    for child in children:
        with suppress(psutil.Error):
            if any("_cpp_" in file.path for file in child.memory_maps()):
                found.append(child)
    return found


@pytest.mark.parametrize("how", [(), ("--dask=local",)], ids=["processes", "dask"])
def test_a_worker_that_is_killed_costs_nothing(scans: Path, serial: Path, tmp_path: Path, how: tuple[str, ...]) -> None:
    out = tmp_path / "study"
    process = begun(scans, out, "--workers=2", *how)
    until(lambda: finished(out), process)
    workers_of(process)[0].kill()
    killed_with = finished(out)
    assert ended(process) == gone(scans)
    assert len(killed_with) < len(IDS)  # else it came too late to tell
    assert contents(out) == contents(serial)


@pytest.mark.parametrize("signal", [signal.SIGINT, signal.SIGKILL], ids=["interrupt", "kill"])
def test_after_its_end_it_goes_on(
    scans: Path, serial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signal: signal.Signals
) -> None:
    out = tmp_path / "study"
    process = begun(scans, out, "--workers=2")
    until(lambda: finished(out), process)
    process.send_signal(signal)
    process.communicate(timeout=PATIENCE)  # until its workers have ended as well
    before = {id: (out / "pairs" / id / "report.json").stat().st_mtime_ns for id in finished(out)}
    code, said = invoke(*words(scans, out))
    assert (code, said.count("\n")) == (2, 1)
    assert "--resume" in said
    monkeypatch.setattr(crew.Crew, "at_work", lambda *_: nullcontext(one_by_one))
    assert invoke(*words(scans, out, "--resume")) == gone(scans)
    assert contents(out) == contents(serial)
    assert before == {id: (out / "pairs" / id / "report.json").stat().st_mtime_ns for id in before}


def test_tasks_of_an_array_share_a_study(scans: Path, serial: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    tasks = [words(scans, out, f"--array-index={index}", "--chunk=3", "--workers=1") for index in range(2)]
    assert [invoke(*task) for task in tasks] == [(0, ""), gone(scans)]
    assert contents(out) == contents(serial)


def test_a_disk_that_is_full_costs_the_pair_and_it_goes_on(
    scans: Path, serial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, sync, fields = tmp_path / "study", os.fsync, []

    def full(descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("/displacement.nii.gz"):
            fields.append(descriptor)
            if len(fields) == 3:
                raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(crew.Crew, "at_work", lambda *_: nullcontext(one_by_one))
    monkeypatch.setattr(os, "fsync", full)
    why = f"--out {out / 'pairs' / 's2'}: expected a folder that can be written (No space left on device)"
    code, said = invoke(*words(scans, out))
    assert (code, said) == (1, f"l2rfast: error: s2: {why}\n{gone(scans)[1]}")
    rows = list(csv.DictReader((out / "summary.csv").read_text().splitlines()))
    assert [row["error"] for row in rows if row["id"] == "s2"] == [why]
    assert sorted(path.name for path in (out / "pairs").iterdir()) == [id for id in IDS if id != "s2"]
    assert invoke(*words(scans, out, "--resume")) == gone(scans)
    assert contents(out) == contents(serial)


@pytest.mark.parametrize(
    ("signal", "code", "end"),
    [
        (signal.SIGINT, 130, ["l2rfast: interrupted: the pairs that are finished stay, and --resume goes on"]),
        (signal.SIGKILL, -9, []),
    ],
    ids=["interrupt", "kill"],
)
def test_with_it_all_its_processes_end(
    scans: Path, tmp_path: Path, signal: signal.Signals, code: int, end: list[str]
) -> None:
    out = tmp_path / "study"
    process = begun(scans, out, "--workers=2", "--iterations=99999")
    until(lambda: workers_of(process), process)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal)
    assert not psutil.wait_procs(children, timeout=PATIENCE)[1]
    assert process.wait(timeout=PATIENCE) == code
    _, said = ended(process)
    assert [line for line in said.splitlines()[-1:] if "resource_tracker" not in line] == end
    assert finished(out) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--window=4",), "line 2: --window: expected an odd number, got 4"),
        (("--outside=inf",), "line 2: --outside: expected a number that torch.float32 holds, got inf"),
        (("--weight=nan",), "line 2: --weight: expected numbers"),
        (("--chunk=2", "--array-index=3"), "--array-index: expected a number from 0 to 2"),
        (("--chunk=0",), "--chunk: expected a positive number of pairs, got 0"),
        (("--workers=0",), "--workers: expected"),
        (("--memory=much",), "--memory: expected a size"),
        (("--dask=nowhere",), "--dask: expected local, slurm or the address"),
    ],
)
def test_what_cannot_be_done_is_said_before_it_begins(
    scans: Path, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    code, text = invoke(*words(scans, tmp_path / "study", *options))
    assert code == 2
    assert said in text
    assert list(tmp_path.iterdir()) == []


def test_a_study_that_is_there_is_said_before_dask_is_asked(scans: Path, serial: Path) -> None:
    before = contents(serial)
    code, text = invoke(*words(scans, serial, "--dask=nowhere"))
    assert (code, text.count("\n")) == (2, 1)
    assert "holds a cohort; expected --resume" in text
    assert contents(serial) == before


def test_a_weight_of_a_row_is_named_as_it_is_typed(scans: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text(f"moving,weight\n{scans / 's0.nii.gz'},nan\n")
    code, text = invoke(
        "cohort", tmp_path / "pairs.csv", f"--fixed={scans / 'fixed.nii.gz'}", f"--out={tmp_path / 'o'}"
    )
    assert (code, text.count("\n")) == (2, 1)
    assert "pairs.csv, line 2: --weight: expected numbers, none below 0" in text


def test_a_row_without_a_jacobian_is_refused_where_statistics_are_asked_for(scans: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text(f"moving,jacobian\n{scans / 's0.nii.gz'},\n{scans / 's1.nii.gz'},no\n")
    out = tmp_path / "study"
    code, text = invoke(
        *("cohort", tmp_path / "pairs.csv", f"--fixed={scans / 'fixed.nii.gz'}", f"--out={out}"),
        "--jacobian-statistics",
    )
    assert (code, text.count("\n")) == (2, 1)
    assert "pairs.csv, line 3: expected jacobian true or empty with --jacobian-statistics, got false" in text
    assert not out.exists()


def test_two_do_not_write_into_one_study(scans: Path, tmp_path: Path) -> None:
    with held(tmp_path / "study"):
        code, text = invoke(*words(scans, tmp_path / "study"))
    assert code == 2
    assert "expected a folder in which no other process works" in text


def test_without_a_fixed_image_nothing_begins(scans: Path, tmp_path: Path) -> None:
    code, text = invoke("cohort", scans / "pairs.csv", f"--out={tmp_path / 'study'}")
    assert code == 2
    assert "pairs.csv, line 2: expected a fixed image" in text


def test_processes_that_end_before_they_begin_are_said() -> None:
    expected = pytest.raises(InputError, match="--workers: expected processes that work, but they ended by themselves")
    with expected, workers._alive(BrokenProcessPool):  # which Pebble raises by chance
        raise BrokenProcessPool


def test_processes_that_end_at_their_start_are_given_up() -> None:
    """While another works: Pebble starts others for ever."""
    context = workers._Counted()

    def schedule(*_: object, **__: object) -> Future[None]:
        context.made = 2 + workers.STARTS
        return Future()

    expected = pytest.raises(InputError, match="--workers: expected processes that work, but they ended by themselves")
    pool: Any = SimpleNamespace(schedule=schedule)
    with expected:
        next(workers._on_processes(pool, 2, context, len, {"a": []}))


def test_an_error_that_cannot_be_written_down_is_said(tmp_path: Path) -> None:
    (tmp_path / "errors").touch()
    with pytest.raises(InputError, match=r"errors: expected a folder that can be written \(File exists\)"):
        Study(tmp_path).failed("a", "why")


@pytest.mark.parametrize("content", [None, b"\xff", b"[]"])
def test_a_damaged_list_of_pairs_is_said(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "cohort.json"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    with pytest.raises(InputError, match=r"cohort.json: expected the pairs of a study, but the file is empty, damaged"):
        Study(tmp_path).check({"a": []}, resume=True)
