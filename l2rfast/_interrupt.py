"""Ctrl-C ends the command line by one line and the exit code of shells, while PyTorch is imported too.

That takes seconds, before `l2rfast.cli` can say what an interrupt does. This module comes first in the package, and
imports nothing of it. Programs that import l2rfast keep what they do at an interrupt.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SAID = "interrupted, nothing was written"


def said(error: KeyboardInterrupt) -> str:
    """What was interrupted: the first note that was added to it, or that nothing was written."""
    return str(getattr(error, "__notes__", [SAID])[0])


def exit_code(error: KeyboardInterrupt) -> int:
    """128 and the number of the signal, as shells have it."""
    return 128 + int(error.args[0] if error.args else signal.SIGINT)


def handle() -> None:
    """From here on Ctrl-C, and a batch system's SIGTERM too, raise `KeyboardInterrupt`, so that what was begun is
    cleaned up."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _raise)


@contextmanager
def later() -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM wait for the end.

    For what other libraries put into queues: a lock that is taken while the interrupt is raised may stay taken, and a
    thread that waits for it keeps the process from ending.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone is interrupted
        yield
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda n, _: came.append(n)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        if came:
            signal.raise_signal(came[0])


def _raise(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(number)


def _end(number: int, frame: FrameType | None) -> None:
    with suppress(OSError):
        os.write(2, f"l2rfast: {SAID}\n".encode())
    os._exit(128 + number)


def _is_command() -> bool:
    """Whether Python was started as the command, or by ``python -m l2rfast.cli``."""
    started = sys.argv[0] if sys.argv else ""
    return os.path.basename(started) == "l2rfast" or (started == "-m" and "l2rfast.cli" in sys.orig_argv)


if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _end)
