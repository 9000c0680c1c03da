"""The rounds of building a template, and its folder.

In every round all members are registered to the template, and the next one is the mean of their intensities in the mean
of their shapes: at a place y of it stands the mean of what the members have at

    a_k(u_k(m^-1(y))),        m = exp(mean_k log a) o exp(mean_k log u)

with u_k the displacement from the template to member k and a_k the affine map after it, so that the mean of the maps
from the next template is the identity (Guimond et al., CVIU 2000; Avants et al., NeuroImage 2010; the logarithms of
Arsigny et al., MICCAI 2006). Members are interpolated once, whatever the number of rounds.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from l2rfast._json import parsed
from l2rfast.errors import InputError, notice
from l2rfast.io import Volume, axes_in_itk, onto_plane, write_image, write_transform
from l2rfast.io.reading import reading
from l2rfast.io.transforms import npy
from l2rfast.output import OutputFolder, folder_made, removed, written_whole
from l2rfast.world import Affine, Displacement, Grid, compose

from ..cohort.study import Study
from ..registration import register
from ..several import joined
from .members import MeanImage, Member, grid_of, sampled, sharpness
from .shape import Back, MeanMap, length, logarithm, velocity

AFFINE, DEFORMABLE = "affine", "deformable"
BEGUN, ROUND = "template.json", "round.json"
# Kept for a round only: of a member the maps to it and its image in the mean shape; and how all are moved to that.
MAPS, SAMPLED, SHAPE = "maps.npz", "sampled.npy", "shape.npz"
_MAPS = ("displacement", "velocity", "affine")
FEWEST = 2  # members


def image_name(contrast: int) -> str:
    """The file of a contrast of a template, from 0."""
    return "template.nii.gz" if contrast == 0 else f"template_{contrast + 1}.nii.gz"


@dataclass(frozen=True)
class Round:
    """What came of a round.

    Attributes:
        kind: ``"affine"`` or ``"deformable"``.
        members: how many were averaged.
        left_out: the ids of those that could not be registered.
        moved: root mean square of how far the template's voxels moved to the mean shape, in millimetres.
        sharpness: of the new template, see `methods.template.members.sharpness`.
    """

    kind: str
    members: int
    left_out: tuple[str, ...]
    moved: float
    sharpness: float


class TemplateFolder:
    """A folder: ``template.nii.gz``, ``template_2.nii.gz`` of a second contrast, and so on, once all is done;
    ``template.json``, what was asked for; ``rounds/N``, from 0, each with its ``mean``: the template after it,
    ``round.json``, and where each member lies, ``ID.txt``. What the registrations of a round write is in ``pairs``, and
    goes when the mean is there.

    Args:
        folder: which may not exist yet.
        members: in order.
    """

    def __init__(self, folder: Path, members: Sequence[Member]) -> None:
        self.folder, self.members = folder, members
        self.contrasts = len(members[0].images)

    def check(self, asked: Mapping[str, Any], *, resume: bool) -> None:
        """See whether this can be begun, or gone on with, before anything is written.

        Args:
            asked: what is asked for, which JSON holds.
            resume: go on with what was begun there.

        Raises:
            InputError: the folder holds a template and ``resume`` does not say to go on, or another was begun there.
        """
        file = self.folder / BEGUN
        if file.exists() or self.round(0).folder.parent.exists():
            if not resume:
                raise InputError(
                    f"--out {self.folder}: holds a template; expected --resume to go on with it, or another"
                )
            with reading(f"--resume: {file}", "what a template was begun with"):
                begun = file.read_bytes()
            if begun != _text(asked).encode():
                raise InputError(f"--resume: {file}: expected the members and options that it was begun with")

    def begin(self, asked: Mapping[str, Any], name: str, images: Sequence[Path]) -> None:
        """Write down what is asked for, and the template to begin with, unless they are there.

        Args:
            asked: see `check`.
            name: of the argument with the images, for messages.
            images: that it begins as, a file for each contrast.

        Raises:
            InputError: an image that cannot be used; or nothing can be written.
        """
        if self.mean(0).exists():
            return
        volume = Member("", images, name=name).read()
        with written_whole(self.folder / BEGUN, links=False) as whole:
            whole.write_text(_text(asked))
        self._write(0, volume, Round("none", 0, (), 0.0, sharpness(volume)), {})

    def round(self, number: int, proof: str = MAPS) -> Study:
        """Where members are registered to the template of the round before, and sampled then.

        Args:
            proof: `MAPS`, or `SAMPLED`: by what a member is known to be finished.
        """
        return Study(self.folder / "rounds" / str(number), proof)

    def mean(self, number: int) -> Path:
        """The folder of the template after a round; it is there when that is done."""
        return self.folder / "rounds" / str(number) / "mean"

    def images(self, number: int) -> list[Path]:
        """Of the template after a round, a file for each contrast."""
        return [self.mean(number) / image_name(contrast) for contrast in range(self.contrasts)]

    def start(self, number: int, id: str) -> Path | None:
        """The affine map, fixed to moving, from the template after a round to a member; None where none is known."""
        file = self.mean(number) / f"{id}.txt"
        return file if file.is_file() else None

    def mend(self, number: int) -> None:
        """Of what the registrations of a round have written, remove what is damaged: it is made again.

        Raises:
            InputError: its folder cannot be made, or a file not be removed.
        """
        study, before = self.round(number), self._before(number)
        folder_made(study.folder)  # what members leave that are killed is in it then, where the next ones look
        for member in self.members:
            pair = study.pair(member.id)
            _usable(pair / MAPS, partial(_loaded, pair / MAPS, *_MAPS))
            _usable(pair / SAMPLED, partial(_sampled, pair / SAMPLED, _shape(before)))

    def shape(self, number: int) -> None:
        """Find the mean shape of the members that are registered in a round, for `sample`.

        Raises:
            InputError: fewer than two are; or a file that cannot be read, or written.
        """
        study = self.round(number)
        mean = MeanMap(grid_of(self._before(number)))
        for member in self._there(study):
            maps = _loaded(study.pair(member.id) / MAPS, "velocity", "affine")
            mean.add(torch.from_numpy(maps["velocity"]), Affine(maps["affine"]))
        back = mean.back
        found: dict[str, Any] = {"affine": back.affine.array, "displacement": back.displacement.disp.numpy()}
        file = study.folder / SHAPE
        _usable(file, lambda: _loaded(file, *found))
        if file.exists() and all(np.array_equal(array, found[name]) for name, array in _loaded(file, *found).items()):
            return
        for member in self.members:  # sampled in another, of fewer members
            removed(study.pair(member.id) / SAMPLED)
        with written_whole(file, links=False) as part:
            np.savez(part, **found)

    def average(self, number: int, kind: str, sharpen: float) -> Round:
        """The template after a round, of the members that are sampled.

        Raises:
            InputError: fewer than two are; or a file that cannot be read, or written.
        """
        study, before = self.round(number, SAMPLED), self._before(number)
        back, image, there = _back(study.folder, grid_of(before)), MeanImage(before), self._there(study)
        starts, shape = {}, _shape(before)
        for member in there:
            pair = study.pair(member.id)
            image.add(torch.from_numpy(_sampled(pair / SAMPLED, shape)))
            affine = _loaded(pair / MAPS, "affine")["affine"]
            starts[member.id] = Affine(affine @ back.affine.array, axes_in_itk(before))
        volume = image.volume(sharpen)
        left_out = tuple(member.id for member in self.members if member.id not in starts)
        moved = length(back.transform, grid_of(before))
        done = Round(kind, len(there), left_out, moved, sharpness(volume))
        self._write(number, volume, done, starts)
        return done

    def _before(self, number: int) -> Volume:
        """The template before a round."""
        return joined("template", self.images(number - 1), "fixed_mask", None)

    def _there(self, study: Study) -> list[Member]:
        """The members that are finished.

        Raises:
            InputError: fewer than two are.
        """
        there = [member for member in self.members if study.finished(member.id)]
        if len(there) < FEWEST:
            raise InputError(f"--out {self.folder}: expected {FEWEST} members that can be registered, got {len(there)}")
        return there

    def tidy(self, number: int) -> None:
        """Remove what the registrations of a round wrote, which has been averaged.

        Raises:
            InputError: it cannot be removed.
        """
        folder = self.round(number).folder
        shutil.rmtree(folder / "pairs", ignore_errors=True)
        removed(folder / SHAPE)

    def last(self, number: int) -> None:
        """The template after a round is the one.

        Raises:
            InputError: it cannot be written.
        """
        names = [image_name(contrast) for contrast in range(self.contrasts)]
        with OutputFolder(self.folder, names) as folder:
            for name, file in zip(names, self.images(number), strict=True):
                if not file.is_file():
                    raise InputError(f"{file}: expected the template after a round, but there is no such file")
                shutil.copyfile(file, folder.path(name))

    def done(self, number: int) -> Round:
        """What came of a round.

        Raises:
            InputError: its file is damaged.
        """
        file = self.mean(number) / ROUND
        with reading(f"{file}", "what came of a round", KeyError, TypeError):
            told = parsed(file.read_text())
            return Round(**{**told, "left_out": tuple(told["left_out"])})

    def _write(self, number: int, volume: Volume, done: Round, starts: Mapping[str, Affine]) -> None:
        images = [replace(volume, data=data, contrasts=()) for data in (volume.data, *volume.contrasts)]
        names = [image_name(contrast) for contrast in range(len(images))]
        with OutputFolder(self.mean(number), [*names, *(f"{id}.txt" for id in starts), ROUND]) as folder:
            for name, image in zip(names, images, strict=True):
                write_image(folder.path(name), image)
            for id, start in starts.items():
                write_transform(folder.path(f"{id}.txt"), start)
            folder.path(ROUND).write_text(json.dumps(asdict(done), indent=1) + "\n")


def _shape(template: Volume) -> tuple[int, ...]:
    """Of its contrasts, as `sample` writes them."""
    return (1 + len(template.contrasts), *template.data.shape)


def _text(asked: Mapping[str, Any]) -> str:
    """Of the file with what is asked for."""
    return json.dumps(asked, indent=1) + "\n"


def align(fixed: Volume, member: Member, out: Path, **options: Any) -> None:
    """Register a member to a template, and keep nothing but the maps: a displacement and its velocity, (1, 3, *grid) in
    voxels, and the affine map (4, 4) after it. An affine map alone is found by the first contrast.

    Args:
        fixed: the template.
        out: the folder for them.
        options: as of `methods.registration.register`.

    Raises:
        InputError: an image that cannot be used, a map of which there is no mean, or a folder that cannot be written.
    """
    moving = member.volume()
    if options["transform"] == AFFINE:
        fixed, moving = (replace(image, contrasts=()) for image in (fixed, moving))
    found = register(fixed, moving, **options)
    affine = onto_plane(found.initial.matrix, fixed, moving)
    logarithm(affine)  # before others depend on it
    disp, inverse = (Displacement(field, fixed.affine).disp for field in (found.displacement, found.inverse))
    with OutputFolder(out, [MAPS]) as folder:
        np.savez(folder.path(MAPS), displacement=disp.numpy(), velocity=velocity(disp, inverse).numpy(), affine=affine)


def sample(fixed: Volume, member: Member, out: Path) -> None:
    """Sample a member in the mean shape, once that is known.

    Args:
        fixed: the template that it is registered to.
        out: its folder, with its maps.

    Raises:
        InputError: an image or a file that cannot be read, or a folder that cannot be written.
    """
    maps, grid, ndim = _loaded(out / MAPS, "displacement", "affine"), grid_of(fixed), axes_in_itk(fixed)
    there = Displacement(torch.from_numpy(maps["displacement"]), fixed.affine, ndim), Affine(maps["affine"], ndim)
    values = sampled(member.read(), compose(_back(out.parents[1], grid).transform, *there), grid)
    with OutputFolder(out, [SAMPLED]) as folder:
        npy.save(folder.path(SAMPLED), values.numpy())


def _usable(file: Path, read: Callable[[], object]) -> None:
    """See whether a file can be read; one that cannot is removed, which is said.

    Raises:
        InputError: it cannot be removed.
    """
    try:
        if file.exists():
            read()
    except InputError:
        notice(f"{file}: it is damaged, and made again")
        removed(file)


def _sampled(file: Path, shape: Sequence[int]) -> np.ndarray:
    """What `sample` wrote.

    Raises:
        InputError: it cannot be read.
    """
    with reading(f"{file}", "a member in the mean shape"):
        return npy.load(file, "").reshape(shape)


def _back(folder: Path, grid: Grid) -> Back:
    """What `TemplateFolder.shape` wrote."""
    maps = _loaded(folder / SHAPE, "affine", "displacement")
    return Back(Affine(maps["affine"]), Displacement(torch.from_numpy(maps["displacement"]), grid.affine))


def _loaded(file: Path, *names: str) -> dict[str, np.ndarray]:
    """Arrays of a file.

    Raises:
        InputError: it cannot be read.
    """
    with reading(f"{file}", "maps of a round", KeyError):
        return {name: npy.load(file, name) for name in names}
