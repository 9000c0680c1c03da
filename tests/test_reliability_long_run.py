"""Registrations in one process, a few of those of ``python -m reliability.long_run``."""

from __future__ import annotations

from pathlib import Path

from reliability.long_run import CALLS, COMMANDS, long_run, watched, write_heads

TURN = 4 * (*CALLS[:4], COMMANDS[1], *CALLS[5:])


def test_thirty_registrations_hold_no_more_and_keep_their_bits(tmp_path: Path) -> None:
    write_heads(tmp_path)
    seen = long_run(30, tmp_path, TURN)
    assert (seen.calls, seen.different) == (30, 0)
    assert (seen.more("threads"), seen.more("handles")) == (0, 0)


def test_what_grows_and_what_differs_is_seen(tmp_path: Path) -> None:
    opened, held = [], []

    def call(i: int) -> bytes:
        opened.append((tmp_path / str(i)).open("w"))
        held.append(bytearray(b"1" * 20_000_000))
        return bytes([i == 7])

    seen = watched("held", call, 10)
    assert seen.different == 1
    assert seen.more("handles") == 9
    assert seen.growth("allocated") > 2
    for file in opened:
        file.close()
