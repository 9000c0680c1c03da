"""What to tell a user about an error, in one sentence."""

from __future__ import annotations

import errno

from ..errors import BackendError, InputError

# What RuntimeErrors say: PyTorch's, on the CPU and the GPU, and a kernel's of what it could not get from PyTorch.
_NO_MEMORY = ("DefaultCPUAllocator", "out of memory", '"aten::new_empty"')


def sentence(error: BaseException) -> str | None:
    """None for errors that only a defect of l2rfast can cause."""
    if isinstance(error, InputError | BackendError):
        return str(error)
    if isinstance(error, MemoryError) or any(text in str(error) for text in _NO_MEMORY):
        return "not enough memory for images of this size"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"no space left on the device of {error.filename or 'the output'}"
    return None


def told(error: BaseException) -> str:
    """A sentence about any error: of a defect, what it is."""
    usage = getattr(error, "format_message", None)  # of what Typer says of a command line
    return str(usage()) if usage else sentence(error) or f"{type(error).__name__}: {error}"
