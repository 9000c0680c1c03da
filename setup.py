"""Builds the C++ kernels: one shared library per instruction set, chosen when it is loaded. And the CUDA kernels.

The sources use PyTorch's stable ABI and no Python ABI, so one wheel serves every Python 3 and
several PyTorch versions. Without PyTorch's headers or a C++ compiler the package still installs,
with the slower reference backend, and says so in one line.

NiiVue, the viewer of reports, comes by npm; without npm or a network they have none, and one line says so.

CUDA kernels are built where PyTorch is a CUDA build and nvcc is found; $L2RFAST_CUDA says otherwise, 1 or 0.
"""

import gzip
import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist
from setuptools.errors import CompileError, ExecError
from setuptools.modified import newer_group

ROOT = Path(__file__).parent
OBJECTS = Path("build", "objects")
X86 = platform.machine() in ("x86_64", "AMD64")
# The names are those of torch.backends.cpu.get_cpu_capability(), by which l2rfast._native chooses.
INSTRUCTION_SETS = {"default": []} | (
    {"avx2": ["-march=x86-64-v3"], "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"]} if X86 else {}
)
FLAGS = [
    "-std=c++20",
    "-O3",
    "-g0",  # Python's own flags would add debug information, most of the size of a wheel
    "-fvisibility=hidden",
    "-Wno-psabi",  # vectors wider than the registers are never passed between functions that are not inlined
    # Vector code may not be hindered by traps or errno; NaN, infinity and rounding stay IEEE.
    "-fno-math-errno",
    "-fno-trapping-math",
    "-DTORCH_TARGET_VERSION=0x020b000000000000",
]
CUDA = "l2rfast._cuda"
CUDA_FLAGS = [
    "-std=c++20",
    "-O3",
    "--expt-relaxed-constexpr",  # constants from std:: in device code
    "-Xcompiler=-fPIC,-fvisibility=hidden",
    "-DUSE_CUDA",
    "-DTORCH_TARGET_VERSION=0x020b000000000000",
]

NO_KERNELS = (
    "l2rfast: no C++ kernels were built, the slower reference backend will run; for the fast one install "
    "g++ 12 or newer and torch, then: pip install --force-reinstall --no-deps ."
)


# The viewer in reports: one file of a package, which works from a disk.
NIIVUE, NIIVUE_FILE = "@niivue/niivue@0.69.0", "package/dist/niivue.umd.js"
NIIVUE_SIZE = 6809390  # bytes of the package, and its sha512
NIIVUE_SHA512 = (
    "60c8d0bc9803d56d9bec3ba8c64c250b85716eb80878f449e6ac90cd72b18b6b"
    "f6301560dbce4ffc2210ca0e3aa030c60c871a3656ddf8c86d3bf79d31b5c990"
)
NIIVUE_FILE_SHA256 = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"
VIEWER = ROOT / "l2rfast" / "viewer" / "niivue.js.gz"
NO_VIEWER = "l2rfast: built without the viewer of reports, which show pictures alone: {}"


def sources_of(pattern: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern))


def cuda_targets() -> list[str]:
    """Options of nvcc: code for the cards of this machine, or, where there is none, for those that are usual."""
    import torch

    cards = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
    names = [f"{major}{minor}" for major, minor in sorted(cards)]
    # Nothing here is of one generation alone: the oldest's intermediate code serves for all.
    return [f"-gencode=arch=compute_{n},code=[sm_{n},compute_{n}]" for n in names] or [
        "-gencode=arch=compute_80,code=[sm_80,sm_90,sm_100,compute_80]"
    ]


