"""Pages of results: what is in them, what browsers are told by them, and what a server of one refuses."""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.client
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path
from threading import Thread
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from bench.build import build_script
from l2rfast import InputError, cli
from l2rfast.cli import job
from l2rfast.cli.view import found
from l2rfast.data.synthetic import anatomies
from l2rfast.io import Volume, write_image
from l2rfast.viewer import page, registration, volumes
from l2rfast.viewer.folders import Folder
from l2rfast.viewer.registration import Source
from l2rfast.viewer.server import Content, Server

EVIL = '</script><script>alert("1")</script> & \'.nii'
SHAPE = (20, 18, 16)
# Axes of the file: to posterior, to superior, to left.
TURNED = np.array([[0, 0, -1.5, 10], [-2, 0, 0, 20], [0, 3, 0, -30], [0, 0, 0, 1.0]])


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


def pair(shape: tuple[int, ...] = SHAPE, affine: np.ndarray = TURNED, labels: bool = True) -> volumes.Pair:
    images = {name: torch.rand(shape) for name in ("fixed", "moving", "warped")}
    field = torch.randn(1, len(shape), *shape)
    marks = {name: torch.randint(0, 4, shape) for name in ("fixed_labels", "warped_labels")} if labels else {}
    return volumes.Pair(images, field, torch.rand(shape) < 0.01, marks, affine)


def read(packed: bytes) -> Any:
    return nib.Nifti1Image.from_bytes(gzip.decompress(packed))  # type: ignore[no-untyped-call]


REPORT: dict[str, Any] = {
    "inputs": {
        "fixed": {"path": EVIL, "shape": [2, 2], "spacing": [1.0, 1.0]},
        "moving": {"path": "m.nii", "shape": [2, 2], "spacing": [1.0, 1.0]},
    },
    "options": {EVIL: EVIL},
    "seed": 0,
    "backend": "cpp",
    "seconds": {"reading": 1.0, "writing": 3.0, "total": 4.0},
    "peak_memory_mb": 1.0,
    "similarity": {"correlation": [0.5, 0.75], "MSE": [None, 0.5]},
    "digital_folding_percent": 0.0,
    "dice": {"mean": [0.5, 0.75], "7": [0.5, 0.75]},
    "hd95": {},
    "tre": {},
    "warnings": [EVIL],
    "verdict": [EVIL, "No folds.", "Look at it."],
    "verdict_level": "look",
    "threads": 1,
    "versions": {"l2rfast": "0"},
}


def source(scans: volumes.Embedded | None = None, **changes: Any) -> Source:
    return Source(EVIL, [["correlation", "0.5", "0.75"]], {**REPORT, **changes}, b"PNG", scans)


def test_volumes_lie_where_they_lay() -> None:
    whole = pair()
    found = volumes.embedded(whole, limit=None)
    image = read(found.files["fixed"])
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")  # type: ignore[no-untyped-call]
    assert image.header.get_zooms() == pytest.approx((1.5, 2, 3))
    place = np.array([3, 5, 7, 1])
    there = np.linalg.solve(image.affine, TURNED @ place).round().astype(int)[:3]
    assert np.asarray(image.dataobj)[tuple(there)] == float(whole.images["fixed"][3, 5, 7])
    assert read(found.files["fixed_labels"]).get_fdata()[tuple(there)] == whole.labels["fixed_labels"][3, 5, 7]
    # A vector leads to the same place of the world, in whichever voxels it is.
    field = read(found.files["displacement"])
    assert found.steps["displacement"] == [1, 1, 1]
    vector = field.get_fdata()[tuple(there)].ravel()
    expected = TURNED[:3, :3] @ whole.displacement[0, :, 3, 5, 7].numpy()
    np.testing.assert_allclose(image.affine[:3, :3] @ vector, expected, atol=1e-3)


def test_a_field_is_drawn_by_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volumes, "NODES", 8)
    whole = pair(affine=np.eye(4))
    found = volumes.embedded(whole)
    x, y, z = found.steps["displacement"]
    field = read(found.files["displacement"]).get_fdata()
    assert (x, y, z) == (2, 2, 2)
    assert field.shape == (10, 9, 8, 1, 3)
    np.testing.assert_allclose(field[1, 0, 0, 0], whole.displacement[0, :, 2:4, :2, :2].mean((1, 2, 3)), atol=1e-3)


