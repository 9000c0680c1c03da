"""The cases, by family: each is made when its turn comes, so that only its own inputs are in memory."""

from __future__ import annotations

from collections.abc import Callable

from ..harness import Case
from . import compat, discrete, growth, labels, losses, pddnet, probabilistic, training, warping
from .inputs import SIZES, Search, Size

__all__ = ["APART", "FAMILIES", "SIZES", "Search", "Size"]

FAMILIES: dict[str, list[Callable[[Size], Case]]] = {
    **warping.FAMILIES,
    **discrete.FAMILIES,
    **probabilistic.FAMILIES,
    **losses.FAMILIES,
    **growth.FAMILIES,
    **training.FAMILIES,
    **labels.FAMILIES,
    **pddnet.FAMILIES,
    **compat.FAMILIES,
}

# Families with a report of their own.
APART = [*compat.FAMILIES]
