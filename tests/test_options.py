"""Options whose numbers are NumPy's, arrays or tensors: as if they were Python's; and what is no option's value."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from samples import noise

import l2rfast
from l2rfast import InputError
from l2rfast._check import plain
from l2rfast.methods.discrete import pddnet, tutorial
from l2rfast.methods.discrete.options import DiscreteOptions
from l2rfast.methods.discrete.training import TrainingOptions as DiscreteTraining
from l2rfast.methods.result import check_outside
from l2rfast.methods.training.options import TrainerOptions
from l2rfast.methods.unsupervised import network
from l2rfast.methods.unsupervised.register import UnsupervisedOptions
from l2rfast.methods.unsupervised.training import TrainingOptions as UnsupervisedTraining
from l2rfast.methods.weakly_supervised import model, nets
from l2rfast.methods.weakly_supervised.options import TrainingOptions as WeaklySupervisedTraining

KINDS: list[tuple[type, dict[str, Any]]] = [
    (DiscreteOptions, {"window": 5, "rate": 0.25, "full_iterations": 3}),
    (TrainerOptions, {"steps": 3, "rate": 0.25, "mirror": (0, 1), "cosine": True}),
    (DiscreteTraining, {"window": 5, "smoothness": 0.5, "grid": (5, 7), "extent": (0.5, 0.25)}),
    (UnsupervisedTraining, {"window": 5, "smoothness": 0.5, "encoder": (4, 8), "velocity": True}),
    (WeaklySupervisedTraining, {"width": 4, "shift": 2.0, "levels": (0, 1), "sigmas": (0.0, 0.5)}),
    (UnsupervisedOptions, {"weights": "network.safetensors", "finetune": 3}),
    (network.Architecture, {"ndim": 2, "encoder": (4,), "decoder": (4, 4, 4), "steps": 5}),
    (nets.Plan, {"ndim": 2, "width": 4, "out_levels": (0, 2)}),
    (model.Architecture, {"kind": "global", "level": 2, "size": (8, 8, 8)}),
    (pddnet.Architecture, {"channels": 4, "grid": (5,), "search": (3,), "extent": (0.5,), "passes": 1}),
    (tutorial.Flat, {"radius": 3, "channels": 8}),
]
FORMS: dict[str, Callable[[Any], Any]] = {
    "numbers": lambda value: np.array(value)[()],
    "arrays": np.array,
    "tensors": lambda value: value if isinstance(value, str) else torch.tensor(value),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("kind", "values"), KINDS, ids=lambda of: of.__qualname__ if isinstance(of, type) else "")
def test_numbers_of_any_type_are_pythons(kind: type, values: dict[str, Any], form: str) -> None:
    options = kind(**{name: FORMS[form](value) for name, value in values.items()})
    assert repr(options) == repr(kind(**values))
    hash(options)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (DiscreteOptions, "iterations"),
        (TrainerOptions, "steps"),
        (network.Architecture, "steps"),
        (nets.Plan, "width"),
        (tutorial.Flat, "radius"),
        (pddnet.Architecture, "channels"),
    ],
)
@pytest.mark.parametrize("value", [True, np.bool_(True), np.float64(4.5), "4", np.array([4, 4])])
def test_what_is_no_integer_is_refused(kind: type, name: str, value: Any) -> None:
    with pytest.raises(InputError, match=name):
        kind(**{name: value})


def test_other_numbers_are_pythons_too() -> None:
    assert (plain(Fraction(1, 4)), type(plain(Fraction(1, 4)))) == (0.25, float)
    assert plain(["4", None, (np.uint8(3), True)]) == ("4", None, (3, True))


def test_a_registration_with_numbers_of_numpy() -> None:
    fixed, moving = noise(16, 16, 16), noise(16, 16, 16)
    options = {"coarse_iterations": 1, "iterations": 2, "full_iterations": 0, "rate": 0.25, "threads": 1}
    of_numpy = {name: np.array(value)[()] for name, value in options.items()}
    one, other = (l2rfast.register(fixed, moving, init="none", grid_spacing=4, **o) for o in (options, of_numpy))
    assert torch.equal(one.displacement, other.displacement)
    assert repr(one.options) == repr(other.options)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("metric", [["lncc"]]),
        ("metric", ["mind", ["mind"]]),
        ("time_budget", 10**400),
        ("rate", 10**400),
        ("rate", torch.ones((), device="meta")),
    ],
)
def test_what_is_no_value_at_all_is_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"^{option}: expected"):
        l2rfast.register(noise(16, 16, 16), noise(16, 16, 16), **{option: value})


@pytest.mark.parametrize("method", ["weakly-supervised", "pddnet", "unsupervised"])
@pytest.mark.parametrize("value", [3, None, ["a.safetensors"], b"a.safetensors"])
def test_weights_that_are_no_path(method: str, value: Any) -> None:
    with pytest.raises(InputError, match=r"^weights: expected a"):
        l2rfast.register(noise(16, 16, 16), noise(16, 16, 16), method=method, weights=value)


def test_what_weights_may_be_is_said() -> None:
    said = (
        "^weights: expected a name that ends in .safetensors, or two published .pth with a comma between, got 'a.pth'"
    )
    with pytest.raises(InputError, match=said):
        l2rfast.register(noise(16, 16, 16), noise(16, 16, 16), method="pddnet", weights="a.pth")


@pytest.mark.parametrize("value", ["a", 10**400, [1], None])
def test_what_is_no_value_outside(value: Any) -> None:
    with pytest.raises(InputError, match=r"^outside: expected a number that torch\.float32 holds"):
        check_outside(torch.float32, value)


def test_a_truth_value_outside_is_a_number() -> None:
    assert type(check_outside(torch.bool, True)) is int
