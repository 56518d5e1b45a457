"""Convolutional encoders and decoders, plain or with residual blocks, for images of any size from 2 x 2 pixels up.

An odd side is halved upwards: the convolution extends it by one row or column of zeros, and the decoder's mirror image of that
layer crops the same row or column again. Where all sides are even this does nothing.
"""

import math
from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from flax import linen
from jax import Array
from jax.typing import ArrayLike

from vae_jax.networks import conv_ops as convolution
from vae_jax.networks.base import Network, from_linen
from vae_jax.networks.mlp import check_widths, dense_layer, resolve_activation

Norm = Literal["none", "group"]


class _Conv(linen.Module):
    features: int
    size: int
    dtype: str
    stride: int = 1
    transpose: bool = False
    kernel_init: Callable[..., Array] | None = None
    bias_init: Callable[..., Array] = linen.initializers.zeros_init()
    bias_shape: tuple[int, ...] | None = None
    crop: tuple[int, int] | None = None  # the rows and columns to keep; all by default

    @linen.compact
    def __call__(self, h: Array) -> Array:
        # He et al. 2015, by the taps that reach an output: 1 in stride^2 of a transposed kernel. On MNIST (4 epochs of 25,600
        # images) 4.5 nats of test ELBO better than Glorot, and 3.9 than a variance of 1 / (3 taps).
        reach = self.stride**2 if self.transpose else 1
        init = self.kernel_init or linen.initializers.variance_scaling(2.0 * reach, "fan_in", "truncated_normal")
        kernel = self.param("kernel", init, (self.size, self.size, h.shape[-1], self.features))
        bias = self.param("bias", self.bias_init, self.bias_shape or (self.features,))
        product = convolution.conv_transpose if self.transpose else convolution.conv
        h = product(h, kernel.astype(self.dtype), stride=self.stride)
        if self.crop is not None and h.shape[:2] != self.crop:
            h = h[: self.crop[0], : self.crop[1]]
        return h + jnp.broadcast_to(bias.astype(self.dtype), h.shape)


class _Normalized(linen.Module):
    """activation(norm(h)); the norm is over the whole example, in groups of channels, so examples stay independent."""

    norm: Norm
    activation: Callable[[Array], Array]
    dtype: str

    @linen.compact
    def __call__(self, h: Array) -> Array:
        if self.norm == "group":
            groups = math.gcd(8, h.shape[-1])
            # Statistics are computed in float32 whatever the dtype.
            h = linen.GroupNorm(groups, dtype=self.dtype, reduction_axes=(-3, -2, -1))(h)
        return self.activation(h)


class _Blocks(linen.Module):
    """Residual blocks h + conv(act(norm(conv(act(norm(h)))))), He et al. 2016 (pre-activation); each starts as the identity."""

    count: int
    norm: Norm
    activation: Callable[[Array], Array]
    dtype: str

    @linen.compact
    def __call__(self, h: Array) -> Array:
        ready = lambda h: _Normalized(self.norm, self.activation, self.dtype)(h)  # noqa: E731
        channels = h.shape[-1]
        for _ in range(self.count):
            inner = _Conv(channels, 3, self.dtype)(ready(h))
            h = h + _Conv(channels, 3, self.dtype, kernel_init=linen.initializers.zeros_init())(ready(inner))
        return h


class _Encoder(linen.Module):
    channels: tuple[int, ...]
    kernels: tuple[int, ...]
    dense: tuple[int, ...]
    num_blocks: int
    norm: Norm
    latent_dim: int
    activation: Callable[[Array], Array]
    dtype: str

    @linen.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        h = x.astype(self.dtype)
        for channels, size in zip(self.channels, self.kernels, strict=True):
            h = _Conv(channels, size, self.dtype, stride=2)(h)
            h = _Blocks(self.num_blocks, self.norm, self.activation, self.dtype)(h)
            h = _Normalized(self.norm, self.activation, self.dtype)(h)
        h = h.reshape(-1)
        for width in self.dense:
            h = self.activation(dense_layer(width, self.dtype)(h))
        # Normalised features are large: with heads as usual the first KL is hundreds of nats, and training flees it into a
        # collapse (MNIST, 3 epochs of 12,800 images: -192 nats of test ELBO, -133 with heads that start small).
        start = linen.initializers.variance_scaling(0.01, "fan_avg", "uniform") if self.norm == "group" else None
        heads = dense_layer(2 * self.latent_dim, self.dtype, **({"kernel_init": start} if start else {}))(h)
        mean, log_scale = jnp.split(heads.astype(jnp.float32), 2)
        return mean, log_scale


