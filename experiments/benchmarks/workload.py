"""Networks of the benchmarks, the matrix products of a training step, and the product rate of this machine."""

import functools
import itertools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

HIDDEN, LATENT, BATCH, RATE = 400, 20, 128, 1e-3
CONV_LATENT = 10  # as in disentanglement_lib


class Network(NamedTuple):
    """Sizes of an encoder, which the decoder mirrors. All libraries build their networks from these."""

    shape: tuple[int, ...]  # of an image: (height, width, channels)
    dense: tuple[int, ...]  # units, after the convolutions if there are any
    latent: int
    channels: tuple[int, ...] = ()  # of convolutions with stride 2; those of the decoder are 4 x 4
    kernels: tuple[int, ...] = ()

    @property
    def label(self) -> str:
        """Label such as "784-400-20" or "conv 32-32-64-64-256-10"."""
        widths = (*self.channels, *self.dense, self.latent)
        return "-".join(map(str, widths if self.channels else (math.prod(self.shape), *widths))).join(
            ("conv " if self.channels else "", "")
        )

    @property
    def smallest(self) -> tuple[int, ...]:
        """Shape of the output of the last convolution, (height, width, channels)."""
        height, width = (side >> len(self.channels) for side in self.shape[:2])
        return height, width, self.channels[-1]


def mlp(shape: tuple[int, ...]) -> Network:
    """Returns the MLP, 784-400-20 for MNIST."""
    return Network(shape, (HIDDEN,), LATENT)


def conv(shape: tuple[int, ...]) -> Network:
    """Returns the default network of `model.conv_vae`, which is that of disentanglement_lib for 64 x 64 images."""
    from vae_jax.networks import default_channels

    channels = default_channels(shape)
    return Network(shape, (256,), CONV_LATENT, channels, tuple(4 if i < 2 else 2 for i in range(len(channels))))


NETWORKS: dict[str, Callable[[tuple[int, ...]], Network]] = {"mlp": mlp, "conv": conv}


def make_vae(network: Network, dtype: str = "float32") -> Any:
    """Returns a VAE of these sizes by vae_jax, with a Bernoulli likelihood."""
    from vae_jax import likelihoods, model

    options: dict[str, Any] = {"latent_dim": network.latent, "dtype": dtype}
    if network.channels:
        options |= {"channels": network.channels, "dense": network.dense}
        return model.conv_vae(network.shape, likelihoods.bernoulli(), **options)
    return model.mlp_vae(network.shape, likelihoods.bernoulli(), hidden=network.dense, **options)


def multiplications(network: Network) -> list[int]:
    """Returns the number of multiplications of each layer for one image, from x to x.

    A dense layer has inputs times outputs. A convolution has pixels times taps times channels, with the pixels of its output,
    or of its input if it is transposed. Taps that fall onto the border count.
    """
    height, width, channels = network.shape
    pixels, layers = height * width, list[int]()
    for features, size in zip(network.channels, network.kernels, strict=True):
        pixels //= 4
        layers.append(pixels * size**2 * channels * features)
        channels = features
    flat = pixels * channels
    encoder, decoder = (flat, *network.dense, 2 * network.latent), (network.latent, *reversed(network.dense), flat)
    for units in (encoder, decoder):
        layers += [inputs * outputs for inputs, outputs in itertools.pairwise(units)]
    for features in (*network.channels[-2::-1], network.shape[2]) if network.channels else ():
        layers.append(pixels * 4**2 * channels * features)
        pixels, channels = 4 * pixels, features
    return layers


def training_flops(network: Network) -> int:
    """Returns the FLOPs per image of the products of a training step: forward and both gradients, but no gradient of x."""
    first, *others = multiplications(network)
    return 2 * (2 * first + 3 * sum(others))


@functools.cache
def _products(rows: int, inner: int, columns: int, repeats: int, dtype: str) -> Callable[[], Any]:
    import jax
    import jax.numpy as jnp

    h, w = jnp.ones((rows, inner), dtype), jnp.full((inner, columns), 1e-3, dtype)

    @jax.jit
    def products(h: Any, w: Any) -> Any:
        # Each product depends on the one before. Otherwise XLA would remove it.
        small = jnp.asarray(1e-9, dtype)
        return jax.lax.fori_loop(0, repeats, lambda i, y: (h + y[0, 0] * small) @ w, jnp.zeros((rows, columns), dtype))

    program = products.lower(h, w).compile()
    program(h, w).block_until_ready()
    return lambda: program(h, w).block_until_ready()


def product_rate(
    rows: int = 1024, inner: int = 1024, columns: int = 1024, *, repeats: int = 5, dtype: str = "float32", times: int = 3
) -> float:
    """Returns the FLOP/s of a (rows, inner) x (inner, columns) product, the best of a few times. This is the roof."""
    run, seconds = _products(rows, inner, columns, repeats, dtype), []
    for _ in range(times):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return repeats * 2 * rows * inner * columns / min(seconds)
