"""What pages of results are made of, for tests that read them."""

from __future__ import annotations

import gzip
from html.parser import HTMLParser
from typing import Any

import nibabel as nib


class Page(HTMLParser):
    """Of every element its name and attributes, and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text, self.inside = "", False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = tag == "script"
        if self.inside:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.scripts[-1] += data
        else:
            self.text += data

    def policy(self) -> dict[str, list[str]]:
        (content,) = (a["content"] for _, a in self.elements if a.get("http-equiv") == "Content-Security-Policy")
        return {name: values for name, *values in (part.split() for part in str(content).split("; "))}


def read(packed: bytes) -> Any:
    return nib.Nifti1Image.from_bytes(gzip.decompress(packed))  # type: ignore[no-untyped-call]
