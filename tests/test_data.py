"""Public files: where they are looked up, and that nothing but the expected contents is ever handed out."""

import errno
import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pooch
import pytest

from l2rfast import InputError, data

NAME, CONTENTS = "scans/brain.nii.gz", b"a brain"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A web server on this machine: the folder that it serves and its address."""
    folder = tmp_path / "server"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as http:
        http.handle_error = lambda *_: None  # who asked has hung up
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield folder, f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: tuple[Path, str]) -> Path:
    """An empty cache, and a registry of one file that the server offers."""
    folder, address = server
    (folder / "brain.nii.gz").write_bytes(CONTENTS)
    record = data.Record(NAME, len(CONTENTS), hashlib.sha256(CONTENTS).hexdigest(), f"{address}/brain.nii.gz")
    monkeypatch.setattr(data, "_registry", lambda: {NAME: record})
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    monkeypatch.delenv(data.ENVIRONMENT, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "cache" / "l2rfast"


def put(folder: Path, contents: bytes) -> Path:
    file = folder / NAME
    file.parent.mkdir(parents=True)
    file.write_bytes(contents)
    return file


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_registry_is_complete() -> None:
    assert len(data.names()) == len(set(data.names())) == 40
    for name in data.names():
        record = data.record(name)
        assert record.name == name
        assert record.bytes > 0
        assert len(bytes.fromhex(record.sha256)) == 32
        assert record.url.startswith("https://")
        assert Path(record.url).name == Path(name).name


def test_unknown_names_get_a_hint() -> None:
    with pytest.raises(InputError, match=r"did you mean voxelmorph/data/test_scan\.npz\?"):
        data.path("test_scan.npz")
    with pytest.raises(InputError, match="l2rfast data list"):
        data.fetch("nothing-like-it-0")


def test_a_disk_that_is_full_is_no_failure_of_the_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pooch, "retrieve", full)
        with pytest.raises(InputError, match=r"brain.nii.gz: expected a file that can be written \(No space left"):
            data.fetch(NAME)
    assert files(cache) == []
    assert data.fetch(NAME).read_bytes() == CONTENTS


def test_looks_in_the_named_folder_first(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_cache = put(cache, CONTENTS)
    assert data.path(NAME) == data.fetch(NAME) == in_cache
    monkeypatch.setenv(data.ENVIRONMENT, str(tmp_path / "own"))
    assert data.path(NAME) == in_cache
    in_own = put(tmp_path / "own", CONTENTS)
    assert data.path(NAME) == data.fetch(NAME) == in_own


def test_says_where_it_looked(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(data.ENVIRONMENT, str(tmp_path / "own"))
    assert data.local(NAME) is None
    with pytest.raises(InputError) as caught:
        data.path(NAME)
    for expected in (NAME, str(tmp_path / "own"), str(cache), f"l2rfast data fetch {NAME}"):
        assert expected in str(caught.value)


def test_downloads_once(cache: Path, server: tuple[Path, str]) -> None:
    file = data.fetch(NAME)
    assert file == cache / NAME
    assert file.read_bytes() == CONTENTS
    (server[0] / "brain.nii.gz").unlink()
    assert data.fetch(NAME) == data.path(NAME) == file


def test_a_damaged_file_is_never_handed_out(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = put(cache, b"a brai")
    with pytest.raises(InputError, match=f"{file}: expected 7 bytes of sha256"):
        data.path(NAME)
    assert data.fetch(NAME).read_bytes() == CONTENTS
    monkeypatch.setenv(data.ENVIRONMENT, str(tmp_path / "own"))
    own = put(tmp_path / "own", b"another brain")
    for get in (data.path, data.fetch):
        with pytest.raises(InputError, match=f"{own}: expected 7 bytes of sha256"):
            get(NAME)
    assert own.read_bytes() == b"another brain"


def test_a_failed_download_leaves_nothing(cache: Path, server: tuple[Path, str]) -> None:
    (server[0] / "brain.nii.gz").write_bytes(b"something else")
    with pytest.raises(InputError, match=f"{NAME}: expected to download it from http.*ValueError"):
        data.fetch(NAME)
    (server[0] / "brain.nii.gz").unlink()
    with pytest.raises(InputError, match="HTTPError"):
        data.fetch(NAME)
    assert not files(cache)


def test_a_download_that_goes_on_is_ended(
    cache: Path, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long before all of it is there: of a hundred times what was expected, a few pieces."""
    (server[0] / "brain.nii.gz").write_bytes(CONTENTS * 1_000_000)
    come: list[int] = []
    update = data._Limit.update
    monkeypatch.setattr(data._Limit, "update", lambda self, count: (come.append(count), update(self, count)))
    with pytest.raises(InputError, match=rf"{NAME}: expected to download 7 bytes from http.*, but more came"):
        data.fetch(NAME)
    assert sum(come) < 100_000
    assert not files(cache)


def test_offline_is_a_clear_error(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline = data.Record(NAME, 7, "0" * 64, "http://127.0.0.1:9/brain.nii.gz")  # nothing listens there
    monkeypatch.setattr(data, "_registry", lambda: {NAME: offline})
    with pytest.raises(InputError, match="ConnectionError"):
        data.fetch(NAME)
    assert not files(cache)
