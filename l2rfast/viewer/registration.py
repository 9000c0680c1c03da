"""The page of a registration: how well it went in numbers, in a picture, and in the scans themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import PurePath
from typing import Any, NamedTuple

from . import page
from .niivue import LICENCE, NiiVue, niivue
from .page import number
from .volumes import Embedded

_KEYS = '<span class="key before"></span>before <span class="key after"></span>after'
_BOTH = ("before", "after")


class Source(NamedTuple):
    """What a page is made of.

    Attributes:
        title: as text.
        measures: name, before and after of each, as text.
        report: as ``report.json`` has it.
        overview: the PNG; None where the page is to have it beside it, as ``overview.png``.
        scans: for the viewer; None where the page has none.
        places: of the files of scans where the page does not hold them itself, beside it, by their names.
    """

    title: str
    measures: Sequence[Sequence[str]]
    report: Mapping[str, Any]
    overview: bytes | None
    scans: Embedded | None
    places: Mapping[str, str] = {}


def registration(source: Source) -> str:
    """The page.

    What it has of volumes and scripts is in it, so that it can be sent, kept and opened from a disk. Without scripts
    everything is seen but the viewer, whose middle slices the picture has.
    """
    viewer = niivue() if source.scans is not None else None
    scripts = [page.template("viewer.js")] if viewer else []
    body = [*_head(source), *_viewer(source, viewer), *_pictures(source), *_charts(source.report), *_tables(source)]
    code = [viewer.script] if viewer else []
    return page.document(source.title, body, scripts=scripts, code=code, connect=bool(source.places))


def _head(source: Source) -> Iterator[str]:
    report, files = source.report, source.report["inputs"]
    names = [PurePath(str(files[role]["path"])).name for role in ("fixed", "moving") if role in files]
    yield f'<p class="quiet">{escape(" from ".join(names))}</p>'
    verdict = "".join(f"<li>{escape(line)}</li>" for line in report.get("verdict", ()))
    yield f'<ul class="verdict {escape(str(report.get("verdict_level")))}">{verdict}</ul>' if verdict else ""
    for warning in report["warnings"]:
        yield f'<p class="warning">{escape(warning)}.</p>'
    shown = []
    for name, key in (("mean Dice", "dice"), ("mean TRE, mm", "tre"), ("mean HD95, mm", "hd95")):
        if report.get(key):
            before, after = report[key]["mean"]
            shown.append((name, _known(after), f"{_known(before)} before"))
    before, after = report["similarity"]["correlation"]
    shown.append(("correlation", _known(after), f"{_known(before)} before"))
    shown.append(("folded voxels", f"{_known(report['digital_folding_percent'])} %", "digital folds"))
    shown.append(("time", f"{report['seconds']['total']:.1f} s", f"{report['peak_memory_mb']:.0f} MB of memory"))
    yield page.tiles(shown)


def _viewer(source: Source, viewer: NiiVue | None) -> Iterator[str]:
    scans = source.scans
    if scans is None:
        yield '<p class="quiet">The scans are not in this page: l2rfast view, with its folder, shows them.</p>'
        return
    if viewer is None:
        yield '<p class="warning">No viewer here: l2rfast was built without NiiVue, which needs npm and a network.</p>'
        return
    about = {"volumes": {name: source.places.get(name) for name in scans.files}}
    overlays, legend = [], []
    if "fixed_labels" in scans.files:
        overlays.append(("labels", "labels", False))
        legend.append("Outlines: labels of fixed in yellow, of warped in green.")
    overlays.append(("jacobian", "log Jacobian", False))
    legend.append(
        "Log Jacobian: blue where a voxel of fixed takes less than its volume of moving, orange where more; strongest"
        " from a factor of e on."
    )
    if "folds" in scans.files:
        overlays.append(("folds", "folds", True))
        legend.append("Folds in red.")
    boxes = (
        f'<label><input type="checkbox" name="{name}"{" checked" * on}> {text}</label>' for name, text, on in overlays
    )
    yield page.filled(
        page.template("viewer.html"),
        overlays="\n".join(boxes),
        legend=escape(" ".join(["", *legend])),
        note=escape(scans.note),
    )
    yield page.data("about", {**about, "steps": scans.steps, "windows": scans.windows})
    yield page.packed("niivue", viewer.packed)
    for name, file in scans.files.items():
        if name not in source.places:
            yield page.packed(f"volume-{name}", file)


def _pictures(source: Source) -> Iterator[str]:
    yield "<h2>Overview</h2>"
    text = "fixed, moving, warped, the differences before and after, and the deformation, in the middle planes"
    yield page.picture("overview.png" if source.overview is None else source.overview, text)


def _charts(report: Mapping[str, Any]) -> Iterator[str]:
    yield '<div class="charts">'
    if report.get("dice"):
        rows = []
        for label, (before, after) in report["dice"].items():
            drawn = page.bars([(before or 0, "before"), (after or 0, "after")], 1)
            far = [_known(value) for value in report["hd95"].get(label, (None, None))]
            rows.append((label, drawn, [_known(before), _known(after), *far]))
        drawn = page.chart(["label", _KEYS, *_BOTH, "HD95 before", "after, mm"], rows)
        yield f"<section><h2>Dice of each label</h2>\n{drawn}</section>"
    rows = []
    for name, (before, after) in report["similarity"].items():
        most = 1 if name.startswith("correlation") else max(before or 0, after or 0)
        drawn = page.bars([(before or 0, "before"), (after or 0, "after")], most)
        rows.append((name, drawn, [_known(before), _known(after)]))
    yield f"<section><h2>Similarity</h2>\n{page.chart(['measure', _KEYS, *_BOTH], rows)}"
    seconds = {name: value for name, value in report["seconds"].items() if name != "total"}
    most = max(seconds.values(), default=0)
    rows = [(name, page.bars([(value, "after")], most), [f"{value:.2f}"]) for name, value in seconds.items()]
    yield f"<h2>Seconds of each stage</h2>\n{page.chart(['stage', '', 'seconds'], rows)}</section>\n</div>"


def _tables(source: Source) -> Iterator[str]:
    report = source.report
    yield "<h2>Measures</h2>"
    yield page.table(["measure", "before", "after"], source.measures, numbers=1)
    inputs = [
        [name, str(one["path"]), " x ".join(map(str, one["shape"])), " x ".join(map(number, one["spacing"]))]
        for name, one in report["inputs"].items()
    ]
    yield page.details("Inputs", page.table(["input", "file", "shape", "spacing, mm"], inputs))
    options = [[name, str(value)] for name, value in [*report["options"].items(), ("seed", report["seed"])]]
    yield page.details("Options", page.table(["option", "value"], options))
    computed = f"Backend: {report['backend']}, {report['threads']} threads."
    versions = page.table(["software", "version"], [[*item] for item in report["versions"].items()])
    yield page.details("Versions", f"<p>{escape(computed)}</p>", versions)
    if source.scans is not None:
        yield page.details("Licence of the viewer", f"<pre>{escape(page.template(LICENCE))}</pre>")


def _known(value: float | None) -> str:
    """Of JSON, where null is not defined."""
    return "-" if value is None else number(value)
