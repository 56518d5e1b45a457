"""`VAE`: a bundle of pure functions (init, encode, decode) for one example, with its likelihood."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from vae_jax import networks
from vae_jax._numerics.keys import Part, Stream, stream
from vae_jax._numerics.short_repr import short_repr
from vae_jax.data.moments import Moments
from vae_jax.likelihoods import Likelihood, from_log_prob
from vae_jax.model.checks import as_seen, latent_dim_of, of_one_example, shapes_of_output, shapes_of_parameters, wrong_shape
from vae_jax.networks import Network
from vae_jax.priors import Prior

Params = Any  # a pytree of arrays
FROM_DATA: Literal["from_data"] = "from_data"
Standardize = tuple[Any, Any] | Literal["from_data"] | None
SCALING = "scaling"  # parameters that no step changes: the mean and the standard deviation of the training data


@short_repr
class VAE(NamedTuple):
    """A variational autoencoder with a diagonal Gaussian posterior. No arrays inside, so it is hashable."""

    init: Callable[[Array], Params]  # key -> params
    encode: Callable[[Params, Array], tuple[Array, Array]]  # (params, x) -> (mean, log_scale), each (latent,)
    decode: Callable[[Params, Array], Any]  # (params, z) -> decoder_output for the likelihood
    likelihood: Likelihood
    data_shape: tuple[int, ...]
    latent_dim: int
    prior: Prior | None = None  # None: N(0, I)
    takes_moments: bool = False  # parameters may hold the mean and the standard deviation of the training data


def prior_log_prob(vae: VAE, params: Params) -> Callable[[Array], Array] | None:
    """Log p(z) of the learned prior at these parameters, for the objectives; None for N(0, I), whose KL has a closed form."""
    if vae.prior is None:
        return None
    log_prob = vae.prior.log_prob
    return lambda z: log_prob(params["prior"], lambda x: vae.encode(params, x), z)


def num_parameters(vae: VAE) -> int:
    """Number of trained numbers: the sizes of all arrays of `vae.init`. Nothing is computed."""
    params = jax.eval_shape(vae.init, stream(0, Stream.INIT))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def sample_prior(vae: VAE, params: Params, key: Array) -> Array:
    """One draw of z from the prior, shape (latent,)."""
    if vae.prior is None:
        return jax.random.normal(key, (vae.latent_dim,))
    return vae.prior.sample(params["prior"], lambda x: vae.encode(params, x), key)


def make_vae(
    encoder: Network,
    decoder: Network,
    likelihood: Likelihood | Callable[[Any, Array], Array],
    data_shape: tuple[int, ...],
    prior: Prior | None = None,
) -> VAE:
    """Puts an encoder, a decoder and a likelihood together, and checks that they fit.

    Args:
      encoder: x -> (mean, log_scale), each of shape (latent,), log_scale the log of the standard deviation.
      decoder: z -> an array for the likelihood, usually of `data_shape`.
      likelihood: a `Likelihood`, or any function (decoder_output, x) -> scalar nats.
      data_shape: shape of one example.
      prior: a learned prior, see `priors`; N(0, I) by default.

    Returns:
      A `VAE`, whose codes have `prior.num_auxiliary` more dimensions than the encoder gives. Its params are {"encoder": ...,
      "decoder": ...}, "prior": ... where that is learned, and "likelihood": ... where the likelihood has learned numbers of its
      own; `decode` then returns (decoder's array, those numbers).

    Raises:
      ValueError: where the parts do not fit, with what was expected and what came. Nothing is computed for this. Later, at
        trace time, where `encode`, `decode` or the likelihood gets a batch in place of one example, and where `encode` gets
        integers: data as stored, which the network was not trained on.
    """
    networks.check_network("encoder", encoder)
    networks.check_network("decoder", decoder)
    if not isinstance(likelihood, Likelihood):
        likelihood = from_log_prob(likelihood)
    data_shape = tuple(data_shape)
    likelihood = likelihood._replace(log_prob=of_one_example(likelihood, data_shape))

    def init(key: Array) -> Params:
        part = lambda number: jax.random.fold_in(key, number)  # noqa: E731
        params = {"encoder": encoder.init(part(Part.ENCODER)), "decoder": decoder.init(part(Part.DECODER))}
        if likelihood.shared_start:
            params["likelihood"] = jnp.array(likelihood.shared_start, jnp.float32)
        if prior is not None:
            params["prior"] = prior.init(part(Part.PRIOR))
        return params

    num_auxiliary = 0 if prior is None else prior.num_auxiliary

    def encode(params: Params, x: Array) -> tuple[Array, Array]:
        x = as_seen("encode", likelihood, data_shape, x)
        posterior = encoder.apply(params["encoder"], x)
        return jax.tree.map(lambda leaf: jnp.pad(leaf, (0, num_auxiliary)), posterior) if num_auxiliary else posterior

    x = jax.ShapeDtypeStruct(data_shape, jnp.float32)
    params = shapes_of_parameters(init, encoder, decoder)
    inner_dim = latent_dim_of(encoder, params["encoder"], x)
    latent_dim = inner_dim + num_auxiliary

    def decode(params: Params, z: Array) -> Any:
        if jnp.shape(z) != (latent_dim,):
            raise ValueError(wrong_shape("decode", "code", (latent_dim,), jnp.shape(z)))
        output = decoder.apply(params["decoder"], z[:-num_auxiliary] if num_auxiliary else z)
        return (output, params["likelihood"]) if likelihood.shared_start else output

    output = shapes_of_output(decoder, decode, params, inner_dim, latent_dim)
    log_prob = jax.eval_shape(likelihood.log_prob, output, x)
    if getattr(log_prob, "shape", None) != ():
        raise ValueError(
            f"make_vae: expected the likelihood {likelihood.name!r} to return a scalar (nats summed over one example), "
            f"got {getattr(log_prob, 'shape', type(log_prob).__name__)}. Sum over the event inside it; do not average."
        )
    vae = VAE(init, encode, decode, likelihood, data_shape, latent_dim, prior)
    if prior is not None:
        z = jax.ShapeDtypeStruct((latent_dim,), jnp.float32)
        shape = jax.eval_shape(
            lambda params, z: prior.log_prob(params["prior"], lambda x: encode(params, x), z), params, z
        ).shape
        if shape != ():
            raise ValueError(f"make_vae: expected the prior {prior.name!r} to return a scalar for one code, got shape {shape}.")
    return vae


def mlp_vae(
    data_shape: tuple[int, ...],
    likelihood: Likelihood | Callable[[Any, Array], Array],
    *,
    latent_dim: int = 10,
    hidden: tuple[int, ...] = (256, 256),
    activation: str | Callable[[Array], Array] = "relu",
    dtype: str = "float32",
    train_mean: ArrayLike | None = None,
    standardize: Standardize = FROM_DATA,
    prior: Prior | None = None,
) -> VAE:
    """The usual MLP VAE: encoder with widths `hidden`, decoder with the same in reverse.

    Args:
      data_shape, likelihood, prior: as in `make_vae`; latent_dim, hidden, activation, dtype: as in `networks.mlp_encoder`.
      train_mean: mean of the training data (shape `data_shape` or scalar); the output bias then starts where the likelihood
        predicts it. Zeros without.
      standardize: (mean, standard deviation) of data on a scale of their own, numbers or arrays of the event's shape. The
        encoder then sees (x - mean)/std. Under a likelihood of real data the decoder's output (the first of them for each
        dimension) is mean + std h, so the likelihood stays that of x. By default, under a likelihood of real data or of counts,
        `training.fit` puts both into the parameters, from `data.Prepared.moments`, and no step changes them. Rates of counts
        are then relative to the mean count. None: the networks see and emit x itself, which overflows where its numbers are
        large.

    Example:
      >>> from vae_jax import likelihoods
      >>> vae = mlp_vae((8, 8, 1), likelihoods.bernoulli(), latent_dim=2, hidden=(16,))
      >>> params = vae.init(jax.random.key(0))
      >>> jax.vmap(vae.encode, in_axes=(None, 0))(params, jnp.zeros((5, 8, 8, 1)))[0].shape
      (5, 2)
    """
    own: dict[str, Any] = {"activation": activation, "dtype": dtype}
    return assemble_vae(
        networks.mlp_encoder(data_shape, latent_dim, hidden=hidden, **own),
        partial(networks.mlp_decoder, latent_dim, data_shape, hidden=tuple(reversed(hidden)), **own),
        data_shape,
        likelihood,
        train_mean,
        standardize,
        prior,
    )


def conv_vae(
    data_shape: tuple[int, ...],
    likelihood: Likelihood | Callable[[Any, Array], Array],
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
    prior: Prior | None = None,
) -> VAE:
    """A convolutional VAE; for 64 x 64 images by default in disentanglement_lib's shape, with `num_blocks` residual.

    Args:
      channels, dense, num_blocks, norm: as in `networks.conv_encoder`; the decoder mirrors the encoder.
      others: as in `mlp_vae`.

    Example:
      >>> from vae_jax import likelihoods
      >>> vae = conv_vae((28, 28, 1), likelihoods.bernoulli(), latent_dim=2)
      >>> jax.eval_shape(vae.decode, jax.eval_shape(vae.init, jax.random.key(0)), jnp.zeros(2)).shape
      (28, 28, 1)
    """
    own: dict[str, Any] = {
        "channels": channels,
        "dense": dense,
        "num_blocks": num_blocks,
        "norm": norm,
        "activation": activation,
        "dtype": dtype,
    }
    return assemble_vae(
        networks.conv_encoder(data_shape, latent_dim, **own),
        partial(networks.conv_decoder, latent_dim, data_shape, **own),
        data_shape,
        likelihood,
        train_mean,
        standardize,
        prior,
    )


def assemble_vae(
    encoder: Network,
    make_decoder: Callable[..., Network],
    data_shape: tuple[int, ...],
    likelihood: Likelihood | Callable[[Any, Array], Array],
    train_mean: ArrayLike | None,
    standardize: Standardize,
    prior: Prior | None,
) -> VAE:
    """The two networks with the likelihood and the scale of the data; the decoder is made for what the likelihood takes."""
    if not isinstance(likelihood, Likelihood):
        likelihood = from_log_prob(likelihood)
    stored = standardize == FROM_DATA and likelihood.support in ("real", "counts")
    center, spread = (0.0, 1.0) if standardize is None or standardize == FROM_DATA else standardize
    known = standardize is not None and standardize != FROM_DATA
    moves_location = known and likelihood.support == "real"

    output_bias = None
    if train_mean is not None:
        if likelihood.output_for_mean is None:
            raise ValueError(f"train_mean: the likelihood {likelihood.name!r} has no output_for_mean; leave it out.")
        output_bias = likelihood.output_for_mean(jnp.broadcast_to(jnp.asarray(train_mean, jnp.float32), data_shape))
        if moves_location:
            output_bias = _located(likelihood, output_bias, -center / spread, 1 / spread)
    decoder = make_decoder(outputs_per_dim=likelihood.outputs_per_dim, output_bias=output_bias)
    if known:
        inner_encode = encoder.apply
        encoder = encoder._replace(apply=lambda params, x: inner_encode(params, (x - center) / spread))
    if moves_location:
        inner_decode = decoder.apply
        decoder = decoder._replace(apply=lambda params, z: _located(likelihood, inner_decode(params, z), center, spread))
    vae = make_vae(encoder, decoder, likelihood, data_shape, prior)
    # A bias that the caller has set is on the scale of x already.
    return _scaled_by_params(vae, scale_output=train_mean is None) if stored else vae


def _located(likelihood: Likelihood, output: Array, shift: Any, factor: Any) -> Array:
    """Moves the location, the first number that the decoder emits for each dimension."""
    if likelihood.outputs_per_dim == 1:
        return shift + factor * output
    return output.at[..., 0].set(shift + factor * output[..., 0])


def _scaled_by_params(vae: VAE, scale_output: bool) -> VAE:
    """Returns the model that standardizes data by its parameters, where `with_moments` has put the scale of the data there."""
    likelihood = vae.likelihood

    def scaled(output: Array, mean: Array, std: Array) -> Array:
        if likelihood.support == "real":
            return _located(likelihood, output, mean, std)
        if likelihood.scale_mean is None:
            return output
        factor = jnp.maximum(mean, 1e-3)
        if likelihood.outputs_per_dim == 1:
            return likelihood.scale_mean(output, factor)
        return output.at[..., 0].set(likelihood.scale_mean(output[..., 0], factor))

    def encode(params: Params, x: Array) -> tuple[Array, Array]:
        if SCALING in params:
            scaling = jax.lax.stop_gradient(params[SCALING])
            x = (x - scaling["mean"]) / scaling["std"]
        return vae.encode(params, x)

    def decode(params: Params, z: Array) -> Any:
        output = vae.decode(params, z)
        if SCALING not in params or not scale_output:
            return output
        scaling = jax.lax.stop_gradient(params[SCALING])
        first, *shared = output if likelihood.shared_start else (output,)
        first = scaled(first, scaling["mean"], scaling["std"])
        return (first, *shared) if shared else first

    return vae._replace(encode=encode, decode=decode, takes_moments=True)


def with_moments(vae: VAE, moments: Moments | None) -> VAE:
    """Returns the model whose parameters start with the training data's moments, where it takes them."""
    if moments is None or not vae.takes_moments:
        return vae
    scaling = {name: jnp.asarray(value, jnp.float32) for name, value in moments._asdict().items()}
    return vae._replace(init=lambda key: {**vae.init(key), SCALING: jax.tree.map(jnp.copy, scaling)})


def keep_scaling(new: Params, old: Params) -> Params:
    """Returns the new parameters with the old scale of the data: weight decay, say, must not change it."""
    return {**new, SCALING: old[SCALING]} if isinstance(old, dict) and SCALING in old else new
