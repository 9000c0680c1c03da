"""Calls in a process that is watched: ``samples`` of the tests, so many random ones and their seed, or a ``trap``."""

from __future__ import annotations

import ctypes
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import l2rfast
from reliability.operators.cases import BY_NAME, call, calls, leaves


def of_samples() -> int:
    """Forward and backward, all small samples of the tests; returns how many."""
    done = 0
    for name, operation in BY_NAME.items():
        for sample in operation.samples:
            inputs = {name: tensor.float() for name, tensor in sample.inputs.items()}
            call(name, **leaves(operation, inputs), **sample.options)
            done += 1
    return done


def at_random(count: int, seed: int) -> int:
    """Good and bad calls; returns how many ended in what is no refusal, which is printed."""
    wrong, told = 0, time.monotonic()
    for index, (name, args, kwargs) in enumerate(calls(seed, count)):
        try:
            call(name, *args, **kwargs)
        except Exception:
            wrong += 1
            print(f"call {index} of seed {seed}, {name}:", file=sys.stderr)
            traceback.print_exc()
        if time.monotonic() > told + 60:
            told = time.monotonic()
            print(f"{index} of {count} calls", flush=True)
    return wrong


def trap() -> None:
    """Faults on purpose, in the library that this process has."""
    library = Path(l2rfast.__file__).with_name(f"_cpp_{l2rfast.info().instruction_set}.so")
    ctypes.CDLL(str(library)).l2rfast_trap(8)


def main(argv: Sequence[str]) -> int:
    if argv == ["samples"]:
        print(of_samples())
        return 0
    if argv == ["trap"]:
        trap()
        return 0
    return int(at_random(*map(int, argv)) > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
