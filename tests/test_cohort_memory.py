"""Memory of a cohort: what is free, what a pair takes, how many workers fit, and sizes of images by their headers."""

from __future__ import annotations

import json
from pathlib import Path

import formats
import nibabel as nib
import numpy as np
import pytest
from cgroups import OTHER, V1, V2, system

from bench import memory as bench
from l2rfast import InputError
from l2rfast.methods.cohort import memory

AT, AT_V1, GB = "sys/fs/cgroup", "sys/fs/cgroup/memory", 10**9
TOLD = {"proc/meminfo": "MemTotal:       32000000 kB\nMemFree:         1000000 kB\nMemAvailable:   16000000 kB"}
ALL = 16_384_000_000

pytestmark = pytest.mark.usefixtures("same_locale")


def v2(folder: str, limit: str, used: int, cached: int = 0, limited: str = "max") -> dict[str, str]:
    stat = f"anon 7\nfile {cached}\ninactive_file {cached}\nactive_file 3"
    return {f"{folder}/memory.{limited}": limit, f"{folder}/memory.current": str(used), f"{folder}/memory.stat": stat}


def v1(folder: str, limit: int, used: int, cached: int = 0) -> dict[str, str]:
    stat = f"inactive_file {cached // 2}\ntotal_inactive_file {cached}"
    own = {"limit_in_bytes": limit, "usage_in_bytes": used, "stat": stat}
    return {f"{folder}/memory.{name}": str(value) for name, value in own.items()}


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, ALL),
        (v2(AT, "max", 5), ALL),
        (v2(AT, str(4 * GB), GB), 3 * GB),
        (v2(AT, str(4 * GB), 2 * GB, GB), 3 * GB),
        (v2(AT, str(4 * GB), 6 * GB), 0),
        (v2(AT, str(40 * GB), GB), ALL),
        (v2(AT, str(4 * GB), GB, limited="high"), 3 * GB),
        (v2(f"{AT}/a.slice/b.scope", str(4 * GB), GB) | v2(f"{AT}/a.slice", str(6 * GB), 5 * GB), GB),
        (v2(f"{AT}/a.slice/b.scope", "max", GB) | v2(f"{AT}/a.slice", str(6 * GB), 5 * GB), GB),
        (v2(f"{AT}/a.slice/other.scope", str(GB), 0), ALL),  # nothing around this process
        ({f"{AT}/memory.max": str(GB)}, ALL),  # it does not say what is used
        ({f"{AT}/memory.max": str(GB), f"{AT}/memory.current": "0"}, GB),
        ({f"{AT}/memory.max": "nonsense", f"{AT}/memory.current": "0"}, ALL),
    ],
)
def test_free_memory_within_groups_of_version_2(files: dict[str, str], free: int, tmp_path: Path) -> None:
    root = system(tmp_path, "0::/a.slice/b.scope", f"{OTHER}\n{V2.format('/', '/sys/fs/cgroup')}", TOLD | files)
    assert memory.available(root) == free


@pytest.mark.parametrize(
    ("files", "free"),
    [
        (v1(AT_V1, 2**63 - 4096, 9 * GB), ALL),  # none
        (v1(f"{AT_V1}/slurm/job_1", 8 * GB, 3 * GB, GB), 6 * GB),
        (v1(f"{AT_V1}/slurm/job_1", 8 * GB, GB) | v1(f"{AT_V1}/slurm", 9 * GB, 7 * GB), 2 * GB),
    ],
)
def test_free_memory_within_groups_of_version_1(files: dict[str, str], free: int, tmp_path: Path) -> None:
    mount = V1.format("/", "/sys/fs/cgroup/memory").replace("rw,cpu,cpuacct", "rw,memory")
    root = system(tmp_path, "4:memory:/slurm/job_1\n1:cpu,cpuacct:/elsewhere", f"{OTHER}\n{mount}", TOLD | files)
    assert memory.available(root) == free


def test_all_memory_is_free_where_the_system_does_not_tell(tmp_path: Path) -> None:
    assert memory.available(tmp_path) > GB


