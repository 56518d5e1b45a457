"""Names the examples on which a model with finite parameters has an ELBO that is not finite."""

import math
import warnings
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from vae_jax._numerics.keys import Stream, stream
from vae_jax.data import Prepared, SparseArray
from vae_jax.evaluation.dataset_means import Evaluation, Means, evaluate
from vae_jax.example import Example, event_of, mask_of
from vae_jax.model import VAE, Params

NOT_FINITE = "not finite"  # status of a run with finite parameters whose ELBO is not finite on some example
_MAX_LISTED = 5  # examples that a message lists one by one


class NotFiniteWarning(UserWarning):
    """The ELBO of an example is not finite although the parameters are, so the mean over its split is undefined."""


class NotFinite(NamedTuple):
    """Examples whose terms of the ELBO are not finite."""

    examples: str  # such as "test example 17"
    sentence: str  # the observation and the advice


def are_finite(*means: Means | None) -> bool:
    """Returns true if the ELBO is finite on every example of these splits. A mean over terms that include NaN is not finite."""
    return all(split is None or math.isfinite(split.elbo) for split in means)


def not_finite_rows(*values: Float[np.ndarray | Array, "examples"] | list[float]) -> Int[np.ndarray, "rows"]:
    """Returns the indices of the examples for which one of these arrays, each (examples,), is not finite.

    Example:
      >>> not_finite_rows([1.0, float("nan"), 2.0], [0.0, 0.0, float("inf")]).tolist()
      [1, 2]
    """
    return np.flatnonzero(~np.isfinite([np.asarray(array, np.float64) for array in values]).all(axis=0))


def name_examples(split: str, rows: Int[np.ndarray, "rows"], num_examples: int) -> str:
    """Returns a phrase that names these examples of a split, counted from 0.

    Example:
      >>> name_examples("test", np.array([17]), 100), name_examples("test", np.arange(8), 100)
      ('test example 17', 'test examples 0, 1, 2, 3, 4 and 3 more')
    """
    if len(rows) == num_examples > 1:
        return f"all {num_examples} {split} examples"
    more = f" and {len(rows) - _MAX_LISTED} more" if len(rows) > _MAX_LISTED else ""
    return f"{split} example{'s' * (len(rows) > 1)} {', '.join(map(str, rows[:_MAX_LISTED]))}{more}"


def describe_not_finite(
    split: str, data: Shaped[np.ndarray | Array, "examples ..."] | SparseArray | Example, evaluation: Evaluation
) -> NotFinite | None:
    """Names the examples of a split whose ELBO is not finite, with the range of their values.

    Args:
      split: "test" or "validation".
      data: (examples, ...), as stored.
      evaluation: result of `evaluate` for these examples.

    Returns:
      `NotFinite`, or None if the ELBO of every example is finite.
    """
    rows = not_finite_rows(*evaluation)
    if not len(rows):
        return None
    examples = name_examples(split, rows, len(data))
    log_likelihood, kl = (np.asarray(term, np.float64)[rows[0]] for term in evaluation)
    observation = f"{examples}, counted from 0, ha{'s' if len(rows) == 1 else 've'} an ELBO that is not finite"
    observation += f" (log-likelihood {log_likelihood:.4g}, KL {kl:.4g}{' for the first' * (len(rows) > 1)})"
    bad, others = _observed_values(data, rows)
    if not bad.size:
        return NotFinite(examples, f"{observation}. No value of them is observed. Lower the learning rate.")
    span = f"The values there go from {bad.min():.4g} to {bad.max():.4g}"
    if others.size:
        span += f", those of the other examples from {others.min():.4g} to {others.max():.4g}"
    # As floats of Python, because differences of bytes do not fit into bytes.
    low, high = (float(others.min()), float(others.max())) if others.size else (-math.inf, math.inf)
    margin = high - low
    if others.size and (bad.min() < low - margin or bad.max() > high + margin or not np.isfinite(bad).all()):
        advice = f"Correct or remove {'this row' if len(rows) == 1 else 'these rows'} of the {split} set"
        return NotFinite(examples, f"{observation}. {span}. {advice}, or use a likelihood with heavy tails (student_t).")
    return NotFinite(examples, f"{observation}. {span}. The model is at fault rather than the data: lower the learning rate.")


def _observed_values(data: np.ndarray | Array | SparseArray | Example, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the observed values of some examples and of all others, each flat."""
    mask, data = mask_of(data), event_of(data)
    if isinstance(data, SparseArray):
        return np.asarray(data[rows]), np.append(np.asarray(data.data), np.zeros(1, data.dtype))
    values = np.asarray(data).reshape(len(data), -1)
    bad, others = values[rows], np.delete(values, rows, axis=0)
    if mask is None:
        return bad, others
    observed = np.asarray(mask).reshape(values.shape)
    return bad[observed[rows]], others[np.delete(observed, rows, axis=0)]


def find_not_finite(test_seed: int, vae: VAE, params: Params, prepared: Prepared, batch_size: int = 1000) -> NotFinite:
    """Evaluates the held-out splits again and names the examples whose ELBO is not finite.

    Args:
      test_seed: seed of the evaluation in which a mean was not finite.
      vae, params, batch_size: arguments of that evaluation.
      prepared: the data. The test set is evaluated first, then the validation set if there is one.

    Returns:
      `NotFinite` for the first split with such an example. If all values are finite this time, the sentence reports that.
    """
    options = {"to_input": prepared.eval_input, "batch_size": batch_size, "log_jacobian": prepared.log_jacobian}
    evaluate_split = jax.jit(lambda key, params, split: evaluate(key, vae, params, split, **options))
    streams = ((Stream.EVALUATION, "test", prepared.test), (Stream.VALIDATION_EVALUATION, "validation", prepared.validation))
    for use, name, split in streams:
        if split is None:
            continue
        evaluation = jax.device_get(evaluate_split(stream(test_seed, use), params, split))
        if problem := describe_not_finite(name, split, evaluation):
            return problem
    sentence = "an example had an ELBO that was not finite, and has a finite one when computed again: lower the learning rate."
    return NotFinite("an example", sentence)


def warn_not_finite(test_seed: int, vae: VAE, params: Params, prepared: Prepared, batch_size: int = 1000) -> str:
    """Issues `NotFiniteWarning` at the caller of the calling function and returns its sentence, see `find_not_finite`."""
    sentence = find_not_finite(test_seed, vae, params, prepared, batch_size).sentence
    warnings.warn(f"training ended early: {sentence}", NotFiniteWarning, stacklevel=3)
    return sentence
