"""A process in which one system call fails, or is the last one: see ``shim.c``."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

SECONDS = 120  # after which a process hangs


class Fault(IntEnum):
    """What happens at a call: nothing, an error of it, the end of the process, or half of what was to be written."""

    NONE = 0
    ENOSPC = 1  # and the disk stays full
    EIO = 2
    EINTR = 3
    KILL = 4
    SHORT = 5


def available() -> bool:
    """Whether this machine can do it."""
    return sys.platform == "linux" and platform.machine() == "x86_64" and shutil.which("gcc") is not None


def built(folder: Path) -> ctypes.CDLL:
    """The library, compiled to a folder."""
    library = folder / "shim.so"
    source = Path(__file__).with_name("shim.c")
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", library, source], check=True, timeout=SECONDS)
    return ctypes.CDLL(str(library))


@dataclass(frozen=True)
class Call:
    """One that changes files: its name, the path, of a rename the new one, and ``"failed"`` where it did."""

    name: str
    path: str
    to: str
    failed: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a process ended.

    Attributes:
        code: its exit code; below 0 the signal that killed it.
        said: on the standard error.
        calls: that changed files below the folder, in their order.
    """

    code: int
    said: str
    calls: list[Call]


class Shim:
    """Runs functions in processes that are forked from this one.

    Args:
        scratch: a folder of its own.
    """

    def __init__(self, scratch: Path) -> None:
        self._library, self._said, self._log = built(scratch), scratch / "said", scratch / "log"

    def both(self, functions: Sequence[Callable[[], None]], below: Path) -> list[Outcome]:
        """Call functions in a process each, at the same time."""
        ready, go = os.pipe()
        begun = []
        for number, function in enumerate(functions):
            files = [file.with_name(f"{file.name}-{number}") for file in (self._said, self._log)]
            said, log = (os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600) for file in files)
            process = os.fork()
            if process == 0:
                os.close(go)

                def together(function: Callable[[], None] = function) -> None:
                    os.read(ready, 1)  # until the other end is closed
                    function()

                self._inside(together, below, 0, Fault.NONE, said, log)
            begun.append((process, said, log, *files))
        os.close(go)
        outcomes = []
        for process, said, log, *files in begun:
            _, status = os.waitpid(process, 0)
            outcomes.append(self._outcome(status, *files))
            os.close(said)
            os.close(log)
        os.close(ready)
        return outcomes

    def run(self, function: Callable[[], None], below: Path, at: int = 0, fault: Fault = Fault.NONE) -> Outcome:
        """Call a function, which may end by `SystemExit`, with a fault at one of its calls.

        Args:
            below: the folder whose files count.
            at: the number of the call, from 1; 0: none.
        """
        said, log = (os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600) for file in (self._said, self._log))
        process = os.fork()
        if process == 0:
            self._inside(function, below, at, fault, said, log)
        _, status = os.waitpid(process, 0)
        os.close(said)
        os.close(log)
        return self._outcome(status, self._said, self._log)

    @staticmethod
    def _outcome(status: int, said: Path, log: Path) -> Outcome:
        lines = log.read_bytes().decode(errors="surrogateescape").splitlines()
        calls = [Call(*line.split("\t")) for line in lines]
        return Outcome(os.waitstatus_to_exitcode(status), said.read_text(errors="replace"), calls)

    def _inside(self, function: Callable[[], None], below: Path, at: int, fault: Fault, said: int, log: int) -> None:
        code = 1
        try:
            import signal

            signal.alarm(SECONDS)
            os.dup2(said, 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            if error := self._library.power_arm(os.fsencode(below), at, fault, log):
                raise OSError(error, os.strerror(error))
            function()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(OSError):
                sys.stderr.flush()
            os._exit(code)
