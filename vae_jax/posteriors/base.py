"""`Posterior`: the approximate posterior q(z|x) as a bundle of pure functions of one example."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from vae_jax._numerics.arrays import Params
from vae_jax.divergences import kl_to_standard_normal
from vae_jax.posteriors.diagonal import posterior_log_prob, sample_posterior

# (mean, log_scale), each (latent,), for the diagonal Gaussian. Others have further arrays behind them: what the encoder returns
# besides, and the learned weights of a flow.
PosteriorParams: TypeAlias = tuple[PyTree, ...]
Encode: TypeAlias = Callable[[Array], PosteriorParams]  # x -> parameters of q(z|x)


class Posterior(NamedTuple):
    """The family of q(z|x) as a bundle of pure functions of ONE example.

    `model.make_vae(..., posterior=)` takes one. To use your own, fill this record.

    The functions take the parameters `q` of q(z|x), a tuple: (mean, log_scale) and, with `num_extra`, a vector of further
    numbers, all from the encoder, and, with `init`, the learned weights behind them. Everything on which q(z|x) depends is in
    this tuple, so an objective stops the score of q by `stop_gradient(q)`.

    Contract of the functions:

    - They see one example, without a batch axis. Callers apply `jax.vmap`.
    - They are traced inside `jit`, `grad` and `vmap`, so they must not branch on the values of arrays.
    - `sample` is reparameterized: gradients flow through `q`, not through the key's noise.
    - `log_prob` is normalized, in nats, and differentiable in `q` and in z.

    Attributes:
      name: shown in messages and reports.
      sample: (key, q) -> z, shape (latent,).
      sample_and_log_prob: (key, q) -> (z, log q(z|x)), with the same z as `sample`.
      log_prob: (q, z) -> log q(z|x) of any z, scalar nats. None if the density of a given z cannot be computed. The estimators
        "stl" and "dreg", annealing from the encoder, and importance sampling with other proposals need it.
      kl_to_standard_normal: q -> KL(q(z|x) || N(0, I)), scalar nats. None where it has no closed form: it is then estimated
        from the draws.
      moments: (key, q) -> (mean, log_scale) of each dimension of z, each (latent,), as codes and diagnostics have them. In
        closed form the key is not used; elsewhere they are estimated from draws.
      num_extra: numbers that the encoder returns for each example beyond mean and log_scale, as a third array. 0: none.
      init: key -> learned weights, a pytree of arrays, stored as `params["posterior"]` of the model. None: there are none.
      sample_and_kl: (key, q) -> (z, KLs in nats, shape (groups,)), for a code of several layers, whose KL is that of each layer
        given the layers above it, in closed form. The sum of the KLs is an unbiased estimate of KL(q(z|x) || N(0, I)).
      part: the entry of the model's parameters behind (mean, log_scale, ...) in `q`.
      latent_dim: length of z. None: the length of the encoder's mean.
      layers: shape of each layer of a code of several layers, which are flat and one after another in z.
      factor: q -> A of a Gaussian q(z|x) = N(mean, A A'), shape (latent, latent), whose moments are then in closed form and
        whose marginals are known. None: not a Gaussian. What compares the marginals of the aggregate posterior needs it. A
        record that is made from a different one replaces it as well.

    Example: a diagonal Gaussian whose scale does not depend on x.
      >>> def sample(key, q): return sample_posterior(key, q[0], q[2])
      >>> def log_prob(q, z): return posterior_log_prob(q[0], q[2], z)
      >>> def sample_and_log_prob(key, q): return (z := sample(key, q)), log_prob(q, z)
      >>> shared = Posterior(
      ...     "shared_scale",
      ...     sample,
      ...     sample_and_log_prob,
      ...     log_prob,
      ...     kl_to_standard_normal=lambda q: kl_to_standard_normal(q[0], q[2]),
      ...     moments=lambda key, q: (q[0], q[2]),
      ...     init=lambda key: jnp.zeros(2),
      ... )
      >>> print(shared.log_prob((jnp.zeros(2), jnp.ones(2), jnp.zeros(2)), jnp.zeros(2)))
      -1.84
    """

    name: str
    sample: Callable[[Array, PosteriorParams], Array]
    sample_and_log_prob: Callable[[Array, PosteriorParams], tuple[Array, Array]]
    log_prob: Callable[[PosteriorParams, Array], Array] | None
    kl_to_standard_normal: Callable[[PosteriorParams], Array] | None
    moments: Callable[[Array, PosteriorParams], tuple[Array, Array]]
    num_extra: int = 0
    init: Callable[[Array], Params] | None = None
    sample_and_kl: Callable[[Array, PosteriorParams], tuple[Array, Array]] | None = None
    part: str = "posterior"
    latent_dim: int | None = None
    layers: tuple[tuple[int, ...], ...] = ()
    factor: Callable[[PosteriorParams], Array] | None = None


def _sample(key: Array, q: PosteriorParams) -> Array:
    mean, log_scale = q
    return sample_posterior(key, mean, log_scale)


def _log_prob(q: PosteriorParams, z: Array) -> Array:
    mean, log_scale = q
    return posterior_log_prob(mean, log_scale, z)


def _sample_and_log_prob(key: Array, q: PosteriorParams) -> tuple[Array, Array]:
    z = _sample(key, q)
    return z, _log_prob(q, z)


def _moments(key: Array, q: PosteriorParams) -> tuple[Array, Array]:
    return q[0], q[1]


# q(z|x) = N(mean, diag(exp(log_scale)^2)), Kingma & Welling (2014): the posterior of models that name none
DIAGONAL = Posterior(
    "diagonal",
    _sample,
    _sample_and_log_prob,
    _log_prob,
    lambda q: kl_to_standard_normal(*q),
    _moments,
    factor=lambda q: jnp.diag(jnp.exp(q[1])),
)


def moments_from_draws(
    key: Key[Array, ""], sample: Callable[[Array, PosteriorParams], Array], q: PosteriorParams, num_draws: int = 64
) -> tuple[Float[Array, "latent"], Float[Array, "latent"]]:
    """Estimates mean and log standard deviation of each dimension of q(z|x) from draws, for `Posterior.moments`.

    Args:
      key: a new-style PRNG key.
      sample: (key, q) -> z.
      q: the parameters.
      num_draws: the relative error of the standard deviation is about 1 / sqrt(2 num_draws).

    Returns:
      (mean, log_scale), each (latent,).
    """
    z = jax.vmap(sample, in_axes=(0, None))(jax.random.split(key, num_draws), q)
    return jnp.mean(z, axis=0), 0.5 * jnp.log(jnp.maximum(jnp.var(z, axis=0, ddof=1), jnp.finfo(z.dtype).tiny))


def with_auxiliary(posterior: Posterior, num_auxiliary: int) -> Posterior:
    """Returns a posterior of codes (z, e) with noise e ~ N(0, I) behind z, which a prior may need (`Prior.num_auxiliary`).

    Args:
      posterior: that of z. Its KL to N(0, I) is not kept, because the prior is a different one.
      num_auxiliary: length of e.
    """
    if not num_auxiliary:
        return posterior
    dim = -num_auxiliary

    def noise(key: Array) -> Array:
        return jax.random.normal(jax.random.fold_in(key, 1), (num_auxiliary,))

    def log_prob_noise(e: Array) -> Array:
        return posterior_log_prob(jnp.zeros_like(e), jnp.zeros_like(e), e)

    def sample(key: Array, q: PosteriorParams) -> Array:
        return jnp.concatenate([posterior.sample(key, q), noise(key)])

    def sample_and_log_prob(key: Array, q: PosteriorParams) -> tuple[Array, Array]:
        (z, log_q), e = posterior.sample_and_log_prob(key, q), noise(key)
        return jnp.concatenate([z, e]), log_q + log_prob_noise(e)

    inner = posterior.log_prob

    def log_prob(q: PosteriorParams, z: Array) -> Array:
        assert inner is not None
        return inner(q, z[:dim]) + log_prob_noise(z[dim:])

    def moments(key: Array, q: PosteriorParams) -> tuple[Array, Array]:
        mean, log_scale = posterior.moments(key, q)
        return jnp.pad(mean, (0, num_auxiliary)), jnp.pad(log_scale, (0, num_auxiliary))

    inner_factor = posterior.factor

    def factor(q: PosteriorParams) -> Array:
        assert inner_factor is not None
        return jax.scipy.linalg.block_diag(inner_factor(q), jnp.eye(num_auxiliary))

    return posterior._replace(
        sample=sample,
        sample_and_log_prob=sample_and_log_prob,
        log_prob=None if inner is None else log_prob,
        kl_to_standard_normal=None,
        moments=moments,
        factor=None if inner_factor is None else factor,
        sample_and_kl=None,
        latent_dim=None if posterior.latent_dim is None else posterior.latent_dim + num_auxiliary,
    )