class _Decoder(linen.Module):
    channels: tuple[int, ...]  # as the encoder has them
    dense: tuple[int, ...]
    num_blocks: int
    norm: Norm
    output_shape: tuple[int, ...]
    activation: Callable[[Array], Array]
    dtype: str
    bias_init: Callable[..., Array]
    bias_shape: tuple[int, ...] | None

    @linen.compact
    def __call__(self, z: Array) -> Array:
        height, width, *emitted = self.output_shape
        # The sizes that the encoder's layers see, first to last.
        *sizes, smallest = [_halved((height, width), times) for times in range(len(self.channels) + 1)]
        h = z.astype(self.dtype)
        for units in reversed(self.dense):
            h = self.activation(dense_layer(units, self.dtype)(h))
        h = dense_layer(math.prod(smallest) * self.channels[-1], self.dtype)(h).reshape(*smallest, self.channels[-1])
        last = {"bias_init": self.bias_init, "bias_shape": self.bias_shape}
        layers = [*((channels, {}) for channels in self.channels[-2::-1]), (math.prod(emitted), last)]
        for (features, options), size in zip(layers, reversed(sizes), strict=True):
            h = _Blocks(self.num_blocks, self.norm, self.activation, self.dtype)(h)
            h = _Normalized(self.norm, self.activation, self.dtype)(h)
            h = _Conv(features, 4, self.dtype, stride=2, transpose=True, crop=size, **options)(h)
        return h.astype(jnp.float32).reshape(self.output_shape)


