# mypy: allow-untyped-defs, disable-error-code="assignment"
# ruff: noqa: RUF005 (Triton knows no unpacking)
"""What the kernels of several operations share: elementwise functions, and helpers for tuples of tiles.

A tuple of tiles holds what is as wide as several powers of two, so that nothing is padded. There are two ways to cut a width:

- `parts_…`: PARTS equal parts of WIDTH, a power of two (96 = 3 × 32). For elementwise kernels: each thread has its share of every part.
- `tiles_…`: a tile for each power of two in K, the widest first and 128 at most (96 = 64 + 32; 256 = 128 + 128). For matrix products,
  which want few and wide factors.
"""

import triton
import triton.language as tl


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(−x)): a division costs twice this, and where it is used, arithmetic is nearly as dear as memory."""
    root = tl.rsqrt(1.0 + tl.exp2(x * -1.4426950408889634))
    return root * root


@triton.jit
def load_fp32(ptrs, inside):
    """The elements in fp32, zeros outside."""
    return tl.load(ptrs, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def parts_load(ptrs, inside, PARTS: tl.constexpr, WIDTH: tl.constexpr):
    """The parts in their dtype in memory, zeros outside. `ptrs` are those of the first part."""
    parts = ()
    for part in tl.static_range(PARTS):
        parts += (tl.load(ptrs + part * WIDTH, mask=inside, other=0.0),)
    return parts


@triton.jit
def parts_store(ptrs, parts, inside, PARTS: tl.constexpr, WIDTH: tl.constexpr):
    """Stores the parts in the dtype in memory. `ptrs` are those of the first part."""
    for part in tl.static_range(PARTS):
        tl.store(ptrs + part * WIDTH, parts[part].to(ptrs.dtype.element_ty), mask=inside)


@triton.jit
def parts_widen(parts, COUNT: tl.constexpr):
    """The first COUNT parts in fp32."""
    wide = ()
    for index in tl.static_range(COUNT):
        wide += (parts[index].to(tl.float32),)
    return wide


@triton.jit
def parts_zeros(COUNT: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """COUNT parts of zeros in fp32, [ROWS, WIDTH] each."""
    parts = ()
    for _ in tl.static_range(COUNT):
        parts += (tl.zeros([ROWS, WIDTH], tl.float32),)
    return parts


@triton.jit
def parts_dot(left, right, PARTS: tl.constexpr):
    """Inner products of rows over all parts, [ROWS, 1]."""
    products = left[0] * right[0]
    for part in tl.static_range(1, PARTS):
        products += left[part] * right[part]
    return tl.sum(products, axis=1, keep_dims=True)


@triton.jit
def parts_scale(parts, factor, PARTS: tl.constexpr):
    """Every part times the factor."""
    outs = ()
    for part in tl.static_range(PARTS):
        outs += (parts[part] * factor,)
    return outs


@triton.constexpr_function
def tiles_count(K):
    return K // 128 + (K % 128).bit_count()


@triton.constexpr_function
def tiles_width(K, i):
    """The width of tile i."""
    for _ in range(i):
        K -= min(1 << (K.bit_length() - 1), 128)
    return min(1 << (K.bit_length() - 1), 128)


@triton.constexpr_function
def tiles_start(K, i):
    """The column in K that tile i begins with."""
    rest = K
    for _ in range(i):
        rest -= min(1 << (rest.bit_length() - 1), 128)
    return K - rest


@triton.jit
def tiles_load(matrix_ptr, row, is_valid, stride, K: tl.constexpr):
    """These rows of a matrix K wide, with zeros where a row is not valid."""
    tiles = ()
    for i in tl.static_range(tiles_count(K)):
        column = tiles_start(K, i) + tl.arange(0, tiles_width(K, i))
        tiles = tiles + (tl.load(matrix_ptr + row[:, None] * stride + column[None, :], mask=is_valid[:, None], other=0.0),)
    return tiles


@triton.jit
def tiles_store(matrix_ptr, tiles, row, K: tl.constexpr):
    """Stores tiles as rows of a matrix K wide, in its dtype."""
    for i in tl.static_range(tiles_count(K)):
        column = tiles_start(K, i) + tl.arange(0, tiles_width(K, i))
        tl.store(matrix_ptr + row[:, None].to(tl.int64) * K + column[None, :], tiles[i].to(matrix_ptr.dtype.element_ty))


@triton.jit
def tiles_cast(tiles, dtype: tl.constexpr, K: tl.constexpr):
    """The tiles in another dtype."""
    cast = ()
    for i in tl.static_range(tiles_count(K)):
        cast = cast + (tiles[i].to(dtype),)
    return cast


@triton.jit
def tiles_zeros(ROWS: tl.constexpr, K: tl.constexpr):
    """Zeros in fp32, ROWS × K."""
    tiles = ()
    for i in tl.static_range(tiles_count(K)):
        tiles = tiles + (tl.zeros((ROWS, tiles_width(K, i)), tl.float32),)
    return tiles


@triton.jit
def tiles_dot(left, right, K: tl.constexpr, PRECISION: tl.constexpr):
    """left · rightᵀ in fp32, summed over the tiles."""
    total = tl.dot(left[0], tl.trans(right[0]), input_precision=PRECISION)
    for i in tl.static_range(1, tiles_count(K)):
        total = tl.dot(left[i], tl.trans(right[i]), total, input_precision=PRECISION)
    return total
