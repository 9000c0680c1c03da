"""How many threads compute where nobody says it: quotas of control groups, affinity, and what users say."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cgroups import OTHER, V1, V2, system
from typer.testing import CliRunner

import l2rfast
from l2rfast import InputError, _threads, cli
from l2rfast.methods import evaluation, registration
from l2rfast.methods.training import trainer
from l2rfast.methods.training.cases import find_pairs
from l2rfast.methods.training.options import TrainerOptions
from l2rfast.methods.training.run import Description

AT, AT_V1 = "sys/fs/cgroup", "sys/fs/cgroup/cpu,cpuacct"


def v1(folder: str, quota: str, period: str = "100000") -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": period}


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({f"{AT}/cpu.max": "200000 100000"}, 2),  # a container, which sees itself as the root
        ({f"{AT}/cpu.max": "150000 100000"}, 2),
        ({f"{AT}/cpu.max": "1000 100000"}, 1),
        ({f"{AT}/cpu.max": "300000 50000"}, 6),
        ({f"{AT}/a.slice/b.scope/cpu.max": "400000 100000"}, 4),
        ({f"{AT}/a.slice/cpu.max": "300000 100000", f"{AT}/a.slice/b.scope/cpu.max": "max 100000"}, 3),
        ({f"{AT}/a.slice/cpu.max": "300000 100000", f"{AT}/a.slice/b.scope/cpu.max": "700000 100000"}, 3),
        ({f"{AT}/a.slice/cpu.max": "max 100000", f"{AT}/a.slice/b.scope/cpu.max": "max 100000"}, None),
        ({f"{AT}/a.slice/other.scope/cpu.max": "100000 100000"}, None),  # nothing around this process
        ({f"{AT}/cpu.weight": "100"}, None),
        ({f"{AT}/cpu.max": ""}, None),
        ({f"{AT}/cpu.max": "many few"}, None),
        ({f"{AT}/cpu.max": "100000"}, None),
        ({f"{AT}/cpu.max": "100000 0"}, None),
        ({f"{AT}/cpu.max": "nonsense", f"{AT}/a.slice/cpu.max": "100000 100000"}, 1),
    ],
)
def test_a_quota_of_version_2(files: dict[str, str], cores: int | None, tmp_path: Path) -> None:
    root = system(tmp_path, "0::/a.slice/b.scope", f"{OTHER}\n{V2.format('/', '/sys/fs/cgroup')}", files)
    assert _threads.cpu_quota(root) == cores


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        (v1(AT_V1, "250000"), 3),
        (v1(f"{AT_V1}/slurm/job_1", "50000"), 1),
        (v1(f"{AT_V1}/slurm/job_1", "800000", "200000") | v1(f"{AT_V1}/slurm", "300000"), 3),
        (v1(AT_V1, "-1"), None),
        (v1(AT_V1, "-1") | v1(f"{AT_V1}/slurm", "200000"), 2),
        (v1(AT_V1, "100000", "0"), None),
        ({f"{AT_V1}/cpu.cfs_quota_us": "100000"}, None),
        (v1("sys/fs/cgroup/cpuset/slurm/job_1", "100000"), None),  # no place of such files
        ({}, None),
    ],
)
def test_a_quota_of_version_1(files: dict[str, str], cores: int | None, tmp_path: Path) -> None:
    groups = "9:name=systemd:/\n4:cpuset:/elsewhere\n1:cpu,cpuacct:/slurm/job_1\n0::/"
    mounts = f"{OTHER}\n{V1.format('/', '/sys/fs/cgroup/cpu,cpuacct')}\n{V2.format('/', '/sys/fs/cgroup/unified')}"
    assert _threads.cpu_quota(system(tmp_path, groups, mounts, files)) == cores


@pytest.mark.parametrize(
    ("group", "top"),
    [
        ("/docker/abc", "/docker/abc"),  # a container that is told the host's paths
        ("/docker/abc", "/kubepods"),
        ("/../abc", "/"),  # moved into the container from outside
    ],
)
def test_a_quota_of_what_a_container_has_mounted(group: str, top: str, tmp_path: Path) -> None:
    mounts = V2.format(top, "/my\\040groups")
    files = {"my groups/cpu.max": "200000 100000", "abc/cpu.max": "100000 100000"}
    assert _threads.cpu_quota(system(tmp_path, f"0::{group}", mounts, files)) == 2


@pytest.mark.parametrize(
    ("groups", "mounts"),
    [
        (None, None),  # no Linux
        ("0::/", None),
        (None, V2.format("/", "/sys/fs/cgroup")),
        ("nonsense\n::\n0:", V2.format("/", "/sys/fs/cgroup")),
        ("0::/", "nonsense\n- cgroup2\n30 23 0:26 / - cgroup2"),
    ],
)
def test_no_quota_where_nothing_tells_of_one(groups: str | None, mounts: str | None, tmp_path: Path) -> None:
    root = system(tmp_path, groups, mounts, {f"{AT}/cpu.max": "100000 100000"})
    assert _threads.cpu_quota(root) is None


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine of eight cores, all of which PyTorch takes, in a container with the time of two."""
    before = torch.get_num_threads()
    for name in _threads.SAYING:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr(_threads, "cpu_quota", lambda root: 2)
    torch.set_num_threads(8)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("eight")
