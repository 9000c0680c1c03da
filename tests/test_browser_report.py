"""The page of a registration in a browser without a network: what its views show, and what its controls change."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from l2rfast.cli import job
from l2rfast.cli.view import found
from l2rfast.data.synthetic import anatomies
from l2rfast.io import Volume, write_image
from l2rfast.viewer.niivue import niivue
from l2rfast.viewer.server import Server

WIDE, PHONE = {"width": 1000, "height": 800}, {"width": 390, "height": 844}
AFFINE = np.diag([-2.0, -2, 2, 1])  # voxels run to the left and to the back, as in many scans


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("registration")
    for name, one in zip(("fixed", "moving"), anatomies(2, (36, 32, 28), structures=3, deformation=0.04), strict=True):
        write_image(folder / f"{name}.nii.gz", Volume(one.image[0, 0], AFFINE))
        write_image(folder / f"{name}_labels.nii.gz", Volume(one.labels[0, 0].short(), AFFINE))
    files = [folder / f"{name}.nii.gz" for name in ("fixed", "moving", "fixed_labels", "moving_labels")]
    out = folder / "result"
    job.run(files[0], files[1], out, fixed_labels=files[2], moving_labels=files[3], preset="fast", quiet=True)
    return out


def pixels(png: bytes) -> np.ndarray:
    """(H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), np.float64)


class Tab:
    """A page that is open, and what went wrong in it."""

    def __init__(self, tab: Any, address: str, *, viewer: bool = True) -> None:
        self.tab, self.faults, self.asked = tab, list[str](), list[str]()
        tab.on("console", lambda said: self.faults.append(said.text) if said.type == "error" else None)
        tab.on("pageerror", lambda error: self.faults.append(str(error)))
        tab.on("requestfailed", lambda asked: self.faults.append(f"{asked.url[:80]} failed"))
        tab.on("request", lambda asked: self.asked.append(asked.url))
        tab.goto(address)
        if viewer:
            tab.wait_for_selector("body[data-viewer=ready]", timeout=30_000)

    def pixels(self, view: str) -> np.ndarray:
        """(H, W, 3) of a view as it draws itself, now; a screenshot takes ten times as long."""
        picture = self.tab.evaluate(
            """(name) => {
                const view = views[name], both = document.createElement("canvas");
                Object.assign(both, { width: view.canvas.width, height: view.canvas.height });
                const context = both.getContext("2d");
                view.nv.drawScene();
                for (const canvas of [view.canvas, view.above]) context.drawImage(canvas, 0, 0);
                return both.toDataURL();
            }""",
            view,
        )
        return pixels(base64.b64decode(picture.partition(",")[2]))

    def changes(self, selector: str, *views: str) -> list[bool]:
        """Of each view, whether a control changes it."""
        before = [self.pixels(view) for view in views]
        self.tab.check(selector)
        return [
            bool((np.abs(self.pixels(view) - old).max(-1) > 12).mean() > 0.003)
            for view, old in zip(views, before, strict=True)
        ]


@pytest.fixture(scope="module")
def tab(browser: Any, result: Path) -> Iterator[Tab]:
    if niivue() is None:
        pytest.skip("built without NiiVue")
    with browser.new_context(viewport=WIDE, offline=True) as context:
        one = Tab(context.new_page(), (result / "report.html").as_uri())
        yield one
        assert not one.faults
        assert one.asked == [(result / "report.html").as_uri()]


