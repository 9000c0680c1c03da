"""FireANTs (Jena et al., arXiv 2404.01249) on the CPU: composed warps by local NCC of window 7, its optimiser Adam."""

from __future__ import annotations

from pathlib import Path

from l2rfast.io import Volume, read_displacement

from .fields import Converted, Fields, Ready, written


def fireants(fixed: Volume, moving: Volume, folder: Path) -> Ready:
    """Its greedy registration: 200, 100 and 50 steps. An inverse would be another optimisation, which is left out."""
    from fireants.io.image import BatchedImages, Image
    from fireants.registration.greedy import GreedyRegistration

    images = [BatchedImages([Image.load_file(name, device="cpu")]) for name in written(fixed, moving, folder)]

    def run() -> Converted:
        registration = GreedyRegistration([4, 2, 1], [200, 100, 50], *images, progress_bar=False)
        registration.optimize()
        return lambda: converted(registration)

    def converted(registration: GreedyRegistration) -> Fields:
        name = str(folder / "warp.nii.gz")
        registration.save_as_ants_transforms(name)
        warped = registration.evaluate(*images)[0, 0].detach()  # axes as in ITK's arrays
        return Fields(read_displacement(name)[0], warped=warped.permute(2, 1, 0).contiguous())

    return run
