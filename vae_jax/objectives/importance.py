"""Importance-weighted bounds of one example (IWAE, MIWAE, CIWAE, PIWAE) and their gradient estimators."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, Real

from vae_jax.objectives.base import (
    Decode,
    Draw,
    Encode,
    LogProb,
    PriorLogProb,
    Terms,
    check_num_samples,
    draw,
    reported_kl,
    split_k,
)
from vae_jax.objectives.elbo import Estimator, check_estimator
from vae_jax.posteriors import DIAGONAL, Posterior, PosteriorParams

_TINY = 1e-30  # least weight of a draw in PIWAE's decoder gradient, because the encoder's gradient divides by it


def log_mean_exp_k(log_w: Float[ArrayLike, "*batch samples"]) -> Float[Array, "*batch"]:
    """Computes log 1/K sum_k exp(log_w_k) over the last axis, the importance-weighted estimate of log p(x).

    Args:
      log_w: log importance weights log p(x, z_k) - log q(z_k|x) in nats, shape (..., K).

    Returns:
      Shape (...), nats.

    Example:
      >>> print(log_mean_exp_k(jnp.log(jnp.array([1.0, 3.0]))))
      0.69
    """
    log_w = jnp.asarray(log_w)
    return jax.nn.logsumexp(log_w, axis=-1) - jnp.log(jnp.asarray(log_w.shape[-1], log_w.dtype))


def _scale_gradient(value: Array, factor: Array) -> Array:
    """Returns the value itself, with its gradient multiplied by the factor."""
    constant = jax.lax.stop_gradient(value)
    return constant + factor * (value - constant)


class _Model(NamedTuple):
    """What is needed to draw: the functions of the model at one example, and the parameters of its q(z|x)."""

    q: PosteriorParams
    decode: Decode
    log_prob: LogProb
    x: Array
    prior_log_prob: PriorLogProb | None
    posterior: Posterior


def _draws(model: _Model, keys: Array, estimator: Estimator, encoder_factor: Callable[[Array], Array] | None = None) -> Draw:
    """Makes a `Draw` for each key.

    `encoder_factor` maps the log weights to a factor for each draw, by which its gradient in the encoder is multiplied.
    """

    def evaluate(factor: Array | None) -> Draw:
        def one(key: Array, factor: Array | None) -> Draw:
            q = model.q if factor is None else jax.tree.map(lambda leaf: _scale_gradient(leaf, factor), model.q)
            options: dict[str, Any] = {"prior_log_prob": model.prior_log_prob, "posterior": model.posterior}
            return draw(key, q, model.decode, model.log_prob, model.x, stop_q=estimator != "reparam", **options)

        return jax.vmap(one, in_axes=(0, None if factor is None else 0))(keys, factor)

    if encoder_factor is None:
        return evaluate(None)
    # The code makes two passes, the compiled program one, because XLA finds that the second repeats the first.
    return evaluate(jax.lax.stop_gradient(encoder_factor(evaluate(None).log_weight)))


def _terms(model: _Model, draws: Draw, loss: Array) -> Terms:
    kl = reported_kl(model.q, draws.log_ratio, model.prior_log_prob, model.posterior)
    return Terms(loss, jnp.mean(draws.log_likelihood), kl)


def iwae(
    key: Key[Array, ""],
    encode: Encode,
    decode: Decode,
    log_prob: LogProb,
    x: Real[Array, "*event"],
    *,
    num_samples: int = 1,
    estimator: Estimator = "reparam",
    prior_log_prob: PriorLogProb | None = None,
    posterior: Posterior = DIAGONAL,
) -> Terms:
    """Computes the importance-weighted bound of one example, which is not below the ELBO and approaches log p(x) as K grows.

        loss = -log 1/K sum_k w_k,   w_k = p(x|z_k) p(z_k) / q(z_k|x),   z_k ~ q(z|x)

    Args:
      key, encode, decode, log_prob, x, prior_log_prob, posterior: see `elbo`.
      num_samples: K >= 1 (static).
      estimator: gradient estimator of the encoder (static), with v_k = w_k / sum w. "reparam" is sum_k v_k d log w_k/d phi.
        "stl" is sum_k v_k (d log w_k/d z_k)(d z_k/d phi), which is biased for K > 1. "dreg" has v_k^2 in place of v_k. It is
        unbiased, and its signal-to-noise ratio grows with K, where that of "reparam" falls. The gradient of the decoder is the
        same for all three.

    Returns:
      `Terms` of scalars in nats. `loss` is minus the bound; `log_likelihood` and `kl` are those of the ELBO.

    Raises:
      ValueError: `num_samples` is below 1, `estimator` is unknown, or `log_prob` does not return a scalar.

    Example:
      >>> encode, decode = lambda x: (jnp.zeros(2), jnp.zeros(2)), lambda z: jnp.zeros(4)
      >>> from vae_jax.likelihoods import bernoulli_log_prob
      >>> def one(key, x): return iwae(key, encode, decode, bernoulli_log_prob, x, num_samples=8, estimator="dreg")
      >>> print(jax.vmap(one)(jax.random.split(jax.random.key(0), 3), jnp.ones((3, 4))).loss)
      [2.77 2.77 2.77]

    Source:
      Burda et al. (2016). The estimators: "stl" Roeder et al. (2017), "dreg" Tucker et al. (2019).
    """
    return miwae(
        key,
        encode,
        decode,
        log_prob,
        x,
        num_groups=1,
        num_samples=num_samples,
        estimator=estimator,
        prior_log_prob=prior_log_prob,
        posterior=posterior,
    )


def miwae(
    key: Key[Array, ""],
    encode: Encode,
    decode: Decode,
    log_prob: LogProb,
    x: Real[Array, "*event"],
    *,
    num_groups: int,
    num_samples: int,
    estimator: Estimator = "reparam",
    prior_log_prob: PriorLogProb | None = None,
    posterior: Posterior = DIAGONAL,
) -> Terms:
    """Computes the mean of M independent importance-weighted bounds of K draws each, for one example.

        loss = -1/M sum_m log 1/K sum_k w_mk

    Args:
      key, encode, decode, log_prob, x, num_samples, estimator, prior_log_prob, posterior: see `iwae`.
      num_groups: M >= 1 (static). With K = 1 the bound is the ELBO with M draws and a sampled KL.

    Returns:
      `Terms` of scalars in nats. `loss` is minus the bound; `log_likelihood` and `kl` are those of the ELBO.

    Source:
      Rainforth et al. (2018).
    """
    check_num_samples("miwae", num_groups=num_groups, num_samples=num_samples)
    check_estimator("miwae", estimator)
    model = _Model(encode(x), decode, log_prob, x, prior_log_prob, posterior)
    groups = (num_groups, num_samples)
    dreg = lambda log_w: jax.nn.softmax(log_w.reshape(groups)).ravel()  # noqa: E731
    keys = split_k(key, num_groups * num_samples)
    draws = _draws(model, keys, estimator, dreg if estimator == "dreg" else None)
    bound = jnp.mean(log_mean_exp_k(draws.log_weight.reshape(groups)))
    return _terms(model, draws, -bound)


def ciwae(
    key: Key[Array, ""],
    encode: Encode,
    decode: Decode,
    log_prob: LogProb,
    x: Real[Array, "*event"],
    *,
    elbo_weight: Float[ArrayLike, ""],
    num_samples: int,
    estimator: Estimator = "reparam",
    prior_log_prob: PriorLogProb | None = None,
    posterior: Posterior = DIAGONAL,
) -> Terms:
    """Computes a mixture of the ELBO and the importance-weighted bound from the same draws, for one example.

        loss = -[ elbo_weight 1/K sum_k log w_k + (1 - elbo_weight) log 1/K sum_k w_k ]

    Args:
      key, encode, decode, log_prob, x, num_samples, estimator, prior_log_prob, posterior: see `iwae`.
      elbo_weight: the paper's beta, in [0, 1]. May be traced. 0 is `iwae`, 1 the ELBO with a sampled KL.

    Returns:
      `Terms` of scalars in nats. `loss` is minus the bound; `log_likelihood` and `kl` are those of the ELBO.

    Source:
      Rainforth et al. (2018).
    """
    check_num_samples("ciwae", num_samples=num_samples)
    check_estimator("ciwae", estimator)
    model = _Model(encode(x), decode, log_prob, x, prior_log_prob, posterior)
    elbo_weight = jnp.asarray(elbo_weight)

    def dreg(log_w: Array) -> Array:
        v, even = jax.nn.softmax(log_w), elbo_weight / num_samples
        return (even + (1 - elbo_weight) * jnp.square(v)) / jnp.maximum(even + (1 - elbo_weight) * v, _TINY)

    draws = _draws(model, split_k(key, num_samples), estimator, dreg if estimator == "dreg" else None)
    log_w = draws.log_weight
    bound = elbo_weight * jnp.mean(log_w) + (1 - elbo_weight) * log_mean_exp_k(log_w)
    return _terms(model, draws, -bound)


def piwae(
    key: Key[Array, ""],
    encode: Encode,
    decode: Decode,
    log_prob: LogProb,
    x: Real[Array, "*event"],
    *,
    num_groups: int,
    num_samples: int,
    prior_log_prob: PriorLogProb | None = None,
    posterior: Posterior = DIAGONAL,
) -> Terms:
    """Computes two bounds from the same M K draws, for one example, one for the decoder and one for the encoder.

        loss = -log 1/(M K) sum_mk w_mk,   with the gradient of -1/M sum_m log 1/K sum_k w_mk in the encoder

    The decoder follows `iwae` with all draws, and the encoder follows `miwae` with M groups.

    Args:
      key, encode, decode, log_prob, x, num_groups, num_samples, prior_log_prob, posterior: see `miwae`.

    Returns:
      `Terms` of scalars in nats. `loss` is minus the bound of all draws; `log_likelihood` and `kl` are those of the ELBO.

    Source:
      Rainforth et al. (2018).
    """
    check_num_samples("piwae", num_groups=num_groups, num_samples=num_samples)
    model = _Model(encode(x), decode, log_prob, x, prior_log_prob, posterior)

    def decoder_weight(log_w: Array) -> Array:
        return jnp.maximum(jax.nn.softmax(log_w), _TINY)

    def factor(log_w: Array) -> Array:
        encoder_weight = jax.nn.softmax(log_w.reshape(num_groups, num_samples)).ravel() / num_groups
        return encoder_weight / decoder_weight(log_w)

    keys = split_k(key, num_groups * num_samples)
    draws = _draws(model, keys, "reparam", factor)
    log_w = draws.log_weight
    # The value is that of the bound, and the gradient is that of the weighted sum.
    surrogate = jnp.sum(jax.lax.stop_gradient(decoder_weight(log_w)) * log_w)
    bound = jax.lax.stop_gradient(log_mean_exp_k(log_w) - surrogate) + surrogate
    return _terms(model, draws, -bound)
