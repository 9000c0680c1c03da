"""The benchmark's own logic: what is checked, in which order it runs, what the report says."""

from __future__ import annotations

import argparse
import json
import mmap
import platform
import resource
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from contests import adds, case, measure, one_thread  # noqa: F401
from torch import Tensor

from bench import __main__ as command
from bench import cases, compare, harness, machine, report, tables, tune
from bench.harness import OURS, Case, Contestant, Limit, Measurement, Point
from bench.recipes import RECIPES
from l2rfast.kernels.common.triton_launch import Shape, shape

SMALL_EDGES = (8, 9, 10, 11, 12, 13)


def test_an_incorrect_contestant_is_shown_with_its_error_and_not_timed() -> None:
    measured = measure(case(l2rfast=Contestant(adds(1)), wrong=Contestant(adds(2), target=2)), 2)
    wrong = measured.results["wrong"]
    assert not wrong.correct
    assert wrong.error == pytest.approx(0.5)
    assert wrong.seconds == []
    assert measured.ratio("wrong") is None
    assert measured.met("wrong") is None
    assert "5.0e-01, **incorrect**" in report.sections([measured])


def test_nothing_is_compared_with_ours_when_ours_is_incorrect() -> None:
    measured = measure(case(l2rfast=Contestant(adds(2)), peer=Contestant(adds(1), target=2)), 1)
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

    measure(case(l2rfast=contestant("a"), peer=contestant("b"), other=contestant("c")), 3)
    assert calls == ["a", "b", "c", *["b", "c", "a"] * 3]


def test_a_slow_contestant_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([21.0, 1.0, 2.0, 3.0])
    monkeypatch.setattr(machine, "copy_bandwidth", lambda size: 1e9)
    monkeypatch.setattr(machine, "seconds", lambda run, calls=1: next(seconds))
    measured = measure(case(l2rfast=Contestant(adds(1)), slow=Contestant(adds(1))), 3)
    assert measured.results[OURS].seconds == [1, 2, 3]
    assert measured.results["slow"].seconds == [21]


def test_a_result_is_brought_into_the_layout_of_the_reference() -> None:
    peer = Contestant(lambda: (torch.full((2, 2), 2.0), "more"), lambda result: (result[0].flatten(),))
    measured = measure(case(l2rfast=Contestant(adds(1)), peer=peer), 1)
    assert measured.results["peer"].correct


def test_an_absent_package_is_skipped_with_the_reason() -> None:
    def absent() -> Tensor:
        raise ImportError("No module named 'peer'")

    measured = measure(case(l2rfast=Contestant(adds(1)), peer=Contestant(absent, target=2)), 1)
    assert measured.skipped == {"peer": "No module named 'peer'"}
    assert measured.met("peer") is None
    assert "Skipped: peer (No module named 'peer')." in report.sections([measured])
    assert "0 met, 0 **not met**, 1 not measured" in report.Report("full", cases=[measured]).markdown({})


def test_a_peer_that_refuses_is_skipped_with_what_it_says_and_ours_may_not() -> None:
    def refuses() -> Tensor:
        raise RuntimeError("too large\nfor this card")

    measured = measure(case(l2rfast=Contestant(adds(1)), peer=Contestant(refuses)), 1)
    assert measured.skipped == {"peer": "RuntimeError: too large"}
    with pytest.raises(RuntimeError, match="too large"):
        measure(case(l2rfast=Contestant(refuses)), 1)


def growth_of_a_tensor(size: int) -> int | None:
    torch.ones(2 * size, dtype=torch.uint8)  # a peak before the call does not count
    return machine.memory_growth(lambda: torch.ones(size, dtype=torch.uint8))


