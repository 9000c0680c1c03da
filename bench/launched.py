"""What an operator would launch on a GPU, found without one: kernels, arguments and blocks of a call."""

from __future__ import annotations

import ctypes
import re
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from . import aot
from .build import build_script
from .execution import Place

ROOT = Path(__file__).parent.parent
BUILT = ROOT / "build" / "predict"


@dataclass(frozen=True)
class Launch:
    """A kernel as it is launched once or several times alike.

    Attributes:
        kernel: its name, for people.
        ptx: its code, and `entry` its name there.
        arguments: the bytes of each parameter.
        shape, blocks: threads of a block and blocks of the launch, along x, y and z.
        shared: bytes of a block.
        times: how often it is launched so.
    """

    kernel: str
    ptx: str
    entry: str
    arguments: tuple[bytes, ...]
    shape: Place
    blocks: Place
    shared: int
    times: int = 1


# --- CUDA


def _plain(names: Sequence[str]) -> list[str]:
    """Demangled, without the namespaces, whose names depend on the compiler."""
    told = subprocess.run(["c++filt"], input="\n".join(names), check=True, text=True, stdout=subprocess.PIPE).stdout
    return [re.sub(r"l2rfast::|\(anonymous namespace\)::", "", line) for line in told.splitlines()]


@cache
def host_library(folder: str) -> ctypes.CDLL:
    """The operators of a CUDA file, which write down what they would launch."""
    setup = build_script()
    BUILT.mkdir(parents=True, exist_ok=True)
    command = setup.cuda_command(BUILT / f"{folder}.so", [])
    headers = [part for part in command if part.startswith("-I")]
    libraries = [part for part in command if part.startswith("-L")]
    sources = [part for part in command if part.endswith(f"/{folder}/cuda.cu")]
    build = ["g++", "-x", "c++", "-shared", "-fPIC", "-fvisibility=hidden", "-std=c++20", "-w"]
    build += [f"-I{ROOT / 'bench' / 'launches'}", *headers, *sources, *libraries, "-ltorch_cpu"]
    output = command[command.index("-o") + 1]
    subprocess.run([*build, "-DTORCH_TARGET_VERSION=0x020b000000000000", "-o", output], cwd=ROOT, check=True)
    torch.ops.load_library(output)  # type: ignore[no-untyped-call]
    library = ctypes.CDLL(output)
    library.l2rfast_launched.restype = ctypes.c_char_p
    return library


@cache
def ptx_of(operator: str) -> tuple[str, dict[str, str]]:
    """Of a CUDA file: its PTX, and the entries in it by the name of what they run."""
    setup = build_script()
    command = [part for part in setup.cuda_command(Path("-"), ["-ptx", "-arch=compute_80"]) if part != "-shared"]
    command = [part for part in command if not part.startswith(("-l", "-L"))]
    command = [part for part in command if not part.endswith(".cu") or f"/{operator}/" in part]
    text = subprocess.run(command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE).stdout
    names = re.findall(r"\.entry\s+(\w+)", text)
    bodies = [re.sub(r"^void each_\w+_kernel<(.*)>\(.*$", r"\1", plain).strip() for plain in _plain(names)]
    return text, dict(zip(bodies, names, strict=True))


def of_cuda(folders: Sequence[str], call: Callable[[], object]) -> tuple[list[Launch], int]:
    """The launches of a call of operators of CUDA files, those of these folders, and the most bytes that it allocates.

    The tensors are the CPU's, and nothing reads them.
    """
    found = []
    libraries = {folder: host_library(folder) for folder in folders}
    profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True)
    with profiler:
        call()
    for folder, library in libraries.items():
        lines = [line.split() for line in library.l2rfast_launched().decode().splitlines()]
        bodies = [name[2:-1].strip() for name in _plain(["_Z1f" + line[0] for line in lines])]  # of a function of it
        ptx, entries = ptx_of(folder)
        found += [_launch(body, ptx, entries, line) for body, line in zip(bodies, lines, strict=True)]
    events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    return found, max(accumulate(change for _, change in sorted(changes)), default=0)


def _launch(body: str, ptx: str, entries: dict[str, str], line: list[str]) -> Launch:
    """From a line that the library wrote down; blocks and threads as kernels/common/launch.cuh has them."""
    argument = bytes.fromhex(line[1])
    numbers = [int(number) for number in line[3:]]
    if line[2] == "blocks":
        count, room = numbers
        arguments = (argument, struct.pack("<q", count), bytes(8), struct.pack("<q", room))
        return Launch(body, ptx, entries[body], arguments, (256, 1, 1), (count, 1, 1), 8 * room)
    items, *size = numbers
    tile = (32, 8, 1) if size[0] == 1 else (32, 4, 2)
    x, y, deep = (-(-s // t) for s, t in zip(reversed(size), tile, strict=True))
    extent = struct.pack("<qiiii", items, *size, 0)[: 8 + 12 + 4]
    blocks = x, min(y, 65535), min(items * deep, 65535)
    return Launch(body, ptx, entries[body], (argument, extent, struct.pack("<I", deep)), tile, blocks, 0)


# --- Triton


def of_triton(target: str, call: Callable[[], object]) -> list[Launch]:
    """The launches of a call of a function of a Triton module, on tensors without memory."""
    found: list[Launch] = []

    def launched(function: Any, kernel: Any, programs: tuple[int, ...], named: dict[str, Any]) -> None:
        given = [named.get(name) for name in function.arg_names]
        code = kernel.asm.get("ptx") or kernel.asm["amdgcn"]
        arguments = tuple(_bytes(given, tuple(kernel.src.signature.values())))
        blocks = (*programs, 1, 1)[:3]
        threads = kernel.metadata.num_warps * kernel.metadata.target.warp_size
        found.append(
            Launch(
                function.__name__,
                code,
                kernel.metadata.name,
                (*arguments, bytes(8), bytes(8)),
                (threads, 1, 1),
                blocks,
                kernel.metadata.shared,
            )
        )

    with aot.compiling(target, launched):
        call()
    return found


def _bytes(values: Sequence[Any], kinds: Sequence[Any]) -> Iterator[bytes]:
    """The bytes of a kernel's arguments, those of tuples one by one, without constants; addresses far apart."""
    for i, (value, kind) in enumerate(zip(values, kinds, strict=True)):
        if isinstance(kind, tuple):
            yield from _bytes(value, kind)
        elif kind.startswith("*"):
            yield struct.pack("<Q", i + 1 << 40)
        elif kind.startswith("fp"):
            yield struct.pack("<f" if kind == "fp32" else "<d", value)
        elif kind != "constexpr":
            yield int(value).to_bytes(8, "little", signed=True)[: int(kind[1:]) // 8 or 1]


def together(launches: Sequence[Launch]) -> list[Launch]:
    """Those of the same code, blocks and shared memory as one, the first, that is launched so often."""
    found: dict[tuple[Any, ...], Launch] = {}
    for launch in launches:
        key = launch.kernel, hash(launch.ptx), launch.entry, launch.blocks, launch.shared
        before = found.get(key)
        found[key] = replace(before, times=before.times + 1) if before else launch
    return list(found.values())
