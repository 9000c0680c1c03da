"""What a launch takes of a GPU: instructions by kind, bytes, registers, from the kernel's code and some of its threads.

Kinds are counted where PTX is run, and so exactly; what is issued, all instructions of all kinds, in the code that it
is compiled to, by the loops that both have in common.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import triton

from . import execution, ptx, sass
from .cards import ARCHITECTURES
from .launched import Launch

OF_TRITON = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"  # which nvcc need not have

# What the instructions are made of that no GPU has, on their usual ways, in code that nvcc 13.0 makes for sm_80.
MADE_OF = {
    ("div", "f64"): {"float64": 8, "float32": 2, "special": 1},
    ("rcp", "f64"): {"float64": 5, "float32": 1, "special": 1},
    ("sqrt", "f64"): {"float64": 7, "special": 1},
    ("div", "f32"): {"float32": 5, "special": 1},
    ("rcp", "f32"): {"float32": 3, "special": 1},
    ("sqrt", "f32"): {"float32": 4, "special": 1},
    **{("div", kind): {"special": 3} for kind in ("s32", "u32", "s64", "u64")},
    **{("rem", kind): {"special": 3} for kind in ("s32", "u32", "s64", "u64")},
}
APPROXIMATE = {"rcp", "sqrt", "rsqrt", "ex2", "lg2", "sin", "cos", "tanh"}
COMPUTING = {"add", "sub", "mul", "fma", "mad", "min", "max", "setp", "set"}
FLOATS = {"f16": "float32", "bf16": "float32", "f32": "float32", "f64": "float64"}
FREE = {"mov", "cvta", "bra", "ret", "exit"}  # or few: not counted where PTX stands for what is issued


@dataclass(frozen=True)
class Work:
    """Of all warps of a launch.

    Attributes:
        float32, float64, converted, special: instructions of threads: conversions are to or from float64.
        near, far: bytes through shared memory, and to and from global memory through the caches.
        issued: instructions of warps.
        issued32, issued64: those of them that compute in float32 and float64.
        matched: whether the loops of the compiled code are those of PTX; if not, or if it jumps by a table, `issued` is
            that of PTX.
        registers, shared: of a thread, of a block in bytes.
        occupancy: resident warps, as a part of those that can be.
    """

    float32: float
    float64: float
    converted: float
    special: float
    near: float
    far: float
    issued: float
    issued32: float
    issued64: float
    matched: bool
    registers: int
    shared: int
    occupancy: float

    def __add__(self, other: Work) -> Work:
        """With that of launches of the same kernel: of the registers and so on, the worst."""
        sums = {name: getattr(self, name) + getattr(other, name) for name in (*KINDS, *ISSUED)}
        return Work(
            **sums,
            matched=self.matched and other.matched,
            registers=max(self.registers, other.registers),
            shared=max(self.shared, other.shared),
            occupancy=min(self.occupancy, other.occupancy),
        )


def kinds(instruction: ptx.Instruction, fused: bool) -> dict[str, int]:
    """What an instruction adds to the counts of a thread."""
    name, *parts = instruction.op.split(".")
    kind = parts[-1] if parts else ""
    if name == "stmatrix":  # 8 x 8 numbers of 16 bits for each register
        return {"near": 4 * (instruction.operands[1].count(",") + 1)}
    if name in ("ld", "st", "atom", "red"):
        values = next((o for o in instruction.operands if o.startswith("{")), "")
        size = instruction.bits // 8 * (values.count(",") + 1)
        if "param" in parts or "local" in parts:
            return {}
        return {"near" if near(parts, instruction) else "far": size}
    if fused:
        return {}
    if name == "cvt" and "f64" in parts[-2:]:
        return {"converted": 1}
    if name in APPROXIMATE and "approx" in parts:
        return {"special": 1}
    if made := MADE_OF.get((name, kind)):
        return {"special": 1, "float32": 2} if parts[0] in ("approx", "full") else made
    if name in COMPUTING and kind in FLOATS:
        return {FLOATS[kind]: 1}
    return {"special": 1} if name in APPROXIMATE else {}


def near(parts: list[str], instruction: ptx.Instruction) -> bool:
    """Whether an access is to shared memory: one that does not say to which, as CUDA's to a block's scratch, is."""
    return "shared" in parts or not {"global", "const"} & set(parts)


def fusible(kernel: ptx.Kernel) -> set[tuple[int, int]]:
    """The products that the assembler makes one instruction with the only sum that they go to."""
    used = Counter(register for block in kernel.blocks for i in block for o in i.operands for register in _registers(o))
    found = set()
    for k, block in enumerate(kernel.blocks):
        products: dict[str, int] = {}
        for n, i in enumerate(block):
            if re.fullmatch(r"mul\.f(32|64)", i.op) and used[i.operands[0]] == 2:
                products[i.operands[0]] = n
            elif re.fullmatch(r"(add|sub)\.f(32|64)", i.op):
                made = [products.pop(o) for o in i.operands[1:] if o in products]
                found |= {(k, n) for n in made[:1]}
    return found


def _registers(operand: str) -> list[str]:
    return re.findall(r"%\w+", operand)


def _threads(launch: Launch) -> range:
    """The first of every warp of a block."""
    x, y, z = launch.shape
    return range(0, x * y * z, 32)


@cache
def run(launch: Launch, memory: execution.Memory | None) -> tuple[ptx.Kernel, execution.Executed]:
    """The warps of the block in the middle of a launch."""
    kernel = ptx.kernels(launch.ptx)[launch.entry]
    x, y, z = launch.blocks
    of = launch.arguments, launch.blocks, launch.shape, (x // 2, y // 2, z // 2), _threads(launch)
    return kernel, execution.executed(kernel, *of, memory or execution.Memory())


def counted(launch: Launch, memory: execution.Memory | None = None) -> Counter[str]:
    """Of all threads of a block; as "issued", its instructions in PTX."""
    kernel, executed = run(launch, memory)
    products = fusible(kernel)
    found: Counter[str] = Counter()
    for k, (block, times) in enumerate(zip(kernel.blocks, executed.entered, strict=True)):
        for n, instruction in enumerate(block):
            name = instruction.op.split(".")[0]
            happens = executed.done[k, n] if instruction.guard and name in ("ld", "st", "atom", "red") else times
            for kind, many in kinds(instruction, (k, n) in products).items():
                found[kind] += 32 * many * happens
            if name not in FREE and "param" not in instruction.op:
                found["issued"] += times
    return found


@cache
def assembled(text: str, entry: str, target: str) -> tuple[str, int, int]:
    """SASS of a kernel whose loops are as in PTX; and, of the usual one, registers and static shared memory."""
    (kernel,) = re.findall(rf"(?:\.visible\s+)?\.entry\s+{re.escape(entry)}\b.*?\n\}}", text, re.DOTALL)
    first = re.search(r"(?:\.visible\s+)?\.entry\b", text)
    named = re.search(r"\.target\s+(\w+)", text)
    assert first is not None
    assert named is not None
    exact = named[1] if named[1].rstrip("a") == target else target
    tool = Path("ptxas")
    if "LLVM" in text:  # Triton's, which has an assembler for each
        tool = OF_TRITON / ("ptxas" if int(target.removeprefix("sm_")) < 90 else "ptxas-blackwell")
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")

        def made(words: str) -> str:
            source.write_text(text[: first.start()] + words + kernel + _sections(text))
            command = [tool, "-v", f"-arch={exact}", source, "-o", output]
            done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            return done.stdout

        log = made("")
        (registers,) = re.findall(r"Used (\d+) registers", log)
        shared = re.findall(r"(\d+) bytes smem", log)
        made('.pragma "nounroll";\n')
        show = [OF_TRITON / "nvdisasm", "-c", output]
        shown = subprocess.run(show, check=True, text=True, capture_output=True).stdout  # without its warnings
    return shown, int(registers), int(shared[0]) if shared else 0


def _sections(text: str) -> str:
    """The debugging tables of Triton's PTX, which its lines refer to."""
    found = re.search(r"\n\s*\.file\s.*", text, re.DOTALL)
    return found[0] if found else "\n"


