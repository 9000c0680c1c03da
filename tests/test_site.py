"""The site: built with its examples at their small size, and opened page by page in a browser, wide and narrow."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parent.parent
WIDE, PHONE = {"width": 1300, "height": 900}, {"width": 390, "height": 844}
# What a page is made of; nothing of it may come from elsewhere.
PARTS = {"img": "src", "script": "src", "link": "href", "source": "src", "iframe": "src"}


class Page(HTMLParser):
    """What a page refers to, and the places in it that others can refer to."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.parts: list[str] = []
        self.places: set[str] = set()
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value}
        self.places |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif PARTS.get(tag) in values and values.get("rel") not in ("canonical", "index", "search", "next", "prev"):
            self.parts.append(values[PARTS[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site, built of a copy of the pages, as examples write their pages beside them."""
    root = tmp_path_factory.mktemp("site")
    for name in ("bench", "findings", "kernels", "l2rfast", "methods", "tests", *(p.name for p in ROOT.glob("*.*"))):
        if not name.startswith("."):
            (root / name).symlink_to(ROOT / name)
    (root / "docs").mkdir()
    for path in (ROOT / "docs").iterdir():
        if path.name not in ("howto", "hands_on"):
            copy = shutil.copytree if path.is_dir() else shutil.copy
            copy(path, root / "docs" / path.name)
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q", "docs", "site"],
        cwd=root,
        env={**os.environ, "NO_COLOR": "1", "L2RFAST_DOCS": "small", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return root / "site"


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Of the site, served on this machine: a search reads pages, which a browser does not allow of files."""

    class Silent(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(site))) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def pages(site: Path) -> list[Path]:
    return sorted(page for page in site.rglob("*.html") if "_static" not in page.parts)


def test_every_link_leads_somewhere(site: Path) -> None:
    read = {page: Page(page) for page in pages(site)}
    broken = []
    for page, content in read.items():
        broken += [f"{page.name}: {part} is elsewhere" for part in content.parts if urlsplit(part).netloc]
        for link in (*content.links, *content.parts):
            address = urlsplit(link)
            if address.scheme in ("http", "https", "mailto", "data"):
                continue
            target = (page.parent / unquote(address.path)).resolve() if address.path else page
            if not target.is_file():
                broken.append(f"{page.name}: {link} is not there")
            elif address.fragment and target in read and unquote(address.fragment) not in read[target].places:
                broken.append(f"{page.name}: {link} has no such place")
    assert not broken, "\n".join(sorted(set(broken)))


def lost(asked: Any) -> bool:
    """Whether a request came to nothing. Of a page that is left the browser gives up what it still asks for."""
    return asked.failure != "net::ERR_ABORTED"


def test_every_page_opens_wide_and_narrow(site: Path, address: str, browser: Any) -> None:
    faults: list[str] = []
    with browser.new_context(viewport=WIDE) as context:
        tab = context.new_page()
        tab.on("console", lambda said: faults.append(f"{tab.url}: {said.text}") if said.type == "error" else None)
        tab.on("pageerror", lambda error: faults.append(f"{tab.url}: {error}"))
        tab.on("requestfailed", lambda asked: faults.append(f"{tab.url}: {asked.url} failed") if lost(asked) else None)
        tab.on("request", lambda asked: None if asked.url.startswith((address, "data:")) else faults.append(asked.url))
        for page in pages(site):
            for size in (WIDE, PHONE):
                tab.set_viewport_size(size)
                if size is WIDE:
                    tab.goto(f"{address}/{page.relative_to(site)}")
                beyond = tab.evaluate("document.documentElement.scrollWidth - window.innerWidth")
                if beyond > 1:
                    faults.append(f"{page.relative_to(site)}: {beyond} pixels beyond a window of {size['width']}")
            if tab.locator(".math").count():
                tab.evaluate("MathJax.startup.promise")  # until all of it is typeset
                shown, meant = tab.locator("mjx-container").count(), tab.locator(".math").count()
                if shown < meant or tab.locator("mjx-merror").count():
                    faults.append(f"{page.relative_to(site)}: {shown} formulas of {meant}, or one that is wrong")
    assert not faults, "\n".join(faults)


def test_search_finds_a_term(address: str, browser: Any) -> None:
    with browser.new_context(viewport=WIDE) as context:
        tab = context.new_page()
        tab.goto(f"{address}/search.html?q=min-convolution")
        tab.wait_for_selector("#search-results li a", timeout=20_000)
        found = tab.locator("#search-results li a").evaluate_all("links => links.map(link => link.href)")
    assert any("discrete" in link for link in found), found
