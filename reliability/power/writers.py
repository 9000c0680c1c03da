"""Every command that writes files, on images that are as small as can be."""

from __future__ import annotations

import gc
import hashlib
import io
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from typer.main import get_command

from l2rfast import cli, data
from l2rfast.cli import blocks, crew, job, overview
from l2rfast.io import Volume, write_image, write_transform, zarr
from l2rfast.methods import evaluation
from l2rfast.methods.discrete import levels
from l2rfast.world import Affine, Displacement, Grid

Words = Sequence[str]


@dataclass(frozen=True)
class Writer:
    """A command.

    Attributes:
        name: for the report.
        out: what it writes: the name of a file or folder.
        new: its command line, of where it writes to.
        old: likewise, of an earlier run that left another result there; None where there can be none.
        again: likewise, of the run after one that was killed; as ``new`` where None.
        staged: what it finished before it was killed stays, and the next run goes on.
        once: a result that is there is not replaced; the next run says so.
        codes: of its ends where a call failed.
    """

    name: str
    out: str
    new: Callable[[Path], Words]
    old: Callable[[Path], Words] | None = None
    again: Callable[[Path], Words] | None = None
    staged: bool = False
    once: bool = False
    codes: tuple[int, ...] = (2,)

    def next(self, out: Path) -> Words:
        return (self.again or self.new)(out)


def called(words: Words) -> None:
    """The command line in this process, which it ends."""
    cli.main(words)


@contextmanager
def prepared(folder: Path, only: Sequence[str] | None = None) -> Iterator[list[Writer]]:
    """The commands and the files that they read, in a folder. Inside, nothing tells the time, and teams of processes
    are this one alone: what is measured is the same each time. All commands, or those of these names."""
    inputs = _inputs(folder)
    with (
        _server(folder) as server,
        mock.patch.object(time, "perf_counter", return_value=0.0),
        mock.patch.object(job, "_peak_memory", return_value=0.0),
        mock.patch.object(crew, "processes", _alone),
        mock.patch.object(blocks, "processes", _alone),
        mock.patch.object(overview, "draw_overview", _drawn),
        mock.patch.object(evaluation, "draw", _drawn),
        mock.patch.object(Figure, "savefig", lambda figure, file, **options: _drawn(file)),
        mock.patch.object(levels, "refine", return_value=None),
        mock.patch.object(cli, "app", get_command(cli.app)),
        mock.patch.object(data, "_registry", return_value=server),
        mock.patch.dict(os.environ, L2RFAST_DATA=str(folder), NO_PROXY="127.0.0.1"),
    ):
        writers = [writer for writer in _writers(inputs) if only is None or writer.name in only]
        for number, writer in enumerate(writers):  # what is imported and found out once
            (folder / "warm" / str(number)).mkdir(parents=True)
            with suppress(SystemExit), redirect_stdout(io.StringIO()):
                called(writer.new(folder / "warm" / str(number) / writer.out))
        gc.freeze()
        yield writers


def _writers(at: Mapping[str, Path]) -> list[Writer]:
    def register(out: Path, *more: str) -> Words:
        words = ["register", at["fixed"], at["moving"], f"--out={out}", "--preset=fast", "--init=none", "--quiet"]
        return [*map(str, words), *more]

    def apply(out: Path, *more: str) -> Words:
        return ["apply", str(at["moving"]), f"--reference={at['fixed']}", f"--out={out}", "--quiet", *more]

    def apply_zarr(out: Path, *more: str) -> Words:
        return ["apply", str(at["a.zarr"]), f"--reference={at['b.zarr']}", f"--out={out}", "--quiet", *more]

    def points(out: Path, transform: str = "affine.txt") -> Words:
        words = ["apply-points", at["points.csv"], f"--transform={at[transform]}", f"--out={out}", "--quiet"]
        return [*map(str, words), "--coordinates=ras"]

    def convert(out: Path, transform: str, *more: str) -> Words:
        return [
            "convert",
            str(at[transform]),
            f"--out={out}",
            f"--fixed={at['volume']}",
            f"--moving={at['volume']}",
            *more,
        ]

    def jacobian(out: Path, *more: str) -> Words:
        return ["jacobian", str(at["field.nii.gz"]), f"--out={out}", *more]

    def in_blocks(out: Path) -> Words:
        words = ["register", at["a.zarr"], at["b.zarr"], f"--out={out}", "--memory=1GB", "--preset=fast", "--init=none"]
        return [*map(str, words), "--quiet", "--threads=1"]

    def evaluate(out: Path, *more: str) -> Words:
        words = ["evaluate", f"--data={at['set']}", f"--out={out}", "--preset=fast", "--init=none", "--quiet"]
        return [*words, "--atlas=case0", "--hold-out=2", *more]

    def train(out: Path, *more: str) -> Words:
        words = ["train", "unsupervised", f"--data={at['set']}", f"--out={out}", "--hold-out=2", "--quiet"]
        return [*words, "--encoder=2,2", "--decoder=2,2,2,2", "--steps=2", "--every=1", *more]

    def template(out: Path, *more: str) -> Words:
        words = ["template", at["fixed"], at["moving"], f"--out={out}", "--affine-rounds=0", "--rounds=1", "--quiet"]
        return [*map(str, words), "--workers=1", "--threads=1", *more]

    def cohort(out: Path, *more: str, table: str = "pairs.csv") -> Words:
        words = [
            "cohort",
            at[table],
            f"--out={out}",
            f"--fixed={at['fixed']}",
            "--preset=fast",
            "--init=none",
            "--quiet",
        ]
        return [*map(str, words), "--workers=1", "--threads=1", *more]

    def fetched(out: Path) -> Words:
        os.environ["XDG_CACHE_HOME"] = str(out)
        return ["data", "fetch", "scans/brain.nii.gz"]

    nearest, resume = "--interpolation=nearest", "--resume"
    return [
        Writer("register", "out", register, lambda out: register(out, "--jacobian", "--light-report")),
        Writer("apply", "out.nii.gz", apply, lambda out: apply(out, nearest, f"--transform={at['affine.txt']}")),
        Writer("apply, Zarr", "out.zarr", apply_zarr, lambda out: apply_zarr(out, f"--transform={at['affine.txt']}")),
        Writer("apply-points", "out.csv", points, lambda out: points(out, "other.txt")),
        *(
            Writer(
                f"convert, {suffix}",
                f"out{suffix}",
                lambda out, of=of, more=more: convert(out, of, *more),
                lambda out, of=of, more=more: convert(out, f"old_{of}", *more),
            )
            for suffix, of, more in (
                (".txt", "affine.txt", ()),
                (".mat", "affine.txt", ()),
                (".h5", "field.nii.gz", ("--to=itk",)),
                (".nii.gz", "field.nii.gz", ("--to=itk",)),
                (".x5", "field.nii.gz", ("--to=x5",)),
                (".npz", "field.nii.gz", ("--to=arrays",)),
            )
        ),
        Writer("jacobian", "out.nii.gz", jacobian, lambda out: jacobian(out, "--no-log")),
        Writer("register in blocks", "out", in_blocks, once=True),
        Writer("evaluate", "out", evaluate, lambda out: evaluate(out, "--preset=default")),
        Writer("train", "out", train, again=lambda out: train(out, resume), staged=True),
        Writer("template", "out", template, again=lambda out: template(out, resume), staged=True),
        Writer(
            "cohort",
            "out",
            lambda out: cohort(out, resume, "--jacobian-statistics"),
            lambda out: cohort(out, "--jacobian-statistics", table="first.csv"),
            staged=True,
            codes=(1, 2),
        ),
        Writer("data fetch", "out", fetched, staged=True),
    ]


