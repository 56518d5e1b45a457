"""Comparison of a refitted prior with the prior of the training, for evaluation.json."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from vae_jax._numerics.keys import Stream, stream
from vae_jax.evaluation.dataset_means import effective_batch_size, map_examples, standard_error
from vae_jax.evaluation.kl_decomposition import KLDecomposition
from vae_jax.example import Examples
from vae_jax.model import Params, posterior_params
from vae_jax.posteriors import DIAGONAL
from vae_jax.runs.directory import Run
from vae_jax.runs.refit import log_prior_gain
from vae_jax.storage.atomic import JsonObject


def compare_priors(
    run: Run, log_px: tuple[ArrayLike, ArrayLike], parts: Sequence[KLDecomposition] | None, num_draws: int
) -> JsonObject:
    """Returns what a refitted prior gains on the test set, from pairs of estimates on the same draws of z.

        E[ELBO_new - ELBO_old] = E_q(z)[log p_new(z) - log p_old(z)] = KL(q(z) || p_old(z)) - KL(q(z) || p_new(z))

    with the aggregate posterior q(z) of the test set.

    Args:
      run: with the refitted prior.
      log_px: log p(x) of each test example under the old and under the new prior.
      parts: of the KL of the test set under the old and under the new prior; None for a single example.
      num_draws: draws of z for each test example, for the ELBO.

    Returns:
      Means in nats with their standard errors. Those of log p(x) and of the ELBO are over the test examples, and those of the
      marginal KL over draws.
    """
    assert run.refitted is not None
    before, after = (np.asarray(values, np.float64) for values in log_px)
    numbers: JsonObject = {name: run.refitted.record.get(name) for name in ("kind", "num_components", "num_layers", "epoch")}
    numbers = {name: value for name, value in numbers.items() if value is not None}
    # Held-out examples of the training set. A report recognizes by this number the prior that was evaluated.
    numbers["training_gain"] = run.refitted.record["marginal_kl_gain"]
    numbers |= _with_error("log_px_mean_before", before) | _with_error("log_px_gain", after - before)
    numbers |= _with_error("elbo_gain", _elbo_gains(run, num_draws))
    if parts is not None:
        old, new = (np.asarray(one.marginal_kl, np.float64) for one in parts)
        numbers |= _with_error("marginal_kl_before", old) | _with_error("marginal_kl", new)
        numbers |= _with_error("marginal_kl_gain", old - new)
    return numbers


def _elbo_gains(run: Run, num_draws: int) -> np.ndarray:
    """Returns what the ELBO of each test example gains, estimated from draws of z."""
    assert run.refitted is not None
    vae, data = run.built.vae, run.built.data
    posterior, trained = vae.posterior or DIAGONAL, run.refitted.trained_vae

    @jax.jit
    def gains(params: Params, test: Array) -> Array:
        key, gain = stream(run.built.config.test_seed, Stream.PRIOR_GAIN), log_prior_gain(trained, vae, params)

        def one(index: Array, x: Examples) -> Array:
            q, keys = posterior_params(vae, params, x), jax.random.split(jax.random.fold_in(key, index), num_draws)
            return jnp.mean(jax.lax.map(lambda key: gain(posterior.sample(key, q)), keys))

        return map_examples(one, test, data.eval_input, effective_batch_size(1000))

    return np.asarray(gains(run.params, data.test), np.float64)


def _with_error(name: str, values: np.ndarray) -> JsonObject:
    return {name: float(values.mean()), f"{name}_standard_error": standard_error(values) if len(values) > 1 else math.nan}
