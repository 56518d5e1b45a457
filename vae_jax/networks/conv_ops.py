"""Convolutions of one image or series as matrix products, which are fast inside loops and under `vmap`.

XLA's native convolutions are slow inside `lax.scan` on CPU, and `vmap` over kernels turns them into grouped convolutions, which
are slow on GPUs. Here, a convolution of stride s becomes one of stride 1 over blocks of s x s pixels (space to depth). The
latter is one matrix product, with shifts before it (patches) or after it (partial products, shifted and added). The shifts are
slices and concatenations, which JAX differentiates.

Measured on CPU (2 cores, batch 64, the 4-layer encoder and decoder for 64 x 64 images): `linen.Conv` and `linen.ConvTranspose`
inside `lax.scan` take 2,800 ms per training step, these functions 150 to 165 ms, and PyTorch 84 to 106 ms.
"""

import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import Array, lax

from vae_jax.networks.row_matmul import rows_product

# "SAME", "VALID", or zeros before and after: ((top, bottom), (left, right)) of an image, ((before, after),) of a series.
Padding = str | tuple[tuple[int, int], ...]


def conv(x: Array, kernel: Array, *, stride: int = 1, padding: Padding = "SAME") -> Array:
    """Computes the convolution (cross-correlation) of one example, extended by zeros.

        y[i, j, n] = sum_{k, l, c} x[s i + k, s j + l, c] kernel[k, l, c, n]     (images)
        y[t, n]    = sum_{k, c} x[s t + k, c] kernel[k, c, n]                    (series)

    It equals `lax.conv_general_dilated` for a batch of one with dimension numbers ("NHWC", "HWIO", "NHWC") for images and
    ("NWC", "WIO", "NWC") for series.

    Args:
      x: one image (height, width, channels) or one series (time, channels).
      kernel: (rows, columns, channels, features) or (taps, channels, features), of the dtype of x.
      stride: stride s of both axes of an image, or of the time axis, >= 1.
      padding: zeros around x. "SAME" gives ceil(height / s) rows of output, "VALID" adds no zeros, and pairs of integers are
        explicit: ((top, bottom), (left, right)), or ((before, after),).

    Returns:
      (rows out, columns out, features), or (steps out, features).

    Raises:
      ValueError: if the kernel is larger than the padded example, or the padding is unknown.
    """
    if x.ndim == 2:
        return _on_column(_conv, x, kernel, stride, padding)
    return _conv(x, kernel, (stride, stride), padding)


