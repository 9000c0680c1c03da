"""``python -m bench.tables`` writes the tables of the READMEs and of docs from the reports; ``--check`` only compares.

A table stands between two comments, and nothing else writes there. A page may have several.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from reliability.counts import PARTS, counted

from . import learned, prostates
from .abdomens_page import summary
from .harness import OURS
from .patches import patches
from .recipes import recipes
from .registration import cost
from .report import by_set, digits, table
from .tools import CONVEXADAM, DEFAULT

ROOT = Path(__file__).parent.parent
START, END = "<!-- table: python -m bench.tables -->", "<!-- end of table -->"
CASES = [
    *("warp, 1 channel", "warp, forward and backward to image and field, 1 channel", "affine warp"),
    *("integrate velocity, forward and backward", "local NCC, forward and backward to both images"),
    *("lattice correlation", "min-convolution", "mean field", "discrete displacement, 29 and 11, normal memory"),
    *("cost volume and coupled convex, half-width 4", "MIND-SSC"),
]


def headline(report: dict[str, Any], registration: dict[str, Any], busy: dict[str, Any]) -> str:
    """What ours takes, and how many times longer each peer, with each instruction set; and the main job."""
    sets = by_set(report)
    rows = []
    for name in CASES:
        results = [found[name]["results"] for found in sets.values()]
        peers = [peer for peer in results[0] if not peer.startswith(OURS)]
        times = {peer: [r[peer]["times_faster"] for r in results if peer in r] for peer in peers}
        ratios = [f"{peer} {' / '.join(map(digits, told))} x" for peer, told in times.items() if None not in told]
        rows.append([name, *(cell for r in results for cell in _ours(r)), ", ".join(ratios)])
    machine = report["machine"]
    where = f"{machine['cpu']}, {machine['threads']} threads, {machine['instruction set']}, {report['date']}"
    ours, theirs = (registration["figures"][name] for name in (DEFAULT, CONVEXADAM))
    job = (
        f"Two brains of 160 x 192 x 224 are registered in {cost(ours)}, mean Dice {ours['Dice']:.3f}, "
        f"{ours['digitally folded, %']:.2g} % folded; {CONVEXADAM} takes {cost(theirs)}, for {theirs['Dice']:.3f}. "
        f"{_busy(busy)}Other tools, inverses and memory are in "
        "[bench/reports/registration.md](bench/reports/registration.md)."
    )
    return "\n\n".join(
        [
            table(["operation", *_heads(sets), f"how many times longer others take, {' / '.join(sets)}"], rows),
            job,
            f"{where}; sizes, spread, memory, errors and targets in [bench/reports/cpu.md](bench/reports/cpu.md).",
        ]
    )


def _busy(report: dict[str, Any]) -> str:
    """How many times as long it takes on a machine that does other things; nothing where that was not measured."""
    if not report:
        return ""
    one, two = (" / ".join(digits(times[n]) for times in report["times"].values()) for n in ("1", "2"))
    return (
        f"Beside a process that keeps a core busy it takes {one} times as long, beside two {two} times "
        f"({' / '.join(report['times'])}; [bench/reports/busy.md](bench/reports/busy.md)). "
    )


def _heads(sets: Iterable[str]) -> list[str]:
    return [head for name in sets for head in (f"{name}, ms", "x floor")]


def _ours(results: dict[str, Any]) -> list[str]:
    """The cells below these heads."""
    return [digits(1e3 * results[OURS]["median"]), digits(results[OURS]["times_floor"])]


# By case: the operations it takes, and what is done in the time beyond the floor.
ROOFLINE = {
    "warp, 1 channel": (
        "45 a voxel, 8 of them loads of taps",
        "half of it waiting: the rows of a bending field lie on other cache lines for every voxel (an identity field "
        "takes half as long); then the gathers, 16 taps each",
    ),
    "warp, 16 channels": (
        "23 a voxel and channel, 8 of them loads",
        "as with one channel: positions and weights are shared, the gathers are not",
    ),
    "warp, forward and backward to image and field, 1 channel": (
        "120 a voxel, 8 of them additions to memory",
        "the gradient to the image: a slab of it at a time is summed in the cache, tap by tap, as lanes may share one",
    ),
    "warp, forward and backward to the field, 1 channel": (
        "90 a voxel",
        "the taps are gathered twice, forward and backward",
    ),
    "integrate velocity, forward and backward": (
        "21 compositions of 70 a voxel",
        "7 compositions forward, 7 again because their fields are not kept, 7 backward: the floor counts one",
    ),
    "affine warp": ("40 a voxel, 8 of them loads of taps", "gathers: there is no field to read"),
    "grid_sample": ("50 a voxel, 8 of them loads of taps", "as warp"),
    "local NCC, forward and backward to both images": (
        "120 a voxel, in float64",
        "window sums of means and products in float64, which exactness needs: twice the arithmetic and the cache",
    ),
    "MIND-SSC": (
        "24 sums of patches and 12 exponentials a voxel",
        "all sums are made twice, as the clamp needs a mean over the image: storing them would move 12 volumes",
    ),
    "cost volume, half-width 4": ("30 a displacement and control point", "arithmetic: 24 of the 30 are the metric's"),
    "coupled convex, half-width 4": (
        "5 a displacement, control point and coefficient",
        "the cost volume is read seven times, once for each coefficient and once to start: the floor counts one",
    ),
    "lattice correlation": (
        "5 a displacement, control point and channel",
        "arithmetic: 32 million costs of 24 channels are 3.9 billion operations",
    ),
    "min-convolution": (
        "66 a cost: sums and minima of 11 along three axes",
        "arithmetic; the O(n) envelope takes fewer operations and longer, as it jumps",
    ),
    "mean field": ("12 a cost", "sweeps along three axes of what the cache holds"),
    "soft arg-min": ("an exponential and 10 others a cost", "the exponentials"),
    "discrete displacement, 29 and 11, normal memory": (
        "all of the above, twice but for the first",
        "four layers go over the cost volume, which the floor does not count as it is no result",
    ),
}


def roofline(report: dict[str, Any]) -> str:
    """Fewest bytes, operations, floor, what is reached and where the rest of the time goes."""
    sets = by_set(report)
    rows = []
    for name, (operations, rest) in ROOFLINE.items():
        measured = [found[name] for found in sets.values()]
        floor = [digits(measured[0]["bytes"] / 1e6), " / ".join(digits(1e3 * case["floor"]) for case in measured)]
        ours = [cell for case in measured for cell in _ours(case["results"])]
        rows.append([name, *floor, operations, *ours, rest])
    head = ["case", "fewest MB", "floor, ms", "operations", *_heads(sets), "what the rest is spent on"]
    return table(head, rows)


MEASURED, BROKEN = "bench/reports", "reliability/reports"
# By file: what makes its table, or all of them in their order, and the reports that they are made of.
TABLES: dict[str, tuple[Callable[..., str | list[str]], str, tuple[str, ...]]] = {
    "README.md": (headline, MEASURED, ("cpu.json", "registration.json", "busy.json")),
    "bench/README.md": (roofline, MEASURED, ("cpu.json",)),
    "docs/reference/compat.md": (patches, MEASURED, ("compat/cpu.json", "registration.json")),
    "docs/reference/pddnet.md": (summary, MEASURED, ("abdomens.json",)),
    "docs/recipes.md": (recipes, MEASURED, ("scans.json",)),
    "docs/reference/weakly-supervised.md": (prostates.summary, MEASURED, ("prostates.json",)),
    "methods/weakly_supervised/prostates.md": (prostates.card, MEASURED, ("prostates.json",)),
    "methods/unsupervised/learned.md": (learned.summary, MEASURED, ("learned.json",)),
    "docs/reliability.md": (counted, BROKEN, tuple(f"{part}.json" for part in PARTS)),
}


def filled(text: str, made: str | list[str]) -> str:
    """A text with tables between its pairs of comments.

    Raises:
        ValueError: it has places for more or fewer.
    """
    before, *parts = text.split(START)
    tables = [made] if isinstance(made, str) else made
    if len(parts) != len(tables):
        raise ValueError(f"expected places for {len(tables)} tables, got {len(parts)}")
    return before + "".join(
        f"{START}\n\n{one}\n\n{END}{part.partition(END)[2]}" for one, part in zip(tables, parts, strict=True)
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.tables", description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail where a table is not that of the report")
    arguments = parser.parse_args(argv)
    stale = False
    for name, (make, folder, sources) in TABLES.items():
        files = [ROOT / folder / source for source in sources]
        reports = [json.loads(file.read_text()) if file.exists() else {} for file in files]
        file = ROOT / name
        text = file.read_text()
        written = filled(text, make(*reports))
        if written == text:
            continue
        if arguments.check:
            stale = True
            print(f"{name}: its table is not that of {folder}/{' and '.join(sources)}; run python -m bench.tables")
        else:
            file.write_text(written)
    return int(stale)


if __name__ == "__main__":
    sys.exit(main())
