"""The discrete method, its options chosen."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

from l2rfast.errors import notice

from ..intensities import standardised
from ..method import Found, Method, Pair
from ..stages import Stages
from .convex import register_discrete
from .options import DiscreteOptions, choose, idle


def discrete(preset: str, **options: Any) -> Method:
    """See `methods.discrete.options.choose`."""
    chosen = choose(preset, **options)
    return Method(
        {"method": "discrete", "preset": preset, **asdict(chosen)},
        standardised,
        partial(_run, chosen, options),
        check_contrasts=chosen.contrasts,
    )


def _run(chosen: DiscreteOptions, given: dict[str, Any], pair: Pair, stages: Stages) -> Found:
    """What was given and comes to nothing by the metric to which ``auto`` comes, is said."""
    found = register_discrete(pair, chosen, stages)
    metric = found.options.get("metric", chosen.metric)
    metrics = (metric,) if isinstance(metric, str) else metric
    unused = idle(given, metrics)
    if given.get("full_iterations") and not found.options.get("full_iterations", 1):
        unused.append("full_iterations")
    if unused:
        notice(f"{', '.join(unused)}: not used, as {' and '.join(dict.fromkeys(metrics))} is what auto came to")
    return found
