r"""
Masks and lesions
=================

A tumour, a resection, a cast shadow, a tube: something is in one scan that the other has nothing for. A
registration that does not know it pulls tissue from around until the difference is small. A mask says where a scan
counts. Inside the lesion the field is then what its surroundings make of it.
"""

import nibabel as nib
import torch

from l2rfast.cli.shell import shell
from l2rfast.data.scenes import brains, pair
from l2rfast.figures import show, show_file
from l2rfast.io import Volume, read_displacement, read_image, write_image

folder = pair().fixed.parent
images = brains()
affine = read_image(pair().fixed).affine

# sphinx_gallery_thumbnail_number = 3

# %%
# Such a pair
# -----------
# Fixed gets a dark ball beside its middle, where tissue was. As the scan without it is there too, so is the truth:
# the field that is found without the lesion.

shape = images["fixed"].shape
centre = [round(0.62 * shape[0]), round(0.45 * shape[1]), shape[2] // 2]
radius = min(shape) // 9
places = torch.stack(torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij"))
distance = (places - torch.tensor(centre)[:, None, None, None]).float().norm(dim=0)
lesion = distance < radius
sick = torch.where(lesion, 0.15 * images["fixed"].max() * torch.rand(shape), images["fixed"])
write_image(folder / "lesion.nii.gz", Volume(sick, affine))

# %%
# The mask is 0 in the lesion and 1 elsewhere: what counts. Drawn by hand it may be generous, a voxel or two wider
# than what it is to hide.

mask = (distance >= radius + 1).to(torch.uint8)
write_image(folder / "counts.nii.gz", Volume(mask, affine))
show({"fixed": images["fixed"], "fixed with a lesion": [sick, lesion.to(torch.uint8)], "moving": images["moving"]})

# %%
# The command
# -----------
# Once without a mask, once with it, and once without a lesion.

shell(
    """
    l2rfast register lesion.nii.gz moving.nii.gz --out unmasked --quiet
    l2rfast register lesion.nii.gz moving.nii.gz --out masked --quiet --fixed-mask counts.nii.gz
    l2rfast register fixed.nii.gz moving.nii.gz --out healthy --quiet
    """,
    folder,
)
show_file(folder / "masked" / "overview.png")

# %%
# Did it work?
# ------------
# The change of volume tells: ``l2rfast jacobian`` writes its logarithm, and a registration that tries to make a
# lesion of healthy tissue squeezes or stretches it there.

names = ("healthy", "unmasked", "masked")
for name in names:
    shell(f"l2rfast jacobian {name}/displacement.nii.gz --out {name}/jacobian.nii.gz", folder)
changes = {name: torch.from_numpy(nib.load(folder / name / "jacobian.nii.gz").get_fdata()).float() for name in names}
show({name: [change, lesion.to(torch.uint8)] for name, change in changes.items()}, signed=changes)

# %%
# How far each field is from the one without a lesion, in the lesion and in a shell around it:

fields = {name: read_displacement(folder / name / "displacement.nii.gz")[0][0] for name in names}
around = (distance >= radius) & (distance < 2 * radius)
for name in ("unmasked", "masked"):
    error = (fields[name] - fields["healthy"]).norm(dim=0)
    print(f"{name:<8} in the lesion {error[lesion].mean():.2f} voxels, around it {error[around].mean():.2f} voxels")

# %%
# With your own scans, where no healthy one is there to compare with, look at the grid of the picture and at the
# Jacobian: in the lesion they should go on as around it.
#
# More about masks
# ----------------
# - ``--moving-mask`` is the same for the moving scan; both may be given.
# - A mask of the brain keeps what lies around it out of the comparison. It does not cut: a tight mask hides the
#   border, by which much of an alignment is found. Leave some background in it.
# - Scans in which NaN marks what is not there need no mask: ``--nan-outside``.
# - What is measured before and after counts within the masks alone.
# - If the lesion is in the moving scan and you want it on fixed, take its outline along as ``--moving-labels``.
#
# :doc:`/reference/input` has the rules for masks.
