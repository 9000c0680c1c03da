"""The report of a registration: `report.json` for programs, `report.md` and a short table for people."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._info import versions
from .answer import document, plain
from .verdict import Change, Verdict, judged, mean_change

if TYPE_CHECKING:
    from rich.table import Table


def _threads() -> int:
    import torch  # takes long to import

    return torch.get_num_threads()


@dataclass
class Report:
    """What a registration did, what it cost and how good it is.

    Attributes:
        inputs: per argument (``"fixed"``, ``"moving"``, ...) its ``path``, ``shape`` and ``spacing`` in mm.
        options: as they were used, by name.
        seed: of the random numbers.
        backend: that computed, as in ``"cpp (avx512)"``.
        seconds: per stage, in the order they ran.
        peak_memory_mb: largest resident memory of the process, in 10^6 bytes.
        similarity: per measure, before and after.
        covered_percent: of the voxels of fixed that count and are not dark, which moving covers after.
        folding_percent: of the voxels, by central differences, as Learn2Reg counts.
        digital_folding_percent: of the voxels, by all differences, so that nothing is missed between voxels.
        log_jacobian_std: standard deviation of the logarithm of the Jacobian determinant.
        inverse_residual: mean distance, in voxels of fixed, from where the two fields, one after the other, lead; the
            larger of both orders.
        dice, hd95: per label, before and after; 0 to 1, and mm. Empty without labels.
        tre: distance of the landmarks of both images, by their names, before and after, in mm. Empty without landmarks.
        landmarks: whether they were ``"guiding"`` the registration or ``"measured only"``.
        warnings: what was noticed about the input.
        threads: that PyTorch computes with.
        versions: of l2rfast, torch, numpy and python.

    A measure that is not defined is NaN here, null in JSON and "-" for people.
    """

    inputs: dict[str, dict[str, Any]]
    options: dict[str, Any]
    seed: int
    backend: str
    seconds: dict[str, float]
    peak_memory_mb: float
    similarity: dict[str, Change]
    covered_percent: float
    folding_percent: float
    digital_folding_percent: float
    log_jacobian_std: float
    inverse_residual: float
    dice: dict[int, Change] = field(default_factory=dict)
    hd95: dict[int, Change] = field(default_factory=dict)
    tre: dict[str, Change] = field(default_factory=dict)
    landmarks: str = ""
    warnings: list[str] = field(default_factory=list)
    threads: int = field(default_factory=_threads)
    versions: dict[str, str] = field(default_factory=versions)

    @property
    def verdict(self) -> Verdict:
        """What the measures say, in words."""
        return judged(self)

    def write_json(self, path: str | Path) -> None:
        """Write `content` as strict JSON."""
        Path(path).write_text(document(self.content()) + "\n")

    def content(self) -> dict[str, Any]:
        """The report, with totals and means, as JSON holds it: numbers have six significant digits."""
        content = asdict(self)
        content["seconds"]["total"] = sum(self.seconds.values())
        for name, changes in (("dice", self.dice), ("hd95", self.hd95), ("tre", self.tre)):
            if changes:
                content[name] = {"mean": mean_change(changes), **changes}
        content |= {"verdict": list(self.verdict.lines), "verdict_level": self.verdict.level}
        found: dict[str, Any] = plain(content, digits=6)
        return found

    @classmethod
    def of(cls, content: dict[str, Any]) -> Report:
        """The report that has this `content`.

        Raises:
            TypeError, KeyError, ValueError: no report has it.
        """
        own = {each.name for each in fields(cls)}
        values: dict[str, Any] = {name: math.nan if v is None else v for name, v in content.items() if name in own}
        values["seconds"] = {name: value for name, value in content["seconds"].items() if name != "total"}
        for name, key in (("similarity", str), ("dice", int), ("hd95", int), ("tre", str)):
            changes = {key(one): both for one, both in content[name].items() if one != "mean"}
            values[name] = {one: tuple(math.nan if x is None else x for x in both) for one, both in changes.items()}
        return cls(**values)

    def write_markdown(self, path: str | Path) -> None:
        """Write `markdown` to a file."""
        # Bytes of a name that are not UTF-8 stay as they are.
        Path(path).write_text(self.markdown(), encoding="utf-8", errors="surrogateescape")

    def markdown(self) -> str:
        """The whole report as Markdown tables."""
        parts = [
            "# Registration report",
            "\n".join(f"- {line}" for line in self.verdict.lines),
            *(f"Note: {text}." for text in self.warnings),
            _table(["measure", "before", "after"], self.measures()),
            "## Cost",
            _table(
                ["stage", "seconds"],
                [[stage, f"{s:.2f}"] for stage, s in self.seconds.items()]
                + [["**total**", f"**{sum(self.seconds.values()):.2f}**"]],
            ),
            f"Peak memory: {self.peak_memory_mb:.0f} MB. Backend: {self.backend}, {self.threads} threads.",
        ]
        if self.dice:
            parts += ["## Labels", self._label_table()]
        parts += [
            "## Inputs",
            _table(
                ["input", "file", "shape", "spacing, mm"],
                [
                    [name, str(i["path"]), " x ".join(map(str, i["shape"])), _numbers(i["spacing"])]
                    for name, i in self.inputs.items()
                ],
            ),
            "## Options",
            _table(["option", "value"], [[k, str(v)] for k, v in [*self.options.items(), ("seed", self.seed)]]),
            "## Versions",
            _table(["software", "version"], [list(item) for item in self.versions.items()]),
        ]
        return "\n\n".join(parts) + "\n"

    def table(self) -> Table:
        """A short summary for the terminal."""
        from rich.table import Table

        table = Table("measure", "before", "after")
        for column in table.columns[1:]:
            column.justify = "right"
        for row in self.measures():
            table.add_row(*row)
        table.add_section()
        table.add_row("time", "", f"{sum(self.seconds.values()):.1f} s")
        table.add_row("peak memory", "", f"{self.peak_memory_mb:.0f} MB")
        return table

    def measures(self) -> list[list[str]]:
        """Name, before and after of each, as text."""
        rows = [[name, *map(_number, change)] for name, change in self.similarity.items()]
        if self.dice:
            rows.append([f"mean Dice of {len(self.dice)} labels", *map(_number, mean_change(self.dice))])
        if self.hd95:
            rows.append(["mean HD95, mm", *map(_number, mean_change(self.hd95))])
        if self.tre:
            how = f" ({self.landmarks})" if self.landmarks else ""
            rows.append([f"mean TRE of {len(self.tre)} landmarks, mm{how}", *map(_number, mean_change(self.tre))])
        rows.append(["covered by moving, %", "", _number(self.covered_percent)])
        rows.append(["folded voxels, %", "", _number(self.folding_percent)])
        rows.append(["digital folds, %", "", _number(self.digital_folding_percent)])
        rows.append(["SD of log Jacobian", "", _number(self.log_jacobian_std)])
        rows.append(["mean inverse residual, voxels", "", _number(self.inverse_residual)])
        return rows

    def _label_table(self) -> str:
        undefined = (math.nan, math.nan)
        rows = [
            [name, *map(_number, dice), *map(_number, hd95)]
            for name, dice, hd95 in [
                ("**mean**", mean_change(self.dice), mean_change(self.hd95)),
                *((str(label), dice, self.hd95.get(label, undefined)) for label, dice in self.dice.items()),
            ]
        ]
        return _table(["label", "Dice before", "after", "HD95 before, mm", "after, mm"], rows)


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "-"


def _numbers(values: Any) -> str:
    return " x ".join(f"{value:.4g}" for value in values)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
