"""Builds the C++ kernels: one shared library per instruction set, chosen when it is loaded.

The sources use PyTorch's stable ABI and no Python ABI, so one wheel serves every Python 3 and
several PyTorch versions. Without PyTorch's headers or a C++ compiler the package still installs,
with the slower reference backend, and says so in one line.
"""

import os
import platform
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
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


def extensions() -> list[Extension]:
    try:
        from torch.utils.cpp_extension import include_paths, library_paths
    except ImportError:  # no headers to build with
        return []
    sources = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("kernels/*/cpu.cpp"))
    headers = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("kernels/**/*.h"))
    return [
        Extension(
            f"l2rfast._cpp_{name}",
            sources,
            depends=headers,
            include_dirs=[str(ROOT / "kernels"), *include_paths()],
            library_dirs=library_paths(),
            libraries=["torch_cpu"],
            extra_compile_args=FLAGS + flags,
            language="c++",
            optional=True,
        )
        for name, flags in INSTRUCTION_SETS.items()
    ]


class BuildLibraries(build_ext):
    """Plain shared libraries without a Python ABI tag, instruction sets built in parallel."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def run(self) -> None:
        super().run()
        built = [ext for ext in self.extensions if Path(self.get_ext_fullpath(ext.name)).exists()]
        if len(built) < len(INSTRUCTION_SETS):
            print(
                "l2rfast: no C++ kernels were built, the slower reference backend will run; for the fast one install "
                "g++ 12 or newer and torch, then: pip install --no-build-isolation --force-reinstall --no-deps ."
            )

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"


class PlatformWheel(bdist_wheel):
    """py3-none-<platform>: the libraries depend on the machine, not on the Python version."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildLibraries, "bdist_wheel": PlatformWheel})
