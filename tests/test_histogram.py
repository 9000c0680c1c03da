"""Joint histograms, and the mutual information made of them."""

from __future__ import annotations

import math

import pytest
import torch
from samples import noise, uniform
from torch import Tensor

import l2rfast
from l2rfast import joint_histogram
from l2rfast.losses import mutual_information

EACH = pytest.mark.parametrize("backend", ["cpp", "reference"])
WINDOWS = ("gaussian", "cubic", "box")


def like_monai(pred: Tensor, target: Tensor, loss: torch.nn.Module) -> Tensor:
    """What MONAI's GlobalMutualInformationLoss computes, of each item, on our histogram."""
    bins = loss.num_bins
    if loss.kernel_type == "gaussian":
        windows, sigma = "gaussian", (bins - 1) / math.sqrt(2 * loss.preterm.item())
        a, b = (image.clamp(0, 1) * (bins - 1) for image in (pred, target))
    else:
        windows, sigma = ("cubic", "box"), 1.0
        padding = 2

        def placed(image: Tensor) -> Tensor:
            least, most = image.min(), image.max()
            size = (most - least) / (bins - 2 * padding)
            return (image / size - (least / size - padding)).clamp(padding, bins - padding - 1)

        a, b = placed(pred), placed(target)
    pab = joint_histogram(a, b, bins=bins, window=windows, sigma=sigma)
    papb = pab.sum(2, keepdim=True) * pab.sum(1, keepdim=True)
    ratio = (pab + loss.smooth_nr) / (papb + loss.smooth_dr)
    return -(pab * (ratio + loss.smooth_dr).log()).sum((1, 2))


@pytest.mark.parametrize("options", [{}, {"num_bins": 9, "sigma_ratio": 1.2}, {"kernel_type": "b-spline"}])
@pytest.mark.parametrize("shape", [(2, 1, 7, 9), (1, 2, 5, 6, 7)])
def test_monais_loss_is_made_of_it(shape: tuple[int, ...], options: dict[str, object]) -> None:
    from monai.losses import GlobalMutualInformationLoss

    pred, target = (1.2 * uniform(*shape) - 0.1 for _ in range(2))
    target = 0.5 * target + 0.5 * pred.square()
    pred.requires_grad_()
    target.requires_grad_()
    loss = GlobalMutualInformationLoss(reduction="none", **options).double()
    tolerance = 1e-7  # of b-splines it has one marginal in float32
    if loss.kernel_type == "gaussian":  # it has its bins in float32, up to 3e-8 from where they are
        tolerance = 1e-9
        loss.bin_centers = torch.linspace(0, 1, loss.num_bins, dtype=torch.float64)[None, None]
    ours, theirs = like_monai(pred, target, loss), loss(pred, target)
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=0)
    wanted = (pred, target) if not options.get("kernel_type") else (pred,)  # a box has no derivative
    for got, expected in zip(*(torch.autograd.grad(x.sum(), wanted) for x in (ours, theirs)), strict=True):
        assert (got - expected).norm() <= tolerance * expected.norm()


@EACH
def test_marginals_are_the_histograms_of_the_images(backend: str) -> None:
    """Of intensities on the bins: with a box, counts."""
    a, b = (torch.randint(0, 6, (2, 1, 40, 50), generator=torch.Generator().manual_seed(i)) for i in range(2))
    with l2rfast.backend(backend):
        joint = joint_histogram(a.float(), b.float(), bins=6, window="box")
    counts = torch.stack([torch.bincount((6 * x + y).flatten(), minlength=36) for x, y in zip(a, b, strict=True)])
    torch.testing.assert_close(joint, (counts / 2000).view(2, 6, 6).double(), rtol=1e-6, atol=0)


@EACH
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("bins", [1, 2, 40])
def test_it_sums_to_one_whatever_the_number_of_bins(bins: int, window: str, backend: str) -> None:
    a, b = (bins * uniform(1, 900) - 0.5 for _ in range(2))
    with l2rfast.backend(backend):
        joint = joint_histogram(a, b, bins=bins, window=window, sigma=30)
    assert joint.sum().item() == pytest.approx(1, abs=1e-12)
    assert (joint >= 0).all()


@EACH
@pytest.mark.parametrize("window", ["gaussian", "cubic"])
def test_what_lies_beyond_the_bins_counts_as_the_outer_ones(window: str, backend: str) -> None:
    a = torch.tensor([[-0.25, -1e30, -torch.inf, 8.5, 1e30, torch.inf, 3.0]])
    b = torch.tensor([[2.0, 3.0, 4.0, 2.5, 3.5, 4.5, 8.0]])
    inputs = a.clone().requires_grad_(), b
    with l2rfast.backend(backend):
        joint = joint_histogram(*inputs, bins=9, window=window)
        clamped = joint_histogram(a.clamp(0, 8), b, bins=9, window=window)
        (to_a,) = torch.autograd.grad((joint * noise(9, 9)).sum(), inputs[0])
    torch.testing.assert_close(joint, clamped, rtol=0, atol=0)
    assert (to_a[0, :6] == 0).all()
    assert to_a[0, 6] != 0


