"""Damaged files and hostile ones: read, or refused in one sentence, before memory is taken. See reliability/files."""

from __future__ import annotations

import base64
import gzip
import json
import struct
import zipfile
import zlib
from collections import Counter
from itertools import chain
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from runs import invoke
from safetensors.torch import save_file

from l2rfast import InputError, io
from l2rfast._json import parsed
from l2rfast.errors import InputWarning
from l2rfast.io import dicom, formats, hdf5, pointsets, reading
from l2rfast.io.transforms import freesurfer, npy
from l2rfast.methods.cohort.study import Study
from l2rfast.methods.training.cases import find_pairs
from l2rfast.methods.training.run import RunFolder
from l2rfast.methods.unsupervised.network import VoxelMorph
from l2rfast.methods.weights import check_packed
from reliability.files import seeds, states
from reliability.files.attempt import FAILURES
from reliability.files.inputs import Inputs
from reliability.files.run import Failure, planned, run
from reliability.files.targets import TARGETS

INPUTS = 12  # of each format
WRITTEN = {name: format.suffixes for name, format in io.TRANSFORMS.items()}


def test_damaged_files_are_read_or_refused() -> None:
    """As ``python -m reliability.files``, fewer."""
    failures: list[Failure] = []
    found = run(planned(0, least=INPUTS), 3, failures.append)
    assert not failures, "\n".join(f"{each.target.name}, input {each.index}: {each.outcome}" for each in failures)
    total: Counter[str] = sum(found.values(), Counter())
    assert total.total() == INPUTS * len(TARGETS)
    assert not any(total[kind] for kind in FAILURES)
    assert total["read"] > total.total() / 10


def test_every_suffix_of_the_formats_has_a_target() -> None:
    own = {suffix.lower() for target in TARGETS for suffix in target.suffixes}
    images = {*chain(*formats.FORMATS), *dicom.SUFFIXES, ".zarr"}
    points = set(chain.from_iterable(format.suffixes for format in pointsets.FORMATS))
    assert images | points <= own
    pairs = {(t.name.partition(" transform")[0], s) for t in TARGETS if " transform" in t.name for s in t.suffixes}
    expected = {(name, suffix) for name, suffixes in WRITTEN.items() for suffix in suffixes}
    expected |= {("freesurfer", suffix) for kind in freesurfer._FILES for suffix in kind.SUFFIXES}
    assert expected <= pairs


def test_inputs_are_the_same_by_the_same_seed(tmp_path: Path) -> None:
    one, other = (Inputs(tmp_path / name) for name in "ab")
    for index in range(5):
        assert one.make(TARGETS[0], index, 1).data == other.make(TARGETS[0], index, 1).data


def refused(match: str, read: object, *args: object, **more: object) -> None:
    with pytest.raises(InputError, match=match) as error:
        read(*args, **more)  # type: ignore[operator]
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1100


def test_what_a_file_holds_ends_no_line_and_moves_no_cursor() -> None:
    said = str(InputError("a\nb\x1b[31m\u202e" + "x" * 5000 + "end"))
    assert said.startswith(r"a\nb\x1b[31m\u202e")
    assert said.endswith("end")
    assert len(said) < 1050


def test_json_without_end() -> None:
    for text in ("[" * 100_000, '{"a":' * 100_000, "9" * 5000, "-" + "9" * 400):
        with pytest.raises(ValueError, match=r"lists within lists|integer|a number of 401 digits"):
            parsed(text)


def nifti(path: Path, size: int, *, offset: float = 352, extension: int = 0, rest: bytes = b"") -> Path:
    seeds.nifti()(path.with_suffix(".nii"))
    head = bytearray(path.with_suffix(".nii").read_bytes()[:352])
    struct.pack_into("<8h", head, 40, 3, size, size, size, 1, 1, 1, 1)
    struct.pack_into("<f", head, 108, offset)
    if extension:
        head[348] = 1
        head += struct.pack("<ii", extension, 4)
    path.write_bytes(gzip.compress(bytes(head) + rest) if path.suffix == ".gz" else bytes(head) + rest)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_nifti_that_promises_terabytes(name: str, tmp_path: Path) -> None:
    refused("damaged", io.read_image, nifti(tmp_path / name, 32767, rest=bytes(1000)))


