"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

MethodName = Annotated[
    str,
    typer.Option(
        "--method", help="discrete: needs no training. unsupervised, weakly-supervised, pddnet: need --weights."
    ),
]
Preset = Annotated[str, typer.Option(help="Of discrete: fast, default or accurate.")]
Weights = Annotated[
    str | None, typer.Option(help="Of the network: .safetensors, Keras' .h5, PDD-Net's two .pth with a comma.")
]
Finetune = Annotated[int | None, typer.Option(help="Steps of refinement of the network's field.")]
Transform = Annotated[str, typer.Option(help="rigid, affine or deformable.")]
Init = Annotated[str, typer.Option(help="Start: none, moments, rigid, affine; auto: by the headers.")]
InitMetric = Annotated[str | None, typer.Option(help="Of a rigid or affine start: mi, if not given; lncc, mind.")]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors and warnings.")]
