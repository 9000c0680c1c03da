"""The command line apart from ``register``: what it prints, and how it fails."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path

import pytest
import torch
from runs import PATIENCE
from typer.testing import CliRunner

import l2rfast
from l2rfast import BackendError, InputError, cli, data
from l2rfast._dispatch import OPERATORS

NAME = "voxelmorph/data/test_scan.npz"


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.app, arguments)
    return result.exit_code, result.stdout, result.stderr


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> tuple[int, str, str]:
    def fail(name: str) -> Path:
        raise error

    monkeypatch.setattr(data, "path", fail)
    return run("data", "path", NAME)


def script(body: str) -> subprocess.Popen[str]:
    """The command ``l2rfast data list`` in a process of its own, after some lines of Python."""
    lines = ["import os, signal, sys", "from l2rfast import cli, data", textwrap.dedent(body)]
    lines += ["sys.argv[1:] = ['data', 'list']", "cli.main()"]
    command = [sys.executable, "-c", "\n".join(lines)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_info_lists_every_operation_and_what_runs() -> None:
    info = l2rfast.info()
    assert set(info.backends) == set(info.chosen["cpu"]) == set(OPERATORS)
    assert all(info.chosen["cpu"][name] == backends[0] for name, backends in info.backends.items())
    assert info.versions["torch"] == torch.__version__
    assert info.threads == torch.get_num_threads()
    with l2rfast.backend("reference"):
        assert set(l2rfast.info().chosen["cpu"].values()) == {"reference"}
    code, out, err = run("info")
    assert (code, err) == (0, "")
    for text in (out, str(info)):
        row = next(line for line in text.splitlines() if line.startswith("│ warp "))
        assert [cell.strip() for cell in row.split("│")[2:4]] == [
            ", ".join(info.backends["warp"]),
            info.chosen["cpu"]["warp"],
        ]


def test_the_version_is_that_of_the_package() -> None:
    assert run("--version") == (0, f"l2rfast {metadata.version('l2rfast')}\n", "")


def test_data_lists_and_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(data.ENVIRONMENT, str(tmp_path))
    file = tmp_path / NAME
    file.parent.mkdir(parents=True)
    file.write_text("not the scan")
    code, out, _ = run("data", "list")
    assert code == 0
    assert len(out.splitlines()) == len(data.names())
    assert f"  3.62 MB  {NAME}  {file}" in out.splitlines()
    for command in ("path", "fetch"):
        code, out, err = run("data", command, NAME)
        assert (code, out) == (2, "")
        assert err.startswith(f"l2rfast: error: {file}: expected {data.record(NAME).bytes} bytes of sha256")
    monkeypatch.setattr(data, "_intact", lambda *_: True)
    for command in ("path", "fetch"):
        assert run("data", command, NAME) == (0, f"{file}\n", "")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (InputError("fixed: expected a 3-D image"), "fixed: expected a 3-D image"),
        (BackendError("backend: not here"), "backend: not here"),
        (MemoryError(), "not enough memory for images of this size"),
        (OSError(errno.ENOSPC, "full", "/a/b"), "no space left on the device of /a/b"),
    ],
)
def test_errors_are_one_sentence(monkeypatch: pytest.MonkeyPatch, error: BaseException, sentence: str) -> None:
    assert fail_with(monkeypatch, error) == (2, "", f"l2rfast: error: {sentence}\n")


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (KeyboardInterrupt(signal.SIGTERM), 143)])
def test_an_interrupt_has_the_exit_code_of_shells(
    monkeypatch: pytest.MonkeyPatch, error: KeyboardInterrupt, code: int
) -> None:
    assert fail_with(monkeypatch, error) == (code, "", "l2rfast: interrupted, nothing was written\n")


@pytest.mark.parametrize("started", ["l2rfast", "-m", "other.py"])
def test_an_interrupt_while_pytorch_is_imported(started: str, tmp_path: Path) -> None:
    """Of the command one line, of other programs what Python does."""
    (tmp_path / "torch.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nsignal.pause()\n")
    (tmp_path / "scripts").mkdir()
    if started == "-m":
        command = ["-m", "l2rfast.cli", "--version"]
    else:
        file = tmp_path / "scripts" / started
        file.write_text("from l2rfast.cli import main\nmain()\n")
        command = [str(file), "--version"]
    path = os.pathsep.join([str(tmp_path), str(Path(l2rfast.__file__).parents[1])])
    ended = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": path},
    )
    if started == "other.py":
        assert (ended.returncode, "KeyboardInterrupt" in ended.stderr) == (-signal.SIGINT, True)
    else:
        assert (ended.returncode, ended.stderr) == (130, "l2rfast: interrupted, nothing was written\n")


def test_pytorchs_out_of_memory_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    sentence = "l2rfast: error: not enough memory for images of this size\n"
    assert fail_with(monkeypatch, caught.value) == (2, "", sentence)


def test_defects_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[str]:
        raise RuntimeError("a defect")

    monkeypatch.setattr(data, "names", fail)
    assert isinstance(CliRunner().invoke(cli.app, ["data", "list"]).exception, RuntimeError)


def test_usage_errors_exit_with_2() -> None:
    for arguments in (["nonsense"], ["data", "path"], ["data", "list", "--nonsense"], ["register"]):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert "Usage" in err


def test_sigterm_is_an_interrupt() -> None:
    process = script("data.names = lambda: (os.kill(os.getpid(), signal.SIGTERM), signal.pause())")
    _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (143, "l2rfast: interrupted, nothing was written\n")


def test_a_closed_pipe_is_quiet() -> None:
    process = script("many = 1000 * data.names(); data.names = lambda: many")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    _, err = process.communicate(timeout=PATIENCE)
    assert err == ""
