"""One input: it is read, or refused in one sentence, and anything else is a failure."""

from __future__ import annotations

import gc
import os
import re
import traceback
import warnings
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from l2rfast.errors import InputError, InputWarning

from .targets import Target

READ, REFUSED = "read", "refused in a sentence"
TRACEBACK, WARNING, MEMORY, NOISE, SENTENCE = "tracebacks", "warnings", "memory", "noise", "no sentence"
HANG, CRASH = "hangs", "crashes"
FAILURES = (TRACEBACK, WARNING, MEMORY, NOISE, SENTENCE, HANG, CRASH)
LONGEST = 2000  # characters of a sentence
SLACK = 48 * 2**20  # bytes: modules that are imported, what the allocator keeps
TIMES = 32  # bytes that may be taken for each that a file holds: float64 of uint8, copies in other orders
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x1b]")


class Outcome(NamedTuple):
    """What came of an input: `READ`, `REFUSED` or one of `FAILURES`, and why."""

    kind: str
    why: str = ""

    @property
    def failed(self) -> bool:
        return self.kind in FAILURES


def attempt(target: Target, path: Path, noise: int | None = None) -> Outcome:
    """Read a file in this process.

    Args:
        target: by which it is read.
        path: of the file, or the folder.
        noise: the descriptor of a file to which the standard error of this process goes; None where nobody looks.
    """
    size = _bytes(path)
    before, start = _reset(), 0 if noise is None else os.lseek(noise, 0, os.SEEK_END)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            target.read(path)
            found = Outcome(READ)
        except InputError as error:
            text = str(error)
            good = text and len(text) <= LONGEST and not _CONTROL.search(text)
            found = Outcome(REFUSED, text) if good else Outcome(SENTENCE, repr(text[:300]) + f" ({len(text)})")
        except MemoryError as error:
            found = Outcome(MEMORY, _traced(error))
        except Exception as error:
            found = Outcome(TRACEBACK, _traced(error))
        gc.collect(0)
    others = [each for each in said if not issubclass(each.category, InputWarning | ResourceWarning)]
    if found.failed:
        return found
    if others:
        return Outcome(
            WARNING, f"{others[0].category.__name__}: {others[0].message} ({others[0].filename}:{others[0].lineno})"
        )
    taken = _peak() - before
    if taken > SLACK + TIMES * target.packed * size:
        return Outcome(MEMORY, f"{taken / 2**20:.0f} MiB for a file of {size} bytes: {found.kind} {found.why}")
    if noise is not None and (length := os.lseek(noise, 0, os.SEEK_END) - start):
        return Outcome(NOISE, os.pread(noise, min(length, 300), start).decode(errors="replace"))
    return found


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else path.parent.iterdir()
    return sum(file.stat().st_size for file in files if file.is_file())


def _traced(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "l2rfast" in frame.filename or "methods" in frame.filename]
    at = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(own[-3:]))
    return f"{type(error).__name__}: {str(error)[:200]} ({at}; {Path(frames[-1].filename).name}:{frames[-1].lineno})"


def _reset() -> int:
    """The memory that this process takes; the most that it took is that from here on."""
    with suppress(OSError):
        _CLEAR.write_text("5")
    return _number("VmRSS")


def _peak() -> int:
    return _number("VmHWM")


def _number(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    return 1024 * int(found[1]) if found else 0
