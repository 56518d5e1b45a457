"""`score`: the ELBO and log p(x) of each row of new data, beside those of the training data."""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from jax import Array

from vae_jax._numerics.keys import Stream, stream
from vae_jax._numerics.short_repr import short_repr
from vae_jax.errors import UserError
from vae_jax.evaluation import DataSlice, Evaluation, LogPx, evaluate, importance_log_px
from vae_jax.evaluation.importance import chunk_sizes, draw_bytes
from vae_jax.example import Examples
from vae_jax.model import VAE, Params
from vae_jax.runs.trained.chunks import Report, chunk_rows, joined, map_chunks, over_batches
from vae_jax.runs.trained.model import TrainedModel
from vae_jax.runs.trained.new_data import NewData, Source
from vae_jax.runs.trained.sources import as_new_data
from vae_jax.training import evaluation_key

_MOST_ROWS = 128  # in a chunk by default, because each row is decoded many times


@short_repr
class Scores(NamedTuple):
    """Scores of each row in nats, each (rows,).

    Attributes:
      elbo: log_likelihood - kl, at beta = 1, a lower bound of log p(x).
      log_likelihood: E_q[log p(x|z)].
      kl: KL(q(z|x) || p(z)).
      log_px: importance-weighted estimate of log p(x), or of log p(x|c) for a conditional model.
      standard_error: of `log_px` over the importance samples; NaN for one sample.
      effective_sample_size: importance samples that the weighted ones are worth.
      pareto_k: tail shape of the weights; NaN for fewer than 25 samples. Where it is above
        `evaluation.pareto_k_limit(num_samples)`, `standard_error` is too small.
      elbo_quantile: share of training examples with an ELBO below that of the row; None where the model has no such scores.
      log_px_quantile: the same of log p(x), estimated from as few importance samples as those of the training examples, because
        the estimate grows with their number.
    """

    elbo: np.ndarray
    log_likelihood: np.ndarray
    kl: np.ndarray
    log_px: np.ndarray
    standard_error: np.ndarray
    effective_sample_size: np.ndarray
    pareto_k: np.ndarray
    elbo_quantile: np.ndarray | None = None
    log_px_quantile: np.ndarray | None = None


class ScoreOptions(NamedTuple):
    """Sizes of the estimates, and their seed.

    Attributes:
      num_samples: importance samples of log p(x) for each row, >= 1.
      elbo_samples: draws of z for the ELBO of each row, >= 1.
      seed: of the draws; None: the test seed of the run, so that the scores of its test set are those of `vae-jax evaluate`.
    """

    num_samples: int = 1000
    elbo_samples: int = 10
    seed: int | None = None


def score(
    model: TrainedModel,
    data: Source,
    *,
    num_samples: int = 1000,
    elbo_samples: int = 10,
    seed: int | None = None,
    batch_size: int | None = None,
    report: Report = lambda done: None,
) -> Scores:
    """Scores new data row by row, so that unusual rows can be found.

    Args:
      model: from `load_model`.
      data: the path of a file, an array of examples as the training data are stored, or the result of `read_new_data`.
      num_samples, elbo_samples, seed: see `ScoreOptions`.
      batch_size: rows that are read at once. On CPU no bit depends on it.
      report: called with the number of rows done.

    Returns:
      `Scores`, with rows in the order of the data. The draws of a row depend on the seed and its number alone. So the scores of
      the run's own test set are the values for single examples of `vae-jax evaluate` with as many samples: on CPU the ELBO and
      its terms bit for bit where there are at least 128 rows, and log p(x) up to the rounding of float32, because the encoder
      may see a different number of rows at once.

    Raises:
      UserError: data that do not fit the training data, or a number that is out of range.
    """
    data = as_new_data(model, data)
    options = ScoreOptions(num_samples, elbo_samples, seed)
    return joined(score_chunks(model, data, options, batch_size=batch_size, report=report))


