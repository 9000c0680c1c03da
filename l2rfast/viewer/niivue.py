"""NiiVue, the viewer in a page, where this was built with it."""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path
from typing import NamedTuple

FILE, LICENCE = "niivue.js.gz", "niivue.txt"


class NiiVue(NamedTuple):
    """The script, gzipped and not."""

    packed: bytes
    script: str


@cache
def niivue() -> NiiVue | None:
    """None where setup.py could not get it."""
    file = Path(__file__).with_name(FILE)
    if not file.is_file():
        return None
    packed = file.read_bytes()
    return NiiVue(packed, gzip.decompress(packed).decode())
