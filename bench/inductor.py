"""``python -m bench.inductor``: the code that PyTorch's Inductor makes for a GPU of a step of training, without a GPU.

A step of VoxelMorph, forward and backward, is traced by ``torch.compile`` as one graph each on the CPU, put onto a GPU
that is not there (tensors without memory, and a card's properties made up in the place of those that CUDA would tell),
and lowered by Inductor, which writes Python with Triton kernels in it and calls of our operators and of ATen's between
them. Its own passes over whole graphs, which come before, are left out, and what is kept for the way back is chosen
simply; a card would bring convolutions in other layouts as well. So a card gets code like it, not the same. Every
kernel is then compiled for several GPUs, in the first configuration that Inductor would try. Nothing runs.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from datetime import UTC, datetime
from importlib.util import module_from_spec, spec_from_file_location
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import triton
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.compiler import ASTSource
from triton.runtime import driver

from l2rfast import local_ncc, warp
from l2rfast.losses import diffusion_energy
from l2rfast.methods.unsupervised.network import Architecture, VoxelMorph

from . import aot, machine
from .given import times
from .report import REPORTS, kept, table

TARGETS = ("sm_80", "sm_90", "sm_100")
# What a card would tell: an H100's, of which Inductor chooses tiles by.
CARD = SimpleNamespace(
    name="H100",
    major=9,
    minor=0,
    multi_processor_count=132,
    total_memory=80 << 30,
    regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    warp_size=32,
    shared_memory_per_block=48 << 10,
    shared_memory_per_block_optin=227 << 10,
    gcnArchName="",
    L2_cache_size=50 << 20,
)
_CALLED = re.compile(r"(?:^|[= ])(torch\.ops\.[\w.]+|extern_kernels\.\w+)\(", re.MULTILINE)


def graphs_of(step: Callable[..., Tensor], *arguments: Tensor) -> list[tuple[fx.GraphModule, list[Any]]]:
    """The graphs of a step that gives a loss, forward and backward, and what each is given, on the CPU."""
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd
    from torch._inductor.decomposition import select_decomp_table

    found: list[tuple[fx.GraphModule, list[Any]]] = []

    def kept(module: fx.GraphModule, given: list[Any]) -> Any:
        found.append((module, list(given)))
        return make_boxed_func(module.forward)

    backend = aot_autograd(fw_compiler=kept, bw_compiler=kept, decompositions=select_decomp_table())
    torch.compile(step, fullgraph=True, dynamic=False, backend=backend)(*arguments).backward()
    return found


@contextmanager
def card() -> Iterator[None]:
    """Inside, PyTorch takes a card to be there, of which only the properties are."""
    from torch._dynamo.device_interface import CudaInterface
    from torch._inductor import scheduler
    from torch._inductor.runtime import triton_helpers
    from torch._inductor.runtime.hints import DeviceProperties
    from torch.utils import _triton

    told: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_properties": lambda *_: CARD,
        "get_device_capability": lambda *_: (CARD.major, CARD.minor),
        "_lazy_init": lambda: None,
    }
    of_interface = {name: staticmethod(told[name]) for name in ("current_device", "get_device_properties")}
    of_interface["get_compute_capability"] = staticmethod(lambda *_: 10 * CARD.major + CARD.minor)
    with ExitStack() as stack:
        for owner, values in (
            (torch.cuda, told),
            (CudaInterface, of_interface),
            (CudaInterface.Worker, {"get_device_properties": of_interface["get_device_properties"]}),
            (scheduler, {"has_triton": lambda *_: True}),
            (_triton, {"triton_hash_with_backend": lambda: ""}),
            (triton_helpers, {"set_driver_to_gpu": lambda: None}),
        ):
            for name, value in values.items():
                stack.enter_context(patch.object(owner, name, value))
        stack.callback(DeviceProperties.create.cache_clear)  # else the card would stay
        yield


def code_of(module: fx.GraphModule, given: Sequence[Any], *, backward: bool) -> str:
    """What Inductor writes for a graph on a GPU; inside `card`."""
    from torch._inductor import config
    from torch._inductor.debug import DebugContext
    from torch._inductor.graph import GraphLowering
    from torch._inductor.virtualized import V

    for node in module.graph.nodes:
        if "device" in node.kwargs:
            node.kwargs = {**node.kwargs, "device": torch.device("cuda", 0)}
    module.recompile()
    mode = FakeTensorMode()
    with mode:
        inputs = [
            torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cuda") if isinstance(x, Tensor) else x
            for x in given
        ]
        _Anew(module).run(*inputs)
    graph = GraphLowering(module, example_inputs=inputs, is_backward=backward)
    with (
        mode,
        V.set_graph_handler(graph),
        V.set_fake_mode(mode),
        V.set_debug_handler(DebugContext()),
        config.patch(fx_graph_cache=False, compile_threads=1),
    ):
        graph.run(*inputs)
        text: str = graph.codegen()[0].value
    return text


class _Anew(fx.Interpreter):
    """Notes what every node gives, as tensors without memory on the device where they are now."""

    def run_node(self, node: fx.Node) -> Any:
        node.meta["val"] = super().run_node(node)
        return node.meta["val"]


def kernels_of(code: str, folder: Path) -> dict[str, Any]:
    """Inductor's kernels in a text, by name, with their configurations, from files in a folder; inside `card`."""
    found = {}
    for name, source in re.findall(r"async_compile\.triton\('(\w+)', '''(.*?)'''", code, re.DOTALL):
        file = folder / f"{name}.py"
        file.write_text(source)
        spec = spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        found[name] = getattr(module, name)
    return found


