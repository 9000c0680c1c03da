"""The package with its C++ kernels built to be watched, beside the one that is installed."""

from __future__ import annotations

import os
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from bench.build import ROOT, build_script

INSTRUCTION_SET = "avx2"  # what most machines have; threads and checks are the same code for all of them
# By sanitizer: what compiles and links with it. Positions that become integers are watched too, which "undefined" of
# itself leaves out. What is found is told, and the run goes on, so that all of it is counted.
OPTIONS = {
    "address": ["-fsanitize=address,undefined,float-cast-overflow", "-fsanitize-recover=address"],
    "thread": ["-fsanitize=thread"],
}
TRAPS = {"address": 2, "thread": 1}  # reports at least of the faults that trap.cpp has for it
_TRAP = Path(__file__).with_name("trap.cpp")
# ThreadSanitizer does not know the threads of OpenMP, which PyTorch has.
_THREADS = Path(__file__).with_name("threads.cpp")


def package(sanitizer: str) -> Path:
    """The folder to import l2rfast from, as ``PYTHONPATH`` has it: links to the sources, and a library of its own.

    Args:
        sanitizer: a key of `OPTIONS`.

    Raises:
        subprocess.CalledProcessError: it cannot be built.
    """
    folder = ROOT / "build" / "sanitizers" / sanitizer
    library = _library(sanitizer, folder)
    place = folder / "package" / "l2rfast"
    place.mkdir(parents=True, exist_ok=True)
    for old in place.iterdir():
        old.unlink()
    sources = [path for path in (ROOT / "l2rfast").iterdir() if path.suffix != ".so"]
    for path in (*sources, ROOT / "kernels", ROOT / "methods"):
        if not (place / path.name).is_symlink():
            (place / path.name).symlink_to(path)
    (place / f"_cpp_{INSTRUCTION_SET}.so").symlink_to(library)
    return place.parent


def runtime(sanitizer: str) -> str:
    """What a process that was not built with the sanitizer has to load first, as ``LD_PRELOAD`` has it: the sanitizer's
    library, and that of C++, whose exceptions it wants to see.
    """
    found = []
    for name in ({"address": "libasan.so", "thread": "libtsan.so"}[sanitizer], "libstdc++.so.6"):
        asked = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        found.append(asked.stdout.strip())
    return " ".join(found)


def _library(sanitizer: str, folder: Path) -> Path:
    script = build_script()
    name = f"l2rfast._cpp_{INSTRUCTION_SET}"
    (extension,) = [each for each in script.extensions() if each.name == name]
    (folder / "objects").mkdir(parents=True, exist_ok=True)
    options = [option for option in extension.extra_compile_args if option not in ("-O3", "-g0")]
    options += ["-O1", "-g1", "-fno-omit-frame-pointer", "-fPIC", *OPTIONS[sanitizer]]
    headers = [f"-I{ROOT / 'kernels'}", *(f"-isystem{path}" for path in extension.include_dirs[1:])]
    sources = [*(ROOT / source for source in extension.sources), _TRAP]
    if sanitizer == "thread":
        sources.append(_THREADS)

    def compiled(source: Path) -> Path:
        output = folder / "objects" / f"{source.parent.name}-{source.stem}.o"
        command = ["g++", "-c", *options, *headers, "-MMD", "-MF", str(output.with_suffix(".d")), str(source)]
        read = [str(source), *script.included(output.with_suffix(".d"))]
        script.make(output, read, shlex.join(command), partial(_run, [*command, "-o", str(output)]))
        return output

    with ThreadPoolExecutor(os.cpu_count()) as jobs:
        objects = [*jobs.map(compiled, sources)]
    library = folder / f"_cpp_{INSTRUCTION_SET}.so"
    torch = [f"-L{path}" for path in extension.library_dirs]
    # -Bsymbolic: the library's own functions before PyTorch's of the same names, see threads.cpp.
    command = ["g++", "-shared", "-Wl,-Bsymbolic", *OPTIONS[sanitizer], *map(str, objects), *torch, "-ltorch_cpu"]
    script.make(library, map(str, objects), shlex.join(command), partial(_run, [*command, "-o", str(library)]))
    return library


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True)
