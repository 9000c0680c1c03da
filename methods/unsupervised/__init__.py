"""Unsupervised registration: a network predicts the displacement field, trained by how well it aligns images.

VoxelMorph (Balakrishnan et al. 2018, 2019; Dalca et al. 2019), and a network that compares features (`Pyramid`).
"""

from .network import Architecture, Prediction, VoxelMorph
from .pyramid import Plan, Pyramid

__all__ = ["Architecture", "Plan", "Prediction", "Pyramid", "VoxelMorph"]
