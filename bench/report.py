"""Writes what was measured on a device: ``<device>.json`` for programs, ``<device>.md`` and its pictures for people."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from . import charts
from .harness import OURS, SERIAL, Measurement, Result, grouped
from .machine import describe, device_name, software

EXPLANATION = """\
pytest-benchmark times ours; before each of its rounds every peer has a turn. Times are medians [fastest, slowest] of
the rounds; what takes more than 20 s is timed once. The *floor* is the time that moving the fewest possible bytes
takes, every input read once and every output written once, at the bandwidth of the fastest of ten large copies made
just before the case. *Error* is ||out - ref|| / ||ref|| of the worst output against the float64 reference, taken
before any timing; a contestant that is not correct is not timed. *l2rfast is faster* says how many times. A *target*
in l2rfast's own row bounds its time, or its memory: as multiples of the floor and of the size of the results, in ms
and in GB; or how much of its time is serial."""

ON_CPUS = """\
The *set* is the instruction set of our kernels and of PyTorch's: each that the processor has and that kernels are built
for has a process of its own, in which `ATEN_CPU_CAPABILITY` excludes better ones. A family of cases is a process whose
C allocator keeps the memory that it once has (glibc's, with neither mmap nor
trimming nor tcache), much as it does in a training loop after the first step, so that no contestant's time is the
system's for zeroing fresh pages. *Memory* is the growth of the resident memory during a call, results included, and
how many times the size of the results that is, in another process, whose allocator gives memory back."""

ON_THREADS = """\
Ours on one thread has a turn in every round. The *serial* part s is Amdahl's, of t(n) = t(1) (s + (1 - s) / n): what
more threads do not make faster. The bandwidth of the memory, of which one thread alone may use much, counts as such;
less than 0 is chance."""

ON_GPUS = """\
A family of cases is a process. Where a call takes less than 5 ms, as many are timed together as take that long, and
the clock is read when the GPU has done them all. *Memory* is the growth of what PyTorch has allocated during a call,
results included, and how many times the size of the results that is."""

REPORTS = Path(__file__).parent / "reports"
VERDICTS = {True: "met", False: "**not met**", None: "not measured"}


@dataclass
class Report:
    """One run of the benchmark."""

    size: str
    device: str = field(default_factory=device_name)
    machine: dict[str, Any] = field(default_factory=describe)
    versions: dict[str, str] = field(default_factory=software)
    date: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%d"))
    cases: list[Measurement] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """Write ``<device>.json``, ``<device>.md`` and, in a folder ``<device>``, its pictures; where the second is."""
        folder.mkdir(parents=True, exist_ok=True)
        pictures = charts.draw(self.cases, folder / self.device)
        json_file, file = (folder / f"{self.device}.{kind}" for kind in ("json", "md"))
        json_file.write_text(json.dumps(self.content(), indent=1, allow_nan=False) + "\n")
        file.write_text(self.markdown({name: f"{self.device}/{path.name}" for name, path in pictures.items()}))
        return file

    def content(self) -> dict[str, Any]:
        """All that was measured, and what follows from it."""
        content = asdict(self)
        for case, entry in zip(self.cases, content["cases"], strict=True):
            entry |= {"floor": case.floor, "serial": case.serial}
            for limit, said in zip(case.limits, entry["limits"], strict=True):
                said |= {"measured": case.figure(limit.figure), "met": case.kept(limit)}
            for name, result in entry["results"].items():
                result["median"] = case.results[name].median
                result["times_floor"] = case.times_floor(name)
                result["times_output"] = case.results[name].times_output
                result["times_faster"] = case.ratio(name)
                result["met"] = case.met(name)
        result: dict[str, Any] = rounded(content)
        return result

    def markdown(self, pictures: dict[str, str]) -> str:
        """Tables for people, with pictures of these families and series."""
        gpu = self.device != "cpu"
        parts = [
            f"# Benchmark on {'a GPU' if gpu else 'the CPU'}",
            f"Size {self.size}, {self.date}. Targets: {self._targets()}.",
            table(["machine", ""], [[name, str(value)] for name, value in self.machine.items()]),
            table(["software", "version"], [list(item) for item in self.versions.items()]),
            EXPLANATION,
            ON_GPUS if gpu else ON_CPUS,
            sections(self.cases, pictures),
            *scaling(self.cases),
        ]
        parts += left_out(self.skipped)
        return "\n\n".join(parts) + "\n"

    def _targets(self) -> str:
        """How many targets are met, and how many not."""
        met = [verdict for case in self.cases for *_, verdict in _case_verdicts(case)]
        if not met:
            return "none"
        return ", ".join(f"{met.count(verdict)} {text}" for verdict, text in VERDICTS.items())


def sections(cases: list[Measurement], pictures: dict[str, str] | None = None) -> str:
    """Every case, those of a series together, with pictures of these names after the sections of these cases."""
    parts = []
    for name, group in grouped(cases).items():
        parts.append(series_section(group) if group[0].point else case_section(group))
        if pictures and name in pictures:
            parts.append(f"![{name}]({pictures[name]})")
    return "\n\n".join(parts)


def series_section(cases: list[Measurement]) -> str:
    """A series: a column for every point, milliseconds and how many times the floor they are."""
    points = list(dict.fromkeys(case.point for case in cases if case.point))
    head = ["contestant, ms (x floor)", "set", *(str(point.at) for point in points)]
    head[0] += f"; {points[0].axis}:"
    rows = []
    for instruction_set in dict.fromkeys(case.instruction_set for case in cases):
        own = {case.point: case for case in cases if case.instruction_set == instruction_set}
        for name in dict.fromkeys(name for case in own.values() for name in case.results):
            cells = [_cell_of_series(own[point], name) if point in own else "-" for point in points]
            rows.append([name, instruction_set or "-", *cells])
    return "\n\n".join([f"## {points[0].series}", cases[0].description, table(head, rows), *_absent(cases)])


def _cell_of_series(case: Measurement, name: str) -> str:
    if name not in case.results:
        return "-"
    result = case.results[name]
    if result.median is None:
        return f"**incorrect**: {result.error:.1e}"
    return f"{digits(1e3 * result.median)} ({_or_dash(case.times_floor(name))})"


def case_section(cases: list[Measurement]) -> str:
    """One case, with one or several instruction sets: a heading, what it is and a row per contestant and set."""
    first = cases[0]
    floors = [
        f"{digits(1e3 * case.floor)} ms{f' ({case.instruction_set})' if len(cases) > 1 else ''} at "
        f"{case.bandwidth / 1e9:.1f} GB/s"
        for case in cases
    ]
    rounds = max(len(result.seconds) for case in cases for result in case.results.values())
    cost = f"Floor: {first.bytes / 1e6:.0f} MB, {', '.join(floors)}. Rounds: {rounds}."
    head = ["contestant", "set", "time, ms", "x floor", "error", "memory, MB", "l2rfast is faster", "target"]
    rows = [
        [name, case.instruction_set or "-", *_cells(case, name, result)]
        for case in cases
        for name, result in case.results.items()
    ]
    return "\n\n".join([f"## {first.name}", f"{first.description} {cost}", table(head, rows), *_absent(cases)])


def _absent(cases: list[Measurement]) -> list[str]:
    return left_out({name: reason for case in cases for name, reason in case.skipped.items()})


def scaling(cases: list[Measurement]) -> list[str]:
    """What a second thread brings, of every case of which that is known; nothing of none."""
    told = [
        (case, case.serial, many) for case in cases if case.serial is not None and (many := case.results[OURS].median)
    ]
    if not told:
        return []
    rows = [
        [
            case.name,
            case.instruction_set or "-",
            digits(1e3 * median(case.one_thread)),
            digits(1e3 * many),
            f"{100 * serial:.1f}",
        ]
        for case, serial, many in told
    ]
    above = sum(100 * serial > SERIAL.bound for _, serial, _ in told)
    head = ["case", "set", "one thread, ms", f"{cases[0].threads} threads, ms", "serial, %"]
    said = f"Above {SERIAL.bound:g} %: {above} of {len(rows)}."
    return ["## More threads", f"{ON_THREADS} {said}", table(head, rows)]


def _cells(case: Measurement, name: str, result: Result) -> list[str]:
    error = f"{result.error:.1e}"
    if not result.correct:
        return ["-", "-", f"{error}, **incorrect** (more than {case.tolerance:.0e})", "-", "-", "-"]
    memory = "-"
    if result.extra_bytes is not None:
        memory = f"{result.extra_bytes / 1e6:.1f} ({_or_dash(result.times_output)} x)"
    return [
        spread([1e3 * s for s in result.seconds]),
        _or_dash(case.times_floor(name)),
        error,
        memory,
        _or_dash(case.ratio(name)),
        ", ".join(f"{text}: {VERDICTS[met]}" for beside, text, met in _case_verdicts(case) if beside == name),
    ]


def _case_verdicts(case: Measurement) -> list[tuple[str, str, bool | None]]:
    """Per target: the contestant beside which it stands, the bound and whether it is met, None if not measured."""
    verdicts = [(name, f">= {times:g}", case.met(name)) for name, times in case.targets.items()]
    verdicts += [(OURS, f"<= {limit.bound:g} {limit.figure}", case.kept(limit)) for limit in case.limits]
    return verdicts


def by_set(content: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """The cases of a report by instruction set and name."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for case in content["cases"]:
        found.setdefault(case["instruction_set"], {})[case["name"]] = case
    return found


