r"""
Register a cohort
=================

Every scan of a study to one template, a hundred times over: on all cores, with a table that says what to register,
and a page that shows which pair went wrong. What is finished stays, whatever ends the run.
"""

import csv

import numpy as np

from l2rfast.cli.shell import shell
from l2rfast.data.scenes import pair
from l2rfast.data.synthetic import anatomies
from l2rfast.figures import show, show_file
from l2rfast.io import Volume, read_image, write_image

folder = pair().fixed.parent

# %%
# The table
# ---------
# A row for each pair, columns as the options of ``l2rfast register`` are called. Here are two generated heads and the
# one that they are deformations of, so that the page is quickly built; and a third row, whose file is not there.

template, *subjects = anatomies(3, (48, 48, 48), structures=4, deformation=0.03)
for name, subject in {"template": template, **{f"s{i}": subject for i, subject in enumerate(subjects, 1)}}.items():
    write_image(folder / f"{name}.nii.gz", Volume(subject.image[0, 0], np.eye(4)))
    write_image(folder / f"{name}_labels.nii.gz", Volume(subject.labels[0, 0], np.eye(4)))
rows = [
    "id,moving,moving_labels,age",
    *(f"s{i},s{i}.nii.gz,s{i}_labels.nii.gz,{age}" for i, age in enumerate((61, 58, 70), 1)),
]
(folder / "PAIRS.csv").write_text("\n".join(rows))
print(*rows, sep="\n")

# %%
# The command
# -----------
# What holds for all rows is an option. A column that is no option, such as ``age``, may stay. How many processes
# work, and why, is printed first. The pair that cannot be registered costs no other; the exit code is then 1.

shell(
    r"""
    l2rfast cohort PAIRS.csv --out STUDY --fixed template.nii.gz --fixed-labels template_labels.nii.gz --preset fast
    """,
    folder,
    code=1,
)

# %%
# Did it work?
# ------------
# ``summary.csv`` has a row for each pair. Sort it by what should be high or low, and look at the ends.

with (folder / "STUDY" / "summary.csv").open(newline="") as file:
    found = list(csv.DictReader(file))
columns = [name for name in ("id", "status", "dice_before", "dice_after", "error") if name in found[0]]
print(*columns, sep="\t")
for row in found:
    print(*(row[name][:60] for name in columns), sep="\t")

# %%
# ``STUDY/report.html`` shows the same with a picture of each pair, to scroll through: a hundred pairs take some
# minutes to look at, and no number replaces that. Each pair has the folder that ``register`` writes:

show_file(folder / "STUDY" / "pairs" / "s1" / "overview.png")

# %%
# All of them on the template, beside it: structures have to lie at the same places.

outline = template.labels[0, 0]
before = {"template": template.image[0, 0]} | {f"s{i}": subject.image[0, 0] for i, subject in enumerate(subjects, 1)}
after = {f"{id}, warped": read_image(folder / f"STUDY/pairs/{id}/warped.nii.gz").data for id in ("s1", "s2")}
rows = (before, {"template again": before["template"]} | after)
show(*({name: [image, outline] for name, image in row.items()} for row in rows))

# %%
# Go on
# -----
# ``--resume`` does what is missing: after a kill, with rows that were added, or once what failed is mended. What is
# finished is not done again.
#
# .. code-block:: console
#
#    $ l2rfast cohort PAIRS.csv --out STUDY --fixed template.nii.gz --fixed-labels template_labels.nii.gz \
#          --preset fast --resume
#
# BIDS, and a template
# --------------------
# A BIDS data set needs no table:
#
# .. code-block:: console
#
#    $ l2rfast cohort BIDS --out STUDY --fixed TEMPLATE.nii.gz
#    $ l2rfast cohort BIDS --out STUDY --bids-pairs sessions
#
# If there is no template to register to, ``l2rfast template`` makes one of the scans, without a bias to any of them:
#
# .. code-block:: console
#
#    $ l2rfast template sub-*/anat/*_T1w.nii.gz --out TEMPLATE
#
# :doc:`/reference/cohort` has the columns, the files and the statistics of Jacobians; :doc:`/reference/template` the
# template; :doc:`10_cluster` Slurm and Dask.
