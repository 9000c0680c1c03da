"""Calls of operators in a process that is watched: ``samples`` of the tests, or as many random ones, and their seed."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def samples() -> int:
    """Forward and backward, by the C++ kernels, all small samples of the tests; returns how many."""
    from evaluation import evaluate
    from operators import OPERATIONS

    done = 0
    for operation in (o for o in OPERATIONS if "cpp" in o.backends):
        for sample in operation.samples:
            inputs = {name: tensor.float() for name, tensor in sample.inputs.items()}
            evaluate(operation, inputs, sample.options, backend="cpp")
            done += 1
    return done


def main(argv: Sequence[str]) -> int:
    if argv == ["samples"]:
        print(samples())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
