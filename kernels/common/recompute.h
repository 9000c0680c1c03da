// Going back over a chain of fields of which only the first is kept. Host code, for every compiled backend.
#pragma once

#include <algorithm>
#include <cstdint>

namespace l2rfast {

// For u_low = first and u_{i + 1} = step(u_i), calls back(u_{high - 1}), ..., back(u_low). Halves the chain, so that n
// fields take about n / 2 * log2(n) steps, as long as there are slots for fields between; then goes to its end from
// its start. At most slots + 1 fields are held beside the first, however long the chain.
template <class Field, class Step, class Back>
void backwards(int64_t low, int64_t high, const Field& first, const Step& step, const Back& back, int slots = 3) {
  if (high <= low) return;
  if (high - low == 1) return back(first);
  const int64_t middle = slots > 0 ? low + (high - low) / 2 : high - 1;
  {
    Field u = step(first);
    for (int64_t i = low + 1; i < middle; ++i) u = step(u);
    backwards(middle, high, u, step, back, std::max(slots - 1, 0));
  }
  backwards(low, middle, first, step, back, slots);
}

}  // namespace l2rfast
