"""What runs here: versions, instruction set, and the backend that each operation uses."""

from __future__ import annotations

import io
import platform
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

import numpy as np
import torch

from . import _native, _threads
from ._dispatch import OPERATORS

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class Info:
    """The answer of `info`; printing it gives a table.

    Attributes:
        versions: of l2rfast, torch, numpy and python.
        instruction_set: that the loaded C++ kernels were built for; None where there are none.
        threads: that an operation uses on the CPU.
        backends: per operation, the backends present, best first.
        chosen: per device type (``"cpu"``, and ``"cuda"`` if there is one), the backend of each operation.
    """

    versions: dict[str, str]
    instruction_set: str | None
    threads: int
    backends: dict[str, list[str]]
    chosen: dict[str, dict[str, str]]

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table("operation", "backends", *(f"runs on {device}" for device in self.chosen))
        for name, backends in self.backends.items():
            table.add_row(name, ", ".join(backends), *(chosen[name] for chosen in self.chosen.values()))
        kernels = (
            f"C++ kernels for {self.instruction_set}"
            if self.instruction_set
            else f"no C++ kernels; for the fast ones {_native.HOW_TO_BUILD}"
        )
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return Group(Text(versions), Text(kernels), Text(_threads.described(self.threads)), table)

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        Console(file=text, width=110, markup=False).print(self)
        return text.getvalue().rstrip()


def info() -> Info:
    """List, per operation, the backends that exist on this machine and the one that runs."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return Info(
        versions=versions(),
        instruction_set=_native.INSTRUCTION_SET,
        threads=torch.get_num_threads(),
        backends={name: operator.backends() for name, operator in OPERATORS.items()},
        chosen={d: {name: operator.chosen(d) for name, operator in OPERATORS.items()} for d in devices},
    )


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    return {
        "l2rfast": metadata.version("l2rfast"),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
