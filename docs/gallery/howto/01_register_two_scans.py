r"""
Register two scans
==================

You have two scans of the same part of the body, and want one of them, *moving*, to lie on the other, *fixed*, place
for place. Here these are two brains of different people, with maps of their structures. The maps are not needed:
they are carried along, and show how well it went.
"""

import json

from l2rfast.cli.shell import shell
from l2rfast.data.scenes import brains, pair
from l2rfast.figures import show, show_file
from l2rfast.io import read_displacement, read_image

scans = pair()  # two NIfTI files and two label maps in a temporary folder
folder = scans.fixed.parent

# %%
# The command
# -----------
# Fixed comes first. What is found is written to a folder, which is made.

shell(
    r"""
    l2rfast register fixed.nii.gz moving.nii.gz --out result \
        --fixed-labels fixed_labels.nii.gz --moving-labels moving_labels.nii.gz
    """,
    folder,
)

# %%
# Look at the picture
# -------------------
# ``overview.png`` is there to be looked at first. In each row, one plane through the middle: fixed with the outlines
# of the warped labels on it, moving, warped, the difference to fixed before and after, and what the deformation makes
# of a regular grid. A fold would be marked in red.

show_file(folder / "result" / "overview.png")

# %%
# Look closer
# -----------
# A part of one slice. Each outline is that of a structure of *fixed*: on moving it runs beside the structures, on
# warped it should run along them.

images = brains() | {"warped": read_image(folder / "result" / "warped.nii.gz").data}
width, depth, height = images["fixed"].shape
part = (slice(width // 5, 3 * width // 5), slice(depth // 4, 3 * depth // 4), height // 2)
outline = images["fixed_labels"][part]
show({name: [images[name][part], outline] for name in ("fixed", "moving", "warped")})

# %%
# What is left of the difference is in what the one brain has and the other has not, and in noise.

difference = {f"fixed - {name}": images["fixed"] - images[name] for name in ("moving", "warped")}
show(difference, signed=difference)

# %%
# To scroll through the scans, with sliders and outlines, open ``result/report.html`` in a browser; ``l2rfast view
# result`` shows them there at full resolution.
#
# Did it work?
# ------------
# The last lines that the command has printed are a verdict, and say what to look at (:doc:`/concepts/6-verdict`). It
# cannot look for you. Three things tell it, in this order.
#
# 1. **The picture.** Structures that you know have to lie under each other. Numbers can be good where a gyrus lies on
#    its neighbour.
# 2. **The numbers before and after.** The similarity has to go up; where there are labels, so has the Dice
#    coefficient, 1 for structures that coincide.
# 3. **No folds, and no wild deformation.** The default method gives no folds. The standard deviation of the logarithm
#    of the Jacobian determinant tells how unevenly volumes change.
#
# ``report.json`` has all of them.

report = json.loads((folder / "result" / "report.json").read_text())
print("                   before  after")
for name, change in (("correlation", report["similarity"]["correlation"]), ("mean Dice", report["dice"]["mean"])):
    print(f"{name:<17}", *(f"{value:7.3f}" for value in change))
worst = min(report["dice"], key=lambda label: report["dice"][label][1])
print(f"Dice of label {worst:<3}", *(f"{value:7.3f}" for value in report["dice"][worst]), " the least")
print("folded voxels, %        ", report["digital_folding_percent"])

# %%
# The field
# ---------
# ``displacement.nii.gz`` says for every voxel of fixed where in moving its value was found. As a grid, with the two
# ways there and back:

there, _ = read_displacement(folder / "result" / "displacement.nii.gz")  # (1, 3, D, H, W), in voxels
back, _ = read_displacement(folder / "result" / "inverse_displacement.nii.gz")
show({"fixed to moving": there, "and back": back})

# %%
# If it is not good enough
# ------------------------
# - The scans do not even lie on each other roughly: :doc:`02_no_overlap`.
# - They are of different kinds, MR and CT for instance: :doc:`03_two_modalities`.
# - Something is in one of them that the other does not have: :doc:`04_masks_and_lesions`.
# - Small structures are off: ``--preset accurate`` takes more time and gets closer, see :doc:`the measurements
#   </performance/registration>`.
#
# :doc:`/reference/register` explains all options and files.
