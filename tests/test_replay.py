"""Steps of a registration as CUDA graphs: nothing in one waits for the device, and played again they are the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from graphs import gpu, recorded_on_the_cpu, watched
from operators import noise
from torch import Tensor

import l2rfast
from l2rfast.methods import replay, similarity
from l2rfast.methods.discrete.levels import Compared, distances_of
from l2rfast.methods.discrete.options import choose
from l2rfast.methods.landmarks import Landmarks, guided
from l2rfast.methods.refine import State, Steps, refine
from l2rfast.methods.similarity import Distance
from l2rfast.methods.stages import Stages

SPACING = 1.0, 1.0, 2.5
SIZE = 12, 14, 10
each_metric = pytest.mark.parametrize("metric", ["lncc", "lncc of blocks", "mi", "ssd", "mind"])


def pairs(metric: str, masked: bool, device: str) -> tuple[tuple[Distance, Distance], list[int]]:
    """The distances of two images, where they are masked with landmarks as well, and the blocks of which steps are."""
    name = metric.partition(" ")[0]
    fixed = l2rfast.box_average(noise(1, 1, *SIZE).float(), 1, passes=2)
    mask = torch.ones_like(fixed)
    mask[..., : SIZE[-1] // 4] = 0
    images, masks = ((x.to(device), y.to(device)) for x, y in ((fixed, fixed.roll(1, 2)), (mask, mask.roll(1, -1))))
    blocks = [2 if metric == "lncc of blocks" else 1] * 3
    compared, options = Compared(images, name, 1.0), choose("default", metric=name)
    of = distances_of(options, compared, masks if masked else [None, None], [1] * 3, SPACING, blocks)
    if masked and max(blocks) == 1:
        points = torch.full((2, 3), 5.0, dtype=torch.float64)
        of = guided(of, Landmarks(points, points + 1.2, 1.0), SIZE, [1] * 3, SPACING)
    return of, blocks


@pytest.mark.parametrize(
    "look",
    [
        lambda x: x.new_tensor([1.0, 2.0]),
        lambda x: torch.tensor(3.0, device=x.device),
        lambda x: torch.ones(3).to(x.device),
        lambda x: x.copy_(torch.ones(3)),
        lambda x: x.to("cpu"),
        lambda x: float(x[0]),
        lambda x: bool((x > 0).all()),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.index_put_((x > 0,), torch.ones((), device=x.device)),
        lambda x: torch.linalg.solve(x.diag(), x),
    ],
)
def test_what_waits_is_seen(look: Callable[[Tensor], object]) -> None:
    with gpu() as seen:
        try:
            look(torch.empty(3, device="meta"))
        except (RuntimeError, NotImplementedError):  # there are no values to look at
            seen.append("refused")
    assert seen


@pytest.mark.parametrize("masked", [False, True])
@each_metric
def test_a_step_waits_for_nothing(metric: str, masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "in_range", torch.clone)  # of the level, by its values
    with gpu() as seen:
        distances, blocks = pairs(metric, masked, "meta")
        fields = torch.zeros(1, 3, *SIZE, device="meta"), torch.zeros(1, 3, *SIZE, device="meta")
        state = State.at(fields, 0.5, blocks)
        step = Steps(distances, SPACING, blocks, state.there)
        step(state)  # which brings landmarks to the device
        seen.clear()
        step(state)
        assert not seen


@pytest.mark.parametrize("masked", [False, True])
@each_metric
def test_replayed_steps_are_the_steps(metric: str, masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "_sum", lambda values: values.sum(dtype=torch.float64))  # NumPy's are not recorded
    distances, blocks = pairs(metric, masked, "cpu")
    fields = 0.2 * noise(1, 3, *SIZE).float(), 0.2 * noise(1, 3, *SIZE).float()
    steps = partial(refine, distances, iterations=6, rate=0.5, sides=SPACING, blocks=blocks)
    expected = steps((fields[0].clone(), fields[1].clone()), stages=Stages())
    with recorded_on_the_cpu() as graphs:
        got = steps(fields, stages=Stages())
    assert [graph.replays for graph in graphs] == [5]
    assert got is not None
    assert expected is not None
    for one, other in zip(got, expected, strict=True):
        assert torch.equal(one, other)
        assert one.abs().max() > 0.1


def test_replayed_steps_become_shorter_where_they_make_it_worse() -> None:
    """What the host decided before is decided on the device: a loss, and with it the length of a step, changes."""
    lengths: list[Tensor] = []

    def distance(field: Tensor, way: float = 1.0) -> tuple[Tensor, Tensor]:
        lengths.append(field.abs().max())
        return field.square().sum(1).mean(), torch.full_like(field, way)

    found = []
    distances = distance, partial(distance, way=-1.0)
    for context in (watched, recorded_on_the_cpu):
        state = State.at((torch.zeros(1, 2, 20, 22), torch.zeros(1, 2, 20, 22)), 0.5, [1, 1])
        step: Callable[[State], None] = Steps(distances, [1.0, 1.0], [1, 1], state.there)
        step(state)
        with context():
            step = replay.replayed(step, state)
            for _ in range(5):
                step(state)
        found.append(state)
    assert found[0].rate < 0.1
    for name, value in vars(found[0]).items():
        assert torch.equal(getattr(found[1], name), value), name


def test_the_last_number_of_a_gpu_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[int] = []

    class Event:
        made = 0

        def __init__(self) -> None:
            self.number, Event.made = Event.made, Event.made + 1

        def record(self) -> None:
            pass

        def synchronize(self) -> None:
            waited.append(self.number)

    assert not replay.Arriving(3, torch.device("cpu")).late
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, pin_memory, **options: empty(*size, **options))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    arriving = replay.Arriving(3, torch.device("cuda"))
    seen = [arriving.read()]
    for number in (3.0, 2.0):
        arriving.send(torch.tensor(number))
        seen.append(arriving.read())
    assert (seen, arriving.read(all=True)) == ([[], [], [3.0]], [3.0, 2.0])
    assert waited == [0, 1]


def test_adam_step_takes_numbers_of_the_device() -> None:
    fields = [noise(1, channels, 5, 4).float() for channels in (2, 2, 1, 1)]
    fields[2].abs_()
    numbers = {"done": 3, "rate": 0.4, "eps": 1e-3}
    expected = l2rfast.adam_step(*fields, **numbers)
    got = l2rfast.adam_step(*fields, **{name: torch.tensor(float(x)).double() for name, x in numbers.items()})
    for one, other in zip(got, expected, strict=True):
        assert torch.equal(one, other)
    for wrong, said in ((torch.ones(2), "expected one number"), (torch.ones((), device="meta"), "a tensor on cpu")):
        with pytest.raises(l2rfast.errors.InputError, match=f"rate: expected.*{said.removeprefix('expected ')}"):
            l2rfast.adam_step(*fields, **numbers | {"rate": wrong})
