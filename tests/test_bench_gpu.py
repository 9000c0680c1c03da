"""The command for machines with a GPU, and its rehearsal without one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import cases, counters, gpu, jobs, tune
from bench.gpu import Part

PYTHON = [sys.executable, "-c"]


def test_it_starts_where_nothing_is_built() -> None:
    script = "import sys; sys.modules |= {'l2rfast': None, 'torch': None}; import bench.gpu"
    subprocess.run([sys.executable, "-c", script], cwd=gpu.ROOT, check=True)


def told(folder: Path) -> dict[str, str]:
    """Of the summary, what is said of each part."""
    lines = (folder / "summary.md").read_text().splitlines()
    return {line.split(" | ")[0][2:]: line for line in lines if line.startswith("| ")}


def test_a_part_that_is_done_stays_done_and_one_that_fails_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = f"open({str(tmp_path / 'ran')!r}, 'a').write('x')"
    slow = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    parts = {
        "bad": Part([[*PYTHON, "print('before'); 1 / 0"]], 60, [[*PYTHON, ""]], "fails"),
        "absent": Part([["no-such-tool"]], 60, [[*PYTHON, ""]], "is there"),
        "slow": Part([[*PYTHON, slow]], 1, [[*PYTHON, ""]], "takes long"),
        "good": Part([[*PYTHON, count]], 60, [[*PYTHON, ""]], "runs"),
    }
    monkeypatch.setattr(gpu, "parts", lambda out: parts)
    assert gpu.main(["--out", str(tmp_path)]) == 1
    found = told(tmp_path)
    assert "FAILED" in found["bad"]
    assert "ZeroDivisionError: division by zero" in found["bad"]
    assert "skipped: there is no no-such-tool" in found["absent"]
    assert "stopped for lack of time" in found["slow"]
    assert "done in" in found["good"]
    assert "before\nTraceback" in (tmp_path / "log.txt").read_text()
    assert gpu.main(["--out", str(tmp_path), "--only", "good"]) == 0
    assert "done before" in told(tmp_path)["good"]
    assert (tmp_path / "ran").read_text() == "x"
    assert gpu.main(["--out", str(tmp_path), "--only", "good", "--again"]) == 0
    assert (tmp_path / "ran").read_text() == "xx"
    assert gpu.main(["--out", str(tmp_path), "--only", "good", "--again", "--minutes", "0"]) == 1
    assert "stopped for lack of time" in told(tmp_path)["good"]
    for kind in (["--rehearse", "--smallest"], ["--rehearse"]):  # of which neither stands for another, nor for a GPU's
        assert gpu.main(["--out", str(tmp_path), *kind]) == 0
        assert "done in" in told(tmp_path)["good"]
    assert "- slow: takes long" in (tmp_path / "summary.md").read_text()
    assert "done before" not in told(tmp_path)["bad"]
    assert gpu.main(["--out", str(tmp_path), "--only", "bad"]) == 1


def test_the_first_failure_of_every_operation_is_told(tmp_path: Path) -> None:
    def case(name: str, of: str, message: str | None) -> str:
        failure = "" if message is None else f'<failure message="{message}">more</failure>'
        return f'<testcase classname="tests.{of}" name="{name}">{failure}</testcase>'

    cases = [
        case("test_values[warp-cuda-float32]", "test_operators", "wrong | by 1&#10;and more"),
        case("test_values[warp-triton-float32]", "test_operators", "another"),
        case("test_strides[warp-cuda]", "test_operators", None),
        case("test_values[box_average-cuda]", "test_operators", None),
        case("test_shapes[cuda]", "test_warp", "odd"),
    ]
    file = tmp_path / "tests.xml"
    file.write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
    lines = gpu.failures(file).splitlines()[2:]
    assert lines == ["| warp | 2 | 1 | wrong / by 1 and more |", "| test_shapes | 1 | 0 | odd |"]
    file.write_text(f"<testsuites><testsuite>{cases[2]}</testsuite></testsuites>")
    assert gpu.failures(file) == "All of 1 passed.\n"
    file.write_text("<testsuites><testsuite>")
    assert gpu.failures(file).startswith("tests.xml cannot be read")


def test_what_runs_ends_with_the_command_that_is_interrupted() -> None:
    slow = "import os, signal, time; print(os.getpid()); os.kill(os.getppid(), signal.SIGINT); time.sleep(60)"
    script = f"""