def test_the_default_follows_the_quota_and_what_a_user_says_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _threads.by_default() == 2
    for number in (1, 3, 7):  # nothing that PyTorch comes to on such a machine
        torch.set_num_threads(number)
        assert _threads.by_default() == number
    torch.set_num_threads(8)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert _threads.by_default() == 8
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(_threads, "cpu_quota", lambda root: 12)  # more than there are
    assert _threads.by_default() == 8
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 4, 6})  # since PyTorch was loaded
    assert _threads.by_default() == 3


@pytest.mark.usefixtures("eight")
def test_pytorch_built_with_mkl_takes_cores_not_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(4)
    monkeypatch.setattr(Path, "exists", lambda path: True)
    monkeypatch.setattr(Path, "read_text", lambda path: "0-1" if path.parts[-3] in ("cpu0", "cpu1") else path.parts[-3])
    assert _threads._cores(range(5)) == 4
    monkeypatch.setattr(_threads, "_cores", lambda processors: 4)
    assert _threads.by_default() == 2


@pytest.mark.usefixtures("eight")
def test_registration_and_training_compute_with_the_default(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def see(*arguments: Any, **more: Any) -> Any:
        seen.append(torch.get_num_threads())
        raise InputError("that is all")

    monkeypatch.setattr(registration, "choose", see)
    monkeypatch.setattr(evaluation, "_of_pair", see)
    monkeypatch.setattr(trainer, "_Trainer", lambda *run: SimpleNamespace(run=see))
    place, pairs, nothing = torch.device("cpu"), find_pairs(scans).evaluated[:1], Description({})
    method: Any = None
    task: Any = torch.nn.Identity()
    for run in (
        lambda: l2rfast.register("fixed.nii", "moving.nii"),
        lambda: l2rfast.register("fixed.nii", "moving.nii", threads=7),
        lambda: evaluation.evaluate(method, pairs, place),
        lambda: trainer.train(task, "", TrainerOptions(), described=nothing, device=place),
    ):
        with pytest.raises(InputError, match="that is all"):
            run()
    assert seen == [2, 7, 2, 2]
    assert torch.get_num_threads() == 8


@pytest.mark.usefixtures("eight")
def test_info_says_what_the_number_of_threads_is_due_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def said() -> list[str]:
        return [line for line in CliRunner().invoke(cli.app, ["info"]).stdout.splitlines() if "thread" in line]

    assert said() == ["2 threads: the CPU quota of the container, of 8 cores"]
    here = "8 threads, but 2 in registration and training: the CPU quota of the container, of 8 cores"
    assert here in str(l2rfast.info()).splitlines()  # which takes nothing of a program's own threads
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert said() == ["8 threads"]
    torch.set_num_threads(2)
    assert said() == ["2 threads"]
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(_threads, "cpu_quota", lambda root: None)
    torch.set_num_threads(1)
    assert said() == ["1 thread"]
    torch.set_num_threads(8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {5})
    assert said() == ["1 thread: the CPU affinity of the process, of 8 cores"]


@pytest.mark.parametrize(("running", "free"), [("1", 4), ("2", 3), ("4", 1), ("40", 1), ("0", 4), (None, 4), ("x", 4)])
def test_threads_that_find_a_core(
    running: str | None, free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {} if running is None else {"proc/stat": f"cpu 1 2 3\nprocs_running {running}\nprocs_blocked 0"}
    monkeypatch.setattr(_threads, "_count", lambda: 4)
    torch.set_num_threads(4)
    assert _threads.free(system(tmp_path, None, None, files)) == free
    torch.set_num_threads(2)  # no more than compute here
    assert _threads.free(tmp_path) == min(free, 2)
