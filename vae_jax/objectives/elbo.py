"""The evidence lower bound of one example and the objectives that weight its KL: beta, capacity and free bits."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, Real

from vae_jax.divergences import free_bits_per_dimension, free_bits_per_group, kl_per_dimension
from vae_jax.objectives.assumptions import check_free_bits
from vae_jax.objectives.base import (
    Decode,
    Encode,
    LogProb,
    Objective,
    PriorLogProb,
    Terms,
    check_num_samples,
    closed_kl,
    draw,
    reported_kl,
    scalar_log_prob,
    split_k,
    with_hyperparams,
)
from vae_jax.posteriors import DIAGONAL, Posterior, PosteriorParams

Estimator = Literal["reparam", "stl", "dreg"]


def elbo(
    key: Key[Array, ""],
    encode: Encode,
    decode: Decode,
    log_prob: LogProb,
    x: Real[Array, "*event"],
    *,
    beta: Float[ArrayLike, ""] = 1.0,
    num_samples: int = 1,
    estimator: Estimator = "reparam",
    prior_log_prob: PriorLogProb | None = None,
    posterior: Posterior = DIAGONAL,
) -> Terms:
    """Computes the two terms of the evidence lower bound of one example, and the beta-VAE loss.

        log_likelihood = 1/K sum_k log p(x|z_k),   z_k ~ q(z|x)      (reparameterized)
        kl             = KL(q(z|x) || p(z))           (in closed form, or else the mean of log q(z_k|x) - log p(z_k))
        loss           = -(log_likelihood - beta kl)

    Args:
      key: a new-style PRNG key for the draws of z.
      encode: x -> parameters of q(z|x): (mean, log_scale), each of shape (latent,), for the diagonal Gaussian.
      decode: z -> decoder output.
      log_prob: (decoder output, x) -> scalar nats, such as `likelihoods.bernoulli_log_prob`.
      x: one example, as the likelihood expects it.
      beta: weight of the KL in the loss, >= 0. May be traced. 1 makes the loss the negative ELBO.
      num_samples: K, the number of draws of z, >= 1 (static).
      estimator: gradient estimator (static). "reparam" is the usual one. "stl" (sticking the landing) has the sampled KL in the
        loss. Its gradient in the encoder leaves out the score of q, so it vanishes for every draw where q is the true
        posterior. "dreg" equals "stl" for this bound.
      prior_log_prob: z -> log p(z), scalar nats, for a prior other than N(0, I) (see `priors`).
      posterior: the family of q(z|x). The KL is in closed form for a Gaussian and N(0, I). "stl" and "dreg" need the density of
        a given z, which "planar" does not have.

    Returns:
      `Terms` of scalars in nats. `terms.elbo` is log_likelihood - kl for any beta.

    Raises:
      ValueError: `num_samples` is below 1, `estimator` is unknown, or `log_prob` does not return a scalar.

    Example:
      >>> encode, decode = lambda x: (jnp.zeros(2), jnp.zeros(2)), lambda z: jnp.zeros(4)
      >>> from vae_jax.likelihoods import bernoulli_log_prob
      >>> def one(key, x): return elbo(key, encode, decode, bernoulli_log_prob, x, beta=4.0)
      >>> terms = jax.vmap(one)(jax.random.split(jax.random.key(0), 3), jnp.ones((3, 4)))
      >>> print(terms.elbo)
      [-2.77 -2.77 -2.77]

    Source:
      Kingma & Welling (2014), equation 10. Beta: Higgins et al. (2017), equation 4. The "stl" estimator: Roeder et al. (2017).
    """
    check_num_samples("elbo", num_samples=num_samples)
    check_estimator("elbo", estimator)
    q = encode(x)
    closed = closed_kl(posterior, prior_log_prob)
    if estimator == "reparam" and closed is not None:
        kl = closed(q)

        def log_likelihood_k(key: Array) -> Array:
            return scalar_log_prob(log_prob, decode(posterior.sample(key, q)), x)

        if num_samples == 1:  # an axis of length one would take time
            log_likelihood = log_likelihood_k(key)
        else:
            log_likelihood = jnp.mean(jax.vmap(log_likelihood_k)(split_k(key, num_samples)))
        return Terms(-(log_likelihood - beta * kl), log_likelihood, kl)
    keys = split_k(key, num_samples)
    if estimator == "reparam" and prior_log_prob is None and posterior.sample_and_kl is not None:
        log_likelihood, kls = draw_layers(keys, q, decode, log_prob, x, posterior)
        kl = jnp.sum(kls)
        return Terms(-(log_likelihood - beta * kl), log_likelihood, kl)
    is_stopped = estimator != "reparam"
    one = lambda key: draw(  # noqa: E731
        key, q, decode, log_prob, x, stop_q=is_stopped, prior_log_prob=prior_log_prob, posterior=posterior
    )
    draws = jax.vmap(one)(keys)
    log_likelihood, sampled_kl = jnp.mean(draws.log_likelihood), jnp.mean(draws.log_ratio)
    kl = reported_kl(q, sampled_kl, prior_log_prob, posterior)
    return Terms(-(log_likelihood - beta * sampled_kl), log_likelihood, kl)


def draw_layers(
    keys: Key[Array, "samples"],
    q: PosteriorParams,
    decode: Decode,
    log_prob: LogProb,
    x: Real[Array, "*event"],
    posterior: Posterior,
) -> tuple[Float[Array, ""], Float[Array, "groups"]]:
    """Returns log p(x|z) of a code of several layers, and the KL of each layer given those above it, as means of the draws."""

    def one(key: Array) -> tuple[Array, Array]:
        assert posterior.sample_and_kl is not None
        z, kl = posterior.sample_and_kl(key, q)
        return scalar_log_prob(log_prob, decode(z), x), kl

    if keys.shape[0] == 1:  # an axis of length one would take time
        return one(keys[0])
    return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), jax.vmap(one)(keys))


def check_estimator(function: str, estimator: str) -> None:
    """Raises `ValueError` for an unknown gradient estimator."""
    if estimator not in ("reparam", "stl", "dreg"):
        raise ValueError(f"{function}: expected estimator to be 'reparam', 'stl' or 'dreg', got {estimator!r}.")


def beta_elbo(num_samples: int = 1, estimator: Estimator = "reparam") -> Objective:
    """Makes the beta-VAE `Objective`, whose weight of the KL is `hyperparams.beta` (see `elbo`)."""
    return with_hyperparams(elbo, "beta", num_samples=num_samples, estimator=estimator)


def capacity_elbo(
    key: Key[Array, ""],
    encode: Encode,
    decode: Decode,
    log_prob: LogProb,
    x: Real[Array, "*event"],
    *,
    capacity: Float[ArrayLike, ""],
    gamma: Float[ArrayLike, ""] = 1000.0,
    num_samples: int = 1,
    prior_log_prob: PriorLogProb | None = None,
    posterior: Posterior = DIAGONAL,
) -> Terms:
    """Computes the terms of the ELBO and a loss that holds the KL at a capacity, for one example.

        loss = -log_likelihood + gamma |kl - capacity|

    Args:
      key, encode, decode, log_prob, x, num_samples, prior_log_prob, posterior: see `elbo`. Where the KL has no closed form, it
        is the mean over the draws, whose distance from the capacity is on average larger than that of the KL. More draws
        reduce this.
      capacity: C in nats, >= 0. May be traced. It usually increases linearly from 0, in the paper to 25 nats over 100,000
        steps.
      gamma: weight of the distance, >= 0. May be traced.

    Returns:
      `Terms` of scalars in nats. The distance is that of one example, as in the paper's equation. disentanglement_lib takes
      |mean kl - C| over the batch.

    Source:
      Burgess et al. (2018).
    """
    terms = elbo(key, encode, decode, log_prob, x, num_samples=num_samples, prior_log_prob=prior_log_prob, posterior=posterior)
    return terms._replace(loss=-terms.log_likelihood + gamma * jnp.abs(terms.kl - capacity))


def free_bits_elbo(
    key: Key[Array, ""],
    encode: Encode,
    decode: Decode,
    log_prob: LogProb,
    x: Real[Array, "*event"],
    *,
    free_bits: Float[ArrayLike, ""],
    beta: Float[ArrayLike, ""] = 1.0,
    num_groups: int | None = None,
    num_samples: int = 1,
    prior_log_prob: PriorLogProb | None = None,
    posterior: Posterior = DIAGONAL,
) -> Terms:
    """Computes the terms of the ELBO and a loss with an allowance of KL that costs nothing, for one example.

        loss = -log_likelihood + beta sum_j max(kl_j, free_bits)

    The allowance is a remedy for posterior collapse.

    Args:
      key, encode, decode, log_prob, x, beta, num_samples, prior_log_prob, posterior: see `elbo`.
      free_bits: allowance in nats, >= 0. May be traced.
      num_groups: number of groups of neighboring dimensions with one allowance each (static). 1 is the whole code, and None
        gives each dimension its allowance. The variant with the mean over the batch is `batch.free_bits_batch_mean_elbo`.
        A diagonal posterior and N(0, I) have a KL of each dimension. A code of several layers (`Posterior.sample_and_kl`) has
        one of each layer: the groups are the layers, and num_groups is 1 or their number. Elsewhere num_groups is 1, which
        clips the KL of the whole code, the mean of the draws where it has no closed form.

    Returns:
      `Terms` of scalars in nats. `kl` is the KL itself, not clipped.

    Raises:
      UserError: the KL has no such parts.

    Source:
      Kingma et al. (2016) without its mean over the minibatch.
    """
    q = encode(x)
    if posterior.sample_and_kl is not None and prior_log_prob is None:
        check_num_samples("free_bits_elbo", num_samples=num_samples)
        log_likelihood, kls = draw_layers(split_k(key, num_samples), q, decode, log_prob, x, posterior)
        check_free_bits(posterior, num_groups, kls.shape[0])
        return Terms(-log_likelihood + beta * free_bits_per_dimension(kls, free_bits), log_likelihood, jnp.sum(kls))
    terms = elbo(
        key, lambda x: q, decode, log_prob, x, num_samples=num_samples, prior_log_prob=prior_log_prob, posterior=posterior
    )
    if posterior is not DIAGONAL or prior_log_prob is not None:
        check_free_bits(posterior._replace(sample_and_kl=None), num_groups)  # the KLs of layers are those to N(0, I)
        return terms._replace(loss=-terms.log_likelihood + beta * jnp.maximum(terms.kl, free_bits))
    kl = kl_per_dimension(*q)
    clipped = free_bits_per_dimension(kl, free_bits) if num_groups is None else free_bits_per_group(kl, free_bits, num_groups)
    return terms._replace(loss=-terms.log_likelihood + beta * clipped)
