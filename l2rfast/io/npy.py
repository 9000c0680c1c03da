"""NumPy's own files."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def write_npy(path: Path, array: np.ndarray) -> None:
    """Write an array as `numpy.save` does, which does not say why it cannot.

    Raises:
        OSError: it cannot be written, with the reason.
    """
    values = np.ascontiguousarray(array)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(values))
        file.write(values.data)
