"""Thousands of registrations in one process: what it holds does not grow, and the bits stay.

``python -m reliability.long_run --registrations 2000``; beside them resampling, training, and pages that are asked for.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import http.client
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import numpy as np
import torch

from l2rfast import cli
from l2rfast.cli.view import found
from l2rfast.data.synthetic import anatomies
from l2rfast.io import Volume, write_image
from l2rfast.viewer.server import Server

from .record import recorded

SIZES = {"flat": (32, 28), "head": (24, 24, 24), "long": (20, 24, 30)}  # of each two heads and their labels
GROWTH = 2.0  # percent of memory that a process may come to hold more, from a tenth of the calls on
# What registrations do in turn: the heads, and options. The first and the last are alike; those by mutual information
# take as long as five others.
DEFAULT = ("head",)
CASES: tuple[tuple[str, ...], ...] = (
    DEFAULT,
    ("flat",),
    ("flat", "--init=moments", "labels"),
    ("long", "--init=none", "labels", "--jacobian"),
    ("flat", "--metric=mind", "--fixed-warped"),
    ("flat", "--light-report", "labels", "--jacobian"),
    ("long", "--init=none", "--fixed-warped"),
    ("flat", "--preset=accurate"),
    ("head", "--init=none", "--preset=fast", "--light-report"),
    ("flat", "--init=none", "--metric=ssd"),
    ("head", "--transform=affine", "--init-metric=mi"),
    ("flat", "--init=none", "labels", "--light-report"),
    ("long", "--init=none", "--light-report"),
    ("flat", "--init=none", "--metric=mi"),
    ("flat", "--init=none", "--outside=-1"),
    ("flat", "--init=none", "--metric=lncc", "--window=5"),
    ("long", "--init=none", "--metric=mi", "--light-report"),
    ("flat", "--init=none", "--preset=fast"),
    ("flat", "--init=moments", "--window=7"),
    DEFAULT,
)
UNTIMED = (".gz", ".txt", ".png")  # results in which no time is told
TIMED = ("seconds", "peak_memory_mb")  # of a report


class Usage(NamedTuple):
    """Of this process, once garbage is collected.

    Attributes:
        memory: resident, bytes.
        threads, handles, objects: how many; objects are those that Python's garbage collector knows.
    """

    memory: int
    threads: int
    handles: int
    objects: int

    @classmethod
    def now(cls) -> Usage:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        threads, handles = (len(os.listdir(f"/proc/self/{each}")) for each in ("task", "fd"))
        return cls(pages * os.sysconf("SC_PAGE_SIZE"), threads, handles, len(gc.get_objects()))


class Watched(NamedTuple):
    """Of many calls.

    Attributes:
        before, after: the usage after a tenth of the calls, and after all.
        growth: percent: how much more memory was held at any time in between.
        different: calls whose results were others than those of the first one alike.
    """

    calls: int
    before: Usage
    after: Usage
    growth: float
    different: int


def watched(name: str, call: Callable[[int], bytes], calls: int, period: int) -> Watched:
    """Call, and see that nothing grows and that results stay.

    Args:
        name: of what it does, said as it goes on.
        call: with its number from 0 on; gives a digest of what came of it.
        calls: how many.
        period: calls so far apart are alike.
    """
    first: dict[int, bytes] = {}
    usages: list[Usage] = []
    different, every = 0, max(calls // (10 * period), 1) * period
    for i in range(calls):
        different += first.setdefault(i % period, result := call(i)) != result
        if (i + 1) % every == 0 or i + 1 == calls:
            usages.append(Usage.now())
            print(f"{name} {i + 1}: {usages[-1]}, {different} different", file=sys.stderr, flush=True)
    most = max(usage.memory for usage in usages)
    return Watched(calls, usages[0], usages[-1], 100 * (most / usages[0].memory - 1), different)


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


def register(folder: Path, out: Path, case: Sequence[str]) -> bytes:
    """Register two heads, and take the moving one through what was found, as a user would.

    Returns:
        A digest of what was written, but for the times in it.
    """
    name, *options = case
    fixed, moving = (folder / f"{name}{i}.nii.gz" for i in (0, 1))
    if "labels" in options:
        options.remove("labels")
        options += [f"--{role}-labels={folder / name}{i}_labels.nii.gz" for i, role in enumerate(("fixed", "moving"))]
    command("register", fixed, moving, f"--out={out}", "--quiet", "--threads=1", *options)
    through = out / "displacement.nii.gz"
    command(
        *("apply", moving, f"--reference={fixed}", f"--out={out / 'applied.nii.gz'}", "--quiet"),
        *(f"--transform={through}", f"--transform={out / 'affine.txt'}"),
    )
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


def long_run(registrations: int, folder: Path, cases: Sequence[Sequence[str]] = CASES) -> Watched:
    """So many registrations of generated heads, the cases in turn; an evaluation after each turn."""

    def call(i: int) -> bytes:
        with tempfile.TemporaryDirectory(dir=folder) as out:
            result = register(folder, Path(out), cases[i % len(cases)])
            if (i + 1) % len(cases) == 0:
                evaluate(folder, Path(out) / "evaluation")
        return result

    return watched("registrations", call, registrations, len(cases))


def in_new(folder: Path, work: Callable[[Path, Path], bytes]) -> Callable[[int], bytes]:
    """A call that works in a new folder each time."""

    def call(i: int) -> bytes:
        with tempfile.TemporaryDirectory(dir=folder) as out:
            return work(folder, Path(out))

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--registrations", type=int, default=2000)
    parser.add_argument("--others", type=int, default=500, help="calls of apply, and requests; a 25th trainings")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name, recorded("long_run") as counts:
        folder = Path(name)
        write_heads(folder)
        done = {"registrations": long_run(chosen.registrations, folder)}
        done["calls of apply"] = watched("apply", in_new(folder, apply), chosen.others, 1)
        done["trainings of 10 steps"] = watched("train", in_new(folder, train), chosen.others // 25, 1)
        register(folder, folder / "result", DEFAULT)
        with pages(folder / "result") as ask:
            done["pages of view"] = watched("view", lambda i: ask(), chosen.others, 1)
        for what, seen in done.items():
            counts[what] = seen.calls
            counts[f"{what}: results of other bits"] = seen.different
            counts[f"{what}: memory after a tenth, MB"] = round(seen.before.memory / 1e6, 1)
            counts[f"{what}: memory after all, MB"] = round(seen.after.memory / 1e6, 1)
            counts[f"{what}: most growth from then on, %"] = round(seen.growth, 2)
            counts[f"{what}: threads more"] = seen.after.threads - seen.before.threads
            counts[f"{what}: handles more"] = seen.after.handles - seen.before.handles
    grown = [what for what, seen in done.items() if seen.growth > GROWTH or seen.different or _more(seen)]
    if grown:
        sys.exit(f"not as it was: {', '.join(grown)}")


def _more(seen: Watched) -> bool:
    return (seen.before.threads, seen.before.handles) != (seen.after.threads, seen.after.handles)


if __name__ == "__main__":
    main()
