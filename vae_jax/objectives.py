"""Training objectives for one example: from (encode, decode, log_prob) to named terms in nats."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from vae_jax.divergences import kl_to_standard_normal
from vae_jax.posteriors import sample_posterior

Encode = Callable[[Array], tuple[Array, Array]]  # x -> (mean, log_scale) of q(z|x)
Decode = Callable[[Array], Any]  # z -> decoder_output
LogProb = Callable[[Any, Array], Array]  # (decoder_output, x) -> scalar nats


class Terms(NamedTuple):
    """What an objective says of one example; every field a scalar in nats, summed over pixels and latents."""

    loss: Array  # minimised
    log_likelihood: Array  # E_q[log p(x|z)], not weighted by anything
    kl: Array  # KL(q(z|x) || p(z)), not weighted by anything

    @property
    def elbo(self) -> Array:
        """The evidence lower bound log_likelihood - kl, whatever beta the loss was trained with."""
        return self.log_likelihood - self.kl


class Objective(Protocol):
    """What `training.make_train_step` minimises: one example in, `Terms` out.

    `hyperparams` is a `config.Hyperparams` whose fields are traced scalars, already scheduled for the step.
    """

    def __call__(self, key: Array, encode: Encode, decode: Decode, log_prob: LogProb, x: Array, hyperparams: Any) -> Terms: ...


def elbo(
    key: Array,
    encode: Encode,
    decode: Decode,
    log_prob: LogProb,
    x: Array,
    *,
    beta: ArrayLike = 1.0,
    num_samples: int = 1,
) -> Terms:
    """Evidence lower bound of one example, its two terms apart, and the beta-VAE loss.

        log_likelihood = 1/K sum_k log p(x|z_k),   z_k ~ q(z|x)      (reparameterised)
        kl             = KL(q(z|x) || N(0, I))                        (closed form)
        loss           = -(log_likelihood - beta kl)

    Args:
      key: a new-style PRNG key for the draws of z.
      encode: x -> (mean, log_scale) of the diagonal Gaussian q(z|x), each of shape (latent,).
      decode: z -> decoder output.
      log_prob: (decoder output, x) -> scalar nats, such as `likelihoods.bernoulli_log_prob`.
      x: one example, as the likelihood expects it.
      beta: weight of the KL in the loss, >= 0; may be traced. 1 makes the loss the negative ELBO.
      num_samples: K, the number of draws of z, >= 1 (static).

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
      Kingma & Welling (2014), equation 10; beta: Higgins et al. (2017), equation 4.
    """
    if num_samples < 1:
        raise ValueError(f"elbo: expected num_samples >= 1, got {num_samples}.")
    mean, log_scale = encode(x)
    kl = kl_to_standard_normal(mean, log_scale)

    def log_likelihood_k(key_k: Array) -> Array:
        value = log_prob(decode(sample_posterior(key_k, mean, log_scale)), x)
        if jnp.shape(value) != ():
            raise ValueError(
                f"elbo: expected log_prob to return a scalar (nats summed over the pixels of one example), "
                f"got shape {jnp.shape(value)}. Sum over the event inside log_prob; do not average."
            )
        return value

    if num_samples == 1:
        log_likelihood = log_likelihood_k(key)
    else:
        log_likelihood = jnp.mean(jax.vmap(log_likelihood_k)(jax.random.split(key, num_samples)))
    return Terms(-(log_likelihood - beta * kl), log_likelihood, kl)


def beta_elbo(num_samples: int = 1) -> Objective:
    """The beta-VAE objective with `hyperparams.beta`, as an `Objective` for `training.make_train_step`."""

    def objective(key: Array, encode: Encode, decode: Decode, log_prob: LogProb, x: Array, hyperparams: Any) -> Terms:
        return elbo(key, encode, decode, log_prob, x, beta=hyperparams.beta, num_samples=num_samples)

    return objective
