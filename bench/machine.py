"""The machine: what it is, how fast it copies, how much memory a call needs."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch

import l2rfast

T = TypeVar("T")

OWN = ("l2rfast", "torch", "triton", "numpy")
OF_LAYERS = ("convexadam", "fireants", "monai", "neurite", "torch-interpol", "voxelmorph")
ABSENT = "not installed"
ONEDNN = {"avx2": "AVX2"}  # what it calls an instruction set; it looks at the processor for itself
ON_GPUS = ("fused-lncc", "cupy-cuda12x", "cupy-cuda13x")
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def on_a_gpu() -> bool:
    """Whether tensors are made there: on PyTorch's default device."""
    return torch.get_default_device().type == "cuda"


def device_name() -> str:
    """Of the reports of this machine: ``cpu``, or that of the GPU."""
    return re.sub(r"\W+", "-", torch.cuda.get_device_name()).lower() if on_a_gpu() else "cpu"


def instruction_sets() -> list[str]:
    """For which there are kernels, of those that this processor has, the best first; none on a GPU.

    That of all processors only where it is the best; and none that ``ATEN_CPU_CAPABILITY`` excludes.
    """
    best = l2rfast.info().instruction_set
    if on_a_gpu() or best is None:
        return []
    lesser = ["avx2"] if best == "avx512" else []
    return [best, *(name for name in lesser if Path(l2rfast.__file__).with_name(f"_cpp_{name}.so").exists())]


def limited(instruction_set: str | None) -> dict[str, str]:
    """The environment in which PyTorch, with it l2rfast, and oneDNN, whose its convolutions are, use no better one.

    What torch.compile makes is kept apart: its cache gives code of one instruction set to a process that is held to
    another, where sums come out wrong (PyTorch 2.13.0, ``findings/torch_compile_instruction_sets.sh``).
    """
    if instruction_set is None:
        return {}
    cache = Path(tempfile.gettempdir()) / f"torchinductor-{instruction_set}"
    environment = {"ATEN_CPU_CAPABILITY": instruction_set, "TORCHINDUCTOR_CACHE_DIR": str(cache)}
    return environment | ({"ONEDNN_MAX_CPU_ISA": ONEDNN[instruction_set]} if instruction_set in ONEDNN else {})


def instruction_set() -> str:
    """That of the kernels of this process."""
    return l2rfast.info().instruction_set or "none: reference backend"


def describe() -> dict[str, Any]:
    """What the figures depend on, besides the software."""
    clock = psutil.cpu_freq()
    return {
        "cpu": _cpu_model(),
        "cores": psutil.cpu_count(logical=False),
        "logical processors": psutil.cpu_count(),
        "clock, MHz": round(clock.current) if clock else "not told",
        "memory, GB": round(psutil.virtual_memory().total / 1e9, 1),
        "threads": torch.get_num_threads(),
        "instruction set": instruction_set(),
        "PyTorch's instruction set": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.release()}",
    } | (_describe_gpu() if on_a_gpu() else {})


def _describe_gpu() -> dict[str, Any]:
    gpu = torch.cuda.get_device_properties()
    query = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,clocks.mem,clocks.max.sm", "--format=csv,noheader"]
    told = {}
    if shutil.which(query[0]):
        values = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0].split(", ")
        told = dict(zip(("driver", "clock now", "memory clock now", "highest clock"), values, strict=True))
    return {
        "gpu": gpu.name,
        "multiprocessors": gpu.multi_processor_count,
        "gpu's memory, GB": round(gpu.total_memory / 1e9, 1),
        "second-level cache, MB": round(gpu.L2_cache_size / 1e6),
        "CUDA": torch.version.cuda,
        **told,
    }


def software(*peers: str) -> dict[str, str]:
    """The versions of Python, l2rfast, what it stands on and its peers, which are those of the layers if not named."""
    found = {"python": platform.python_version()}
    for distribution in OWN + (peers or OF_LAYERS + (ON_GPUS if on_a_gpu() else ())):
        try:
            found[distribution] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            found[distribution] = ABSENT
    return found


def clock() -> float:
    """Seconds, read when all that was asked of a GPU is done."""
    if on_a_gpu():
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds(run: Callable[[], object], calls: int = 1) -> float:
    """Of a call, of several made one after the other."""
    start = clock()
    for _ in range(calls):
        result = run()
    passed = clock() - start
    del result  # giving its memory back is not part of the computation
    return passed / calls


def copy_bandwidth(size: int = 1 << 29, repetitions: int = 10) -> float:
    """Bytes read and written per second by the fastest of some copies: what the machine can do, not what it had left.

    ``size``, in bytes, is to be far larger than the cache.
    """
    source = torch.ones(size, dtype=torch.uint8)
    target = torch.zeros_like(source)
    calls = 10 if on_a_gpu() else 1  # to hide the time of launching them
    return 2 * size / min(seconds(lambda: target.copy_(source), calls) for _ in range(repetitions))


def seconds_of_others() -> float:
    """Processor time that everything but this process and its children has used since the system started."""
    kinds = psutil.cpu_times()._asdict()
    idle = ("idle", "iowait", "guest", "guest_nice")  # the guests' is in the user's as well
    busy = sum(seconds for kind, seconds in kinds.items() if kind not in idle)
    own = os.times()
    return float(busy - own.user - own.system - own.children_user - own.children_system)


def in_a_fresh_process(function: Callable[..., T], *arguments: Any, **environment: str) -> T:
    """Call a function of a module, with as many threads as here, and environment variables besides ours."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        with ProcessPoolExecutor(
            1, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(torch.get_num_threads(),)
        ) as pool:
            return pool.submit(function, *arguments).result()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def memory_growth(run: Callable[[], object]) -> int | None:
    """By how many bytes the resident memory grew at most during a call; or, on a GPU, what PyTorch has allocated."""
    if on_a_gpu():
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - start
    reset_peak_memory()
    before = peak_memory()
    result = run()
    after = peak_memory()
    del result  # alive until now: results count
    return None if before is None or after is None else after - before


def reset_peak_memory() -> None:
    """Let `peak_memory` count from now on."""
    if _CLEAR.exists():
        _CLEAR.write_text("5")


def peak_memory() -> int | None:
    """Largest resident memory of this process in bytes, None where the system does not tell.

    ``getrusage`` would: but its ru_maxrss cannot be reset, and a new process starts with that of its parent.
    """
    if not _CLEAR.exists():
        return None
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def _cpu_model() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor()  # which may start a process to find out
