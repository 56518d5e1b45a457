"""The evidence lower bound and what is made of it by weighting its KL: beta, capacity, free bits; for one example."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from vae_jax.divergences import free_bits_per_dimension, free_bits_per_group, kl_per_dimension, kl_to_standard_normal
from vae_jax.objectives.base import (
    Decode,
    Encode,
    LogProb,
    Objective,
    PriorLogProb,
    Terms,
    check_num_samples,
    closed_form_or,
    draw,
    log_likelihood_of,
    split_k,
    with_hyperparams,
)
from vae_jax.posteriors import sample_posterior

Estimator = Literal["reparam", "stl", "dreg"]


def elbo(
    key: Array,
    encode: Encode,
    decode: Decode,
    log_prob: LogProb,
    x: Array,
    *,
    beta: ArrayLike = 1.0,
    num_samples: int = 1,
    estimator: Estimator = "reparam",
    prior_log_prob: PriorLogProb | None = None,
) -> Terms:
    """Evidence lower bound of one example, its two terms apart, and the beta-VAE loss.

        log_likelihood = 1/K sum_k log p(x|z_k),   z_k ~ q(z|x)      (reparameterised)
        kl             = KL(q(z|x) || p(z))           (closed form for N(0, I), else the mean of log q(z_k|x) - log p(z_k))
        loss           = -(log_likelihood - beta kl)

    Args:
      key: a new-style PRNG key for the draws of z.
      encode: x -> (mean, log_scale) of the diagonal Gaussian q(z|x), each of shape (latent,).
      decode: z -> decoder output.
      log_prob: (decoder output, x) -> scalar nats, such as `likelihoods.bernoulli_log_prob`.
      x: one example, as the likelihood expects it.
      beta: weight of the KL in the loss, >= 0; may be traced. 1 makes the loss the negative ELBO.
      num_samples: K, the number of draws of z, >= 1 (static).
      estimator: "reparam"; or "stl" (sticking the landing): the loss has the sampled KL, whose gradient in the encoder leaves
        out the score of q and so vanishes, draw by draw, where q is the true posterior. "dreg" is the same at this bound.
      prior_log_prob: z -> log p(z), scalar nats, for a prior other than N(0, I); see `priors`.

    Returns:
      `Terms`; `terms.elbo` is log_likelihood - kl for any beta.

    Example:
      >>> encode, decode = lambda x: (jnp.zeros(2), jnp.zeros(2)), lambda z: jnp.zeros(4)
      >>> from vae_jax.likelihoods import bernoulli_log_prob
      >>> def one(key, x): return elbo(key, encode, decode, bernoulli_log_prob, x, beta=4.0)
      >>> terms = jax.vmap(one)(jax.random.split(jax.random.key(0), 3), jnp.ones((3, 4)))
      >>> print(terms.elbo)
      [-2.77 -2.77 -2.77]

    Source:
      Kingma & Welling (2014), equation 10; beta: Higgins et al. (2017), equation 4; stl: Roeder et al. (2017).
    """
    check_num_samples("elbo", num_samples=num_samples)
    check_estimator("elbo", estimator)
    mean, log_scale = encode(x)
    if estimator == "reparam" and prior_log_prob is None:
        kl = kl_to_standard_normal(mean, log_scale)

        def log_likelihood_k(key: Array) -> Array:
            return log_likelihood_of(log_prob, decode(sample_posterior(key, mean, log_scale)), x)

        if num_samples == 1:  # an axis of length one would cost time
            log_likelihood = log_likelihood_k(key)
        else:
            log_likelihood = jnp.mean(jax.vmap(log_likelihood_k)(split_k(key, num_samples)))
        return Terms(-(log_likelihood - beta * kl), log_likelihood, kl)
    stop_q = estimator != "reparam"
    draws = jax.vmap(lambda key: draw(key, mean, log_scale, decode, log_prob, x, stop_q=stop_q, prior_log_prob=prior_log_prob))(
        split_k(key, num_samples)
    )
    log_likelihood, sampled_kl = jnp.mean(draws.log_likelihood), jnp.mean(draws.log_ratio)
    kl = closed_form_or(mean, log_scale, sampled_kl, prior_log_prob)
    return Terms(-(log_likelihood - beta * sampled_kl), log_likelihood, kl)


def check_estimator(function: str, estimator: str) -> None:
    """Raises `ValueError` for an unknown gradient estimator."""
    if estimator not in ("reparam", "stl", "dreg"):
        raise ValueError(f"{function}: expected estimator to be 'reparam', 'stl' or 'dreg', got {estimator!r}.")


def beta_elbo(num_samples: int = 1, estimator: Estimator = "reparam") -> Objective:
    """The beta-VAE objective with `hyperparams.beta`, as an `Objective` for `training.make_train_step`."""
    return with_hyperparams(elbo, "beta", num_samples=num_samples, estimator=estimator)


def capacity_elbo(
    key: Array,
    encode: Encode,
    decode: Decode,
    log_prob: LogProb,
    x: Array,
    *,
    capacity: ArrayLike,
    gamma: ArrayLike = 1000.0,
    num_samples: int = 1,
) -> Terms:
    """The ELBO's terms with the KL held at a capacity, for one example.

        loss = -log_likelihood + gamma |kl - capacity|

    Args:
      key, encode, decode, log_prob, x, num_samples: as in `elbo`.
      capacity: C in nats, >= 0; may be traced; usually risen linearly from 0 (to 25 nats over 100,000 steps in the paper).
      gamma: weight of the distance, >= 0; may be traced.

    Returns:
      `Terms`. The paper's equation is of one example, and so is this; disentanglement_lib takes |mean kl - C| over the batch.

    Source:
      Burgess et al. (2018).
    """
    terms = elbo(key, encode, decode, log_prob, x, num_samples=num_samples)
    return terms._replace(loss=-terms.log_likelihood + gamma * jnp.abs(terms.kl - capacity))


def free_bits_elbo(
    key: Array,
    encode: Encode,
    decode: Decode,
    log_prob: LogProb,
    x: Array,
    *,
    free_bits: ArrayLike,
    beta: ArrayLike = 1.0,
    num_groups: int | None = None,
    num_samples: int = 1,
) -> Terms:
    """The ELBO with an allowance of KL that costs nothing, against posterior collapse, for one example.

        loss = -log_likelihood + beta sum_j max(kl_j, free_bits)

    Args:
      key, encode, decode, log_prob, x, beta, num_samples: as in `elbo`.
      free_bits: allowance in nats, >= 0; may be traced.
      num_groups: None: each dimension has the allowance; else each of so many groups of neighbouring dimensions, 1 being the
        whole code (static). The batch-mean variant is `cross_batch.free_bits_batch_mean_elbo`.

    Returns:
      `Terms`; kl is the KL itself, not clipped.

    Source:
      Kingma et al. (2016) without its mean over the minibatch.
    """
    posterior = encode(x)
    terms = elbo(key, lambda x: posterior, decode, log_prob, x, num_samples=num_samples)
    kl = kl_per_dimension(*posterior)
    clipped = free_bits_per_dimension(kl, free_bits) if num_groups is None else free_bits_per_group(kl, free_bits, num_groups)
    return terms._replace(loss=-terms.log_likelihood + beta * clipped)
