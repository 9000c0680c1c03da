"""The kernels of a PTX file: their parameters, and their instructions in runs that are entered at the start only."""

from __future__ import annotations

import re
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Instruction:
    """One of a kernel: ``@guard op operands``."""

    guard: str
    op: str
    operands: tuple[str, ...]

    @property
    def bits(self) -> int:
        """Of the type that it is of, the last in its name."""
        return bits_of(self.op.split(".")[-1])


def bits_of(kind: str) -> int:
    return 16 if kind == "bf16" else 1 if kind == "pred" else int(re.sub(r"\D", "", kind) or 0)


@dataclass
class Kernel:
    """An entry of a PTX file.

    Attributes:
        parameters: bytes of each, in order.
        threads: of a block, at most.
        blocks: runs of instructions that are entered at their start only.
        starts: the block that a label begins.
    """

    name: str
    parameters: dict[str, int]
    threads: int
    blocks: list[list[Instruction]] = field(default_factory=lambda: [[]])
    starts: dict[str, int] = field(default_factory=dict)

    def offsets(self) -> dict[str, int]:
        """Where in the memory of the parameters each begins: far from the next."""
        return {name: 65536 * i for i, name in enumerate(self.parameters)}


def kernels(text: str) -> dict[str, Kernel]:
    """The entries of a PTX file by name."""
    text = re.sub(r"//[^\n]*", "", text)
    text = re.sub(r"(?m)^\s*\.(loc|file|section)\b[^\n{]*$", "", text)
    found = {}
    for name, parameters, head, body in re.findall(
        r"\.entry\s+([\w$]+)\s*\(([^)]*)\)([^{]*)\{(.*?)\n\}", text, re.DOTALL
    ):
        threads = re.search(r"\.(?:req|max)n?tid\s+(\d+)", head)
        sizes = {
            parameter: int(length or bits_of(kind) // 8)
            for kind, parameter, length in re.findall(r"\.(\w\d+)\b[^,]*?([\w$]+)(?:\[(\d+)\])?\s*(?:,|$)", parameters)
        }
        kernel = found[name] = Kernel(name, sizes, int(threads[1]) if threads else 0)
        for statement in body.split(";"):
            _add(kernel, statement.strip())
    return found


def _add(kernel: Kernel, statement: str) -> None:
    """What a statement begins (labels, scopes) and does."""
    while label := re.match(r"([$\w]+):\s*|[{}]\s*", statement):
        if label[1]:
            if kernel.blocks[-1]:
                kernel.blocks.append([])
            kernel.starts[label[1]] = len(kernel.blocks) - 1
        statement = statement[label.end() :]
    found = re.match(r"(?:@(!?%\w+)\s+)?([a-z][\w.:]*)\s*(.*)", statement, re.DOTALL)
    if found is None:
        return  # a directive, or nothing
    operands = re.findall(r"\{[^}]*\}|\[[^]]*\]|[^,\s][^,]*", found[3])
    kernel.blocks[-1].append(Instruction(found[1] or "", found[2], tuple(o.strip() for o in operands)))
    if found[2].split(".")[0] in ("bra", "ret", "exit", "trap"):
        kernel.blocks.append([])
