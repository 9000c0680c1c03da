"""Tools that register two scans, ours among them: a module for each, one shape for all (`fields.Tool`)."""

from .ants import ants
from .convexadam import convexadam, patched
from .dipy import dipy
from .elastix import elastix
from .fields import Fields, Tool
from .fireants import fireants
from .greedy import after_affine, greedy
from .ours import learned, network, preset

DEFAULT = "l2rfast default"
FAST, ACCURATE = "l2rfast fast", "l2rfast accurate"
FINETUNE = 50
NETWORK, TUNED = "l2rfast VoxelMorph", f"l2rfast VoxelMorph, {FINETUNE} steps"
LEARNED = "l2rfast learned"
CONVEXADAM = "convexAdam"
PATCHED = f"{CONVEXADAM}, patched"
MIND, MUTUAL = f"{DEFAULT}, metric mind", f"{DEFAULT}, metric mi"
GREEDY_AFFINE = "greedy, affine and NCC"

# The brains are aligned: those that can leave the affine out do.
TOOLS: dict[str, Tool] = {
    FAST: preset("fast"),
    DEFAULT: preset("default"),
    ACCURATE: preset("accurate"),
    NETWORK: network(0),
    TUNED: network(FINETUNE),
    LEARNED: learned,
    CONVEXADAM: convexadam,
    PATCHED: patched,
    "greedy, NCC": greedy,
    "elastix, B-spline": elastix,
    "ANTs SyN, CC": ants("SyN"),
    "DIPY SyN, CC": dipy,
    "FireANTs": fireants,
    "ANTs SyNOnly, CC": ants("SyNOnly", reg_iterations=(100, 70, 50, 20)),
}
# For scans that are not aligned, or differ in contrast.
OTHERS: dict[str, Tool] = {
    MIND: preset("default", metric="mind"),
    MUTUAL: preset("default", metric="mi"),
    GREEDY_AFFINE: after_affine,
}
# What would belong here.
MISSING = {"syntx": "its version 5.4.15 imports antstorch, which it does not ask for and no package index has"}
DISTRIBUTIONS = ("antspyx", "convexadam", "dipy", "fireants", "itk-elastix", "picsl-greedy")

__all__ = ["DISTRIBUTIONS", "OTHERS", "TOOLS", "Fields", "Tool"]
