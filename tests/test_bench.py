"""The benchmark's own logic: what is checked, in which order it runs, what the report says."""

from __future__ import annotations

import json
import mmap
import platform
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench import __main__ as command
from bench import cases, harness, machine, registration, report
from bench.harness import OURS, Case, Contestant, measure
from bench.registration import PEER, TARGETS, Comparison, Run
from l2rfast import InputError

SMALL = 1 << 20  # bytes to copy: the bandwidth does not matter here

pytestmark = pytest.mark.usefixtures("one_thread")


def case(floor_target: float | None = None, memory_target: float | None = None, **contestants: Contestant) -> Case:
    reference = (torch.full((4,), 2.0).double(),)
    return Case("sum", "One and one.", 8, contestants, lambda: reference, 1e-5, floor_target, memory_target)


def adds(value: float) -> Callable[[], Tensor]:
    return lambda: torch.ones(4) + value


def test_an_incorrect_contestant_is_shown_with_its_error_and_not_timed() -> None:
    measured = measure(case(l2rfast=Contestant(adds(1)), wrong=Contestant(adds(2), target=2)), 2, copied_bytes=SMALL)
    wrong = measured.results["wrong"]
    assert not wrong.correct
    assert wrong.error == pytest.approx(0.5)
    assert wrong.seconds == []
    assert measured.ratio("wrong") is None
    assert measured.met("wrong") is None
    assert "5.0e-01, **incorrect**" in report.case_section(measured)


def test_nothing_is_compared_with_ours_when_ours_is_incorrect() -> None:
    measured = measure(case(l2rfast=Contestant(adds(2)), peer=Contestant(adds(1), target=2)), 1, copied_bytes=SMALL)
    assert measured.results["peer"].correct
    assert measured.ratio("peer") is None
    assert measured.met("peer") is False


@pytest.mark.parametrize("wrong", [torch.ones(5), torch.full((4,), torch.nan), torch.full((4,), torch.inf)])
def test_wrong_shapes_and_numbers_that_are_not_finite_are_incorrect(wrong: Tensor) -> None:
    assert harness.relative_error((wrong,), (torch.ones(4).double(),)) == torch.inf


def test_contestants_take_turns_after_the_checks() -> None:
    calls: list[str] = []

    def contestant(name: str) -> Contestant:
        return Contestant(lambda: calls.append(name) or torch.full((4,), 2.0))

    measure(case(l2rfast=contestant("a"), peer=contestant("b"), other=contestant("c")), 3, copied_bytes=SMALL)
    assert calls[-9:] == ["a", "b", "c"] * 3
    assert calls[:3] == ["a", "b", "c"]


def test_a_slow_contestant_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([1.0, 21.0, 2.0, 3.0])
    monkeypatch.setattr(harness, "_seconds", lambda run: next(seconds))
    measured = measure(case(l2rfast=Contestant(adds(1)), slow=Contestant(adds(1))), 3, copied_bytes=SMALL)
    assert measured.results[OURS].seconds == [1, 2, 3]
    assert measured.results["slow"].seconds == [21]


def test_a_result_is_brought_into_the_layout_of_the_reference() -> None:
    peer = Contestant(lambda: (torch.full((2, 2), 2.0), "more"), lambda result: (result[0].flatten(),))
    measured = measure(case(l2rfast=Contestant(adds(1)), peer=peer), 1, copied_bytes=SMALL)
    assert measured.results["peer"].correct


def test_an_absent_package_is_skipped_with_the_reason() -> None:
    def absent() -> Tensor:
        raise ImportError("No module named 'peer'")

    measured = measure(case(l2rfast=Contestant(adds(1)), peer=Contestant(absent, target=2)), 1, copied_bytes=SMALL)
    assert measured.skipped == {"peer": "No module named 'peer'"}
    assert measured.met("peer") is None
    assert "Skipped: peer (No module named 'peer')." in report.case_section(measured)
    assert "0 met, 0 **not met**, 1 not measured" in report.Report("full", cases=[measured]).markdown()


def test_memory_growth_is_that_of_the_call() -> None:
    size = 64 << 20
    torch.ones(2 * size, dtype=torch.uint8)  # a peak before the call does not count
    growth = machine.memory_growth(lambda: torch.ones(size, dtype=torch.uint8))
    assert growth is None or 0.9 * size < growth < 1.5 * size


