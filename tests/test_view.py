"""``l2rfast view``: a result at full resolution, and what its server refuses."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from threading import Thread
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from typer.testing import CliRunner
from webpages import Page, read

from l2rfast import InputError, cli
from l2rfast.cli import job
from l2rfast.cli.view import found
from l2rfast.data.synthetic import anatomies
from l2rfast.io import Volume, write_image
from l2rfast.viewer import registration
from l2rfast.viewer.folders import Folder
from l2rfast.viewer.server import Content, Server


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


def test_a_light_page_has_its_picture_beside_it(result: Path, tmp_path: Path) -> None:
    files = [str(result.parent / f"{name}.nii.gz") for name in ("fixed", "moving")]
    line = ["register", *files, f"--out={tmp_path}", "--preset=fast", "--light-report", "--quiet"]
    assert CliRunner().invoke(cli.app, line).exit_code == 0
    assert (tmp_path / "report.html").stat().st_size < 40_000
    read = Page((tmp_path / "report.html").read_text())
    assert [a["src"] for tag, a in read.elements if tag == "img"] == ["overview.png"]
