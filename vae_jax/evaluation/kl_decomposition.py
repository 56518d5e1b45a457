"""Decomposition of the mean KL into mutual information, total correlation and dimension-wise KL."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from vae_jax._numerics.short_repr import short_repr
from vae_jax.divergences import kl_per_dimension
from vae_jax.errors import UserError
from vae_jax.objectives.base import closed_kl, standard_normal_log_prob
from vae_jax.posteriors import Posterior, PosteriorParams, log_prob_at_each, posterior_log_prob, sample_posterior


@short_repr
class KLDecomposition(NamedTuple):
    """KL(q(z|x) || p(z)) and its three parts at single draws of z, in nats. Only the means over the draws are of interest."""

    kl: Float[Array, "draws"]  # KL of the example behind each draw: the sum of the next three
    mutual_information: Float[Array, "draws"]  # I(x; z) if x is uniform on the given examples: at most log N on average
    # KL(q(z) || prod_j q(z_j)); None where the marginals of q(z|x) are not known
    total_correlation: Float[Array, "draws"] | None
    # KL(prod_j q(z_j) || p(z)); sum_j KL(q(z_j) || p(z_j)) if p(z) factorizes; None likewise
    dimension_wise_kl: Float[Array, "draws"] | None
    mutual_information_upper: Float[Array, "draws"]  # the example itself left out of q(z): too high on average

    @property
    def marginal_kl(self) -> Float[Array, "draws"]:
        """KL(q(z) || p(z)), the part of the KL that a better prior can remove (Hoffman & Johnson 2016)."""
        if self.total_correlation is None or self.dimension_wise_kl is None:
            return self.kl - self.mutual_information
        return self.total_correlation + self.dimension_wise_kl


def _examples_of_draws(key: Array, count: int, num_draws: int) -> Array:
    """Returns the example behind each draw: different ones in random order until all have been used."""
    rounds = -(-num_draws // count)
    orders = jax.vmap(lambda key: jax.random.permutation(key, count))(jax.random.split(key, rounds))
    return orders.reshape(-1)[:num_draws]


def decompose_kl(
    key: Key[Array, ""],
    mean: Float[Array, "examples latent"],
    log_scale: Float[Array, "examples latent"],
    *,
    num_draws: int = 2000,
    prior_log_prob: Callable[[Array], Array] | None = None,
    draws_at_once: int = 8,
) -> KLDecomposition:
    """Decomposes the KL with the aggregate posterior q(z) of a whole data set.

        q(z) = 1/N sum_n q(z|x_n),   q(z_j) = 1/N sum_n q(z_j|x_n),   over all N examples rather than a minibatch
        KL = [KL - log q(z)/p(z)] + [log q(z) - log prod_j q(z_j)] + [log prod_j q(z_j) - log p(z)],   z ~ q(z|x_m)

    The estimates are unbiased for these N examples. They are biased for the distribution that the examples come from: a mixture
    of N components cannot tell more than N examples apart, so mutual_information is at most log N and too low.
    mutual_information_upper leaves x_m out of the mixture for its own z and is too high on average. The value for the
    distribution lies between the two. If they are far apart, N is too small to locate it.

    Args:
      key: a new-style PRNG key.
      mean, log_scale: parameters of q(z|x) for all N >= 2 examples, each (N, latent).
      num_draws: number M of draws of z. They come from different examples in random order until all N have been used once. The
        work is proportional to M N latent.
      prior_log_prob: z -> log p(z) in nats, for a learned prior. By default p(z) = N(0, I), whose KL is in closed form.
      draws_at_once: number of draws computed together. It affects memory only.

    Returns:
      `KLDecomposition`, with fields (M,). Compute their means and standard errors over the draws on the host.

    Example:
      >>> parts = decompose_kl(jax.random.key(0), jnp.zeros((5, 2)), jnp.zeros((5, 2)), num_draws=10)
      >>> print(abs(parts.total_correlation).max() < 1e-5)
      True

    Source:
      Hoffman & Johnson (2016), Chen et al. (2018). The two bounds: Poole et al. (2019).
    """
    if mean.ndim != 2 or mean.shape != log_scale.shape or mean.shape[0] < 2:
        raise ValueError(
            f"decompose_kl: expected mean and log_scale of one shape (examples >= 2, latent), got {mean.shape} and "
            f"{log_scale.shape}."
        )
    count = mean.shape[0]
    key_order, key_z = jax.random.split(key)
    index = _examples_of_draws(key_order, count, num_draws)
    precision = jnp.exp(-log_scale)

    def one(drawn: tuple[Array, Array]) -> KLDecomposition:
        m, key = drawn
        z = sample_posterior(key, mean[m], log_scale[m])
        pairs = -0.5 * jnp.square((z - mean) * precision) - log_scale - 0.5 * math.log(2 * math.pi)  # (N, latent)
        joint = jnp.sum(pairs, axis=1)
        log_q = jax.nn.logsumexp(joint) - math.log(count)
        log_product = jnp.sum(jax.nn.logsumexp(pairs, axis=0) - math.log(count))
        others = jax.nn.logsumexp(jnp.where(jnp.arange(count) == m, -jnp.inf, joint)) - math.log(count - 1)
        if prior_log_prob is None:
            log_p = posterior_log_prob(jnp.zeros_like(z), jnp.zeros_like(z), z)
            kl = jnp.sum(kl_per_dimension(mean[m], log_scale[m]))
        else:
            log_p = prior_log_prob(z)
            kl = joint[m] - log_p
        return KLDecomposition(kl, kl - (log_q - log_p), log_q - log_product, log_product - log_p, kl - (others - log_p))

    return jax.lax.map(one, (index, jax.random.split(key_z, num_draws)), batch_size=draws_at_once)


def decompose_posterior_kl(
    key: Key[Array, ""],
    posterior: Posterior,
    outputs: PosteriorParams,
    weights: PosteriorParams = (),
    *,
    num_draws: int = 2000,
    prior_log_prob: Callable[[Array], Array] | None = None,
    draws_at_once: int = 8,
) -> KLDecomposition:
    """Decomposes the KL of any posterior that has a density, see `decompose_kl`.

    The marginals q(z_j|x) of a Gaussian are known, and with them all parts. The mutual information is known for every
    posterior with a density. For those that are not Gaussian, total correlation and dimension-wise KL are None: their sum,
    KL(q(z) || p(z)), is kl - mutual_information.

    Args:
      key, prior_log_prob, draws_at_once: see `decompose_kl`.
      posterior: the family of q(z|x).
      outputs: what the encoder gave for all N >= 2 examples, each array with a leading axis.
      weights: the learned weights of the posterior, as `model.split_weights` returns them.
      num_draws: number M of draws of z, which costs M N densities.

    Returns:
      `KLDecomposition`, with fields (M,).

    Raises:
      UserError: the posterior has no density of a given z.
    """
    if posterior.log_prob is None:
        raise UserError(
            f"the aggregate posterior needs the density q(z|x) of a given z, and the posterior {posterior.name!r} has that of "
            "its own draws only.",
            fix='Use a posterior with a density, such as "full" or "iaf".',
        )
    leaves = jax.tree.leaves(outputs)
    count = leaves[0].shape[0]
    if count < 2:
        raise ValueError(f"decompose_posterior_kl: expected the outputs of >= 2 examples, got {count}.")
    log_prob, is_gaussian = posterior.log_prob, posterior.factor is not None
    key_order, key_z = jax.random.split(key)
    index = _examples_of_draws(key_order, count, num_draws)
    closed = closed_kl(posterior, prior_log_prob)
    log_prior = prior_log_prob or standard_normal_log_prob
    log_prob_each = (
        log_prob_at_each(posterior, outputs, weights)
        if is_gaussian
        else lambda z: jax.vmap(lambda row: log_prob((*row, *weights), z))(outputs)
    )
    moments = jax.vmap(lambda row: posterior.moments(key, (*row, *weights)))(outputs) if is_gaussian else None

    def one(drawn: tuple[Array, Array]) -> KLDecomposition:
        m, key = drawn
        q = (*jax.tree.map(lambda leaf: leaf[m], outputs), *weights)
        z, log_q_given_x = posterior.sample_and_log_prob(key, q)
        # The density of the draw itself is the more accurate one.
        joint = jnp.where(jnp.arange(count) == m, log_q_given_x, log_prob_each(z))
        log_q, log_p = jax.nn.logsumexp(joint) - math.log(count), log_prior(z)
        others = jax.nn.logsumexp(jnp.where(jnp.arange(count) == m, -jnp.inf, joint)) - math.log(count - 1)
        kl = log_q_given_x - log_p if closed is None else closed(q)
        correlation = dimension_wise = None
        if moments is not None:
            mean, log_scale = moments
            pairs = -0.5 * jnp.square((z - mean) * jnp.exp(-log_scale)) - log_scale - 0.5 * math.log(2 * math.pi)
            log_product = jnp.sum(jax.nn.logsumexp(pairs, axis=0) - math.log(count))
            correlation, dimension_wise = log_q - log_product, log_product - log_p
        return KLDecomposition(kl, kl - (log_q - log_p), correlation, dimension_wise, kl - (others - log_p))

    return jax.lax.map(one, (index, jax.random.split(key_z, num_draws)), batch_size=draws_at_once)
