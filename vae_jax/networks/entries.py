"""Registry entries of the built-in networks.

The factories import JAX and Flax when they are called. This module imports neither.
"""

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from vae_jax.config.registry import Entry, Setting, Settings, TrainingData, register

if TYPE_CHECKING:
    from collections.abc import Callable

    from vae_jax.networks.base import Network

    Networks = tuple[Network, Callable[..., Network]]

_WIDTHS = "widths >= 1 (and at most 10^6)"
HIDDEN = Setting(
    "hidden",
    tuple[int, ...],
    (256, 256),
    "Widths of the encoder's hidden layers; the decoder has them in reverse.",
    low=1,
    high=1e6,
    bounds=_WIDTHS,
)
CHANNELS = Setting(
    "channels",
    tuple[int, ...],
    (),
    "Channels after each halving of the image or series. If none are given: 32 and then 64, down to a side below 8.",
    low=1,
    high=1e6,
    bounds=_WIDTHS,
)
DENSE = Setting(
    "dense",
    tuple[int, ...],
    (256,),
    "Widths of the dense layers between the convolutions and the latent dimensions.",
    low=1,
    high=1e6,
    bounds=_WIDTHS,
)
GATED = Setting(
    "gated",
    bool,
    False,
    "Multiply each hidden layer by the sigmoid of a second linear function of its input; with `activation` linear as in the "
    "VampPrior's paper.",
)
NUM_BLOCKS = Setting("num_blocks", int, 1, "Residual blocks at each size of the image or series.", low=1, high=1e8)
NORM = Setting(
    "norm",
    Literal["none", "group"],
    "none",
    "none (each block starts as the identity), or group: GroupNorm before each activation. Batch statistics would mix the "
    "examples.",
)


def _mlp(config: Settings, data: TrainingData) -> "Networks":
    from vae_jax import networks

    latent_dim, hidden = config.latent_dim, tuple(reversed(config.hidden))
    common: dict[str, Any] = {
        "activation": config.activation,
        "dtype": config.dtype,
        "condition_dim": data.condition_dim,
        "gated": config.gated,
    }
    shape = data.input_shape or data.data_shape
    encoder = networks.mlp_encoder(shape, latent_dim, hidden=config.hidden, num_extra=data.num_extra, **common)
    return encoder, partial(networks.mlp_decoder, latent_dim, data.output_shape or data.data_shape, hidden=hidden, **common)


def _conv(config: Settings, data: TrainingData, **blocks: Any) -> "Networks":
    from vae_jax import networks

    options: dict[str, Any] = {"channels": config.channels, "dense": config.dense, "num_blocks": 0, "norm": "none", **blocks}
    options |= {"activation": config.activation, "dtype": config.dtype, "condition_dim": data.condition_dim}
    shape = data.input_shape or data.data_shape
    encoder = networks.conv_encoder(shape, config.latent_dim, num_extra=data.num_extra, **options)
    return encoder, partial(networks.conv_decoder, config.latent_dim, data.data_shape, **options)


def _resnet(config: Settings, data: TrainingData) -> "Networks":
    return _conv(config, data, num_blocks=config.num_blocks, norm=config.norm)


for _entry in (
    Entry("network", "mlp", "dense layers", _mlp, (HIDDEN, GATED)),
    Entry("network", "conv", "images of any sides from 2 x 2, or series (event series)", _conv, (CHANNELS, DENSE)),
    Entry("network", "resnet", "conv with residual blocks", _resnet, (CHANNELS, DENSE, NUM_BLOCKS, NORM)),
):
    register(_entry)
