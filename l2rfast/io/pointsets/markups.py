"""3D Slicer's markups (.mrk.json): fiducials, lines, angles and curves, in the system of coordinates that they name.

Points that are not placed, those whose ``positionStatus`` is another than ``defined``, are none, and stay as they are.
What Slicer computes of the points (lengths, angles) it does anew when it opens the file. Planes and boxes (ROI) are
refused: they have a place of their own besides.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..._json import parsed
from .stored import LPS, RAS, Format, Stored
from .table import read_text

_SYSTEMS = {"LPS": LPS, "1": LPS, "RAS": RAS, "0": RAS}  # LPS where none is named
_SHAPES = ("Plane", "ROI")  # given by more than points


def _read(path: Path, asked: str | None) -> Stored:
    content: Any = parsed(read_text(path).removeprefix("\ufeff"))
    places: list[dict[str, Any]] = []
    frames: list[np.ndarray] = []
    for markup in content["markups"]:
        system, units = str(markup.get("coordinateSystem", "LPS")), markup.get("coordinateUnits", "mm")
        if system not in _SYSTEMS:
            raise ValueError(f"the coordinate system {system!r}; expected LPS or RAS")
        if markup.get("type") in _SHAPES:
            raise ValueError(f"a {markup['type']}, which is no set of points")
        if set([units] if isinstance(units, str) else units) - {"mm"}:
            raise ValueError(f"the units {units}; expected mm")
        placed = [p for p in markup["controlPoints"] if p.get("positionStatus", "defined") == "defined"]
        places += placed
        frames += [_SYSTEMS[system]] * len(placed)
    axes = np.array(frames).reshape(-1, 4, 4)[:, :3, :3]  # which are their own inverses
    numbers = np.array([place["position"] for place in places], np.float64).reshape(len(places), -1)
    if numbers.shape[1] != 3 and len(places):
        raise ValueError(f"positions of {numbers.shape[1]} numbers")

    def write(path: Path, values: np.ndarray) -> None:
        for place, value in zip(places, np.einsum("mij,mj->mi", axes, values).tolist(), strict=True):
            place["position"] = value
        text = json.dumps(content, indent=4, ensure_ascii=False) + "\n"
        path.write_text(text, encoding="utf-8", errors="backslashreplace")  # half a pair of UTF-16, as JSON has it

    names = [str(place.get("label", "")).strip() for place in places]
    return Stored(np.einsum("mij,mj->mi", axes, numbers) if len(places) else np.zeros((0, 3)), RAS, names, write)


FORMAT = Format("3D Slicer's markups", (".mrk.json", ".json"), _read)
