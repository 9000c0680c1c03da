"""Chromium without a network, for tests that look at pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

# WebGL without a graphics card, as in CI.
OPTIONS = ["--no-sandbox", "--disable-gpu", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
OPTIONS += ["--disable-background-networking", "--hide-scrollbars"]


@contextmanager
def opened() -> Iterator[Any]:
    """A browser of Playwright's; where there is none the test is skipped, in CI it fails."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _lacking("no Playwright: pip install playwright")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        _lacking("no Chromium: on Debian and Ubuntu, apt install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=OPTIONS)
        yield browser
        browser.close()


def _lacking(what: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)