def faults_of_a_second_call() -> int:
    """Pages that the system gave for a tensor of a size that was used and freed before."""
    torch.ones(32 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(32 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the variables are glibc's")
def test_cases_are_timed_where_the_allocator_keeps_its_memory() -> None:
    pages = (32 << 20) * 4 / mmap.PAGESIZE
    assert machine.in_a_fresh_process(faults_of_a_second_call, **harness.KEEPING) < pages / 100


def test_wrong_integers_are_incorrect() -> None:
    labels = torch.arange(10_000, dtype=torch.int16)
    assert harness.relative_error((labels,), (labels.clone(),)) == 0
    assert harness.relative_error((labels.float(),), (labels.roll(1),)) > 1e-5


def test_a_case_can_bound_our_own_time_and_memory() -> None:
    bounded = case(floor_target=1e9, memory_target=1.05, l2rfast=Contestant(adds(1)), peer=Contestant(adds(1)))
    measured = measure(bounded, 1, copied_bytes=SMALL)
    assert (measured.floor_met(), measured.memory_met()) == (True, None)  # the memory is not yet measured
    measured.results[OURS].extra_bytes = 17
    measured.results["peer"].extra_bytes = 16
    section = report.case_section(measured)
    assert section.count("<= 1e+09 x floor: met, <= 1.05 x memory: **not met**") == 1
    assert "0.0 (1.06 x)" in section
    assert "1 met, 1 **not met**, 0 not measured" in report.Report("full", cases=[measured]).markdown()
    measured.results[OURS].extra_bytes = 16
    assert measured.memory_met() is True


def test_an_incorrect_result_keeps_within_no_bound() -> None:
    bounded = case(floor_target=1e9, memory_target=1e9, l2rfast=Contestant(adds(2)))
    measured = measure(bounded, 1, copied_bytes=SMALL)
    assert (measured.floor_met(), measured.memory_met()) == (False, False)


@pytest.mark.parametrize("family", cases.FAMILIES)
def test_all_contestants_of_every_case_are_correct(family: str) -> None:
    search = cases.Search((12, 10, 14), 5, 3, 0.25, 1e9, 1e9)
    size = cases.Size((24, 20, 28), (24, 20, 28), (search, search), full=True)
    for make in cases.FAMILIES[family]:
        measured = measure(make(size), 1, copied_bytes=SMALL)
        assert OURS in measured.results
        assert all(result.correct for result in measured.results.values()), measured


def comparison() -> Comparison:
    runs = {
        PEER: [Run(seconds, 2_300_000_000, 0.706, 0.03) for seconds in (90.0, 110.0, 100.0)],
        "l2rfast default": [Run(seconds, 900_000_000, 0.71, 0.1) for seconds in (9.0, 8.0, 40.0)],
    }
    return Comparison((160, 192, 224), 0.522, TARGETS, runs)


def test_registration_figures_are_medians_and_ratios_of_medians() -> None:
    figures = comparison().figures("l2rfast default")
    assert figures["seconds"] == 9
    assert figures["times faster"] == pytest.approx(100 / 9)
    assert "times faster" not in comparison().figures(PEER)


def test_the_report_tells_which_targets_are_met(tmp_path: Path) -> None:
    easy, hard = Contestant(adds(1), target=1e-9), Contestant(adds(1), target=1e9)
    measured = measure(case(l2rfast=Contestant(adds(1)), easy=easy, hard=hard), 2, copied_bytes=SMALL)
    report.Report("quick", cases=[measured], registration=comparison()).write(tmp_path)
    text = (tmp_path / "cpu.md").read_text()
    assert ">= 1e-09: met" in text
    assert ">= 1e+09: **not met**" in text
    assert "| l2rfast default | times faster >= 10 | 11.1 | met |" in text
    assert "| l2rfast default | Dice >= 0.72 | 0.710 | **not met** |" in text
    assert "| l2rfast accurate | seconds <= 45 | - | not measured |" in text
    assert "Targets: 4 met, 2 **not met**, 4 not measured." in text
    content = json.loads((tmp_path / "cpu.json").read_text())
    assert len(content["cases"][0]["results"]["hard"]["seconds"]) == 2
    assert content["cases"][0]["results"]["hard"]["met"] is False
    assert content["registration"]["figures"]["l2rfast default"]["Dice"] == 0.71
    assert {"cpu", "threads", "instruction set"} <= content["machine"].keys()


@pytest.mark.parametrize(("value", "text"), [(0, "0.00"), (9.9999, "10.0"), (1234.5, "1234"), (0.012345, "0.0123")])
def test_numbers_have_three_digits_and_no_exponent(value: float, text: str) -> None:
    assert report.digits(value) == text


def test_the_command_measures_what_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Path:
        raise InputError(f"{name}: not found")

    monkeypatch.setattr(registration.data, "path", absent)
    arguments = ["--size", "quick", "--only", "mind-ssc", "--only", "registration", "--threads", "1"]
    assert command.main([*arguments, "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "cpu.json").read_text())
    assert [entry["name"] for entry in content["cases"]] == ["MIND-SSC"]
    for result in content["cases"][0]["results"].values():
        assert result["extra_bytes"] is None or result["extra_bytes"] > 0.9 * result["output_bytes"]
    assert content["registration"] is None
    assert "not found" in content["skipped"]["registration"]


def test_only_a_complete_run_writes_over_the_committed_report() -> None:
    assert command.folder(command.parse([])) == command.REPORTS
    for arguments in (["--size", "quick"], ["--only", "warp"]):
        folder = command.folder(command.parse(arguments))
        assert folder != command.REPORTS
        folder.rmdir()
