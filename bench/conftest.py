"""What the command tells pytest, and a test for every case of a family."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from . import cases


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("l2rfast")
    group.addoption("--family", choices=[*cases.FAMILIES], help="the cases to measure")
    group.addoption("--size", choices=[*cases.SIZES], default="full", help="of the inputs (default: full)")
    group.addoption("--rounds", type=int, default=7, help="(default: 7)")
    group.addoption("--threads", type=int, default=2, help="(default: 2)")
    group.addoption("--device", default="cpu", help="where the inputs are made (default: cpu)")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(config.getoption("threads"))
    torch.set_default_device(config.getoption("device"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    size, family = metafunc.config.getoption("size"), metafunc.config.getoption("family")
    families = [family] if family else list(cases.FAMILIES)
    makes = [(f"{name}-{i}", make) for name in families for i, make in enumerate(cases.FAMILIES[name])]
    metafunc.parametrize(
        "make", [pytest.param(partial(make, cases.SIZES[size]), id=name) for name, make in makes], scope="module"
    )


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> int:
    number: int = request.config.getoption("rounds")
    return number


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    """Whether the inputs are those of the targets."""
    return bool(request.config.getoption("size") == "full")


@pytest.fixture
def tiny(request: pytest.FixtureRequest) -> bool:
    """Whether figures mean nothing: the machine is not measured, nor memory, which takes longer than the cases."""
    return bool(request.config.getoption("size") == "tiny")
