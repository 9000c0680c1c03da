"""What all tests share: one seed, a strict CI, and the real scans where they are."""

from __future__ import annotations

import locale
import os

# Small tensors gain nothing by a second thread, which waits for a core that another test has. Before PyTorch reads it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import native
import pytest
import samples
import torch

from l2rfast import _dispatch

# The same examples every time, and no deadline: a busy machine is not a failure.
hypothesis.settings.register_profile("l2rfast", derandomize=True, deadline=None, max_examples=30)
hypothesis.settings.load_profile("l2rfast")


# Files of half a minute and more, the longest first, which the workers take before the others, so that none is left
# with one at the end.
LONG = [
    "test_site",
    "test_operators",
    "test_examples",
    "test_register",
    "test_packaging",
    "test_libraries",
    "test_triton",
]
LONG += ["test_cuda", "test_initial", "test_instructions", "test_bench", "test_unsupervised", "test_contexts"]
LONG += ["test_masks", "test_docs", "test_docs_kernel"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


def _data() -> Path | None:
    """The folder of real scans, None where $L2RFAST_DATA is unset or names no folder."""
    name = os.environ.get("L2RFAST_DATA")
    return Path(name) if name and Path(name).is_dir() else None


@pytest.fixture(scope="session", autouse=True)
def _poisoned() -> None:
    native.poison_memory()


@pytest.fixture(autouse=True)
def _seed() -> None:
    """A test draws the same numbers whichever tests ran before it."""
    torch.manual_seed(0)
    samples.seed(0)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """A test begins with one thread whichever tests ran before it: the bits of PyTorch depend on their number."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)  # for what a module prepares before its first test


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def same_locale() -> Iterator[None]:
    """SimpleITK sets the locale of the process to C where it writes DICOM, and with it the encoding of later tests."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, before)


@pytest.fixture(scope="session")
def _host_cuda() -> None:
    native.load_cuda_on_host()


@pytest.fixture
def host(_host_cuda: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the backend "cuda" run on CPU tensors."""
    monkeypatch.setitem(_dispatch._NATIVE, "cuda", "CPU")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real scans."""
    folder = _data()
    if folder is None:
        pytest.skip("no real scans: L2RFAST_DATA is unset or names no folder")
    return folder


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six 2-D subjects whose sides are multiples of no power of two."""
    import datasets  # reads and writes files, by packages that what runs on a GPU does without

    folder = tmp_path_factory.mktemp("scans")
    datasets.write(folder, 6, (30, 26))
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One for the tests of a file: with it an event loop runs, which others may not find."""
    import browser

    with browser.opened() as one:
        yield one


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _not_skipped((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _not_skipped((yield))


def _not_skipped(report: Any) -> Any:
    """In CI with the scans at hand everything runs: a skipped test is a failed one."""
    if report.skipped and os.environ.get("CI") == "true" and _data() is not None:
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} was skipped, which nothing may be in CI: {report.longrepr}"
    return report