def cuda_command(output: Path, options: Iterable[str]) -> list[str]:
    """What builds the library of the CUDA kernels, run in this folder."""
    import torch
    from torch.utils.cpp_extension import include_paths, library_paths

    # On a CPU build of PyTorch it can be linked, not loaded.
    libraries = ["torch_cpu", *(["torch_cuda"] if torch.version.cuda else [])]
    return [
        shutil.which("nvcc") or str(Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin", "nvcc")),
        "-shared",
        *CUDA_FLAGS,
        *options,
        *(f"-I{path}" for path in [str(ROOT / "kernels"), *include_paths()]),
        *(f"-L{path}" for path in library_paths()),
        *(f"-l{library}" for library in libraries),
        "-o",
        str(output),
        *sources_of("kernels/*/cuda.cu"),
    ]


def extensions() -> list[Extension]:
    # Isolated, pip's builds do not see what is installed, and PyTorch is too large to be downloaded for its headers.
    sys.path.append(sysconfig.get_path("platlib"))
    try:
        import torch
        from torch.utils.cpp_extension import include_paths, library_paths
    except ImportError:  # no headers to build with
        return []
    headers = sources_of("kernels/**/*.h")
    cpp = [
        Extension(
            f"l2rfast._cpp_{name}",
            sources_of("kernels/*/*.cpp"),
            depends=headers,
            include_dirs=["kernels", *include_paths()],
            library_dirs=library_paths(),
            libraries=["torch_cpu"],
            extra_compile_args=FLAGS + flags,
            language="c++",
            optional=True,
        )
        for name, flags in INSTRUCTION_SETS.items()
    ]
    asked = os.environ.get("L2RFAST_CUDA") or ("1" if torch.version.cuda else "0")
    if asked not in ("0", "1"):
        raise SystemExit(f"L2RFAST_CUDA: expected 1 or 0, got {asked!r}")
    if asked == "0":
        return cpp
    depends = [*headers, *sources_of("kernels/**/*.cuh")]
    return [*cpp, Extension(CUDA, sources_of("kernels/*/cuda.cu"), depends=depends, optional=True)]


def make(output: Path, sources: Iterable[str], command: str, run: Callable[[], object]) -> None:
    """Run what writes a file, unless an earlier build did, by the same command and of sources that have not changed."""
    recorded = output.with_suffix(".command")  # written last: what was interrupted is made again
    same = recorded.exists() and recorded.read_text() == command
    if same and not newer_group([*sources], str(output), "newer"):
        return
    recorded.unlink(missing_ok=True)
    run()
    recorded.write_text(command)


def included(listing: Path) -> list[str]:
    """The files that a compiler has read, by the rule that it wrote for make."""
    return shlex.split(listing.read_text().replace("\\\n", "").partition(":")[2]) if listing.exists() else []


class BuildLibraries(build_ext):
    """Plain shared libraries without a Python ABI tag, on all processors: every file of every library is a job.

    What is compiled stays in a folder of the sources, wherever pip wants the libraries: the next build compiles what
    has changed.
    """

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()
        if self.force:
            shutil.rmtree(OBJECTS, ignore_errors=True)

    def build_extensions(self) -> None:
        with ThreadPoolExecutor(self.parallel) as self.jobs:
            super().build_extensions()

    def build_extension(self, ext: Extension) -> None:
        library = Path(self.get_ext_fullpath(ext.name))
        library.parent.mkdir(parents=True, exist_ok=True)
        if ext.name == CUDA:
            self.copy_file(self.cuda_library(ext), str(library))
            return
        try:
            first = self.jobs.submit(self.first_header, ext).result()
        except ExecError as error:
            raise CompileError(f"{ext.name}: {error}") from error
        objects = list(self.jobs.map(partial(self.cpp_object, ext, first), ext.sources))
        self.compiler.link_shared_object(
            objects, str(library), libraries=ext.libraries, library_dirs=ext.library_dirs, target_lang=ext.language
        )

    def cpp_object(self, ext: Extension, first: Path, source: str) -> str:
        """Compile a file; `first` is a header that it starts with, compiled before."""
        folder = str(OBJECTS / ext.name)
        (output,) = self.compiler.object_filenames([source], output_dir=folder)
        options = {"include_dirs": ext.include_dirs, "extra_postargs": [*ext.extra_compile_args, "-MD"]}
        options["extra_postargs"] += [f"-include{first}"]
        # The compiler lists nothing of what was compiled before.
        own = [path for path in included(first.with_suffix(".h.d")) if path.startswith("kernels")]
        make(
            Path(output),
            [source, *own, *included(Path(output).with_suffix(".d"))],
            # Not by whose headers of PyTorch: those of every version give objects that serve for all.
            f"{self.compiler.compiler_so_cxx} {options | {'include_dirs': ['kernels']}}",
            lambda: self.compiler.compile([source], folder, **options),
        )
        return output

    def first_header(self, ext: Extension) -> Path:
        """What every file needs of PyTorch and the standard library, compiled once: half of the small files' time."""
        header = OBJECTS / ext.name / "first.h"
        header.parent.mkdir(parents=True, exist_ok=True)
        if not header.exists():
            header.write_text('#include "common/tensor.h"\n')
        output = header.with_suffix(".h.gch")
        command = [*self.compiler.compiler_so_cxx, *ext.extra_compile_args, "-MD", "-MF", str(output.with_suffix(".d"))]
        command += ["-xc++-header", str(header), "-o", str(output)]
        sources = [str(header), *included(output.with_suffix(".d"))]
        folders = [f"-I{path}" for path in ext.include_dirs]  # not of the command that is kept, see above
        make(output, sources, shlex.join(command), lambda: self.spawn([*command, *folders]))
        return header

    def cuda_library(self, ext: Extension) -> str:
        output = OBJECTS / ext.name / "library.so"
        output.parent.mkdir(parents=True, exist_ok=True)
        command = cuda_command(output, [*cuda_targets(), "--threads=0"])
        try:
            make(output, [*ext.sources, *ext.depends], shlex.join(command), lambda: self.spawn(command))
        except Exception as error:
            raise CompileError(f"{ext.name}: {error}") from error
        return str(output)

    def run(self) -> None:
        super().run()
        built = {ext.name for ext in self.extensions if Path(self.get_ext_fullpath(ext.name)).exists()}
        if CUDA in {ext.name for ext in self.extensions} - built:
            print("l2rfast: no CUDA kernels were built: is there an nvcc of the version that PyTorch was built with?")
        if len(built - {CUDA}) < len(INSTRUCTION_SETS):
            print(NO_KERNELS)

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"


def manylinux(libraries: list[Path], platform: str) -> str:
    """The oldest Linux that these libraries load on, by the versions of the system's symbols that they ask for."""
    with TemporaryDirectory() as folder:
        wheel = Path(folder, f"libraries-0-py3-none-{platform}.whl")  # what auditwheel reads
        with ZipFile(wheel, "w") as file:
            for library in libraries:
                file.write(library, library.name)
            file.writestr("libraries-0.dist-info/RECORD", "".join(f"{library.name},,\n" for library in libraries))
        command = [sys.executable, "-m", "auditwheel", "show", "--json", str(wheel)]
        audit = subprocess.run(command, capture_output=True, text=True, check=False)
    if audit.returncode != 0:
        print(f"l2rfast: the wheel is tagged {platform}; for a manylinux tag: pip install 'auditwheel>=6.8'")
        return platform
    found = json.loads(audit.stdout)
    # PyTorch brings its libraries itself; anything else from outside would have to be there.
    others = [name for name in found["external_libs"] if not name.startswith(("libtorch", "libc10"))]
    return platform if others else found["sym_tag"]


def get_viewer() -> None:
    """Put NiiVue among the sources, unless it is there, as in a source distribution. Nothing fails without it."""
    if VIEWER.exists():
        try:
            if hashlib.sha256(gzip.decompress(VIEWER.read_bytes())).hexdigest() == NIIVUE_FILE_SHA256:
                return
        except (OSError, EOFError, zlib.error):
            pass
        VIEWER.unlink()
    npm = shutil.which("npm")
    if npm is None:
        print(NO_VIEWER.format("there is no npm"))
        return
    with TemporaryDirectory() as folder:
        command = [npm, "pack", "--silent", NIIVUE]
        try:
            subprocess.run(command, cwd=folder, capture_output=True, check=True, timeout=120)
            (archive,) = Path(folder).glob("*.tgz")
            packed = archive.read_bytes()
            if len(packed) != NIIVUE_SIZE or hashlib.sha512(packed).hexdigest() != NIIVUE_SHA512:
                raise ValueError("another package came than was expected")
            with tarfile.open(archive) as package:
                script = package.extractfile(NIIVUE_FILE).read()
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            told = error if isinstance(error, ValueError) else "it could not be fetched"
            print(NO_VIEWER.format(f"npm pack {NIIVUE}: {told}"))
            return
    new = VIEWER.with_suffix(".new")
    new.write_bytes(gzip.compress(script, mtime=0))
    new.replace(VIEWER)


class BuildPackage(build_py):
    def run(self) -> None:
        get_viewer()
        self.__dict__.pop("data_files", None)  # found before it was there
        super().run()


class SourceDistribution(sdist):
    def run(self) -> None:
        get_viewer()
        super().run()


class PlatformWheel(bdist_wheel):
    """py3-none-<platform>: the libraries depend on the machine, not on the Python version; without them, any."""

    def run(self) -> None:
        # What an earlier build put there stays, whether or not it is in the sources still.
        shutil.rmtree(self.get_finalized_command("build").build_lib, ignore_errors=True)
        if not self.distribution.ext_modules:
            print(NO_KERNELS)
        super().run()

    @cached_property
    def tag(self) -> tuple[str, str, str]:
        libraries = sorted(Path(self.bdist_dir).rglob("*.so"))
        self.root_is_pure = not libraries
        platform = super().get_tag()[2]
        return "py3", "none", manylinux(libraries, platform) if platform.startswith("linux") else platform

    def get_tag(self) -> tuple[str, str, str]:
        return self.tag


def packages() -> list[str]:
    """The package with all folders of kernels and methods, which are of it, but not in its folder."""
    found = find_packages(str(ROOT), include=["l2rfast*", "kernels*", "methods*"])
    return [name if name.startswith("l2rfast") else f"l2rfast.{name}" for name in found]


if __name__ == "__main__":
    setup(
        packages=packages(),
        ext_modules=extensions(),
        cmdclass={
            "build_ext": BuildLibraries,
            "build_py": BuildPackage,
            "sdist": SourceDistribution,
            "bdist_wheel": PlatformWheel,
        },
    )