import signal, subprocess
from bench import gpu
signal.signal(signal.SIGINT, signal.default_int_handler)
started, start = [], subprocess.Popen
subprocess.Popen = lambda *a, **k: started.append(start(*a, **k)) or started[0]
try:
    gpu._called([{sys.executable!r}, "-c", {slow!r}], 30, False)
except KeyboardInterrupt:
    print(started[0].wait(10))
"""
    ended = subprocess.run([*PYTHON, script], cwd=gpu.ROOT, stdout=subprocess.PIPE, text=True, check=True)
    assert ended.stdout == "-9\n"


@pytest.mark.parametrize(
    ("command", "given", "said"),
    [
        (gpu, ["--smallest"], "--smallest: expected together with --rehearse"),
        (gpu, ["--rehearse", "--out", "{file}"], "--out: expected a folder that can be written, got {file}"),
        (jobs, ["--out", "{file}/jobs.json"], "--out: expected a file in a folder that is there"),
        (jobs, ["--out", "{file}", "--rounds", "0"], "--rounds: expected a whole number from 1 on, got '0'"),
        (tune, ["--device", "cpu", "--shapes", "few"], "--shapes: expected a whole number from 1 on, got 'few'"),
        (tune, ["--device", "gpu"], "--device: cannot use 'gpu' here"),
        (counters, ["--device", "cpu", "--out", "{file}"], "--out: expected a folder with the report"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(
    command: Any,
    given: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu, "Run", None)  # which would install, were something not refused
    file = tmp_path / "file"
    file.write_text("kept")
    with pytest.raises(SystemExit, match="2"):
        command.main([each.format(file=file) for each in given])
    assert said.format(file=file) in capsys.readouterr().err
    assert file.read_text() == "kept"


def test_a_little_of_every_part_is_rehearsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # with which pytest-benchmark times nothing
    monkeypatch.setattr(gpu, "WHEELS", tmp_path / "none")  # they are for another Python
    chosen = [name for name in gpu.parts(tmp_path) if name != "build" or shutil.which("nvcc")]
    ended = gpu.main(["--rehearse", "--smallest", "--out", str(tmp_path), *(f"--only={name}" for name in chosen)])
    assert ended == 0, (tmp_path / "log.txt").read_text()
    found = told(tmp_path)
    assert all("done in" in found[name] for name in chosen), found
    assert (tmp_path / "failures.md").read_text().startswith("All of ")
    shapes = json.loads((tmp_path / "triton_tuned.json").read_text())["interpreted"]
    assert set(shapes) == {"warp"}
    done = json.loads((tmp_path / "jobs.json").read_text())["jobs"]
    assert len(done) == 4
    assert all("failed" not in job for job in done.values()), done
    assert (tmp_path / "cpu.md").exists()
    assert "soft arg-min: ncu " in (tmp_path / "log.txt").read_text()  # and the program it would watch has run


def test_counted_are_the_cases_furthest_from_their_floor() -> None:
    def case(name: str, times: float | None) -> dict[str, Any]:
        return {"name": name, "results": {"l2rfast": {"times_floor": times}}}

    size = cases.SIZES["tiny"]
    names = {family: cases.FAMILIES[family][0](size).name for family in ("warp", "soft-argmin", "min-convolution")}
    away = [case(names["warp"], 2.0), case(names["min-convolution"], None), case("another", 9.0)]
    report = {"cases": [*away, case(names["soft-argmin"], 1.0), case(names["soft-argmin"], 3.0)]}
    found = counters.furthest(report, names, size)
    assert list(found.items()) == [(family, names[family]) for family in ("soft-argmin", "warp")]


def test_of_what_ncu_prints_times_bandwidth_and_stalls_are_kept() -> None:
    printed = """\
==PROF== Connected to process 1
"ID","Kernel Name","dram__bytes.sum.per_second","launch__grid_size","sm__inst_executed_pipe_fp64.sum"
"","","Tbyte/second","",""
"0","void warp<float, 3>","1.5","4,096","7"
==PROF== Disconnected
"""
    assert list(counters.kept("warp, 1 channel", printed)) == [
        ["warp, 1 channel", "void warp<float, 3>", "dram__bytes.sum.per_second", "Tbyte/second", "1.5"],
        ["warp, 1 channel", "void warp<float, 3>", "sm__inst_executed_pipe_fp64.sum", "", "7"],
    ]
    assert list(counters.kept("warp", "==ERROR== ERR_NVGPUCTRPERM")) == []