def _halved(sides: tuple[int, int], times: int) -> tuple[int, int]:
    """Height and width after so many convolutions of stride 2, each of which rounds up."""
    height, width = (-(-n // 2**times) for n in sides)
    return height, width


def default_channels(data_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Channels after each halving: 32 in the first half of them, 64 in the second.

    The image is halved until its shorter side is below 8: 28 x 28 to 7 x 7 (32, 64), 32 x 32 to 4 x 4 (32, 32, 64), and
    64 x 64 to 4 x 4 (32, 32, 64, 64), as in disentanglement_lib. Odd sides are rounded up: 218 x 178 ends at 7 x 6 (32, 32, 32,
    64, 64).

    Raises:
      ValueError: for data that are not images, or images with a side of one pixel.
    """
    check_image(data_shape, 1)
    height, width = data_shape[:2]
    halvings = 1
    while min(_halved((height, width), halvings)) >= 8:
        halvings += 1
    first = -(-halvings // 2)
    return (32,) * first + (64,) * (halvings - first)


def check_image(data_shape: tuple[int, ...], halvings: int) -> None:
    """Raises `ValueError` unless these are images (height, width, channels) that can be halved so many times."""
    if len(data_shape) != 3:
        raise ValueError(f"expected images (height, width, channels) for convolutions, got data of shape {data_shape}.")
    height, width = data_shape[:2]
    if min(height, width) <= 2 ** (halvings - 1):  # a layer before the last has left a single row or column
        most, got = (min(height, width) - 1).bit_length(), " x ".join(map(str, data_shape))
        if most == 0:
            raise ValueError(f"expected images of at least 2 x 2 pixels for convolutions, got {got}.")
        raise ValueError(f"expected at most {most} channels, one for each halving of {got}, got {halvings}.")


def _settings(
    data_shape: tuple[int, ...], channels: tuple[int, ...] | None, num_blocks: int, norm: str
) -> tuple[tuple[int, ...], Norm]:
    channels = default_channels(data_shape) if channels is None else tuple(channels)
    if not channels or min(channels) < 1 or num_blocks < 0:
        raise ValueError(f"expected channels >= 1 and num_blocks >= 0, got channels {channels} and num_blocks {num_blocks}.")
    if norm not in ("none", "group"):
        raise ValueError(f"norm: expected none or group, got {norm!r}. Batch statistics would mix the examples.")
    check_image(data_shape, len(channels))
    return channels, norm


def conv_encoder(
    data_shape: tuple[int, ...],
    latent_dim: int,
    *,
    channels: tuple[int, ...] | None = None,
    kernels: tuple[int, ...] | None = None,
    dense: tuple[int, ...] = (256,),
    num_blocks: int = 0,
    norm: Norm = "none",
    activation: str | Callable[[Array], Array] = "relu",
    dtype: str = "float32",
) -> Network:
    """An encoder x -> (mean, log_scale), each (latent_dim,): convolutions of stride 2, then dense layers.

    With the defaults and 64 x 64 images it has the shape of disentanglement_lib's encoder (Locatello et al. 2019,
    arXiv:1811.12359): 32 and 32 channels by 4 x 4, 64 and 64 by 2 x 2, 256 units.

    Args:
      data_shape: (height, width, channels) of one example. Each layer halves the sides, an odd one upwards after a row or
        column of zeros.
      latent_dim: number of latent dimensions, >= 1.
      channels: after each halving, first to last; `default_channels` by default.
      kernels: sides of the kernels; by default 4 for the first two layers and 2 for the others.
      dense: widths of the dense layers between the convolutions and the latent dimensions.
      num_blocks: residual blocks of two 3 x 3 convolutions after each halving; 0 for a plain network.
      norm: "group" (up to 8 groups of channels, Wu and He 2018) or "none", before each activation between convolutions.
      activation: a name among `ACTIVATIONS` or a function.
      dtype: "float32" or "bfloat16" for the arithmetic; parameters and outputs stay float32.

    Raises:
      ValueError: for images too small to be halved so often, or settings out of range.
    """
    check_widths(latent_dim, dense)
    channels, norm = _settings(data_shape, channels, num_blocks, norm)
    kernels = tuple(4 if i < 2 else 2 for i in range(len(channels))) if kernels is None else tuple(kernels)
    if len(kernels) != len(channels) or min(kernels) < 1:
        raise ValueError(f"kernels: expected one size >= 1 for each of {len(channels)} layers, got {kernels}.")
    activation = resolve_activation(activation)
    return from_linen(_Encoder(channels, kernels, tuple(dense), num_blocks, norm, latent_dim, activation, dtype), data_shape)


def conv_decoder(
    latent_dim: int,
    data_shape: tuple[int, ...],
    *,
    channels: tuple[int, ...] | None = None,
    dense: tuple[int, ...] = (256,),
    num_blocks: int = 0,
    norm: Norm = "none",
    activation: str | Callable[[Array], Array] = "relu",
    dtype: str = "float32",
    outputs_per_dim: int = 1,
    output_bias: ArrayLike | None = None,
) -> Network:
    """A decoder z -> array of `data_shape`, with a last axis of `outputs_per_dim` where that is more than 1.

    Dense layers, then transposed convolutions 4 x 4 of stride 2. With the defaults and 64 x 64 images it has the shape of
    disentanglement_lib's decoder: 256 and 1024 units, then 64, 32, 32 channels and the image's.

    Args:
      channels, dense: as of the encoder that it mirrors, first to last seen from x.
      output_bias: where the last layer's bias starts, broadcast to the output's shape; there is then one for each pixel. By
        default one for each channel, from zero.
      latent_dim, data_shape, num_blocks, norm, activation, dtype: as in `conv_encoder`; outputs_per_dim: as in `mlp_decoder`.

    Raises:
      ValueError: as `conv_encoder`.
    """
    check_widths(latent_dim, dense)
    channels, norm = _settings(data_shape, channels, num_blocks, norm)
    output_shape = data_shape if outputs_per_dim == 1 else (*data_shape, outputs_per_dim)
    bias_init, bias_shape = linen.initializers.zeros_init(), None
    if output_bias is not None:  # one for each pixel, as the mean image has
        bias_shape = (*data_shape[:2], math.prod(output_shape[2:]))
        start = jnp.broadcast_to(jnp.asarray(output_bias, jnp.float32), output_shape).reshape(bias_shape)
        bias_init = lambda key, shape: start  # noqa: E731
    activation = resolve_activation(activation)
    module = _Decoder(channels, tuple(dense), num_blocks, norm, output_shape, activation, dtype, bias_init, bias_shape)
    return from_linen(module, (latent_dim,))
