"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError, notice

MethodName = Annotated[
    str,
    typer.Option(
        "--method",
        help="discrete: needs no training. learned: its network comes along. unsupervised, weakly-supervised, pddnet: "
        "need --weights.",
    ),
]
Preset = Annotated[str, typer.Option(help="Of discrete: fast, default or accurate.")]
Weights = Annotated[
    str | None,
    typer.Option(
        help="Of the network: .safetensors, Keras' .h5, PDD-Net's two .pth with a comma; prostates, which comes along, "
        "of weakly-supervised."
    ),
]
Finetune = Annotated[
    int | None,
    typer.Option(help="Steps of refinement of the network's field, of learned 50 unless told, of unsupervised 0."),
]
Transform = Annotated[str, typer.Option(help="rigid, affine or deformable.")]
Init = Annotated[str, typer.Option(help="Start: none, moments, rigid, affine, learned; auto: by the headers.")]
InitMetric = Annotated[str | None, typer.Option(help="Of a rigid or affine start: mi, if not given; lncc, mind.")]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...")]
Memory = Annotated[str | None, typer.Option(help="Of results in .zarr: what may be taken, as 4GB; what is free.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors and warnings.")]

# Of register, what chooses and changes a method beside its name, preset and transform.
OF_METHODS: tuple[str, ...] = (
    "weight",
    "weights",
    "finetune",
    "metric",
    "mind_radius",
    "mind_dilation",
    "grid_spacing",
    "search_radius",
)
OF_METHODS += ("window", "refine_spacing", "step_spacing", "coarse_iterations", "iterations", "full_iterations", "rate")


def tell_unused(out: Path, memory: str | None) -> None:
    """Say that a result which is no .zarr is made whole, whatever --memory asks for."""
    if memory is not None:
        notice(f"--memory: not used, as {out} is no .zarr")


def choice(method: str, preset: str, transform: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What `methods.registration.choose` is given, of options that the user gave, or that are None or empty.

    Raises:
        InputError: contrasts have weights where that cannot be.
    """
    given = {name: value for name, value in options.items() if value not in (None, [], ())}
    weight, metric = given.pop("weight", None), given.get("metric")
    if weight:
        if "weights" in given:
            raise InputError("--weight: of contrasts, which a network with --weights has not; expected one of the two")
        if method != "discrete":
            raise InputError(f"--weight: of contrasts, which only --method discrete has, got it with {method}")
        given["weights"] = weight
    if metric and len(metric) == 1:
        given["metric"] = metric[0]
    return {"method": method, "preset": preset, "transform": transform, **given}
