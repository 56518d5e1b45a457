"""Quantiles of the scores of training examples, with which the score of a new example is compared."""

import math

import jax
import numpy as np
from jax import Array

from vae_jax._numerics.keys import Stream, stream
from vae_jax.build import Built
from vae_jax.evaluation import evaluate, importance_log_px
from vae_jax.example import Examples
from vae_jax.model import Params
from vae_jax.storage.atomic import JsonObject

NUM_SAMPLES = 16  # importance samples of each example
_MAX_EXAMPLES = 2000
_MAX_ENTRIES = 2**17  # of all examples together, so that the scores of large images take no longer than those of small ones
_MIN_EXAMPLES = 100


def training_scores(built: Built, params: Params) -> JsonObject:
    """Scores some training examples, evenly spaced in their order, as evaluation sees them.

    Args:
      built: data and model of the run.
      params: to evaluate.

    Returns:
      `elbo` and `log_px`, each with the `quantiles` 0 %, 1 %, ..., 100 % in nats and `num_examples`, and `log_px` with
      `num_samples` importance samples of each example. {} if a score is not finite.
    """
    entries = math.prod(built.dataset.data_shape)
    count = min(len(built.dataset.train), _MAX_EXAMPLES, max(_MAX_ENTRIES // entries, _MIN_EXAMPLES))
    index = np.linspace(0, len(built.dataset.train) - 1, count).astype(int)
    rows = built.data.train_rows(jax.numpy.asarray(index))
    jacobian = built.data.log_jacobian

    @jax.jit
    def scores(params: Params, rows: Examples) -> tuple[Array, Array]:
        key_input, key_elbo, key_px = jax.random.split(stream(built.config.test_seed, Stream.TRAINING_SCORES), 3)
        x = built.data.train_input(key_input, rows)
        terms = evaluate(key_elbo, built.vae, params, x, log_jacobian=jacobian)
        log_px = importance_log_px(key_px, built.vae, params, x, num_samples=NUM_SAMPLES, log_jacobian=jacobian).log_px
        return terms.log_likelihood - terms.kl, log_px

    elbo, log_px = (np.asarray(values, np.float64) for values in scores(params, rows))
    if not (np.isfinite(elbo).all() and np.isfinite(log_px).all()):
        return {}
    percent = np.arange(101)
    return {
        "elbo": {"quantiles": np.percentile(elbo, percent).tolist(), "num_examples": count},
        "log_px": {"quantiles": np.percentile(log_px, percent).tolist(), "num_examples": count, "num_samples": NUM_SAMPLES},
    }
