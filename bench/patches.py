"""The table of docs/reference/compat.md: what a patch replaces, how much faster it is, and how far from that."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

from .harness import OURS
from .registration import cost
from .report import by_set, digits, table
from .tools import CONVEXADAM, PATCHED


@dataclass(frozen=True)
class Replaced:
    """A row of the table of patches.

    Attributes:
        library, versions, name: what is replaced.
        ours, theirs: what we compute of it, and what the library still does.
        cases: of the report, whose differences and times are those of the row.
    """

    library: str
    versions: str
    name: str
    ours: str
    theirs: str
    cases: tuple[str, ...] = ()


LOSS = "LocalNormalizedCrossCorrelationLoss"
REPLACED = [
    Replaced(
        "`torch`",
        "2.11 to 2.15",
        "`nn.functional.grid_sample`",
        "bilinear, nearest; all paddings; both alignments",
        "bicubic; integer images",
        ("torch, F.grid_sample",),
    ),
    Replaced(
        "",
        "",
        "`nn.functional.affine_grid`, and `grid_sample` of its grid",
        "in one, the grid is not made; a grid that is used otherwise is PyTorch's",
        "an axis of one voxel, inside compiled and traced programs, transforms of `torch.func`",
        ("torch, F.affine_grid and F.grid_sample",),
    ),
    Replaced(
        "`voxelmorph`",
        "0.3.4",
        "`nn.functional.spatial_transform`, and with it `integrate_vec`, `nn.modules.*`",
        "displacement fields on the image's grid, all paddings, with and without batch",
        "affine matrices, coordinates, `align_corners=False`, other meshgrids, fields of another size, an axis of one "
        "voxel",
        ("voxelmorph, SpatialTransformer", "voxelmorph, IntegrateVelocityField"),
    ),
    Replaced("", "", "`nn.functional.compose`", "displacement fields", "affine matrices", ("voxelmorph, compose",)),
    Replaced(
        "`voxelmorph` 0.2",
        "not needed",
        "`compat.voxelmorph.layers`: `SpatialTransformer`, `VecInt`, `ResizeTransform`; `.losses`: `NCC`, `Grad`, "
        "`Dice`",
        "all, by import: its package needs a Python before 3.11",
        "nothing",
    ),
    Replaced(
        "`neurite`",
        "0.3 to 0.3.4",
        "`nn.functional.ncc`",
        "odd windows, every reduction",
        "even windows, eps 0, images that are not finite",
        ("neurite, ncc",),
    ),
    Replaced(
        "`monai`",
        "1.4 to 1.6",
        "`networks.blocks.Warp`, and with it `DVF2DDF`",
        "bilinear, nearest; all paddings",
        "bicubic, jitter, an axis of one voxel, MONAI's compiled extension",
        ("monai, Warp", "monai, DVF2DDF"),
    ),
    Replaced(
        "",
        "",
        f"`losses.{LOSS}`",
        "every kernel and reduction, 1-D to 3-D",
        "`smooth_dr` 0; before 1.6 gaussian kernels of more than 3, which are cut to one side",
        (f"monai, {LOSS}",),
    ),
    Replaced(
        "",
        "",
        "`losses.DiffusionLoss`, `losses.BendingEnergyLoss`",
        "the mean, 2-D and 3-D",
        "`normalize`, other reductions, 1-D",
        ("monai, DiffusionLoss", "monai, BendingEnergyLoss"),
    ),
    Replaced(
        "",
        "",
        "`losses.GlobalMutualInformationLoss`",
        "gaussian and b-spline kernels, every reduction",
        "fewer than 6 bins",
        ("monai, GlobalMutualInformationLoss, gaussian", "monai, GlobalMutualInformationLoss, b-spline"),
    ),
    Replaced(
        "`fireants`",
        "1.4 to 1.5",
        f"`losses.cc.{LOSS}`",
        "rectangular and triangular kernels, masked too",
        "gaussian kernels, signed correlation",
        (f"fireants, {LOSS}",),
    ),
    Replaced(
        "",
        "",
        "`interpolator`: samplers and warp composers",
        "their `F.grid_sample` and `F.affine_grid`",
        "as `torch`",
        ("fireants, grid sampler", "fireants, warp composer"),
    ),
    Replaced(
        "`convexadam`",
        "0.2",
        "`MINDSSC`, `correlate`, `coupled_convex`, `inverse_consistency`",
        "float32, float64",
        "float16, gradients, other sets of displacements",
        tuple(f"convexadam, {name}" for name in ("MINDSSC", "correlate", "coupled_convex", "inverse_consistency")),
    ),
    Replaced(
        "",
        "",
        "`convex_adam_pt`",
        "on the CPU",
        "masks, `ic=False`, smoothing afterwards, no Adam, `verbose`; these run on the functions above",
    ),
    Replaced(
        "DeepReg",
        "not needed",
        "`compat.deepreg`: `LocalNormalizedCrossCorrelation`, and with `Loss`",
        "all, by import: DeepReg is for TensorFlow",
        "nothing",
    ),
]
STEPS = ("MONAI, a step of a training script", "VoxelMorph 0.3, a step of a training script")


def patches(report: dict[str, Any], registration: dict[str, Any]) -> str:
    """What is replaced, how far it is from the library's result, and how many times longer the library takes."""
    sets = by_set(report)
    head = ["library", "versions", "name", "by us", "by the library", "largest difference"]
    head += [f"times faster, {name}" for name in sets]
    rows = []
    for row in REPLACED:
        results = [[found[name]["results"] for name in row.cases] for found in sets.values()]
        difference = f"{max(r[OURS]['error'] for own in results for r in own):.0e}" if row.cases else ""
        faster = [", ".join(digits(_other(r)["times_faster"]) for r in own) for own in results]
        rows.append([row.library, row.versions, row.name, row.ours, row.theirs, difference, *faster])
    steps = [
        [
            f"{name}, {instruction_set}",
            *(f"{digits(median(found[name]['results'][who]['seconds']))} s" for who in ("the script as it is", OURS)),
            digits(_other(found[name]["results"])["times_faster"]),
        ]
        for name in STEPS
        for instruction_set, found in sets.items()
    ]
    figures = registration["figures"]
    steps.append(
        [
            "ConvexAdam's `convex_adam_pt`, two brains of 160 x 192 x 224 voxels",
            *(f"{cost(figures[who])}, Dice {figures[who]['Dice']:.3f}" for who in (CONVEXADAM, PATCHED)),
            digits(figures[PATCHED][f"times faster than {CONVEXADAM}"]),
        ]
    )
    machine = report["machine"]
    return "\n\n".join(
        [
            table(head, rows),
            table(["script", "before", "after", "times faster"], steps),
            f"{machine['cpu']}, {machine['threads']} threads, {machine['instruction set']}, {report['date']}; sizes, "
            "spread and memory in [the report](../performance/compat.md), of ConvexAdam in "
            "[that of registrations](../performance/registration.md).",
        ]
    )


def _other(results: dict[str, Any]) -> dict[str, Any]:
    """Of a case with one peer, that of the peer."""
    (name,) = results.keys() - {OURS}
    peer: dict[str, Any] = results[name]
    return peer
