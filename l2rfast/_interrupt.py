"""Ctrl-C ends the command line by one line and the exit code of shells, while PyTorch is imported too.

That takes seconds, before `l2rfast.cli` can say what an interrupt does. This module comes first in the package, and
imports nothing of it. Programs that import l2rfast keep what they do at an interrupt.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
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
    cleaned up; and SIGHUP, of a terminal that closes, but under nohup."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _raise)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _raise)


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
