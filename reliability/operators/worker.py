"""Checks cases in a process of its own, which a case may end or keep for ever."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from contextlib import AbstractContextManager, suppress
from typing import Any

import psutil

from .cases import Case

# Seconds of its processor for a case, ten times that for one that is compiled, or interpreted; where other work has the
# processor it may last so many times longer.
LONGEST, BUSY = 30.0, 10
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "best": {},
    "default": {"ATEN_CPU_CAPABILITY": "default"},
    "triton": {"TRITON_INTERPRET": "1"},
    "cuda": {},
}
COMMAND = (sys.executable, "-W", "ignore", "-m", "reliability.operators", "--worker")
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Worker(AbstractContextManager["Worker"]):
    """A process that has the backends of an environment: those of this machine and its best instruction set, the C++
    kernels for any machine, Triton's kernels interpreted, or the CUDA kernels on the host.
    """

    def __init__(self, environment: str) -> None:
        self.environment = environment
        self._process: subprocess.Popen[str] | None = None

    def check(self, case: Case) -> tuple[str, list[str]]:
        """See `checks.check`; a case that ends the process or lasts too long is a fault."""
        if self._process is None:
            self._process = self._started()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # its last case ended it after the answer, which no line of output says
            print(repr(case), file=self._process.stdin, flush=True)
        slow = case.way in ("aot_eager", "inductor") or self.environment == "triton"
        seconds = 10 * LONGEST if slow else LONGEST
        if not self._answered(self._process, seconds):
            self._stop()
            return "hung", [f"no end within {seconds:.0f} s"]
        answer = self._process.stdout.readline()
        if not answer:
            code = self._process.wait()
            self._stop()
            return "crashed", [f"the process ended with {code}"]
        outcome, faults = json.loads(answer)
        return outcome, faults

    @staticmethod
    def _answered(process: subprocess.Popen[str], seconds: float) -> bool:
        """Whether there is an answer, or an end, in that time of the process's own, or in `BUSY` times of any."""
        spent, start = _processor_time(process.pid), time.monotonic()
        while not select.select([process.stdout], [], [], min(seconds, 1.0))[0]:
            if _processor_time(process.pid) - spent > seconds or time.monotonic() - start > BUSY * seconds:
                return False
        return True

    def _started(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COMMAND, self.environment],
            env=os.environ | ENVIRONMENTS[self.environment] | {"OMP_NUM_THREADS": "1"},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def __exit__(self, *_: Any) -> None:
        self._stop()


def _processor_time(process: int) -> float:
    """Seconds that it has had, itself and for the system; none of one that has just ended."""
    try:
        times = psutil.Process(process).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def serve(environment: str) -> None:
    """Answer the cases of standard input, a line for a line."""
    import logging

    import native
    import torch

    from l2rfast import _dispatch

    from .checks import check

    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    native.poison_memory()
    if environment == "cuda":
        native.load_cuda_on_host()
        _dispatch._NATIVE["cuda"] = "CPU"
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(check(read(line))), flush=True)


def read(text: str) -> Case:
    """A case as Python writes it."""
    case = eval(text, {"Case": Case, "nan": float("nan"), "inf": float("inf")})
    assert isinstance(case, Case)
    return case
