"""How much memory there is for this process and those that it starts."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from ._cgroups import groups

_ROOT = Path("/")
_LIMITS = ("memory.max", "memory.high", "memory.limit_in_bytes")
_USES = ("memory.current", "memory.usage_in_bytes")
_CACHED = re.compile(r"^(?:total_)?inactive_file (\d+)$", re.MULTILINE)


def available(root: Path = _ROOT) -> int:
    """Bytes that processes started here may take together.

    What the system says is available (``MemAvailable`` of Linux's /proc/meminfo), all the memory there is where it does
    not say; or less, where the control group of this process or one around it may have no more: its limit without what
    it uses now, not counting what of files is in the cache and was not used lately, which makes room.

    Args:
        root: of the file system.
    """
    rooms = [room for group in groups("memory", root) if (room := _room(group)) is not None]
    with suppress(OSError):
        told = re.search(r"^MemAvailable: +(\d+) kB$", (root / "proc/meminfo").read_text(), re.MULTILINE)
        if told:
            rooms.append(1024 * int(told[1]))
    return min(rooms, default=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _room(group: Path) -> int | None:
    """Bytes that a control group may still take; None where it has no limit."""
    limits, uses = (
        [number for name in names if (number := _number(group / name)) is not None] for names in (_LIMITS, _USES)
    )
    if not (limits and uses):
        return None
    cached = 0
    with suppress(OSError):
        cached = max(map(int, _CACHED.findall((group / "memory.stat").read_text())), default=0)
    return max(0, min(limits) - max(0, uses[0] - cached))


def _number(file: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int(file.read_text())  # or "max", which is none
    return None
