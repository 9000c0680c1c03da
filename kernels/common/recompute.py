"""Going back over a chain of fields of which only the first is kept."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def backwards(
    low: int,
    high: int,
    first: Tensor,
    step: Callable[[Tensor], Tensor],
    back: Callable[[Tensor], None],
    slots: int = 3,
) -> None:
    """For u_low = first and u_{i + 1} = step(u_i), call back(u_{high - 1}), ..., back(u_low).

    Halves the chain, so that n fields take about n / 2 * log2(n) steps, as long as there are slots for fields between;
    then goes to its end from its start. At most slots + 1 fields are kept beside the first, however long the chain,
    and one more while a step is taken.
    """
    if high <= low:
        return
    if high - low == 1:
        back(first)
        return
    middle = low + (high - low) // 2 if slots > 0 else high - 1
    u = first
    for _ in range(low, middle):
        u = step(u)
    backwards(middle, high, u, step, back, max(slots - 1, 0))
    del u  # the earlier half needs its room
    backwards(low, middle, first, step, back, slots)
