"""l2rfast's own: the presets, VoxelMorph with its published weights, and the network that comes with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import l2rfast
from l2rfast import data
from l2rfast.io import Volume

from .fields import Converted, Fields, Ready, Tool

WEIGHTS = "tutorials2019/unsupervised/models/cvpr2018_vm2_cc.h5"


def preset(name: str, **options: Any) -> Tool:
    """A preset, with no other option than these."""
    return lambda fixed, moving, folder: lambda: _registered(fixed, moving, preset=name, **options)


def learned(fixed: Volume, moving: Volume, folder: Path) -> Ready:
    """The network that comes with the package, fine-tuned as it is unless told."""
    return lambda: _registered(fixed, moving, method="learned")


def network(finetune: int) -> Tool:
    """VoxelMorph, and so many steps of refinement of its field."""

    def made(fixed: Volume, moving: Volume, folder: Path) -> Ready:
        # Of 255, from 0 to 1, as the network was trained.
        images = [Volume(volume.data / 255, volume.affine) for volume in (fixed, moving)]
        options = {"method": "unsupervised", "weights": str(data.path(WEIGHTS)), "finetune": finetune}
        return lambda: _registered(*images, **options)

    return made


def _registered(fixed: Volume, moving: Volume, **options: Any) -> Converted:
    found = l2rfast.register(fixed, moving, **options)
    return lambda: Fields(found.displacement, found.inverse, found.initial.matrix)
