"""What PyTorch can be told for all that follows: no operation, and no layer in another's place, depends on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from evaluation import evaluate, same_bits
from operators import OPERATIONS, Operation, noise
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import l2rfast
from l2rfast import metrics
from l2rfast.methods import unsupervised, weakly_supervised
from l2rfast.methods.discrete import pddnet


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


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


CONTEXTS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "double": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "elsewhere": lambda: torch.device("meta"),  # what is made on the default device has no values then
    "deterministic": deterministic,
}
NARROW: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),  # which networks follow: it is meant for them
}
FOR_ALL: dict[str, Callable[[], AbstractContextManager[object]]] = CONTEXTS | {
    "inference": torch.inference_mode,
    "threads": lambda: threads(1 if torch.get_num_threads() > 1 else 2),
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


SCAN = l2rfast.box_average(noise(1, 1, 20, 24, 22).float(), 1, passes=3)[0, 0]


def registered(**options: object) -> dict[str, Tensor]:
    result = l2rfast.register(SCAN, SCAN.roll(1, 0).requires_grad_(), **options)
    found = {"displacement": result.displacement, "warped": result.warp(result.moving.data, outside=0.5)}
    return found if result.entropy is None else found | {"entropy": result.entropy}


# Few steps, the initialisation by itself: what is computed in a step is so in all of them.
FEW = {"coarse_iterations": 2, "iterations": 3}
expected_registration = cache(lambda options: registered(**dict(options)))


@pytest.mark.parametrize(
    "options",
    [
        {"preset": "fast", "init": "none", **FEW},
        {"preset": "accurate", "init": "none", "full_iterations": 2, **FEW},
        {"metric": "mind", "init": "none", **FEW},
        {"metric": "mi", "init": "none", "full_iterations": 2, **FEW},
        {"preset": "fast", "init": "rigid", **FEW},
    ],
    ids=["fast", "accurate", "mind", "mi", "rigid"],
)
@pytest.mark.parametrize("context", (FOR_ALL | NARROW).values(), ids=FOR_ALL | NARROW)
def test_defaults_do_not_change_a_registration(
    context: Callable[[], AbstractContextManager[object]], options: dict[str, object]
) -> None:
    expected = expected_registration(tuple(options.items()))
    with context():
        got = registered(**options)
    assert same_bits(got, expected)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file for every network, which is small and was not trained, and whose field is some voxels long."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    dense = unsupervised.VoxelMorph(unsupervised.Architecture(3, (4, 4), (4, 4, 4, 4), velocity=True))
    torch.nn.init.normal_(dense.field.weight, std=0.3)
    dense.save(folder / "unsupervised.safetensors")
    plan = weakly_supervised.Plan(3, 2, out_levels=(3,))
    labels = weakly_supervised.LabelReg(weakly_supervised.Architecture(plan=plan))
    torch.nn.init.normal_(labels.network.get_parameter("out.3.weight"), std=0.05)
    labels.save(folder / "weakly-supervised.safetensors")
    moments = weakly_supervised.LabelReg(
        weakly_supervised.Architecture("moments", weakly_supervised.Plan(3, 2), level=2)
    )
    for part in (moments.network.of_moving, moments.network.of_fixed):
        torch.nn.init.ones_(part.out.weight)
    boxes = torch.zeros(4, 1, 10, 12, 11)
    for k, box in enumerate(boxes):
        box[:, 2 : 5 + k, 3 : 9 - k, 2:8] = 1
    moments.network.observe(boxes, boxes.flip(0))
    moments.save(folder / "moments.safetensors")
    pddnet.PDDNet(pddnet.Architecture("cnn", 8, (6, 8), (5, 3), (0.3, 0.15))).save(folder / "pddnet.safetensors")
    return folder


@pytest.mark.parametrize(
    ("network", "options"),
    [
        ("unsupervised", {"method": "unsupervised", "finetune": 2}),
        ("pddnet", {"method": "pddnet"}),
        ("weakly-supervised", {"method": "weakly-supervised"}),
        ("moments", {"method": "weakly-supervised"}),
    ],
    ids=["unsupervised", "pddnet", "weakly-supervised", "moments"],
)
@pytest.mark.parametrize("context", FOR_ALL.values(), ids=FOR_ALL)
def test_defaults_do_not_change_what_a_network_registers(
    context: Callable[[], AbstractContextManager[object]], network: str, options: dict[str, object], weights: Path
) -> None:
    options = options | {"weights": weights / f"{network}.safetensors", "init": "none"}
    expected = expected_registration(tuple(options.items()))
    assert expected["displacement"].std() > 0.01
    with context():
        got = registered(**options)
    assert same_bits(got, expected)


@pytest.mark.parametrize("context", (FOR_ALL | NARROW).values(), ids=FOR_ALL | NARROW)
def test_defaults_do_not_change_the_measures(context: Callable[[], AbstractContextManager[object]]) -> None:
    a, b, disp = noise(1, 1, 9, 10, 11).float(), noise(1, 1, 9, 10, 11).float(), 3 * noise(1, 3, 9, 10, 11).float()
    labels = [(3 * image[0, 0].abs()).byte() for image in (a, b)]
    points = 8 * noise(5, 3).abs().float()

    def measured() -> list[object]:
        return [
            metrics.dice(*labels),
            metrics.hd95(*labels, spacing=(0.7, 1, 2.3)),
            metrics.tre(points, points.flip(0), disp, (0.7, 1, 2.3)).tolist(),
            metrics.log_jacobian_std(disp).item(),
            metrics.folding_fraction(disp).item(),
            metrics.global_correlation(a, b).item(),
            metrics.mean_squared_error(a, b).item(),
        ]

    expected = measured()
    with context():
        assert measured() == expected


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
