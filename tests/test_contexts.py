"""What PyTorch can be told for all that follows: no operation, and no layer in another's place, depends on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch
import torch.nn.functional as F
from evaluation import evaluate, same_bits
from operators import OPERATIONS, Operation, noise
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import l2rfast


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    yield
    torch.set_default_dtype(before)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


CONTEXTS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "double": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "elsewhere": lambda: torch.device("meta"),  # what is made on the default device has no values then
    "deterministic": deterministic,
}
each_context = pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS.keys())
each_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: o.name)


@each_context
@each_operation
def test_defaults_change_nothing(operation: Operation, context: Callable[[], AbstractContextManager[object]]) -> None:
    for sample in operation.some():
        inputs = {name: t.float() for name, t in sample.inputs.items()}
        for backend in ("cpp", "reference"):
            expected = evaluate(operation, inputs, sample.options, backend=backend)
            with context():
                got = evaluate(operation, inputs, sample.options, backend=backend)
            assert same_bits(got, expected), (backend, sample.name)


@each_operation
def test_inference_mode(operation: Operation) -> None:
    for sample in operation.some():
        expected = operation.function(**sample.inputs, **sample.options)
        with torch.inference_mode():
            inputs = {name: t.clone() for name, t in sample.inputs.items()}
            inside = operation.function(**inputs, **sample.options)
        outside = operation.function(**inputs, **sample.options)
        for got in (inside, outside):
            torch.testing.assert_close(got, expected, rtol=0, atol=0)


@each_context
def test_defaults_do_not_change_a_patched_affine_grid(context: Callable[[], AbstractContextManager[object]]) -> None:
    image, theta = noise(1, 1, 5, 6, 7).float(), noise(1, 3, 4).float()

    def sampled() -> Tensor:
        with l2rfast.patch("torch"):
            return F.grid_sample(image, F.affine_grid(theta, [1, 1, 4, 5, 6], align_corners=False), align_corners=False)

    expected = sampled()
    with context():
        assert same_bits({"": sampled()}, {"": expected})


@pytest.mark.parametrize(
    "options", [{"preset": "fast"}, {"metric": "mind"}, {"preset": "fast", "init": "rigid"}], ids=str
)
@pytest.mark.parametrize("context", [*CONTEXTS.values(), torch.inference_mode], ids=[*CONTEXTS, "inference"])
def test_defaults_do_not_change_a_registration(
    context: Callable[[], AbstractContextManager[object]], options: dict[str, str]
) -> None:
    fixed = l2rfast.box_average(noise(1, 1, 20, 24, 22).float(), 1, passes=3)[0, 0]
    moving = fixed.roll(1, 0).requires_grad_()

    def registered() -> dict[str, Tensor]:
        result = l2rfast.register(fixed, moving, **options)
        return {"displacement": result.displacement, "warped": result.warp(result.moving.data, outside=0.5)}

    expected = registered()
    with context():
        got = registered()
    assert same_bits(got, expected)


class Warped(Dataset[Tensor]):
    """Images that are warped where they are loaded."""

    image, disp = noise(1, 1, 32, 32, 32).float(), noise(1, 3, 32, 32, 32).float()

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Tensor:
        return l2rfast.warp(self.image, self.disp * index)[0]


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # of Pythons from 3.12 on, where threads run
def test_processes_that_load_data_are_forked_after_threads_ran() -> None:
    data, before = Warped(), torch.get_num_threads()
    torch.set_num_threads(2)
    expected = torch.stack([data[0], data[1]])
    (got,) = DataLoader(data, batch_size=2, num_workers=1, multiprocessing_context="fork", timeout=60)
    torch.set_num_threads(before)
    assert same_bits({"": got}, {"": expected})
