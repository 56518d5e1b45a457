"""`VAE` and `make_vae`, which puts an encoder, a decoder, a likelihood and a prior together."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from vae_jax import networks
from vae_jax._numerics.arrays import Params
from vae_jax._numerics.keys import Part, Stream, stream
from vae_jax._numerics.short_repr import short_repr
from vae_jax.example import Example, Examples, condition_of, event_of, mask_of, with_event
from vae_jax.likelihoods import DecoderOutput, Likelihood, from_log_prob, mixed, observed_log_prob
from vae_jax.model import checks, density_checks, key_checks
from vae_jax.networks import Network
from vae_jax.posteriors import DIAGONAL, Encode, Posterior, PosteriorParams, with_auxiliary
from vae_jax.priors import ConditionalGaussian, Prior


@short_repr
class VAE(NamedTuple):
    """A variational autoencoder as pure functions of ONE example.

    It contains no arrays, so it is hashable. `make_vae`, `mlp_vae` and `conv_vae` make one.

    Attributes:
      init: key -> initial parameters.
      encode: (params, x) -> (mean, log_scale) of q(z|x), each of shape (latent,), and for some posteriors a third array (see
        `posteriors.Posterior`). `x` is an array, or an `Example` with a condition or a mask. Of a stochastic model it also
        takes the keyword `key`.
      decode: (params, z) -> decoder output for the likelihood; (params, z, condition) for a conditional model. Of a stochastic
        model it also takes the keyword `key`.
      likelihood: p(x|z).
      data_shape: shape of one example.
      latent_dim: length of a code, including the auxiliary dimensions of the prior.
      prior: p(z). None: N(0, I).
      takes_moments: whether the parameters may hold the mean and the standard deviation of the training data (see
        `with_moments`).
      condition_dim: length of the condition c that `encode` and `decode` take; 0 for a model without one.
      mask_input: whether the encoder sees the mask of the observed entries as well.
      conditional_prior: p(z|c), a learned Gaussian. The codes of `encode` and `decode` are then u = (z - mean(c)) / scale(c),
        which are N(0, I) under this prior, so every formula for N(0, I) holds (see `make_vae`).
      is_stochastic: whether a network draws random numbers, such as dropout. `encode` and `decode` draw with a key, which only
        the train step passes, and are deterministic without one.
      posterior: the family of q(z|x). None: a Gaussian with a diagonal covariance.
    """

    init: Callable[[Array], Params]
    encode: Callable[..., PosteriorParams]
    decode: Callable[..., DecoderOutput]
    likelihood: Likelihood
    data_shape: tuple[int, ...]
    latent_dim: int
    prior: Prior | None = None
    takes_moments: bool = False
    condition_dim: int = 0
    mask_input: bool = False
    conditional_prior: ConditionalGaussian | None = None
    is_stochastic: bool = False
    posterior: Posterior | None = None


class BoundModel(NamedTuple):
    """A model at its parameters and at the condition and mask of one example: what objectives and estimators receive."""

    encode: Encode  # event -> parameters of q(z|x), for the functions of `posterior`
    decode: Callable[[Array], DecoderOutput]  # z -> decoder output
    log_prob: Callable[[DecoderOutput, Array], Array]  # (decoder output, event) -> nats of the observed entries
    prior_log_prob: Callable[[Array], Array] | None  # z -> log p(z); None: N(0, I)
    x: Array  # the event
    posterior: Posterior = DIAGONAL

    @property
    def keywords(self) -> dict[str, Any]:
        """The keywords of an objective: a learned prior and a posterior other than the diagonal one, where there are any."""
        prior = {} if self.prior_log_prob is None else {"prior_log_prob": self.prior_log_prob}
        return prior if self.posterior is DIAGONAL else prior | {"posterior": self.posterior}


def bind(vae: VAE, params: Params, x: Array | Example, key: Array | None = None) -> BoundModel:
    """Puts the parameters, the condition and the mask of one example, and its key, into the functions of a model.

    Objectives and estimators of log p(x) know neither conditions nor masks: with these functions they compute log p(x|c) and
    log p(x_observed).

    Args:
      vae, params: the model.
      x: one example, as floats that the likelihood and the encoder take.
      key: of this example, for networks with dropout or other randomness in training. The encoder draws from
        fold_in(key, Part.ENCODER) in every call and the decoder from fold_in(key, Part.DECODER), so all draws of z share the
        dropped units, and with them the objective is one of this thinned model. The encoder that a prior calls on its
        pseudo-inputs (VampPrior) is deterministic, because p(z) does not depend on the example. None: nothing is drawn.

    Returns:
      The `BoundModel`.

    Example:
      >>> from vae_jax import likelihoods
      >>> from vae_jax.model import mlp_vae
      >>> vae = mlp_vae((3,), likelihoods.gaussian(1.0), latent_dim=2, hidden=(4,), standardize=None)
      >>> model = bind(vae, vae.init(jax.random.key(0)), Example(jnp.ones(3), mask=jnp.array([True, False, True])))
      >>> print(model.log_prob(jnp.ones(3), model.x))  # two of three entries
      -1.84
    """
    log_prior = prior_log_prob(vae, params)
    posterior = vae.posterior or DIAGONAL
    noise_x = noise_z = key_argument(None)
    if key is not None and vae.is_stochastic:
        noise_x, noise_z = (key_argument(jax.random.fold_in(key, part)) for part in (Part.ENCODER, Part.DECODER))
    if not isinstance(x, Example):
        return BoundModel(
            lambda x: posterior_params(vae, params, x, **noise_x),
            lambda z: vae.decode(params, z, **noise_z),
            vae.likelihood.log_prob,
            log_prior,
            x,
            posterior,
        )
    condition, mask = x.condition, checks.check_mask("bind", vae.data_shape, x.mask)
    return BoundModel(
        lambda event: posterior_params(vae, params, with_event(x, event), **noise_x),
        lambda z: decode_given(vae, params, z, condition, **noise_z),
        vae.likelihood.log_prob
        if mask is None
        else lambda output, event: observed_log_prob(vae.likelihood, output, event, mask),
        log_prior,
        x.event,
        posterior,
    )


def posterior_params(vae: VAE, params: Params, x: Array | Example, key: Array | None = None) -> PosteriorParams:
    """Returns the parameters of q(z|x) for the functions of `vae.posterior`: what `encode` returns, and learned weights."""
    return with_weights(vae, params, vae.encode(params, x, **key_argument(key)))


def with_weights(vae: VAE, params: Params, outputs: PosteriorParams) -> PosteriorParams:
    """Returns what `encode` gave, with the learned weights of the posterior behind it if it has any."""
    posterior = vae.posterior
    return outputs if posterior is None or posterior.part not in params else (*outputs, params[posterior.part])


def split_weights(vae: VAE, params: Params, q: PosteriorParams) -> tuple[PosteriorParams, PosteriorParams]:
    """Splits the parameters of q(z|x) into what `encode` gave and the learned weights, () if there are none."""
    posterior = vae.posterior
    return (q, ()) if posterior is None or posterior.part not in params else (q[:-1], q[-1:])


def posterior_moments(
    vae: VAE, params: Params, x: Array | Example, key: Array | None = None
) -> tuple[Float[Array, "latent"], Float[Array, "latent"]]:
    """Computes mean and log standard deviation of each dimension of q(z|x), for one example.

    Args:
      vae, params: the model.
      x: one example, as `encode` takes it.
      key: for a posterior whose moments have no closed form (flows, several layers), which are then estimated from draws.
        None: always the same draws.

    Returns:
      (mean, log_scale), each (latent,). For the diagonal posterior they are what `vae.encode` returns.
    """
    return moments_of(vae, posterior_params(vae, params, x), key)


def moments_of(vae: VAE, q: PosteriorParams, key: Array | None = None) -> tuple[Float[Array, "latent"], Float[Array, "latent"]]:
    """Returns what `posterior_moments` does from the parameters of q(z|x)."""
    if vae.posterior is None:
        mean, log_scale = q
        return mean, log_scale
    return vae.posterior.moments(stream(0, Stream.MOMENTS) if key is None else key, q)


def decode_given(vae: VAE, params: Params, z: Array, condition: Array | None, key: Array | None = None) -> DecoderOutput:
    """Decodes one code, with a condition and a key where there are any."""
    return vae.decode(params, z, *(() if condition is None else (condition,)), **key_argument(key))


def key_argument(key: Array | None) -> dict[str, Array]:
    """Returns the key as a keyword argument; none without a key, which functions of deterministic models do not take."""
    return {} if key is None else {"key": key}


def example_shapes(vae: VAE, dtype: DTypeLike = jnp.float32, masked: bool = False) -> Examples:
    """Returns the shapes of one example as the model takes it: of an array, or of an `Example`."""
    event = jax.ShapeDtypeStruct(vae.data_shape, dtype)
    if not vae.condition_dim and not masked:
        return event
    condition = jax.ShapeDtypeStruct((vae.condition_dim,), jnp.float32) if vae.condition_dim else None
    return Example(event, condition, jax.ShapeDtypeStruct(vae.data_shape, jnp.bool_) if masked else None)


def prior_log_prob(vae: VAE, params: Params) -> Callable[[Array], Array] | None:
    """Returns z -> log p(z) of the learned prior at these parameters, for the objectives.

    It is None for N(0, I), whose KL has a closed form.
    """
    if vae.prior is None:
        return None
    log_prob, part = vae.prior.log_prob, vae.prior.part
    return lambda z: log_prob(params[part], lambda x: vae.encode(params, x), z)


def num_parameters(vae: VAE) -> int:
    """Returns the number of trained numbers, the sizes of all arrays of `vae.init`. Nothing is computed."""
    params = jax.eval_shape(vae.init, stream(0, Stream.INIT))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def sample_prior(vae: VAE, params: Params, key: Key[Array, ""]) -> Float[Array, "latent"]:
    """Draws one code z from the prior."""
    if vae.prior is None:
        return jax.random.normal(key, (vae.latent_dim,))
    return vae.prior.sample(params[vae.prior.part], lambda x: vae.encode(params, x), key)


def make_vae(
    encoder: Network,
    decoder: Network,
    likelihood: Likelihood | Callable[[DecoderOutput, Array], Array],
    data_shape: tuple[int, ...],
    prior: Prior | ConditionalGaussian | None = None,
    *,
    condition_dim: int = 0,
    mask_input: bool = False,
    posterior: Posterior | None = None,
) -> VAE:
    """Puts an encoder, a decoder and a likelihood together, and checks that they fit.

    Args:
      encoder: x -> (mean, log_scale), each of shape (latent,), log_scale the log of the standard deviation. With a
        `condition_dim` it is (x, c) -> (mean, log_scale).
      decoder: z -> an array for the likelihood, usually of `data_shape`. With a `condition_dim` it is (z, c) -> this array.
      likelihood: a `Likelihood`, or any function (decoder_output, x) -> scalar nats.
      data_shape: shape of one example.
      prior: a learned prior (see `priors`), which does not depend on the condition, or p(z|c) as a `priors.ConditionalGaussian`
        of the condition. None: N(0, I).
      condition_dim: length of the vector c on which the model is conditioned: q(z|x, c), p(x|z, c). 0: no condition.
      mask_input: give the encoder the mask of the observed entries as well, as ones and zeros behind the numbers of x on the
        last axis. It then takes an event whose last axis is twice as long.
      posterior: the family of q(z|x) (see `posteriors`), whose `num_extra` numbers the encoder returns as well. None: diagonal.

    Returns:
      A `VAE`, whose codes have `prior.num_auxiliary` more dimensions than the encoder gives. Its params are {"encoder": ...,
      "decoder": ...}, with "prior" if the prior is learned, "posterior" if the posterior has learned weights, and "likelihood"
      if the likelihood has learned shared numbers. In that case `decode` returns (the decoder's array, those numbers).
      Missing entries: `encode` takes an `Example` with a mask. The encoder sees zeros for them, on the standardized scale.

      p(z|c) = N(m(c), s(c)^2): the codes are u = (z - m(c)) / s(c), so `encode` returns the mean and log_scale of q(u|x, c),
      and `decode` computes z = m(c) + s(c) u first. KL(q(u|x, c) || N(0, I)) = KL(q(z|x, c) || p(z|c)), because an invertible
      map does not change it. So all objectives keep their closed forms. Any other posterior is one of u as well.

    Raises:
      ValueError: the parts do not fit. Nothing is computed for this check. Later, at trace time: a function receives a batch in
        place of one example, `encode` receives stored integers, or a condition or a mask is missing or has a wrong shape.
    """
    condition_dim = _check_parts(encoder, decoder, prior, condition_dim)
    posterior = density_checks.check_posterior(posterior, prior)
    likelihood = likelihood if isinstance(likelihood, Likelihood) else from_log_prob(likelihood)
    likelihood = likelihood._replace(log_prob=checks.checked_log_prob(likelihood, data_shape := tuple(data_shape)))
    given, prior = (prior, None) if isinstance(prior, ConditionalGaussian) else (None, prior)

    noisy = networks.takes_key(encoder), networks.takes_key(decoder)
    init = partial(_init, parts=(encoder, decoder, likelihood, given or prior, posterior))
    num_auxiliary = 0 if prior is None else prior.num_auxiliary

    def encode(params: Params, x: Array | Example, key: Array | None = None) -> PosteriorParams:
        x = checks.check_example("encode", likelihood, data_shape, x)
        arguments = checks.condition_arguments("encode", condition_dim, condition_of(x))
        seen, noise = masked_event(x, mask_input, likelihood), key_argument(key if noisy[0] else None)
        q = encoder.apply(params["encoder"], seen, *arguments, **noise)
        q = q if given is None else _whiten(given.apply(params["prior"], *arguments), *q)
        # Other posteriors append the auxiliary dimensions to their draws (`with_auxiliary`).
        return jax.tree.map(lambda leaf: jnp.pad(leaf, (0, num_auxiliary)), q) if num_auxiliary and posterior is None else q

    params = checks.parameter_shapes(init, encoder, decoder)
    condition = checks.condition_shapes(condition_dim)
    x = jax.ShapeDtypeStruct(encoder_shape(data_shape, mask_input, likelihood), jnp.float32)
    inner_dim = checks.infer_latent_dim(encoder, params["encoder"], x, condition, mask_input, posterior)
    latent_dim = inner_dim + num_auxiliary

    def decode(params: Params, z: Array, condition: Array | None = None, key: Array | None = None) -> DecoderOutput:
        checks.check_code(z, latent_dim, condition_dim)
        arguments = checks.condition_arguments("decode", condition_dim, condition)
        z = z if given is None else _unwhiten(given.apply(params["prior"], *arguments), z)
        z, noise = z[:-num_auxiliary] if num_auxiliary else z, key_argument(key if noisy[1] else None)
        output = decoder.apply(params["decoder"], z, *arguments, **noise)
        return (output, params["likelihood"]) if likelihood.shared_start else output

    key_checks.check_with_keys(encoder, decoder, params, (x, jax.ShapeDtypeStruct((inner_dim,), jnp.float32)), condition)
    if given is not None:
        density_checks.check_conditional_prior(given, params["prior"], condition, inner_dim)
    output = checks.output_shapes(decode, params, inner_dim, latent_dim, condition)
    checks.check_likelihood(likelihood, output, jax.ShapeDtypeStruct(data_shape, jnp.float32))
    options = prior, False, condition_dim, mask_input, given, any(noisy)
    return _with_posterior(VAE(init, encode, decode, likelihood, data_shape, latent_dim, *options), posterior, params)


def _with_posterior(vae: VAE, posterior: Posterior | None, params: Params) -> VAE:
    """Returns the model with a posterior other than the diagonal one, after checks of its functions and those of the prior."""
    if vae.prior is not None:
        density_checks.check_prior(vae.prior, lambda params: partial(vae.encode, params), params, vae.latent_dim)
    if posterior is None:
        return vae
    posterior = posterior if vae.prior is None else with_auxiliary(posterior, vae.prior.num_auxiliary)
    vae = vae._replace(posterior=posterior)
    encode = partial(posterior_params, vae)
    density_checks.check_posterior_functions(posterior, encode, params, example_shapes(vae), vae.latent_dim)
    return vae


def _check_parts(encoder: Network, decoder: Network, prior: object, condition_dim: int) -> int:
    """Returns the length of the condition. Raises `ValueError` for parts of a wrong type or with wrong arguments."""
    networks.check_network("encoder", encoder)
    networks.check_network("decoder", decoder)
    condition_dim = networks.check_condition_dim(condition_dim)
    checks.check_signatures(encoder, decoder, condition_dim)
    density_checks.check_prior_type(prior, condition_dim)
    return condition_dim


Parts = tuple[Network, Network, Likelihood, Prior | ConditionalGaussian | None, Posterior | None]


def _init(key: Array, parts: Parts) -> Params:
    """Returns the initial parameters of an encoder, a decoder, the shared numbers of a likelihood, a prior and a posterior."""
    encoder, decoder, likelihood, prior, posterior = parts
    params = {
        "encoder": encoder.init(jax.random.fold_in(key, Part.ENCODER)),
        "decoder": decoder.init(jax.random.fold_in(key, Part.DECODER)),
    }
    if likelihood.shared_start:
        params["likelihood"] = jnp.array(likelihood.shared_start, jnp.float32)
    if isinstance(prior, ConditionalGaussian) or (prior is not None and prior.part == "prior"):
        params["prior"] = prior.init(jax.random.fold_in(key, Part.PRIOR))
    if posterior is not None and posterior.init is not None:
        params["posterior"] = posterior.init(jax.random.fold_in(key, Part.POSTERIOR))
    return params


def encoder_shape(data_shape: tuple[int, ...], mask_input: bool, likelihood: Likelihood | None = None) -> tuple[int, ...]:
    """Returns the shape of the events that the encoder takes, which has the mask behind the numbers with `mask_input`.

    Args:
      data_shape: shape of one example.
      mask_input: whether the encoder sees the mask.
      likelihood: the likelihood; the columns of a mixed one become several inputs each (see `likelihoods.mixed.features`).
    """
    last = mixed.num_features(likelihood) if likelihood is not None and likelihood.groups else data_shape[-1]
    return (*data_shape[:-1], last + data_shape[-1] * mask_input)


def masked_event(x: Array | Example, mask_input: bool, likelihood: Likelihood) -> Array:
    """Returns the event as the encoder sees it: zeros for missing entries, followed by the mask where the encoder takes it."""
    x_or_event, mask = event_of(x), mask_of(x)
    event = mixed.features(likelihood, x_or_event) if likelihood.groups else x_or_event
    if mask is not None:
        is_observed = mask[jnp.asarray(mixed.feature_columns(likelihood))] if likelihood.groups else mask
        event = jnp.where(is_observed, event, jnp.zeros((), event.dtype))
    if not mask_input:
        return event
    observed = jnp.ones_like(x_or_event) if mask is None else mask.astype(event.dtype)
    return jnp.concatenate([event, observed], axis=-1)


def _whiten(prior: tuple[Array, Array], mean: Array, log_scale: Array, *extra: Array) -> PosteriorParams:
    """Returns the parameters of q(u|x, c), u = (z - m(c)) / s(c), from those of p(z|c) and q(z|x, c)."""
    prior_mean, prior_log_scale = prior
    return (mean - prior_mean) * jnp.exp(-prior_log_scale), log_scale - prior_log_scale, *extra


def _unwhiten(prior: tuple[Array, Array], u: Array) -> Array:
    """Returns z = m(c) + s(c) u."""
    mean, log_scale = prior
    return mean + jnp.exp(log_scale) * u