def test_gzip_whose_numbers_fit_is_compared_with_the_memory_that_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 MB of them in place of 100 GB, where there is less."""
    file = nifti(tmp_path / "a.nii.gz", 100, rest=np.random.default_rng(0).bytes(2 * 100**3))
    monkeypatch.setattr(reading, "_SMALL", 0)
    monkeypatch.setattr(reading, "available", lambda: 10**6)
    refused(r"free, 1e\+06 bytes, got 4e\+06 bytes", io.read_image, file)


@pytest.mark.parametrize("extension", [0, -1, 7, 2**31 - 1])
def test_extensions_of_headers_are_bounded(extension: int, tmp_path: Path) -> None:
    file = nifti(tmp_path / "a.nii.gz", 4, offset=1e9, extension=extension or -(2**31), rest=bytes(5000))
    refused("damaged|extensions", io.read_image, file)


def test_mgh_that_promises_terabytes(tmp_path: Path) -> None:
    seeds.mgh(tmp_path / "a.mgh")
    data = bytearray((tmp_path / "a.mgh").read_bytes())
    struct.pack_into(">3i", data, 4, 2000, 2000, 2000)
    (tmp_path / "a.mgh").write_bytes(data)
    refused("damaged", io.read_image, tmp_path / "a.mgh")


@pytest.mark.parametrize(("name", "was", "now", "match"), [
    *((name, b"7 6 5", b"70000 60000 50000", "damaged") for name in ("a.mha", "a.mhd", "a.nrrd", "a.nhdr")),
    *((name, b"a.raw", b"/a.raw", "in the folder of the header") for name in ("a.mhd", "a.nhdr")),
    *((name, b"a.raw", b"../a.raw", "in the folder of the header") for name in ("a.mhd", "a.nhdr")),
])  # fmt: skip
def test_what_headers_of_itk_promise_and_name(name: str, was: bytes, now: bytes, match: str, tmp_path: Path) -> None:
    seeds.itk_image()(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    assert was in data
    (tmp_path / name).write_bytes(data.replace(was, now))
    refused(match, io.read_image, tmp_path / name)


def test_dicom_whose_element_is_longer_than_the_file(tmp_path: Path) -> None:
    seeds.dicom_slice(tmp_path / "a.dcm")
    data = (tmp_path / "a.dcm").read_bytes()
    at = data.index(b"\xe0\x7f\x10\x00") + 4  # of implicit kinds
    (tmp_path / "a.dcm").write_bytes(data[:at] + struct.pack("<I", 2**16) + data[at + 4 :])
    refused("damaged", io.read_grid, "image", tmp_path / "a.dcm")
    (tmp_path / "a.dcm").write_bytes(data[:132] + b"\xff" + data[133:])  # of the group that says how it is encoded
    refused("damaged", io.read_grid, "image", tmp_path / "a.dcm")


def test_tiff_that_promises_terabytes(tmp_path: Path) -> None:
    seeds.tiff()(tmp_path / "a.tif")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    for tag in (256, 257):  # width and height, each one number of 32 bits
        at = data.index(struct.pack("<HH", tag, 4))
        struct.pack_into("<I", data, at + 8, 10**6)
    (tmp_path / "a.tif").write_bytes(data)
    refused("damaged|pixels", io.as_volume, "image", tmp_path / "a.tif", dims=(2,))


@pytest.mark.parametrize(("suffix", "mode"), [(".tif", "L"), (".png", "L"), (".png", "RGB")])
def test_pictures_that_promise_more_than_they_hold(suffix: str, mode: str, tmp_path: Path) -> None:
    seeds.picture(mode)(tmp_path / f"a{suffix}")
    data = bytearray((tmp_path / f"a{suffix}").read_bytes())
    if suffix == ".png":
        struct.pack_into(">2I", data, 16, 8000, 8000)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    else:
        for tag in (256, 257):
            at = data.index(struct.pack("<HHI", tag, 4, 1))
            struct.pack_into("<I", data, at + 8, 8000)
    (tmp_path / f"b{suffix}").write_bytes(data)
    with pytest.raises(InputError, match="damaged") as error:
        io.as_volume("image", tmp_path / f"b{suffix}", dims=(2,))
    assert str(error.value.__cause__).startswith("64000000 pixels of")  # before Pillow takes memory for them


def test_zarr_is_unpacked_by_codecs_of_numbers_alone(tmp_path: Path) -> None:
    """``pickle`` is one of numcodecs' as well; here of nothing."""
    seeds.zarr_image2(tmp_path / "a.zarr")
    file = tmp_path / "a.zarr" / "0" / ".zarray"
    told = json.loads(file.read_text())
    file.write_text(json.dumps(told | {"filters": [{"id": "pickle", "protocol": 4}]}))
    refused(r"packed by one of .* got 'pickle'", io.read_image, tmp_path / "a.zarr")
    file.write_text(json.dumps(told | {"shape": [10**5] * 3}))
    refused("memory that is free", io.read_image, tmp_path / "a.zarr")
    file.write_text(json.dumps(told | {"chunks": [10**5] * 3}))
    refused("memory that is free", io.read_grid, "image", tmp_path / "a.zarr")
    file.write_text(json.dumps(told | {"chunks": [0] * 3}))
    refused("chunks of at least one voxel|damaged", io.read_image, tmp_path / "a.zarr")


