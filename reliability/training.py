"""Training that is killed: wherever that is, what is resumed ends in the bits of what was never interrupted.

``python -m reliability.training --kills 50 --seed 0``
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from l2rfast import cli
from l2rfast.data.synthetic import anatomies
from l2rfast.io import Volume, write_image
from l2rfast.methods.training.run import CHECKPOINT, LOGS, OPTIONS

from .record import any_number, recorded, some

KILLS, RANKS = 50, 10  # of a full run
SIZES = {"flat": (30, 26), "head": (24, 24, 24)}
AUGMENTED = ("--steps=24", "--every=4", "--affine=0.1", "--intensity=0.1", "--hold-out=2", "--quiet")
RUNS: dict[str, tuple[str, ...]] = {  # by method: of which scans, and options
    "unsupervised": ("flat", "--velocity", "--batch=2", "--encoder=4,4", "--decoder=4,4,4,4", "--rate=1e-3"),
    "weakly-supervised": ("head", "--width=2", "--batch=1", "--resolution=2", "--elastic=1"),
    "discrete": ("flat", "--loss=lncc", "--radius=2", "--rate=1e-3"),
}
SETTLED = ("checkpoint", "weights", "options")  # what is written whole or not at all
FILE_EVENTS = ("open", "os.rename", "os.chmod", "os.remove", "os.utime", "os.mkdir")
ENDS = 60.0  # seconds, within which a process has to end whose peer was killed
# How long a training may go on at first, and after that: of the seconds that one takes that is not killed.
EARLY, LATE = 0.1, 1.0


def write_scans(folder: Path, name: str) -> Path:
    """Images and labels of five generated heads, in a folder of that name."""
    for i, subject in enumerate(anatomies(5, SIZES[name])):
        for kind, data in (("images", subject.image), ("labels", subject.labels)):
            (folder / name / kind).mkdir(parents=True, exist_ok=True)
            write_image(folder / name / kind / f"case{i}.nii.gz", Volume(data[0, 0], np.eye(4)))
    return folder / name


def differences(run: Path, other: Path) -> list[str]:
    """In what two runs of training differ: tensors and numbers of their checkpoints, their weights, and every line of
    their logs but for the seconds.
    """
    found = [name for name in (CHECKPOINT, "weights.safetensors") if _tensors(run / name) != _tensors(other / name)]
    return found + [f"{log}.csv" for log in LOGS if _lines(run / f"{log}.csv") != _lines(other / f"{log}.csv")]


def _tensors(file: Path) -> dict[str, Any]:
    with safe_open(file, "pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in [*opened.keys()]}
        bits = {name: (value.dtype, value.shape, value.numpy().tobytes()) for name, value in tensors.items()}
        return bits | {"of the file": opened.metadata()}


def _lines(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(stream)]


def _train(words: list[str], out: Path, said: Path, last: int | None, environment: dict[str, str]) -> None:
    """The command line in a process of its own, which is killed at an event in the folder of the run, if one is given.

    The number of events is written beside what was said.
    """
    os.environ |= environment
    events = 0

    def heard(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal events
        if event in FILE_EVENTS and isinstance(arguments[0], str | os.PathLike):
            file = Path(arguments[0])
            if file.parent == out and any(name in file.name for name in SETTLED):
                events += 1
                if events == last:
                    os.kill(os.getpid(), signal.SIGKILL)

    stream = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    torch.set_num_threads(1)
    # The semaphores of a queue of TensorBoard's would be left, and said, if they had names, as those of a fork server.
    multiprocessing.set_start_method("fork", force=True)
    sys.addaudithook(heard)
    code = cli.app(words, standalone_mode=False)
    said.with_suffix(".events").write_text(str(events))
    sys.exit(code)


class Killed:
    """Trainings of one method that are killed and resumed.

    Args:
        folder: where they work.
        method: one of `RUNS`.
        random: of when they are killed.
    """

    def __init__(self, folder: Path, method: str, random: random.Random) -> None:
        self.folder, self.method, self.random = folder, method, random
        self.counts: Counter[str] = Counter()
        scans, *options = RUNS[method]
        self.words = ["train", method, f"--data={write_scans(folder, scans)}", *AUGMENTED, *options]
        self.whole = folder / f"{method}-whole"
        start = time.monotonic()
        self._ended(self._started(self.whole))
        self.seconds = time.monotonic() - start
        self.events = int(self._said(self.whole).with_suffix(".events").read_text())

    def _said(self, out: Path) -> Path:
        return out.with_suffix(".txt")

    def _started(self, out: Path, last: int | None = None) -> Any:
        words = [*self.words, f"--out={out}", *(["--resume"] * out.exists())]
        process = _SERVER.Process(target=_train, args=(words, out, self._said(out), last, {}))
        process.start()
        return process

    def _ended(self, process: Any) -> bool:
        """Whether it was killed.

        Raises:
            RuntimeError: it ended in another way than by that or well.
        """
        process.join()
        if process.exitcode not in (0, -signal.SIGKILL):
            said = "".join(file.read_text() for file in self.folder.glob("*.txt"))
            raise RuntimeError(f"{self.method} ended with {process.exitcode}: {said}")
        return bool(process.exitcode)

    def run(self, kills: int) -> int:
        """One training, killed at most so often; how often it was."""
        out, done = self.folder / self.method, 0
        while done < kills:
            way = self.random.choice(("at the start", "at any time", "while writing"))
            if way == "while writing":
                process = self._started(out, self.random.randint(1, self.events))
            else:
                process = self._started(out)
                most = EARLY if way == "at the start" else LATE
                process.join(self.random.uniform(0, most * self.seconds))
                process.kill()
            self.counts["resumed"] += done > 0
            if not self._ended(process):
                break
            done += 1
            self.counts[f"killed {way}"] += 1
        else:
            self.counts["resumed"] += done > 0
            self._ended(self._started(out))
        self.counts["trainings"] += 1
        wrong = differences(out, self.whole)
        if (out / OPTIONS).read_bytes() != (self.whole / OPTIONS).read_bytes():
            wrong.append(OPTIONS)
        wrong += sorted({file.name for file in out.iterdir()} ^ {file.name for file in self.whole.iterdir()})
        self.counts["differences"] += len(wrong)
        print(f"{self.method}: {done} kills, different: {wrong}", file=sys.stderr, flush=True)
        shutil.rmtree(out)
        return done


class Pair:
    """Trainings by two processes of which one is killed: the other ends by itself, in one sentence.

    Args:
        folder: where they work.
        random: of which is killed, and when.
    """

    def __init__(self, folder: Path, random: random.Random) -> None:
        self.folder, self.random, self.counts = folder, random, Counter[str]()
        scans, *options = RUNS["unsupervised"]
        self.words = ["train", "unsupervised", f"--data={write_scans(folder, scans)}", *AUGMENTED, *options]
        self.whole = folder / "two-whole"
        start = time.monotonic()
        for process in self._started(self.whole):
            process.join()
        self.seconds = time.monotonic() - start

    def _started(self, out: Path) -> list[Any]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
        words = [*self.words, f"--out={out}", *(["--resume"] * out.exists())]
        processes = []
        for rank in (0, 1):
            environment = told | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            processes.append(_SERVER.Process(target=_train, args=(words, out, self._said(rank), None, environment)))
            processes[-1].start()
        return processes

    def _said(self, rank: int) -> Path:
        return self.folder / f"rank{rank}.txt"

    def run(self) -> None:
        """One training in which one of the two is killed once both are at work, and that is resumed."""
        out = self.folder / "two"
        processes = self._started(out)
        while not (out / "training.csv").exists() and all(process.is_alive() for process in processes):
            time.sleep(0.01)
        time.sleep(self.random.uniform(0, self.seconds / 4))
        rank = self.random.randrange(2)
        processes[rank].kill()
        for process in processes:
            process.join(ENDS)
        if processes[rank].exitcode == -signal.SIGKILL:
            self.counts["one of two killed"] += 1
            other = processes[1 - rank]
            said = self._said(1 - rank).read_text().splitlines()
            well = other.exitcode == 2 and len(said) == 1 and "--resume goes on" in said[0]
            self.counts["others that ended in one sentence"] += well
            if not well:
                print(f"exit code {other.exitcode}: {said}", file=sys.stderr, flush=True)
                other.kill()
        for process in self._started(out):
            process.join()
        self.counts["differences"] += len(differences(out, self.whole))
        shutil.rmtree(out)


def killed(kills: int, seed: int, folder: Path, methods: tuple[str, ...] = tuple(RUNS), most: int = 6) -> Counter[str]:
    """Trainings of the methods in turn, until there were so many kills in all, at most so many of one training.

    Returns:
        How many trainings there were, how they were killed, how often they were resumed, and in how many files they
        differed from those that were not.
    """
    random_ = random.Random(seed)
    runs = [Killed(folder, method, random_) for method in methods]
    done = 0
    while done < kills:
        for each in runs:
            done += each.run(min(most, kills - done)) if done < kills else 0
    return sum((each.counts for each in runs), Counter())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m reliability.training", description=__doc__)
    parser.add_argument("--kills", type=some, default=KILLS, help=f"default, and a full run: {KILLS}")
    parser.add_argument("--seed", type=any_number, default=0, help="of when they come (default: 0)")
    parser.add_argument("--ranks", type=any_number, default=RANKS, help=f"kills of one of two (default: {RANKS})")
    chosen = parser.parse_args()
    print(f"seed {chosen.seed}", file=sys.stderr)
    full = chosen.kills >= KILLS and chosen.ranks >= RANKS
    with tempfile.TemporaryDirectory() as name, recorded("training", full=full) as counts:
        found = killed(chosen.kills, chosen.seed, Path(name))
        two = Pair(Path(name), random.Random(chosen.seed))
        for _ in range(chosen.ranks):
            two.run()
        found += two.counts
        counts |= {what: found[what] for what in sorted(found)}
        counts["differences"] = found["differences"]
    if found["differences"] or found["one of two killed"] != found["others that ended in one sentence"]:
        sys.exit("what was resumed differs from what was not interrupted, or did not end")


# It imports once what a training imports, and is forked for each.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    ["l2rfast.cli", "torch._dynamo", "torch.distributed", "safetensors.torch", "matplotlib.figure", "tensorboardX"]
)

if __name__ == "__main__":
    main()
