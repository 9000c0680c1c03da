r"""
Apply, invert, convert
======================

Two scans are registered. Now a label map, a second contrast, points or a surface have to go the same way, or back,
or into another program.
"""

import numpy as np
import torch

from l2rfast.cli.shell import shell
from l2rfast.data.scenes import brains, pair
from l2rfast.figures import show
from l2rfast.io import read_image, read_labels
from l2rfast.metrics import dice

folder = pair().fixed.parent
images = brains()
shell("l2rfast register fixed.nii.gz moving.nii.gz --out result --quiet --jacobian", folder)

# %%
# What a transform is
# -------------------
# ``displacement.nii.gz`` and ``affine.txt`` together lead from a place of *fixed* to the place of *moving* that
# corresponds to it: a point of fixed goes through the first, then through the second. In this order they are given.

shell(
    """
    l2rfast describe result/displacement.nii.gz
    l2rfast describe result/affine.txt
    """,
    folder,
)

# %%
# Apply: moving things onto fixed
# -------------------------------
# Whatever lies on the grid of moving. ``--interpolation vote`` is for label maps: it makes no labels that were not
# there. However many transforms there are, values are interpolated once.

shell(
    r"""
    l2rfast apply moving_labels.nii.gz --reference fixed.nii.gz --out labels_on_fixed.nii.gz --interpolation vote \
        --transform result/displacement.nii.gz --transform result/affine.txt
    """,
    folder,
)

# %%
# Apply: fixed things onto moving
# -------------------------------
# The other way: the inverses, in the other order. ``inverse_displacement.nii.gz`` has been written for that.

shell(
    r"""
    l2rfast apply fixed_labels.nii.gz --reference moving.nii.gz --out labels_on_moving.nii.gz --interpolation vote \
        --transform inverse:result/affine.txt --transform result/inverse_displacement.nii.gz
    """,
    folder,
)

# %%
# Did it work? On either scan the outlines of what came from the other should lie on the structures, and Dice with the
# scan's own labels tells how far they do.

reference = read_image(pair().fixed)
for side in ("fixed", "moving"):
    carried = read_labels(folder / f"labels_on_{side}.nii.gz", reference).data
    overlap = dice(images[f"{side}_labels"], carried)
    print(f"on {side:<7} mean Dice {np.nanmean(list(overlap.values())):.3f}")
carried = {side: read_labels(folder / f"labels_on_{side}.nii.gz", reference).data for side in ("fixed", "moving")}
show(
    {
        "fixed, labels of moving": [images["fixed"], carried["fixed"]],
        "moving, labels of fixed": [images["moving"], carried["moving"]],
    }
)

# %%
# Points
# ------
# Points of *fixed* go the way that the transform goes. (Images that are resampled look as if they went the other way:
# for each voxel of fixed the value is fetched from moving.) Points of moving go through the inverse: ``--from
# moving``. Here are four voxels of fixed, there and back; 3D Slicer's files, surfaces and streamlines go likewise.

shape = torch.tensor(images["fixed"].shape)
points = (shape * torch.tensor([[0.4, 0.4, 0.5], [0.6, 0.4, 0.5], [0.5, 0.6, 0.4], [0.5, 0.5, 0.6]])).round()
np.savetxt(folder / "points.csv", points, delimiter=",", header="x,y,z", comments="", fmt="%g")
shell(
    r"""
    l2rfast apply-points points.csv --out in_moving.csv --coordinates voxels --fixed fixed.nii.gz \
        --moving moving.nii.gz --transform result/displacement.nii.gz --transform result/affine.txt
    l2rfast apply-points in_moving.csv --out again.csv --from moving --coordinates voxels --fixed fixed.nii.gz \
        --moving moving.nii.gz --transform result/displacement.nii.gz --transform result/affine.txt
    """,
    folder,
)
there, again = (np.loadtxt(folder / name, delimiter=",", skiprows=1) for name in ("in_moving.csv", "again.csv"))
print("moved by, voxels:     ", np.linalg.norm(there - points.numpy(), axis=1).round(2))
print("there and back, voxels:", np.linalg.norm(again - points.numpy(), axis=1).round(4))

# %%
# Invert, compose
# ---------------
# Both write one file for what was several. A chain of transforms may come from several tools.

shell(
    """
    l2rfast compose result/displacement.nii.gz result/affine.txt --out fixed_to_moving.nii.gz --fixed fixed.nii.gz
    l2rfast invert fixed_to_moving.nii.gz --out moving_to_fixed.nii.gz --moving moving.nii.gz
    l2rfast describe moving_to_fixed.nii.gz
    """,
    folder,
)

# %%
# Convert
# -------
# ITK-SNAP, 3D Slicer, ANTs and SimpleITK read the files as they are. For other tools there is ``convert``, which
# needs the two images where a format's numbers depend on them. FLIRT's and greedy's matrices look alike, so a file of
# such a kind is read by its name alone: ``flirt:FILE``.

shell(
    """
    l2rfast convert result/affine.txt --to flirt --fixed fixed.nii.gz --moving moving.nii.gz --out affine.mat
    l2rfast convert result/affine.txt --to freesurfer --fixed fixed.nii.gz --moving moving.nii.gz --out affine.lta
    l2rfast convert result/displacement.nii.gz --to x5 --fixed fixed.nii.gz --moving moving.nii.gz --out field.x5
    l2rfast describe flirt:affine.mat --fixed fixed.nii.gz --moving moving.nii.gz
    """,
    folder,
)

# %%
# Did it work? Read back, it is the same transform. Before you rely on it look once at an image that the other tool
# has resampled with it, beside ``warped.nii.gz``: the flaws of a conversion are gross, an image turned, mirrored or
# shifted.
#
# Where volumes grow and shrink
# -----------------------------
# The Jacobian determinant is the volume of moving over that of fixed, at each voxel. Its logarithm is above 0 where
# moving is larger. ``--jacobian`` has had it written.

change = read_image(folder / "result" / "jacobian.nii.gz").data
show({"fixed": images["fixed"], "log Jacobian": change}, signed=["log Jacobian"])

# %%
# :doc:`/reference/transforms` says of every format what it means, and by which tool that was shown.
