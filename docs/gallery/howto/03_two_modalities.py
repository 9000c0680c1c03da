r"""
Two modalities
==============

MR and CT, T1 and T2, ultrasound and MR: what is bright in one is dark in the other. Differences of intensities say
nothing then. What can be compared are statistical relations (mutual information) or the structure around each voxel
(MIND).
"""

import json

import torch

from l2rfast.cli.shell import shell
from l2rfast.data.scenes import brains, pair
from l2rfast.figures import show, show_file
from l2rfast.io import Volume, read_image, write_image

folder = pair().fixed.parent
images = brains()

# sphinx_gallery_thumbnail_number = 3

# %%
# Such a pair
# -----------
# The two brains are both T1 images. So that the truth is known, moving gets other intensities: bright where it was of
# a medium grey, dark where it was bright. That is no real T2, but like one it has no function of one sign that leads
# from one contrast to the other. On real MR and CT the recipes are measured: :doc:`/recipes`.

moving = images["moving"]
grey = moving / torch.quantile(moving.flatten()[::97], 0.99)
other = torch.exp(-(((grey - 0.45) / 0.25) ** 2)) * (grey > 0.05)
write_image(folder / "other.nii.gz", Volume(other, read_image(pair().moving).affine))
show({"fixed": images["fixed"], "moving, as it was": moving, "moving, other contrast": other})

# %%
# The command
# -----------
# It is the same. After the discrete search, which works on MIND features in any case, the relation between the two
# images is measured, and what the refinement compares by is chosen.

shell(
    r"""
    l2rfast register fixed.nii.gz other.nii.gz --out contrasts --quiet \
        --fixed-labels fixed_labels.nii.gz --moving-labels moving_labels.nii.gz
    """,
    folder,
)
report = json.loads((folder / "contrasts" / "report.json").read_text())
print("metric: ", report["options"]["metric"])
print("because:", report["options"]["metric_because"])
show_file(folder / "contrasts" / "overview.png")

# %%
# Did it work?
# ------------
# The differences in the picture cannot tell: they are large wherever the contrasts differ. Outlines can, and a
# chessboard of both images: edges have to go on from one field to the next.


def chessboard(a: torch.Tensor, b: torch.Tensor, fields: int = 6) -> torch.Tensor:
    """Fields of the one and the other image by turns, each scaled to its own range."""
    a, b = (image / torch.quantile(image.flatten()[::97], 0.99) for image in (a, b))
    index = torch.stack(torch.meshgrid(*(torch.arange(n) * fields // n for n in a.shape), indexing="ij"))
    return torch.where(index.sum(0) % 2 == 0, a, b).clamp(0, 1)


warped = read_image(folder / "contrasts" / "warped.nii.gz").data
outline = images["fixed_labels"]
show(
    {"before": chessboard(images["fixed"], other), "after": chessboard(images["fixed"], warped)},
    {"moving, outlines of fixed": [other, outline], "warped, outlines of fixed": [warped, outline]},
)

# %%
# What each metric makes of it
# ----------------------------
# ``--metric`` decides by hand. By squared differences (``ssd``) the refinement tries to make dark things small, and
# spoils what the search has found. The maps of structures, which play no part in the registration, measure it.

print(
    f"before: mean Dice {report['dice']['mean'][0]:.3f}, {report['options']['metric']}: {report['dice']['mean'][1]:.3f}"
)
for metric in ("ssd", "mi"):
    shell(
        rf"""
        l2rfast register fixed.nii.gz other.nii.gz --out by_{metric} --metric {metric} --quiet \
            --fixed-labels fixed_labels.nii.gz --moving-labels moving_labels.nii.gz
        """,
        folder,
    )
    found = json.loads((folder / f"by_{metric}" / "report.json").read_text())
    print(f"{metric}: mean Dice {found['dice']['mean'][1]:.3f}")

# %%
# If there are several contrasts of both, give them all. One field is found that serves them together, each with its
# own metric:
#
# .. code-block:: console
#
#    $ l2rfast register T1A.nii.gz T1B.nii.gz --fixed T2A.nii.gz --moving T2B.nii.gz --out result \
#          --metric lncc --metric lncc
#
# What the measures are and what each is blind to is the second of :doc:`/lectures/index`.
