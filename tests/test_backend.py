"""Which backend runs: on demand, by instruction set, and where nothing was compiled."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from operators import OPERATIONS, noise

import l2rfast
from l2rfast import _dispatch, _native
from l2rfast._dispatch import OPERATORS

TESTS = Path(__file__).parent
PACKAGE = Path(l2rfast.__file__).parent


def python(script: str, *arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script in another process, started in that folder: packages in it come before installed ones."""
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def image() -> torch.Tensor:
    return noise(2, 1, 5, 4)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A line for every time that the reference of box_average runs."""
    made: list[str] = []
    operator = OPERATORS["box_average"]
    reference = operator._reference

    def spy(*args: Any) -> Any:
        made.append(operator.name)
        return reference(*args)

    monkeypatch.setattr(operator, "_reference", spy)
    return made


def test_a_missing_backend_is_an_error(image: torch.Tensor) -> None:
    with l2rfast.backend("cuda"), pytest.raises(l2rfast.BackendError, match="'cuda' was forced"):
        l2rfast.box_average(image)


def test_a_backend_without_the_operation_is_an_error(image: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OPERATORS["box_average"], "_has", lambda name: name == "reference")
    with l2rfast.backend("cpp"), pytest.raises(l2rfast.BackendError, match="box_average has only reference"):
        l2rfast.box_average(image)


@pytest.mark.parametrize("name", ["fastest", "", None])
def test_an_unknown_backend_is_an_error(name: Any) -> None:
    with (
        pytest.raises(l2rfast.BackendError, match="expected one of cpp, cuda, triton, reference"),
        l2rfast.backend(name),
    ):
        pass


def test_the_reference_runs_where_it_is_forced(image: torch.Tensor, calls: list[str]) -> None:
    l2rfast.box_average(image)
    assert calls == []
    with l2rfast.backend("reference"):
        l2rfast.box_average(image)
        assert len(calls) == 1
        with l2rfast.backend("cpp"):
            l2rfast.box_average(image)
        assert len(calls) == 1
        l2rfast.box_average(image)
        assert len(calls) == 2
    l2rfast.box_average(image)
    assert len(calls) == 2


def test_an_error_ends_the_choice() -> None:
    with pytest.raises(KeyError), l2rfast.backend("reference"):
        raise KeyError
    assert _dispatch._forced is None


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="one instruction set")
@pytest.mark.parametrize(("name", "registers"), [("default", "%[yz]mm"), ("avx2", "%zmm")])
def test_a_library_has_no_instructions_of_a_better_processor(name: str, registers: str) -> None:
    library = PACKAGE / f"_cpp_{name}.so"
    if not library.exists():
        pytest.skip(f"no kernels were built for {name}")
    code = subprocess.run(["objdump", "-d", library], check=True, capture_output=True, text=True).stdout
    assert re.search("%[xyz]mm", code)
    assert not re.search(registers, code)


@pytest.mark.parametrize("version", ["2.11.0", "2.13.0+cpu", "2.15.1", "2.15.0a0+git12"])
def test_a_pytorch_that_was_tried_is_used_in_silence(version: str) -> None:
    _native.check_version(version)


@pytest.mark.parametrize("version", ["2.16.0", "2.16.0.dev20261101+cpu", "3.0"])
def test_a_newer_pytorch_is_used_with_a_warning(version: str) -> None:
    with pytest.warns(_native.UntriedVersionWarning, match=rf"<2\.16.* this is {re.escape(version)}"):
        _native.check_version(version)


def test_a_package_without_kernels_works_and_says_so_once(tmp_path: Path) -> None:
    """As it is installed where there is no compiler: with all its folders, which lie elsewhere in the sources."""
    commands = ["egg_info", f"--egg-base={tmp_path}", "build_py", f"--build-lib={tmp_path}"]
    subprocess.run([sys.executable, "setup.py", "-q", *commands], cwd=TESTS.parent, check=True)
    script = """
import os, sys, torch, l2rfast
from operators import OPERATIONS
assert {"reference"} == set().union(*l2rfast.info().backends.values()) - {"triton"}  # which is Python too
torch.save([o.function(**sample.inputs, **sample.options) for o in OPERATIONS for sample in o.some()], "results")
files = [module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "l2rfast"]
assert all(file.startswith(os.getcwd()) for file in files), files  # nothing is found in the sources instead
"""
    done = python(script, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Warning") == 1
    assert _native.HOW_TO_BUILD in done.stderr
    with l2rfast.backend("reference"):
        expected = [o.function(**sample.inputs, **sample.options) for o in OPERATIONS for sample in o.some()]
    torch.testing.assert_close(torch.load(tmp_path / "results"), expected, rtol=0, atol=0)
