"""Networks of a convolutional ladder: features of x bottom-up, and several layers of latent feature maps top-down.

The code is that of all layers, whitened. Layer l, counted from the top, has a vector u_l ~ N(0, I) under the prior, and its
latent variables are

    z_l = mean_p(z_<l) + exp(log_scale_p(z_<l)) u_l,      q(u_l | u_<l, x) = N(d_mean(z_<l, x), exp(d_log_scale(z_<l, x))^2)

so p(z_l|z_<l) is a learned Gaussian, and KL(q(z_l|z_<l, x) || p(z_l|z_<l)) = KL(N(d_mean, exp(d_log_scale)^2) || N(0, I)),
because an invertible map does not change it. q is relative to p as in Vahdat & Kautz (2020), by the precision-weighted merge
of Sonderby et al. (2016): q(u_l|...) is the product of the prior N(0, I) and a Gaussian from the features of x, so its scale is
at most 1. The code has the prior N(0, I), so everything that draws, interpolates or anneals codes needs no pass through the
network, and no variance of the prior is divided by.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen
from jax import Array
from jax.typing import ArrayLike

from vae_jax.networks.base import Network, Output, Params, check_condition_dim
from vae_jax.networks.convolutional import Conv, Norm, Normalized, ResidualBlocks, checked_settings, halved
from vae_jax.networks.mlp import Initializer, resolve_activation

# Logarithms of scales lie within (-5, 5), by 5 tanh(a / 5), as in Vahdat & Kautz (2020), so no exponential overflows.
_LOG_SCALE_BOUND = 5.0
_FIRST_LOG_PRECISION = -2.0  # at which the KL of a latent dimension starts at 0.004 nats
MIN_LAYERS, MAX_LAYERS = 2, 6


class LadderLayout(NamedTuple):
    """Places of the stochastic layers of a ladder.

    Attributes:
      channels: deterministic channels after each halving of x.
      halvings: number of halvings of x at each layer, top layer first.
      shapes: shape of the latent feature map of each layer, top layer first.
    """

    channels: tuple[int, ...]
    halvings: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def latent_dim(self) -> int:
        """Length of a code, the sum over all layers."""
        return sum(map(math.prod, self.shapes))


def ladder_layout(
    data_shape: tuple[int, ...],
    latent_channels: Sequence[int],
    channels: tuple[int, ...] | None = None,
    halvings: Sequence[int] | None = None,
) -> LadderLayout:
    """Validates the settings of a ladder for data of a shape, and returns the places of its layers.

    Args:
      data_shape, latent_channels, channels, halvings: see `ladder`.

    Raises:
      ValueError: the data are too small, or the settings do not fit each other.

    Example:
      >>> ladder_layout((28, 28, 1), (8, 4, 2)).shapes
      ((7, 7, 8), (7, 7, 4), (14, 14, 2))
    """
    channels, _ = checked_settings(data_shape, channels, 0, "none")
    latent_channels = tuple(latent_channels)
    count, most = len(latent_channels), len(channels)
    if not MIN_LAYERS <= count <= MAX_LAYERS or min(latent_channels) < 1:
        raise ValueError(
            f"latent_channels: expected {MIN_LAYERS} to {MAX_LAYERS} numbers >= 1, one for each stochastic layer from the top, "
            f"got {latent_channels}."
        )
    if not halvings:
        halvings = [most - layer * most // count for layer in range(count)]
    halvings = tuple(halvings)
    is_descending = all(a >= b for a, b in itertools.pairwise(halvings))
    if len(halvings) != count or not is_descending or halvings[0] != most or halvings[-1] < 1:
        raise ValueError(
            f"layer_halvings: expected {count} numbers from {most} (one halving for each of the channels, where the top layer "
            f"is) down to at least 1, none above the one before, got {halvings}."
        )
    sides = data_shape[:-1]
    shapes = tuple((*halved(sides, times), width) for times, width in zip(halvings, latent_channels, strict=True))
    return LadderLayout(channels, halvings, shapes)


class _Parts(NamedTuple):
    """Settings that all modules of a ladder share."""

    layout: LadderLayout
    num_blocks: int
    norm: Norm
    activation: Callable[[Array], Array]
    dtype: str
    remat: bool

    def blocks(self, name: str) -> linen.Module:
        """Returns residual blocks, whose values are computed again for the gradient with `remat`."""
        make = linen.remat(ResidualBlocks) if self.remat else ResidualBlocks
        return make(self.num_blocks, self.norm, self.activation, self.dtype, name=name)

    def normalized(self, name: str) -> linen.Module:
        """Returns the activation after the normalization."""
        return Normalized(self.norm, self.activation, self.dtype, name=name)


class _BottomUp(linen.Module):
    """x (*sides, channels) -> feature map for each stochastic layer, top layer first, and the condition behind them."""

    parts: _Parts

    @linen.compact
    def __call__(self, x: Array, *condition: Array) -> tuple[Array, ...]:
        parts, features = self.parts, []
        h = x.astype(parts.dtype)
        for halving, width in enumerate(parts.layout.channels, 1):
            h = Conv(width, 4, parts.dtype, stride=2, name=f"down_{halving}")(h)
            for _ in range(parts.layout.halvings.count(halving)):
                h = parts.blocks(f"blocks_{len(features)}")(h, *condition)
                features.append(parts.normalized(f"features_{len(features)}")(h, *condition))
            h = parts.normalized(f"down_norm_{halving}")(h, *condition)
        return (*reversed(features), *condition)


def _bounded_heads(h: Array, name: str, num_latents: int, dtype: str, kernel_init: Initializer) -> tuple[Array, Array]:
    """Returns mean and log_scale of a layer, flat and in float32. A function of a compact Linen module."""
    heads = Conv(2 * num_latents, 3, dtype, kernel_init=kernel_init, name=name)(h).astype(jnp.float32)
    mean, log_scale = jnp.split(heads, 2, axis=-1)
    return mean.reshape(-1), (_LOG_SCALE_BOUND * jnp.tanh(log_scale / _LOG_SCALE_BOUND)).reshape(-1)


class _Merge(linen.Module):
    """Top-down and bottom-up features of a layer -> (d_mean, d_log_scale) of q(u|...), both flat."""

    parts: _Parts
    num_latents: int

    @linen.compact
    def __call__(self, h: Array, features: Array, *condition: Array) -> tuple[Array, Array]:
        parts, dtype = self.parts, self.parts.dtype
        h = jnp.concatenate([parts.normalized("down_features")(h, *condition), features], axis=-1)
        h = Conv(features.shape[-1], 3, dtype, name="merge")(h)
        # Small, so that q starts near p and the first KL is a few nats.
        small = linen.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")
        mean, log_precision = _bounded_heads(parts.normalized("merged")(h, *condition), "heads", self.num_latents, dtype, small)
        # The product of the prior N(0, 1) and N(mean, exp(-log_precision)). A scale of q relative to p that is free, as in
        # Vahdat & Kautz (2020), made training on MNIST diverge: at exp(5) its KL is 11,000 nats and its tanh has no gradient.
        log_precision = 2 * log_precision + _FIRST_LOG_PRECISION
        return mean * jax.nn.sigmoid(log_precision), -0.5 * jax.nn.softplus(log_precision)


class _TopDown(linen.Module):
    """Pass from the top layer to x, or to the conditionals of all layers of q.

    Without features: a flat code u -> decoder output. With features: (u, d_mean, d_log_scale), flat over all layers, where u is
    the given code, or d_mean + exp(d_log_scale) noise.
    """

    parts: _Parts
    output_shape: tuple[int, ...]
    num_sides: int
    bias_init: Initializer
    bias_shape: tuple[int, ...] | None

    @linen.compact
    def __call__(
        self, code: Array, *condition: Array, features: tuple[Array, ...] = (), is_noise: bool = False, everything: bool = False
    ) -> Output:
        parts, (channels, halvings, shapes) = self.parts, self.parts.layout
        sides = self.output_shape[: self.num_sides]
        merge = linen.remat(_Merge) if parts.remat else _Merge
        h = self.param("start", linen.initializers.normal(0.1), (*halved(sides, len(channels)), channels[-1]))
        h = h.astype(parts.dtype)
        splits = jnp.split(code, [sum(map(math.prod, shapes[:layer])) for layer in range(1, len(shapes))])
        codes, means, log_scales = [], [], []
        for layer, (halving, shape, u) in enumerate(zip(halvings, shapes, splits, strict=True)):
            above = halvings[layer - 1] if layer else len(channels)
            for level in range(above, halving, -1):
                h = self._up(h, level, *condition)
            h = parts.blocks(f"blocks_{layer}")(h, *condition)
            normalized = parts.normalized(f"prior_norm_{layer}")(h, *condition)
            zeros = linen.initializers.zeros_init()  # p(z) starts at N(0, I)
            mean, log_scale = _bounded_heads(normalized, f"prior_{layer}", shape[-1], parts.dtype, zeros)
            if features:
                d_mean, d_log_scale = merge(parts, shape[-1], name=f"posterior_{layer}")(h, features[layer], *condition)
                u = d_mean + jnp.exp(d_log_scale) * u if is_noise else u
                codes, means, log_scales = [*codes, u], [*means, d_mean], [*log_scales, d_log_scale]
            z = (mean + jnp.exp(log_scale) * u).reshape(shape).astype(parts.dtype)
            h = h + Conv(h.shape[-1], 3, parts.dtype, name=f"latents_{layer}")(z)
        if features and not everything:
            return jnp.concatenate(codes), jnp.concatenate(means), jnp.concatenate(log_scales)
        h = parts.blocks("output_blocks")(h, *condition)
        for level in range(halvings[-1], 0, -1):
            h = self._up(h, level, *condition)
        return h.astype(jnp.float32).reshape(self.output_shape)

    def _up(self, h: Array, level: int, *condition: Array) -> Array:
        """Doubles the sides from those after `level` halvings; the last one emits the decoder output."""
        sides, emitted = self.output_shape[: self.num_sides], self.output_shape[self.num_sides :]
        channels, dtype = self.parts.layout.channels, self.parts.dtype
        width = channels[level - 2] if level > 1 else math.prod(emitted)
        zeros = linen.initializers.zeros_init()
        bias_init, bias_shape = (self.bias_init, self.bias_shape) if level == 1 else (zeros, None)
        h = self.parts.normalized(f"up_norm_{level}")(h, *condition)
        return Conv(
            width,
            4,
            dtype,
            stride=2,
            transpose=True,
            bias_init=bias_init,
            bias_shape=bias_shape,
            crop=halved(sides, level - 1),
            name=f"up_{level}",
        )(h)


class Ladder(NamedTuple):
    """Networks of a model with several stochastic layers (see `ladder`). To use your own, fill this record.

    Attributes:
      encoder: (params, x) -> feature map for each layer, top layer first. With a condition c it takes and returns c as well.
      make_decoder: (outputs_per_dim=, output_bias=) -> the decoder, (params, u) -> decoder output of a flat code u.
      infer: (params of the decoder, features, code, is_noise) -> (u, d_mean, d_log_scale), each (latent_dim,). With
        is_noise=True, u is d_mean + exp(d_log_scale) code, layer by layer. Otherwise it is the code.
      layers: shape of the latent variables of each layer, top layer first.
    """

    encoder: Network
    make_decoder: Callable[..., Network]
    infer: Callable[[Params, tuple[Array, ...], Array, bool], tuple[Array, Array, Array]]
    layers: tuple[tuple[int, ...], ...]


def ladder(
    data_shape: tuple[int, ...],
    *,
    latent_channels: Sequence[int] = (8, 4, 2),
    channels: tuple[int, ...] | None = None,
    halvings: Sequence[int] | None = None,
    num_blocks: int = 1,
    norm: Norm = "none",
    activation: str | Callable[[Array], Array] = "relu",
    dtype: str = "float32",
    remat: bool = False,
    condition_dim: int = 0,
    input_shape: tuple[int, ...] = (),
) -> Ladder:
    """Makes the networks of a convolutional ladder with 2 to 6 stochastic layers, for images or series.

    A bottom-up network computes a feature map of x for each layer. The top-down network is shared by p and q: at each layer,
    residual blocks, the prior p(z_l|z_<l) from the features that have come down, q(z_l|z_<l, x) from those and the feature map
    of x, and the latents added to the features. There are no batch statistics.

    Args:
      data_shape: (height, width, channels) or (time, channels) of one example.
      latent_channels: channels of the latent feature map of each layer, top layer first, 2 to 6 numbers >= 1.
      channels: deterministic channels after each halving of x. The default is `default_channels`.
      halvings: halvings of x at each layer, top layer first. The top layer is at the smallest size. By default the layers are
        spread evenly over the sizes.
      num_blocks: residual blocks of two 3 x 3 convolutions at each layer, >= 0, in both networks.
      norm, activation, dtype: see `conv_encoder`.
      remat: computes the inner values of the blocks a second time for the gradient, by `jax.checkpoint`, to save memory.
      condition_dim: see `conv_encoder`. The condition scales and shifts the channels in both networks.
      input_shape: shape of x as the encoder sees it, with the mask; `data_shape` by default.

    Returns:
      The `Ladder`. `posteriors.ladder` makes its q(z|x), and `model.ladder_vae` the whole model.

    Raises:
      ValueError: see `ladder_layout`.

    Source:
      Sonderby et al. (2016), with all layers above as the condition of each; standardized latents: Vahdat & Kautz (2020).
    """
    layout = ladder_layout(tuple(data_shape), latent_channels, channels, halvings)
    if num_blocks < 0:
        raise ValueError(f"num_blocks: expected a number >= 0, got {num_blocks}.")
    checked_settings(tuple(data_shape), layout.channels, num_blocks, norm)
    condition_dim = check_condition_dim(condition_dim)
    parts = _Parts(layout, num_blocks, norm, resolve_activation(activation), dtype, remat)
    x_shape = tuple(input_shape) or tuple(data_shape)
    down = _BottomUp(parts)
    condition = [jnp.zeros(condition_dim)] if condition_dim else []

    def init_encoder(key: Array) -> Params:
        return down.init(key, jnp.zeros(x_shape), *condition)["params"]

    def encode(params: Params, x: Array, *condition: Array) -> Output:
        return down.apply({"params": params}, x, *condition)

    make_decoder = partial(_make_decoder, parts, tuple(data_shape), condition_dim)
    top_down = _top_down(parts, tuple(data_shape), 1, None)
    layers = len(layout.shapes)

    def infer(params: Params, q: tuple[Array, ...], code: Array, is_noise: bool) -> Output:
        return top_down.apply({"params": params}, code, *q[layers:], features=tuple(q[:layers]), is_noise=is_noise)

    return Ladder(Network(init_encoder, encode), make_decoder, infer, layout.shapes)


def _top_down(parts: _Parts, data_shape: tuple[int, ...], outputs_per_dim: int, output_bias: ArrayLike | None) -> _TopDown:
    output_shape = data_shape if outputs_per_dim == 1 else (*data_shape, outputs_per_dim)
    bias_init, bias_shape = linen.initializers.zeros_init(), None
    if output_bias is not None:  # for each pixel, such as the mean image
        bias_shape = (*data_shape[:-1], math.prod(output_shape[len(data_shape) - 1 :]))
        start = jnp.broadcast_to(jnp.asarray(output_bias, jnp.float32), output_shape).reshape(bias_shape)
        bias_init = lambda key, shape: start  # noqa: E731
    return _TopDown(parts, output_shape, len(data_shape) - 1, bias_init, bias_shape)


def _make_decoder(
    parts: _Parts,
    data_shape: tuple[int, ...],
    condition_dim: int,
    *,
    outputs_per_dim: int = 1,
    output_bias: ArrayLike | None = None,
) -> Network:
    """Makes the top-down network as a decoder. Its parameters include those of q."""
    module = _top_down(parts, data_shape, outputs_per_dim, output_bias)
    layout = parts.layout

    def init(key: Array) -> Params:
        sides = data_shape[:-1]
        features = [jnp.zeros((*halved(sides, n), layout.channels[n - 1]), parts.dtype) for n in layout.halvings]
        condition = [jnp.zeros(condition_dim)] if condition_dim else []
        code = jnp.zeros(layout.latent_dim)
        return module.init(key, code, *condition, features=tuple(features), everything=True)["params"]

    def apply(params: Params, code: Array, *condition: Array) -> Output:
        return module.apply({"params": params}, code, *condition)

    return Network(init, apply)


def split_layers(code: Array, shapes: Sequence[tuple[int, ...]]) -> tuple[Array, ...]:
    """Splits a flat code into the maps of its layers, top layer first.

    Args:
      code: shape (..., latent_dim).
      shapes: shape of each layer, such as `LadderLayout.shapes` or `Posterior.layers`.

    Returns:
      An array for each layer, of shape (..., *shape).
    """
    ends = [sum(map(math.prod, shapes[: layer + 1])) for layer in range(len(shapes))]
    parts = jnp.split(code, ends[:-1], axis=-1)
    return tuple(part.reshape(*code.shape[:-1], *shape) for part, shape in zip(parts, shapes, strict=True))