def score_chunks(
    model: TrainedModel,
    data: NewData,
    options: ScoreOptions = ScoreOptions(),  # noqa: B008 (a NamedTuple cannot be changed)
    *,
    batch_size: int | None = None,
    report: Report = lambda done: None,
) -> Iterator[Scores]:
    """Yields the results of `score` for some rows after the other, for data that do not fit in memory."""
    for name in ("num_samples", "elbo_samples"):
        if getattr(options, name) < 1:
            raise UserError(field=name, expected="a whole number >= 1", got=getattr(options, name))
    rows, at_once = chunk_rows(model.vae.data_shape, batch_size, _MOST_ROWS)
    seed = model.config.test_seed if options.seed is None else options.seed
    keys = evaluation_key(seed), stream(seed, Stream.LOG_PX)
    sizes = _Sizes(options.num_samples, options.elbo_samples, at_once, model.scores.get("log_px", {}).get("num_samples", 0))
    compiled = _program(model.vae, data.to_input, sizes, model.description.log_jacobian)
    chunks = map_chunks(lambda *chunk: compiled(model.params, keys, *chunk), data, rows, report)
    return (_scores(model, *chunk) for chunk in chunks)


def _scores(model: TrainedModel, terms: Evaluation, estimate: LogPx, compared: Array) -> Scores:
    """Returns the scores of a chunk, with differences in float64 as in the means of a data set."""
    log_likelihood, kl = map(np.asarray, terms)
    elbo = log_likelihood.astype(np.float64) - kl.astype(np.float64)
    return Scores(
        elbo=elbo,
        log_likelihood=log_likelihood,
        kl=kl,
        log_px=np.asarray(estimate.log_px),
        standard_error=np.asarray(estimate.standard_error),
        effective_sample_size=np.asarray(estimate.effective_sample_size),
        pareto_k=np.asarray(estimate.pareto_k),
        elbo_quantile=_quantiles(model, "elbo", elbo),
        log_px_quantile=_quantiles(model, "log_px", np.asarray(compared)),
    )


def _quantiles(model: TrainedModel, name: str, values: np.ndarray) -> np.ndarray | None:
    """Returns the share of training examples with a lower score than each of these; None where they were not scored."""
    if name not in model.scores:
        return None
    quantiles = np.asarray(model.scores[name]["quantiles"], np.float64)  # from 0 % to 100 %, in equal steps
    return np.interp(values, quantiles, np.linspace(0, 1, len(quantiles)))


class _Sizes(NamedTuple):
    num_samples: int
    elbo_samples: int
    at_once: int
    compared_samples: int  # importance samples of the estimate that is compared with training examples; 0 for none


@functools.lru_cache(maxsize=8)
def _program(
    vae: VAE, to_input: Callable[[Examples], Examples], sizes: _Sizes, log_jacobian: float
) -> Callable[..., tuple[Evaluation, LogPx, Array]]:
    """Returns the compiled program, which files of the same shape share."""
    memory_bytes = 2**26 if jax.default_backend() == "cpu" else 2**30

    def program(
        params: Params, keys: tuple[Array, Array], examples: Examples, first: Array, count: Array
    ) -> tuple[Evaluation, LogPx, Array]:
        def terms(batch: DataSlice) -> Evaluation:
            return evaluate(
                keys[0],
                vae,
                params,
                batch,
                to_input=to_input,
                batch_size=sizes.at_once,
                num_samples=sizes.elbo_samples,
                log_jacobian=log_jacobian,
            )

        def log_px(batch: DataSlice, num_samples: int = sizes.num_samples) -> LogPx:
            return importance_log_px(
                keys[1],
                vae,
                params,
                batch,
                num_samples=num_samples,
                to_input=to_input,
                log_jacobian=log_jacobian,
                memory_bytes=memory_bytes,
            )

        # As many rows as the evaluation of a large test set decodes together.
        together = chunk_sizes(draw_bytes(vae, params), 2**31, sizes.num_samples, memory_bytes)[0]
        estimate = over_batches(log_px, examples, first, count, min(together, len(examples)))
        compared = estimate.log_px
        if sizes.compared_samples not in (0, sizes.num_samples):
            few = lambda batch: log_px(batch, sizes.compared_samples).log_px  # noqa: E731
            compared = over_batches(few, examples, first, count, sizes.at_once)
        return over_batches(terms, examples, first, count, sizes.at_once), estimate, compared

    return jax.jit(program)
