"""Our layers in the place of another library's: who computes a call, and how a library is patched."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType, TracebackType
from typing import Any, NamedTuple

import torch
from packaging.specifiers import SpecifierSet

from ..errors import InputError

# By the name that `patch` takes: the module that describes the library.
LIBRARIES = {
    "torch": "torch",
    "voxelmorph": "voxelmorph.functional",
    "neurite": "neurite",
    "monai": "monai",
    "fireants": "fireants",
    "convexadam": "convexadam",
}


class FallbackWarning(UserWarning):
    """A replaced function was called with what only the library's own code can do; given once for every reason."""


class FallThrough(NamedTuple):
    """What a replacement returns instead of a result, to have the library's own code compute."""

    reason: str


class Calls(NamedTuple):
    """Of one replaced function since the start: how many calls we computed, and how many the library, by reason."""

    replaced: int
    fallen: dict[str, int]


_replaced: Counter[str] = Counter()
_fallen: dict[str, Counter[str]] = {}
_lock = threading.Lock()


def _note(name: str, reason: str | None) -> None:
    # What a compiled program repeats cannot be counted: it would be compiled again for every number.
    if torch.compiler.is_compiling():
        return
    with _lock:
        if reason is None:
            _replaced[name] += 1
            return
        reasons = _fallen.setdefault(name, Counter())
        reasons[reason] += 1
        first = reasons[reason] == 1
    if first:
        warnings.warn(f"{name} runs the library's own code: {reason}", FallbackWarning, stacklevel=4)


def patch_report() -> dict[str, Calls]:
    """How often each replaced function was called, by its full name; calls inside a compiled program do not count."""
    with _lock:
        names = sorted({*_replaced, *_fallen})
        return {name: Calls(_replaced[name], dict(_fallen.get(name, {}))) for name in names}


class Replacement(NamedTuple):
    """Of an attribute of a module or a class."""

    owner: Any
    attribute: str
    original: Any
    ours: Any

    def apply(self) -> None:
        self._exchange(self.original, self.ours)

    def restore(self) -> None:
        self._exchange(self.ours, self.original)

    def _exchange(self, old: Any, new: Any) -> None:
        setattr(self.owner, self.attribute, new)
        if not callable(old) or not isinstance(self.owner, ModuleType):
            return
        # Whoever imported the function by name has it too, the library's own modules first of all.
        for module in list(sys.modules.values()):
            if isinstance(module, ModuleType) and not module.__name__.startswith("l2rfast"):
                for name in [name for name, value in vars(module).items() if value is old]:
                    setattr(module, name, new)


@dataclass
class Library:
    """What is replaced in a library. Made where the library is not patched yet: what it finds are the originals.

    Args:
        distribution: its name among the installed packages.
        versions: the tested ones.
    """

    distribution: str
    versions: str
    replacements: list[Replacement] = field(default_factory=list)

    def __post_init__(self) -> None:
        installed = importlib.metadata.version(self.distribution)
        if not SpecifierSet(self.versions).contains(installed.split("+")[0], prereleases=True):
            raise InputError(f"{self.distribution}: expected a version {self.versions}, got {installed}")

    def replaces(self, owner: Any, attribute: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Decorates what computes a call of ``owner.attribute``, or returns a `FallThrough`."""
        original = getattr(owner, attribute)
        name = f"{owner.__module__ + '.' if isinstance(owner, type) else ''}{owner.__name__}.{attribute}"

        def decorate(fast: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(fast)
            def call(*args: Any, **kwargs: Any) -> Any:
                result = fast(*args, **kwargs)
                if isinstance(result, FallThrough):
                    reason, result = result.reason, original(*args, **kwargs)  # its errors come before our warning
                    _note(name, reason)
                else:
                    _note(name, None)
                return result

            # TorchScript compiles sources, of which ours are none that it can: it takes the library's instead.
            vars(call).update(__script_if_tracing_wrapper=True, __original_fn=original)
            self.replacements.append(Replacement(owner, attribute, original, call))
            return call

        return decorate

    def uses(self, module: ModuleType, attribute: str, **functions: Callable[..., Any]) -> None:
        """Has a module find these functions under a name that it has for another module, beside all else there."""
        original = getattr(module, attribute)
        self.replacements.append(Replacement(module, attribute, original, With(original, functions)))


class With:
    """A module with some of its functions replaced, for one that imports it."""

    def __init__(self, module: ModuleType, functions: dict[str, Callable[..., Any]]) -> None:
        self.__dict__.update(functions)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


_patched: dict[str, Library] = {}


class _Patch:
    """What `patch` did; leaving its block takes that back."""

    def __init__(self, names: list[str]) -> None:
        self._names = names

    def __enter__(self) -> _Patch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        unpatch(*[name for name in self._names if name in _patched])


def _library(name: str) -> Library:
    if name not in LIBRARIES:
        raise InputError(f"names: expected some of {', '.join(LIBRARIES)}, got {name!r}")
    try:
        module = importlib.import_module(f"l2rfast.compat.{LIBRARIES[name]}")
    except ImportError as error:
        raise InputError(f"names: expected libraries that are installed, but {name} is not: {error}") from error
    library: Library = module.LIBRARY
    return library


def patch(*names: str) -> _Patch:
    """Have other libraries compute with our layers, from here on, or in a ``with`` block.

    Args:
        names: ``"torch"``, ``"voxelmorph"``, ``"neurite"``, ``"monai"``, ``"fireants"``, ``"convexadam"``. What each
            replaces, and what it leaves to the library, is listed in docs/reference/compat.md. Modules that imported a
            replaced function by name get ours too; objects made before have it as well. A library that is patched
            already stays as it is.

    Returns:
        A context manager that ends what this call began; need not be used.

    Raises:
        InputError: an unknown name, a library that is not installed, or a version of it that was not tested; then
            nothing is patched.
    """
    libraries = {name: _library(name) for name in dict.fromkeys(names)}
    if not libraries:
        raise InputError(f"names: expected some of {', '.join(LIBRARIES)}, got none")
    new = {name: library for name, library in libraries.items() if name not in _patched}
    for name, library in new.items():
        for replacement in library.replacements:
            replacement.apply()
        _patched[name] = library
    return _Patch(list(new))


def unpatch(*names: str) -> None:
    """Give libraries back what `patch` replaced; all that are patched when no name is given.

    Args:
        names: as of `patch`.

    Raises:
        InputError: a name that is not patched.
    """
    unknown = [name for name in names if name not in _patched]
    if unknown:
        raise InputError(f"names: expected patched libraries, {', '.join(_patched) or 'none'}, got {unknown[0]!r}")
    for name in names or list(_patched):
        for replacement in reversed(_patched.pop(name).replacements):
            replacement.restore()
