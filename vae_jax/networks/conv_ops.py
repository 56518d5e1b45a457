"""Convolutions of one example as matrix products: as fast inside of loops as outside, and batched products under `vmap`.

XLA's native convolutions are slow inside `lax.scan` on CPU, and a `vmap` over kernels makes grouped convolutions of them,
which are slow on GPUs. Here a convolution of stride s is first one of stride 1 over blocks of s x s pixels (space to depth),
and that is one matrix product with shifts before it (patches) or after it (partial products, shifted and added). Both are
plain slices and concatenations, whose gradients are JAX's own.
"""

import jax.numpy as jnp
from jax import Array, lax

from vae_jax.networks.row_matmul import rows_product

Padding = str | tuple[tuple[int, int], tuple[int, int]]  # "SAME", "VALID", or ((top, bottom), (left, right))


def conv(x: Array, kernel: Array, *, stride: int = 1, padding: Padding = "SAME") -> Array:
    """y[i, j, n] = sum_{k, l, c} x[s i + k, s j + l, c] kernel[k, l, c, n], x extended by zeros.

    Equal to `lax.conv_general_dilated` of a batch of one with dimension numbers ("NHWC", "HWIO", "NHWC"): a cross-correlation.

    Args:
      x: one example, (height, width, channels).
      kernel: (rows, columns, channels, features).
      stride: s, of both axes, >= 1.
      padding: zeros around x: "SAME" (ceil(height / s) rows come out), "VALID" (none) or explicit.

    Returns:
      (rows out, columns out, features).
    """
    (height, width), size = x.shape[:2], kernel.shape[:2]
    if not isinstance(padding, str):
        pads = padding
    else:
        pads = lax.padtype_to_pads((height, width), size, (stride, stride), _known(padding))
    _check_room(x, kernel, [n + sum(pad) for n, pad in zip((height, width), pads, strict=True)])
    out = [(n + sum(pad) - k) // stride + 1 for n, k, pad in zip((height, width), size, pads, strict=True)]
    shifts = [-(-k // stride) for k in size]  # taps of the kernel over blocks
    kernel = _extend(kernel, [(0, stride * m - k) for m, k in zip(shifts, size, strict=True)])
    kernel = kernel.reshape(shifts[0], stride, shifts[1], stride, *kernel.shape[2:]).transpose(0, 2, 1, 3, 4, 5)
    blocks = [stride * (o + m - 1) for o, m in zip(out, shifts, strict=True)]
    x = _extend(x, [(pad[0], b - n - pad[0]) for n, b, pad in zip((height, width), blocks, pads, strict=True)])
    return _correlate(_space_to_depth(x, stride), kernel.reshape(*shifts, -1, kernel.shape[-1]))


def conv_transpose(x: Array, kernel: Array, *, stride: int = 1, padding: Padding = "SAME") -> Array:
    """The convolution of x with s - 1 zeros between its pixels: y[i, j, n] = sum x'[i + k, j + l, c] kernel[k, l, c, n].

    Equal to `lax.conv_transpose` of a batch of one with its defaults, and to PyTorch's ConvTranspose2d(kernel 4, stride 2,
    padding 1) with the kernel turned by 180 degrees. "SAME" gives stride times as many rows and columns.

    Args:
      x, kernel, stride: as in `conv`.
      padding: zeros around the spread-out x: "SAME", "VALID" (rows - 1 above and max(rows, stride) - 1 below; columns alike)
        or explicit.

    Returns:
      (rows out, columns out, features).
    """
    (height, width), size = x.shape[:2], kernel.shape[:2]
    pads = [_transposed_pads(k, stride, _known(padding)) for k in size] if isinstance(padding, str) else padding
    _check_room(x, kernel, [stride * (n - 1) + 1 + sum(pad) for n, pad in zip((height, width), pads, strict=True)])
    out = [stride * (n - 1) + 1 + sum(pad) - k + 1 for n, k, pad in zip((height, width), size, pads, strict=True)]
    # Rows are computed in blocks of s that begin `cut` rows early, so that all of a block need the same pixels of x: row
    # s p + a takes the taps s m + (s - 1 - a) of pixels p + m - before.
    cut = [(stride - 1 - pad[0]) % stride for pad in pads]
    before = [(pad[0] + c - stride + 1) // stride for pad, c in zip(pads, cut, strict=True)]
    shifts = [-(-k // stride) for k in size]
    blocks = [-(-(o + c) // stride) for o, c in zip(out, cut, strict=True)]
    kernel = _extend(kernel, [(0, stride * m - k) for m, k in zip(shifts, size, strict=True)])
    channels, features = kernel.shape[2:]
    kernel = kernel.reshape(shifts[0], stride, shifts[1], stride, channels, features)[:, ::-1, :, ::-1]
    kernel = kernel.transpose(0, 2, 4, 1, 3, 5).reshape(*shifts, channels, stride * stride * features)
    around = [(b, p + m - 1 - n - b) for n, b, p, m in zip((height, width), before, blocks, shifts, strict=True)]
    y = _depth_to_space(_correlate(_extend(x, around), kernel), stride)
    return y[cut[0] : cut[0] + out[0], cut[1] : cut[1] + out[1]]


def _transposed_pads(size: int, stride: int, padding: str) -> tuple[int, int]:
    """What `lax.conv_transpose` means by its words."""
    if padding == "SAME":
        total = size + stride - 2
        low = size - 1 if stride > size - 1 else -(-total // 2)
    else:
        total = size + stride - 2 + max(size - stride, 0)
        low = size - 1
    return low, total - low


def _known(padding: str) -> str:
    if padding not in ("SAME", "VALID"):
        raise ValueError(f'padding: expected "SAME", "VALID" or pairs of integers, got {padding!r}.')
    return padding


def _check_room(x: Array, kernel: Array, padded: list[int]) -> None:
    """`lax` returns an empty image where the kernel does not fit in once."""
    if any(n < k for n, k in zip(padded, kernel.shape[:2], strict=True)):
        raise ValueError(f"expected an image of at least the kernel's size, got {x.shape} for a kernel {kernel.shape}. Pad it.")


def _correlate(x: Array, kernel: Array) -> Array:
    """Stride 1, no padding: one matrix product."""
    rows, columns, channels, features = kernel.shape
    shifts = [(i, j) for i in range(rows) for j in range(columns)]
    height, width = x.shape[0] - rows + 1, x.shape[1] - columns + 1
    window = lambda a, i, j: a[i : i + height, j : j + width]  # noqa: E731
    # Shifted copies of the narrower side are less to write and read. Measured on CPU, forward and backward: 128 -> 32
    # channels, 2 x 2: 9 against 20 ms with the product first; 64 -> 32, 3 x 3: 22 against 19.
    if channels < 4 * features:
        patches = jnp.concatenate([window(x, i, j) for i, j in shifts], axis=-1)
        return rows_product(patches, kernel.reshape(-1, features))
    partial = rows_product(x, kernel.transpose(2, 0, 1, 3).reshape(channels, -1))
    # `split`, because its transpose is one concatenation; that of indexing is a sum of padded arrays, four times slower.
    parts = lax.split(partial, (features,) * len(shifts), axis=2)
    return sum(window(part, i, j) for part, (i, j) in zip(parts, shifts, strict=True))  # pyright: ignore[reportReturnType]


def _extend(x: Array, pads: list[tuple[int, int]]) -> Array:
    """Zeros around the first axes; negative numbers cut."""
    return lax.pad(x, jnp.zeros((), x.dtype), [(low, high, 0) for low, high in pads] + [(0, 0, 0)] * (x.ndim - len(pads)))


def _space_to_depth(x: Array, s: int) -> Array:
    """(s h, s w, c) -> (h, w, s s c)."""
    height, width, channels = x.shape
    blocks = x.reshape(height // s, s, width // s, s, channels)
    return blocks.transpose(0, 2, 1, 3, 4).reshape(height // s, width // s, s * s * channels)


def _depth_to_space(x: Array, s: int) -> Array:
    """(h, w, s s c) -> (s h, s w, c)."""
    height, width, channels = x.shape
    blocks = x.reshape(height, width, s, s, channels // (s * s))
    return blocks.transpose(0, 2, 1, 3, 4).reshape(s * height, s * width, channels // (s * s))
