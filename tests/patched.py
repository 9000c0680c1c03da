"""A plugin of pytest: tests run with libraries patched, and what the patches did is written down.

``-p patched --patched LIBRARY,... --patch-report FILE``, with this folder among Python's paths.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import l2rfast


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--patched", required=True)
    parser.addoption("--patch-report", required=True)


def pytest_configure(config: pytest.Config) -> None:
    l2rfast.patch(*config.getoption("--patched").split(","))


def pytest_unconfigure(config: pytest.Config) -> None:
    counts = {name: calls.replaced for name, calls in l2rfast.patch_report().items()}
    Path(config.getoption("--patch-report")).write_text(json.dumps(counts))
