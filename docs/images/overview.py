"""``python docs/images/overview.py`` draws `overview.png` anew: two generated heads, registered."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from l2rfast.cli.job import run
from l2rfast.data.synthetic import anatomies
from l2rfast.io import Volume, write_image

COLOURS = 256  # a palette of so many: a third of the bytes, no colour off by more than 10 of 255


def registered(folder: Path) -> Path:
    """The result of a registration of two heads, in a folder."""
    moving, fixed = anatomies(2, (96, 96, 96), deformation=0.04, noise=0.01, seed=1)
    files = []
    for subject, role in ((fixed, "fixed"), (moving, "moving")):
        for values, kind in ((subject.image, "image"), (subject.labels, "labels")):
            files.append(folder / f"{role}_{kind}.nii.gz")
            write_image(files[-1], Volume(values[0, 0], np.eye(4)))
    run(files[0], files[2], folder / "result", fixed_labels=files[1], moving_labels=files[3])
    return folder / "result"


def save(drawn: Image.Image, name: str) -> None:
    """Beside this file, with a palette."""
    palette = {"method": Image.Quantize.MAXCOVERAGE, "kmeans": 2, "dither": Image.Dither.NONE}
    drawn.convert("RGB").quantize(COLOURS, **palette).save(Path(__file__).with_name(name), optimize=True)


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as name,
        Image.open(registered(Path(name)) / "overview.png") as drawn,
    ):
        save(drawn, "overview.png")


if __name__ == "__main__":
    main()
