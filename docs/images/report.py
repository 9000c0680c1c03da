"""``python docs/images/report.py`` draws `report.png` anew: the page of two generated heads, in Chromium."""

from __future__ import annotations

import io
import shutil
import tempfile
from pathlib import Path

from overview import registered, save
from PIL import Image
from playwright.sync_api import sync_playwright

OPTIONS = ["--no-sandbox", "--disable-gpu", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


def main() -> None:
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        page = registered(Path(name)) / "report.html"
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=OPTIONS)
        tab = browser.new_page(viewport={"width": 1300, "height": 1180})
        tab.goto(page.as_uri())
        tab.wait_for_selector("body[data-viewer=ready]", timeout=120_000)
        for control in ("[name=labels]", "[value=grid]"):
            tab.check(control)
        tab.wait_for_timeout(500)
        save(Image.open(io.BytesIO(tab.screenshot())), "report.png")
        browser.close()


if __name__ == "__main__":
    main()
