r"""
On a cluster
============

A thousand pairs, and a cluster with Slurm, or with Dask. Here Dask is run on this machine; Slurm's commands are
shown, and were not run when this page was built.
"""

import csv

import numpy as np

from l2rfast.cli.shell import shell
from l2rfast.data.scenes import pair
from l2rfast.data.synthetic import anatomies
from l2rfast.figures import show_file
from l2rfast.io import Volume, write_image

folder = pair().fixed.parent / "cluster"
folder.mkdir(exist_ok=True)
for name, subject in zip(("template", "s1", "s2"), anatomies(3, (32, 32, 32), structures=4), strict=True):
    write_image(folder / f"{name}.nii.gz", Volume(subject.image[0, 0], np.eye(4)))
(folder / "PAIRS.csv").write_text("id,moving\ns1,s1.nii.gz\ns2,s2.nii.gz\n")

# %%
# Slurm: an array of jobs
# -----------------------
# Each task does so many pairs of the list. All share one folder, and the task that ends last writes the whole
# summary.
#
# .. code-block:: console
#
#    $ sbatch --array=0-19 --cpus-per-task=4 --mem=16G \
#          --wrap='l2rfast cohort PAIRS.csv --out STUDY --fixed template.nii.gz --chunk 50'
#
# The number of the task is ``$SLURM_ARRAY_TASK_ID``; without Slurm ``--array-index`` gives it. A task that was killed
# is submitted again by its number, and does what is missing.
#
# Dask
# ----
# ``pip install 'l2rfast[dask]'``. ``--dask local`` starts workers on this machine. ``--dask slurm`` has workers that
# are jobs of Slurm, each with the memory that the pairs are predicted to need, and what else dask-jobqueue's own
# configuration asks for. An address finds a scheduler that runs already, whose workers see the same files.

shell("l2rfast cohort PAIRS.csv --out STUDY --fixed template.nii.gz --preset fast --dask local --workers 1", folder)

# %%
# .. code-block:: console
#
#    $ l2rfast cohort PAIRS.csv --out STUDY --fixed template.nii.gz --dask slurm --workers 20
#    $ l2rfast cohort PAIRS.csv --out STUDY --fixed template.nii.gz --dask tcp://10.0.0.1:8786
#
# Did it work?
# ------------
# The summary has a row for each pair, and says which have failed. However a pair was computed, the bits are the same.
# So any one of them can be checked by hand:

with (folder / "STUDY" / "summary.csv").open(newline="") as file:
    print(*(f"{row['id']}: {row['status']}" for row in csv.DictReader(file)), sep="\n")
shell("l2rfast register template.nii.gz s1.nii.gz --out BY_HAND --preset fast --quiet", folder)
one, other = (folder / name / "displacement.nii.gz" for name in ("STUDY/pairs/s1", "BY_HAND"))
print("the same bytes:", one.read_bytes() == other.read_bytes())
show_file(folder / "BY_HAND" / "overview.png")

# %%
# ``--resume`` goes on after anything. Snakemake, BIDS apps and the rest are in :doc:`/reference/cohort`; volumes
# larger than the memory of a machine in :doc:`/reference/blocks`.