def _conv(x: Array, kernel: Array, strides: tuple[int, int], padding: Padding) -> Array:
    """Computes `conv` of one image with a stride for each axis."""
    sides, size = x.shape[:2], kernel.shape[:2]
    pads = lax.padtype_to_pads(sides, size, strides, _checked_padding(padding)) if isinstance(padding, str) else padding
    _check_kernel_fits(x, kernel, [n + sum(pad) for n, pad in zip(sides, pads, strict=True)])
    out = [(n + sum(pad) - k) // s + 1 for n, k, s, pad in zip(sides, size, strides, pads, strict=True)]
    shifts = [-(-k // s) for k, s in zip(size, strides, strict=True)]  # rows and columns of the kernel, counted in blocks
    kernel = _extend(kernel, [(0, s * m - k) for m, k, s in zip(shifts, size, strides, strict=True)])
    kernel = kernel.reshape(shifts[0], strides[0], shifts[1], strides[1], *kernel.shape[2:]).transpose(0, 2, 1, 3, 4, 5)
    blocks = [s * (o + m - 1) for o, m, s in zip(out, shifts, strides, strict=True)]
    x = _extend(x, [(pad[0], b - n - pad[0]) for n, b, pad in zip(sides, blocks, pads, strict=True)])
    return _correlate(_space_to_depth(x, strides), kernel.reshape(*shifts, -1, kernel.shape[-1]))


def _on_column(
    function: Callable[[Array, Array, tuple[int, int], Padding], Array], x: Array, kernel: Array, stride: int, padding: Padding
) -> Array:
    """Applies a convolution of images to a series, as an image that is one pixel wide and has stride one across."""
    pads = padding if isinstance(padding, str) else (*padding, (0, 0))
    return function(x[:, None], kernel[:, None], (stride, 1), pads)[:, 0]


def conv_transpose(x: Array, kernel: Array, *, stride: int = 1, padding: Padding = "SAME") -> Array:
    """Computes the transposed convolution of one example: the convolution of x' = x with s - 1 zeros between its pixels.

        y[i, j, n] = sum_{k, l, c} x'[i + k, j + l, c] kernel[k, l, c, n]     (images)
        y[t, n]    = sum_{k, c} x'[t + k, c] kernel[k, c, n]                  (series)

    It equals `lax.conv_transpose` with its defaults for a batch of one, and PyTorch's ConvTranspose2d(kernel 4, stride 2,
    padding 1) with the kernel rotated by 180 degrees. For series, read ConvTranspose1d and reversed.

    Args:
      x, kernel: see `conv`.
      stride: s >= 1, of both axes of an image, or of the time axis.
      padding: zeros around x'. "SAME" gives s times as many rows and columns. "VALID" adds rows - 1 zeros above and
        max(rows, s) - 1 below, and likewise for columns. Pairs of integers are explicit, see `conv`.

    Returns:
      (rows out, columns out, features), or (steps out, features).

    Raises:
      ValueError: if the kernel is larger than the padded example, or the padding is unknown.
    """
    if x.ndim == 2:
        return _on_column(_conv_transpose, x, kernel, stride, padding)
    return _conv_transpose(x, kernel, (stride, stride), padding)


def _conv_transpose(x: Array, kernel: Array, strides: tuple[int, int], padding: Padding) -> Array:
    """Computes `conv_transpose` of one image with a stride for each axis."""
    sides, size = x.shape[:2], kernel.shape[:2]
    pads: Sequence[tuple[int, int]]
    if isinstance(padding, str):
        pads = [_transposed_pads(k, s, _checked_padding(padding)) for k, s in zip(size, strides, strict=True)]
    else:
        pads = padding
    spread = [s * (n - 1) + 1 + sum(pad) for n, s, pad in zip(sides, strides, pads, strict=True)]
    _check_kernel_fits(x, kernel, spread)
    out = [n - k + 1 for n, k in zip(spread, size, strict=True)]
    # Rows are computed in blocks of s that begin `cut` rows early, so that all rows of a block need the same pixels of x: row
    # s p + a uses the kernel rows s m + (s - 1 - a) and the pixels p + m - before.
    cut = [(s - 1 - pad[0]) % s for s, pad in zip(strides, pads, strict=True)]
    before = [(pad[0] + c - s + 1) // s for s, pad, c in zip(strides, pads, cut, strict=True)]
    shifts = [-(-k // s) for k, s in zip(size, strides, strict=True)]
    blocks = [-(-(o + c) // s) for o, c, s in zip(out, cut, strides, strict=True)]
    kernel = _extend(kernel, [(0, s * m - k) for m, k, s in zip(shifts, size, strides, strict=True)])
    channels, features = kernel.shape[2:]
    kernel = kernel.reshape(shifts[0], strides[0], shifts[1], strides[1], channels, features)[:, ::-1, :, ::-1]
    kernel = kernel.transpose(0, 2, 4, 1, 3, 5).reshape(*shifts, channels, math.prod(strides) * features)
    margins = [(b, p + m - 1 - n - b) for n, b, p, m in zip(sides, before, blocks, shifts, strict=True)]
    y = _depth_to_space(_correlate(_extend(x, margins), kernel), strides)
    return y[cut[0] : cut[0] + out[0], cut[1] : cut[1] + out[1]]


def _transposed_pads(size: int, stride: int, padding: str) -> tuple[int, int]:
    """Returns the padding of one axis that `lax.conv_transpose` uses for "SAME" or "VALID"."""
    if padding == "SAME":
        total = size + stride - 2
        low = size - 1 if stride > size - 1 else -(-total // 2)
    else:
        total = size + stride - 2 + max(size - stride, 0)
        low = size - 1
    return low, total - low


def _checked_padding(padding: str) -> str:
    """Returns the name of the padding if it is known."""
    if padding not in ("SAME", "VALID"):
        raise ValueError(f'padding: expected "SAME", "VALID" or pairs of integers, got {padding!r}.')
    return padding


def _check_kernel_fits(x: Array, kernel: Array, padded: list[int]) -> None:
    """Raises `ValueError` if the kernel is larger than the padded image, for which `lax` returns an empty one."""
    if any(n < k for n, k in zip(padded, kernel.shape[:2], strict=True)):
        raise ValueError(
            f"expected an example of at least the kernel's size, got {x.shape} for a kernel {kernel.shape}. Pad it."
        )


def _correlate(x: Array, kernel: Array) -> Array:
    """Computes the convolution of stride 1 without padding as one matrix product."""
    rows, columns, channels, features = kernel.shape
    shifts = [(i, j) for i in range(rows) for j in range(columns)]
    height, width = x.shape[0] - rows + 1, x.shape[1] - columns + 1
    window = lambda a, i, j: a[i : i + height, j : j + width]  # noqa: E731
    # Shifting the side with fewer channels moves less memory. Measured on CPU, forward and backward, with the product first and
    # with patches: 9 and 20 ms for a 2 x 2 kernel from 128 to 32 channels, 22 and 19 ms for a 3 x 3 kernel from 64 to 32.
    if channels < 4 * features:
        patches = jnp.concatenate([window(x, i, j) for i, j in shifts], axis=-1)
        return rows_product(patches, kernel.reshape(-1, features))
    partial = rows_product(x, kernel.transpose(2, 0, 1, 3).reshape(channels, -1))
    # The transpose of `split` is one concatenation. That of indexing is a sum of padded arrays, which is four times slower.
    parts = lax.split(partial, (features,) * len(shifts), axis=2)
    return sum(window(part, i, j) for part, (i, j) in zip(parts, shifts, strict=True))  # pyright: ignore[reportReturnType]


def _extend(x: Array, pads: list[tuple[int, int]]) -> Array:
    """Pads the first axes with zeros. Negative numbers crop."""
    return lax.pad(x, jnp.zeros((), x.dtype), [(low, high, 0) for low, high in pads] + [(0, 0, 0)] * (x.ndim - len(pads)))


def _space_to_depth(x: Array, strides: tuple[int, int]) -> Array:
    """Moves blocks of r x s pixels to the last axis: (r h, s w, c) -> (h, w, r s c)."""
    (height, width, channels), (r, s) = x.shape, strides
    blocks = x.reshape(height // r, r, width // s, s, channels)
    return blocks.transpose(0, 2, 1, 3, 4).reshape(height // r, width // s, r * s * channels)


def _depth_to_space(x: Array, strides: tuple[int, int]) -> Array:
    """Inverts `_space_to_depth`: (h, w, r s c) -> (r h, s w, c)."""
    (height, width, channels), (r, s) = x.shape, strides
    blocks = x.reshape(height, width, r, s, channels // (r * s))
    return blocks.transpose(0, 2, 1, 3, 4).reshape(r * height, s * width, channels // (r * s))
