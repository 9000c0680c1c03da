"""Kills of training, a few of those of ``python -m reliability.training``."""

from __future__ import annotations

import random
from pathlib import Path

from reliability.training import Pair, killed


def test_a_training_that_is_killed_and_resumed_keeps_its_bits(tmp_path: Path) -> None:
    found = killed(3, 1, tmp_path, ("unsupervised",), most=3)
    assert sum(count for what, count in found.items() if what.startswith("killed")) == 3
    assert found["resumed"] == 3
    assert found["differences"] == 0


def test_where_one_of_two_processes_is_killed_the_other_ends_in_one_sentence(tmp_path: Path) -> None:
    """And what they trained is resumed to the same bits."""
    two = Pair(tmp_path, random.Random(0))
    two.run()
    assert two.counts == {"one of two killed": 1, "others that ended in one sentence": 1, "differences": 0}
