"""Compiled code as text, NVIDIA's or AMD's: its blocks of instructions, its loops, and how many of them are issued."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from . import ptx


@dataclass
class Flow:
    """Blocks of instructions, which are entered at their start only.

    Attributes:
        blocks: the names of the instructions of each.
        following: the blocks that may come after each.
    """

    blocks: list[list[str]] = field(default_factory=lambda: [[]])
    following: list[set[int]] = field(default_factory=list)

    def reached(self, without: int | None = None) -> set[int]:
        """The blocks that can be reached from the first, not through one of them; not what is only called."""
        found, new = set(), [0]
        while new:
            block = new.pop()
            if block not in found and block != without and block < len(self.blocks):
                found.add(block)
                new += self.following[block]
        return found

    def loops(self) -> list[Loop]:
        """Natural loops in the order of their code, outer ones before what is in them."""
        bodies: dict[int, set[int]] = {}
        every = self.reached()
        before: dict[int, set[int]] = {}
        for block in every:
            for after in self.following[block]:
                before.setdefault(after, set()).add(block)
        for end in every:
            for first in self.following[end]:
                if first == end or end not in self.reached(first):
                    bodies.setdefault(first, {first}).update(_leading_to(end, first, before))
        firsts = sorted(bodies, key=lambda first: (min(bodies[first]), -len(bodies[first])))
        loops = []
        for first in firsts:
            around = [f for f in firsts if f != first and first in bodies[f]]
            inner = min(around, key=lambda f: len(bodies[f]), default=None)
            loops.append(Loop(first, frozenset(bodies[first]), None if inner is None else firsts.index(inner)))
        return loops


def _leading_to(end: int, first: int, before: dict[int, set[int]]) -> set[int]:
    """The blocks on ways from the first of a loop to an end of it."""
    found: set[int] = set()
    new = [end]
    while new:
        block = new.pop()
        if block not in found and block != first:
            found.add(block)
            new += before.get(block, ())
    return found


@dataclass(frozen=True)
class Loop:
    """Its first block, all of them, and which of the loops is the next around it."""

    first: int
    blocks: frozenset[int]
    within: int | None


def of_ptx(kernel: ptx.Kernel) -> Flow:
    """The flow of a kernel in PTX."""
    flow = Flow([[i.op for i in block] for block in kernel.blocks])
    for k, block in enumerate(kernel.blocks):
        last = block[-1] if block else None
        base = last.op.split(".")[0] if last else ""
        after = {k + 1} if not last or last.guard or base not in ("bra", "ret", "exit", "trap") else set()
        if last and base == "bra":
            after.add(kernel.starts[last.operands[-1]])
        flow.following.append({a for a in after if a < len(kernel.blocks)})
    return flow


# NVIDIA's: "/*0090*/ @P1 EXIT ;" and ".L_x_5:"; AMD's: "v_add_f32 ..." and ".LBB0_5:".
LINE = re.compile(
    r"^\s*(?:/\*[0-9a-f]+\*/\s+)?(?:(@!?U?P\w+)\s+)?([A-Z][\w.]*|[vs]_\w+|(?:global|buffer|ds|flat)_\w+)\b(.*)"
)
JUMPS = re.compile(r"(BRA|JMP|s_branch|s_cbranch_\w+)\b")
ENDS = re.compile(r"(EXIT|RET|s_endpgm|s_setpc_b64)\b")


def of_text(text: str) -> Flow:
    """The flow of a kernel that nvdisasm or a compiler shows.

    Raises:
        NotImplementedError: it jumps where its text does not tell.
    """
    flow, starts, jumps = Flow(), {}, {}
    for line in text.splitlines():
        if label := re.match(r"(\.L\w+):", line):
            if flow.blocks[-1]:
                flow.blocks.append([])
            starts[label[1]] = len(flow.blocks) - 1
        elif (found := LINE.match(line)) and not found[2].startswith("NOP"):
            guard, name, rest = found.groups()
            flow.blocks[-1].append(name)
            if name.startswith(("BRX", "JMX")):
                raise NotImplementedError(name)
            target = re.search(r"\.L\w+", rest)
            if target and (JUMPS.match(name) or name.startswith("CALL")):
                jumps[len(flow.blocks) - 1] = (
                    target[0],
                    bool(guard) or "cbranch" in name or bool(re.search(r"\b!?U?P\d,", rest)),
                )
                flow.blocks.append([])
            elif ENDS.match(name):
                jumps[len(flow.blocks) - 1] = "", bool(guard)
                flow.blocks.append([])
    for k in range(len(flow.blocks)):
        label_of, falls = jumps.get(k, ("", True))
        after = {k + 1} if falls and k + 1 < len(flow.blocks) else set()
        flow.following.append(after | ({starts[label_of]} if label_of in starts else set()))
    return flow


def _certain(flow: Flow, first: int, last: set[int], inside: frozenset[int]) -> set[int]:
    """The blocks that every way from the first to a last one goes through, of those inside."""

    def leads_there(without: int) -> bool:
        found, new = set(), [first]
        while new:
            block = new.pop()
            if block not in found and block != without and block in inside:
                found.add(block)
                new += [after for after in flow.following[block] if after != first]
        return bool(found & last)

    return {block for block in inside if block == first or not leads_there(block)}


def _parts(flow: Flow) -> list[tuple[int, set[int], set[int]]]:
    """Of the kernel and of each loop: its first block; of those in no loop inside, which are certain, and which not."""
    loops = flow.loops()
    every = frozenset(flow.reached())
    ends = {block for block in every if not flow.following[block]}
    whole = [Loop(0, every, None), *(Loop(x.first, x.blocks, 0 if x.within is None else x.within + 1) for x in loops)]
    found = []
    for i, loop in enumerate(whole):
        last = {max(ends, default=0)} if i == 0 else {b for b in loop.blocks if loop.first in flow.following[b]}
        inner = set().union(*(x.blocks for x in whole[1:] if x.within == i))
        certain = _certain(flow, loop.first, last, loop.blocks) - inner
        found.append((loop.first, certain, set(loop.blocks) - inner - certain))
    return found


def weights(flow: Flow, like: Flow, entered: Sequence[int]) -> list[float] | None:
    """How often each block is executed, from how often those of the same code in PTX were.

    Both must have the same loops, within each other in the same way; None where they have not. A block that every turn
    of its loop goes through counts as often as the loop goes round in PTX; others as large a part of that as
    instructions of such blocks were executed of the same loop in PTX.
    """
    if [loop.within for loop in flow.loops()] != [loop.within for loop in like.loops()]:
        return None
    result = [0.0] * len(flow.blocks)
    for (_, certain, other), (first, _, others) in zip(_parts(flow), _parts(like), strict=True):
        size = sum(len(like.blocks[b]) for b in others)
        part = sum(len(like.blocks[b]) * entered[b] for b in others) / size if size else 0.0
        for block in certain:
            result[block] = float(entered[first])
        for block in other:
            result[block] = part
    return result


CLASSES = {
    "float32": re.compile(
        r"F(ADD|MUL|FMA|SETP|SET|MNMX|SEL|CHK)|v_(pk_)?(add|sub|mul|fm|ma|min|med|cmp|floor|rndne)\w*_f32"
    ),
    "float64": re.compile(r"D(ADD|MUL|FMA|SETP|MNMX)|v_(add|mul|fm|max|min|cmp|floor|rndne|ldexp|div)\w*_f64"),
}


def issued(flow: Flow, weight: Sequence[float]) -> dict[str, float]:
    """Instructions of all kinds, and of some."""
    found = {"all": 0.0, **dict.fromkeys(CLASSES, 0.0)}
    for block, times in zip(flow.blocks, weight, strict=True):
        found["all"] += times * len(block)
        for kind, pattern in CLASSES.items():
            found[kind] += times * sum(bool(pattern.match(name)) for name in block)
    return found
