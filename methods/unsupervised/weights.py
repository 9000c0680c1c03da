"""Files of a network's weights: safetensors with JSON beside, ours; HDF5, the published ones of Keras."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from l2rfast.errors import InputError

from .network import Architecture, VoxelMorph

FORMAT = "l2rfast.methods.unsupervised.VoxelMorph"


def save(network: VoxelMorph, path: str | os.PathLike[str]) -> None:
    """See `VoxelMorph.save`. Each file is replaced whole or not at all, the weights last."""
    weights, described = _files(path)
    content = {"format": FORMAT, "architecture": asdict(network.architecture)}
    state = {name: value.contiguous() for name, value in network.state_dict().items()}

    def write_weights(new: Path) -> None:
        save_file(state, new)

    def write_description(new: Path) -> None:
        new.write_text(json.dumps(content, indent=1) + "\n")

    with _named(weights, OSError):
        weights.parent.mkdir(parents=True, exist_ok=True)
        for file, write in ((described, write_description), (weights, write_weights)):
            new = file.with_name(f".{file.name}.{os.getpid()}")
            try:
                write(new)
                new.replace(file)
            finally:
                new.unlink(missing_ok=True)


def load(path: str | os.PathLike[str]) -> VoxelMorph:
    """See `VoxelMorph.load`."""
    weights, described = _files(path)
    with _named(described, OSError, ValueError, TypeError, KeyError, AttributeError):  # of what is in it
        content = json.loads(described.read_text())
        if content["format"] != FORMAT:
            raise InputError(f"path: {described} is of {content['format']!r}, not of {FORMAT!r}")
        known = {f.name for f in fields(Architecture)}
        told: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in content["architecture"].items() if k in known
        }
        network = VoxelMorph(Architecture(**told))
    with _named(weights, OSError, SafetensorError):
        state = load_file(weights)
    _fill(network, state, weights)
    return network


def from_keras(path: str | os.PathLike[str]) -> VoxelMorph:
    """See `VoxelMorph.from_keras`."""
    file = Path(path)
    found: dict[str, np.ndarray] = {}
    with _named(file, OSError, KeyError, RuntimeError), h5py.File(file, "r") as h5:
        root = h5.get("model_weights", h5)

        def visit(name: str, value: h5py.Dataset | h5py.Group) -> None:
            if isinstance(value, h5py.Dataset) and value.dtype.kind == "f":
                found[name] = value[()]

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
    _fill(network, state, file)
    return network


def _architecture(kernels: list[tuple[int, ...]]) -> Architecture | None:
    """That of kernels (3, .., in, out) in order, None where they are of no such network."""
    ndim = len(kernels[0]) - 2
    widths = [shape[-1] for shape in kernels]
    # The first convolution that takes more than the one before gives is the second on the way up.
    wider = next((i for i in range(1, len(kernels)) if kernels[i][-2] != widths[i - 1]), 0)
    try:
        found = Architecture(ndim, tuple(widths[: wider - 1]), tuple(widths[wider - 1 : -1]))
        layers = VoxelMorph(found)
    except InputError:
        return None
    expected = [layer.weight for layer in (*layers.encoder, *layers.decoder, layers.field)]
    same = [tuple(weight.movedim((0, 1), (-1, -2)).shape) for weight in expected] == [tuple(k) for k in kernels]
    return found if same else None


def _fill(network: VoxelMorph, state: dict[str, torch.Tensor], file: Path) -> None:
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    wrong = sorted(name for name in expected.keys() | state.keys() if name not in state or name not in expected)
    wrong += [name for name, value in state.items() if expected.get(name) not in (None, tuple(value.shape))]
    wrong += [name for name, value in state.items() if not value.isfinite().all()]
    if wrong:
        raise InputError(f"path: expected finite weights of {network.architecture} in {file}, but not so is {wrong[0]}")
    network.load_state_dict(state)


def _files(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    file = Path(path)
    if file.suffix != ".safetensors":
        raise InputError(f"path: expected a name that ends in .safetensors, got {os.fspath(path)!r}")
    return file, file.with_suffix(".json")


@contextmanager
def _named(file: Path, *errors: type[Exception]) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except errors as error:
        raise InputError(f"path: cannot use {file}: {str(error).splitlines()[0] if str(error) else error!r}") from error
