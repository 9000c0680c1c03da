"""``make demo``: registers two real brain scans, or two synthetic ones where those cannot be had."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from ..data.brains import real_pair, synthetic_pair
from ..errors import InputError
from ..io import Volume, write_image
from .job import run


def main() -> None:
    folder = Path(sys.argv[1])
    try:
        pair = real_pair()
    except InputError as error:
        print(f"No real scans: {error}\nRegistering two synthetic ones instead.")
        pair = synthetic_pair()
    scans = folder / "scans"
    scans.mkdir(parents=True, exist_ok=True)
    files = {name: scans / f"{name}.nii.gz" for name in pair}
    for name, values in pair.items():
        write_image(files[name], Volume(values, np.eye(4)))  # the public files have no affine: voxels of 1 mm
    run(
        files["fixed"],
        files["moving"],
        folder / "result",
        fixed_labels=files["fixed_labels"],
        moving_labels=files["moving_labels"],
    )


if __name__ == "__main__":
    main()
