// Squared local normalised cross-correlation and its gradients on the GPU.
//
// Two kernels go over the same tiles: one from the images to the windows' values and the 3 or 5 quantities that
// gradients sum over, one from these to the gradients. Those quantities are kept for as many channels at once as
// `kKept` numbers hold, which fill a GPU, or for one channel. See march.cuh and windows.cuh.
//
// Floor: a voxel of one float32 channel takes 8 bytes of images and 4 of each gradient. Here the quantities are written
// and read besides, and with a window of 7 each march loads every number 3.5 times, of which the caches should serve
// 2.5: 1.6 for the margins, times the two planes that enter and leave.

#include "lncc/windows.cuh"

namespace l2rfast {
namespace {

constexpr int64_t kKept = 1 << 26;

std::tuple<Tensor, Tensor, Tensor> local_ncc(const Tensor& a, const Tensor& b, std::optional<Tensor> mask,
                                             std::optional<Tensor> upstream, std::vector<int64_t> window,
                                             std::vector<double> weights, std::string borders,
                                             std::vector<double> constants, bool averaged, bool windows, bool to_a,
                                             bool to_b) {
  Tensor value, grad_a, grad_b;
  const auto run = [&]<class T, class S>(T, S) {
    using R = Sum<T>;
    using F = Beside<S>;
    const Grid grid = grid_of_all(a);
    const int64_t batch = a.size(0), channels = batch * a.size(1), volume = grid.numel();
    const auto room = [&](bool asked, std::vector<int64_t> shape) {
      return torch::stable::new_empty(a, asked ? shape : std::vector<int64_t>{0}, dtype_of<R>);
    };
    const auto of = [](const Tensor& values, bool asked) { return asked ? write<R>(values) : nullptr; };
    const Tensor map = room(windows, shape_of(a)), asked = upstream ? packed(*upstream) : room(false, {});
    grad_a = room(to_a, shape_of(a)), grad_b = room(to_b, shape_of(b));

    std::vector<F> every(weights.begin(), weights.end());
    Tensor on_host = torch::stable::from_blob(every.data(), {int64_t(every.size())}, {1},
                                              torch::stable::Device(torch::headeronly::DeviceType::CPU), dtype_of<F>);
    const Tensor on_device = torch::stable::to(on_host, a.device());
    const WindowsOf<F> w(a, window, every.empty() ? nullptr : read<F>(on_device));
    const S whole = WindowsOf<F>(a, window, every.empty() ? nullptr : every.data()).template whole<S>();

    Pair<T, S> images{Image<T>(a), Image<T>(b), {}, a.size(1), grid.d, grid.h, grid.w, nullptr};
    if (mask) images.mask = Image<uint8_t>(*mask);
    const Tensor units = units_of(images, MeasureOf<F>(constants, averaged, borders), channels, a);
    images.units = read<Units<F>>(units);

    const bool derived = to_a || to_b;
    const int64_t quantities = 1 + 2 * to_a + 2 * to_b;
    const int64_t together = std::clamp<int64_t>(kKept / (quantities * volume), 1, channels);
    const Tensor factors = room(derived, {together, quantities, volume});
    const Tensor totals = torch::stable::new_empty(a, {batch, a.size(1) * Tiles(w).count()}, Dtype::Double);
    for (int64_t first = 0; first < channels; first += together) {
      const int64_t some = std::min(together, channels - first);
      const Values<T, S> values{images, w,    whole, of(asked, bool(upstream)), of(map, windows), of(factors, derived),
                                first,  to_a, to_b};
      const auto go = [&](auto source, auto use, double* to) { march<S>(images, source, use, w, first, some, to, a); };
      if (mask)
        go(OfImages<T, S, true>{images}, values, write<double>(totals));
      else
        go(OfImages<T, S, false>{images}, values, write<double>(totals));
      const Gradients<T, S> gradients{images, of(grad_a, to_a), of(grad_b, to_b)};
      if (to_a && to_b)
        go(OfWindows<R, S, 5>{read<R>(factors), first, volume, grid.h * grid.w, grid.w}, gradients, nullptr);
      else if (derived)
        go(OfWindows<R, S, 3>{read<R>(factors), first, volume, grid.h * grid.w, grid.w}, gradients, nullptr);
    }
    const int64_t last[] = {1};
    value = windows ? map : torch::stable::to(torch::stable::sum(totals, last), dtype_of<R>);
  };
  for_floating(a.scalar_type(), [&](auto t) { for_sums<decltype(t)>(a, [&](auto s) { run(t, s); }); });
  return {value, grad_a, grad_b};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cuda, L2RFAST_KEY, m) { m.impl("local_ncc", TORCH_BOX(&local_ncc)); }

}  // namespace l2rfast
