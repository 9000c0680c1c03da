#!/usr/bin/env bash
# Two libraries on ITK's transforms, and the same list means the opposite. A point goes first through the FIRST of the
# list that is given to antspyx' apply_transforms_to_points and compose_ants_transforms, and first through the LAST of
# SimpleITK's CompositeTransform: what was written for one of them is to be turned round for the other. Where the maps
# nearly commute, as a small warp and a small rotation do, nothing looks wrong.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-cache-dir antspyx==0.6.3 simpleitk==2.5.7
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import ants
import numpy as np
import pandas
import SimpleITK as sitk

print("antspyx", version("antspyx"), "SimpleITK", sitk.Version_VersionString())
turn = sitk.AffineTransform([0, -1, 0, 1, 0, 0, 0, 0, 1], [0, 0, 0])  # 90 degrees about z
move = sitk.AffineTransform([1, 0, 0, 0, 1, 0, 0, 0, 1], [10, 0, 0])
sitk.WriteTransform(turn, "turn.mat")
sitk.WriteTransform(move, "move.mat")
point = (1.0, 2.0, 3.0)
first_turn = move.TransformPoint(turn.TransformPoint(point))
first_move = turn.TransformPoint(move.TransformPoint(point))
print("turned, then moved", first_turn, "moved, then turned", first_move)

simple = sitk.CompositeTransform([turn, move]).TransformPoint(point)
table = pandas.DataFrame({"x": [point[0]], "y": [point[1]], "z": [point[2]]})
listed = ants.apply_transforms_to_points(3, table, ["turn.mat", "move.mat"])
listed = tuple(float(listed[axis].iloc[0]) for axis in "xyz")
own = ants.compose_ants_transforms([ants.read_transform("turn.mat"), ants.read_transform("move.mat")])
own = tuple(map(float, own.apply_to_point(point)))
print("[turn, move]: SimpleITK's composite", simple)
print("[turn, move]: antspyx' apply_transforms_to_points", listed)
print("[turn, move]: antspyx' compose_ants_transforms", own)
assert np.allclose(simple, first_move)
assert np.allclose(listed, first_turn) and np.allclose(own, first_turn)
PYTHON
