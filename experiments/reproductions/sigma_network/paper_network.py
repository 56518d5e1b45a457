"""The convolutional network of the reference code of Rybkin et al. (2021), as a Linen encoder and decoder.

The layers are those of `ConvVAE` in github.com/orybkin/sigma-vae-pytorch (commit 4748a3a): 32 channels at full size, 64 and 128
after convolutions of stride 2, linear heads, and a decoder that mirrors them. The kernel sizes, the sigmoid at the end and the
20 latent dimensions are theirs. The initialization is that of PyTorch's layers: uniform within 1 / sqrt(inputs of a weight).
"""

import math
from typing import TYPE_CHECKING, Any

import jax
from flax import linen
from jax import Array

from vae_jax import networks
from vae_jax.networks import conv_ops

if TYPE_CHECKING:
    from vae_jax.config import Config, TrainingData

CHANNELS = (32, 64, 128)


def _uniform(key: Array, shape: tuple[int, ...], fan_in: int) -> Array:
    """Returns uniform draws within 1 / sqrt(fan_in), as PyTorch's layers start."""
    bound = fan_in**-0.5
    return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


class Conv(linen.Module):
    """A convolution, or a transposed one, of one image with a bias."""

    features: int
    size: int
    stride: int = 1
    transpose: bool = False

    @linen.compact
    def __call__(self, h: Array) -> Array:
        """Returns the image (rows / stride, columns / stride, features), or (rows stride, columns stride, features)."""
        shape = (self.size, self.size, h.shape[-1], self.features)
        # PyTorch counts the outputs of a transposed convolution as its inputs.
        fan_in = self.size**2 * (self.features if self.transpose else h.shape[-1])
        kernel = self.param("kernel", lambda key: _uniform(key, shape, fan_in))
        bias = self.param("bias", lambda key: _uniform(key, (self.features,), fan_in))
        product = conv_ops.conv_transpose if self.transpose else conv_ops.conv
        return product(h, kernel, stride=self.stride, padding=self._pads()) + bias

    def _pads(self) -> tuple[tuple[int, int], ...]:
        """Returns the zeros around the image: PyTorch's padding of (size - stride + 1) // 2 keeps sides or halves them."""
        padding = (self.size - self.stride + 1) // 2
        pad = self.size - 1 - padding if self.transpose else padding
        return ((pad, pad),) * 2


class Dense(linen.Module):
    """A dense layer with the initialization of PyTorch."""

    features: int

    @linen.compact
    def __call__(self, h: Array) -> Array:
        """Returns the features of a vector."""
        kernel = self.param("kernel", lambda key: _uniform(key, (h.size, self.features), h.size))
        bias = self.param("bias", lambda key: _uniform(key, (self.features,), h.size))
        return h @ kernel + bias


class Encoder(linen.Module):
    """x (28, 28, 1) -> mean and log_scale (latent_dim,)."""

    latent_dim: int

    @linen.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Returns the parameters of q(z|x). The reference code has log-variances in place of log-scales."""
        for channels, size, stride in zip(CHANNELS, (3, 4, 5), (1, 2, 2), strict=True):
            x = linen.relu(Conv(channels, size, stride)(x))
        h = x.reshape(-1)
        return Dense(self.latent_dim)(h), Dense(self.latent_dim)(h) / 2


class Decoder(linen.Module):
    """z (latent_dim,) -> means of the pixels (28, 28, 1) in [0, 1]."""

    shape: tuple[int, ...]

    @linen.compact
    def __call__(self, z: Array) -> Array:
        """Returns the image of the means."""
        rows, columns, emitted = self.shape[0] // 4, self.shape[1] // 4, math.prod(self.shape[2:])
        h = Dense(rows * columns * CHANNELS[-1])(z).reshape(rows, columns, CHANNELS[-1])
        for channels, size, stride in zip((*CHANNELS[-2::-1], emitted), (6, 6, 5), (2, 2, 1), strict=True):
            h = Conv(channels, size, stride, transpose=True)(h)
            h = linen.relu(h) if stride > 1 else linen.sigmoid(h)
        return h.reshape(self.shape)


def make_network(config: "Config", data: "TrainingData") -> tuple[Any, Any]:
    """Returns encoder and decoder for `--network paper_network.py:make_network`."""
    encoder = networks.from_linen(Encoder(config.latent_dim), data.input_shape)
    return encoder, networks.from_linen(Decoder(data.output_shape), (config.latent_dim,))