def test_images_are_bytes_within_their_window() -> None:
    whole = pair(affine=np.eye(4))
    image = read(volumes.embedded(whole).files["fixed"])
    low, high = whole.windows()["fixed"]
    assert image.get_data_dtype() == np.uint8
    expected = whole.images["fixed"].clamp(low, high).numpy()
    np.testing.assert_allclose(image.get_fdata(), expected, atol=0.51 * (high - low) / 254)


def test_what_is_too_large_becomes_coarser_and_the_page_says_so() -> None:
    affine = np.diag([1.0, 1, 5, 1])
    full = volumes.embedded(pair(affine=affine))
    found = volumes.embedded(pair(affine=affine), limit=int(0.8 * sum(map(len, full.files.values()))))
    assert sum(map(len, found.files.values())) < 0.8 * sum(map(len, full.files.values()))
    assert found.steps["fixed"][2] == 1 < found.steps["fixed"][0]  # along the finest axes first
    size = read(found.files["fixed"]).shape
    assert size == tuple(-(-n // step) for n, step in zip(SHAPE, found.steps["fixed"], strict=True))
    assert f"of {' x '.join(map(str, SHAPE))}" in found.note
    assert full.note.startswith("So that the page stays small: all 20 x 18 x 16 voxels")


def test_a_coarser_volume_lies_in_the_same_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volumes, "VOXELS", 1000)
    whole = pair(affine=np.eye(4))
    found = volumes.embedded(whole)
    image, (x, y, z) = read(found.files["fixed"]), found.steps["fixed"]
    low, high = whole.windows()["fixed"]
    mean = float(whole.images["fixed"][:x, :y, :z].clamp(low, high).mean())
    assert image.get_fdata()[0, 0, 0] == pytest.approx(mean, abs=0.01)
    np.testing.assert_allclose(image.affine[:3, 3], [(step - 1) / 2 for step in (x, y, z)])
    folds = read(found.files["folds"]).get_fdata()
    assert folds.sum()
    assert folds.shape == image.shape


def test_a_slice_is_a_volume_of_one() -> None:
    found = volumes.embedded(pair((20, 18), np.eye(4)))
    assert read(found.files["fixed"]).shape == (20, 18, 1)
    field = read(found.files["displacement"])
    assert field.shape == (20, 18, 1, 1, 3)
    assert not field.get_fdata()[..., 2].any()


def test_values_that_are_not_there_are_black() -> None:
    one = pair(affine=np.eye(4))
    one.images["warped"][0] = torch.nan
    low, _ = one.windows()["warped"]
    assert read(volumes.embedded(one).files["warped"]).get_fdata()[0] == pytest.approx(low)


def test_nothing_that_is_read_is_run() -> None:
    scans = volumes.embedded(pair())
    text = registration.registration(source(scans))
    read = Page(text)
    kinds = [attributes.get("type") for tag, attributes in read.elements if tag == "script"]
    assert kinds == ["application/json", *["text/plain"] * (1 + len(scans.files)), None]
    assert "alert" not in "".join(read.scripts)
    assert read.text.count(EVIL) >= 5  # the title, the heading, the file, the verdict, the warning
    assert not [name for _, attributes in read.elements for name in attributes if name.startswith("on")]


def test_json_in_a_page_cannot_end_its_element() -> None:
    text = page.data("x", {"a": EVIL})
    assert "</script><" not in text.removesuffix("</script>")
    assert json.loads(text.split(">", 1)[1].removesuffix("</script>")) == {"a": EVIL}


@pytest.mark.parametrize("kind", ["scans", "light"])
def test_a_page_asks_for_nothing(kind: str) -> None:
    read = Page(registration.registration(source(volumes.embedded(pair()) if kind == "scans" else None)))
    places = [a[name] for _, a in read.elements for name in ("src", "href", "data", "action") if name in a]
    assert places
    assert all(str(place).startswith("data:") for place in places)
    policy = read.policy()
    assert policy["default-src"] == policy["connect-src"] == ["'none'"]
    assert policy["img-src"] == ["'self'", "file:", "data:", "blob:"]
    assert "'unsafe-inline'" not in policy["script-src"]


def test_scripts_are_known_by_their_hashes() -> None:
    scans = volumes.embedded(pair())
    read, viewer = Page(registration.registration(source(scans))), registration.niivue()
    if viewer is None:
        pytest.skip("built without NiiVue")
    run = [read.scripts[-1], viewer.script]
    assert read.policy()["script-src"] == [
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in run
    ]
    assert "function" in read.scripts[-1]


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    light = Page(registration.registration(source()))
    assert "l2rfast view" in light.text
    assert not light.scripts
    monkeypatch.setattr(registration, "niivue", lambda: None)
    without = Page(registration.registration(source(volumes.embedded(pair()))))
    assert "built without NiiVue" in without.text
    assert not without.scripts
    assert [a for tag, a in without.elements if tag == "img"]


def test_a_light_page_has_its_picture_beside_it(result: Path, tmp_path: Path) -> None:
    files = [str(result.parent / f"{name}.nii.gz") for name in ("fixed", "moving")]
    line = ["register", *files, f"--out={tmp_path}", "--preset=fast", "--light-report", "--quiet"]
    assert CliRunner().invoke(cli.app, line).exit_code == 0
    assert (tmp_path / "report.html").stat().st_size < 40_000
    read = Page((tmp_path / "report.html").read_text())
    assert [a["src"] for tag, a in read.elements if tag == "img"] == ["overview.png"]


def test_bars_are_as_long_as_values() -> None:
    drawn = page.bars([(0.25, "before"), (3.0, "after"), (float("nan"), "after")], 1)
    assert re.findall(r'width="([\d.]+)"', drawn) == ["25", "100", "0"]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a registration of two small heads."""
    folder = tmp_path_factory.mktemp("registration")
    for name, one in zip(("fixed", "moving"), anatomies(2, (32, 30, 28), structures=2, deformation=0.02), strict=True):
        write_image(folder / f"{name}.nii.gz", Volume(one.image[0, 0], np.diag([-1.0, -1, 1, 1])))
        write_image(folder / f"{name}_labels.nii.gz", Volume(one.labels[0, 0].short(), np.diag([-1.0, -1, 1, 1])))
    files = [folder / f"{name}.nii.gz" for name in ("fixed", "moving", "fixed_labels", "moving_labels")]
    out = folder / "result"
    job.run(files[0], files[1], out, fixed_labels=files[2], moving_labels=files[3], preset="fast", quiet=True)
    return out


def test_a_registration_has_a_page(result: Path) -> None:
    read = Page((result / "report.html").read_text())
    assert "Dice of each label" in read.text
    picture = base64.b64encode((result / "overview.png").read_bytes()).decode()
    assert f"data:image/png;base64,{picture}" in [a.get("src") for tag, a in read.elements if tag == "img"]


def test_scans_at_full_resolution_are_those_of_the_files(result: Path) -> None:
    find = found(result)
    text = find("")
    assert text is not None
    about = json.loads(Page(text.data.decode()).scripts[0])
    assert about["volumes"]["warped"] == "volumes/warped.nii.gz"
    for name in ("warped", "fixed"):
        sent = find(f"volumes/{name}.nii.gz")
        assert sent is not None
        file = result / "warped.nii.gz" if name == "warped" else result.parent / "fixed.nii.gz"
        stored: Any = nib.as_closest_canonical(nib.load(file))  # type: ignore[no-untyped-call,attr-defined]
        np.testing.assert_array_equal(read(sent.data).get_fdata(), stored.get_fdata())
    # Moving lies where the report's picture and its page have it.
    held = Page((result / "report.html").read_text()).scripts
    names = list(json.loads(held[0])["volumes"])
    embedded = read(base64.b64decode(held[2 + names.index("moving")])).get_fdata()
    sent = find("volumes/moving.nii.gz")
    assert sent is not None
    np.testing.assert_allclose(embedded, read(sent.data).get_fdata(), atol=0.1)


def test_a_slice_is_shown_too(tmp_path: Path) -> None:
    for name, one in zip(("fixed", "moving"), anatomies(2, (40, 36), structures=2, deformation=0.02), strict=True):
        write_image(tmp_path / f"{name}.nii.gz", Volume(one.image[0, 0], np.eye(4)))
    job.run(tmp_path / "fixed.nii.gz", tmp_path / "moving.nii.gz", tmp_path / "out", transform="rigid", quiet=True)
    find = found(tmp_path / "out")
    assert find("") is not None
    sent = find("volumes/moving.nii.gz")
    assert sent is not None
    moving: Any = nib.load(tmp_path / "moving.nii.gz")  # type: ignore[attr-defined]
    np.testing.assert_allclose(read(sent.data).get_fdata()[..., 0], moving.get_fdata(), atol=1e-5)  # by the headers


def test_scans_that_are_gone_are_said_to_be(result: Path, tmp_path: Path) -> None:
    content = json.loads((result / "report.json").read_text())
    content["inputs"]["fixed"]["path"] = str(tmp_path / "gone.nii")
    for name in ("displacement.nii.gz", "overview.png"):
        (tmp_path / name).symlink_to(result / name)
    (tmp_path / "report.json").write_text(json.dumps(content))
    with pytest.warns(UserWarning, match="scans cannot be shown: fixed"):
        sent = found(tmp_path)("report.html")
    assert sent is not None
    assert "The scans are not in this page" in sent.data.decode()


@pytest.mark.parametrize("kind", ["2-D", "one slice", "not there"])
def test_scans_of_all_kinds_are_shown(kind: str, tmp_path: Path) -> None:
    for name, one in zip(("fixed", "moving"), anatomies(2, (32, 30), structures=2, deformation=0.02), strict=True):
        image = one.image[0, 0] if kind == "2-D" else one.image[0, 0, :, :, None]
        if kind == "not there":
            image = image.repeat(1, 1, 16)
            image[:4] = torch.nan
        write_image(tmp_path / f"{name}.nii.gz", Volume(image, np.eye(4)))
    files = [tmp_path / f"{name}.nii.gz" for name in ("fixed", "moving")]
    job.run(*files, tmp_path / "out", nan_outside=kind == "not there", preset="fast", quiet=True)
    find = found(tmp_path / "out")
    assert find("") is not None
    if registration.niivue() is None:
        pytest.skip("built without NiiVue")
    assert find("volumes/warped.nii.gz") is not None


def test_a_name_that_is_not_utf8(result: Path, tmp_path: Path) -> None:
    fixed = tmp_path / os.fsdecode(b"\xff.nii.gz")
    fixed.write_bytes((result.parent / "fixed.nii.gz").read_bytes())
    job.run(fixed, result.parent / "moving.nii.gz", tmp_path / "out", preset="fast", quiet=True)
    assert b"\xff.nii.gz" in (tmp_path / "out" / "report.md").read_bytes()
    assert "?.nii.gz" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    sent = found(tmp_path / "out")("")
    assert sent is not None
    assert b"?.nii.gz" in sent.data


DAMAGED = [{"inputs": 3}, {"seconds": {"reading": "x"}}, {"similarity": {"a": ["x", 1]}}, {"options": {}}]


@pytest.mark.parametrize("damage", ["[]", "null", "[" * 100_000, "{", *DAMAGED])
def test_a_damaged_report_is_said_to_be(damage: Any, result: Path, tmp_path: Path) -> None:
    for file in result.glob("*.*z"):
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "affine.txt").symlink_to(result / "affine.txt")
    if isinstance(damage, dict):
        damage = json.dumps({**json.loads((result / "report.json").read_text()), **damage})
    (tmp_path / "report.json").write_text(damage)
    with pytest.raises(InputError, match="expected a report that this version writes"):
        found(tmp_path)("")


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a folder that register, cohort or evaluate has written"):
        found(tmp_path)


Ask = Callable[..., tuple[int, bytes]]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Server, Ask]]:
    """A server of a folder with report.html, and what asks it."""
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "report.html").write_text("page")
    (inside / "other.txt").write_text("not listed")
    (tmp_path / "secret.txt").write_text("outside")
    (inside / "link.txt").symlink_to(tmp_path / "secret.txt")
    with Server(Folder(inside, ["report.html", "link.txt", "absent.txt"])) as server:
        thread = Thread(target=server.serve, args=(1.0,))
        thread.start()

        def ask(path: str, method: str = "GET", host: str | None = None) -> tuple[int, bytes]:
            with closing(http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)) as connection:
                connection.putrequest(method, path, skip_host=True)
                connection.putheader("Host", host or f"127.0.0.1:{server.server_port}")
                connection.endheaders()
                answer = connection.getresponse()
                return answer.status, answer.read()

        yield server, ask
        thread.join(timeout=20)
        assert not thread.is_alive()  # it ended by itself


def test_a_server_sends_what_is_listed(served: tuple[Server, Ask]) -> None:
    server, ask = served
    assert ask(f"/{server.secret}/") == ask(f"/{server.secret}/report.html") == (200, b"page")
    assert ask(f"/{server.secret}/report.html", "HEAD") == (200, b"")
    assert ask(f"/{server.secret}/", host=f"localhost:{server.server_port}") == (200, b"page")


def test_a_server_refuses_everything_else(served: tuple[Server, Ask]) -> None:
    server, ask = served
    for path in ("/", "/report.html", f"/{server.secret}", f"/{server.secret[:-1]}/", "/x/report.html"):
        assert ask(path)[0] == 404, path
    names = ["other.txt", "link.txt", "absent.txt", ".", "..", "../secret.txt", "%2e%2e/secret.txt", "..%2fsecret.txt"]
    for name in names:
        assert ask(f"/{server.secret}/{name}")[0] == 404, name
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert ask(f"/{server.secret}/", method)[0] == 405
    for target in ("http://[/", "//[", "/" + "a" * 5000):
        assert ask(target)[0] == 404
    for host in ("evil.example", f"evil.example:{server.server_port}", "127.0.0.1"):
        assert ask(f"/{server.secret}/", host=host)[0] == 403
    assert server.server_address[0] == "127.0.0.1"


def test_a_defect_is_answered(served: tuple[Server, Ask]) -> None:
    server, ask = served

    def fail(name: str) -> Content | None:
        raise RuntimeError("a defect")

    server.find = fail
    status, text = ask(f"/{server.secret}/")
    assert (status, b"the terminal" in text) == (500, True)


def test_a_study_sends_its_pairs_alone(result: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    (study / "pairs").mkdir(parents=True)
    (study / "cohort.json").write_text("{}")
    (study / "report.html").write_text("all")
    (study / "pairs" / "a").mkdir()
    for file in result.iterdir():
        (study / "pairs" / "a" / file.name).write_bytes(file.read_bytes())
    (study / "pairs" / "link").symlink_to(result)
    find = found(study)
    sent = [find(name) for name in ("", "pairs/a/report.html", "pairs/a/overview.png", "pairs/a/volumes/fixed.nii.gz")]
    assert [content and content.kind for content in sent] == [
        *["text/html; charset=utf-8"] * 2,
        "image/png",
        "application/gzip",
    ]
    assert sent[0] is not None
    assert sent[0].data == b"all"
    assert sent[1] is not None
    assert b"Registration report, a" in sent[1].data
    within = (
        "pairs",
        "pairs/",
        "pairs/a",
        "pairs/a/",
        "pairs/../report.html",
        "pairs/./report.html",
        "pairs//report.html",
    )
    beyond = ("cohort.json", "pairs/link/report.html", "pairs/b/report.html", "pairs/a/../a/report.html")
    beyond += (f"pairs/{'a' * 300}/report.html", "pairs/\0/report.html")
    for name in (*within, *beyond):
        assert find(name) is None, name


def test_the_command_says_where_and_ends(result: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    done = CliRunner().invoke(cli.app, ["view", str(result), "--minutes=0.001"])
    assert done.exit_code == 0, done.output
    (address,) = re.findall(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", done.stderr)
    assert opened == [address]
    CliRunner().invoke(cli.app, ["view", str(result), "--minutes=0.001", "--no-open"])
    assert opened == [address]
    refused = CliRunner().invoke(cli.app, ["view", str(result), "--minutes=0"])
    assert refused.exit_code == 2
    assert "--minutes: expected a positive number, got 0" in refused.stderr


def test_a_build_without_npm_says_so_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    setup: Any = build_script()
    monkeypatch.setattr(setup, "VIEWER", tmp_path / "niivue.js.gz")
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "niivue.js.gz").write_bytes(gzip.compress(b"another"))
    setup.get_viewer()
    assert capsys.readouterr().out.count("\n") == 1
    assert not (tmp_path / "niivue.js.gz").exists()
    # What comes is checked.
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\n: > niivue.tgz\n")
    npm.chmod(0o755)
    setup.get_viewer()
    assert "another package came than was expected" in capsys.readouterr().out
    assert not (tmp_path / "niivue.js.gz").exists()
