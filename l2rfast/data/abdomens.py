"""Generated CT of the abdomen: organs of known places, in Hounsfield units.

Every person is drawn anew: the size of the body and its fat, where organs lie, how large and how turned they are, the
contrast agent and what fills bowels; then all of it goes through a smooth random diffeomorphism. Organs are formulas in
millimetres, which are evaluated where the diffeomorphism leads, so that nothing is interpolated: the same people come
out at any resolution, with their borders as soft as a voxel is wide. It is no atlas: shapes are ellipsoids and tubes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import _check
from .._folders import made
from ..errors import InputError
from ..fields import integrate_velocity
from ..filters import gaussian_filter
from ..io import Volume, write_image
from ..transforms import affine_warp
from .synthetic import smooth_noise

# Up to the pancreas as TotalSegmentator numbers them.
STRUCTURES = {
    1: "spleen",
    2: "right kidney",
    3: "left kidney",
    4: "gallbladder",
    5: "liver",
    6: "stomach",
    7: "pancreas",
    8: "aorta",
    9: "vena cava",
    10: "bladder",
    11: "spine",
    12: "right lung",
    13: "left lung",
}
SIZE, SPACING = (96, 72, 112), 3.75  # the field of view of PDD-Net's published weights, some 360 x 270 x 420 mm
AIR, FAT, LUNG = -1000.0, -100.0, -820.0
SEEDS = 2**62


@dataclass(frozen=True)
class Abdomen:
    """One person.

    Attributes:
        image: (1, 1, *size) float32, Hounsfield units, whole numbers from -1024 on. Axes lead right, to the front, up.
        labels: (1, 1, *size) uint8: the keys of ``STRUCTURES``, of which up to the pancreas are TotalSegmentator's; 0
            what is none of them.
        affine: (4, 4) float64, voxel -> mm, RAS+; the origin is in the middle.
    """

    image: Tensor
    labels: Tensor
    affine: np.ndarray


def abdomens(
    count: int,
    size: Sequence[int] = SIZE,
    *,
    spacing: float = SPACING,
    variation: float = 1.0,
    deformation: float = 4.0,
    noise: float = 12.0,
    seed: int = 0,
) -> Iterator[Abdomen]:
    """People, one after the other: the same for the same arguments, and the first ones the same for any count.

    Args:
        count: how many.
        size: voxels along x, y and z, at least 16 each.
        spacing: of the voxels, in mm. With as many mm in all, another spacing shows the same people.
        variation: how much they differ, as a multiple of what seems usual; at most 2.
        deformation: standard deviation of the velocities of the diffeomorphism, in mm; at most 20.
        noise: standard deviation of the scanner's, in Hounsfield units.
        seed: of the random numbers.

    Raises:
        InputError: an argument out of range.
    """
    size = tuple(_check.plain(size))
    if len(size) != 3 or not all(_check.is_integer(s) and s >= 16 for s in size):
        raise InputError(f"size: expected three integers, at least 16 each, got {size}")
    count = _check.at_least("count", count, 1)
    variation = _check.not_negative("variation", variation, most=2.0)
    deformation = _check.not_negative("deformation", deformation, most=20.0)
    noise = _check.not_negative("noise", noise, most=1e6)
    if not (_check.is_number(spacing) and 0.1 <= spacing <= 100):
        raise InputError(f"spacing: expected a number of mm from 0.1 to 100, got {spacing!r}")
    return _people(count, size, float(spacing), variation, deformation, noise, _check.at_least("seed", seed, 0))


def write_abdomens(
    folder: str | os.PathLike[str],
    count: int,
    size: Sequence[int] = SIZE,
    *,
    spacing: float = SPACING,
    variation: float = 1.0,
    deformation: float = 4.0,
    noise: float = 12.0,
    seed: int = 0,
) -> list[Path]:
    """Write them as a data set that ``l2rfast train discrete`` takes: NIfTI in folders ``images`` and ``labels``.

    Args:
        folder: created if absent; files of the same names are replaced.
        count, size, spacing, variation, deformation, noise, seed: see `abdomens`.

    Returns:
        The images, ``person000.nii.gz`` and so on.

    Raises:
        InputError: an argument out of range.
        OSError: a file cannot be written.
    """
    people = abdomens(
        count, size, spacing=spacing, variation=variation, deformation=deformation, noise=noise, seed=seed
    )
    files = []
    for i, person in enumerate(people):
        for kind, values in (("images", person.image.to(torch.int16)), ("labels", person.labels)):
            file = Path(folder) / kind / f"person{i:03}.nii.gz"
            made(file.parent)
            write_image(file, Volume(values[0, 0], person.affine))
        files.append(Path(folder) / "images" / file.name)
    return files


def _people(
    count: int, size: tuple[int, ...], spacing: float, variation: float, deformation: float, noise: float, seed: int
) -> Iterator[Abdomen]:
    seeds = torch.Generator().manual_seed(seed)
    affine = np.diag([spacing] * 3 + [1.0])
    affine[:3, 3] = [-spacing * (s - 1) / 2 for s in size]
    axes = [spacing * (torch.arange(s) - (s - 1) / 2) for s in size]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    for _ in range(count):
        random = torch.Generator().manual_seed(int(torch.randint(SEEDS, (), generator=seeds)))
        person = _Person(places, spacing, variation, deformation, random)
        # A scanner sees a little beyond a voxel, and its noise likewise.
        grain = noise * torch.randn((1, 1, *size), generator=random)
        image = gaussian_filter(person.image[None, None] - AIR, 0.5) + AIR + grain
        yield Abdomen(image.round().clamp(min=-1024), person.labels[None, None], affine.copy())


class _Person:
    """Draws someone and paints organ after organ, a later one over an earlier.

    Args:
        places: (3, *size), of the voxels, in mm from the middle: to the right, to the front and up.
        spacing, variation, deformation: see `abdomens`.
        random: where the numbers come from.

    Attributes:
        image: (*size) Hounsfield units.
        labels: (*size) uint8.
    """

    def __init__(
        self, places: Tensor, spacing: float, variation: float, deformation: float, random: torch.Generator
    ) -> None:
        self._spacing, self._variation, self._random = spacing, variation, random
        self._size = places.shape[1:]
        self.image = torch.full(self._size, AIR)
        self.labels = torch.zeros(self._size, dtype=torch.uint8)
        velocity = deformation / spacing * self._noise(55.0, 3)[None]
        bent = places + spacing * integrate_velocity(velocity)[0]
        shift = self._vector(6.0, 6.0, 14.0)
        # The frame below the fat: of all people about 280 x 190 mm.
        self._at = (bent - shift) / (1 + self._vector(0.06, 0.06, 0.05))
        self._paint()

    # --- Random numbers

    def _normal(self, mean: float, deviation: float) -> float:
        """Not farther than two standard deviations off: nobody is impossible."""
        value = float(torch.randn((), generator=self._random).clamp(-2, 2))
        return mean + self._variation * deviation * value

    def _vector(self, *deviations: float) -> Tensor:
        return torch.tensor([self._normal(0.0, deviation) for deviation in deviations]).view(3, 1, 1, 1)

    def _noise(self, step: float, channels: int) -> Tensor:
        """(channels, *size), mean 0 and deviation 1, of structures of some mm, whatever the size of the voxels."""
        lattice = [max(3, round(s * self._spacing / step)) for s in self._size]
        coarse = smooth_noise((1, channels, *lattice), 1, self._random)
        steps = [n / s for n, s in zip(lattice, self._size, strict=True)]
        starts = [(each - 1) / 2 for each in steps]
        matrix = torch.cat([torch.diag(torch.tensor(steps)), torch.tensor(starts)[:, None]], 1)[None]
        fine = gaussian_filter(affine_warp(coarse, matrix, list(self._size)), 0.4 * step / self._spacing)[0]
        return (fine - fine.mean((1, 2, 3), keepdim=True)) / fine.std((1, 2, 3), keepdim=True)

    # --- Shapes: about the distance from their surface, in mm, negative inside

    def _ellipsoid(
        self,
        centre: Sequence[float],
        radii: Sequence[float],
        *,
        move: float = 0.0,
        grow: float = 0.0,
        turn: float = 0.0,
    ) -> Tensor:
        """
        Args:
            centre, radii: usual ones, in mm.
            move, grow, turn: how much these differ: mm, a fraction, and radians about every axis.
        """
        middle = torch.tensor(centre).view(3, 1, 1, 1) + self._vector(move, move, move)
        sides = torch.tensor([r * math.exp(self._normal(0.0, grow)) for r in radii]).view(3, 1, 1, 1)
        local = self._at - middle
        if turn:
            a, b, c = (self._normal(0.0, turn) for _ in range(3))
            skew = torch.tensor([[0, -c, b], [c, 0, -a], [-b, a, 0]])
            local = (torch.linalg.matrix_exp(skew) @ local.flatten(1)).view_as(local)
        near, slope = ((local / by).square().sum(0).sqrt() for by in (sides, sides.square()))  # norm(0) is slow
        return near * (near - 1) / slope.clamp(min=1e-6)

    def _tube(self, line: Callable[[Tensor], tuple[Tensor | float, Tensor | float]], radius: float) -> Tensor:
        """About a line that goes up: where it is in x and y, of z."""
        x, y, z = self._at
        to_x, to_y = line(z)
        return torch.hypot(x - to_x, y - to_y) - radius

    # --- Painting

    def _over(self, shape: Tensor, units: float | Tensor, label: int = 0) -> None:
        """Paint a shape: half of it where its surface goes through the middle of a voxel."""
        inside = torch.sigmoid(-shape * (4 / self._spacing))  # from 12 to 88 % over a voxel
        self.image = torch.lerp(self.image, torch.as_tensor(units).expand(self._size), inside)
        self.labels[shape < 0] = label

    def _paint(self) -> None:
        z = self._at[2]
        wall = self._ellipse(140.0, 94.0)
        fat = abs(self._normal(16.0, 6.0))
        cavity = wall + self._normal(14.0, 2.0)
        agent = self._normal(1.0, 0.25)  # how much contrast agent there is
        texture = self._noise(10.0, 2)
        self._over(wall - fat * (1 + 0.3 * torch.sigmoid(-z / 60)), FAT + 8 * texture[0])  # more of it further down
        self._over(wall, 55 + self._normal(0.0, 6.0) + 8 * texture[0])
        self._over(cavity, FAT + 10 + 10 * texture[1])
        self._bowels(torch.maximum(cavity + 3, z - 40))
        dome = self._diaphragm()
        self._chest(cavity, dome)
        self._under_the_diaphragm(torch.maximum(cavity + 2, z - dome + 4), agent)
        self._behind(agent)
        self._bones(wall)

    def _ellipse(self, half_width: float, half_depth: float) -> Tensor:
        """The trunk: an upright cylinder of a blunt ellipse."""
        x, y, _ = self._at
        blunt = ((x / half_width).abs() ** 2.4 + (y / half_depth).abs() ** 2.4 + 1e-9) ** (1 / 2.4)
        off: Tensor = (blunt - 1) * half_depth
        return off

    def _diaphragm(self) -> Tensor:
        """How high it is above every place: a dome on each side, the right one higher."""
        x, y, _ = self._at
        height, sides = self._normal(112.0, 8.0), []
        for centre, lower in ((62.0, 0.0), (-62.0, 10.0)):
            off = ((x - centre) / 80).square() + ((y - self._normal(8.0, 5.0)) / 85).square()
            sides.append(height - lower - 75 * off)
        return torch.maximum(*sides).clamp(min=35)

    def _bowels(self, where: Tensor) -> None:
        """Loops of soft tissue, some with gas; nobody's are those of another."""
        loops = self._noise(16.0, 2)
        gut, gas = 9 * (0.3 - loops[0]), 9 * (1.2 - loops[1])
        self._over(torch.maximum(where, gut), 35 + 10 * loops[1])
        self._over(torch.maximum(where + 5, torch.maximum(gut + 3, gas)), -900.0)

    def _chest(self, cavity: Tensor, dome: Tensor) -> None:
        x, _, z = self._at
        above = torch.maximum(cavity + 2, dome - z)
        self._over(above, 45.0)  # the mediastinum, of which lungs and heart leave little
        for label, side in ((12, 1), (13, -1)):
            self._over(torch.maximum(above, 24 - side * x), LUNG + self._normal(0.0, 25.0), label)
        heart = self._ellipsoid((-22, 22, 165), (58, 46, 50), move=7, grow=0.1, turn=0.2)
        self._over(torch.maximum(heart, above), 90.0)

    def _under_the_diaphragm(self, room: Tensor, agent: float) -> None:
        stomach = self._ellipsoid((-56, 34, 72), (42, 38, 46), move=9, grow=0.15, turn=0.3)
        self._over(torch.maximum(stomach, room), 55.0, 6)
        inside = torch.maximum(stomach, room) + 6  # of its wall
        self._over(inside, self._normal(15.0, 12.0), 6)
        level = self._normal(46.0, 9.0)  # lying on the back: gas is in front
        self._over(torch.maximum(inside, level - self._at[1]), -900.0, 6)
        self._over(torch.maximum(self._pancreas(), room), 60 + 30 * agent, 7)
        spleen = self._ellipsoid((-96, -30, 62), (30, 42, 54), move=8, grow=0.16, turn=0.25)
        self._over(torch.maximum(spleen, room), 60 + 60 * agent + self._normal(0.0, 6.0), 1)
        liver = torch.minimum(
            self._ellipsoid((74, 8, 54), (72, 72, 74), move=8, grow=0.1, turn=0.15),
            self._ellipsoid((8, 42, 72), (70, 34, 36), move=8, grow=0.14, turn=0.2),
        )
        self._over(torch.maximum(liver, room), 60 + 50 * agent + self._normal(0.0, 10.0), 5)
        gallbladder = self._ellipsoid((52, 52, 4), (17, 17, 30), move=8, grow=0.18, turn=0.3)
        self._over(torch.maximum(gallbladder, room), 8.0, 4)

    def _pancreas(self) -> Tensor:
        """A bent tube across, from the duodenum, low on the right, to the spleen."""
        x, y, z = self._at
        _, front, up = self._vector(0.0, 6.0, 7.0).flatten().tolist()
        bend, rise = self._normal(16.0, 4.0), self._normal(0.3, 0.1)
        to_y, to_z = front - 8 + bend * (1 - (x / 60).square()), up + 4 - rise * x
        tube = torch.hypot(y - to_y, z - to_z) - self._normal(14.0, 1.6) + 0.05 * (x - 30).abs()
        return torch.maximum(tube, (x + 16).abs() - self._normal(56.0, 5.0))

    def _behind(self, agent: float) -> None:
        """What lies along the spine, and the bladder."""
        _, _, z = self._at
        for side in (1, -1):  # psoas
            thick = (8 + 0.12 * (40 - z)).clamp(4, 24)

            def line(z: Tensor, side: int = side) -> tuple[Tensor, float]:
                return side * (36 - 0.12 * (z + 40).clamp(max=0)), -46.0

            self._over(torch.maximum(self._tube(line, 0.0) - thick, z - 50), 60.0)
        for label, centre in ((2, (58, -38, -2)), (3, (-58, -38, 12))):
            kidney = self._ellipsoid(centre, (28, 26, 54), move=9, grow=0.12, turn=0.2)
            depth = kidney + self._normal(11.0, 1.5)
            hilum = math.copysign(1.0, centre[0]) * (self._at[0] - centre[0]) + 8  # which opens to the middle
            self._over(kidney, 40 + 140 * agent, label)
            self._over(torch.maximum(depth, hilum), -20.0 + 60 * agent, label)
        sway, phase = self._normal(0.0, 4.0), self._normal(0.0, 0.6)
        wide = self._normal(11.0, 1.5)
        self._over(
            torch.maximum(
                self._tube(lambda z: (-12 + sway * torch.sin(z / 90 + phase), -30 + 6 * torch.sin(z / 80)), wide),
                -70 - z,
            ),
            40 + 160 * agent,
            8,
        )
        vein = self._normal(0.0, 4.0)
        self._over(
            torch.maximum(
                self._tube(lambda z: (20 + vein * torch.cos(z / 70 + phase), -26 + 0.1 * (z + 40)), wide + 1),
                torch.maximum(-75 - z, z - 115),
            ),
            40 + 90 * agent,
            9,
        )
        bladder = self._ellipsoid((0, 14, -160), (38, 32, 32), move=7, grow=0.2, turn=0.1)
        self._over(bladder, 50.0, 10)
        self._over(bladder + 4, 8.0, 10)  # within a wall

    def _bones(self, wall: Tensor) -> None:
        x, y, z = self._at
        hard = self._normal(1.0, 0.12)
        lordosis, phase = self._normal(9.0, 3.0), self._normal(0.0, 8.0)

        def spine(z: Tensor) -> tuple[float, Tensor]:
            return 0.0, -62 + lordosis * torch.cos(z / 75 + 0.7)

        body = self._tube(spine, self._normal(21.0, 1.5))
        to_y = spine(z)[1]
        arch = torch.maximum(torch.hypot(x, (y - to_y + 30) / 1.3) - 16, 9 - torch.hypot(x, y - to_y + 27))
        disc = (torch.remainder(z + phase, 34.0) - 17).abs() - 4.5  # every 34 mm
        self._over(torch.hypot(x, y - to_y + 27) - 9, 30.0)  # the canal
        whole = torch.minimum(body, arch)
        self._over(torch.minimum(torch.maximum(body, -disc), arch), 420 * hard)
        self._over(torch.maximum(body + 5, -disc + 2), 200 * hard)  # spongy
        self._over(torch.maximum(body, disc), 80.0)
        self.labels[whole < 0] = 11
        # Ribs go down to the front, in the muscle of the wall.
        front = (y + 94) / 188
        rib = (torch.remainder(z + 55 * front + phase, 30.0) - 15).abs() - 5.5
        lowest = 5 + 70 * front  # the arch of the ribs
        self._over(torch.maximum(torch.maximum(rib, (wall + 8).abs() - 4), lowest - z), 380 * hard)
        for side in (1, -1):
            bowl = self._ellipsoid((side * 62, -8, -118), (62, 66, 70), grow=0.05)
            wing = torch.maximum(bowl.abs() - 5, torch.maximum(30 - side * x, torch.maximum(y - 25, z + 78)))
            self._over(torch.maximum(wing, wall + 4), 400 * hard)
            self._over(self._ellipsoid((side * 88, -4, -200), (25, 25, 26), move=2, grow=0.06), 350 * hard)
