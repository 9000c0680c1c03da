r"""
On a GPU
========

.. warning::

   No GPU has run these kernels yet. Their arithmetic is tested on the CPU, where Triton's are interpreted, and they
   compile for GPUs of NVIDIA and AMD. What is said below of a GPU is how it is meant to be, and none of it was run
   when this page was built.
"""

import torch

import l2rfast
from l2rfast.cli.shell import shell
from l2rfast.data.scenes import pair

# %%
# What runs here
# --------------
# ``l2rfast info`` says what there is on a machine: this is the one that built the page. ``triton`` and ``cuda`` stand
# where an operation has such kernels *and* they can be loaded; *runs on cpu* is what a tensor on the CPU is given to.
# With a GPU there is a column for it.

shell("l2rfast info")

# %%
# Install
# -------
# With a PyTorch for CUDA and its ``nvcc``, the CUDA kernels are built with the others; PyTorch for GPUs brings
# Triton.
#
# .. code-block:: console
#
#    $ pip install torch
#    $ L2RFAST_CUDA=1 pip install .
#    $ l2rfast info
#
# :doc:`/reference/install` tells more.
#
# Register
# --------
# The same commands, with a device. Files and results are the same.
#
# .. code-block:: console
#
#    $ l2rfast register FIXED.nii.gz MOVING.nii.gz --out RESULT --device cuda
#    $ l2rfast train unsupervised --data SCANS --out RUN --hold-out 10 --velocity --device cuda
#    $ torchrun --nproc-per-node 2 -m l2rfast.cli train unsupervised --data SCANS --out RUN --hold-out 10 --device cuda
#
# A device that is not there is an error, and no CPU takes its place:

print("GPUs here:", torch.cuda.device_count())
if not torch.cuda.is_available():
    shell("l2rfast register fixed.nii.gz moving.nii.gz --out result --device cuda --quiet", pair().fixed.parent, code=2)

# %%
# The layers
# ----------
# Tensors on a GPU are computed there. Where an operation has kernels of several kinds the fastest is taken; where it
# has none for the device, the reference, in PyTorch.

device = "cuda" if torch.cuda.is_available() else "cpu"
image = torch.rand(1, 1, 32, 32, 32, device=device)
disp = torch.rand(1, 3, 32, 32, 32, device=device, requires_grad=True)
loss = -l2rfast.local_ncc(image, l2rfast.warp(image, disp))
loss.backward()
print("computed on", disp.grad.device.type)

# %%
# Did it work?
# ------------
# Compare once with the CPU. On a GPU, sums are taken in another order, so fields differ by rounding, and the
# registrations of two scans by a little more, as each step goes on from the one before.
#
# .. code-block:: console
#
#    $ make test-gpu    # the tests of all operations on that machine
#    $ make bench-gpu   # the same, tuning, and the measurements
#
# :doc:`/performance/predicted` says how long GPUs should take: a prediction, from what the compiled kernels hold.