@EACH
@pytest.mark.parametrize("window", WINDOWS)
def test_nan_is_seen_where_it_is(window: str, backend: str) -> None:
    a, b = (5 * uniform(2, 300).float() for _ in range(2))
    a[0, 70] = torch.nan
    a.requires_grad_()
    with l2rfast.backend(backend):
        joint = joint_histogram(a, b, bins=6, window=(window, "cubic"))
        (to_a,) = torch.autograd.grad((joint * noise(6, 6)).sum(), a)
    assert joint[0].isnan().all()
    assert joint[1].isfinite().all()
    assert to_a[1].isfinite().all()


@EACH
def test_a_weight_chooses(backend: str) -> None:
    a, b = (5 * uniform(1, 300) for _ in range(2))
    mask = uniform(1, 300) < 0.4
    with l2rfast.backend(backend):
        joint = joint_histogram(a, b, bins=6, weight=mask)
        expected = joint_histogram(a[mask][None], b[mask][None], bins=6)
        nothing = joint_histogram(a, b, bins=6, weight=torch.zeros_like(mask))
    torch.testing.assert_close(joint, expected)
    assert nothing.isnan().all()


def test_float32_of_equal_voxels() -> None:
    """Each addition to a large sum of equal numbers rounds the same way."""
    a, b = torch.full((1, 10**6), 7.3172), torch.full((1, 10**6), 2.6461)
    for window in ("gaussian", "cubic"):
        got = joint_histogram(a, b, bins=20, window=window)
        expected = joint_histogram(a.double(), b.double(), bins=20, window=window)
        assert (got - expected).norm() <= 1e-5 * expected.norm()


class TestMutualInformation:
    """In nats."""

    @pytest.mark.parametrize("window", ["cubic", "gaussian"])
    def test_none_of_what_has_nothing_to_do_with_each_other(self, window: str) -> None:
        a = torch.linspace(0, 1, 200)[None, :, None].expand(1, 200, 200)
        assert abs(mutual_information(a, a.mT, window=window)) < 1e-6
        assert mutual_information(a, 1 - a.square(), window=window) > 1

    def test_of_two_values_it_is_their_entropy(self) -> None:
        a = (uniform(1, 4000) < 0.3).double()
        p = a.mean()
        entropy = -(p * p.log() + (1 - p) * (1 - p).log())
        # 0 and 1 are far apart: their windows do not meet.
        assert mutual_information(a, 1 - a, bins=32) == pytest.approx(entropy.item(), abs=1e-9)

    def test_reductions_and_dtypes(self) -> None:
        a, b = (uniform(3, 1, 9, 8) for _ in range(2))
        each = mutual_information(a, b, reduction="none")
        assert each.shape == (3,)
        torch.testing.assert_close(mutual_information(a, b, reduction="sum"), each.sum())
        torch.testing.assert_close(mutual_information(a, b), each.mean())
        half = mutual_information(a.half(), b.half())
        assert half.dtype == torch.float16
        torch.testing.assert_close(half.double(), each.mean(), rtol=1e-2, atol=0)

    @pytest.mark.parametrize("window", ["cubic", "gaussian"])
    def test_gradcheck(self, window: str) -> None:
        a, b = ((0.1 + 0.8 * uniform(2, 30)).requires_grad_() for _ in range(2))
        assert torch.autograd.gradcheck(lambda a, b: mutual_information(a, b, bins=8, window=window), (a, b))

    def test_what_is_exactly_0_or_1_has_its_gradient(self) -> None:
        """Images are often scaled by their least and their largest; torch.clamp's gradient there depends on PyTorch."""
        a, b = uniform(1, 50), uniform(1, 50)
        a = ((a - a.min()) / (a.max() - a.min())).requires_grad_()
        (got,) = torch.autograd.grad(mutual_information(a, b, bins=8), a)
        (expected,) = torch.autograd.grad(mutual_information(a * (1 - 1e-9) + 5e-10, b, bins=8), a)
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-9)
        beyond = (a.detach() * 1.5 - 0.25).requires_grad_()
        (got,) = torch.autograd.grad(mutual_information(beyond, b, bins=8), beyond)
        assert (got[(beyond < 0) | (beyond > 1)] == 0).all()

    @pytest.mark.parametrize(
        ("changes", "begins"),
        [
            ({"a": None}, "a: expected a tensor"),
            ({"b": 3}, "b: expected a tensor"),
            ({"b": uniform(2, 31)}, "a, b: expected one shape"),
            ({"bins": 3}, "bins: expected an integer >= 4"),
            ({"window": "box"}, "window: expected one of cubic, gaussian"),
            ({"reduction": "all"}, "reduction: expected one of mean, sum, none"),
            ({"weight": uniform(30)}, "weight: expected real numbers of shape (2, 30)"),
        ],
    )
    def test_wrong_arguments_are_named(self, changes: dict[str, object], begins: str) -> None:
        arguments = {"a": uniform(2, 30), "b": uniform(2, 30)} | changes
        with pytest.raises(l2rfast.InputError) as caught:
            mutual_information(**arguments)  # type: ignore[arg-type]
        assert str(caught.value).startswith(begins)