def test_memory_growth_is_that_of_the_call() -> None:
    """In a process of its own, as the benchmark measures it: here, free memory of other tests may serve the call."""
    size = 64 << 20
    growth = machine.in_a_fresh_process(growth_of_a_tensor, size)
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
    limits = Limit("x floor", 1e9), Limit("x memory", 1.05), Limit("ms", 1e-9), Limit("GB", 1)
    measured = measure(case(*limits, l2rfast=Contestant(adds(1)), peer=Contestant(adds(1))), 1)
    assert [measured.kept(limit) for limit in limits] == [True, None, False, None]  # the memory is not yet measured
    measured.results[OURS].extra_bytes = 17
    measured.results["peer"].extra_bytes = 16
    section = report.sections([measured])
    assert section.count("<= 1e+09 x floor: met, <= 1.05 x memory: **not met**") == 1
    assert "0.0 (1.06 x)" in section
    assert "2 met, 2 **not met**, 0 not measured" in report.Report("full", cases=[measured]).markdown({})
    measured.results[OURS].extra_bytes = 16
    assert measured.kept(limits[1]) is True


def test_a_case_can_bound_our_memory_by_a_peers() -> None:
    limit = Limit("x memory of peer", 1)
    measured = measure(case(limit, l2rfast=Contestant(adds(1)), peer=Contestant(adds(1))), 1)
    for ours, theirs, kept in ((None, None, None), (16, 16, True), (17, 16, False), (17, None, None)):
        measured.results[OURS].extra_bytes, measured.results["peer"].extra_bytes = ours, theirs
        assert measured.kept(limit) is kept
    del measured.results["peer"]  # skipped
    assert measured.kept(limit) is None


def test_an_incorrect_result_keeps_within_no_limit() -> None:
    limits = Limit("x floor", 1e9), Limit("x memory", 1e9)
    measured = measure(case(*limits, l2rfast=Contestant(adds(2))), 1)
    assert [measured.kept(limit) for limit in limits] == [False, False]


def test_a_measurement_survives_json() -> None:
    point = Point("sums", "numbers", 4)
    measured = measure(case(Limit("ms", 1), point=point, l2rfast=Contestant(adds(1), target=2)), 2)
    assert Measurement.restored(json.loads(json.dumps(asdict(measured)))) == measured


def test_cases_of_a_series_share_a_table_and_a_picture(tmp_path: Path) -> None:
    points = [Point("sums", "numbers", n) for n in (4, 8)]
    slow = {"l2rfast": Contestant(adds(1)), "peer": Contestant(adds(1))}
    wrong = {"l2rfast": Contestant(adds(1)), "peer": Contestant(adds(2))}
    series = [measure(case(point=p, **c), 1) for p, c in zip(points, (slow, wrong), strict=True)]
    alone = measure(case(l2rfast=Contestant(adds(1))), 1)
    file = report.Report("quick", cases=[*series, alone]).write(tmp_path)
    text = file.read_text()
    assert "| contestant, ms (x floor); numbers: | set | 4 | 8 |" in text
    assert "**incorrect**: 5.0e-01 |" in text
    assert sorted(path.name for path in (tmp_path / "cpu").iterdir()) == ["sum.png", "sums.png"]
    assert "![sums](cpu/sums.png)" in text
    assert (tmp_path / "cpu" / "sums.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")  # in MONAI's differences
@pytest.mark.filterwarnings("ignore:Default grid_sample")  # in ConvexAdam
@pytest.mark.parametrize("family", cases.FAMILIES)
def test_all_contestants_of_every_case_are_correct(family: str) -> None:
    search = cases.Search((12, 10, 14), 5, 3, 0.25, 1e9, 1e9)
    size = cases.Size((24, 20, 28), (24, 20, 28), (search, search), (1, 2, (9, 8, 7)), SMALL_EDGES, 16, full=False)
    for make in cases.FAMILIES[family]:
        measured = measure(make(size), 1)
        assert OURS in measured.results
        # Window sums of squares lose the variance of small windows: then such a peer is shown as incorrect.
        # And all of them lose everything where images are far from zero.
        worst = 1e-3 if family != "local-ncc-offset" else torch.inf
        assert all(result.correct or result.error <= worst for result in measured.results.values()), measured
        assert all(result.correct for name, result in measured.results.items() if name.startswith(OURS)), measured