def _inputs(folder: Path) -> dict[str, Path]:
    names = ("fixed", "moving", "volume")
    at = {name: folder / f"{name}.nii.gz" for name in names}
    generator, affine = torch.Generator().manual_seed(0), np.diag([1.5, 1.5, 1.5, 1.0])
    fixed = torch.rand(8, 8, generator=generator)
    write_image(at["fixed"], Volume(fixed, affine))
    write_image(at["moving"], Volume(fixed.roll(1, 0), affine))
    write_image(at["volume"], Volume(torch.rand(4, 4, 4, generator=generator), affine))
    for number, prefix in enumerate(("", "old_")):
        matrix = np.eye(4)
        matrix[0, 3] = 0.25 + number
        field = 0.1 * torch.randn(1, 3, 4, 4, 4, generator=generator)
        for name, transform in (("affine.txt", Affine(matrix)), ("field.nii.gz", Displacement(field, affine))):
            at[prefix + name] = folder / (prefix + name)
            write_transform(at[prefix + name], transform)
    at["other.txt"] = at["old_affine.txt"]
    for name in ("a.zarr", "b.zarr"):
        at[name] = folder / name
        grid = Grid((8, 8, 8), np.diag([-1.0, -1, 1, 1])[:, [2, 1, 0, 3]])
        with zarr.written(at[name], [grid], np.dtype(np.uint16)) as (array,):
            array[...] = (1000 * torch.rand(8, 8, 8, generator=generator)).numpy().astype(np.uint16)
    at["points.csv"] = folder / "points.csv"
    at["points.csv"].write_text("x,y,z\n1,2,3\n2,1,0\n")
    at["set"] = folder / "set"
    for i in range(4):
        for kind, image in (("images", fixed.roll(i, 0)), ("labels", (fixed.roll(i, 0) > 0.5).to(torch.uint8))):
            (at["set"] / kind).mkdir(parents=True, exist_ok=True)
            write_image(at["set"] / kind / f"case{i}.nii.gz", Volume(image, affine))
    for name, rows in (("first.csv", ["one,moving.nii.gz"]), ("pairs.csv", ["one,moving.nii.gz", "two,fixed.nii.gz"])):
        at[name] = folder / name
        at[name].write_text("\n".join(["id,moving", *rows]) + "\n")
    return at


def _drawn(file: Path, *arguments: Any) -> None:
    """A picture that is drawn at once, and written as others are."""
    Image.new("RGB", (64, 64)).save(file, format="png")


@contextmanager
def _alone(workers: int) -> Iterator[Any]:
    """A team of this process."""

    def outcomes(work: Callable[[Words], str | None], lines: Mapping[str, Words]) -> Iterator[tuple[str, str | None]]:
        for id, line in lines.items():
            yield id, work(line)

    yield outcomes


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _server(folder: Path) -> Iterator[dict[str, data.Record]]:
    """A registry of a file that a server on this machine has."""
    content, place = bytes(range(256)) * 8, folder / "served"
    place.mkdir()
    (place / "brain.nii.gz").write_bytes(content)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(place))) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        address = f"http://127.0.0.1:{http.server_port}/brain.nii.gz"
        name = "scans/brain.nii.gz"
        try:
            yield {name: data.Record(name, len(content), hashlib.sha256(content).hexdigest(), address)}
        finally:
            http.shutdown()
            thread.join()
