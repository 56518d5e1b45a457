"""Priors p(z) other than N(0, I): mixtures of Gaussians, the VampPrior, a second stochastic layer; bundles for a `VAE`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from vae_jax.divergences import kl_monte_carlo
from vae_jax.posteriors import posterior_log_prob, sample_posterior

Encode = Callable[[Array], tuple[Array, Array]]  # x -> (mean, log_scale) of q(z|x)


def gaussian_mixture_log_prob(z: ArrayLike, mixture_logits: ArrayLike, means: ArrayLike, log_scales: ArrayLike) -> Array:
    """Log density of one code under a mixture of diagonal Gaussians.

        log p(z) = log sum_m softmax(mixture_logits)_m N(z; means_m, exp(log_scales_m)^2)

    Args:
      z: shape (latent,).
      mixture_logits: unnormalised log-weights, shape (components,).
      means, log_scales: shape (components, latent); log_scales are natural logs of standard deviations.

    Returns:
      Scalar, nats.

    Example: one component is the plain Gaussian.
      >>> print(gaussian_mixture_log_prob(jnp.zeros(2), jnp.zeros(1), jnp.zeros((1, 2)), jnp.zeros((1, 2))))
      -1.84

    Source:
      As a prior: Dilokthanakul et al. (2016).
    """
    means, log_scales, mixture_logits = jnp.asarray(means), jnp.asarray(log_scales), jnp.asarray(mixture_logits)
    if means.ndim != 2 or log_scales.shape != means.shape or mixture_logits.shape != means.shape[:1]:
        raise ValueError(
            "gaussian_mixture_log_prob: expected mixture_logits (components,), means and log_scales (components, latent), got "
            f"{mixture_logits.shape}, {means.shape} and {log_scales.shape}. "
            "The function takes ONE code z: use jax.vmap for several."
        )
    components = jax.vmap(posterior_log_prob, in_axes=(0, 0, None))(means, log_scales, z)
    return jax.nn.logsumexp(jax.nn.log_softmax(mixture_logits) + components)


def vamp_log_prob(z: ArrayLike, encode: Encode, pseudo_inputs: ArrayLike) -> Array:
    """Log density of one code under the VampPrior: the mixture of the posteriors of learned pseudo-inputs.

        log p(z) = log 1/K sum_k q(z|u_k)

    Args:
      z: shape (latent,).
      encode: x -> (mean, log_scale) of q(z|x), the model's own encoder; gradients flow into it.
      pseudo_inputs: u, (K, *data shape), learned with the model.

    Returns:
      Scalar, nats.

    Example:
      >>> encode = lambda u: (u, jnp.zeros_like(u))
      >>> print(vamp_log_prob(jnp.zeros(2), encode, jnp.zeros((5, 2))))
      -1.84

    Source:
      Tomczak & Welling (2018).
    """
    means, log_scales = jax.vmap(encode)(jnp.asarray(pseudo_inputs))
    return gaussian_mixture_log_prob(z, jnp.zeros(means.shape[0], means.dtype), means, log_scales)


def kl_to_prior(
    key: Array, mean: ArrayLike, log_scale: ArrayLike, prior_log_prob: Callable[[Array], Array], num_samples: int = 1
) -> Array:
    """Monte Carlo KL from the diagonal Gaussian posterior of one example to any prior; see `divergences.kl_monte_carlo`.

    Example:
      >>> prior = lambda z: gaussian_mixture_log_prob(z, jnp.zeros(2), jnp.array([[-1.0], [1.0]]), jnp.zeros((2, 1)))
      >>> print(kl_to_prior(jax.random.key(0), jnp.zeros(1), jnp.zeros(1), prior, num_samples=10_000))
      0.12
    """
    return kl_monte_carlo(
        key,
        lambda key: sample_posterior(key, mean, log_scale),
        lambda z: posterior_log_prob(mean, log_scale, z),
        prior_log_prob,
        num_samples,
    )


class Prior(NamedTuple):
    """A learned prior as a bundle of pure functions; its params are part of the model's, and learn with them.

    `encode` is the model's own encoder, x -> (mean, log_scale), for priors that are made of posteriors. The last
    `num_auxiliary` dimensions of a code are N(0, I) under every posterior, and the decoder does not see them:
    `model.make_vae` adds them.
    """

    name: str
    init: Callable[[Array], Any]  # key -> params
    log_prob: Callable[[Any, Encode, Array], Array]  # (params, encode, z) -> scalar nats
    sample: Callable[[Any, Encode, Array], Array]  # (params, encode, key) -> z
    num_auxiliary: int = 0


class ConditionalGaussian(NamedTuple):
    """A Gaussian vector given another one, as two pure functions; `ConditionalGaussian(*networks.mlp_encoder(...))` is one."""

    init: Callable[[Array], Any]  # key -> params
    apply: Callable[[Any, Array], tuple[Array, Array]]  # (params, the other vector) -> (mean, log_scale)


def gaussian_mixture(latent_dim: int, num_components: int = 10) -> Prior:
    """A mixture of diagonal Gaussians with learned weights, means and scales; the means start as draws of N(0, I)."""
    if num_components < 1:
        raise ValueError(f"gaussian_mixture: expected num_components >= 1, got {num_components}.")

    def init(key: Array) -> Any:
        means = jax.random.normal(key, (num_components, latent_dim))
        return {"logits": jnp.zeros(num_components), "means": means, "log_scales": jnp.zeros_like(means)}

    def log_prob(params: Any, encode: Encode, z: Array) -> Array:
        return gaussian_mixture_log_prob(z, params["logits"], params["means"], params["log_scales"])

    def sample(params: Any, encode: Encode, key: Array) -> Array:
        key_component, key_z = jax.random.split(key)
        chosen = jax.random.categorical(key_component, params["logits"])
        return sample_posterior(key_z, params["means"][chosen], params["log_scales"][chosen])

    return Prior("gaussian_mixture", init, log_prob, sample)


def vamp(start: ArrayLike | Callable[[Array], Array]) -> Prior:
    """The VampPrior with learned pseudo-inputs.

    Args:
      start: where the pseudo-inputs start, (K, *data shape), or a function from a key to such an array: training examples, as
        the encoder takes them, or noise about their mean as in the paper (K = 500). They are not held to the data's range.
    """

    def init(key: Array) -> Any:
        return jnp.asarray(start(key) if callable(start) else start, jnp.float32)

    def sample(params: Any, encode: Encode, key: Array) -> Array:
        key_component, key_z = jax.random.split(key)
        chosen = jax.random.randint(key_component, (), 0, params.shape[0])
        return sample_posterior(key_z, *encode(params[chosen]))

    return Prior("vamp", init, lambda params, encode, z: vamp_log_prob(z, encode, params), sample)


def hierarchical(latent_dim: int, deeper_dim: int, infer: ConditionalGaussian, generate: ConditionalGaussian) -> Prior:
    """A second stochastic layer: z1 of the `VAE` has the prior of a latent-variable model of its own, with N(0, I) for z2.

        p(z1, z2) = N(z2; 0, I) p(z1|z2),   inferred by q(z2|z1)

    It is a prior of codes z = (z1, e), where e is the noise that z2 is made of, N(0, I) under every posterior:

        z2 = mean_infer(z1) + exp(log_scale_infer(z1)) e
        log p(z1, e) = log N(z2; 0, I) + log p(z1|z2) + sum log_scale_infer(z1)

    The last term is the change of variables from z2 to e. So log p(z) - log q(z|x) is the log-weight of both layers,
    log p(z1, z2) - log q(z1|x) - log q(z2|z1), and every objective and estimate of log p(x) that takes a learned prior holds
    for them.

    Args:
      latent_dim: of z1, what the encoder and the decoder of the `VAE` have.
      deeper_dim: of z2.
      infer: q(z2|z1), a network from (latent_dim,) to (mean, log_scale), each (deeper_dim,). It learns as part of the prior, by
        the reparameterised gradient also under the estimators "stl" and "dreg", which concern the encoder.
      generate: p(z1|z2), a network from (deeper_dim,) to (mean, log_scale), each (latent_dim,).

    Source:
      Burda et al. (2016), whose models of two stochastic layers these are.
    """

    def init(key: Array) -> Any:
        key_infer, key_generate = jax.random.split(key)
        return {"infer": infer.init(key_infer), "generate": generate.init(key_generate)}

    def log_prob(params: Any, encode: Encode, z: Array) -> Array:
        z1, noise = z[:latent_dim], z[latent_dim:]
        mean, log_scale = infer.apply(params["infer"], z1)
        z2 = mean + jnp.exp(log_scale) * noise
        of_z1 = posterior_log_prob(*generate.apply(params["generate"], z2), z1)
        origin = jnp.zeros_like(z2)
        return posterior_log_prob(origin, origin, z2) + of_z1 + jnp.sum(log_scale)

    def sample(params: Any, encode: Encode, key: Array) -> Array:
        key_z1, key_z2 = jax.random.split(key)
        z2 = jax.random.normal(key_z2, (deeper_dim,))
        z1 = sample_posterior(key_z1, *generate.apply(params["generate"], z2))
        mean, log_scale = infer.apply(params["infer"], z1)
        return jnp.concatenate([z1, (z2 - mean) * jnp.exp(-log_scale)])

    return Prior("hierarchical", init, log_prob, sample, deeper_dim)
