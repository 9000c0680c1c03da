"""The control groups of this process, by whose limits it may have only a part of the machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

# See Linux's manual pages cgroups(7) and proc_pid_mountinfo(5).
_GROUP = re.compile(r"^\d+:(.*?):(/.*)$", re.MULTILINE)  # controllers, of version 2 none, and path
_MOUNT = re.compile(r"^\S+ \S+ \S+ (/\S*) (/\S*) .*- (cgroup2?) \S+ (\S+)$", re.MULTILINE)  # root, place, type, options


def groups(controller: str, root: Path) -> Iterator[Path]:
    """The folders of the control groups that may limit this process: its own and all around them.

    Args:
        controller: of version 1 what is limited, ``"cpu"`` or ``"memory"``; version 2 has one tree for all.
        root: of the file system.
    """
    with suppress(OSError, ValueError):
        places = {
            "cgroup" if controllers else "cgroup2": PurePosixPath(path)
            for controllers, path in re.findall(_GROUP, (root / "proc/self/cgroup").read_text())
            if not controllers or controller in controllers.split(",")
        }
        for top, where, kind, options in re.findall(_MOUNT, (root / "proc/self/mountinfo").read_text()):
            if kind not in places or (kind == "cgroup" and controller not in options.split(",")):
                continue
            place, top = places[kind], _unescaped(top)
            # Where another part of the tree is mounted, all that is seen of the group is that.
            seen = place.is_relative_to(top) and ".." not in place.parts
            inner = place.relative_to(top) if seen else PurePosixPath()
            yield from (root / _unescaped(where)[1:] / part for part in (inner, *inner.parents))


def _unescaped(field: str) -> str:
    """As mountinfo has it: a space is \\040."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)
