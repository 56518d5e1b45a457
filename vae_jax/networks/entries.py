"""Registry entries of the built-in networks.

The factories import JAX and Flax when they are called. This module imports neither.
"""

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from vae_jax.config.registry import Entry, Setting, Settings, TrainingData, register
from vae_jax.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vae_jax.networks.base import Network
    from vae_jax.networks.ladder import Ladder

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
LATENT_CHANNELS = Setting(
    "latent_channels",
    tuple[int, ...],
    (8, 4, 2),
    "Channels of the latent feature map of each stochastic layer, from the top, 2 to 6 numbers. They take the place of "
    "`latent_dim`.",
    low=1,
    high=1e6,
    bounds=_WIDTHS,
)
LAYER_HALVINGS = Setting(
    "layer_halvings",
    tuple[int, ...],
    (),
    "Halvings of the image or series at each stochastic layer, from the top. If none are given: spread over the `channels`.",
    low=1,
    high=32,
    bounds="whole numbers from 1 to the number of `channels`",
)
REMAT = Setting(
    "remat",
    bool,
    False,
    "Compute the inner values of the blocks a second time for the gradient, to save memory (rematerialization).",
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


def _ladder(config: Settings, data: TrainingData) -> "Ladder":
    from vae_jax import networks

    return networks.ladder(
        data.data_shape,
        latent_channels=config.latent_channels,
        channels=config.channels or None,
        halvings=config.layer_halvings,
        num_blocks=config.num_blocks,
        norm=config.norm,
        activation=config.activation,
        dtype=config.dtype,
        remat=config.remat,
        condition_dim=data.condition_dim,
        input_shape=data.input_shape,
    )


def _check_ladder(config: Settings) -> None:
    objective = config.entry("objective")
    if not 2 <= len(config.latent_channels) <= 6:
        raise UserError(
            field="latent_channels",
            expected="2 to 6 numbers, one for each stochastic layer from the top",
            got=" ".join(map(str, config.latent_channels)) or "none",
        )
    if config.posterior != "diagonal":
        raise UserError(
            f'`network="ladder"` has a posterior of its own layers, and `posterior="{config.posterior}"` is a different one. '
            "Leave `posterior` out.",
            field="posterior",
        )
    if config.prior in ("vamp", "conditional", "hierarchical"):
        raise UserError(
            f'`network="ladder"`: `prior="{config.prior}"` is for a single layer with a diagonal Gaussian posterior. '
            "Leave `prior` out: the layers learn theirs.",
            field="prior",
        )
    if objective is not None and not objective.any_posterior:
        raise UserError(
            f'`network="ladder"`: `objective="{config.objective}"` assumes a diagonal Gaussian posterior. '
            'Use one for any posterior, such as `objective="elbo"`.',
            field="objective",
        )


for _entry in (
    Entry("network", "mlp", "dense layers", _mlp, (HIDDEN, GATED)),
    Entry("network", "conv", "images of any sides from 2 x 2, or series (event series)", _conv, (CHANNELS, DENSE)),
    Entry("network", "resnet", "conv with residual blocks", _resnet, (CHANNELS, DENSE, NUM_BLOCKS, NORM)),
    Entry(
        "network",
        "ladder",
        "convolutional, with 2 to 6 stochastic layers",
        _ladder,
        (LATENT_CHANNELS, LAYER_HALVINGS, CHANNELS, NUM_BLOCKS, NORM, REMAT),
        _check_ladder,
    ),
):
    register(_entry)
