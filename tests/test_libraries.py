"""Patched libraries as others have them: their own tests with our layers, and our tests with other versions of them.

What is tested here lies in build/libraries, where make puts it: sources, which have the tests, and other versions.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIBRARIES = ROOT / "build" / "libraries"


@dataclass
class Suite:
    """Of a library, what its source distribution has.

    Attributes:
        source: its name and version.
        patched: the libraries to patch.
        files: where the tests of what is replaced are.
        which: of these, in pytest's words.
        used: what has to be computed by us in them.
        without: tests that cannot pass, and why.
    """

    source: str
    patched: str
    files: list[str]
    which: str
    used: list[str]
    without: dict[str, str] = field(default_factory=dict)


SUITES = [
    Suite(
        "voxelmorph-0.3.4",
        "voxelmorph,neurite,torch",
        ["test_functional", "test_modules", "test_models", "test_integrate_disp", "test_integration_compatibility"],
        "test",
        ["voxelmorph.nn.functional.spatial_transform", "voxelmorph.nn.functional.compose"],
        {"test_integration_keeps_batched_sampling": "counts calls of PyTorch's grid_sample, of which we make none"},
    ),
    Suite(
        "neurite-0.3.4",
        "neurite,torch",
        ["test_losses"],
        "ncc",
        ["neurite.nn.functional.ncc"],
        {
            "test_ncc_rejects_numerical_cancellation": "expects an error where sums cancel, which ours do not",
            "1e+20": "expects an error as squares overflow, which ours do not",
        },
    ),
    Suite(
        "fireants-1.5.0",
        "fireants,torch",
        ["test_cc_kernel_size_list", "test_keypoints", "test_keypoint_fidelity"],
        "test",
        ["fireants.losses.cc.LocalNormalizedCrossCorrelationLoss.forward_util", "torch.nn.functional.grid_sample"],
        {"3d": "takes minutes"},
    ),
]


def run_pytest(where: Path, *arguments: str, paths: list[Path]) -> str:
    """In a process of its own, with more of Python's paths; fails as it does."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=", *arguments]
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.source)
def test_own_tests_of_a_library(suite: Suite, tmp_path: Path) -> None:
    with tarfile.open(LIBRARIES / "sources" / f"{suite.source}.tar.gz") as archive:
        tests = [member for member in archive if member.name.startswith(f"{suite.source}/tests/")]
        archive.extractall(tmp_path, tests, filter="data")
    report = tmp_path / "report.json"
    chosen = [f"tests/{name}.py" for name in suite.files]
    which = " and not ".join([suite.which, *suite.without])
    output = run_pytest(
        tmp_path / suite.source,
        *("-p", "patched", "--patched", suite.patched, "--patch-report", str(report)),
        *("-k", which, *chosen),
        paths=[ROOT / "tests"],
    )
    assert " passed" in output
    replaced = json.loads(report.read_text())
    assert all(replaced.get(name, 0) > 0 for name in suite.used), replaced


@pytest.mark.parametrize("versions", [["monai-1.4.0", "neurite-0.3", "fireants-1.4.0"], ["monai-1.6.0"]], ids="+".join)
def test_other_versions_of_libraries(versions: list[str]) -> None:
    files = ("tests/test_compat.py", "tests/test_compat_modules.py")
    names = " or ".join(version.partition("-")[0] for version in versions)
    output = run_pytest(ROOT, *files, "-k", names, paths=[LIBRARIES / name for name in versions])
    assert " passed" in output