def made_of(record: dict[str, Any]) -> list[str]:
    """Tables of the machine, where the record has it, and of the software."""
    tables = []
    if "machine" in record:
        tables.append(table(["machine", ""], [[name, str(value)] for name, value in record["machine"].items()]))
    return [*tables, table(["software", "version"], [list(item) for item in record["versions"].items()])]


def kept(folder: Path, name: str, record: dict[str, Any], parts: Iterable[str]) -> str:
    """Write ``<name>.json``, the record, and ``<name>.md``, its page of these paragraphs: the page."""
    page = "\n\n".join([*parts, *made_of(record)]) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    (folder / f"{name}.md").write_text(page)
    return page


def rows_of(file: Path) -> list[dict[str, float]]:
    """The lines of a log of training."""
    with file.open() as lines:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(lines)]


def digits(value: float) -> str:
    """Three significant digits, never an exponent."""
    exponent = int(f"{value:.2e}".partition("e")[2])
    return f"{value:.{max(0, 2 - exponent)}f}"


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows])


def spread(values: list[float]) -> str:
    """Median [least, largest]; of one value, that."""
    if len(values) == 1:
        return digits(values[0])
    return f"{digits(median(values))} [{digits(min(values))}, {digits(max(values))}]"


def _or_dash(value: float | None) -> str:
    return "-" if value is None else digits(value)


def left_out(reasons: dict[str, str]) -> list[str]:
    """A paragraph for each."""
    return [f"Skipped: {name} ({reason})." for name, reason in reasons.items()]


def rounded(value: Any) -> Any:
    """Six significant digits, and null for what is not finite."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
