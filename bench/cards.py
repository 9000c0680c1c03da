"""What GPUs can do by their makers' documents: rates, multiprocessors, clocks, bandwidths."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """What a multiprocessor (AMD: compute unit) has, and does in a cycle.

    Attributes:
        lanes: of a warp.
        warps, blocks, registers, shared: at most resident: the last two are numbers of 32 bits and bytes.
        granule: registers of a thread are given out in multiples of so many.
        float32, float64: lanes of additions, multiplications, or both at once.
        converted: lanes of conversions to and from 64 bits.
        special: lanes of reciprocals, roots, exponentials, logarithms.
        banks: bytes through shared memory, and as many through the first-level cache.
        issued: instructions of warps.
    """

    lanes: int
    warps: int
    blocks: int
    registers: int
    shared: int
    granule: int
    float32: int
    float64: int
    converted: int
    special: int
    banks: int
    issued: int

    def occupancy(self, registers: int, shared: int, threads: int) -> float:
        """The part of the warps that can be resident which are, of blocks of so many threads."""
        warps = math.ceil(threads / self.lanes)
        of_thread = max(self.granule, math.ceil(registers / self.granule) * self.granule)
        blocks = min(self.blocks, self.warps // warps, self.registers // (of_thread * self.lanes * warps))
        if shared:
            blocks = min(blocks, self.shared // (shared + RESERVED))
        return blocks * warps / self.warps


RESERVED = 1024  # bytes of shared memory that CUDA keeps of every block (Tuning Guides of Ampere to Blackwell)

# NVIDIA: CUDA C++ Programming Guide, tables "Technical Specifications per Compute Capability" and "Throughput of Native
# Arithmetic Instructions"; 128 bytes in a cycle from the white papers of GA100, GA102 and GH100. AMD: CDNA 3 white
# paper and instruction set guide (512 vector registers of a lane on each of 4 SIMDs, which issue a wave of 64 in four
# cycles).
ARCHITECTURES = {
    "sm_80": Architecture(32, 64, 32, 65536, 164 << 10, 8, 64, 32, 16, 16, 128, 4),
    "sm_86": Architecture(32, 48, 16, 65536, 100 << 10, 8, 128, 2, 2, 16, 128, 4),
    "sm_89": Architecture(32, 48, 24, 65536, 100 << 10, 8, 128, 2, 2, 16, 128, 4),
    "sm_90": Architecture(32, 64, 32, 65536, 228 << 10, 8, 128, 64, 16, 16, 128, 4),
    "sm_100": Architecture(32, 64, 32, 65536, 228 << 10, 8, 128, 64, 16, 16, 128, 4),
    "gfx942": Architecture(64, 32, 16, 4 * 512 * 64, 64 << 10, 8, 64, 64, 64, 16, 128, 1),
}


@dataclass(frozen=True)
class Card:
    """A GPU.

    Attributes:
        name: for people; `told`: a part of what the driver calls it, in lower case.
        bandwidth: bytes of memory in a second.
        source: of the numbers.
    """

    name: str
    told: str
    target: str
    multiprocessors: int
    gigahertz: float
    bandwidth: float
    source: str

    @property
    def architecture(self) -> Architecture:
        return ARCHITECTURES[self.target]


# Highest clocks: those that the float32 rates of the sheets follow from.
CARDS = (
    Card("A100", "a100", "sm_80", 108, 1.41, 2.039e12, "NVIDIA A100 80GB SXM data sheet: 19.5 TFLOPS"),
    Card("H100", "h100", "sm_90", 132, 1.98, 3.35e12, "NVIDIA H100 SXM data sheet: 67 TFLOPS"),
    Card("A40", "a40", "sm_86", 84, 1.74, 696e9, "NVIDIA A40 data sheet: 37.4 TFLOPS"),
    Card("RTX 4090", "4090", "sm_89", 128, 2.52, 1008e9, "NVIDIA Ada GPU architecture white paper: 82.6 TFLOPS"),
    Card("RTX 6000 Ada", "6000 ada", "sm_89", 142, 2.505, 960e9, "NVIDIA RTX 6000 Ada data sheet: 91.1 TFLOPS"),
    Card("MI300X", "mi300x", "gfx942", 304, 2.1, 5.3e12, "AMD Instinct MI300X data sheet: 81.7 TFLOPS of float64"),
)


def card_called(told: str) -> Card | None:
    """The card that a driver calls so; None of one that is not here."""
    words = told.lower()
    return next((card for card in CARDS if card.told in words), None)
