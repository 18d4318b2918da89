# mypy: allow-untyped-defs, disable-error-code="assignment"
"""What the kernels of several layers do with tuples of tiles, which hold what is as wide as several powers of two."""

import triton
import triton.language as tl


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(−x)): a division costs twice this, and where it is used, arithmetic is nearly as dear as memory."""
    root = tl.rsqrt(1.0 + tl.exp2(x * -1.4426950408889634))
    return root * root


@triton.jit
def widen(tiles, COUNT: tl.constexpr):
    """In fp32."""
    wide = ()
    for index in tl.static_range(COUNT):
        wide += (tiles[index].to(tl.float32),)
    return wide


@triton.jit
def load_parts(ptrs, inside, PARTS: tl.constexpr, WIDTH: tl.constexpr):
    """As they are in memory; zeros where nothing is."""
    parts = ()
    for part in tl.static_range(PARTS):
        parts += (tl.load(ptrs + part * WIDTH, mask=inside, other=0.0),)
    return parts


@triton.jit
def store_parts(ptrs, parts, inside, PARTS: tl.constexpr, WIDTH: tl.constexpr):
    for part in tl.static_range(PARTS):
        tl.store(ptrs + part * WIDTH, parts[part].to(ptrs.dtype.element_ty), mask=inside)


@triton.jit
def dot(left, right, PARTS: tl.constexpr):
    """Inner products over all parts, [ROWS, 1]."""
    products = left[0] * right[0]
    for part in tl.static_range(1, PARTS):
        products += left[part] * right[part]
    return tl.sum(products, axis=1, keep_dims=True)


@triton.jit
def scaled(parts, factor, PARTS: tl.constexpr):
    outs = ()
    for part in tl.static_range(PARTS):
        outs += (parts[part] * factor,)
    return outs
