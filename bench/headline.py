"""``python -m bench.headline`` writes the README's table from the committed report; ``--check`` only compares the two.

The table stands between two comments in README.md, and nothing else writes there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .harness import OURS
from .report import digits, table

ROOT = Path(__file__).parent.parent
START, END = "<!-- headline: python -m bench.headline -->", "<!-- end of headline -->"
CASES = [
    *("warp, 1 channel", "warp, forward and backward to image and field, 1 channel", "affine warp"),
    *("integrate velocity, forward and backward", "local NCC, forward and backward to both images"),
    *("lattice correlation", "min-convolution", "mean field", "discrete displacement, 29 and 11, normal memory"),
    *("cost volume and coupled convex, half-width 4", "MIND-SSC"),
]


def headline(report: dict[str, Any]) -> str:
    """The table: what ours takes, and how many times longer each peer."""
    by_name = {case["name"]: case for case in report["cases"]}
    rows = []
    for name in CASES:
        results = by_name[name]["results"]
        peers = {peer: r["times_faster"] for peer, r in results.items() if not peer.startswith(OURS)}
        ratios = [f"{peer} {digits(times)} x" for peer, times in peers.items() if times is not None]
        ours = results[OURS]
        rows.append([name, digits(1e3 * ours["median"]), digits(ours["times_floor"]), ", ".join(ratios)])
    machine = report["machine"]
    where = f"{machine['cpu']}, {machine['threads']} threads, {machine['instruction set']}, {report['date']}"
    return "\n\n".join(
        [
            table(["operation", "ms", "x floor", "how many times longer others take"], rows),
            f"{where}; sizes, spread, memory, errors and targets in [bench/reports/cpu.md](bench/reports/cpu.md).",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.headline", description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail where the table is not that of the report")
    arguments = parser.parse_args(argv)
    readme = ROOT / "README.md"
    text = readme.read_text()
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    new = headline(json.loads((ROOT / "bench" / "reports" / "cpu.json").read_text()))
    written = f"{before}{START}\n\n{new}\n\n{END}{after}"
    if arguments.check and written != text:
        print("README.md: its table is not that of bench/reports/cpu.json; run python -m bench.headline")
        return 1
    if not arguments.check:
        readme.write_text(written)
    return 0


if __name__ == "__main__":
    sys.exit(main())
