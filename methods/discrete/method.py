"""The discrete method, its options chosen."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..intensities import standardised
from ..method import Method
from .convex import register_discrete
from .options import choose


def discrete(preset: str, **options: Any) -> Method:
    """See `methods.discrete.options.choose`."""
    chosen = choose(preset, **options)
    return Method(
        {"method": "discrete", "preset": preset, **asdict(chosen)},
        standardised,
        lambda pair, stages: register_discrete(pair, chosen, stages),
        check_contrasts=chosen.contrasts,
    )
