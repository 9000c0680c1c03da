"""Unsupervised registration: a network predicts the displacement field, trained by how well it aligns images.

VoxelMorph (Balakrishnan et al. 2018, 2019; Dalca et al. 2019).
"""

from .network import Architecture, Prediction, VoxelMorph

__all__ = ["Architecture", "Prediction", "VoxelMorph"]
