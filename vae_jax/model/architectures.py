"""`mlp_vae`, `conv_vae` and `ladder_vae`: models with the built-in networks."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from vae_jax import networks
from vae_jax.data.moments import Moments
from vae_jax.likelihoods import DecoderOutput, Likelihood, from_log_prob
from vae_jax.model.scaling import FROM_DATA, Standardize, move_location, scale_by_constants, scale_by_params
from vae_jax.model.vae import VAE, encoder_shape, make_vae
from vae_jax.networks import Network
from vae_jax.posteriors import Posterior, ladder
from vae_jax.priors import ConditionalGaussian, Prior


def mlp_vae(
    data_shape: tuple[int, ...],
    likelihood: Likelihood | Callable[[DecoderOutput, Array], Array],
    *,
    latent_dim: int = 10,
    hidden: tuple[int, ...] = (256, 256),
    activation: str | Callable[[Array], Array] = "relu",
    dtype: str = "float32",
    train_mean: ArrayLike | None = None,
    standardize: Standardize = FROM_DATA,
    prior: Prior | ConditionalGaussian | None = None,
    condition_dim: int = 0,
    mask_input: bool = False,
    posterior: Posterior | None = None,
) -> VAE:
    """Makes the usual MLP VAE, with an encoder of widths `hidden` and a decoder of the same widths in reverse.

    Args:
      data_shape: shape of one example.
      likelihood: a `Likelihood`, or any function (decoder_output, x) -> scalar nats.
      latent_dim: number of latent dimensions of the encoder.
      hidden: widths of the hidden layers of the encoder.
      activation: name of a function of `jax.nn`, or a function (see `networks.mlp_encoder`).
      dtype: dtype of the layers (see `networks.mlp_encoder`).
      train_mean: mean of the training data, a number or an array of `data_shape`. The output bias then starts where the
        likelihood predicts it. None: it starts at zero.
      standardize: (mean, standard deviation) of data on a scale of their own, numbers or arrays of the event's shape, or
        `data.Moments`. The encoder then sees (x - mean)/std. Under a likelihood of real data, the first decoder output for each
        dimension becomes mean + std h, so the likelihood stays that of x. By default, under a likelihood of real data or of
        counts, `training.fit` puts both into the parameters, from `data.Prepared.moments`, and training does not change them.
        Rates of counts are then relative to the mean count, and the encoder sees log(1 + x), standardized, unless
        `data.prepare(count_input="standardized")` says otherwise. None: the networks see and emit x itself, which overflows
        where its numbers are large.
      prior: a learned prior (see `priors`). None: N(0, I).
      condition_dim: length of the vector on which encoder and decoder are conditioned, usually `data.Prepared.condition_dim`.
      mask_input: whether the encoder sees the mask of the observed entries as well (see `make_vae`).
      posterior: the family of q(z|x), such as `posteriors.full(latent_dim)`. None: the diagonal Gaussian.

    Returns:
      The `VAE`.

    Example:
      >>> import jax
      >>> from vae_jax import likelihoods
      >>> vae = mlp_vae((8, 8, 1), likelihoods.bernoulli(), latent_dim=2, hidden=(16,))
      >>> params = vae.init(jax.random.key(0))
      >>> jax.vmap(vae.encode, in_axes=(None, 0))(params, jnp.zeros((5, 8, 8, 1)))[0].shape
      (5, 2)
    """
    likelihood = likelihood if isinstance(likelihood, Likelihood) else from_log_prob(likelihood)
    reverse = tuple(reversed(hidden))
    options: dict[str, Any] = {"activation": activation, "dtype": dtype, "condition_dim": condition_dim}
    seen = encoder_shape(data_shape, mask_input, likelihood)
    return assemble_vae(
        networks.mlp_encoder(seen, latent_dim, hidden=hidden, num_extra=posterior.num_extra if posterior else 0, **options),
        partial(networks.mlp_decoder, latent_dim, decoder_shape(data_shape, likelihood), hidden=reverse, **options),
        data_shape,
        likelihood,
        train_mean,
        standardize,
        prior,
        condition_dim=condition_dim,
        mask_input=mask_input,
        posterior=posterior,
    )


def conv_vae(
    data_shape: tuple[int, ...],
    likelihood: Likelihood | Callable[[DecoderOutput, Array], Array],
    *,
    latent_dim: int = 10,
    channels: tuple[int, ...] | None = None,
    dense: tuple[int, ...] = (256,),
    num_blocks: int = 0,
    norm: networks.Norm = "none",
    activation: str | Callable[[Array], Array] = "relu",
    dtype: str = "float32",
    train_mean: ArrayLike | None = None,
    standardize: Standardize = FROM_DATA,
    prior: Prior | ConditionalGaussian | None = None,
    condition_dim: int = 0,
    mask_input: bool = False,
    posterior: Posterior | None = None,
) -> VAE:
    """Makes a convolutional VAE, a residual one with `num_blocks` > 0.

    For 64 x 64 images, its shape is by default that of disentanglement_lib.

    Args:
      data_shape, likelihood, latent_dim, activation, dtype, train_mean, standardize, prior, condition_dim, mask_input,
        posterior: see `mlp_vae`.
      channels, dense, num_blocks, norm: see `networks.conv_encoder`. The decoder mirrors the encoder.

    Returns:
      The `VAE`.

    Example:
      >>> import jax
      >>> from vae_jax import likelihoods
      >>> vae = conv_vae((28, 28, 1), likelihoods.bernoulli(), latent_dim=2)
      >>> jax.eval_shape(vae.decode, jax.eval_shape(vae.init, jax.random.key(0)), jnp.zeros(2)).shape
      (28, 28, 1)
    """

    def shared(make: Callable[..., Network]) -> Callable[..., Network]:
        return partial(
            make,
            channels=channels,
            dense=dense,
            num_blocks=num_blocks,
            norm=norm,
            activation=activation,
            dtype=dtype,
            condition_dim=condition_dim,
        )

    num_extra = posterior.num_extra if posterior else 0
    return assemble_vae(
        shared(networks.conv_encoder)(encoder_shape(data_shape, mask_input), latent_dim, num_extra=num_extra),
        partial(shared(networks.conv_decoder), latent_dim, data_shape),
        data_shape,
        likelihood,
        train_mean,
        standardize,
        prior,
        condition_dim=condition_dim,
        mask_input=mask_input,
        posterior=posterior,
    )


def ladder_vae(
    data_shape: tuple[int, ...],
    likelihood: Likelihood | Callable[[DecoderOutput, Array], Array],
    *,
    latent_channels: Sequence[int] = (8, 4, 2),
    channels: tuple[int, ...] | None = None,
    halvings: Sequence[int] | None = None,
    num_blocks: int = 1,
    norm: networks.Norm = "none",
    activation: str | Callable[[Array], Array] = "relu",
    dtype: str = "float32",
    remat: bool = False,
    train_mean: ArrayLike | None = None,
    standardize: Standardize = FROM_DATA,
    condition_dim: int = 0,
    mask_input: bool = False,
) -> VAE:
    """Makes a convolutional VAE with 2 to 6 stochastic layers, whose code is that of all layers, one after another.

    Args:
      data_shape, likelihood, train_mean, standardize, condition_dim, mask_input: see `mlp_vae`.
      latent_channels, channels, halvings, num_blocks, norm, activation, dtype, remat: see `networks.ladder`.

    Returns:
      The `VAE`, with the prior N(0, I) of the standardized latents and the posterior `posteriors.ladder`. `split_layers` gives
      the layers of a code.

    Example:
      >>> import jax
      >>> from vae_jax import likelihoods
      >>> vae = ladder_vae((28, 28, 1), likelihoods.bernoulli())
      >>> [layer.shape for layer in split_layers(vae, jnp.zeros(vae.latent_dim))]
      [(7, 7, 8), (7, 7, 4), (14, 14, 2)]
    """
    parts = networks.ladder(
        data_shape,
        latent_channels=latent_channels,
        channels=channels,
        halvings=halvings,
        num_blocks=num_blocks,
        norm=norm,
        activation=activation,
        dtype=dtype,
        remat=remat,
        condition_dim=condition_dim,
        input_shape=encoder_shape(data_shape, mask_input),
    )
    return assemble_vae(
        parts.encoder,
        parts.make_decoder,
        data_shape,
        likelihood,
        train_mean,
        standardize,
        None,
        condition_dim=condition_dim,
        mask_input=mask_input,
        posterior=ladder(parts.infer, parts.layers),
    )


def split_layers(vae: VAE, z: Float[Array, "*batch latent"]) -> tuple[Array, ...]:
    """Splits codes of a model with several stochastic layers into their layers, top layer first.

    The layers are standardized: each is N(0, I) under the prior, given the layers above it.

    Args:
      vae: the model.
      z: codes, shape (..., latent_dim). Auxiliary dimensions of the prior, at their end, are left out.

    Returns:
      An array for each layer, of shape (..., *layer), such as (..., height, width, channels). Of a model with one layer: z.
    """
    layers = () if vae.posterior is None else vae.posterior.layers
    if not layers:
        return (z,)
    return networks.split_layers(z[..., : sum(map(math.prod, layers))], layers)


def decoder_shape(data_shape: tuple[int, ...], likelihood: Likelihood) -> tuple[int, ...]:
    """Returns the shape of the decoder's array before `outputs_per_dim`, which is flat for a mixed likelihood."""
    return data_shape if likelihood.num_outputs is None else (likelihood.num_outputs,)


