"""Imputation of missing entries by importance sampling: conditional means, multiple imputations, and their quality."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Shaped

from vae_jax._numerics.keys import Stream, stream
from vae_jax._numerics.short_repr import short_repr
from vae_jax.errors import UserError
from vae_jax.evaluation.dataset_means import DataSlice, ToInput, map_examples
from vae_jax.evaluation.importance import chunk_sizes, draw_bytes, pareto_k
from vae_jax.example import Example, mask_of
from vae_jax.likelihoods import DecoderOutput, Likelihood, check_factorizes
from vae_jax.model import VAE, BoundModel, Params, bind
from vae_jax.objectives.base import standard_normal_log_prob
from vae_jax.posteriors import DIAGONAL, PosteriorParams, posterior_log_prob, sample_posterior

_ARRAYS_PER_DRAW = 6  # of the shape of the event that a draw needs beside its decoding


@short_repr
class Imputation(NamedTuple):
    """Missing entries of one example, imputed from K importance samples. Those of a data set have a leading axis of examples.

    Observed entries are those of the example, bit for bit, in `mean`, `mode` and `imputations`.
    """

    mean: Float[Array, "*event"]  # E[x_missing | x_observed], in the unit of the data as the likelihood sees them
    standard_error: Float[Array, "*event"]  # of `mean` over the draws; 0 for observed entries, NaN for K = 1
    imputations: Float[Array, "imputations *event"]  # draws of x_missing given x_observed
    effective_sample_size: Float[Array, ""]  # (sum w)^2 / sum w^2, from 1 to K
    log_px: Float[Array, ""]  # estimate of log p(x_observed), nats
    pareto_k: Float[Array, ""]  # tail shape of the weights, NaN for K < 25. Above `pareto_k_limit`, errors are too small.
    probabilities: Float[Array, "candidates *event"] | None = None  # of the candidates given x_observed
    mode: Float[Array, "*event"] | None = None  # the most probable candidate


class ImputationSettings(NamedTuple):
    """Numbers of draws, and the values whose probabilities are wanted (all static but the values)."""

    num_samples: int = 1000  # importance samples K >= 1
    num_imputations: int = 0  # multiple imputations M >= 0
    # Values that entries may take, as the likelihood sees them, (candidates, *event) or a shape that broadcasts to it. See
    # `class_values`.
    candidates: Float[Array, "candidates ..."] | None = None
    draws_at_once: int | None = None  # importance samples that are decoded together; None: all


class _Sums(NamedTuple):
    """Weighted sums over the draws so far, in units of the largest weight; means and squares are about a reference."""

    log_unit: Array  # log of the largest weight
    weights: Array
    squared_weights: Array
    mean: Array  # sum w d, d = E[x|z] - reference
    squared_mean: Array  # sum w^2 d
    squared_squares: Array  # sum w^2 d^2
    probabilities: Array | None  # sum w P(x = candidate | z)


def class_values(likelihood: Likelihood, data_shape: tuple[int, ...]) -> Float[Array, "candidates *#event"] | None:
    """Returns the values whose probabilities `impute` can compute: 0 and 1, or the categories of a categorical likelihood.

    Args:
      likelihood: that of the model. Columns of a mixed table have values of their own.
      data_shape: shape of one example.

    Returns:
      (candidates, *data_shape) or a shape that broadcasts to it, as the likelihood sees them; None for likelihoods of numbers.
      Where columns have different numbers of values, the last value is repeated.

    Example:
      >>> from vae_jax import likelihoods
      >>> print(class_values(likelihoods.categorical(3), (5,)).ravel(), class_values(likelihoods.gaussian(1.0), (5,)))
      [0.  0.5 1. ] None
    """
    if groups := likelihood.groups:
        by_column: list[Sequence[float]] = [(0.0,)] * data_shape[0]
        for group in groups:
            for i, column in enumerate(group.columns):
                if entry_kind(group.likelihood) == "class":
                    num_values = group.likelihood.num_levels or 2
                    by_column[column] = group.values[i] if group.values else range(num_values)
        most = max(map(len, by_column))
        filled = [[*values, *[values[-1]] * (most - len(values))] for values in by_column]
        return jnp.asarray(filled, jnp.float32).T if most > 1 else None
    if entry_kind(likelihood) != "class":
        return None
    num_values = likelihood.num_levels or 2
    return (jnp.arange(num_values) / (num_values - 1)).reshape(-1, *[1] * len(data_shape))


Kind = Literal["real", "count", "class"]


def entry_kind(likelihood: Likelihood) -> Kind:
    """Returns whether a likelihood is one of classes (0 and 1, or categories), of counts, or of other numbers."""
    if likelihood.support == "binary" or likelihood.name == "categorical":
        return "class"
    return "count" if likelihood.support == "counts" else "real"


def entry_kinds(likelihood: Likelihood, data_shape: tuple[int, ...]) -> tuple[Kind, ...]:
    """Returns the kind of each entry of an example, in the order of the flat event."""
    kinds: list[Kind] = [entry_kind(likelihood)] * math.prod(data_shape)
    for group in likelihood.groups:
        for column in group.columns:
            kinds[column] = entry_kind(group.likelihood)
    return tuple(kinds)


def check_imputes(likelihood: Likelihood) -> None:
    """Raises `UserError` unless the likelihood can leave out missing entries and predict them."""
    check_factorizes(likelihood)
    if likelihood.mean_given is not None:
        raise UserError(
            f"the likelihood {likelihood.name!r} is given the total of each example, which missing entries leave unknown.",
            fix='Use `exposure="none"`.',
        )


def impute(
    key: Key[Array, ""],
    vae: VAE,
    params: Params,
    x: Example | Float[Array, "*event"],
    settings: ImputationSettings = ImputationSettings(),  # noqa: B008 (a NamedTuple cannot be changed)
) -> Imputation:
    """Imputes the missing entries of one example.

        z_k ~ q(z|x_observed),   w_k = p(x_observed|z_k) p(z_k) / q(z_k|x_observed)
        mean           = sum_k w_k E[x|z_k] / sum_k w_k                      (self-normalized importance sampling)
        standard_error = sqrt[ sum_k w_k^2 (E[x|z_k] - mean)^2 K/(K-1) ] / sum_k w_k              (delta method)
        imputations    : z with probability w_k / sum w, then x ~ p(x|z)     (sampling-importance-resampling)
        probabilities  = sum_k w_k P(x_d = candidate|z_k) / sum_k w_k

    The mean is consistent as K grows, and its bias is of order 1/ESS. Imputations are draws of p(x_missing|x_observed) in the
    same limit. They share draws of z where the effective sample size is small. Where q is narrower than the posterior, the
    weights have a heavy tail, and neither the standard error nor the effective sample size shows what the draws missed.
    `pareto_k` does.

    Args:
      key: a new-style PRNG key.
      vae, params: the model. With a condition, everything is given the condition of the example.
      x: one example, as floats that the likelihood and the encoder take, with a mask. Without a mask nothing is missing, and
        only the effective sample size and log p(x) are of use.
      settings: numbers of draws. Memory grows with `draws_at_once`, not with the number of samples.

    Returns:
      The `Imputation`, in the unit of the data as the likelihood sees them.

    Raises:
      UserError: the likelihood does not factorize over the entries, or is given the total of the example.
      ValueError: if num_samples < 1.

    Numerics:
      If q is the exact posterior, all weights are equal, and the effective sample size is K up to rounding.

    Example:
      >>> from vae_jax import likelihoods
      >>> from vae_jax.model import mlp_vae
      >>> vae = mlp_vae((3,), likelihoods.gaussian(1.0), latent_dim=2, hidden=(4,), standardize=None)
      >>> mask = jnp.array([[True, False, True], [False, True, False]])
      >>> x = Example(jnp.array([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]]), mask=mask)
      >>> keys, params = jax.random.split(jax.random.key(0)), vae.init(jax.random.key(1))
      >>> imputed = jax.vmap(impute, in_axes=(0, None, None, 0, None))(keys, vae, params, x, ImputationSettings(100, 4))
      >>> imputed.mean[0, 0], imputed.imputations.shape
      (Array(1., dtype=float32), (2, 4, 3))

    Source:
      Mattei & Frellsen (2019), equations 12 to 14; Rubin (1987) for sampling-importance-resampling.
    """
    if settings.num_samples < 1:
        raise ValueError(f"impute: expected num_samples >= 1, got {settings.num_samples}.")
    check_imputes(vae.likelihood)
    return _impute(key, vae.likelihood, bind(vae, params, x), mask_of(x), settings)


def _impute(
    key: Array, likelihood: Likelihood, model: BoundModel, mask: Array | None, settings: ImputationSettings
) -> Imputation:
    """Imputes one example by a model that is bound to it."""
    key_draws, key_resampled = (jax.random.fold_in(key, use) for use in range(2))
    posterior = model.encode(model.x)
    sums, log_w = _weighted_sums(key_draws, likelihood, model, posterior, settings)

    def complete(values: Array, observed: Array) -> Array:
        return jnp.broadcast_to(observed, values.shape) if mask is None else jnp.where(mask, observed, values)

    mean, error = _mean_and_error(sums, likelihood.mean(model.decode(_center(model, posterior))), settings.num_samples)

    def resample(key: Array, k: Array) -> Array:
        # draw k of the importance samples once more
        z, _ = _draw(jax.random.fold_in(key_draws, k), model, posterior)
        return likelihood.sample(key, model.decode(z)).astype(mean.dtype)

    keys = jax.random.split(key_resampled, settings.num_imputations + 1)
    chosen = jax.random.categorical(keys[0], log_w, shape=(settings.num_imputations,))
    # `vmap` of no draws at all is an error.
    none = jnp.zeros((0, *mean.shape), mean.dtype)
    imputations = jax.vmap(resample)(keys[1:], chosen) if settings.num_imputations else none
    probabilities = mode = None
    if settings.candidates is not None:
        assert sums.probabilities is not None
        candidates = jnp.broadcast_to(settings.candidates, sums.probabilities.shape).astype(mean.dtype)
        observed = jnp.argmin(jnp.abs(candidates - model.x), axis=0)  # equal up to the rounding of k / (num_levels - 1)
        at_observed = jax.nn.one_hot(observed, len(candidates), axis=0, dtype=mean.dtype)
        probabilities = complete(sums.probabilities / sums.weights, at_observed)
        best = jnp.argmax(probabilities, axis=0)
        mode = complete(jnp.take_along_axis(candidates, best[None], axis=0)[0], model.x)
    return Imputation(
        mean=complete(mean, model.x),
        standard_error=complete(error, jnp.zeros_like(mean)),
        imputations=complete(imputations, model.x),
        effective_sample_size=jnp.square(sums.weights) / sums.squared_weights,
        log_px=sums.log_unit + jnp.log(sums.weights / settings.num_samples),
        pareto_k=pareto_k(log_w),
        probabilities=probabilities,
        mode=mode,
    )


def _draw(key: Array, model: BoundModel, q: PosteriorParams) -> tuple[Array, Array | None]:
    """Returns z ~ q(z|x) and log q(z|x), which is None for the diagonal posterior, whose density is computed later."""
    if model.posterior is not DIAGONAL:
        return model.posterior.sample_and_log_prob(key, q)
    mean, log_scale = q
    return sample_posterior(key, mean, log_scale), None


def _center(model: BoundModel, q: PosteriorParams) -> Array:
    """Returns a code in the middle of q(z|x), about which sums are taken."""
    return q[0] if model.posterior is DIAGONAL else model.posterior.moments(stream(0, Stream.MOMENTS), q)[0]


def _mean_and_error(sums: _Sums, reference: Array, num_samples: int) -> tuple[Array, Array]:
    """Returns the weighted mean of E[x|z] and its standard error, from sums about a reference."""
    shift = sums.mean / sums.weights
    squares = sums.squared_squares - 2 * shift * sums.squared_mean + jnp.square(shift) * sums.squared_weights  # about the mean
    correction = num_samples / (num_samples - 1) if num_samples > 1 else math.nan
    return reference + shift, jnp.sqrt(jnp.maximum(squares, 0) * correction) / sums.weights


def _weighted_sums(
    key: Array, likelihood: Likelihood, model: BoundModel, posterior: PosteriorParams, settings: ImputationSettings
) -> tuple[_Sums, Array]:
    """Decodes all draws, a few at a time, and returns the weighted sums and the log weights, (num_samples,)."""
    num_samples, candidates = settings.num_samples, settings.candidates
    at_once = min(num_samples, settings.draws_at_once or num_samples)
    index = jnp.arange(-(-num_samples // at_once) * at_once).reshape(-1, at_once)
    reference = likelihood.mean(model.decode(_center(model, posterior)))
    log_prior = model.prior_log_prob or standard_normal_log_prob

    def draw(k: Array) -> tuple[Array, Array, Array | None]:
        z, log_q = _draw(jax.random.fold_in(key, k), model, posterior)
        output = model.decode(z)
        log_p = model.log_prob(output, model.x) + log_prior(z)
        log_w = log_p - (posterior_log_prob(posterior[0], posterior[1], z) if log_q is None else log_q)
        # Draws that fill up the last chunk have no weight.
        log_w = jnp.where(k < num_samples, log_w, -jnp.inf)
        return log_w, likelihood.mean(output) - reference, _probabilities(likelihood, output, candidates, reference)

    def add(sums: _Sums, k: Array) -> tuple[_Sums, Array]:
        log_w, mean, probabilities = jax.vmap(draw)(k)
        log_unit = jnp.maximum(sums.log_unit, jnp.max(log_w))
        w, before = jnp.exp(log_w - log_unit), jnp.exp(sums.log_unit - log_unit)
        old = sums._replace(
            log_unit=log_unit,
            weights=sums.weights * before,
            squared_weights=sums.squared_weights * before**2,
            mean=sums.mean * before,
            squared_mean=sums.squared_mean * before**2,
            squared_squares=sums.squared_squares * before**2,
            probabilities=None if sums.probabilities is None else sums.probabilities * before,
        )
        new = _Sums(
            log_unit=jnp.zeros_like(log_unit),
            weights=jnp.sum(w),
            squared_weights=jnp.sum(w**2),
            mean=jnp.tensordot(w, mean, 1),
            squared_mean=jnp.tensordot(w**2, mean, 1),
            squared_squares=jnp.tensordot(w**2, jnp.square(mean), 1),
            probabilities=None if probabilities is None else jnp.tensordot(w, probabilities, 1),
        )
        return jax.tree.map(jnp.add, old, new), log_w

    shapes = jax.eval_shape(draw, index[0, 0])
    log_w_type, mean_type, probability_type = (jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), s) for s in shapes)
    start = _Sums(
        jnp.full_like(log_w_type, -jnp.inf), log_w_type, log_w_type, mean_type, mean_type, mean_type, probability_type
    )
    sums, log_w = jax.lax.scan(add, start, index)
    return sums, log_w.reshape(-1)[:num_samples]


def _probabilities(
    likelihood: Likelihood, output: DecoderOutput, candidates: Array | None, event: Array
) -> Float[Array, "candidates *event"] | None:
    """Returns P(x_d = candidate|z) of each candidate and entry."""
    if candidates is None:
        return None
    per_entry = likelihood.log_prob_per_entry
    assert per_entry is not None
    values = jnp.broadcast_to(candidates, (len(candidates), *event.shape)).astype(event.dtype)
    return jnp.exp(jax.vmap(lambda value: per_entry(output, value))(values))


def impute_dataset(
    key: Key[Array, ""],
    vae: VAE,
    params: Params,
    data: Shaped[Array, "examples ..."] | Example | DataSlice,
    settings: ImputationSettings = ImputationSettings(),  # noqa: B008 (a NamedTuple cannot be changed)
    *,
    to_input: ToInput = lambda x: x,
    memory_bytes: int = 2**26,
) -> Imputation:
    """Imputes the missing entries of every example of a data set. Jit it at the call site.

    Args:
      key: a new-style PRNG key. Example i uses fold_in(key, i), and draw k a key that follows from it and k. So results depend
        neither on the chunks nor on the other examples, except for the rounding of sums.
      vae, params: the model.
      data: examples as stored, with a leading axis, usually an `Example` with masks, or a `DataSlice` of a larger data set.
      settings: see `impute`. `draws_at_once` follows from `memory_bytes`.
      to_input: turns a batch of `data` into the floats that the model takes.
      memory_bytes: approximate memory for the layers of the decoder. It determines how many draws are decoded together.

    Returns:
      `Imputation`, each field with a leading axis of examples.

    Raises:
      UserError, ValueError: as `impute`.
    """
    event = data.examples if isinstance(data, DataSlice) else data
    num_values = 0 if settings.candidates is None else 2 * len(settings.candidates)
    entry_bytes = 4 * math.prod(vae.data_shape)
    bytes_per_draw = draw_bytes(vae, params) + (_ARRAYS_PER_DRAW + num_values) * entry_bytes
    examples, draws = chunk_sizes(bytes_per_draw, len(event), settings.num_samples, memory_bytes)
    settings = settings._replace(draws_at_once=draws)

    def one(index: Array, x: Array | Example) -> Imputation:
        return impute(jax.random.fold_in(key, index), vae, params, x, settings)

    return map_examples(one, data, to_input, examples)
