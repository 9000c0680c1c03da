"""Files of networks' weights: safetensors, with what the network is made of as JSON beside."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar
from zipfile import ZIP_STORED, ZipFile, is_zipfile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialised
from torch import nn
from torch.overrides import TorchFunctionMode

from l2rfast._json import parsed
from l2rfast.errors import InputError
from l2rfast.io.reading import check_file
from l2rfast.output import OutputFolder, settle

HALF = 2  # bytes of a weight that is kept in half precision, the fewest
Network = TypeVar("Network", bound=nn.Module)


def only_option(method: str, preset: str, options: Mapping[str, Any], shipped: Iterable[str] = ()) -> str:
    """The path of weights, the one option of a method that has no presets; or one of the names of what is shipped.

    Raises:
        InputError: a preset, another option, or no path.
    """
    check_options(method, preset, options, ["weights"])
    path = options.get("weights")
    if not isinstance(path, str | os.PathLike):
        got = "" if path is None else f", got {path!r}"
        names = "".join(f", or {name}, which comes with the package" for name in shipped)
        raise InputError(f"weights: expected a file of weights for the method {method}{names}{got}")
    return os.fspath(path)


def check_options(method: str, preset: str, options: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse what a method that has no presets does not know.

    Raises:
        InputError: a preset, or an option of another name.
    """
    if preset != "default":
        raise InputError(f"preset: the method {method} has none, got {preset!r}")
    for name in options:
        if name not in known:
            raise InputError(f"{name}: no option of the method {method}; expected {' or '.join(known)}")


def check_ending(path: str, endings: Sequence[str], or_else: str = "") -> None:
    """Refuse a name that ends in none of these.

    Raises:
        InputError: such a name; it tells what else may be given.
    """
    if not path.endswith(tuple(endings)):
        raise InputError(f"weights: expected a name that ends in {' or '.join(endings)}{or_else}, got {path!r}")


def save(network: nn.Module, description: Any, kind: str, path: str | os.PathLike[str]) -> None:
    """Write a network. Both files are replaced, or none.

    Args:
        network: whose weights are written.
        description: a dataclass of plain values that it can be made of again.
        kind: of network, by which `describe` knows it.
        path: ends in ``.safetensors``.

    Raises:
        InputError: another ending, or a place that cannot be written.
    """
    weights, described = _files(path)
    text = json.dumps({"format": kind, "architecture": asdict(description)}, indent=1) + "\n"
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    with OutputFolder(weights.parent, (described.name, weights.name)) as folder:
        folder.path(described.name).write_text(text)
        folder.path(weights.name).write_bytes(serialised(state))


def is_of(path: str | os.PathLike[str], kind: str) -> bool:
    """Whether a file is of networks of that kind.

    Raises:
        InputError: files that are absent or damaged.
    """
    return bool(_content(path)[1]["format"] == kind)


def describe(path: str | os.PathLike[str], kind: str, description: type) -> Any:
    """What the network in a file is made of, an instance of a dataclass.

    Raises:
        InputError: files that are absent, damaged, or of another kind.
    """
    described, content = _content(path)
    if content["format"] != kind:
        raise InputError(f"path: {described} is of {content['format']!r}, not of {kind!r}")
    with named(described, ValueError, TypeError, KeyError, AttributeError):  # of what is in it
        return _restored(description, content["architecture"])


def _content(path: str | os.PathLike[str]) -> tuple[Path, dict[str, Any]]:
    weights, described = _files(path)
    settle(weights.parent)
    with named(weights, OSError):
        weights.stat()  # the file that was asked for, before the one beside it
    with named(described, OSError, ValueError, TypeError, KeyError):
        content = parsed(described.read_text())
        return described, {"format": content["format"], "architecture": content["architecture"]}


def _restored(description: type, told: dict[str, Any]) -> Any:
    """Lists were tuples, and dictionaries dataclasses of the type of the default."""
    values: dict[str, Any] = {}
    for field in fields(description):
        if field.name in told:
            value = told[field.name]
            if is_dataclass(field.default):
                value = _restored(type(field.default), value)
            values[field.name] = tuple(value) if isinstance(value, list) else value
    return description(**values)


def load(network: nn.Module, path: str | os.PathLike[str]) -> None:
    """Give a network the weights of a file.

    Raises:
        InputError: a file that is absent or damaged, or of another network.
    """
    weights, _ = _files(path)
    with named(weights, OSError, SafetensorError):
        state = load_file(weights)
    fill(network, state, weights)


def made(kind: Callable[[], Network], path: str | os.PathLike[str]) -> Network:
    """A network with the weights of a file, which has to hold as many: else no memory is taken for them.

    Args:
        kind: makes the network.
        path: of its weights.

    Raises:
        InputError: as `load`, or there is no such network.
    """
    weights, described = _files(path)
    with named(described, OSError, ValueError, TypeError, RuntimeError, OverflowError):
        with shapes():
            size = sum(HALF * value.numel() for value in kind().state_dict().values())
        if size > weights.stat().st_size:
            raise ValueError(f"a network of at least {size} bytes, more than {weights} holds")
        network = kind()
    load(network, path)
    return network


@contextmanager
def shapes() -> Iterator[None]:
    """Networks that are made in here have no values, and take no memory."""
    with torch.device("meta"), _Shapes():
        yield


class _Shapes(TorchFunctionMode):
    """Tensors are made without values: of "meta" PyTorch takes seconds to import how it would make them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__
        if name == "randn":
            return torch.empty(*args)
        if name == "mul" or (name.endswith("_") and not name.startswith("_")):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def check_packed(file: Path) -> None:
    """That an archive of PyTorch's is no larger than it is: it stores its tensors as they are.

    Raises:
        ValueError: what it holds is compressed.
        OSError, BadZipFile: it cannot be read.
    """
    if not is_zipfile(file):
        return  # of before PyTorch 1.6, which is no archive
    with ZipFile(file) as archive:
        if any(each.compress_type != ZIP_STORED or each.file_size > file.stat().st_size for each in archive.infolist()):
            raise ValueError("an archive of compressed tensors")


def fill(network: nn.Module, state: dict[str, torch.Tensor], file: Path) -> None:
    """Give a network finite weights, all of the right shapes.

    Raises:
        InputError: weights that are not so.
    """
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    wrong = sorted(name for name in expected.keys() | state.keys() if name not in state or name not in expected)
    wrong += [name for name, value in state.items() if expected.get(name) not in (None, tuple(value.shape))]
    wrong += [name for name, value in state.items() if not value.isfinite().all()]
    if wrong:
        kind = type(network).__name__
        raise InputError(f"path: expected finite weights of this {kind} in {file}, but not so is {wrong[0]}")
    network.load_state_dict(state)


def _files(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    file = Path(path)
    if file.suffix != ".safetensors":
        raise InputError(f"path: expected a name that ends in .safetensors, got {os.fspath(path)!r}")
    return file, file.with_suffix(".json")


@contextmanager
def named(file: Path, *errors: type[Exception]) -> Iterator[None]:
    """These errors, as one that names the file."""
    check_file(f"path ({file})", file)
    try:
        yield
    except InputError:
        raise
    except errors as error:
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        if isinstance(error, OSError) and error.errno:  # h5py's says where in its sources
            reason = os.strerror(error.errno)
        raise InputError(f"path: cannot use {file}: {reason}") from error
