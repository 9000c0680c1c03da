"""A short run of `reliability.operators`, and that it finds faults and tells them in their simplest form."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from evaluation import Inputs, evaluate
from operators import OPERATIONS
from torch.utils._python_dispatch import TorchDispatchMode

from l2rfast._dispatch import OPERATORS
from reliability.operators import Case, call, calls, check, drawn
from reliability.operators.__main__ import environments, reproducer, run
from reliability.operators.shrink import shrunk
from reliability.operators.worker import Worker, read

SEED, CASES, COMPILED = 1, 300, 50  # of so many, those that are compiled are
WRONG = Case("warp", (3, 4, 5), sample=7, batch=3, options={"mode": "linear"}, layouts={"image": "sliced"}, way="vmap")


@pytest.mark.parametrize("part", range(10))
def test_random_calls_agree_with_the_reference(part: int) -> None:
    for index in range(part, CASES, 10):
        case = drawn(SEED, index)
        if case.way == "inductor" or (case.way == "aot_eager" and index >= COMPILED):
            case = replace(case, way="call")
        outcome, faults = check(case)
        assert not faults, (index, case, outcome)


# What failed once, in its simplest form.
FOUND = [
    Case("affine_warp", (2, 3), dtype="float8_e4m3fn"),
    # A tie between two displacements, which rounding takes for one or for the other.
    Case("coupled_convex", (2, 19, 7), 481, channels=2, dtype="float64", options={"coefficients": (0.001, 2.5, 0.3)}),
    Case("invert", (7, 23), sample=303, dtype="float64", values={"disp": ("-inf", 7)}),
    Case("affine_resample", (7, 11), sample=153, options={"outside": 5}, way="aot_eager"),
    Case("affine_vote", (5, 4), junk={"size": "-1"}),
    Case("correlation", (1, 2), junk={"smoothing": "2^40"}),
    Case("coupled_convex", (3, 5), junk={"coefficients": "sparse"}),
    Case("grid_sample", (5, 4), junk={"align_corners": "float64"}),
    Case("lattice_correlation", (11, 37), sample=697, way="aot_eager"),
    Case("gaussian_filter", (1, 1), junk={"sigma": "2^64"}),
    Case("mind_ssc", (4, 4), values={"image": ("nan", 1000000000)}),
    Case("mind_ssc", (1, 4), values={"image": ("inf", 1000000000)}),
    Case("min_convolution", (1, 1, 1), junk={"weight": "1e300"}),
    Case("soft_argmin", (3, 2), values={"cost": ("nan", 7)}),
    Case("soft_argmin", (3, 2), values={"beta": ("1e30", 1)}),
    Case("spline_warp", (5, 4), junk={"prefilter": "bfloat16"}),
    Case("warp_local_ncc", (3, 3), junk={"eps": "csr"}),
    Case("warp_many", (5, 4), junk={"modes": "-1"}),
]


@pytest.mark.parametrize("case", FOUND, ids=lambda case: f"{case.operation}-{case.way}-{'-'.join(case.junk)}")
def test_what_was_found_once_stays_mended(case: Case) -> None:
    outcome, faults = check(case)
    assert not faults, outcome


def test_every_operator_is_called() -> None:
    reached = set()

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.namespace == "l2rfast":
                reached.add(func._opname)
            return func(*args, **(kwargs or {}))

    with Names():
        for name, args, kwargs in calls(SEED, 3 * len(OPERATIONS)):
            call(name, *args, **kwargs)
    # `call` asks for no second derivatives, `check` does.
    assert set(OPERATORS) - reached == {"warp_double_backward"}


def test_a_case_is_the_same_wherever_it_is_drawn_and_read() -> None:
    for index in range(100):
        case = drawn(SEED, index)
        assert read(repr(case)) == case == drawn(SEED, index)
        first, second = case.arguments()[0], read(repr(case)).arguments()[0]
        for name, value in first.items():
            if isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_meta:
                assert torch.equal(value.nan_to_num(7), second[name].nan_to_num(7)) or value.is_complex()


def wrong(*args: Any, backend: str | None = None, **kwargs: Any) -> Inputs:
    """The C++ kernels, with a fault."""
    results = evaluate(*args, backend=backend, **kwargs)
    return {name: t * 1.0001 for name, t in results.items()} if backend == "cpp" else results


def test_a_wrong_kernel_is_found_and_told_in_its_simplest_form(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check(WRONG) == ("compared", [])
    monkeypatch.setattr("reliability.operators.checks.evaluate", wrong)
    assert any(line.startswith("cpp: ") for line in check(WRONG)[1])
    simplest = shrunk(WRONG, lambda case: bool(check(case)[1]))
    assert (simplest.size, simplest.options, simplest.layouts, simplest.way) == ((1, 1, 1), {}, {}, "call")
    line = reproducer(simplest, "best")
    assert line.startswith("python -m reliability.operators --on best --case ")


def test_a_wrong_choice_is_found_that_is_no_tie(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("coupled_convex", (5, 7), dtype="float64")
    assert check(case) == ("compared", [])
    monkeypatch.setattr("reliability.operators.checks.evaluate", wrong)
    assert check(case)[1][0].startswith("cpp: output 0: relative error 1.0e-04")


def test_a_nan_that_is_lost_and_one_that_is_made_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*args: Any, backend: str | None = None, **kwargs: Any) -> Inputs:
        results = evaluate(*args, backend=backend, **kwargs)
        return {name: t.nan_to_num() for name, t in results.items()} if backend == "cpp" else results

    def made(*args: Any, backend: str | None = None, **kwargs: Any) -> Inputs:
        results = evaluate(*args, backend=backend, **kwargs)
        return {name: t / 0 * 0 for name, t in results.items()} if backend == "cpp" else results

    monkeypatch.setattr("reliability.operators.checks.evaluate", lost)
    assert "finite in 1 of" in check(Case("box_average", (1, 1), values={"image": ("nan", 10**9)}))[1][0]
    monkeypatch.setattr("reliability.operators.checks.evaluate", made)
    assert "not finite in 6 of 6 numbers that are" in check(Case("box_average", (1, 1)))[1][0]


def test_a_crash_and_a_hang_are_faults_of_their_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    sleeps, computes = (
        f"print('ready', flush=True); import time; {what}" for what in ("time.sleep(60)", "[0 for _ in iter(int, 1)]")
    )
    for script, longest, outcome in (
        ("print('ready')", 60.0, "crashed"),
        (sleeps, 0.1, "hung"),
        (computes, 0.3, "hung"),
    ):
        monkeypatch.setattr("reliability.operators.worker.COMMAND", (sys.executable, "-c", script))
        monkeypatch.setattr("reliability.operators.worker.LONGEST", longest)
        with Worker("best") as worker:
            assert worker.check(Case("warp", (1, 1)))[0] == outcome


def test_a_run_counts_what_became_of_its_cases(capsys: pytest.CaptureFixture[str]) -> None:
    assert environments(0, Case("warp", (1, 1))) == ["best", "default", "cuda", "triton"]
    assert environments(0, WRONG) == ["best"]
    assert environments(1, Case("warp", (1, 1))) == ["best", "default"]
    counts: dict[str, int | float] = {}
    assert run(0, 0, counts) == 0
    assert counts == {"cases": 0, "failed": 0}
