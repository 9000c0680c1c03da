"""Where the voxels of a grid go, as transforms take them through the world one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..transforms import affine_warp, warp
from .grid import Grid


@dataclass(frozen=True, eq=False)
class Map:
    """Voxel x of a grid goes to ``frame @ (x + disp(x))`` of the world: what is linear costs nothing.

    Attributes:
        size: (D, H, W) of the grid.
        frame: (4, 4), to RAS millimetres.
        disp: (1, 3, D, H, W) in voxels of the grid; None for nothing.
    """

    size: tuple[int, int, int]
    frame: np.ndarray
    disp: Tensor | None = None

    @classmethod
    def of(cls, grid: Grid) -> Map:
        """Every voxel to its own place."""
        return cls(grid.size, grid.affine)

    def slabs(self, voxels: int) -> Iterator[tuple[slice, Map]]:
        """Parts along the first axis, of about so many voxels: which planes, and the map of them."""
        step = max(1, voxels // (self.size[1] * self.size[2]))
        for start in range(0, self.size[0], step):
            planes = slice(start, min(start + step, self.size[0]))
            frame = self.frame.copy()
            frame[:3, 3] += start * frame[:3, 0]
            disp = None if self.disp is None else self.disp[:, :, planes]
            yield planes, Map((planes.stop - start, *self.size[1:]), frame, disp)

    def reach(self, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The least and the greatest place along each axis, in voxels of another grid, between which all voxels go that
        go anywhere: more where axes are mixed."""
        low, high = np.zeros(3), np.array(self.size) - 1.0
        if self.disp is not None:
            found = torch.aminmax(self.disp.nan_to_num(0, 0, 0).flatten(2)[0].double(), dim=1)
            low, high = low + found.min.cpu().numpy(), high + found.max.cpu().numpy()
        matrix = np.linalg.solve(affine, self.frame)[:3]
        ends = np.stack([matrix[:, :3] * low, matrix[:, :3] * high])
        return ends.min(0).sum(1) + matrix[:, 3], ends.max(0).sum(1) + matrix[:, 3]

    def moved(self, matrix: np.ndarray) -> Map:
        """On by a (4, 4) map of the world."""
        with np.errstate(all="ignore"):  # beyond what numbers hold nothing lies
            return Map(self.size, matrix @ self.frame, self.disp)

    def added(self, vectors: Tensor, frame: np.ndarray) -> Map:
        """On by (1, 3, D, H, W) vectors in voxels of a frame."""
        own = torch.from_numpy(np.linalg.solve(self.frame, frame)[:3, :3]).to(vectors)
        step = (own @ vectors.flatten(2)).view(vectors.shape)
        return Map(self.size, self.frame, step if self.disp is None else step.add_(self.disp))

    def sampled(self, values: Tensor, affine: np.ndarray, mode: str = "linear", padding: str = "border") -> Tensor:
        """What lies there on another grid.

        Args:
            values: (1, C, *spatial) on that grid, of three axes. In float64 places are found in float64.
            affine: (4, 4) of it.
            mode, padding: as in `l2rfast.affine_warp`; or ``"cubic"``, where values are the coefficients of B-splines.

        Returns:
            (1, C, D, H, W).
        """
        matrix = torch.from_numpy(np.linalg.solve(affine, self.frame)[:3])
        real = values.dtype if self.disp is None else torch.promote_types(values.dtype, self.disp.dtype)
        matrix = matrix.to(values.device, torch.float64 if real == torch.float64 else torch.float32)
        if mode == "cubic":
            there = Map(self.size, self.frame, None if self.disp is None else self.disp.to(matrix))
            return warp(values, there.towards(matrix), mode=mode, padding=padding, prefilter=False)
        return affine_warp(values, matrix[None], self.size, disp=self.disp, mode=mode, padding=padding)

    def towards(self, matrix: Tensor) -> Tensor:
        """(1, 3, D, H, W): matrix (x + disp(x)) - x, for a (3, 4) matrix to voxels of another grid.

        Separate products and sums round the same for any number of threads.
        """
        disp = self.disp
        like = matrix if disp is None else disp
        axes = [torch.arange(n, dtype=like.dtype, device=like.device) for n in self.size]
        places = torch.meshgrid(*axes, indexing="ij")
        total = like.new_empty(1, len(axes), *self.size)
        for k, row in enumerate(matrix.tolist()):
            component = total[0, k].copy_(-places[k]).add_(row[3])
            for j in range(3):
                if row[j]:
                    component.add_(places[j] * row[j] if disp is None else (places[j] + disp[0, j]).mul_(row[j]))
        return total
