"""Facts about composing, integrating and measuring displacement fields."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from operators import runnable
from samples import coordinates, noise
from torch import Tensor

import l2rfast
from l2rfast import box_average, compose, digital_jacobian, integrate_velocity, invert, jacobian_determinant, warp

SIZES = [(6, 7), (4, 6, 5)]

each_backend = pytest.mark.parametrize("backend", runnable("integrate_velocity", ("cpu",)))
each_digital = pytest.mark.parametrize("backend", runnable("digital_jacobian", ("cpu",)))
each_size = pytest.mark.parametrize("size", SIZES, ids=["2d", "3d"])

sizes = st.integers(2, 3).flatmap(lambda ndim: st.lists(st.integers(1, 7), min_size=ndim, max_size=ndim))
seeds = st.integers(0, 2**32).map(lambda seed: torch.Generator().manual_seed(seed))


def random(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def steps(size: list[int], generator: torch.Generator) -> Tensor:
    """A field of whole voxels (1, ndim, *size) that leads to places inside."""
    axes = [torch.randint(s, size, generator=generator) for s in size]
    return torch.stack(axes)[None] - coordinates(tuple(size))


def affine_field(matrix: Tensor, size: tuple[int, ...]) -> Tensor:
    """(1, ndim, *size): matrix (x - centre)."""
    centre = (torch.tensor(size, dtype=torch.float64) - 1) / 2
    x = coordinates(size).movedim(0, -1) - centre
    return (x @ matrix.T).movedim(-1, 0)[None]


@given(sizes, seeds)
def test_composition_is_one_warp_after_the_other(size: list[int], generator: torch.Generator) -> None:
    """Exactly, where nothing is interpolated: whatever image and fields of whole voxels."""
    image, outer, inner = random(1, 2, *size, generator=generator), steps(size, generator), steps(size, generator)
    assert torch.equal(warp(warp(image, outer), inner), warp(image, compose(outer, inner)))


@given(sizes, seeds)
def test_composition_of_an_image_linear_in_position(size: list[int], generator: torch.Generator) -> None:
    """Interpolation of such an image is exact where the image is: inside."""
    size = [s + 1 for s in size]
    where = coordinates(tuple(size))
    slopes = random(len(size), generator=generator)
    image = torch.tensordot(slopes, where, dims=1)[None, None]
    to_inside = torch.rand(2, len(size), *size, dtype=torch.float64, generator=generator)
    last = torch.tensor(size).view(-1, *[1] * len(size)) - 1
    outer, inner = (to_inside * last - where).split(1)
    twice, once = warp(warp(image, outer), inner), warp(image, compose(outer, inner))
    torch.testing.assert_close(twice, once, rtol=1e-11, atol=1e-11)


@given(sizes, seeds)
def test_nothing_is_composed_with_the_identity(size: list[int], generator: torch.Generator) -> None:
    u = 2 * random(1, len(size), *size, generator=generator)
    assert torch.equal(compose(torch.zeros_like(u), u), u)
    assert torch.equal(compose(u, torch.zeros_like(u)), u)


@given(sizes, seeds, st.integers(0, 8))
def test_a_constant_velocity_is_the_displacement(size: list[int], generator: torch.Generator, n: int) -> None:
    """And the opposite velocity the inverse, exactly."""
    whole = torch.randint(-300, 300, (1, len(size), *[1] * len(size)), generator=generator).double() / 64
    velocity = whole.expand(1, len(size), *size)
    forward, backward = integrate_velocity(velocity, n), integrate_velocity(-velocity, n)
    assert torch.equal(forward, velocity)
    assert not compose(forward, backward).any()


@each_backend
@each_size
def test_no_steps_return_the_velocity(backend: str, size: tuple[int, ...]) -> None:
    velocity = noise(2, len(size), *size).requires_grad_()
    weights = noise(*velocity.shape)
    for keep in (True, False):
        with l2rfast.backend(backend):
            out = integrate_velocity(velocity, 0, keep=keep)
            (gradient,) = torch.autograd.grad(out, velocity, weights)
        assert torch.equal(out, velocity)
        assert torch.equal(gradient, weights)


@each_backend
@each_size
@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_kept_fields_are_those_computed_again(backend: str, size: tuple[int, ...], n: int) -> None:
    velocity, weights = 3 * noise(2, len(size), *size), noise(2, len(size), *size)

    def run(keep: bool) -> tuple[Tensor, Tensor]:
        v = velocity.clone().requires_grad_()
        out = integrate_velocity(v, n, keep=keep)
        return out.detach(), torch.autograd.grad(out, v, weights)[0]

    with l2rfast.backend(backend):
        torch.testing.assert_close(run(True), run(False), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("keep", "most"), [(False, 1), (True, 20)])
def test_only_the_velocity_is_saved_unless_fields_are_kept(keep: bool, most: int) -> None:
    saved: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor.data_ptr())
        return tensor

    velocity = noise(1, 2, 6, 7).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        integrate_velocity(velocity, 20, keep=keep)
    assert len(set(saved)) == most
    assert velocity.data_ptr() in saved or keep


@each_backend
@each_size
def test_a_linear_velocity_gives_the_matrix_exponential(backend: str, size: tuple[int, ...]) -> None:
    """The solution of dx/dt = A (x - c) is x + (expm(A) - 1)(x - c); fields linear in position are sampled exactly.

    What is left is the first step: with half the size of the box as unit of each axis, and A such that nothing leaves
    the box, (1 + A / 2^n)^(2^n) is expm(A) up to |A|^2 / 2^(n + 1).
    """
    ndim, n = len(size), 9
    half = (torch.tensor(size, dtype=torch.float64) - 1) / 2
    matrix = 0.2 * noise(ndim, ndim).fill_diagonal_(0)
    matrix -= torch.diag(matrix.abs().sum(1) + 0.1)  # in units of half: inwards everywhere on the border of the box
    norm = float(matrix.abs().sum(1).max())
    matrix = half[:, None] * matrix / half
    one = torch.eye(ndim, dtype=torch.float64)
    discrete, exact = torch.linalg.matrix_power(one + matrix / 2**n, 2**n) - one, torch.linalg.matrix_exp(matrix) - one
    with l2rfast.backend(backend):
        got = integrate_velocity(affine_field(matrix, size), n)
    torch.testing.assert_close(got, affine_field(discrete, size), rtol=1e-12, atol=1e-12)
    error = (got - affine_field(exact, size)).abs().flatten(2).amax(2)[0]
    assert (error <= half * norm**2 / 2 ** (n + 1)).all()
    assert (error > 0).all()


@each_backend
def test_smooth_velocities_integrate_to_inverses_and_to_the_path(backend: str) -> None:
    """Against many small steps along the path, and against the opposite velocity.

    Up to what linear interpolation costs: an eighth of the second derivatives, per unit of time and per field.
    """
    n, (y, x) = 7, torch.pi * coordinates((32, 32)) / 31
    velocity = torch.stack([1.5 * y.sin() * x.cos(), -(2 * y).sin() * x.sin()])[None]
    cost = (2**2 + 1) * (torch.pi / 31) ** 2 / 8
    path = torch.zeros_like(velocity)
    for _ in range(2**n):
        path = compose(velocity / 2**n, path)
    with l2rfast.backend(backend):
        forward, backward = integrate_velocity(velocity, n), integrate_velocity(-velocity, n)
        there_and_back = compose(forward, backward)
    assert (velocity - path).abs().max() > 10 * cost
    assert (forward - path).abs().max() < cost
    assert there_and_back.abs().max() < 2 * cost


@each_backend
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_fields_between_are_float32(backend: str, dtype: torch.dtype) -> None:
    velocity = (2 * noise(1, 2, 6, 7)).to(dtype)
    for keep in (True, False):
        with l2rfast.backend(backend):
            assert torch.equal(
                integrate_velocity(velocity, keep=keep), integrate_velocity(velocity.float(), keep=keep).to(dtype)
            )


@each_backend
@each_size
def test_the_jacobian_of_an_affine_map_is_its_determinant(backend: str, size: tuple[int, ...]) -> None:
    for matrix in (0.3 * noise(len(size), len(size)), torch.diag(torch.full((len(size),), -2.0)).double()):
        with l2rfast.backend(backend):
            got = jacobian_determinant(affine_field(matrix, size))
        expected = torch.linalg.det(torch.eye(len(size)) + matrix).expand(1, *size)
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@given(sizes, seeds)
def test_the_jacobian_along_axes_of_one_voxel(size: list[int], generator: torch.Generator) -> None:
    """Nothing changes along such an axis: a volume of one plane is that plane."""
    plane = size[-2:]
    disp = random(1, 2, *plane, generator=generator)
    deep = torch.cat([random(1, 1, 1, *plane, generator=generator), disp[:, :, None]], 1)
    torch.testing.assert_close(jacobian_determinant(deep)[:, 0], jacobian_determinant(disp), rtol=1e-12, atol=1e-12)


def least_determinant(disp: np.ndarray) -> np.ndarray:
    """By loops over the voxels, of a field (ndim, *spatial)."""
    size = disp.shape[1:]
    axes, unit = range(len(size)), np.eye(len(size), dtype=int)

    def place(at: np.ndarray) -> np.ndarray:
        return at + disp[(slice(None), *at)]

    def columns(at: np.ndarray, axis: int) -> list[np.ndarray]:
        """Backward, forward and central differences, those that there are."""
        ends = [(at - unit[axis], at), (at, at + unit[axis]), (at - unit[axis], at + unit[axis])]
        there = [(a, b) for a, b in ends if a[axis] >= 0 and b[axis] < size[axis]]
        return [(place(b) - place(a)) / (b - a)[axis] for a, b in there] or [unit[axis]]

    found = np.empty(size)
    for index in np.ndindex(size):
        at = np.array(index)
        found[index] = min(
            np.linalg.det(np.stack(j, 1)) for j in itertools.product(*(columns(at, axis) for axis in axes))
        )
        if len(size) == 3 and all(at + 1 < size):
            corners = [np.array(c) for c in np.ndindex(2, 2, 2)]
            for odd in (0, 1):
                tetrahedron = [c for c in corners if c.sum() % 2 == odd]
                in_grid, in_map = (
                    np.linalg.det(np.stack([p[i] - p[0] for i in (1, 2, 3)]))
                    for p in (tetrahedron, [place(at + c) for c in tetrahedron])
                )
                found[index] = min(found[index], in_map / in_grid)
    return found


@each_digital
@pytest.mark.parametrize(
    "size", [(5, 6), (1, 4), (3, 1), (2, 2), (4, 5, 6), (2, 3, 41), (1, 4, 5), (3, 1, 4), (3, 2, 1), (1, 1, 3)], ids=str
)
def test_the_least_determinant_is_that_of_loops(backend: str, size: tuple[int, ...]) -> None:
    disp = noise(2, len(size), *size)
    with l2rfast.backend(backend):
        got = digital_jacobian(disp)
    expected = np.stack([least_determinant(field.numpy()) for field in disp])
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-11, atol=1e-11)


@each_digital
def test_a_fold_that_central_differences_do_not_see(backend: str) -> None:
    """One voxel beyond its neighbour: the differences across it leave it out, those beside it are positive."""
    disp = torch.zeros(1, 3, 5, 5, 5)
    disp[0, 2, 2, 2, 2] = 1.5
    with l2rfast.backend(backend):
        assert (jacobian_determinant(disp) > 0).all()
        assert digital_jacobian(disp)[0, 2, 2, 2] == -0.5
        broken = disp.clone()
        broken[0, 0, 2, 2, 2] = math.nan
        assert digital_jacobian(broken)[0, 2, 2, 2].isnan()


@each_digital
def test_a_fold_in_the_middle_of_a_cube_alone(backend: str) -> None:
    """At the seven other voxels, which have the one-sided determinants, there is none."""
    disp = torch.zeros(1, 3, 2, 2, 2)
    disp[0, :, 0, 1, 0] = torch.tensor([-0.5, -0.75, -0.5])
    disp[0, :, 1, 0, 0] = torch.tensor([0.25, 0.5, -0.25])
    disp[0, :, 1, 1, 1] = torch.tensor([0.75, -0.75, 0])
    with l2rfast.backend(backend):
        first, *others = digital_jacobian(disp).flatten().tolist()
    assert first == -0.0703125
    assert min(others) == 0.3125


@pytest.mark.parametrize("size", [(1, 30), (24, 21), (12, 14, 16)])
def test_inverse_of_an_integrated_velocity(size: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    velocity = 6 * box_average(random(1, len(size), *size, generator=generator), 2, passes=3)
    there = integrate_velocity(velocity)
    assert jacobian_determinant(there).min() > 0
    back = invert(there)
    assert compose(there, back).abs().max() < 1e-10 < there.abs().max()


def test_inverse_of_a_translation_and_of_a_scaling() -> None:
    x = torch.arange(32.0, dtype=torch.float64)
    shift = torch.full((1, 2, 32, 32), 2.25, dtype=torch.float64)
    assert torch.equal(invert(shift), -shift)
    wider = torch.stack(torch.meshgrid(0.25 * x, 0.0 * x, indexing="ij"))[None]  # x -> 1.25 x
    expected = torch.stack(torch.meshgrid(x / 1.25 - x, 0.0 * x, indexing="ij"))[None]
    torch.testing.assert_close(invert(wider), expected)


@pytest.mark.parametrize(("degrees", "scale"), [(45, 1.0), (0, 2.0), (0, 0.3)])
def test_inverse_of_what_turns_and_scales_much(degrees: float, scale: float) -> None:
    """Where what it comes from is in the grid."""
    x, centre = coordinates((128, 128)), 63.5
    a = math.radians(degrees)
    matrix = scale * torch.tensor([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]], dtype=torch.float64)
    moved, back = (torch.einsum("ij,...jhw->...ihw", m, x - centre) + centre for m in (matrix, matrix.inverse()))
    inside = ((back >= 0) & (back <= 127)).all(-3, keepdim=True).expand_as(back)
    found = invert((moved - x).view(1, 2, 128, 128)).view_as(back)
    assert inside.double().mean() > 0.05
    torch.testing.assert_close(found[inside], (back - x)[inside], rtol=0, atol=1e-6)


def test_what_folds_has_an_inverse_that_is_finite() -> None:
    field = 3 * torch.randn(1, 3, 9, 8, 7, generator=torch.Generator().manual_seed(0))
    for start in (None, torch.zeros_like(field)):
        back = invert(field, start)
        assert torch.isfinite(back).all()
        assert compose(field, back).norm() <= compose(field, -field if start is None else start).norm()
