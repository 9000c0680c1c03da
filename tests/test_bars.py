"""What is shown while a command works: how far it has come, and how long the rest will take."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from l2rfast.cli import bars
from l2rfast.cli.bars import SHARES, Rest

STAGES = [name.replace("refinement,", "refinement, LNCC and MIND,") for name in SHARES]


def test_the_rest_of_a_registration_is_told_by_what_is_over() -> None:
    rest, now = Rest(), 0.0
    for stage, share in zip(STAGES, SHARES.values(), strict=True):
        rest.at(stage, 0.0, now)
        now += 0.1 * share  # a tenth of a second a percent
        done, seconds = rest.at(stage, 1.0, now)
        over = sum([*SHARES.values()][: STAGES.index(stage) + 1])
        assert done == pytest.approx(over / sum(SHARES.values()))
        assert seconds == pytest.approx(0.1 * (sum(SHARES.values()) - over))
    assert (done, seconds) == (1, 0)


def test_stages_that_there_are_not_are_passed_over() -> None:
    rest = Rest()
    assert rest.at("reading", 0.0, 0.0) == (0, None)
    half = rest.at("reading", 0.5, 1.0)
    assert half[1] == pytest.approx(2 * sum(SHARES.values()) / SHARES["reading"] - 1)
    assert rest.at("writing", 0.5, 2.0)[0] > 0.5
    assert rest.at("writing", 1.0, 3.0) == (1, 0)


def test_what_nobody_knows_takes_no_part() -> None:
    rest = Rest()
    rest.at("reading", 1.0, 0.0)
    before = rest.at("reading", 1.0, 1.0)
    assert rest.at("network", 0.0, 1.0) == rest.at("network", 1.0, 100.0) == before


def shown(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> str:
    text = io.StringIO()

    def console(**_: Any) -> Console:
        return Console(file=text, force_terminal=terminal, width=100)

    monkeypatch.setattr(bars, "Console", console)
    with bars.bars(quiet=False) as (_, progress):
        assert progress is not None
        for stage in ("reading", "writing"):
            progress(stage, 0.0)
            progress(stage, 1.0)
    return text.getvalue()


def test_all_of_a_registration_is_shown_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "registration" in shown(monkeypatch, terminal=True)
    without = shown(monkeypatch, terminal=False)
    assert "reading" in without
    assert "registration" not in without
    assert "left" not in without


def test_many_pairs_show_how_long_the_rest_takes() -> None:
    text, now = io.StringIO(), [0.0]
    with bars.bar(Console(file=text, force_terminal=True, width=100, get_time=lambda: now[0])) as bar:
        task = bar.add_task("pairs", total=5, completed=1)
        for _ in range(3):
            now[0] += 600
            bar.advance(task)
        assert bar.tasks[task].time_remaining == pytest.approx(600, abs=400)  # by all that are done, not the last 30 s