def assemble_vae(
    encoder: Network,
    make_decoder: Callable[..., Network],
    data_shape: tuple[int, ...],
    likelihood: Likelihood | Callable[[DecoderOutput, Array], Array],
    train_mean: ArrayLike | None,
    standardize: Standardize,
    prior: Prior | ConditionalGaussian | None,
    *,
    condition_dim: int = 0,
    mask_input: bool = False,
    posterior: Posterior | None = None,
) -> VAE:
    """Makes the decoder for the outputs that the likelihood takes, and puts all parts together with the scale of the data.

    Args:
      encoder: takes events whose last axis is twice as long with `mask_input`.
      make_decoder: (outputs_per_dim=, output_bias=) -> the decoder.
      data_shape, likelihood, train_mean, standardize, prior: see `mlp_vae`.
      condition_dim, mask_input, posterior: see `make_vae`.
    """
    if not isinstance(likelihood, Likelihood):
        likelihood = from_log_prob(likelihood)
    takes_moments = standardize == FROM_DATA and likelihood.support in ("real", "counts", "mixed")
    is_known = standardize is not None and standardize != FROM_DATA
    moments = Moments(*standardize) if is_known else Moments(0.0, 1.0)  # pyright: ignore
    center, spread = moments.mean, moments.std
    moves_location = is_known and likelihood.support in ("real", "mixed")

    output_bias = None
    if train_mean is not None:
        if likelihood.output_for_mean is None:
            raise ValueError(f"train_mean: the likelihood {likelihood.name!r} has no output_for_mean; leave it out.")
        output_bias = likelihood.output_for_mean(jnp.broadcast_to(jnp.asarray(train_mean, jnp.float32), data_shape))
        if moves_location:
            output_bias = move_location(likelihood, output_bias, -center / spread, 1 / spread)
    decoder = make_decoder(outputs_per_dim=likelihood.outputs_per_dim, output_bias=output_bias)
    if moves_location:
        inner_decode = decoder.apply
        decoder = decoder._replace(
            apply=lambda params, *inputs, **noise: move_location(
                likelihood, inner_decode(params, *inputs, **noise), center, spread
            )
        )
    options: dict[str, Any] = {"condition_dim": condition_dim, "mask_input": mask_input, "posterior": posterior}
    vae = make_vae(encoder, decoder, likelihood, data_shape, prior, **options)
    if is_known:
        return scale_by_constants(vae, moments)
    # A bias that the caller has set is on the scale of x already.
    return scale_by_params(vae, scale_output=train_mean is None) if takes_moments else vae
