"""Where an ELBO falls short of log p(x): the family of q (approximation) or the encoder (amortisation), for each example."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from vae_jax._numerics.short_repr import short_repr
from vae_jax.divergences import kl_to_standard_normal
from vae_jax.evaluation.dataset_means import ToInput, map_examples
from vae_jax.model import VAE, Params, prior_log_prob
from vae_jax.objectives import elbo
from vae_jax.objectives.base import Decode, LogProb, PriorLogProb, check_num_samples, draw

Posterior = tuple[Array, Array]  # (mean, log_scale) of a diagonal Gaussian


@short_repr
class Gaps(NamedTuple):
    """The ELBO of the encoder's q, and of the best diagonal Gaussian q*, for one example; beta = 1, nats.

    With a leading axis of examples from a data set. The same draws are behind both, so their difference has less noise.
    """

    log_px: Array  # as it was passed
    elbo: Array  # L[q]
    elbo_standard_error: Array
    best_elbo: Array  # L[q*]
    best_elbo_standard_error: Array
    amortization_gap_standard_error: Array
    mean: Array  # of q*, (latent,)
    log_scale: Array  # of q*, (latent,)

    @property
    def approximation_gap(self) -> Array:
        """Log p(x) - L[q*], what no diagonal Gaussian can reach; too small by what `log_px` lacks where it is a lower bound."""
        return self.log_px - self.best_elbo

    @property
    def amortization_gap(self) -> Array:
        """What L[q*] has over L[q]: what this encoder leaves; not negative but for the noise of the two."""
        return self.best_elbo - self.elbo


def fit_posterior(
    key: Array,
    posterior: Posterior,
    decode: Decode,
    log_prob: LogProb,
    x: Array,
    *,
    num_steps: int = 1000,
    num_samples: int = 16,
    learning_rate: float = 0.03,
    prior_log_prob: PriorLogProb | None = None,
) -> Posterior:
    """The diagonal Gaussian with the highest ELBO for one example, by stochastic gradients from where the encoder puts it.

        maximise L[q] = E_q[log p(x|z)] - KL(q || p(z))   over (mean, log_scale),   with new draws of z at every step

    Args:
      key: a new-style PRNG key.
      posterior: (mean, log_scale) to begin at, each (latent,).
      decode, log_prob, x, prior_log_prob: as in `elbo`.
      num_steps: steps of Adam, >= 1 (static); the learning rate falls to 0 along half a cosine, so the last ones settle.
      num_samples: draws of z at each step, >= 1 (static).
      learning_rate: of Adam at the first step: about how far a coordinate moves in a step.

    Returns:
      (mean, log_scale), each (latent,).

    Example: the posterior of z ~ N(0, 1), x ~ N(z, 1) at x = 1 is N(1/2, 1/2).
      >>> from vae_jax.likelihoods import gaussian_log_prob
      >>> def fit(x): return fit_posterior(jax.random.key(0), (jnp.zeros(1), jnp.zeros(1)), lambda z: z, log_prob, x)
      >>> def log_prob(mean, x): return gaussian_log_prob(mean, 0.0, x)
      >>> mean, log_scale = jax.jit(fit)(jnp.ones(1))
      >>> print(mean, jnp.exp(2 * log_scale))
      [0.5] [0.5]

    Source:
      Cremer et al. (2018).
    """
    check_num_samples("fit_posterior", num_steps=num_steps, num_samples=num_samples)
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))

    def loss(posterior: Posterior, key: Array) -> Array:
        terms = elbo(
            key,
            lambda x: posterior,
            decode,
            log_prob,
            x,
            num_samples=num_samples,
            # Of the best posterior itself, were it in the family, this gradient has no noise at all.
            estimator="stl",
            prior_log_prob=prior_log_prob,
        )
        return terms.loss

    def step(carry: tuple[Posterior, optax.OptState], i: Array) -> tuple[tuple[Posterior, optax.OptState], None]:
        posterior, state = carry
        gradient = jax.grad(loss)(posterior, jax.random.fold_in(key, i))
        update, state = optimizer.update(gradient, state)
        posterior = jax.tree.map(jnp.add, posterior, update)
        return (posterior, state), None

    (posterior, _), _ = jax.lax.scan(step, (posterior, optimizer.init(posterior)), jnp.arange(num_steps))
    return posterior


def _elbo_k(
    key: Array,
    posterior: Posterior,
    decode: Decode,
    log_prob: LogProb,
    x: Array,
    prior_log_prob: PriorLogProb | None,
    num_draws: int,
    num_samples: int,
) -> Array:
    """L[q] from each of many draws, (num_draws,), so many at once; draw k from fold_in(key, k), whatever the posterior."""
    kl = kl_to_standard_normal(*posterior)

    def one(k: Array) -> Array:
        drawn = draw(jax.random.fold_in(key, k), *posterior, decode, log_prob, x, prior_log_prob=prior_log_prob)
        return drawn.log_likelihood - kl if prior_log_prob is None else drawn.log_weight

    return jax.lax.map(one, jnp.arange(num_draws), batch_size=min(num_samples, num_draws))


def _standard_error(values: Array) -> Array:
    return jnp.std(values, ddof=1) / values.shape[0] ** 0.5


def gaps(
    key: Array,
    posterior: Posterior,
    decode: Decode,
    log_prob: LogProb,
    x: Array,
    log_px: Array,
    *,
    num_steps: int = 1000,
    num_samples: int = 16,
    num_evaluation_samples: int = 1000,
    learning_rate: float = 0.03,
    prior_log_prob: PriorLogProb | None = None,
) -> Gaps:
    """The two gaps between log p(x) and the ELBO of the encoder, for one example.

        log p(x) - L[q] = (log p(x) - L[q*]) + (L[q*] - L[q]) = approximation gap + amortisation gap

    where q* is the best of the diagonal Gaussians, `fit_posterior`; or q itself, should the fit be no better. Which of them it
    is, and what each is worth, are found with draws of their own, so that neither is flattered by the choice.

    Args:
      key, posterior, decode, log_prob, x, num_steps, num_samples, learning_rate, prior_log_prob: as in `fit_posterior`.
      log_px: log p(x) in nats, the best that there is: the larger of annealed and importance-weighted estimates, both of which
        are lower bounds. What it lacks is missing from the approximation gap.
      num_evaluation_samples: draws for each ELBO that is reported, >= 2 (static), num_samples at once.

    Returns:
      `Gaps`. The KL to N(0, I) is in closed form, any other sampled; standard errors are over the draws of z.

    Source:
      Cremer et al. (2018).
    """
    if num_evaluation_samples < 2:
        raise ValueError(f"gaps: expected num_evaluation_samples >= 2, got {num_evaluation_samples}.")
    key_fit, key_choice, key_report = jax.random.split(key, 3)
    fitted = fit_posterior(
        key_fit,
        posterior,
        decode,
        log_prob,
        x,
        num_steps=num_steps,
        num_samples=num_samples,
        learning_rate=learning_rate,
        prior_log_prob=prior_log_prob,
    )

    def elbo_k(key: Array, posterior: Posterior) -> Array:
        return _elbo_k(key, posterior, decode, log_prob, x, prior_log_prob, num_evaluation_samples, num_samples)

    is_better = jnp.mean(elbo_k(key_choice, fitted)) > jnp.mean(elbo_k(key_choice, posterior))
    best = jax.tree.map(lambda new, old: jnp.where(is_better, new, old), fitted, posterior)
    of_encoder, of_best = elbo_k(key_report, posterior), elbo_k(key_report, best)
    return Gaps(
        log_px=log_px,
        elbo=jnp.mean(of_encoder),
        elbo_standard_error=_standard_error(of_encoder),
        best_elbo=jnp.mean(of_best),
        best_elbo_standard_error=_standard_error(of_best),
        amortization_gap_standard_error=_standard_error(of_best - of_encoder),
        mean=best[0],
        log_scale=best[1],
    )


def gaps_dataset(
    key: Array,
    vae: VAE,
    params: Params,
    data: Array,
    log_px: Array,
    *,
    to_input: ToInput = lambda x: x,
    batch_size: int = 100,
    log_jacobian: float = 0.0,
    num_steps: int = 1000,
    num_samples: int = 16,
    num_evaluation_samples: int = 1000,
    learning_rate: float = 0.03,
    first: ArrayLike = 0,
) -> Gaps:
    """`gaps` of every example of a data set. Jit it at the edge.

    Args:
      key: a new-style PRNG key. Example i uses fold_in(key, i), so results do not depend on batch_size.
      vae, params: the model.
      data: (examples, ...) as stored; to_input turns a batch of it into floats.
      log_px: (examples,), nats, as in `gaps`, with log_jacobian included.
      batch_size: examples at once; memory only.
      log_jacobian: nats added to each ELBO, `data.Prepared.log_jacobian`.
      num_steps, num_samples, num_evaluation_samples, learning_rate: as in `gaps`.
      first: index of data[0], where data is a part of a data set; may be traced.

    Returns:
      `Gaps` of per-example values, each with a leading axis of examples; take their means on the host in float64.
    """
    if log_px.shape != data.shape[:1]:
        raise ValueError(f"gaps_dataset: expected log_px of each of the {data.shape[0]} examples, got shape {log_px.shape}.")
    log_prior = prior_log_prob(vae, params)

    def one(index: Array, x: Array) -> Gaps:
        found = gaps(
            jax.random.fold_in(key, index),
            vae.encode(params, x),
            lambda z: vae.decode(params, z),
            vae.likelihood.log_prob,
            x,
            log_px[index - first],
            num_steps=num_steps,
            num_samples=num_samples,
            num_evaluation_samples=num_evaluation_samples,
            learning_rate=learning_rate,
            prior_log_prob=log_prior,
        )
        return found._replace(elbo=found.elbo + log_jacobian, best_elbo=found.best_elbo + log_jacobian)

    return map_examples(one, data, to_input, batch_size, first)
