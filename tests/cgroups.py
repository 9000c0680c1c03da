"""Control groups as Linux tells of them, in a folder."""

from __future__ import annotations

from pathlib import Path

V2 = "30 23 0:26 {} {} rw,nosuid,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "33 32 0:30 {} {} rw,relatime shared:9 master:3 - cgroup cgroup rw,cpu,cpuacct"
OTHER = "32 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset\n22 1 0:5 / /proc rw - proc proc rw"


def system(root: Path, groups: str | None, mounts: str | None, files: dict[str, str]) -> Path:
    """A file system with what the kernel tells about control groups."""
    told = {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts, **files}
    for name, text in told.items():
        if text is not None:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(f"{text}\n")
    return root
