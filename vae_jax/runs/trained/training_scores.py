"""Quantiles of the scores of training examples, with which the score of a new example is compared."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_jax._numerics.keys import Stream, stream
from vae_jax.build import Built
from vae_jax.example import Examples
from vae_jax.model import Params, bind
from vae_jax.objectives import log_mean_exp_k
from vae_jax.objectives.base import draw, reported_kl
from vae_jax.storage.atomic import JsonObject

NUM_SAMPLES = 16  # importance samples of each example
_MAX_EXAMPLES, _MIN_EXAMPLES = 2000, 100
_MAX_ENTRIES = 2**20  # of all examples together, so that the scores of large images take no longer than those of small ones
_BATCH_ENTRIES = 2**21  # that are decoded at once
# The program runs once, for a tenth of a second, so compiling it well would take longer than it saves.
_COMPILER_OPTIONS = {"xla_backend_optimization_level": 0}


def training_scores(built: Built, params: Params) -> JsonObject:
    """Scores some training examples, evenly spaced in their order, as evaluation sees them.

    Args:
      built: data and model of the run.
      params: to evaluate.

    Returns:
      `elbo` and `log_px`, each with the `quantiles` 0 %, 1 %, ..., 100 % in nats and `num_examples`, and `log_px` with
      `num_samples` importance samples of each example. {} if a score is not finite.
    """
    entries, num_train = math.prod(built.dataset.data_shape), len(built.dataset.train)
    count = min(num_train, _MAX_EXAMPLES, max(_MAX_ENTRIES // entries, _MIN_EXAMPLES))
    rows = built.data.train_rows(jnp.asarray(np.linspace(0, num_train - 1, count).astype(int)))
    elbos, log_px = (np.asarray(values, np.float64) for values in _scores(built, params, rows, count))
    if not (np.isfinite(elbos).all() and np.isfinite(log_px).all()):
        return {}
    percent = np.arange(101)
    return {
        "elbo": {"quantiles": np.percentile(elbos, percent).tolist(), "num_examples": count},
        "log_px": {"quantiles": np.percentile(log_px, percent).tolist(), "num_examples": count, "num_samples": NUM_SAMPLES},
    }


def _scores(built: Built, params: Params, rows: Examples, count: int) -> tuple[Array, Array]:
    """Returns the ELBO of one draw and the importance-weighted log p(x) of each row, in nats."""
    vae, jacobian = built.vae, built.data.log_jacobian
    batch_size = max(1, min(count, _BATCH_ENTRIES // (NUM_SAMPLES * math.prod(built.dataset.data_shape))))

    def score(params: Params, key: Array, x: Examples) -> tuple[Array, Array]:
        model = bind(vae, params, x)
        q = model.encode(model.x)
        draw_one = lambda key: draw(key, q, model.decode, model.log_prob, model.x, **model.keywords)  # noqa: E731
        draws = jax.vmap(draw_one)(jax.random.split(key, NUM_SAMPLES))
        elbo = draws.log_likelihood[0] - reported_kl(q, draws.log_ratio[0], model.prior_log_prob, model.posterior)
        return elbo + jacobian, log_mean_exp_k(draws.log_weight) + jacobian

    def all_scores(params: Params, rows: Examples) -> tuple[Array, Array]:
        key_input, key = jax.random.split(stream(built.config.test_seed, Stream.TRAINING_SCORES))
        x, keys = built.data.train_input(key_input, rows), jax.random.split(key, count)
        one = lambda key_and_x: score(params, *key_and_x)  # noqa: E731
        return jax.vmap(one)((keys, x)) if batch_size == count else jax.lax.map(one, (keys, x), batch_size=batch_size)

    options = _COMPILER_OPTIONS if jax.default_backend() == "cpu" else None
    return jax.jit(all_scores, compiler_options=options)(params, rows)