def test_the_report_tells_which_targets_are_met(tmp_path: Path) -> None:
    easy, hard = Contestant(adds(1), target=1e-9), Contestant(adds(1), target=1e9)
    measured = measure(case(l2rfast=Contestant(adds(1)), easy=easy, hard=hard), 2)
    report.Report("quick", cases=[measured]).write(tmp_path)
    text = (tmp_path / "cpu.md").read_text()
    assert ">= 1e-09: met" in text
    assert ">= 1e+09: **not met**" in text
    assert "Targets: 1 met, 1 **not met**, 0 not measured." in text
    content = json.loads((tmp_path / "cpu.json").read_text())
    assert len(content["cases"][0]["results"]["hard"]["seconds"]) == 2
    assert content["cases"][0]["results"]["hard"]["met"] is False
    assert {"cpu", "threads", "instruction set"} <= content["machine"].keys()


@pytest.mark.parametrize(("value", "text"), [(0, "0.00"), (9.9999, "10.0"), (1234.5, "1234"), (0.012345, "0.0123")])
def test_numbers_have_three_digits_and_no_exponent(value: float, text: str) -> None:
    assert report.digits(value) == text


def test_the_command_measures_what_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # with which pytest-benchmark times nothing
    sets = machine.instruction_sets()[-1:]
    monkeypatch.setattr(machine, "instruction_sets", lambda: sets)
    arguments = ["--size", "quick", "--only", "mind-ssc", "--threads", "1"]
    assert command.main([*arguments, "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "cpu.json").read_text())
    assert [(entry["name"], entry["instruction_set"]) for entry in content["cases"]] == [("MIND-SSC", sets[0])]
    for result in content["cases"][0]["results"].values():
        assert result["extra_bytes"] is None or result["extra_bytes"] > 0.9 * result["output_bytes"]


def test_what_there_was_no_time_for_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "instruction_sets", lambda: ["avx512", "avx2"])
    monkeypatch.setattr(command, "measured", lambda *arguments: pytest.fail("started"))
    arguments = ["--size", "quick", "--only", "warp", "--minutes", "0", "--out", str(tmp_path)]
    assert command.main(arguments) == command.UNFINISHED
    text = (tmp_path / "cpu.md").read_text()
    for name in ("avx512", "avx2"):
        assert f"Skipped: warp, {name} (not started within 0 minutes)." in text


def test_only_a_complete_run_writes_over_the_committed_report() -> None:
    assert command.folder(command.parse([])) == command.REPORTS
    for arguments in (["--size", "quick"], ["--only", "warp"]):
        assert command.folder(command.parse(arguments)) != command.REPORTS


def test_a_page_has_a_place_for_every_table() -> None:
    page = f"a {tables.START} b {tables.END} c {tables.START}{tables.END} d"
    filled = tables.filled(page, ["1", "2"])
    assert tables.filled(filled, ["1", "2"]) == filled
    assert filled.replace(f"{tables.START}\n\n", "").replace(f"\n\n{tables.END}", "") == "a 1 c 2 d"
    with pytest.raises(ValueError, match="expected places for 1 tables, got 2"):
        tables.filled(page, "1")


PLACES = {"docs/recipes.md": 1 + len(RECIPES), "docs/reference/pddnet.md": 3, "methods/unsupervised/learned.md": 2}


def test_the_tables_are_those_of_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    rows = {
        "README.md": "| warp, 1 channel |",
        "bench/README.md": "| warp, 1 channel |",
        "docs/reference/compat.md": "| `neurite` | 0.3 to 0.3.4 |",
        "docs/reference/pddnet.md": "| Dice, 4 pairs |",
        "docs/reference/weakly-supervised.md": "| experiment | pairs |",
        "methods/weakly_supervised/prostates.md": "| experiment | pairs |",
        "methods/unsupervised/learned.md": "| moving | before |",
        "docs/recipes.md": "| options | pairs | distance, pixels: before |",
        "docs/reliability.md": "| what was tried | counts | last full run |",
    }
    root = Path(tables.__file__).parent.parent
    for name, (_, folder, sources) in tables.TABLES.items():
        for path in (tmp_path / name, *(tmp_path / folder / source for source in sources)):
            path.parent.mkdir(parents=True, exist_ok=True)
        for source in (source for source in sources if (root / folder / source).exists()):
            shutil.copy(root / folder / source, tmp_path / folder / source)
        places = PLACES.get(name, 1)
        (tmp_path / name).write_text("before" + places * f"\n{tables.START}\n{tables.END}\nafter\n")
    assert tables.main(["--check"]) == 1
    assert tables.main([]) == tables.main(["--check"]) == 0
    written = {name: (tmp_path / name).read_text() for name in tables.TABLES}
    for name, text in written.items():
        assert text.startswith("before\n")
        assert text.endswith("\nafter\n")
        assert text.count(rows[name]) == 1
    report = tmp_path / "bench" / "reports" / "cpu.json"
    content = json.loads(report.read_text())
    first = content["cases"][0]["instruction_set"]
    own = [case for case in content["cases"] if case["instruction_set"] == first]
    content["cases"] = [*own, *({**case, "instruction_set": "other"} for case in own)]
    busy = {"times": {"avx512": {"1": 1.4, "2": 2.0}, "avx2": {"1": 1.45, "2": 2.08}}}
    readme = tables.headline(content, json.loads((command.REPORTS / "registration.json").read_text()), busy)
    assert "takes 1.40 / 1.45 times as long, beside two 2.00 / 2.08 times (avx512 / avx2;" in readme
    assert f"| operation | {first}, ms | x floor | other, ms | x floor | how many times longer others take" in readme
    ours = next(case for case in own if case["name"] == "mean field")["results"]
    cells = [f"{ours[OURS]['median'] * 1e3:.1f}", f"{ours[OURS]['times_floor']:.2f}"] * 2
    peer = f"PyTorch, as PDD-Net {ours['PyTorch, as PDD-Net']['times_faster']:.1f}"
    assert f"| mean field | {' | '.join(cells)} | {peer} / {peer.split()[-1]} x |" in readme
    next(case for case in content["cases"] if case["name"] == "mean field")["results"][OURS]["median"] *= 2
    report.write_text(json.dumps(content))
    assert tables.main(["--check"]) == 1
    assert written == {name: (tmp_path / name).read_text() for name in tables.TABLES}  # it only compares


def test_two_commits_are_compared_round_by_round() -> None:
    before: list[compare.Times] = [{"a": 2.0}, {"a": 6.0}, {"a": 4.0}]
    now: list[compare.Times] = [{"a": 1.0, "new": 1e-3}, {"a": 2.0, "new": 1e-3}, {"a": 4.0, "new": 1e-3}]
    rows = compare.compared(before, now).splitlines()
    assert "| a | 4000 | 2000 | 2.00 [1.00, 3.00] |" in rows
    assert "| new | - | 1.00 | - |" in rows


def test_what_is_timed_of_a_commit_is_every_case_that_it_can_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(size: cases.Size) -> Case:
        raise AttributeError("module 'l2rfast' has no attribute 'later'")

    made = case(l2rfast=Contestant(adds(1)))
    monkeypatch.setattr(cases, "FAMILIES", {"sums": [lambda size: made, absent]})
    found = compare.timed(argparse.Namespace(only=None, size="quick"))
    assert list(found) == ["sum"]


def test_the_fastest_shape_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[Shape] = []
    monkeypatch.setattr(machine, "seconds", lambda run, calls=1: (run(), 1.0 / shape().warps)[1])
    shapes = [Shape(128, 2), Shape(256, 8), Shape(512, 4)]
    best, taken = tune.fastest(lambda: launched.append(shape()), shapes)
    assert best == Shape(256, 8)
    assert taken == {Shape(128, 2): 1 / 2, Shape(256, 8): 1 / 8, Shape(512, 4): 1 / 4}
    assert set(launched) == set(shapes)
