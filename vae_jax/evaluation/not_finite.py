"""Names the examples on which a model with finite parameters cannot be evaluated."""

import math
import warnings
from typing import Any, NamedTuple

import jax
import numpy as np

from vae_jax._numerics.keys import Stream, stream
from vae_jax.evaluation.dataset_means import Evaluation, Means, evaluate
from vae_jax.model import VAE, Params

NOT_FINITE = "not finite"  # status of a run whose parameters are finite, and whose ELBO on some example is not
_NAMED = 5  # examples that are named one by one


class NotFiniteWarning(UserWarning):
    """The ELBO of some example is not finite though the parameters are, so the mean over its split is not defined."""


class NotFinite(NamedTuple):
    """Examples whose terms of the ELBO are not finite."""

    examples: str  # such as "test example 17"
    sentence: str  # what was found, and what to do


def are_finite(*means: Means | None) -> bool:
    """Whether the ELBO is finite on every example of these splits: a mean of terms that are not all finite is not."""
    return all(split is None or math.isfinite(split.elbo) for split in means)


def not_finite_rows(*values: Any) -> np.ndarray:
    """Returns the indices of the examples for which one of these arrays, each (examples,), is not finite.

    Example:
      >>> not_finite_rows([1.0, float("nan"), 2.0], [0.0, 0.0, float("inf")]).tolist()
      [1, 2]
    """
    return np.flatnonzero(~np.isfinite([np.asarray(array, np.float64) for array in values]).all(axis=0))


def name_examples(split: str, rows: np.ndarray, num_examples: int) -> str:
    """Returns words for these examples of a split, counted from 0.

    Example:
      >>> name_examples("test", np.array([17]), 100), name_examples("test", np.arange(8), 100)
      ('test example 17', 'test examples 0, 1, 2, 3, 4 and 3 more')
    """
    if len(rows) == num_examples > 1:
        return f"all {num_examples} {split} examples"
    more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    return f"{split} example{'s' * (len(rows) > 1)} {', '.join(map(str, rows[:_NAMED]))}{more}"


def describe(split: str, data: Any, evaluation: Evaluation) -> NotFinite | None:
    """Names the examples of a split whose ELBO is not finite, with the range of their values; None where all are finite.

    Args:
      split: "test" or "validation".
      data: (examples, ...), as stored.
      evaluation: of these examples.
    """
    rows = not_finite_rows(*evaluation)
    if not len(rows):
        return None
    values = np.asarray(data).reshape(len(data), -1)
    examples = name_examples(split, rows, len(values))
    log_likelihood, kl = (np.asarray(term, np.float64)[rows[0]] for term in evaluation)
    found = f"{examples}, counted from 0, ha{'s' if len(rows) == 1 else 've'} an ELBO that is not finite"
    found += f" (log-likelihood {log_likelihood:.4g}, KL {kl:.4g}{' for the first' * (len(rows) > 1)})"
    bad, others = values[rows], np.delete(values, rows, axis=0)
    span = f"The values there go from {bad.min():.4g} to {bad.max():.4g}"
    if others.size:
        span += f", those of the other examples from {others.min():.4g} to {others.max():.4g}"
    width = np.ptp(others) if others.size else math.inf
    if others.size and (bad.min() < others.min() - width or bad.max() > others.max() + width or not np.isfinite(bad).all()):
        advice = f"Correct or remove {'this row' if len(rows) == 1 else 'these rows'} of the {split} set"
        return NotFinite(examples, f"{found}. {span}. {advice}, or use a likelihood with heavy tails (student_t).")
    return NotFinite(examples, f"{found}. {span}. The model is at fault rather than the data: lower the learning rate.")


def find_not_finite(test_seed: int, vae: VAE, params: Params, prepared: Any, batch_size: int = 1000) -> NotFinite:
    """Evaluates the test set, and the validation set if there is one, and names the examples whose ELBO is not finite.

    Args:
      test_seed: of the evaluation in which a mean was not finite, like vae, params and batch_size.
      prepared: `data.Prepared`.
    """
    options = {"to_input": prepared.eval_input, "batch_size": batch_size, "log_jacobian": prepared.log_jacobian}
    of_split = jax.jit(lambda key, params, split: evaluate(key, vae, params, split, **options))
    streams = ((Stream.EVALUATION, "test", prepared.test), (Stream.VALIDATION_EVALUATION, "validation", prepared.validation))
    for use, name, split in streams:
        if split is None:
            continue
        if found := describe(name, split, jax.device_get(of_split(stream(test_seed, use), params, split))):
            return found
    sentence = "an example had an ELBO that was not finite, and has a finite one when computed again: lower the learning rate."
    return NotFinite("an example", sentence)


def warn_not_finite(test_seed: int, vae: VAE, params: Params, prepared: Any, batch_size: int = 1000) -> str:
    """Warns with what `find_not_finite` found, on behalf of the function that the user called, and returns its sentence."""
    sentence = find_not_finite(test_seed, vae, params, prepared, batch_size).sentence
    warnings.warn(f"training ended early: {sentence}", NotFiniteWarning, stacklevel=3)
    return sentence
