"""What users are given: the source distribution, the wheels built from it, and what these do where they are installed.

All are built in the sources as they are distributed. Those get the objects that the build of this folder left, which
are taken only where the compiler's command and every file that it read are the same.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import build as bench_build
from bench.build import build_script

ROOT = Path(__file__).parent.parent
PACKAGES = {"l2rfast": "l2rfast", "kernels": "l2rfast/kernels", "methods": "l2rfast/methods"}
LIBRARIES = {f"l2rfast/_cpp_{name}.so" for name in build_script().INSTRUCTION_SETS}
NO_CUDA = "l2rfast: no CUDA kernels were built"
NO_KERNELS = "l2rfast: no C++ kernels were built"


def packaged(pattern: str) -> dict[str, Path]:
    """Files of the packages by their names in a wheel. Examples are scripts, of no package."""
    found = [(name, path) for name in PACKAGES for path in ROOT.glob(f"{name}/{pattern}")]
    return {
        f"{PACKAGES[name]}/{path.relative_to(ROOT / name)}": path
        for name, path in found
        if path.parent.name != "examples"
    }


INSTALLED = packaged("**/*.py") | packaged("*/*.json") | packaged("*.tsv") | packaged("py.typed")
INSTALLED |= packaged("unsupervised/learned.*") | packaged("weakly_supervised/prostates.*")
for suffix in ("html", "css", "js", "txt", "gz"):
    INSTALLED |= packaged(f"viewer/*.{suffix}")
SOURCES = packaged("*/*.cpp") | packaged("*/*.h") | packaged("*/*.cu") | packaged("*/*.cuh")


@pytest.fixture(scope="module")
def distributed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, unpacked."""
    folder = tmp_path_factory.mktemp("distributed")
    commands = ["egg_info", f"--egg-base={folder}", "sdist", f"--dist-dir={folder}"]
    subprocess.run([sys.executable, "setup.py", "-q", *commands], cwd=ROOT, check=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def sources(distributed: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes copies of the distributed sources, with the objects of this folder."""

    objects = ROOT / "build" / "objects"
    if not objects.exists():
        pytest.skip("nothing was built in this folder")

    def taken(source: str, target: str) -> None:
        """A copy; of precompiled headers, which are large and never written to in place, another name."""
        (os.link if source.endswith(".gch") else shutil.copy2)(source, target)

    def make() -> Path:
        folder = tmp_path_factory.mktemp("sources") / "l2rfast"
        shutil.copytree(distributed, folder)
        shutil.copytree(objects, folder / "build" / "objects", copy_function=taken)
        return folder

    return make


def run(*command: str | Path, folder: Path, **environment: str) -> str:
    """What a command prints."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def build(folder: Path, **environment: str) -> tuple[Path, str]:
    """The wheel, and what was printed."""
    options = ["--verbose", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir=wheels"]
    log = run(sys.executable, "-m", "pip", "wheel", *options, ".", folder=folder, **environment)
    (wheel,) = folder.glob("wheels/*.whl")
    return wheel, log


def check(wheel: Path, backend: str, folder: Path) -> str:
    """Installs a wheel, and nothing but it, in a folder; has it checked; gives what that printed."""
    options = ["--quiet", "--no-deps", "--no-index", "--target=site"]
    run(sys.executable, "-m", "pip", "install", *options, wheel, folder=folder)
    script = ROOT / "tests" / "installed.py"
    printed = run(sys.executable, "-P", script, backend, folder=folder, PYTHONPATH=str(folder / "site"))
    assert str(folder / "site" / "l2rfast") in printed  # not the one of this folder
    return printed


def names(wheel: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def metadata(wheel: Path, file: str = "WHEEL") -> str:
    (name,) = (name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(f".dist-info/{file}"))
    return zipfile.ZipFile(wheel).read(name).decode()


def compiled(log: str) -> list[str]:
    return re.findall(r"-c (kernels/\w+/\w+\.cpp)", log)


@pytest.fixture(scope="module")
def cpu_wheel(sources: Callable[..., Path]) -> tuple[Path, str]:
    """A wheel with CUDA kernels asked for, where there is no nvcc."""
    path = [folder for folder in os.environ["PATH"].split(os.pathsep) if not Path(folder, "nvcc").exists()]
    return build(sources(), L2RFAST_CUDA="1", PATH=os.pathsep.join(path), CUDA_HOME="/nowhere")


@pytest.fixture(scope="module")
def pure_wheel(distributed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A wheel where there is no compiler."""
    folder = tmp_path_factory.mktemp("pure") / "l2rfast"
    shutil.copytree(distributed, folder)
    return build(folder, PATH=str(folder.parent))


def test_the_source_distribution_has_all_sources(distributed: Path) -> None:
    papers = ("README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "SECURITY.md", "setup.py")
    expected = [*INSTALLED.values(), *SOURCES.values(), *(ROOT / name for name in papers)]
    for path in expected:
        assert (distributed / path.relative_to(ROOT)).read_bytes() == path.read_bytes()
    # Besides these only what the build itself needs.
    has = {str(path.relative_to(distributed)) for path in distributed.rglob("*") if path.is_file()}
    others = has - {str(path.relative_to(ROOT)) for path in expected}
    assert others == {"MANIFEST.in", "PKG-INFO", "pyproject.toml", "setup.cfg"}


def test_what_says_the_version_agrees() -> None:
    (version,) = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_a_wheel_of_sources_that_were_compiled_before_is_only_linked(cpu_wheel: tuple[Path, str]) -> None:
    assert compiled(cpu_wheel[1]) == []


def test_only_what_changed_is_compiled(sources: Callable[..., Path]) -> None:
    folder = sources()
    os.utime(folder / "kernels" / "symmetric_filter" / "cpu.cpp")
    log = run(sys.executable, "setup.py", "build_ext", folder=folder, L2RFAST_CUDA="0")
    assert compiled(log) == ["kernels/symmetric_filter/cpu.cpp"] * len(LIBRARIES)


def test_a_wheel_has_the_packages_and_a_library_per_instruction_set(cpu_wheel: tuple[Path, str]) -> None:
    assert names(cpu_wheel[0]) == INSTALLED.keys() | LIBRARIES


def test_cuda_kernels_that_cannot_be_built_are_said_to_be_missing(cpu_wheel: tuple[Path, str]) -> None:
    assert cpu_wheel[1].count(NO_CUDA) == 1
    assert NO_KERNELS not in cpu_wheel[1]


@pytest.mark.skipif(sys.platform != "linux", reason="no Linux")
def test_a_wheel_is_for_the_linux_that_its_libraries_need(cpu_wheel: tuple[Path, str]) -> None:
    wheel, _ = cpu_wheel
    found = re.fullmatch(r"l2rfast-[\d.]+-(py3-none-manylinux_2_(\d+)_\w+)\.whl", wheel.name)
    assert found
    assert metadata(wheel).count("Tag:") == metadata(wheel).count(f"Tag: {found[1]}\n") == 1
    assert "Root-Is-Purelib: false" in metadata(wheel)
    needed = []
    for name in LIBRARIES:
        library = zipfile.ZipFile(wheel).extract(name, wheel.parent)
        headers = run("objdump", "-p", library, folder=wheel.parent)
        needed += [int(minor) for minor in re.findall(r"GLIBC_2\.(\d+)", headers)]
    assert 2 < max(needed) <= int(found[2])


def test_an_installed_wheel_computes(cpu_wheel: tuple[Path, str], tmp_path: Path) -> None:
    assert "Warning" not in check(cpu_wheel[0], "cpp", tmp_path)


def test_without_a_compiler_a_wheel_is_pure_python(pure_wheel: tuple[Path, str]) -> None:
    wheel, log = pure_wheel
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "Tag: py3-none-any\n" in metadata(wheel)
    assert "Root-Is-Purelib: true" in metadata(wheel)
    assert names(wheel) == INSTALLED.keys()
    assert log.count(NO_KERNELS) == 1


def test_a_wheel_has_the_licence(pure_wheel: tuple[Path, str]) -> None:
    assert metadata(pure_wheel[0], "licenses/LICENSE") == (ROOT / "LICENSE").read_text()
    assert "\nLicense-Expression: Apache-2.0\n" in metadata(pure_wheel[0], "METADATA")


def test_pure_python_computes_and_says_once_that_it_is_slow(pure_wheel: tuple[Path, str], tmp_path: Path) -> None:
    assert check(pure_wheel[0], "reference", tmp_path).count("Warning") == 1


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_with_nvcc_a_wheel_has_the_cuda_kernels(sources: Callable[..., Path]) -> None:
    """Of one operation: that all compile, and how, is seen in test_aot.py."""
    folder = sources()
    for path in folder.glob("kernels/*/cuda.cu"):
        if path.parent.name != "correlation":
            path.unlink()
    wheel, log = build(folder, L2RFAST_CUDA="1")
    assert names(wheel) == INSTALLED.keys() | LIBRARIES | {"l2rfast/_cuda.so"}
    assert NO_CUDA not in log
    assert "manylinux" in wheel.name


@pytest.mark.parametrize("asked", ["yes", "2"])
def test_what_is_asked_of_cuda_is_yes_or_no_in_figures(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("L2RFAST_CUDA", asked)
    with pytest.raises(SystemExit, match=f"L2RFAST_CUDA: expected 1 or 0, got '{asked}'"):
        build_script().extensions()


def test_without_nvcc_what_is_missing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CUDA_HOME", "/nowhere")
    with pytest.raises(SystemExit, match="1"):
        bench_build.main(["--out", str(tmp_path / "_cuda.so")])
    assert "there is no /nowhere/bin/nvcc" in capsys.readouterr().err
