"""Splits the gap between log p(x) and the ELBO of each example into an approximation gap and an amortization gap.

The approximation gap is due to the family of q, the amortization gap to the encoder.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, Shaped

from vae_jax._numerics.keys import Stream, stream
from vae_jax._numerics.short_repr import short_repr
from vae_jax.divergences import kl_to_standard_normal
from vae_jax.evaluation.dataset_means import DataSlice, ToInput, as_slice, map_examples
from vae_jax.example import Example
from vae_jax.model import VAE, Params, bind, split_weights
from vae_jax.objectives import elbo
from vae_jax.objectives.base import Decode, LogProb, PriorLogProb, check_num_samples, draw
from vae_jax.posteriors import DIAGONAL, Posterior, PosteriorParams


class GapSettings(NamedTuple):
    """Settings of the local posterior fit and of the reported ELBOs. They are static, so the record is hashable."""

    num_steps: int = 1000  # steps of Adam, >= 1
    num_samples: int = 16  # draws of z at each step, and draws evaluated together in the report, >= 1
    num_evaluation_samples: int = 1000  # draws of z behind each reported ELBO, >= 2
    learning_rate: float = 0.03  # of Adam at the first step: roughly the distance that a coordinate moves in a step
    batch_size: int = 100  # examples that `gaps_dataset` computes together. It affects memory only.


DEFAULT = GapSettings()


class Family(NamedTuple):
    """A family of posteriors, of which the outputs of the encoder choose one."""

    posterior: Posterior = DIAGONAL
    weights: PosteriorParams = ()  # learned weights behind the outputs, as in `q` of `Posterior`


@short_repr
class Gaps(NamedTuple):
    """The ELBO of the encoder's q and of the best posterior q* of its family, for one example, in nats at beta = 1.

    Results for a data set have a leading axis of examples. Both ELBOs use the same draws, which makes their difference less
    noisy than either.
    """

    log_px: Float[Array, "*examples"]  # as passed by the caller
    elbo: Float[Array, "*examples"]  # L[q]
    elbo_standard_error: Float[Array, "*examples"]  # over the draws of z, like the other two
    best_elbo: Float[Array, "*examples"]  # L[q*]
    best_elbo_standard_error: Float[Array, "*examples"]
    amortization_gap_standard_error: Float[Array, "*examples"]
    mean: Float[Array, "*examples latent"]  # of q*
    log_scale: Float[Array, "*examples latent"]  # log of the standard deviation of each dimension of q*

    @property
    def approximation_gap(self) -> Float[Array, "*examples"]:
        """Log p(x) - L[q*] in nats, which no posterior of this family can close. It is too small if log_px is a lower bound."""
        return self.log_px - self.best_elbo

    @property
    def amortization_gap(self) -> Float[Array, "*examples"]:
        """L[q*] - L[q] in nats, the loss due to the encoder. It is >= 0 up to the noise of the two estimates."""
        return self.best_elbo - self.elbo


def fit_posterior(
    key: Key[Array, ""],
    posterior: PosteriorParams,
    decode: Decode,
    log_prob: LogProb,
    x: Shaped[Array, "..."],
    settings: GapSettings = DEFAULT,
    *,
    prior_log_prob: PriorLogProb | None = None,
    family: Family = Family(),  # noqa: B008 (a NamedTuple cannot be changed)
) -> PosteriorParams:
    """Fits the posterior with the highest ELBO for one example, of one family, by stochastic gradients.

        maximize L[q] = E_q[log p(x|z)] - KL(q || p(z))   over the encoder's outputs,   with new draws of z at every step

    Args:
      key: a new-style PRNG key.
      posterior: what to start from, usually the encoder's output: (mean, log_scale), each (latent,), for the diagonal Gaussian.
      decode, log_prob, x, prior_log_prob: see `elbo`.
      family: of q(z|x), with its learned weights, which are kept. The diagonal Gaussian by default.
      settings: num_steps, num_samples and learning_rate are used. The learning rate falls to 0 along half a cosine, so that
        the last steps settle.

    Returns:
      The outputs, in the shapes of `posterior`.

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
    check_num_samples("fit_posterior", num_steps=settings.num_steps, num_samples=settings.num_samples)
    optimizer = optax.adam(optax.cosine_decay_schedule(settings.learning_rate, settings.num_steps))

    def loss(posterior: PosteriorParams, key: Array) -> Array:
        terms = elbo(
            key,
            lambda x: (*posterior, *family.weights),
            decode,
            log_prob,
            x,
            num_samples=settings.num_samples,
            # At an exact posterior, if the family contained it, this gradient would have no noise. It needs the density of a
            # given z, which costs a flow far more than its draws, and which some posteriors do not have.
            estimator="reparam" if family.posterior.factor is None else "stl",
            prior_log_prob=prior_log_prob,
            posterior=family.posterior,
        )
        return terms.loss

    def step(carry: tuple[PosteriorParams, optax.OptState], i: Array) -> tuple[tuple[PosteriorParams, optax.OptState], None]:
        posterior, state = carry
        gradient = jax.grad(loss)(posterior, jax.random.fold_in(key, i))
        update, state = optimizer.update(gradient, state)
        posterior = jax.tree.map(jnp.add, posterior, update)
        return (posterior, state), None

    (posterior, _), _ = jax.lax.scan(step, (posterior, optimizer.init(posterior)), jnp.arange(settings.num_steps))
    return posterior


