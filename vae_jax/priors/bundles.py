"""Learned priors p(z): mixtures of Gaussians, the VampPrior, and a second stochastic layer, as bundles for a `VAE`."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from vae_jax._numerics.arrays import Params
from vae_jax.divergences import kl_monte_carlo
from vae_jax.example import Example, Examples
from vae_jax.posteriors import Encode, posterior_log_prob, sample_posterior


def gaussian_mixture_log_prob(
    z: Float[ArrayLike, "latent"],
    mixture_logits: Float[ArrayLike, "components"],
    means: Float[ArrayLike, "components latent"],
    log_scales: Float[ArrayLike, "components latent"],
) -> Float[Array, ""]:
    """Computes the log density of one code under a mixture of diagonal Gaussians.

        log p(z) = log sum_m softmax(mixture_logits)_m N(z; means_m, exp(log_scales_m)^2)

    Args:
      z: the code, shape (latent,).
      mixture_logits: unnormalized log-weights, shape (components,).
      means: means of the components, shape (components, latent).
      log_scales: natural logs of their standard deviations, same shape.

    Returns:
      Scalar, nats, any sign (it is a density).

    Example: one component is the plain Gaussian.
      >>> print(gaussian_mixture_log_prob(jnp.zeros(2), jnp.zeros(1), jnp.zeros((1, 2)), jnp.zeros((1, 2))))
      -1.84

    Source:
      Dilokthanakul et al. (2016), who use it as a prior.
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


def vamp_log_prob(
    z: Float[ArrayLike, "latent"], encode: Encode, pseudo_inputs: Float[ArrayLike, "components *event"]
) -> Float[Array, ""]:
    """Computes the log density of one code under the VampPrior, the mixture of the posteriors of learned pseudo-inputs.

        log p(z) = log 1/K sum_k q(z|u_k)

    Args:
      z: the code, shape (latent,).
      encode: x -> (mean, log_scale) of q(z|x), the encoder of the model. Gradients flow into it.
      pseudo_inputs: u, shape (K, *event), learned with the model.

    Returns:
      Scalar, nats, any sign (it is a density).

    Example:
      >>> encode = lambda u: (u, jnp.zeros_like(u))
      >>> print(vamp_log_prob(jnp.zeros(2), encode, jnp.zeros((5, 2))))
      -1.84

    Source:
      Tomczak & Welling (2018).
    """
    means, log_scales = jax.vmap(encode)(_as_example(pseudo_inputs))
    return gaussian_mixture_log_prob(z, jnp.zeros(means.shape[0], means.dtype), means, log_scales)


