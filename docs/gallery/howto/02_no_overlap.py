r"""
My scans do not overlap
=======================

A scanner writes into the header of a scan where in its world each voxel lies. Two scans of one session then lie on
each other. Scans of two sessions, of two scanners, or with a header that a conversion has lost, do not: a viewer
shows them apart, turned, or one of them not at all. A deformation cannot begin there. It needs a start.
"""

import json
import math

import numpy as np
import torch

from l2rfast.cli.shell import shell
from l2rfast.data.scenes import brains, pair
from l2rfast.figures import show, show_file
from l2rfast.io import Volume, read_image, write_image

folder = pair().fixed.parent
images = brains()

# sphinx_gallery_thumbnail_number = 2

# %%
# Such a pair
# -----------
# Here moving gets a header that turns it by 40 degrees about its third axis and puts it 300 mm to one side. In voxels
# it is the same image as before; in the world it lies elsewhere.

turn = math.radians(40)
header = np.eye(4)
header[:2, :2] = [[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]
header[0, 3] = 300
write_image(folder / "far.nii.gz", Volume(images["moving"], header))

# %%
# Registered as the headers have it, from where they put it, there is nothing to compare, and the command says so.

shell("l2rfast register fixed.nii.gz far.nii.gz --out far --init none --quiet", folder, code=2)

# %%
# The command
# -----------
# Without ``--init`` the headers are looked at first. Where they contradict each other, or the images, an affine map
# is searched. ``--quiet`` leaves out the progress.

shell("l2rfast register fixed.nii.gz far.nii.gz --out found --quiet", folder)
show_file(folder / "found" / "overview.png")

# %%
# In this picture *moving* is already where the start has put it. The report says what was done, and why:

options = json.loads((folder / "found" / "report.json").read_text())["options"]
print("start:  ", options["init"])
print("because:", options["init_because"])
shell("l2rfast describe found/affine.txt", folder)

# %%
# That is the turn by 40 degrees and the 300 mm, as near as two different heads let it be known, and what they differ
# by in size and shape as a whole.
#
# Did it work?
# ------------
# Compare with the same scans without the spoiled header: the two results should be alike. ``warped`` is on the grid
# of fixed in both cases.

shell("l2rfast register fixed.nii.gz moving.nii.gz --out straight --quiet", folder)
warped = {name: read_image(folder / name / "warped.nii.gz").data for name in ("straight", "found")}
show({"fixed": images["fixed"], "header right": warped["straight"], "header spoiled": warped["found"]})
head = images["fixed_labels"] > 0
for name, image in warped.items():
    both = torch.stack([images["fixed"][head], image[head]])
    print(f"{name:<9} correlation with fixed, within its structures: {torch.corrcoef(both)[0, 1]:.3f}")

# %%
# With your own scans there is no such comparison. Look at the column *moving* of the picture: after the start, and
# before any deformation, it should look like *fixed*, upright, not mirrored, and of about its size.
#
# If the start is wrong
# ---------------------
# - ``--init rigid`` if both are of one person, ``--init moments`` if only the centres and axes of mass can be
#   trusted.
# - ``--init-metric mind`` or ``lncc`` compares by something else than mutual information.
# - ``--fixed-mask`` and ``--moving-mask`` show what to look at, if much of one image is not in the other.
# - Four landmarks or more on both scans, ``--fixed-landmarks`` and ``--moving-landmarks``, are a start of their own,
#   which is tried among the others. They can be set in 3D Slicer.
# - ``--initial FILE`` goes on from a transform that another tool, or you by hand in ITK-SNAP or 3D Slicer, have
#   found:
#
# .. code-block:: console
#
#    $ l2rfast register fixed.nii.gz far.nii.gz --out result --initial by_hand.txt
#
# ``--transform rigid`` or ``--transform affine`` ends with the start, if that is all you want.
# :doc:`/reference/register` lists the options.
