"""Random calls of every operation, on every backend, against the reference in float64.

``python -m reliability.operators --cases 10000 --seed 0``. The arguments are those that `tests/operators.py` describes
(`Operation.space`), changed at random within their kind and, now and then, beyond it.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "tests"))  # where the operations are described

from .cases import Case, call, calls, drawn
from .checks import check

__all__ = ["Case", "call", "calls", "check", "drawn"]