def axial(file: Path) -> np.ndarray:
    """The middle slice of a scan as it is drawn: anterior above, left on the left."""
    values = nib.as_closest_canonical(nib.load(file)).get_fdata()  # type: ignore[no-untyped-call,attr-defined]
    return np.asarray(values[:, ::-1, values.shape[2] // 2].T)


def places(tab: Tab, view: str, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Where the rows and the columns of the voxels of an axial slice of this shape begin, and the last ends."""
    found = tab.tab.evaluate(
        """(name) => {
            const { nv } = views[name], tile = nv.screenSlices[0], matrix = nv.volumes[0].frac2mmOrtho;
            const ends = (axis) => [0, 1].map(
                (end) => (matrix[12 + axis] + end * matrix[5 * axis] - tile.leftTopMM[axis]) / tile.fovMM[axis],
            );
            const [left, top, width, height] = tile.leftTopWidthHeight;
            return [ends(0).map((x) => left + x * width), ends(1).map((y) => top + (1 - y) * height)];
        }""",
        view,
    )
    (left, right), (bottom, top) = found
    return np.linspace(top, bottom, shape[0] + 1), np.linspace(left, right, shape[1] + 1)


def agreement(tab: Tab, view: str, slice_: np.ndarray, seen: np.ndarray | None = None) -> float:
    """The correlation of what a view shows with a slice."""
    middles = [((ends[1:] + ends[:-1]) / 2).astype(int) for ends in places(tab, view, slice_.shape)]
    shown = (tab.pixels(view) if seen is None else seen).mean(-1)[np.ix_(*middles)]
    return float(np.corrcoef(shown.ravel(), slice_.ravel())[0, 1])


def test_views_show_the_scans(tab: Tab, result: Path) -> None:
    shown = {"fixed": axial(result.parent / "fixed.nii.gz"), "warped": axial(result / "warped.nii.gz")}
    for view, expected in shown.items():
        # As it is seen, but for its border.
        seen = pixels(tab.tab.locator(f"#{view}").screenshot())[1:-1, 1:-1]
        assert agreement(tab, view, expected, seen) > 0.97
        assert agreement(tab, view, expected[:, ::-1]) < 0.9
    tab.tab.fill("#blend", "100")
    assert agreement(tab, "compare", shown["warped"]) > 0.95
    tab.tab.fill("#blend", "50")


def test_a_slider_blends(tab: Tab) -> None:
    seen = []
    for share in ("0", "50", "100"):
        tab.tab.fill("#blend", share)
        seen.append(tab.pixels("compare"))
    tab.tab.check("[name=other][value=moving]")
    tab.tab.wait_for_selector("body[data-compared=moving]")
    moving = tab.pixels("compare")
    tab.tab.check("[name=other][value=warped]")
    tab.tab.fill("#blend", "50")
    first, half, last = seen
    assert np.abs(first - last).max() > 20
    np.testing.assert_allclose(half, (first + last) / 2, atol=6)
    assert np.abs(moving - last).max() > np.abs(first - last).max() / 2


def test_a_checkerboard_has_squares_of_both(tab: Tab) -> None:
    shares = tab.tab.evaluate(
        """() => {
            const mixed = new Uint8Array(checkerboard("warped"), 352), { fixed, warped } = volumes;
            const one = fixed.grey(about.windows.fixed), other = warped.grey(about.windows.warped);
            const counts = [0, 0, 0];
            for (let i = 0; i < mixed.length; i++)
                if (one[i] != other[i]) counts[mixed[i] == one[i] ? 0 : mixed[i] == other[i] ? 1 : 2]++;
            return counts;
        }"""
    )
    assert shares[2] == 0
    assert 0.4 < shares[0] / sum(shares) < 0.6
    tab.tab.fill("#blend", "0")
    before = tab.pixels("compare")
    tab.tab.check("[value=checkerboard]")
    tab.tab.wait_for_selector("body[data-compared=checkerboard]")
    assert np.abs(tab.pixels("compare") - before).max() > 20
    assert tab.tab.is_disabled("#blend")
    tab.tab.check("[value=blend]")
    tab.tab.fill("#blend", "50")


def test_controls_draw_where_they_should(tab: Tab) -> None:
    assert tab.changes("[name=labels]", "compare", "fixed", "warped", "moving") == [True, True, True, False]
    tab.tab.uncheck("[name=labels]")
    assert tab.changes("[name=jacobian]", "compare", "warped") == [True, False]
    tab.tab.uncheck("[name=jacobian]")
    assert tab.changes("[value=grid]", "compare", "fixed", "warped") == [True, False, True]
    assert tab.changes("[value=arrows]", "compare", "warped", "moving") == [True, True, False]
    assert tab.changes("[name=field][value=none]", "compare", "warped") == [True, True]


def test_outlines_lie_between_labels(tab: Tab, result: Path) -> None:
    before = tab.pixels("fixed")
    tab.tab.check("[name=labels]")
    drawn = np.abs(tab.pixels("fixed") - before).max(-1) > 40
    tab.tab.uncheck("[name=labels]")
    labels = axial(result.parent / "fixed_labels.nii.gz")
    rows, columns = places(tab, "fixed", labels.shape)
    expected = np.zeros(drawn.shape, bool)  # within a pixel of where a label ends
    for j, i in np.argwhere(labels[:, 1:] != labels[:, :-1]):
        x = round(columns[i + 1])
        expected[round(rows[j]) - 1 : round(rows[j + 1]) + 1, x - 1 : x + 1] = True
    for j, i in np.argwhere(labels[1:] != labels[:-1]):
        y = round(rows[j + 1])
        expected[y - 1 : y + 1, round(columns[i]) - 1 : round(columns[i + 1]) + 1] = True
    assert drawn.sum() > 100
    assert (drawn & expected).sum() / drawn.sum() > 0.98
    assert (drawn & expected).sum() / expected.sum() > 0.4  # lines are thinner than that


def test_views_are_linked(tab: Tab) -> None:
    before = tab.pixels("moving"), tab.tab.inner_text("#place")
    tab.tab.locator("#fixed canvas").first.click(position={"x": 150, "y": 110}, force=True)
    places = tab.tab.evaluate("() => Object.values(views).map((view) => [...view.nv.scene.crosshairPos])")
    assert all(place == pytest.approx(places[0]) for place in places)
    assert np.abs(tab.pixels("moving") - before[0]).max() > 20  # its crosshair moved
    assert tab.tab.inner_text("#place") != before[1]


def test_a_plane_is_chosen(tab: Tab) -> None:
    assert tab.changes("[name=plane][value='2']", "warped", "compare") == [True, False]
    assert tab.tab.evaluate("() => views.moving.nv.screenSlices[0].axCorSag") == 2
    tab.tab.check("[name=plane][value='0']")


def test_it_fits_a_phone(tab: Tab) -> None:
    tab.tab.set_viewport_size(PHONE)
    tab.tab.wait_for_timeout(200)
    assert tab.tab.evaluate("() => document.documentElement.scrollWidth") <= PHONE["width"]
    assert tab.tab.evaluate("() => views.compare.canvas.clientWidth") > 300
    tab.tab.set_viewport_size(WIDE)


def test_without_scripts_the_pictures_are_seen(browser: Any, result: Path) -> None:
    with browser.new_context(viewport=WIDE, offline=True, java_script_enabled=False) as context:
        one = Tab(context.new_page(), (result / "report.html").as_uri(), viewer=False)
        picture = one.tab.locator("img.picture")
        assert picture.is_visible()
        assert not one.tab.locator("#viewer").is_visible()
        seen = np.asarray(Image.open(io.BytesIO(picture.screenshot())).convert("L"), np.float64)
        drawn = Image.open(result / "overview.png").convert("L").resize(seen.shape[::-1])
        assert np.corrcoef(seen.ravel(), np.asarray(drawn, np.float64).ravel())[0, 1] > 0.95
        assert not one.faults


def test_a_server_shows_every_voxel(browser: Any, result: Path) -> None:
    import threading

    if niivue() is None:
        pytest.skip("built without NiiVue")
    with Server(found(result)) as server:
        thread = threading.Thread(target=server.serve, args=(120.0,))
        thread.start()
        with browser.new_context(viewport=WIDE) as context:
            one = Tab(context.new_page(), server.address)
            assert agreement(one, "fixed", axial(result.parent / "fixed.nii.gz")) > 0.97
            assert all(asked.startswith((server.address, "data:")) for asked in one.asked)
            assert any("volumes/warped.nii.gz" in asked for asked in one.asked)
            assert not one.faults
        server.asked = -1e9  # long ago
        thread.join(timeout=20)
