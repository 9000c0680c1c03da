"""Thousands of registrations in one process: what it holds does not grow, and the bits stay.

``python -m reliability.long_run --registrations 2000``; beside them resampling, training, and pages that are asked for.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import hashlib
import http.client
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from threading import Thread
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

import l2rfast
from l2rfast import cli
from l2rfast.cli.view import found
from l2rfast.data.synthetic import anatomies
from l2rfast.io import Volume, write_displacement, write_image
from l2rfast.viewer.server import Server

from .record import recorded, some

REGISTRATIONS, OTHERS = 2000, 500  # of a full run
SIZES = {"flat": (32, 28), "head": (24, 24, 24), "long": (20, 24, 30)}  # of each two heads and their labels
GROWTH = 2.0  # percent of memory that a process may hold more at the end than after a tenth of the calls
LABELS = "labels"  # among the words of a command: those of both heads are given
COMMANDS: tuple[tuple[str, ...], ...] = (  # the heads, and options of the command line
    ("head",),
    ("flat", LABELS, "--metric=mind", "--fixed-warped"),
    ("long", LABELS, "--init=none", "--jacobian", "--light-report"),
    ("flat", "--transform=affine", "--init-metric=mi"),
)
CALLS: tuple[tuple[str, dict[str, Any]], ...] = (  # likewise of `l2rfast.register`
    ("flat", {}),
    ("flat", {"init": "moments"}),
    ("flat", {"metric": "mi", "init": "none"}),
    ("head", {"init": "none", "preset": "fast"}),
    ("flat", {"preset": "accurate"}),
    ("flat", {"metric": "ssd", "init": "none"}),
    ("long", {"init": "none", "preset": "fast", "metric": "mind"}),
    ("flat", {"window": 5, "init": "none"}),
    ("flat", {}),
)
# In turn; the first and the last are alike.
TURN: tuple[Any, ...] = tuple(case for each in COMMANDS for case in (*CALLS[:-1], each, CALLS[-1]))
UNTIMED = (".gz", ".txt", ".png")  # results in which no time is told
TIMED = ("seconds", "peak_memory_mb")  # of a report


class Usage(NamedTuple):
    """Of this process, once garbage is collected.

    Attributes:
        memory: resident, bytes.
        allocated: bytes that the C library has given away and not got back: without what it keeps for later.
        threads, handles, objects: how many; objects are those that Python's garbage collector knows.
    """

    memory: int
    allocated: int
    threads: int
    handles: int
    objects: int

    @classmethod
    def now(cls) -> Usage:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        threads, handles = (len(os.listdir(f"/proc/self/{each}")) for each in ("task", "fd"))
        return cls(pages * os.sysconf("SC_PAGE_SIZE"), _allocated(), threads, handles, len(gc.get_objects()))


class _Mallinfo(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _fields_: ClassVar = [
        (name, ctypes.c_size_t) for name in ["arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks"]
    ]
    _fields_ += [(name, ctypes.c_size_t) for name in ["fsmblks", "uordblks", "fordblks", "keepcost"]]


def _allocated() -> int:
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _Mallinfo
    found = mallinfo()
    return int(found.uordblks + found.hblkhd)


class Watched(NamedTuple):
    """Of many calls.

    Attributes:
        usages: after a tenth of the calls, and from then on after every turn.
        different: calls whose results were others than those of the first one alike.
    """

    calls: int
    usages: list[Usage]
    different: int

    def growth(self, of: str) -> float:
        """How much more a process holds at the end, percent: the median of the last third of the usages over that of
        the first third, as what the C library keeps goes up and down."""
        values = [getattr(usage, of) for usage in self.usages]
        third = -(-len(values) // 3)
        return 100 * (median(values[-third:]) / median(values[:third]) - 1)

    def more(self, of: str) -> int:
        values = [getattr(usage, of) for usage in self.usages]
        return int(max(values) - values[0])


def watched(name: str, call: Callable[[int], bytes], calls: int, turn: Sequence[Any] = (0,)) -> Watched:
    """Call, and see that nothing grows and that results stay.

    Args:
        name: of what it does, said as it goes on.
        call: with its number from 0 on; gives a digest of what came of it.
        calls: how many.
        turn: what calls are, one after another, and again from the first on.
    """
    first: dict[str, bytes] = {}
    usages: list[Usage] = []
    different, every = 0, max(len(turn), calls // 50)
    for i in range(calls):
        result = call(i)
        different += first.setdefault(repr(turn[i % len(turn)]), result) != result
        if ((i + 1) % every == 0 or i + 1 == calls) and i + 1 >= calls // 10:
            usages.append(Usage.now())
            print(f"{name} {i + 1}: {usages[-1]}, {different} different", file=sys.stderr, flush=True)
    return Watched(calls, usages, different)


def write_heads(folder: Path) -> None:
    """``NAME0``, ``NAME1`` and their labels of every size, and a folder of three flat ones to train and evaluate on."""
    for name, size in SIZES.items():
        for i, one in enumerate(anatomies(2, size)):
            write_image(folder / f"{name}{i}.nii.gz", Volume(one.image[0, 0], np.eye(4)))
            write_image(folder / f"{name}{i}_labels.nii.gz", Volume(one.labels[0, 0], np.eye(4)))
    for i, one in enumerate(anatomies(3, SIZES["flat"])):
        for kind, data in (("images", one.image), ("labels", one.labels)):
            (folder / "set" / kind).mkdir(parents=True, exist_ok=True)
            write_image(folder / "set" / kind / f"case{i}.nii.gz", Volume(data[0, 0], np.eye(4)))


def command(*words: object) -> None:
    """The command line in this process.

    Raises:
        RuntimeError: it failed.
    """
    code = cli.app([*map(str, words)], standalone_mode=False)
    if code:
        raise RuntimeError(f"{words} ended with {code}")


def register(folder: Path, out: Path, words: Sequence[str]) -> bytes:
    """Register two heads by the command, and take the moving one through what was found.

    Returns:
        A digest of what was written, but for the times in it.
    """
    name, *options = words
    fixed, moving = (folder / f"{name}{i}.nii.gz" for i in (0, 1))
    if LABELS in options:
        options.remove(LABELS)
        options += [f"--{role}-labels={folder / name}{i}_labels.nii.gz" for i, role in enumerate(("fixed", "moving"))]
    command("register", fixed, moving, f"--out={out}", "--quiet", "--threads=1", *options)
    command(
        *("apply", moving, f"--reference={fixed}", f"--out={out / 'applied.nii.gz'}", "--quiet"),
        *(f"--transform={out / 'displacement.nii.gz'}", f"--transform={out / 'affine.txt'}"),
    )
    return digest(out)


def register_by_call(folder: Path, out: Path, name: str, options: Mapping[str, Any]) -> bytes:
    """Likewise from Python, from files to files."""
    fixed, moving = (folder / f"{name}{i}.nii.gz" for i in (0, 1))
    found = l2rfast.register(fixed, moving, threads=1, **options)
    write_image(out / "warped.nii.gz", replace(found.fixed, data=found.warp(found.moving.data), mask=None))
    for kind, field in (("displacement", found.displacement), ("inverse", found.inverse)):
        write_displacement(out / f"{kind}.nii.gz", field, found.fixed.affine)
    return digest(out)


def digest(out: Path) -> bytes:
    """Of the results in a folder, but for times."""
    found = hashlib.sha256()
    for file in sorted(out.rglob("*")):
        if file.name.endswith(UNTIMED) or file.name == "weights.safetensors":
            found.update(file.name.encode() + file.read_bytes())
        elif file.name == "report.json":
            report: dict[str, Any] = json.loads(file.read_text())
            found.update(repr(sorted((key, value) for key, value in report.items() if key not in TIMED)).encode())
    return found.digest()


def evaluate(folder: Path, out: Path) -> None:
    command("evaluate", f"--data={folder / 'set'}", f"--out={out}", "--atlas=case0", "--init=none", "--quiet")


def apply(folder: Path, out: Path) -> bytes:
    """Resample a head and its labels."""
    for name, interpolation in (("head1", "linear"), ("head1", "sinc"), ("head1_labels", "vote")):
        command(
            *("apply", folder / f"{name}.nii.gz", f"--reference={folder / 'long0.nii.gz'}", "--quiet"),
            *(f"--out={out / name}_{interpolation}.nii.gz", f"--interpolation={interpolation}"),
        )
    return digest(out)


def train(folder: Path, out: Path) -> bytes:
    """Ten steps of a training, with a validation."""
    command(
        *("train", "unsupervised", f"--data={folder / 'set'}", f"--out={out}", "--quiet", "--atlas=case0"),
        *("--hold-out=1", "--encoder=4,4", "--decoder=4,4,4,4", "--steps=10", "--every=5", "--affine=0.1"),
    )
    return digest(out)


@contextmanager
def pages(result: Path) -> Iterator[Callable[[], bytes]]:
    """What asks the server of ``l2rfast view`` for the page of a result, and a scan of it."""
    with Server(found(result)) as server:
        thread = Thread(target=server.serve, args=(2.0,))
        thread.start()

        def ask() -> bytes:
            told = hashlib.sha256()
            with closing(http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)) as connection:
                for name in ("", "volumes/fixed.nii.gz", "not_there"):
                    connection.request("GET", f"/{server.secret}/{name}")
                    answer = connection.getresponse()
                    told.update(str(answer.status).encode() + answer.read())
            while len(os.listdir("/proc/self/task")) > alone:  # that of the connection is about to end
                thread.join(0.001)
            return told.digest()

        alone = len(os.listdir("/proc/self/task"))
        yield ask
        thread.join()


def long_run(registrations: int, folder: Path, turn: Sequence[Any] = TURN) -> Watched:
    """So many registrations of generated heads, in turn; an evaluation after each turn."""

    def call(i: int) -> bytes:
        case = turn[i % len(turn)]
        with tempfile.TemporaryDirectory(dir=folder) as out:
            by_call = isinstance(case[-1], dict)
            result = register_by_call(folder, Path(out), *case) if by_call else register(folder, Path(out), case)
            if (i + 1) % len(turn) == 0:
                evaluate(folder, Path(out) / "evaluation")
        return result

    return watched("registrations", call, registrations, turn)


def in_new(folder: Path, work: Callable[[Path, Path], bytes]) -> Callable[[int], bytes]:
    """A call that works in a new folder each time."""

    def call(i: int) -> bytes:
        with tempfile.TemporaryDirectory(dir=folder) as out:
            return work(folder, Path(out))

    return call


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m reliability.long_run", description=__doc__)
    parser.add_argument(
        "--registrations", type=some, default=REGISTRATIONS, help="a full run: %(default)s, the default"
    )
    others = "calls of apply, and requests of pages; a 25th as many trainings (default: %(default)s)"
    parser.add_argument("--others", type=some, default=OTHERS, help=others)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    full = chosen.registrations >= REGISTRATIONS and chosen.others >= OTHERS
    with tempfile.TemporaryDirectory() as name, recorded("long_run", full=full) as counts:
        folder = Path(name)
        write_heads(folder)
        done = {"registrations": long_run(chosen.registrations, folder)}
        done["calls of apply"] = watched("apply", in_new(folder, apply), chosen.others)
        done["trainings of 10 steps"] = watched("train", in_new(folder, train), max(1, chosen.others // 25))
        register(folder, folder / "result", COMMANDS[0])
        with pages(folder / "result") as ask:
            done["pages of view"] = watched("view", lambda i: ask(), chosen.others)
        for what, seen in done.items():
            counts[what] = seen.calls
            counts[f"{what}: results of other bits"] = seen.different
            counts[f"{what}: resident memory at the end, MB"] = round(seen.usages[-1].memory / 1e6, 1)
            for of, told in (("memory", "resident"), ("allocated", "allocated")):
                counts[f"{what}: growth of {told} memory, %"] = round(seen.growth(of), 2)
            for of in ("threads", "handles"):
                counts[f"{what}: {of} more"] = seen.more(of)
    if grown := [what for what, seen in done.items() if not kept(seen)]:
        sys.exit(f"not as it was: {', '.join(grown)}")


def kept(seen: Watched) -> bool:
    """Whether nothing has grown and no result has changed."""
    same = not (seen.different or seen.more("threads") or seen.more("handles"))
    return same and max(seen.growth("memory"), seen.growth("allocated")) <= GROWTH


if __name__ == "__main__":
    main()