@pytest.mark.parametrize("name", ["../b", "/b"])
def test_zarr_stays_in_its_folder(name: str, tmp_path: Path) -> None:
    seeds.zarr_image2(tmp_path / "a.zarr")
    file = tmp_path / "a.zarr" / ".zattrs"
    file.write_text(file.read_text().replace('"path": "0"', f'"path": "{name}"'))
    refused("in its folder", io.read_image, tmp_path / "a.zarr")


def test_arrays_that_promise_terabytes(tmp_path: Path) -> None:
    for shape, version, length in ((10**12, b"\1\0", 118), (3, b"\2\0", 2**31)):
        head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}, 4, 4), }}".ljust(117) + "\n"
        size = struct.pack("<H", length) if version == b"\1\0" else struct.pack("<I", length)
        content = b"\x93NUMPY" + version + size + head.encode() + bytes(64)
        (tmp_path / "a.npy").write_bytes(content)
        with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("x.npy", content)
        for path, name in ((tmp_path / "a.npy", ""), (tmp_path / "a.npz", "x")):
            with pytest.raises(ValueError, match=r"too short|header of"):
                npy.load(path, name)


def _linked(kind: str, path: Path) -> None:
    with h5py.File(path, "w") as file:
        if kind == "filter":
            file.create_dataset("x", (4,), "f4", chunks=(4,), compression=307, allow_unknown_filter=True)
        elif kind == "external storage":
            file.create_dataset("x", (4,), "f4", external=[("other.raw", 0, 16)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout((4,), "f4")
            layout[:] = h5py.VirtualSource("other.h5", "x", (4,))
            file.create_virtual_dataset("x", layout)
        else:
            file["group/x"] = h5py.ExternalLink("other.h5", "x") if kind == "external link" else h5py.SoftLink("/y")


@pytest.mark.parametrize("kind", ["external link", "soft link", "external storage", "virtual", "filter"])
def test_hdf5_leads_to_no_other_file(kind: str, tmp_path: Path) -> None:
    _linked(kind, tmp_path / "a.h5")
    with pytest.raises(ValueError, match=r"to elsewhere|in another|not known"), hdf5.opened(tmp_path / "a.h5"):
        pass
    refused("path: cannot use", VoxelMorph.from_keras, tmp_path / "a.h5")


def test_a_network_is_no_larger_than_its_file(tmp_path: Path) -> None:
    """Of 10**12 weights and more, of which none is made."""
    states.network(tmp_path / "a.safetensors")
    file = tmp_path / "a.json"
    told = json.loads(file.read_text())
    told["architecture"]["encoder"] = [10**6, 10**6]
    file.write_text(json.dumps(told))
    refused(r"more than .* holds", VoxelMorph.load, tmp_path / "a.safetensors")


def test_damaged_weights_of_pytorch_are_our_sentence(tmp_path: Path) -> None:
    target = next(each for each in TARGETS if each.name == "PDD-Net")
    states.published(tmp_path / "a.pth")
    (tmp_path / "a.pth").write_bytes(b"\x80\x02cdatetime\ndate\n.")  # the name of a function, and no call of it
    refused("expected a file of PyTorch's with plain tensors", target.read, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data/0", bytes(10**6))
    with pytest.raises(ValueError, match="compressed"):
        check_packed(tmp_path / "b.pth")


def test_safetensors_whose_parts_lie_on_each_other(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(4), "y": torch.zeros(4)}, tmp_path / "a.safetensors")
    data = (tmp_path / "a.safetensors").read_bytes()
    states.network(tmp_path / "b.safetensors")
    for damaged in (data.replace(b"[16,32]", b"[8,24] "), struct.pack("<Q", 2**62) + data[8:]):
        (tmp_path / "b.safetensors").write_bytes(damaged)
        refused("path: cannot use", VoxelMorph.load, tmp_path / "b.safetensors")


def test_surfaces_are_unpacked_as_far_as_they_say(tmp_path: Path) -> None:
    seeds.gifti("GIFTI_ENCODING_B64GZ")(tmp_path / "a.gii")
    data = (tmp_path / "a.gii").read_bytes()
    begin, end = data.index(b"<Data>") + 6, data.index(b"</Data>")
    bomb = base64.b64encode(zlib.compress(bytes(10**6)))
    for damaged in (
        data[:begin] + bomb + data[end:],
        data.replace(b'Dimensionality="2"', b'Dimensionality="30"'),
        data.replace(b'NumberOfDataArrays="', b'NumberOfDataArrays="9'),
        data.replace(b'"GZipBase64Binary"', b'"ExternalFileBinary"').replace(b'FileName=""', b'FileName="other.bin"'),
    ):
        (tmp_path / "a.gii").write_bytes(damaged)
        refused(
            "more numbers|axes|data arr|not supported|another|damaged|in a file",
            io.read_pointset,
            tmp_path / "a.gii",
        )
    packed = zlib.compress(bytes(10**6))
    block = base64.b64encode(struct.pack("<4I", 1, 36, 0, len(packed))) + base64.b64encode(packed)
    head = b'<VTKFile type="PolyData" compressor="vtkZLibDataCompressor"><Piece NumberOfPoints="3"><Points>'
    array = b'<DataArray type="Float32" format="binary">' + block + b"</DataArray></Points></Piece></VTKFile>"
    (tmp_path / "a.vtp").write_bytes(head + array)
    refused("not of 36 bytes", io.read_pointset, tmp_path / "a.vtp", coordinates="ras")


def test_searches_in_texts_take_no_longer_than_the_texts_are_long(tmp_path: Path) -> None:
    """Each took hours where a search began anew at each of these."""
    many = 200_000
    texts = {
        "a.vtk": b"# vtk DataFile Version 3.0\nx\nASCII\nDATASET POLYDATA\nPOINTS 1 float\n1 2" + b"\n" * many + b"3 x",
        "a.vtp": b'<VTKFile type="PolyData">' + b"<Points><DataArray>" * many,
        "b.vtp": b"<VTKFile " * many,
        "a.tck": b"mrtrix tracks\n" + b"\n" * many + b"file" + b" " * many + b"\nEND\n",
        "a.csv": b'x,y\n"' + b'a""' * many,
    }
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text)
        refused("points", io.read_pointset, tmp_path / name, coordinates="ras")


@pytest.mark.parametrize(("suffix", "key"), [(".mha", b"Offset ="), (".nrrd", b"sizes:")])
def test_numbers_of_headers_are_read_once(suffix: str, key: bytes, tmp_path: Path) -> None:
    """Digits in a row were tried in all ways to part them, without end."""
    seeds.itk_image()(tmp_path / f"a{suffix}")
    head, _, rest = (tmp_path / f"a{suffix}").read_bytes().partition(key)
    line = key + b" 1000000000" * 9 + b" no number"
    (tmp_path / f"a{suffix}").write_bytes(head + line + rest[rest.index(b"\n") :])
    refused("image, but the file is|MetaImage, but the file is", io.as_volume, "fixed", tmp_path / f"a{suffix}")


def test_names_that_no_file_can_have_are_not_there(tmp_path: Path) -> None:
    name = str(tmp_path / ("a" * 300))
    (tmp_path / "a.csv").write_text(f"fixed,moving\n{name}.nii,b.nii\n")
    states.dataset(tmp_path / "dataset.json")
    told = json.loads((tmp_path / "dataset.json").read_text())
    told["training"].append({"image": f"{'a' * 300}.nii"})
    (tmp_path / "dataset.json").write_text(json.dumps(told))
    with pytest.warns(InputWarning, match="not used"):
        find_pairs(tmp_path / "dataset.json")
    for data in (name, f"{name}.csv", f"{name}.json", tmp_path / "a.csv"):
        refused("expected", find_pairs, data)
    out = f"--out={tmp_path / 'out'}"
    lines = ["cohort", name, out], ["cohort", f"{name}.csv", out], ["template", name, out], ["view", name]
    for words in (*lines, ["evaluate", f"--data={name}", out], ["train", "unsupervised", f"--data={name}", out]):
        assert invoke(*words)[0] == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("named", ["../a.nii", "/elsewhere/a.nii", "imagesTr/../../a.nii", "..\\a.nii"])
@pytest.mark.parametrize("key", ["training", "registration_val"])
def test_a_dataset_stays_in_its_folder(named: str, key: str, tmp_path: Path) -> None:
    states.dataset(tmp_path / "dataset.json")
    told = json.loads((tmp_path / "dataset.json").read_text())
    assert find_pairs(tmp_path / "dataset.json").training  # by ./imagesTr/...
    told[key].append({"image": named} if key == "training" else {"fixed": "./imagesTr/A_0000.nii", "moving": named})
    (tmp_path / "dataset.json").write_text(json.dumps(told))
    refused("in the folder of the dataset.json", find_pairs, tmp_path / "dataset.json")


def test_a_damaged_log_of_a_run_is_named(tmp_path: Path) -> None:
    states.run(tmp_path / "run")
    (tmp_path / "run" / "training.csv").write_text("step,loss\nx,0.5\n")
    refused("training.csv or checkpoint.safetensors beside it is damaged", states.resumed, tmp_path / "run")


def test_an_image_without_voxels_is_no_field(tmp_path: Path) -> None:
    io.write_transform(tmp_path / "a.nii", seeds.FIELD)
    data = bytearray((tmp_path / "a.nii").read_bytes())
    struct.pack_into("<h", data, 42, 0)
    (tmp_path / "a.nii").write_bytes(data)
    refused("voxels|damaged|field", io.read_transform, tmp_path / "a.nii", format="itk")


def test_numbers_of_a_text_that_are_not_finite_raise_no_warning(tmp_path: Path) -> None:
    (tmp_path / "a.1D").write_text("1e999 0 0 0 0 1 0 0 0 0 1 0\n")
    refused("finite", io.read_transform, tmp_path / "a.1D", format="afni", fixed=seeds.FIXED, moving=seeds.MOVING)


def test_results_replace_links_and_write_through_none(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("theirs")
    folder = tmp_path / "study"
    (folder / "errors").mkdir(parents=True)
    for name in ("cohort.json", "errors/a.txt"):
        (folder / name).symlink_to(other)
    (folder / "cohort.json").unlink()
    study = Study(folder)
    study.failed("a", "why")
    study.begin({"a": ["register"]})
    assert study.error("a") == "why"
    states.run(tmp_path / "run")
    (tmp_path / "run" / "training.csv").unlink()
    (tmp_path / "run" / "training.csv").symlink_to(other)
    run = RunFolder(tmp_path / "run", states.described(), resume=True)
    run.log("training", 1, {"loss": 0.5})
    (tmp_path / "run" / "training.csv").unlink()
    (tmp_path / "run" / "training.csv").symlink_to(other)
    refused("folder that can be written", run.log, "training", 2, {"loss": 0.5})
    assert other.read_text() == "theirs"
