// Squared local normalised cross-correlation and its gradients on the GPU.
//
// Two kernels go over the same tiles: one from the images to the windows' values and the 3 or 5 quantities that
// gradients sum over, one from these to the gradients. Those quantities are kept for as many channels at once as
// `kKept` numbers hold, which fill a GPU, or for one channel. See march.cuh and windows.cuh.
//
// Floor: a voxel of one float32 channel takes 8 bytes of images and 4 of each gradient. Here the quantities are written
// and read besides, and with a window of 7 each march loads every number 3.5 times, of which the caches should serve
// 2.5: 1.6 for the margins, times the two planes that enter and leave.

#include "lncc/passes.cuh"

namespace l2rfast {
namespace {

std::tuple<Tensor, Tensor, Tensor> local_ncc(const Tensor& a, const Tensor& b, std::optional<Tensor> mask,
                                             std::optional<Tensor> upstream, std::vector<int64_t> window,
                                             std::vector<double> weights, std::string borders,
                                             std::vector<double> constants, bool averaged, bool windows, bool to_a,
                                             bool to_b) {
  Tensor value, grad_a, grad_b;
  const auto run = [&]<class T, class S>(T, S) {
    using R = Sum<T>;
    using F = Beside<S>;
    const auto room = [&](bool asked, std::vector<int64_t> shape) {
      return torch::stable::new_empty(a, asked ? shape : std::vector<int64_t>{0}, dtype_of<R>);
    };
    const auto of = [](const Tensor& values, bool asked) { return asked ? write<R>(values) : nullptr; };
    const Tensor map = room(windows, shape_of(a)), asked = upstream ? packed(*upstream) : room(false, {});
    grad_a = room(to_a, shape_of(a)), grad_b = room(to_b, shape_of(b));

    Passes<T, S> passes(a, a, window, weights, {}, MeasureOf<F>(constants, averaged, borders));
    passes.images.b = Image<T>(b);
    if (mask) passes.images.mask = Image<uint8_t>(*mask);
    passes.upstream = of(asked, bool(upstream)), passes.map = of(map, windows);
    const int64_t quantities = 1 + 2 * to_a + 2 * to_b, numbers = quantities * passes.places();
    const Tensor factors = room(to_a || to_b, {passes.at_once(numbers), numbers});
    passes.each(numbers, [&](int64_t first, int64_t some) {
      passes.run(first, some, of(factors, to_a || to_b), of(grad_a, to_a), of(grad_b, to_b));
    });
    value = windows ? map : passes.sums();
  };
  for_floating(a.scalar_type(), [&](auto t) { for_sums<decltype(t)>(a, [&](auto s) { run(t, s); }); });
  return {value, grad_a, grad_b};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cuda, L2RFAST_KEY, m) { m.impl("local_ncc", TORCH_BOX(&local_ncc)); }

}  // namespace l2rfast
