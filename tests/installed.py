"""What every installation must do, on any PyTorch: a script, as its environment may have nothing but l2rfast.

    python -P tests/installed.py cpp|reference

checks that this backend runs, and that its warp and local NCC, and their gradients, as they are and within
`torch.compile`, are those of the reference in float64.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor

import l2rfast

Function = Callable[..., Tensor]


def values(function: Function, inputs: list[Tensor]) -> list[Tensor]:
    """What comes out, and the gradients of a combination of it to all inputs."""
    inputs = [t.clone().requires_grad_() for t in inputs]
    out = function(*inputs)
    weights = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view(out.shape)
    return [out.detach(), *torch.autograd.grad(out, inputs, weights)]


def compare(name: str, function: Function, inputs: list[Tensor]) -> None:
    with l2rfast.backend("reference"):
        expected = values(function, [t.double() for t in inputs])
    compiled: Function = torch.compile(function, backend="aot_eager", fullgraph=True)
    for how in (function, compiled):
        for got, truth in zip(values(how, inputs), expected, strict=True):
            error = float((got.double() - truth).norm() / truth.norm())
            assert got.dtype == torch.float32
            assert error < 1e-5, f"{name}: relative error {error:.1e}"


def main(backend: str) -> None:
    info = l2rfast.info()
    assert (info.instruction_set is not None) == (backend == "cpp"), info
    assert info.chosen["cpu"]["warp"] == info.chosen["cpu"]["local_ncc"] == backend, info
    torch.manual_seed(0)
    for shape in ((13, 17), (11, 12, 13)):
        image, other = torch.rand(2, 1, 2, *shape)
        disp = 3 * torch.randn(1, len(shape), *shape)
        compare("warp", l2rfast.warp, [image, disp])
        compare("local_ncc", lambda a, b: l2rfast.local_ncc(a, b, window=5, reduction="none"), [image, other])
    print(f"{l2rfast.__file__}: right with {backend}, {info.instruction_set} and PyTorch {torch.__version__}")


if __name__ == "__main__":
    main(sys.argv[1])
