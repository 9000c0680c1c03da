"""PTX, run for single threads, to count what they execute: loops and branches are gone through as a GPU would.

A kernel becomes a Python function, each of its registers a variable that holds bits. Memory that neither the thread nor
a launch before has written reads as zero: what depends on data is counted for zeros, and what other threads of a block
write is not seen. Barriers do nothing, votes and shuffles give what the thread itself offers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import bits
from .ptx import Instruction, Kernel, bits_of

Place = tuple[int, int, int]

# Where the address spaces that a kernel names begin; what is global lies wherever its pointers say.
PARAMETERS, SHARED, LOCAL, CONSTANTS = 1 << 56, 2 << 56, 3 << 56, 4 << 56
ENOUGH = 20_000_000  # blocks of instructions: more is a loop that does not end on zeros

# --- What instructions compute

FLOATS = {"f16", "f32", "f64", "bf16"}
OF_ONE = {
    "rcp": "divided(1.0, {})",
    "sqrt": "(math.sqrt({0}) if {0} >= 0 else math.nan)",
    "rsqrt": "(divided(1.0, math.sqrt({0})) if {0} >= 0 else math.nan)",
    "ex2": "2.0 ** min(max({}, -2000.0), 1000.0)",
    "lg2": "(math.log2({0}) if {0} > 0 else -math.inf)",
    "sin": "math.sin({})",
    "cos": "math.cos({})",
    "tanh": "math.tanh({})",
    "neg": "-{}",
    "abs": "abs({})",
}
OF_TWO = {
    **{"add": "{} + {}", "sub": "{} - {}", "mul": "{} * {}", "min": "min({}, {})", "max": "max({}, {})"},
    **{"and": "{} & {}", "or": "{} | {}", "xor": "{} ^ {}", "copysign": "math.copysign({1}, {0})"},
}
BITWISE = {"bfi": "inserted", "prmt": "permuted", "lop3": "looked_up"}
OF_THREE = {"fma": "{} * {} + {}", "mad": "{} * {} + {}"}
COMPARED = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "lo": "<", "ls": "<=", "hi": ">"}
COMPARED |= {"hs": ">=", "equ": "==", "neu": "!=", "ltu": "<", "leu": "<=", "gtu": ">", "geu": ">="}
JOINED = {"and": "&", "or": "|", "xor": "^"}
# What a matrix store writes, other threads read.
NOTHING = {
    "stmatrix",
    "bar",
    "barrier",
    "membar",
    "fence",
    "prefetch",
    "bra",
    "ret",
    "exit",
    "trap",
    "nanosleep",
    "discard",
}


class Translation:
    """A kernel as the text of a Python function."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.variables: dict[str, str] = {}
        self.symbols = {name: PARAMETERS + at for name, at in kernel.offsets().items()}

    def variable(self, register: str) -> str:
        return self.variables.setdefault(register, f"v{len(self.variables)}")

    def raw(self, operand: str) -> str:
        """The bits of an operand."""
        if operand.startswith("!"):
            return f"(1 ^ {self.raw(operand[1:])})"
        if "+" in operand:
            return "(" + " + ".join(self.raw(part.strip()) for part in operand.split("+")) + ")"
        if operand.startswith("%"):
            if re.match(r"%(tid|ntid|ctaid|nctaid)\.[xyz]$", operand):
                name, axis = operand[1:].split(".")
                return f"place[{name!r}][{'xyz'.index(axis)}]"
            return "lane" if operand == "%laneid" else self.variable(operand)
        if found := re.match(r"0[fFdD]([0-9a-fA-F]+)$", operand):
            return f"0x{found[1]}"
        if re.match(r"-?\d|-?0x", operand):
            return operand.rstrip("U")
        known = SHARED if re.search(r"smem|near|shared", operand) else LOCAL if "depot" in operand else CONSTANTS
        return str(self.symbols.get(operand, known))

    def value(self, operand: str, kind: str) -> str:
        """What the bits of an operand mean."""
        bits, raw = bits_of(kind), self.raw(operand)
        if kind in FLOATS:
            return f"{kind}({raw})"
        if re.fullmatch(r"-?\d+|-?0x[0-9a-fA-F]+", raw):
            number = int(raw, 0) & (1 << bits) - 1
            return str(number - (1 << bits) if kind[0] == "s" and number >> bits - 1 else number)
        raw = f"({raw} & {(1 << bits) - 1})" if bits < 64 else raw
        return f"(({raw} ^ {1 << bits - 1}) - {1 << bits - 1})" if kind[0] == "s" else raw

    def bits(self, expression: str, kind: str) -> str:
        """The bits of what an expression gives."""
        return f"to_{kind}({expression})" if kind in FLOATS else f"({expression}) & {(1 << bits_of(kind)) - 1}"

    def statements(self, instruction: Instruction) -> list[str]:
        """What it does, in Python.

        Raises:
            NotImplementedError: that is not known.
        """
        name, *parts = instruction.op.split(".")
        to, *of = instruction.operands or ("",)
        kind = parts[-1] if parts else ""
        if name in NOTHING:
            return []
        if name in ("ld", "ldu"):
            return self.loaded(to, of[0], kind)
        if name in ("st", "red"):
            values = [v.strip() for v in of[0].strip("{}").split(",")]
            size = bits_of(kind) // 8
            return (
                []
                if name == "red"
                else [f"store({self.address(to)} + {i * size}, {self.raw(v)}, {size})" for i, v in enumerate(values)]
            )
        if name == "atom":
            return [] if to == "_" else self.loaded(to, of[0], kind)
        if name in ("setp", "set"):
            return self.compared(parts, to, of)
        if name == "mov" and "{" in "".join(instruction.operands):
            return self.packed(to, of[0], bits_of(kind))
        result = to.split("|")[0]
        return [] if result == "_" else [f"{self.variable(result)} = {self.expression(name, parts, of, kind)}"]

    def expression(self, name: str, parts: list[str], of: list[str], kind: str) -> str:
        """The bits of the result of an instruction that only computes."""
        wide = "wide" in parts
        values = [self.value(o, kind) for o in of]
        plain = [self.value(o, f"u{bits_of(kind)}") if re.match(r"-\d", o) else self.raw(o) for o in of]
        if name in ("mov", "cvta", "shfl"):
            return plain[0]
        if name == "cvt":
            return self.converted(parts, of[0])
        if name == "selp":
            return f"{plain[0]} if {plain[2]} else {plain[1]}"
        if name in OF_THREE and wide:
            double = kind[0] + str(2 * bits_of(kind))
            return self.bits(f"{values[0]} * {values[1]} + {self.value(of[2], double)}", double)
        if name == "mul" and "hi" in parts:
            return self.bits(f"{values[0]} * {values[1]} >> {bits_of(kind)}", kind)
        if name == "mul" and wide:
            return self.bits(f"{values[0]} * {values[1]}", kind[0] + str(2 * bits_of(kind)))
        if name == "div":
            return self.bits(f"{'divided' if kind in FLOATS else 'truncated'}({values[0]}, {values[1]})", kind)
        if name == "rem":
            return self.bits(f"{values[0]} - truncated({values[0]}, {values[1]}) * {values[1]}", kind)
        if name == "not":
            return f"1 ^ {self.raw(of[0])}" if kind == "pred" else self.bits(f"~{values[0]}", kind)
        if name in ("shl", "shr"):
            by = f"min({self.value(of[1], 'u32')}, 64)"
            return self.bits(f"{values[0]} {'<<' if name == 'shl' else '>>'} {by}", kind)
        if name == "bfe":
            return self.bits(f"{values[0]} >> {self.raw(of[1])} & (1 << {self.raw(of[2])}) - 1", kind)
        if name in BITWISE:
            return f"{BITWISE[name]}({', '.join(plain)})"
        if name == "shf":
            by = f"{plain[2]} & 31" if "wrap" in parts else f"min({plain[2]}, 32)"
            both = f"({plain[1]} << 32 | {plain[0]})"
            return self.bits(f"{both} << ({by}) >> 32" if "l" in parts else f"{both} >> ({by})", kind)
        if name == "clz":
            return f"{bits_of(kind)} - ({values[0]}).bit_length()"
        if name == "popc":
            return f"({values[0]}).bit_count()"
        if name in ("vote", "activemask", "match"):
            return self.raw(of[0]) if of and kind == "pred" else "1 << lane"
        for table, count in ((OF_ONE, 1), (OF_TWO, 2), (OF_THREE, 3)):
            if name in table:
                return self.bits(table[name].format(*values[:count]), kind)
        raise NotImplementedError(name)

    def converted(self, parts: list[str], of: str) -> str:
        to, kind = parts[-2:]
        value = self.value(of, kind)
        if to in FLOATS:
            how = next((p[:3] for p in parts if p in ("rni", "rzi", "rmi", "rpi")), None)
            return self.bits(f"float(integer({value}, {how!r}))" if how else f"float({value})", to)
        how = next((p for p in parts if p in ("rni", "rzi", "rmi", "rpi")), "rzi")
        return self.bits(f"integer({value}, {how!r})" if kind in FLOATS else value, to)

    def compared(self, parts: list[str], to: str, of: list[str]) -> list[str]:
        kind = parts[-1]
        a, b = self.value(of[0], kind), self.value(of[1], kind)
        if parts[0] in ("num", "nan"):
            known = f"({a} == {a} and {b} == {b})"
            truth = known if parts[0] == "num" else f"not {known}"
        else:
            truth = f"{a} {COMPARED[parts[0]]} {b}"
        first, *second = to.split("|")
        lines = [f"{self.variable(first)} = int({truth})"]
        if len(of) > 2:
            lines.append(f"{self.variable(first)} {JOINED[parts[1]]}= {self.raw(of[2])}")
        return lines + [f"{self.variable(s)} = 1 ^ {self.variable(first)}" for s in second]

    def packed(self, to: str, of: str, bits: int) -> list[str]:
        """Moves that put registers together or take them apart."""
        pieces = [p.strip() for p in (to if "{" in to else of).strip("{}").split(",")]
        each = bits // len(pieces)
        if "{" in to:
            mask = (1 << each) - 1
            return [
                f"{self.variable(p)} = {self.raw(of)} >> {i * each} & {mask}" for i, p in enumerate(pieces) if p != "_"
            ]
        return [f"{self.variable(to)} = " + " | ".join(f"{self.raw(p)} << {i * each}" for i, p in enumerate(pieces))]

    def address(self, operand: str) -> str:
        return self.raw(operand.strip("[]").strip())

    def loaded(self, to: str, of: str, kind: str) -> list[str]:
        size = bits_of(kind) // 8
        registers = [r.strip() for r in to.strip("{}").split(",")]
        sign = 1 << bits_of(kind) - 1
        lines = []
        for i, register in enumerate(registers):
            value = f"load({self.address(of)} + {i * size}, {size})"
            if kind[0] == "s":  # into a register that may be wider
                value = f"({value} ^ {sign}) - {sign} & {(1 << 64) - 1}"
            lines.append(f"{self.variable(register)} = {value}")
        return lines

    def text(self) -> str:
        """The function: ``entered`` counts how often a block is, ``done`` a guarded instruction."""
        pieces: list[list[str]] = []
        for k, block in enumerate(self.kernel.blocks):
            lines = [f"entered[{k}] += 1"]
            for i, instruction in enumerate(block):
                does, guard = self.statements(instruction), instruction.guard
                base = instruction.op.split(".")[0]
                if base == "bra":
                    does = [f"k = {self.kernel.starts[instruction.operands[-1]]}", "continue"]
                elif base in ("ret", "exit", "trap"):
                    does = ["return"]
                if guard:
                    lines += [f"if {self.raw(guard)}:", f"    done[{k}, {i}] += 1", *(f"    {line}" for line in does)]
                else:
                    lines += does
            pieces.append([*lines, f"k = {k + 1}"])
        dispatch = _dispatched(pieces, 0)
        zeros = " = ".join([*self.variables.values(), "0"])
        head = ["def thread(place, lane, load, store, entered, done):", f"    {zeros}", "    k = steps = 0"]
        head += [f"    while k < {len(pieces)}:", "        steps += 1"]
        head += [f"        if steps > {ENOUGH}:", "            raise RuntimeError('a loop that does not end')"]
        return "\n".join(head + [f"        {line}" for line in dispatch])