def compiled(kernel: Any, target: str) -> aot.Built:
    """One of them, in its first configuration."""
    told, config = kernel.triton_meta, kernel.configs[0]
    source = ASTSource(kernel.fn, told["signature"], told["constants"] | config.kwargs, told["configs"][0])
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    with (
        tempfile.TemporaryDirectory() as cache,
        patch.dict("os.environ", TRITON_CACHE_DIR=cache),
        patch.object(driver, "_active", aot.NoGpu(target)),
        patch.object(triton.knobs.nvidia, "dump_ptxas_log", True),
        redirect_stdout(StringIO()) as log,
    ):
        made = triton.compile(source, target=aot.TARGETS[target], options=options)
    return aot._built(kernel.fn.__name__, target, made, log.getvalue())


def measure(step: Callable[..., Tensor], *arguments: Tensor) -> dict[str, Any]:
    """Of both directions of a step: what is called, how often, and the kernels on every target."""
    found: dict[str, Any] = {}
    for way, (module, given) in zip(("forward", "backward"), graphs_of(step, *arguments), strict=True):
        with card(), tempfile.TemporaryDirectory() as folder:
            code = code_of(module, given, backward=way == "backward")
            kernels = kernels_of(code, Path(folder))
            found[way] = {
                "nodes": len(module.graph.nodes),
                "called": dict(Counter(_CALLED.findall(code)).most_common()),
                "kernels": {
                    target: [vars(compiled(kernel, target)) for kernel in kernels.values()] for target in TARGETS
                },
            }
            print(f"{way}: {len(kernels)} kernels", flush=True)
    return found


def voxelmorph(size: int) -> tuple[Callable[..., Tensor], Tensor, Tensor]:
    """The loss of VoxelMorph as published, of two images."""
    network = VoxelMorph()

    def step(moving: Tensor, fixed: Tensor) -> Tensor:
        field = network(moving, fixed).displacement
        return diffusion_energy(field) - local_ncc(fixed, warp(moving, field))

    return step, *(torch.rand(1, 1, *[size] * 3) for _ in range(2))


def page(record: dict[str, Any]) -> list[str]:
    """What was found, in paragraphs of Markdown."""
    rows, calls = [], []
    for way, one in record["found"].items():
        for target, kernels in one["kernels"].items():
            registers, spills = [k["registers"] for k in kernels], sum(k["spills"] for k in kernels)
            rows.append([way, target, *map(str, (len(kernels), min(registers), max(registers), spills))])
        calls += [[way, name, str(count)] for name, count in one["called"].items()]
    told = str(__doc__).split("\n\n")[1].replace("``", "`")
    return [
        "# Inductor's code for a GPU",
        f"{record['date']}, `python -m bench.inductor`. {told.replace(chr(10), ' ')}",
        f"VoxelMorph, local NCC and diffusion energy, images of {record['size']}^3 voxels. Tiles are chosen for an "
        f"H100's properties on every target.",
        table(["direction", "target", "Triton kernels", "fewest registers", "most", "bytes spilled in all"], rows),
        table(["direction", "called between them", "times"], calls),
    ]


def _size(text: str) -> int:
    """That the network takes."""
    size, multiple = times(text), Architecture().multiple
    if size % multiple:
        raise argparse.ArgumentTypeError(f"expected a multiple of {multiple}, as the network takes, got {text!r}")
    return size


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.inductor", description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=_size, default=32, help="of the images, along each axis (default: 32)")
    parser.add_argument("--out", type=Path, default=REPORTS, help="folder of the report")
    arguments = parser.parse_args(argv)
    record = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "size": arguments.size,
        "versions": {name: version for name, version in machine.software().items() if name in machine.OWN},
        "found": measure(*voxelmorph(arguments.size)),
    }
    print(kept(arguments.out, "inductor", record, page(record)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
