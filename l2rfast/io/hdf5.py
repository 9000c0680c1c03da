"""Numbers of HDF5 files that others made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import h5py

# Filters of HDF5 itself and of h5py: of others HDF5 would load a library.
_FILTERS = range(1, 7), (32000,)  # deflate, shuffle, fletcher32, szip, nbit, scaleoffset; LZF
MAGIC = b"\x89HDF\r\n\x1a\n"  # what they begin with
_PACKED = 1032  # bytes that one of a compressed file can stand for, at most


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """A file to read.

    Raises:
        ValueError: it is none, or what is asked of it in here is damaged or not there.
    """
    import h5py  # slow to import

    try:
        with h5py.File(path, "r") as file:
            _check_own(file)
            yield file
    except FileNotFoundError:
        raise
    except (OSError, LookupError, RuntimeError, OverflowError) as error:
        raise ValueError(f"a file without what is looked for in it: {error.args[-1]}") from error


@contextmanager
def created(path: Path) -> Iterator[h5py.File]:
    """A file to fill. It is written when it is complete, and not by HDF5, which goes on after some errors of a disk.

    Raises:
        OSError: it cannot be written.
    """
    import h5py

    content = BytesIO()
    with h5py.File(content, "w") as file:
        yield file
    path.write_bytes(content.getbuffer())


def _check_own(file: h5py.File) -> None:
    """That a file leads to no other, and runs nothing that is not here: nothing is read yet.

    Raises:
        ValueError: it does.
    """
    import h5py

    left, seen = [file["/"]], set()  # not visititems, which a damaged name ends with a SystemError
    while left:
        group = left.pop()
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"a file with a link to elsewhere, {name}")
            node = group[name]
            if isinstance(node, h5py.Dataset):
                _check_stored(node)
            elif isinstance(node, h5py.Group) and (at := h5py.h5o.get_info(node.id).addr) not in seen:
                seen.add(at)
                left.append(node)


def _check_stored(dataset: h5py.Dataset) -> None:
    import h5py

    stored = dataset.id.get_create_plist()
    if stored.get_layout() == h5py.h5d.VIRTUAL or stored.get_external_count():
        raise ValueError(f"a file whose {dataset.name} is stored in another")
    for number in range(stored.get_nfilters()):
        if not any(stored.get_filter(number)[0] in known for known in _FILTERS):
            raise ValueError(f"a file whose {dataset.name} is stored by a filter that is not known")


def values_of(dataset: h5py.Dataset) -> np.ndarray:
    """What is stored, for which there is no more memory taken than the file can fill.

    Raises:
        ValueError: it is no array of real numbers, or larger than the file.
    """
    import h5py

    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "fiu" or dataset.shape is None:
        raise ValueError(f"{dataset.name} that is no array of numbers")
    stored, room = dataset.id.get_storage_size(), Path(dataset.file.filename).stat().st_size
    if dataset.nbytes > min(stored, room) * _PACKED:
        raise ValueError(f"{dataset.name} of shape {dataset.shape}, for which the file is too short")
    return np.asarray(dataset)
