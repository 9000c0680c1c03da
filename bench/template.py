"""``python -m bench.template``: a template of generated heads by ``l2rfast template``, beside ANTs' ``build_template``.

Both are processes of their own that read files and write a template, with the same threads; antspyx is run as it is
unless told: three rounds of SyN. Each template is then judged by one measure: every head is registered to it by the
preset default, and its labels are warped with it; the mean Dice of the labels of any two heads says how well the
template brings them together. The heads are deformed from one image so that the mean of their shapes is its own, whose
correlation with the template is the other measure.

``--real IMAGE IMAGE ...`` builds one of these instead, without sharpening, and says how sharp it is after every round.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch

from l2rfast.data.synthetic import Anatomy, anatomies
from l2rfast.io import Volume, read_image, write_image
from l2rfast.methods.registration import register
from l2rfast.metrics import dice

from . import machine
from .report import REPORTS, digits, kept, table
from .runs import THREADS

OURS, ANTS = "l2rfast template", "antspyx build_template"
TARGET = 20.0  # times as long as ours
CALLS = """
import sys, ants
images = [ants.image_read(name) for name in sys.argv[2:]]
ants.image_write(ants.build_template(image_list=images), sys.argv[1])
"""


def make(folder: Path, size: int, heads: int) -> tuple[Anatomy, list[Anatomy], list[Path]]:
    """The one of the mean shape, the others, and the files of these."""
    truth, *others = anatomies(heads + 1, (size,) * 3, centred=True)
    files = [folder / f"head{i}.nii.gz" for i in range(heads)]
    for file, head in zip(files, others, strict=True):
        write_image(file, Volume(head.image[0, 0], np.eye(4)))
    return truth, others, files


def commands(folder: Path, files: Sequence[Path]) -> dict[str, tuple[list[str], Path]]:
    """Of each contestant what is run, and the template that it writes."""
    names, (ours, ants) = [str(file) for file in files], (folder / "ours", folder / "ants.nii.gz")
    found = {
        OURS: ([sys.executable, "-m", "l2rfast.cli", "template", *names, f"--out={ours}"], ours / "template.nii.gz")
    }
    if find_spec("ants") is not None:
        found[ANTS] = ([sys.executable, "-c", CALLS, str(ants), *names], ants)
    return found


def judged(template: Volume, truth: Anatomy, heads: Sequence[Anatomy]) -> dict[str, float]:
    """The mean Dice of the labels of two heads on a template, and its correlation with the image of the mean shape."""
    warped = []
    for head in heads:
        found = register(template, Volume(head.image[0, 0], np.eye(4)))
        warped.append(found.warp(head.labels[0, 0], mode="nearest"))
    every = [value for one, two in itertools.combinations(warped, 2) for value in dice(one, two).values()]
    pair = torch.stack([template.data.flatten(), truth.image.flatten()])
    return {"dice": fmean(every), "correlation": float(torch.corrcoef(pair)[0, 1])}


def measure(size: int, heads: int, rounds: int, threads: int) -> dict[str, dict[str, Any]]:
    """Of each contestant the seconds of every round, and how the last template is judged."""
    found: dict[str, dict[str, Any]] = {}
    environment = dict.fromkeys(THREADS, str(threads))
    with tempfile.TemporaryDirectory(prefix="l2rfast-bench-") as name:
        truth, others, files = make(Path(name), size, heads)
        for number in range(rounds):
            folder = Path(name) / str(number)
            folder.mkdir()
            for contestant, (command, template) in commands(folder, files).items():
                start = machine.clock()
                subprocess.run(command, check=True, capture_output=True, env=os.environ | environment)
                one = found.setdefault(contestant, {"seconds": []})
                one["seconds"].append(machine.clock() - start)
                print(f"{contestant}: {one['seconds'][-1]:.1f} s", flush=True)
                if number == rounds - 1:
                    one |= judged(read_image(template), truth, others)
    return found


def real(images: Sequence[Path]) -> list[dict[str, Any]]:
    """What came of every round of a template that is not sharpened."""
    with tempfile.TemporaryDirectory(prefix="l2rfast-bench-") as name:
        out = Path(name) / "out"
        names = [str(image) for image in images]
        line = [sys.executable, "-m", "l2rfast.cli", "template", *names, f"--out={out}", "--sharpen=0", "--quiet"]
        subprocess.run(line, check=True)
        files = sorted((out / "rounds").glob("*/mean/round.json"), key=lambda file: int(file.parts[-3]))
        return [json.loads(file.read_text()) for file in files]


def page(record: dict[str, Any]) -> list[str]:
    """What was measured, in paragraphs of Markdown."""
    parts = ["# Templates"]
    if found := record.get("found"):
        ours = median(found[OURS]["seconds"])
        rows = []
        for name, one in found.items():
            seconds = median(one["seconds"])
            ratio, target = ("", "") if name == OURS else (f"{seconds / ours:.1f}", f"{TARGET:g}")
            rows.append([name, digits(seconds), ratio, target, f"{one['dice']:.4f}", f"{one['correlation']:.4f}"])
        head = [
            "",
            "seconds",
            "times as long as ours",
            "target",
            "mean Dice of two heads",
            "correlation with the truth",
        ]
        parts += [
            f"{record['date']}. {record['heads']} generated heads of {record['size']}^3 voxels, {record['threads']} "
            f"threads; medians of {record['rounds']} rounds in turns. {__doc__.split(chr(10) * 2)[1]}",
            table(head, rows),
        ]
    if rounds := record.get("real"):
        rows = [
            [str(number), one["kind"], digits(one["moved"]), f"{one['sharpness']:.5f}"]
            for number, one in enumerate(rounds[1:], 1)
        ]
        parts += [
            f"{record['real_date']}. A template of {rounds[-1]['members']} real brains, not sharpened: root mean "
            f"square of the gradient of intensities from 0 to 1, per mm. The last affine round is an affine average.",
            table(["round", "kind", "moved to the mean shape, mm", "sharpness"], rows),
        ]
    return parts


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.template", description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=128, help="of the heads, along each axis (default: 128)")
    parser.add_argument("--heads", type=int, default=6, help="(default: 6)")
    parser.add_argument("--rounds", type=int, default=1, help="of the comparison, in turns (default: 1)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="(default: all)")
    parser.add_argument("--real", type=Path, nargs="+", help="images; then nothing is compared")
    parser.add_argument("--out", type=Path, default=REPORTS, help="folder of the report")
    arguments = parser.parse_args(argv)
    file, today = arguments.out / "template.json", datetime.now(UTC).strftime("%Y-%m-%d")
    record = json.loads(file.read_text()) if file.exists() else {}
    record |= {"machine": machine.describe(), "versions": machine.software("antspyx")}
    if arguments.real:
        record |= {"real": real(arguments.real), "real_date": today}
    else:
        size, heads, rounds, threads = arguments.size, arguments.heads, arguments.rounds, arguments.threads
        record |= {"date": today, "size": size, "heads": heads, "rounds": rounds, "threads": threads}
        record["found"] = measure(size, heads, rounds, threads)
    print(kept(arguments.out, "template", record, page(record)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