def kl_to_prior(
    key: Key[Array, ""],
    mean: Float[ArrayLike, "latent"],
    log_scale: Float[ArrayLike, "latent"],
    prior_log_prob: Callable[[Array], Array],
    num_samples: int = 1,
) -> Float[Array, ""]:
    """Estimates the KL of the diagonal Gaussian posterior of one example from any prior (see `divergences.kl_monte_carlo`).

    Args:
      key: a new-style PRNG key.
      mean: posterior mean, shape (latent,).
      log_scale: natural log of the posterior standard deviation, same shape.
      prior_log_prob: z -> log p(z), scalar nats.
      num_samples: number of draws, >= 1 (static).

    Returns:
      Scalar, nats. The estimate is unbiased and may be negative.

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
    """A learned prior p(z) as a bundle of pure functions of ONE code.

    `model.make_vae` takes one. To use your own prior, fill this record.

    Contract of the functions:

    - They see one code z of shape (latent + num_auxiliary,), without a batch axis. Callers apply `jax.vmap`.
    - Their parameters are stored as `params["prior"]` of the model and learn with it. They keep no other state.
    - `encode` is the encoder of the model at its present parameters, x -> (mean, log_scale). Priors that consist of posteriors
      need it. Gradients flow through it.
    - They are traced inside `jit`, `grad` and `vmap`, so they must not branch on the values of arrays.
    - `log_prob` is normalized and returns nats. With a learned prior the KL is estimated from draws of z, so `log_prob` must be
      differentiable in z.

    Attributes:
      name: shown in messages and reports.
      init: key -> initial parameters, a pytree of arrays.
      log_prob: (params, encode, z) -> log p(z), a scalar in nats.
      sample: (params, encode, key) -> one draw of z.
      num_auxiliary: number of dimensions that `model.make_vae` appends to a code. They are N(0, I) under every posterior, and
        the decoder does not see them. `hierarchical` needs them for the noise of its deeper layer.
      part: the entry of the model's parameters that the functions get. With a different one than "prior", `init` is not called.
      needs_diagonal: whether the functions unpack what `encode` returns as (mean, log_scale) of a diagonal Gaussian, as the
        VampPrior does.

    Example: a normal distribution with a learned scale.
      >>> normal = Prior(
      ...     name="scaled_normal",
      ...     init=lambda key: jnp.zeros(2),
      ...     log_prob=lambda log_scale, encode, z: posterior_log_prob(jnp.zeros(2), log_scale, z),
      ...     sample=lambda log_scale, encode, key: sample_posterior(key, jnp.zeros(2), log_scale),
      ... )
      >>> params, codes = normal.init(jax.random.key(0)), jnp.zeros((5, 2))
      >>> log_prob = lambda z: normal.log_prob(params, lambda x: (x, x), z)  # this prior does not use the encoder
      >>> print(jax.vmap(log_prob)(codes))
      [-1.84 -1.84 -1.84 -1.84 -1.84]
    """

    name: str
    init: Callable[[Array], Params]
    log_prob: Callable[[Params, Encode, Array], Array]
    sample: Callable[[Params, Encode, Array], Array]
    num_auxiliary: int = 0
    part: str = "prior"
    needs_diagonal: bool = False


class ConditionalGaussian(NamedTuple):
    """A Gaussian vector given a different vector, as two pure functions, such as those of `networks.mlp_encoder`.

    `model.make_vae(..., prior=)` takes one of the condition as p(z|c).

    `ConditionalGaussian(*networks.mlp_encoder(...))` makes one. Networks with dropout are refused: a density does not change
    from call to call.
    """

    init: Callable[[Array], Params]  # key -> params
    apply: Callable[[Params, Array], tuple[Array, Array]]  # (params, the given vector) -> (mean, log_scale)
    is_stochastic: bool = False  # that of the network, which must be False


def gaussian_mixture(latent_dim: int, num_components: int = 10) -> Prior:
    """Makes a mixture of diagonal Gaussians with learned weights, means and scales.

    The means are initialized with draws from N(0, I), the scales with 1.

    Args:
      latent_dim: number of latent dimensions.
      num_components: number of components, >= 1.

    Returns:
      The `Prior`.
    """
    if num_components < 1:
        raise ValueError(f"gaussian_mixture: expected num_components >= 1, got {num_components}.")

    def init(key: Array) -> Params:
        means = jax.random.normal(key, (num_components, latent_dim))
        return {"logits": jnp.zeros(num_components), "means": means, "log_scales": jnp.zeros_like(means)}

    def log_prob(params: Params, encode: Encode, z: Array) -> Array:
        return gaussian_mixture_log_prob(z, params["logits"], params["means"], params["log_scales"])

    def sample(params: Params, encode: Encode, key: Array) -> Array:
        key_component, key_z = jax.random.split(key)
        chosen = jax.random.categorical(key_component, params["logits"])
        return sample_posterior(key_z, params["means"][chosen], params["log_scales"][chosen])

    return Prior("gaussian_mixture", init, log_prob, sample)


def _as_example(pseudo_inputs: Params) -> Examples:
    """Returns pseudo-inputs as an array, or those of a conditional model as an `Example` of arrays."""
    return Example(**pseudo_inputs) if isinstance(pseudo_inputs, dict) else jnp.asarray(pseudo_inputs)


def vamp(start: ArrayLike | Callable[[Array], Array]) -> Prior:
    """Makes the VampPrior with learned pseudo-inputs.

    Args:
      start: initial pseudo-inputs, shape (K, *event), or a function from a key to such an array. Use training examples, as the
        encoder takes them, or noise around their mean as in the paper (K = 500). Pseudo-inputs are not confined to the range of
        the data. For a conditional model it is an `Example` of arrays: p(z) does not depend on the condition of x, and each
        pseudo-input has a learned condition of its own. The encoder sees them without dropout, also in training.

    Returns:
      The `Prior`.
    """

    def init(key: Array) -> Params:
        inputs = start(key) if callable(start) else start
        if isinstance(inputs, Example):  # dictionaries of arrays are what checkpoints hold
            inputs = {"event": inputs.event, "condition": inputs.condition}
        return jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), inputs)

    def sample(params: Params, encode: Encode, key: Array) -> Array:
        inputs = _as_example(params)
        key_component, key_z = jax.random.split(key)
        chosen = jax.random.randint(key_component, (), 0, inputs.shape[0])
        return sample_posterior(key_z, *encode(inputs[chosen]))

    return Prior("vamp", init, lambda params, encode, z: vamp_log_prob(z, encode, params), sample, needs_diagonal=True)


def hierarchical(latent_dim: int, deeper_dim: int, infer: ConditionalGaussian, generate: ConditionalGaussian) -> Prior:
    """Makes the prior of a second stochastic layer z2 above the code z1 of the `VAE`.

        p(z1, z2) = N(z2; 0, I) p(z1|z2),   inferred by q(z2|z1)

    It is a prior of codes z = (z1, e). The noise e, from which z2 is computed, is N(0, I) under every posterior:

        z2 = mean_infer(z1) + exp(log_scale_infer(z1)) e
        log p(z1, e) = log N(z2; 0, I) + log p(z1|z2) + sum log_scale_infer(z1)

    The last term is the change of variables from z2 to e. So log p(z) - log q(z|x) is the log-weight of both layers,
    log p(z1, z2) - log q(z1|x) - log q(z2|z1). Therefore every objective and every estimate of log p(x) that takes a learned
    prior also holds for two layers.

    Args:
      latent_dim: number of dimensions of z1, the code of the encoder and the decoder of the `VAE`.
      deeper_dim: number of dimensions of z2.
      infer: q(z2|z1), a network from (latent_dim,) to (mean, log_scale), each (deeper_dim,). It learns as part of the prior.
        Its gradient is the reparameterized one even with the estimators "stl" and "dreg", which concern the encoder.
      generate: p(z1|z2), a network from (deeper_dim,) to (mean, log_scale), each (latent_dim,).

    Returns:
      The `Prior`, with `num_auxiliary = deeper_dim`.

    Raises:
      ValueError: a network draws random numbers, such as dropout.

    Source:
      Burda et al. (2016), models with two stochastic layers.
    """
    if infer.is_stochastic or generate.is_stochastic:
        raise ValueError("hierarchical: expected deterministic networks, got one that draws random numbers, such as dropout.")

    def init(key: Array) -> Params:
        key_infer, key_generate = jax.random.split(key)
        return {"infer": infer.init(key_infer), "generate": generate.init(key_generate)}

    def log_prob(params: Params, encode: Encode, z: Array) -> Array:
        z1, noise = z[:latent_dim], z[latent_dim:]
        mean, log_scale = infer.apply(params["infer"], z1)
        z2 = mean + jnp.exp(log_scale) * noise
        log_prob_z1 = posterior_log_prob(*generate.apply(params["generate"], z2), z1)
        origin = jnp.zeros_like(z2)
        return posterior_log_prob(origin, origin, z2) + log_prob_z1 + jnp.sum(log_scale)

    def sample(params: Params, encode: Encode, key: Array) -> Array:
        key_z1, key_z2 = jax.random.split(key)
        z2 = jax.random.normal(key_z2, (deeper_dim,))
        z1 = sample_posterior(key_z1, *generate.apply(params["generate"], z2))
        mean, log_scale = infer.apply(params["infer"], z1)
        return jnp.concatenate([z1, (z2 - mean) * jnp.exp(-log_scale)])

    return Prior("hierarchical", init, log_prob, sample, deeper_dim)
