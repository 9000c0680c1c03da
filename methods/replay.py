"""Steps that are alike, replayed on a GPU from one that was recorded, and their numbers, read while the next one runs.

A step launches dozens of kernels, which the host takes longer to launch at a coarse level than the device to run. A
CUDA graph of a step launches them as one. It holds what the device is told, and nothing of what the host decides: a
step may depend on nothing but tensors that stay where they are, and wait for none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

State = TypeVar("State")

RECORDED = {"cuda"}  # kinds of devices on which steps are


def replayed(step: Callable[[State], None], state: State) -> Callable[[State], None]:
    """What takes a state on as a step does, launched as one where the state is on a GPU; elsewhere the step itself.

    Args:
        step: puts what comes next in place of a state's tensors, or into them. It has run before: what is made once,
            such as compiled kernels, is there.
        state: whose attributes are tensors, on one device. Those of now are the ones in which every result will be.
    """
    kept: dict[str, Tensor] = dict(vars(state))
    if not RECORDED & {tensor.device.type for tensor in kept.values()}:
        return step
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(state)
        for name, tensor in kept.items():
            tensor.copy_(getattr(state, name))
    vars(state).update(kept)
    return lambda _: graph.replay()


class Arriving:
    """Numbers of a device, on their way to the host while the device goes on.

    Args:
        most: numbers that will be sent.
        device: of them. From a GPU the one that was sent last is not waited for: it is read one later.
    """

    def __init__(self, most: int, device: torch.device) -> None:
        self.late = device.type == "cuda"
        self.numbers = torch.empty(most, dtype=torch.float64, pin_memory=self.late)
        self.sent = 0
        self.events: list[torch.cuda.Event] = []

    def send(self, number: Tensor) -> None:
        """Takes it as it is now, a tensor without axes."""
        self.numbers[self.sent].copy_(number, non_blocking=True)
        self.sent += 1
        if self.late:
            self.events.append(torch.cuda.Event())  # type: ignore[no-untyped-call]
            self.events[-1].record()

    def read(self, *, all: bool = False) -> list[float]:
        """Those that are there, or all, waiting for the last."""
        count = self.sent if all else max(0, self.sent - self.late)
        if self.late and count:
            self.events[count - 1].synchronize()
        return self.numbers[:count].tolist()
