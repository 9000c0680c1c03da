"""``python -m bench.compare REF``: every case of ours at a commit and as it is in this folder, in turns.

Both are built and installed, each in a folder of its own under ``build/compare``. A round is a process of each that
times all cases; the cases are this folder's, and one that the commit cannot compute is shown without a ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch

from . import cases, harness, machine, report

ROOT = Path(__file__).parent.parent
BUILT = ROOT / "build" / "compare"
CALLS = 5  # of a case in a round: the median counts

Times = dict[str, float]  # seconds by case, of those that can be computed


def installed(ref: str | None) -> Path:
    """The folder that holds the package as it is at a commit, or, with none, as it is here.

    Raises:
        subprocess.CalledProcessError: there is no such commit, or it cannot be built; git and pip have said why.
    """
    command = ["git", "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}"]
    name = subprocess.run(command, cwd=ROOT, check=True, text=True, capture_output=True).stdout[:12] if ref else "here"
    target, source = BUILT / name, ROOT
    if ref is None:
        shutil.rmtree(target, ignore_errors=True)  # it may have changed
    elif target.exists():
        return target
    else:
        source = BUILT / f"{name}-source"
        shutil.rmtree(source, ignore_errors=True)
        source.mkdir(parents=True)
        archive = subprocess.run(["git", "archive", name], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
        subprocess.run(["tar", "x"], cwd=source, check=True, input=archive)
    print(f"Building {name} ...", flush=True)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    new = BUILT / f"{name}-new"  # what is cut off is not taken for built
    shutil.rmtree(new, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "pip", "install", *options, f"--target={new}", str(source)], check=True)
    new.rename(target)
    return target


def times(package: Path, arguments: argparse.Namespace) -> Times:
    """A round: every case, in a process that imports that package."""
    command = [sys.executable, "-m", "bench.compare", "--time", "--size", arguments.size]
    command += ["--threads", str(arguments.threads), *(f"--only={family}" for family in arguments.only or [])]
    environment = os.environ | harness.KEEPING | {"PYTHONPATH": os.pathsep.join([str(package), str(ROOT)])}
    # Not in the project's folder, whose l2rfast would come first.
    done = subprocess.run(command, cwd=BUILT, env=environment, text=True, stdout=subprocess.PIPE)
    if done.returncode != 0:
        raise SystemExit(f"{package.name}: its package cannot be timed by the cases of this folder, see above")
    result: Times = json.loads(done.stdout)
    return result


def timed(arguments: argparse.Namespace) -> Times:
    """Medians of some calls of ours, the first apart, in this process."""
    found: Times = {}
    for family in arguments.only or cases.FAMILIES:
        for index, make in enumerate(cases.FAMILIES[family]):
            try:
                case = make(cases.SIZES[arguments.size])
                run = case.contestants[harness.OURS].run
                run()
                found[case.name] = median(machine.seconds(run) for _ in range(CALLS))
            except (AttributeError, TypeError, RuntimeError, ValueError) as error:  # what another interface gives
                print(f"{family} {index}: {error}", file=sys.stderr)
    return found


def compared(before: list[Times], now: list[Times]) -> str:
    """A row a case: milliseconds of both, and how many times faster it is now, with the spread over the rounds."""
    rows = []
    for name in now[0]:
        pairs = [(b[name], n[name]) for b, n in zip(before, now, strict=True) if name in b and name in n]
        if not pairs:
            rows.append([name, "-", report.digits(1e3 * median(n[name] for n in now)), "-"])
            continue
        ratios = [b / n for b, n in pairs]
        then, here = (median(values[i] for values in pairs) for i in (0, 1))
        spread = f"{report.digits(median(ratios))} [{report.digits(min(ratios))}, {report.digits(max(ratios))}]"
        rows.append([name, report.digits(1e3 * then), report.digits(1e3 * here), spread])
    return report.table(["case", "before, ms", "now, ms", "times faster now"], rows)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("ref", nargs="?", default="HEAD", help="a commit (default: HEAD)")
    parser.add_argument("--size", choices=cases.SIZES, default="quick", help="of the inputs (default: quick)")
    parser.add_argument("--only", action="append", choices=cases.FAMILIES, help="can be given several times")
    parser.add_argument("--rounds", type=int, default=5, help="(default: 5)")
    parser.add_argument("--threads", type=int, default=2, help="(default: 2)")
    parser.add_argument("--time", action="store_true", help=argparse.SUPPRESS)  # what a round's process is told
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    if arguments.time:
        print(json.dumps(timed(arguments)))
        return 0
    try:
        packages = installed(arguments.ref), installed(None)
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"{arguments.ref}: no such commit, or it cannot be built ({error})") from None
    rounds = [[times(package, arguments) for package in packages] for _ in range(arguments.rounds)]
    before, now = zip(*rounds, strict=True)
    print(compared(list(before), list(now)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
