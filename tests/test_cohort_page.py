"""The page of a cohort, read as browsers read HTML, but without its script."""

import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from l2rfast import InputError
from l2rfast.methods.cohort.page import write_page
from l2rfast.methods.cohort.summary import FAILED, FINISHED, NOT_DONE, Row

EVIL = '<script>alert("1")</script> & \''
VOID = {"meta", "img", "link"}


class Page(HTMLParser):
    """The elements of a page, each with its attributes and its whole text; and the cells of the body's rows."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[dict[str, Any]] = []
        self.elements: list[dict[str, Any]] = []
        self.rows: list[list[str]] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        element = {"tag": tag, "text": "", **dict(attributes)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        element = self.open.pop()
        assert element["tag"] == tag
        inside = [each["tag"] for each in self.open]
        if tag == "tr" and "tbody" in inside:
            self.rows.append([])
        if tag in ("td", "th") and "tbody" in inside:
            self.open[-1].setdefault("cells", []).append(element["text"])
        if tag == "tr" and "tbody" in inside:
            self.rows[-1] = element["cells"]

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element["text"] += data

    def all(self, tag: str) -> list[dict[str, Any]]:
        return [element for element in self.elements if element["tag"] == tag]


def row(id: str, outlier: float = math.nan, status: str = FINISHED, **values: float) -> Row:
    error = f"MOVING ({EVIL}): no image" if status == FAILED else ""
    measure = "" if math.isnan(outlier) else "dice"
    warnings = 1 if status == FINISHED else None
    return Row(id, status, error, f"/data/{EVIL}.nii", "/data/m.nii", values, warnings, outlier, measure)


ROWS = [
    row("none"),
    row("later", status=NOT_DONE),
    row("plain", -0.5, dice_before=0.5, dice_after=0.75, folding_percent=0.0),
    row("out", 4.25, dice_before=0.25, dice_after=0.375, folding_percent=12.3456),
    row("broken", status=FAILED),
    row("middle", 3.4, dice_before=0.5, dice_after=0.5),
]


@pytest.fixture
def page(tmp_path: Path) -> Page:
    write_page(tmp_path / "report.html", ROWS, f"Study {EVIL}")
    return Page(tmp_path / "report.html")


def test_failures_come_first_then_outliers(page: Page) -> None:
    assert [cells[0].split()[0] for cells in page.rows] == ["broken", "out", "middle", "plain", "none", "later"]
    assert [cells[2] for cells in page.rows] == [FAILED, *[FINISHED] * 4, NOT_DONE]
    assert page.rows[0][1] == f"MOVING ({EVIL}): no image"
    assert page.rows[1][3:] == ["4.25 Dice", "0.375 0.25 before", "12.35", "1"]
    assert page.rows[0][3:] == page.rows[5][3:] == ["-"] * 4
    assert [element["text"] for element in page.all("span")] == [page.rows[0][1], "4.25", "3.4", "-0.5"]
    assert [element.get("class") for element in page.all("span")] == ["bad", "bad", None, None]


def test_the_whole_is_said_first(page: Page) -> None:
    counts, medians, outliers = (element["text"] for element in page.all("p"))
    assert counts == "6 pairs: 4 finished, 1 failed, 1 not done."
    assert medians == "Medians of the finished: Dice 0.5 to 0.5; folds, % 6.173."
    assert outliers.startswith("Outliers: 1. ")


def test_what_is_written_is_text(page: Page) -> None:
    assert page.all("title")[0]["text"] == page.all("h1")[0]["text"] == f"Study {EVIL}"
    assert f"/data/{EVIL}.nii" in page.rows[0][0]
    assert len(page.all("script")) == 1
    assert "alert" not in page.all("script")[0]["text"]


def test_pictures_lie_beside_it_and_come_as_they_are_needed(page: Page) -> None:
    pictures = page.all("img")
    assert [unquote(picture["src"]) for picture in pictures] == [
        f"pairs/{id}/overview.png" for id in ("out", "middle", "plain", "none")
    ]
    assert all(picture["loading"] == "lazy" and picture["alt"] for picture in pictures)
    assert [link["href"] for link in page.all("a")][:2] == ["pairs/out/report.html", "pairs/out/overview.png"]
    assert not [link for link in page.all("a") if "later" in link["href"]]


def test_it_needs_no_network(page: Page) -> None:
    places = [value for e in page.elements for name, value in e.items() if name in ("src", "href", "action", "data")]
    assert all(place.startswith(("pairs/", "data:")) for place in places)
    assert not re.search(
        r"://|@import|url\(|fetch|import\(", page.all("style")[0]["text"] + page.all("script")[0]["text"]
    )


def test_columns_say_what_is_worst(page: Page) -> None:
    heads = [element for element in page.all("th") if element["scope"] == "col"]
    assert [(head["text"], head.get("data-first")) for head in heads] == [
        ("pair", "ascending"),
        ("picture", None),
        ("status", "ascending"),
        ("outlier", "descending"),
        ("Dice", "ascending"),
        ("folds, %", "descending"),
        ("warnings", "descending"),
    ]
    assert len(heads) == len(page.rows[0])


def test_ids_are_quoted_in_links(tmp_path: Path) -> None:
    write_page(tmp_path / "report.html", [row('a"#?%&<b')], "x")
    page = Page(tmp_path / "report.html")
    (picture,) = page.all("img")
    assert picture["src"] == "pairs/a%22%23%3F%25%26%3Cb/overview.png"
    assert page.rows[0][0].startswith('a"#?%&<b ')


def test_names_that_are_no_text_are_shown_as_far_as_they_are(tmp_path: Path) -> None:
    write_page(tmp_path / "report.html", [Row("a", FINISHED, "", "/data/\udcff.nii", "/é.nii")], "x")
    assert "/data/?.nii /é.nii" in Page(tmp_path / "report.html").rows[0][0]


def test_an_empty_study_has_a_page(tmp_path: Path) -> None:
    write_page(tmp_path / "report.html", [], "x")
    page = Page(tmp_path / "report.html")
    assert [element["text"] for element in page.all("p")] == ["0 pairs: none."]
    assert not page.rows


def test_ten_thousand_pairs_are_ten_megabytes_at_most(tmp_path: Path) -> None:
    fixed, moving = (
        "/data/cohort/templates/mni152_2009c.nii.gz",
        "/data/cohort/sub-01234/ses-01/anat/sub-01234_T1w.nii.gz",
    )
    columns = ("correlation", "mse", "dice", "hd95", "tre")
    values = {f"{name}_{when}": 0.123456 for name in columns for when in ("before", "after")}
    values |= dict.fromkeys(("folding_percent", "digital_folding_percent", "log_jacobian_std", "inverse_residual"), 0.1)
    rows = [Row(f"sub-{n:05}_ses-01", FINISHED, "", fixed, moving, values, 0, 0.5, "dice") for n in range(1000)]
    write_page(tmp_path / "report.html", rows, "x")
    assert (tmp_path / "report.html").stat().st_size < 1e6


def test_nothing_is_left_where_it_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a file that can be written"):
        write_page(tmp_path / "no" / "report.html", ROWS, "x")
    assert not list(tmp_path.iterdir())