def _elbo_k(
    key: Array,
    posterior: PosteriorParams,
    model: tuple[Decode, LogProb, Array],
    prior_log_prob: PriorLogProb | None,
    settings: GapSettings,
    family: Family,
) -> Float[Array, "draws"]:
    """Returns single-draw estimates of L[q]. Draw k uses fold_in(key, k) for every posterior."""
    kl = kl_to_standard_normal(*posterior) if family.posterior is DIAGONAL else None
    q, options = (*posterior, *family.weights), {"prior_log_prob": prior_log_prob, "posterior": family.posterior}

    def one(k: Array) -> Array:
        if kl is None:
            return elbo(jax.random.fold_in(key, k), lambda x: q, *model, **options).elbo
        drawn = draw(jax.random.fold_in(key, k), posterior, *model, prior_log_prob=prior_log_prob)
        return drawn.log_likelihood - kl if prior_log_prob is None else drawn.log_weight

    num_draws = settings.num_evaluation_samples
    return jax.lax.map(one, jnp.arange(num_draws), batch_size=min(settings.num_samples, num_draws))


def _standard_error(values: Array) -> Array:
    return jnp.std(values, ddof=1) / values.shape[0] ** 0.5


def gaps(
    key: Key[Array, ""],
    posterior: PosteriorParams,
    decode: Decode,
    log_prob: LogProb,
    x: Shaped[Array, "..."],
    log_px: Float[Array, ""],
    settings: GapSettings = DEFAULT,
    *,
    prior_log_prob: PriorLogProb | None = None,
    family: Family = Family(),  # noqa: B008 (a NamedTuple cannot be changed)
) -> Gaps:
    """Computes the two gaps between log p(x) and the ELBO of the encoder, for one example.

        log p(x) - L[q] = (log p(x) - L[q*]) + (L[q*] - L[q]) = approximation gap + amortization gap

    where q* is the posterior of `fit_posterior`, or q itself if the fit is not better. Learned weights of the family, such as
    those of a flow, are the same for both. The choice between them and
    their reported ELBOs use separate draws, so that the choice does not bias the report.

    Args:
      key: a new-style PRNG key.
      posterior, decode, log_prob, x, prior_log_prob, family: see `fit_posterior`.
      log_px: best available estimate of log p(x) in nats: the larger of the annealed and the importance-weighted one, both of
        which are lower bounds. Its shortfall is missing from the approximation gap.
      settings: `GapSettings` (static). batch_size is not used.

    Returns:
      `Gaps`. The KL to N(0, I) is in closed form, the KL to any other prior is sampled. Standard errors are over the draws of
      z.

    Source:
      Cremer et al. (2018).
    """
    if settings.num_evaluation_samples < 2:
        raise ValueError(f"gaps: expected num_evaluation_samples >= 2, got {settings.num_evaluation_samples}.")
    key_fit, key_choice, key_report = jax.random.split(key, 3)
    options: dict[str, Any] = {"prior_log_prob": prior_log_prob, "family": family}
    fitted = fit_posterior(key_fit, posterior, decode, log_prob, x, settings, **options)

    def elbo_k(key: Array, posterior: PosteriorParams) -> Array:
        return _elbo_k(key, posterior, (decode, log_prob, x), prior_log_prob, settings, family)

    is_better = jnp.mean(elbo_k(key_choice, fitted)) > jnp.mean(elbo_k(key_choice, posterior))
    best = jax.tree.map(lambda new, old: jnp.where(is_better, new, old), fitted, posterior)
    encoder_elbo_k, best_elbo_k = elbo_k(key_report, posterior), elbo_k(key_report, best)
    if family.posterior is DIAGONAL:
        mean, log_scale = best
    else:
        mean, log_scale = family.posterior.moments(stream(0, Stream.MOMENTS), (*best, *family.weights))
    return Gaps(
        log_px=log_px,
        elbo=jnp.mean(encoder_elbo_k),
        elbo_standard_error=_standard_error(encoder_elbo_k),
        best_elbo=jnp.mean(best_elbo_k),
        best_elbo_standard_error=_standard_error(best_elbo_k),
        amortization_gap_standard_error=_standard_error(best_elbo_k - encoder_elbo_k),
        mean=mean,
        log_scale=log_scale,
    )


def gaps_dataset(
    key: Key[Array, ""],
    vae: VAE,
    params: Params,
    data: Shaped[Array, "examples ..."] | DataSlice,
    log_px: Float[Array, "examples"],
    settings: GapSettings = DEFAULT,
    *,
    to_input: ToInput = lambda x: x,
    log_jacobian: float = 0.0,
) -> Gaps:
    """Computes `gaps` for every example of a data set. Jit it at the call site.

    Args:
      key: a new-style PRNG key. Example i uses fold_in(key, i), so results do not depend on the batch size.
      vae, params: the model.
      data: (examples, ...) as stored, or a `DataSlice` of a larger data set.
      log_px: (examples,), estimates of log p(x) in nats with log_jacobian included, see `gaps`.
      settings: `GapSettings` (static).
      to_input: turns a batch of `data` into floats.
      log_jacobian: nats added to each ELBO, usually `data.Prepared.log_jacobian`.

    Returns:
      `Gaps` of per-example values, each with a leading axis of examples. Compute their means on the host in float64.
    """
    data = as_slice(data)
    num_examples = data.examples.shape[0]
    if log_px.shape != (num_examples,):
        raise ValueError(f"gaps_dataset: expected log_px of each of the {num_examples} examples, got shape {log_px.shape}.")

    def one(index: Array, x: Array | Example) -> Gaps:
        model = bind(vae, params, x)
        outputs, weights = split_weights(vae, params, model.encode(model.x))
        result = gaps(
            jax.random.fold_in(key, index),
            outputs,
            model.decode,
            model.log_prob,
            model.x,
            log_px[index - data.first],
            settings,
            prior_log_prob=model.prior_log_prob,
            family=Family(model.posterior, weights),
        )
        return result._replace(elbo=result.elbo + log_jacobian, best_elbo=result.best_elbo + log_jacobian)

    return map_examples(one, data, to_input, settings.batch_size)
