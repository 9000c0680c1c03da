"""The published weights of Keras, in HDF5."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import torch

from l2rfast.errors import InputError
from l2rfast.io.hdf5 import opened, values_of

from ..weights import fill, named, shapes
from .network import Architecture, VoxelMorph


def from_keras(path: str | os.PathLike[str]) -> VoxelMorph:
    """See `VoxelMorph.from_keras`."""
    import h5py  # slow to import

    file = Path(path)
    found: dict[str, np.ndarray] = {}
    with named(file, OSError, ValueError, TypeError), opened(file) as h5:
        root = h5.get("model_weights", h5)

        def visit(name: str, value: h5py.Dataset | h5py.Group) -> None:
            if isinstance(value, h5py.Dataset) and value.dtype.kind == "f":
                found[name] = values_of(value)

        root.visititems(visit)
    layers = {name.removesuffix("/kernel:0"): kernel for name, kernel in found.items() if name.endswith("/kernel:0")}
    # The numbers of layers, as Keras counts them, give the order; the field's has a name of its own.
    last = [name for name in layers if not re.fullmatch(r"conv[23]d_\d+", name.split("/")[-1])]
    order = sorted((name for name in layers if name not in last), key=lambda name: int(name.rpartition("_")[2])) + last
    architecture = _architecture([layers[name].shape for name in order]) if len(last) == 1 else None
    if architecture is None:
        raise InputError(
            f"path: expected Keras weights of VoxelMorph, 3^ndim convolutions of two images of one channel in the "
            f"published order, got {file} with kernels {[layers[name].shape for name in order]}"
        )
    network = VoxelMorph(architecture)
    names = [*(f"encoder.{i}" for i in range(len(architecture.encoder)))]
    names += [*(f"decoder.{i}" for i in range(len(architecture.decoder))), "field"]
    state = {}
    for ours, theirs in zip(names, order, strict=True):
        kernel = torch.from_numpy(layers[theirs])
        state[f"{ours}.weight"] = kernel.movedim((-1, -2), (0, 1)).contiguous()
        state[f"{ours}.bias"] = torch.from_numpy(found.get(f"{theirs}/bias:0", np.zeros(0)))
    fill(network, state, file)
    return network


def _architecture(kernels: list[tuple[int, ...]]) -> Architecture | None:
    """That of kernels (3, .., in, out) in order, None where they are of no such network."""
    ndim = len(kernels[0]) - 2
    widths = [shape[-1] for shape in kernels]
    # The first convolution that takes more than the one before gives is the second on the way up.
    wider = next((i for i in range(1, len(kernels)) if kernels[i][-2] != widths[i - 1]), 0)
    try:
        found = Architecture(ndim, tuple(widths[: wider - 1]), tuple(widths[wider - 1 : -1]))
        with shapes():  # which may be of more weights than the file has
            layers = VoxelMorph(found)
    except (InputError, RuntimeError, OverflowError):
        return None
    expected = [layer.weight for layer in (*layers.encoder, *layers.decoder, layers.field)]
    same = [tuple(weight.movedim((0, 1), (-1, -2)).shape) for weight in expected] == [tuple(k) for k in kernels]
    return found if same else None
