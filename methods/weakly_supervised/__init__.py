"""Weakly supervised registration: a network that sees two images of different kinds, trained on labels alone.

label-reg (Hu et al., "Weakly-supervised convolutional neural networks for multimodal image registration", Medical Image
Analysis 2018).
"""

from .model import Architecture, LabelReg
from .moments import MomentsNet
from .nets import CompositeNet, GlobalNet, LocalNet, Plan

__all__ = ["Architecture", "CompositeNet", "GlobalNet", "LabelReg", "LocalNet", "MomentsNet", "Plan"]
