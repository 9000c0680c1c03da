"""PNG, TIFF and JPEG: pictures of two axes, through Pillow; TIFF of numbers that Pillow has no room for, by tifffile.

A picture says nothing of the world. Its columns are the first axis and its rows the second, in pixels of 1 mm, where
ITK puts them: a field that is written for a picture is one for ITK's image of it, and (x, y) of a pixel is its voxel.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.spatialimages import SpatialHeader, SpatialImage

from ..errors import InputError, notice
from .reading import check_memory, deferred, library, reading, silent

_KINDS = {".png": "a PNG picture", ".jpg": "a JPEG picture", ".jpeg": "a JPEG picture"}
_KINDS |= {".tif": "a TIFF picture", ".tiff": "a TIFF picture"}
SUFFIXES = tuple(_KINDS)
_FORMATS = ("PNG", "TIFF", "JPEG")  # whichever of them the name says, which is wrong at times
_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green and blue, as ITU-R BT.601 and Pillow have it
_COLOURS = np.dtype([(name, np.uint8) for name in "RGB"])
_IN_NIFTI: dict[np.dtype, np.dtype] = {  # which has none of those
    np.dtype(bool): np.dtype(np.uint8),
    np.dtype(np.float16): np.dtype(np.float32),
}
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _SAMPLE = 256, 257, 258, 259, 339  # tags of TIFF
_ORIENTATION = 274  # likewise, and of EXIF
_PACKED = {1: 1, 8: 1032, 32946: 1032, 5: 1400, 32773: 64}  # bytes for one that is stored, at most, by compression
_LEAST_BITS = {"1": 1, "P": 1, "L": 1, "LA": 16, "I;16": 16, "I": 16, "RGB": 24, "RGBA": 32}  # of a pixel in PNG
_WIDE = {(12, 1), (16, 1), (16, 2), (32, 2), (32, 3)}  # bits and kind (unsigned, signed, floating) that Pillow has
_TURNED, _CLEAR = "it is turned as its orientation says", "its transparency is not used"
_LOSSY = ("JPEG", "MPO")


class _Header(SpatialHeader):
    def get_best_affine(self) -> np.ndarray:
        return np.diag([-1.0, -1.0, 1.0, 1.0])


class Picture(SpatialImage):
    """Has no affine but ITK's, in its header.

    Its values are the shades of grey where they are asked for as float32, and else, as they are stored, numbers or
    colours as NIfTI has them.

    Attributes:
        labels: its values as those of a label map.
        indexed: whether they are numbers in a palette.
    """

    header_class = _Header

    def __init__(self, values: Any, labels: Any, indexed: bool) -> None:
        super().__init__(values, None, _Header(np.float32))
        self.labels, self.indexed = labels, indexed


def open_picture(name: str, path: Path) -> Picture:
    """A picture, whose values are not read yet: as float32 the shades of grey, else the numbers in its palette.

    That colours become grey, and transparency is not used, is said by `notice`.

    Raises:
        InputError: the file is missing, damaged or of another kind, has several pages, or, as they are stored, colours
            of more than 8 bits, or, of labels, colours without a palette or values that JPEG has changed; tifffile is
            missing.
    """
    kind = _KINDS[path.suffix.lower()]
    with reading(name, kind, Exception), _quiet(), _opened(name, path) as file:
        if file is not None:
            load: Callable[..., np.ndarray] = _by_pillow
            lossy, indexed = file.format in _LOSSY, file.mode == "P"
            # Beside a photograph in JPEG lie smaller ones of it.
            pages, size = 1 if lossy else getattr(file, "n_frames", 1), file.size
            _check_stored(name, path, file)
            if file.format == "TIFF":
                size = file.tag_v2[_WIDTH], file.tag_v2[_HEIGHT]  # stored, while Pillow's may be turned
            if file.getexif().get(_ORIENTATION, 1) > 4:
                size = size[::-1]
        else:
            load, lossy, indexed = _by_tifffile, False, False
            with library(name, "tifffile", f"{kind} of such numbers").TiffFile(path) as tiff:
                page = tiff.pages[0]
                _check_held(name, path, page)
                pages, size = max(len(tiff.pages), page.imagedepth), (page.imagewidth, page.imagelength)
                if page.tags.valueof(_ORIENTATION, 1) > 4:
                    size = size[::-1]
    if pages > 1:
        raise InputError(f"{name}: expected one picture, got {pages} pages")
    read = partial(_values, name, kind, path, load)
    labels = partial(_labels, name, lossy, read)
    return Picture(deferred(size, None, read), deferred(size, np.dtype(np.float32), labels), indexed)


def _check_stored(name: str, path: Path, file: Any) -> None:
    """As `_check_held`, of Pillow."""
    pixels, bits, packed = math.prod(file.size), _LEAST_BITS.get(file.mode, 8), math.inf
    if file.format == "TIFF":
        bits = sum(np.atleast_1d(file.tag_v2.get(_BITS, 1)).tolist())
        packed = _PACKED.get(file.tag_v2.get(_COMPRESSION, 1), math.inf)
    elif file.format == "PNG":
        packed = _PACKED[8]
    if pixels * bits / 8 > (held := packed * path.stat().st_size):
        raise ValueError(f"{pixels} pixels of {bits} bits, of which {held} bytes are there")
    check_memory(name, 4 * pixels)


def _check_held(name: str, path: Path, page: Any) -> None:
    """That what tifffile takes memory for is there, or fits into memory where it is compressed by what has no bound."""
    size = path.stat().st_size
    held = size * _PACKED.get(page.compression, math.inf)
    if (
        max(page.databytecounts, default=0) > size
        or page.nbytes > held
        or math.prod(page.chunks) * page.dtype.itemsize > max(held, page.nbytes) + 2**26
    ):
        raise ValueError(f"{page.nbytes} bytes, of which {held} are there")
    check_memory(name, page.nbytes)


def _values(name: str, kind: str, path: Path, load: Callable[..., np.ndarray], dtype: np.dtype | None) -> np.ndarray:
    """(W, H), of an image in its dtype, or, for None, as they are stored."""
    said: list[str] = []
    with reading(name, kind, Exception), _quiet():
        pixels = load(name, path, dtype is None, said)
    values = pixels[..., 0]
    if (pixels != values[..., None]).any():
        if dtype is not None:
            values = pixels.astype(np.float32) @ _GREY
            said.append("its colours are made grey")
        elif pixels.dtype == np.uint8:
            values = np.ascontiguousarray(pixels).view(_COLOURS)[..., 0]
        else:
            raise InputError(f"{name}: expected colours of 8 bits, as NIfTI has them, got {pixels.dtype}")
    if said:  # once for all pictures of an argument: there may be thousands alike
        notice(f"{name.partition(' (')[0]}: {', '.join(said)}")
    stored = values.dtype.newbyteorder("=")
    return values.T.astype(dtype or _IN_NIFTI.get(stored, stored))


def _labels(name: str, lossy: bool, read: Callable[[None], np.ndarray], dtype: np.dtype | None) -> np.ndarray:
    """(W, H), as they are stored."""
    if lossy:
        raise InputError(f"{name}: expected labels as they were saved, in PNG or TIFF, but JPEG changes values")
    values = read(None)
    if values.dtype.names:
        raise InputError(f"{name}: expected one number for each pixel, such as that of a label, got colours")
    return values


def _by_pillow(name: str, path: Path, indices: bool, said: list[str]) -> np.ndarray:
    """(H, W, 1) or (H, W, 3): grey, or red, green and blue."""
    from PIL import ImageOps

    with _opened(name, path) as file:
        if file.mode in ("LA", "RGB", "RGBA") and ";16" in str(file.tile):
            said.append("of its 16 bits the upper 8 are used")
        if file.getexif().get(_ORIENTATION, 1) != 1:
            said.append(_TURNED)
        file.load()
        if file.mode[-1] in "Aa" or "transparency" in file.info:
            said.append(_CLEAR)
        turned = ImageOps.exif_transpose(file)
        if turned.mode in ("LA", "La"):
            turned = turned.convert("LA").getchannel("L")
        if turned.mode in ("1", "L", "F") or turned.mode[0] == "I" or (turned.mode == "P" and indices):
            return np.asarray(turned)[..., None]
        return np.asarray(turned.convert("RGB"))


def _by_tifffile(name: str, path: Path, indices: bool, said: list[str]) -> np.ndarray:
    """As `_by_pillow`."""
    tifffile = library(name, "tifffile", "TIFF of such numbers")
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        try:
            pixels = page.asarray()
        except ValueError as error:
            if "imagecodecs" in str(error):
                library(name, "imagecodecs", f"TIFF of such numbers, compressed by {page.compression.name},")
            raise
        channels: np.ndarray = np.moveaxis(pixels, page.axes.index("S"), -1) if "S" in page.axes else pixels[..., None]
        if (orientation := page.tags.valueof(_ORIENTATION, 1)) != 1:
            said.append(_TURNED)
            channels = _turned(channels, orientation)
    wanted = 3 if page.photometric == tifffile.PHOTOMETRIC.RGB else 1
    if (found := channels.shape[2]) not in (wanted, wanted + 1):
        raise InputError(f"{name}: expected shades of grey or colours, got {found} channels")
    if found > wanted:
        said.append(_CLEAR)
    return channels[..., :wanted]


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """As TIFF and EXIF number them: where the first row and the first column are to be seen."""
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    rows, columns = (-1 if orientation in which else 1 for which in ((3, 4, 7, 8), (2, 3, 6, 7)))
    turned: np.ndarray = pixels[::rows, ::columns]
    return turned


def _opened(name: str, path: Path) -> Any:
    """A context of Pillow's file; of None, where it is a TIFF that Pillow cannot read, or not as it is."""
    from PIL import Image, UnidentifiedImageError

    try:
        file: Any = Image.open(path, formats=_FORMATS)
    except UnidentifiedImageError:
        with path.open("rb") as stream:
            if stream.read(2) not in (b"II", b"MM"):
                raise
        return nullcontext()
    except Image.DecompressionBombError as error:  # what Pillow takes for too many
        raise InputError(f"{name}: expected a picture of fewer pixels: {str(error).partition(',')[0]}") from error
    if file.format == "TIFF":
        bits, (sample, *_) = file.tag_v2.get(_BITS, (1,)), file.tag_v2.get(_SAMPLE, (1,))
        exact = (max(bits) <= 8 and sample == 1) or (*bits, sample) in _WIDE
        # Pillow, at least from 11.3 to 13, puts the pixels into an image that it has turned already.
        if not exact or (file.tag_v2.get(_ORIENTATION, 1) > 4 and file.tile[0].codec_name == "raw"):
            file.close()
            return nullcontext()
    return file


@contextmanager
def _quiet() -> Iterator[None]:
    """What is raised or repaired is not said by Pillow, tifffile and libtiff as well."""
    for logger in map(logging.getLogger, ("PIL", "tifffile")):
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())
    with silent(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