@pytest.mark.parametrize(
    ("asked", "free", "expected"),
    [
        (None, 100 * GB, (4, "")),
        (3, 100 * GB, (3, "")),
        (16, 100 * GB, (16, "")),
        (2, 2 * GB, (1, "1, not 2: a pair may take 1.5 GB of memory, 2 GB are free")),
        (None, 5 * GB, (3, "3, not 4: a pair may take 1.5 GB of memory, 5 GB are free")),
        (None, GB, (1, "a pair may take 1.5 GB of memory, more than the 1 GB that are free")),
        (1, GB, (1, "a pair may take 1.5 GB of memory, more than the 1 GB that are free")),
        (1, 0, (1, "a pair may take 1.5 GB of memory, more than the 0 GB that are free")),
    ],
)
def test_as_many_workers_as_fit(asked: int | None, free: int, expected: tuple[int, str]) -> None:
    assert memory.workers(asked, 3 * GB // 2, free, 4) == expected


def test_there_is_a_worker_at_least() -> None:
    with pytest.raises(InputError, match="workers: expected an integer >= 1, got 0"):
        memory.workers(0, GB, GB, 4)


@pytest.mark.parametrize(
    ("text", "bytes"),
    [
        ("4GB", 4 * GB),
        ("512MB", 512 * 10**6),
        (" 1.5 GiB ", 3 * 2**29),
        ("2e9", 2 * GB),
        ("0.5kb", 500),
        ("1TiB", 2**40),
        ("17", 17),
        ("17B", 17),
    ],
)
def test_sizes_are_read(text: str, bytes: int) -> None:
    assert memory.parsed(text) == bytes


@pytest.mark.parametrize("text", ["", "GB", "4 G", "-4GB", "4GB8", "0", "0.1B", "1e999", "nan", "inf", "4XB", "4iB B"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="memory: expected a size like 4GB"):
        memory.parsed(text)


def test_shapes_are_known_without_the_voxels(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((9, 8, 7, 1), np.int16), np.eye(4)), tmp_path / "a.nii")
    for suffix in (".mha", ".nrrd"):
        formats.sitk.WriteImage(formats.itk_image(formats.values()), str(tmp_path / f"a{suffix}"))
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:-300])
    assert memory.shape(tmp_path / "a.nii") == (9, 8, 7, 1)
    assert memory.shape(str(tmp_path / "a.mha")) == memory.shape(tmp_path / "a.nrrd") == (9, 8, 7)
    formats.sitk.WriteImage(formats.sitk.GetImageFromArray(np.zeros((5, 6), np.uint8)), str(tmp_path / "a.png"))
    assert memory.shape(tmp_path / "a.png") == (6, 5)


def test_the_shape_of_slices_in_a_folder(tmp_path: Path) -> None:
    folder = formats.series(tmp_path / "series", formats.values())
    (folder / ".hidden").write_text("")
    assert memory.shape(folder) == (9, 8, 7)
    (folder / "a.txt").write_text("no slice, but it may be one")
    assert memory.shape(folder) == (9, 8, 8)


def test_what_is_no_image_has_no_shape(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_text("no image")
    (tmp_path / "empty").mkdir()
    for name in ("a.nii.gz", "missing.mha", "missing", "empty", "long" * 2000):
        assert memory.shape(tmp_path / name) is None


def test_no_less_is_predicted_than_was_measured_and_not_much_more() -> None:
    record = bench.Record(**json.loads((bench.ROOT / "bench" / "reports" / "memory.json").read_text()))
    known = record.known()
    assert [case for case, _ in known] == bench.CASES
    assert [case.name for case, peak in known if not case.good(peak)] == []
    large = bench.cube(128)
    predicted = large.predicted()
    assert not large.good(predicted + 1)
    assert not large.good(int(predicted / bench.MOST) - 1)


def test_what_may_be_asked_for_counts() -> None:
    def of(**options: str) -> int:
        given = {name.replace("_", "-"): tuple(value.split()) for name, value in options.items()}
        found = memory.predicted((128, 128, 128), (128, 128, 128), given)
        assert found is not None
        return found

    assert of(metric="auto") == of() == max(of(metric="lncc"), of(metric="mind"))
    assert of(metric="lncc ssd") == of(metric="ssd") > of()
    assert of(fixed="a b") > of(fixed="a") == of()
    assert of(fixed_mask="a") > of()
    assert of(grid_spacing="2") > of()
    assert of(search_radius="9") > of(search_radius="wide") == of()
    assert memory.predicted((64, 64), (64, 64), {"method": ("unsupervised",)}) is None


def test_what_was_measured_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def taken(case: bench.Case, folder: Path) -> int:
        seen.append(case.name)
        return 10**9 if case.fixed == bench.SMALL else case.predicted()

    monkeypatch.setattr(bench.Case, "taken", taken)
    monkeypatch.setattr(bench, "CASES", [bench.cube(32), bench.Case(bench.SMALL, bench.LARGE, {"jacobian": ""})])
    for _ in range(2):
        assert bench.main(["--out", str(tmp_path)]) == 1
    assert seen == ["32 x 32 x 32", "160 x 192 x 224 to 64 x 64 x 64, --jacobian"]
    page = (tmp_path / "memory.md").read_text()
    assert "| 160 x 192 x 224 to 64 x 64 x 64, --jacobian | 1000 |" in page
    assert page.count("**not met**") == 1


def test_a_process_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line of a case, and the files that it names."""

    def run(command: list[str], **more: object) -> None:
        assert command[1:4] == ["-m", "l2rfast.cli", "register"]
        assert command.count("--fixed") == command.count("--moving") == 2
        assert "--jacobian" in command
        for name, values in given.items():
            for value in values:
                assert command[command.index(value) - 1] == f"--{name}"
                assert memory.shape(value) == (20, 18, 16)
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "report.json").write_text('{"peak_memory_mb": 512.5}')

    monkeypatch.setattr(bench.subprocess, "run", run)
    case = bench.Case((20, 18, 16), (20, 18, 16), {"jacobian": ""}, contrasts=2, besides=("mask",))
    given = case.given(tmp_path)
    assert set(given) == {"fixed", "moving", "fixed-mask", "moving-mask", "jacobian"}
    assert case.taken(tmp_path) == 512_500_000