def work(launch: Launch, target: str, like: Launch | None = None, memory: execution.Memory | None = None) -> Work:
    """Of a launch on a GPU.

    Args:
        launch, target: which, on what.
        like: the same on one of NVIDIA's, where its own code is not PTX.
        memory: what the launches before have written, to which it adds.
    """
    known = like or launch
    counts, (kernel, executed) = counted(known, memory), run(known, memory)
    architecture = ARCHITECTURES[target]
    flow = sass.of_ptx(kernel)
    if like is None:
        text, registers, shared = assembled(launch.ptx, launch.entry, target)
    else:
        text, shared = launch.ptx, 0
        registers = int(next(iter(re.findall(r"\.vgpr_count:\s*(\d+)", text))))
    try:
        shown = sass.of_text(text)
        weights = sass.weights(shown, flow, executed.entered)
    except NotImplementedError:  # a jump by a table
        weights = None
    issued = sass.issued(shown, weights) if weights else {"all": counts["issued"], "float32": 0, "float64": 0}
    blocks = launch.times * _product(launch.blocks)
    threads = _product(launch.shape)
    waves = blocks * (1 if like is None else threads / architecture.lanes / len(_threads(known)))  # of the warps run
    used = max(launch.shared, shared)
    return Work(
        **{name: float(counts[name] * blocks) for name in KINDS},
        **{name: waves * many for name, many in zip(ISSUED, issued.values(), strict=True)},
        matched=bool(weights),
        registers=registers,
        shared=used,
        occupancy=architecture.occupancy(registers, used, threads),
    )


ISSUED = ("issued", "issued32", "issued64")
KINDS = ("float32", "float64", "converted", "special", "near", "far")


def _product(values: tuple[int, int, int]) -> int:
    x, y, z = values
    return x * y * z
