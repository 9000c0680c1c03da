"""What a Triton program does with a block of samples: positions, taps, corners.

The arithmetic is that of `sampling.py`, in the form of `interpolation.h`. Images, fields and gradients come with the
strides (batch, channel, *spatial), whatever those are; a stride is 0 along an axis of size one, so that the upper of
two taps there is the lower. Names in capitals are constants of the compilation:

    SOURCE   "displacement", "grid", "grid_corners" (align_corners) or "affine": what says where to sample
    PADDING  "border", "zeros", "reflection" or "symmetric"
    REAL     the dtype of positions, weights and sums; INDEX that of offsets, 64-bit for tensors that need it
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def coordinates(voxel, size):
    """Flat indices of voxels in a volume -> their indices along every axis."""
    at = ()
    for i in tl.static_range(len(size)):
        at = (voxel % size[len(size) - 1 - i],) + at  # noqa: RUF005  Triton has no starred tuples
        voxel = voxel // size[len(size) - 1 - i]
    return at


@triton.jit
def block_of_program(blocks, size, count, INDEX: tl.constexpr, BLOCK: tl.constexpr):
    """-> batch item, flat indices of a block of its `count` voxels, which of them exist, their indices per axis."""
    n = tl.cast(tl.program_id(0) // blocks, INDEX)
    voxel = tl.cast(tl.program_id(0) % blocks, INDEX) * BLOCK + tl.arange(0, BLOCK)
    return n, voxel, voxel < count, coordinates(voxel, size)


@triton.jit
def offset(at, strides):
    """Offset in a plane of (batch, channel, *spatial) strides of the voxels at those indices."""
    total = at[0] * strides[2]
    for k in tl.static_range(1, len(at)):
        total += at[k] * strides[2 + k]
    return total


@triton.jit
def component_offset(k, strides, at):
    """Offset of component k of a field, in the dtype of the indices `at`: k times a 32-bit stride may overflow."""
    return tl.cast(k, at[0].dtype) * strides[1]


@triton.jit
def plane_offset(n, plane, channels, strides, INDEX: tl.constexpr):
    """Offset of a plane, counted from batch item n on; the planes of a batch of images follow one another."""
    item = tl.cast(n + plane // channels, INDEX)
    channel = tl.cast(plane % channels, INDEX)
    return item * strides[0] + channel * strides[1]


@triton.jit
def inside(p, last, PADDING: tl.constexpr):
    """Positions folded or clamped into [0, last], and their derivatives there: 0 where clamped."""
    sign = tl.full(p.shape, 1, p.dtype)
    if PADDING == "reflection" or PADDING == "symmetric":
        # About the centres of the outer voxels, or about their outer edges.
        low: tl.constexpr = -0.5 if PADDING == "symmetric" else 0.0
        span = last + 1 if PADDING == "symmetric" else tl.maximum(last, 1)
        distance = tl.abs(p - low)
        flips = tl.floor(distance / span)
        extra = distance - flips * span
        even = flips == 2 * tl.floor(flips * 0.5)
        sign = tl.where((p < low) == even, -sign, sign)
        p = low + tl.where(even, extra, span - extra)
    slope = tl.where((p > 0) & (p < last), sign, 0)
    return tl.minimum(tl.maximum(p, 0), last), slope


@triton.jit
def linear_taps(p, size, PADDING: tl.constexpr, INDEX: tl.constexpr):
    """Linear interpolation along one axis -> index of the lower voxel, (its weight, the upper's, their derivatives).

    The index is in range for every position, and so is the next; what lies outside the image has weight 0.
    """
    if PADDING == "zeros":
        q = tl.minimum(tl.maximum(p, -1), tl.cast(size, p.dtype))
        floor = tl.floor(q)
        index, f = floor.to(INDEX), q - floor
        # Before the first voxel only that one counts, and it is the lower; after the last it is the upper.
        before, after, beyond = index < 0, index >= size - 1, index >= size
        slope = ((p >= -1) & (p < tl.cast(size, p.dtype))).to(p.dtype)
        w0 = tl.where(before, f, tl.where(after, 0, 1 - f))
        w1 = tl.where(before | beyond, 0, tl.where(after, 1 - f, f))
        d0 = tl.where(before, slope, tl.where(after, 0, -slope))
        d1 = tl.where(before | beyond, 0, tl.where(after, -slope, slope))
        base = tl.maximum(tl.minimum(index, size - 2), 0)
    else:
        q, slope = inside(p, tl.cast(size - 1, p.dtype), PADDING)
        base = tl.maximum(tl.minimum(q.to(INDEX), size - 2), 0)
        w1 = q - base.to(p.dtype)
        w0, d0, d1 = 1 - w1, -slope, slope
    return base, (w0, w1, d0, d1)


@triton.jit
def nearest_tap(p, size, PADDING: tl.constexpr, INDEX: tl.constexpr):
    """Nearest voxel along one axis, ties to the even one -> its index, in range, and whether there is a voxel."""
    if PADDING != "zeros":
        p, _ = inside(p, tl.cast(size - 1, p.dtype), PADDING)
    floor = tl.floor(p)
    odd = floor != 2 * tl.floor(floor * 0.5)
    rounded = floor + ((p - floor > 0.5) | ((p - floor == 0.5) & odd)).to(p.dtype)
    last = tl.cast(size - 1, p.dtype)
    return tl.minimum(tl.maximum(rounded, 0), last).to(INDEX), (rounded >= 0) & (rounded <= last)


@triton.jit
def scale_of(size, SOURCE: tl.constexpr, REAL: tl.constexpr):
    """d position / d what the source holds, along an axis of the image of that size."""
    if SOURCE == "grid":
        scale = tl.cast(size, REAL) / 2
    elif SOURCE == "grid_corners":
        scale = tl.cast(size - 1, REAL) / 2
    else:
        scale = tl.cast(1, REAL)
    return scale


@triton.jit
def component_of(k, ndim, SOURCE: tl.constexpr):
    """The component of the source that moves along spatial axis k: a grid has them as (x, y, z)."""
    return ndim - 1 - k if SOURCE == "grid" or SOURCE == "grid_corners" else k


@triton.jit
def positions(where, strides, n, at, valid, image_size, SOURCE: tl.constexpr, REAL: tl.constexpr):
    """Where the output voxels `at` sample the image.

    Returns:
        A coordinate per spatial axis, 0 where one of them is not finite; and whether they all are.
    """
    ndim: tl.constexpr = len(at)
    finite = valid
    found = ()
    for k in tl.static_range(ndim):
        start = where + n * strides[0] + component_offset(component_of(k, ndim, SOURCE), strides, at)
        if SOURCE == "affine":
            p = tl.load(start + ndim * strides[2]).to(REAL)
            for j in tl.static_range(ndim):
                p = p + tl.load(start + j * strides[2]).to(REAL) * at[j].to(REAL)
        else:
            p = tl.load(start + offset(at, strides), mask=valid, other=0).to(REAL)
            if SOURCE == "displacement":
                p = at[k].to(REAL) + p
            elif SOURCE == "grid":
                p = (p + 1) * scale_of(image_size[k], SOURCE, REAL) - 0.5
            else:
                p = (p + 1) * scale_of(image_size[k], SOURCE, REAL)
        finite = finite & (tl.abs(p) < float("inf"))
        found = found + (p,)  # noqa: RUF005
    safe = ()
    for k in tl.static_range(ndim):
        safe = safe + (tl.where(finite, found[k], 0),)  # noqa: RUF005
    return safe, finite


@triton.jit
def linear_corners(position, image_size, PADDING: tl.constexpr, INDEX: tl.constexpr):
    """-> indices of the first of the 2^ndim voxels around every sample, and the taps along every axis."""
    base = ()
    taps = ()
    for k in tl.static_range(len(position)):
        index, tap = linear_taps(position[k], image_size[k], PADDING, INDEX)
        base = base + (index,)  # noqa: RUF005
        taps = taps + (tap,)  # noqa: RUF005
    return base, taps


@triton.jit
def nearest_voxel(position, image_size, PADDING: tl.constexpr, INDEX: tl.constexpr):
    """-> indices of the voxel nearest to every sample, and whether there is one."""
    index, found = nearest_tap(position[0], image_size[0], PADDING, INDEX)
    at = (index,)
    for k in tl.static_range(1, len(position)):
        index, valid = nearest_tap(position[k], image_size[k], PADDING, INDEX)
        at = at + (index,)  # noqa: RUF005
        found = found & valid
    return at, found


@triton.jit
def corner(first, strides, CORNER: tl.constexpr, NDIM: tl.constexpr):
    """Pointers to a corner: bit k of its number says that it is the upper one along axis k."""
    for k in tl.static_range(NDIM):
        if (CORNER >> k) & 1:
            first += strides[2 + k]
    return first


@triton.jit
def gather(first, strides, valid, NDIM: tl.constexpr, REAL: tl.constexpr):
    """The values of all corners; `first` points to the first of them."""
    values = ()
    for i in tl.static_range(2**NDIM):
        values = values + (tl.load(corner(first, strides, i, NDIM), mask=valid, other=0).to(REAL),)  # noqa: RUF005
    return values


@triton.jit
def weights(taps, DERIVED: tl.constexpr):
    """The weights of all corners, derived once by the position along every axis whose bit is set in DERIVED."""
    result = ()
    for i in tl.static_range(2 ** len(taps)):
        weight = taps[0][2 * (DERIVED & 1) + (i & 1)]
        for k in tl.static_range(1, len(taps)):
            weight = weight * taps[k][2 * ((DERIVED >> k) & 1) + ((i >> k) & 1)]
        result = result + (weight,)  # noqa: RUF005
    return result


@triton.jit
def combine(weight, value):
    """Sum over the corners of weight times value."""
    total = weight[0] * value[0]
    for i in tl.static_range(1, len(weight)):
        total += weight[i] * value[i]
    return total
