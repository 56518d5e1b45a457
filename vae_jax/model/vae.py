"""`VAE` and `make_vae`, which puts an encoder, a decoder, a likelihood and a prior together."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from vae_jax import networks
from vae_jax._numerics.arrays import Params
from vae_jax._numerics.keys import Part, Stream, stream
from vae_jax._numerics.short_repr import short_repr
from vae_jax.likelihoods import DecoderOutput, Likelihood, from_log_prob
from vae_jax.model import checks
from vae_jax.networks import Network
from vae_jax.priors import Prior


@short_repr
class VAE(NamedTuple):
    """A variational autoencoder with a diagonal Gaussian posterior, as pure functions of ONE example.

    It contains no arrays, so it is hashable. `make_vae`, `mlp_vae` and `conv_vae` make one.

    Attributes:
      init: key -> initial parameters.
      encode: (params, x) -> (mean, log_scale) of q(z|x), each of shape (latent,).
      decode: (params, z) -> decoder output for the likelihood.
      likelihood: p(x|z).
      data_shape: shape of one example.
      latent_dim: length of a code, including the auxiliary dimensions of the prior.
      prior: p(z). None: N(0, I).
      takes_moments: whether the parameters may hold the mean and the standard deviation of the training data (see
        `with_moments`).
    """

    init: Callable[[Array], Params]
    encode: Callable[[Params, Array], tuple[Array, Array]]
    decode: Callable[[Params, Array], DecoderOutput]
    likelihood: Likelihood
    data_shape: tuple[int, ...]
    latent_dim: int
    prior: Prior | None = None
    takes_moments: bool = False


def prior_log_prob(vae: VAE, params: Params) -> Callable[[Array], Array] | None:
    """Returns z -> log p(z) of the learned prior at these parameters, for the objectives.

    It is None for N(0, I), whose KL has a closed form.
    """
    if vae.prior is None:
        return None
    log_prob = vae.prior.log_prob
    return lambda z: log_prob(params["prior"], lambda x: vae.encode(params, x), z)


def num_parameters(vae: VAE) -> int:
    """Returns the number of trained numbers, the sizes of all arrays of `vae.init`. Nothing is computed."""
    params = jax.eval_shape(vae.init, stream(0, Stream.INIT))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def sample_prior(vae: VAE, params: Params, key: Key[Array, ""]) -> Float[Array, "latent"]:
    """Draws one code z from the prior."""
    if vae.prior is None:
        return jax.random.normal(key, (vae.latent_dim,))
    return vae.prior.sample(params["prior"], lambda x: vae.encode(params, x), key)


def make_vae(
    encoder: Network,
    decoder: Network,
    likelihood: Likelihood | Callable[[DecoderOutput, Array], Array],
    data_shape: tuple[int, ...],
    prior: Prior | None = None,
) -> VAE:
    """Puts an encoder, a decoder and a likelihood together, and checks that they fit.

    Args:
      encoder: x -> (mean, log_scale), each of shape (latent,), log_scale the log of the standard deviation.
      decoder: z -> an array for the likelihood, usually of `data_shape`.
      likelihood: a `Likelihood`, or any function (decoder_output, x) -> scalar nats.
      data_shape: shape of one example.
      prior: a learned prior (see `priors`). None: N(0, I).

    Returns:
      A `VAE`, whose codes have `prior.num_auxiliary` more dimensions than the encoder gives. Its params are {"encoder": ...,
      "decoder": ...}, with "prior" if the prior is learned, and "likelihood" if the likelihood has learned shared numbers. In
      that case `decode` returns (the decoder's array, those numbers).

    Raises:
      ValueError: the parts do not fit. Nothing is computed for this check. Later, at trace time: `encode`, `decode` or the
        likelihood receives a batch in place of one example, or `encode` receives stored integers, on which the network was
        not trained.
    """
    networks.check_network("encoder", encoder)
    networks.check_network("decoder", decoder)
    if not isinstance(likelihood, Likelihood):
        likelihood = from_log_prob(likelihood)
    data_shape = tuple(data_shape)
    likelihood = likelihood._replace(log_prob=checks.checked_log_prob(likelihood, data_shape))

    def init(key: Array) -> Params:
        params = {
            "encoder": encoder.init(jax.random.fold_in(key, Part.ENCODER)),
            "decoder": decoder.init(jax.random.fold_in(key, Part.DECODER)),
        }
        if likelihood.shared_start:
            params["likelihood"] = jnp.array(likelihood.shared_start, jnp.float32)
        if prior is not None:
            params["prior"] = prior.init(jax.random.fold_in(key, Part.PRIOR))
        return params

    num_auxiliary = 0 if prior is None else prior.num_auxiliary

    def encode(params: Params, x: Array) -> tuple[Array, Array]:
        x = checks.check_example("encode", likelihood, data_shape, x)
        posterior = encoder.apply(params["encoder"], x)
        return jax.tree.map(lambda leaf: jnp.pad(leaf, (0, num_auxiliary)), posterior) if num_auxiliary else posterior

    x = jax.ShapeDtypeStruct(data_shape, jnp.float32)
    params = checks.parameter_shapes(init, encoder, decoder)
    inner_dim = checks.infer_latent_dim(encoder, params["encoder"], x)
    latent_dim = inner_dim + num_auxiliary

    def decode(params: Params, z: Array) -> DecoderOutput:
        if jnp.shape(z) != (latent_dim,):
            raise ValueError(checks.wrong_shape("decode", "code", (latent_dim,), jnp.shape(z)))
        output = decoder.apply(params["decoder"], z[:-num_auxiliary] if num_auxiliary else z)
        return (output, params["likelihood"]) if likelihood.shared_start else output

    output = checks.output_shapes(decode, params, inner_dim, latent_dim)
    checks.check_likelihood(likelihood, output, x)
    if prior is not None:
        checks.check_prior(prior, lambda params: lambda x: encode(params, x), params, latent_dim)
    return VAE(init, encode, decode, likelihood, data_shape, latent_dim, prior)