def _dispatched(pieces: list[list[str]], first: int) -> list[str]:
    """Nested conditions that lead to piece k."""
    if len(pieces) == 1:
        return pieces[0]
    half = len(pieces) // 2
    return [
        f"if k < {first + half}:",
        *(f"    {line}" for line in _dispatched(pieces[:half], first)),
        "else:",
        *(f"    {line}" for line in _dispatched(pieces[half:], first + half)),
    ]


# --- Running


def function(kernel: Kernel) -> Callable[..., None]:
    """The kernel as a Python function.

    Raises:
        NotImplementedError: it has an instruction that is not known.
    """
    space: dict[str, Any] = dict(vars(bits))
    exec(Translation(kernel).text(), space)
    run: Callable[..., None] = space["thread"]
    return run


@dataclass
class Executed:
    """What some threads did, together.

    Attributes:
        entered: how often a block of instructions was.
        done: how often a guarded instruction, by block and place in it, did something.
    """

    entered: list[int]
    done: Counter[tuple[int, int]]


@dataclass(eq=False)
class Memory:
    """Bytes that the threads of some launches wrote to global memory, by address."""

    written: dict[int, int] = field(default_factory=dict)


def executed(
    kernel: Kernel,
    arguments: Sequence[bytes],
    blocks: Place,
    shape: Place,
    block: Place,
    threads: Sequence[int],
    memory: Memory,
) -> Executed:
    """Runs some threads of a block of a launch of `blocks` blocks of this shape, one after the other.

    They find in memory what was there, and leave there what they write.
    """
    run, result = function(kernel), Executed([0] * len(kernel.blocks), Counter())
    given = {
        PARAMETERS + at + i: byte
        for at, argument in zip(kernel.offsets().values(), arguments, strict=True)
        for i, byte in enumerate(argument)
    }
    for thread in threads:
        own: dict[int, int] = dict(given)

        def load(at: int, size: int, own: Mapping[int, int] = own) -> int:
            return sum(own.get(at + i, memory.written.get(at + i, 0)) << 8 * i for i in range(size))

        def store(at: int, value: int, size: int, own: dict[int, int] = own) -> None:
            own.update((at + i, value >> 8 * i & 255) for i in range(size))

        tid = thread % shape[0], thread // shape[0] % shape[1], thread // (shape[0] * shape[1])
        place = {"tid": tid, "ntid": shape, "ctaid": block, "nctaid": blocks}
        run(place, thread % 32, load, store, result.entered, result.done)
        memory.written.update((at, byte) for at, byte in own.items() if at < PARAMETERS)
    return result
