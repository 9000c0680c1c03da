"""Which versions of PyTorch there may be: what the package asks for, what it was tried with, and what it says."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import torch
from packaging.requirements import Requirement
from packaging.version import Version

from bench.build import build_script
from l2rfast import _native

ROOT = Path(__file__).parent.parent


def test_the_oldest_version_is_one_for_the_metadata_the_kernels_and_the_tests() -> None:
    needed = map(Requirement, tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    (asked,) = (requirement.specifier for requirement in needed if requirement.name == "torch")
    (oldest,) = (Version(specifier.version) for specifier in _native.TRIED if specifier.operator == ">=")
    assert str(asked) == f">={oldest}"
    script = build_script()
    for flags in (script.FLAGS, script.CUDA_FLAGS):
        assert f"-DTORCH_TARGET_VERSION=0x{oldest.major:02x}{oldest.minor:02x}000000000000" in flags


def test_these_tests_run_on_a_version_that_counts_as_tried() -> None:
    assert Version(torch.__version__).base_version in _native.TRIED


def test_a_version_that_was_not_tried_is_used_and_named_once() -> None:
    script = """
import torch
torch.__version__ = "2.99.0"
import l2rfast, l2rfast.compat.torch, l2rfast.cli
print(float(l2rfast.warp(torch.ones(1, 1, 4, 4), torch.zeros(1, 2, 4, 4)).sum()))
"""
    command = [sys.executable, "-W", "ignore", "-W", "always:l2rfast was tried", "-c", script]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "16.0\n", done.stderr
    assert done.stderr.count("UntriedVersionWarning") == done.stderr.count("this is 2.99.0") == 1
