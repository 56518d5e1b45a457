"""Imputes the missing entries of stored examples and of a file, in the unit of the data as they are stored."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from vae_jax._numerics.keys import Stream, stream
from vae_jax._numerics.short_repr import short_repr
from vae_jax.errors import UserError
from vae_jax.evaluation.dataset_means import DataSlice, ToInput
from vae_jax.evaluation.importance import pareto_k_limit
from vae_jax.evaluation.imputation import (
    Imputation,
    ImputationSettings,
    check_imputes,
    class_values,
    entry_kinds,
    impute_dataset,
)
from vae_jax.example import Example, event_of, mask_of
from vae_jax.model import VAE, Params
from vae_jax.runs.parts import Report, map_parts
from vae_jax.runs.trained import NewData, TrainedModel
from vae_jax.runs.trained.stored_unit import stored_scale

# More levels of pixels are numbers, which have a mean. Categories of a table are none, however many there are.
_MAX_LEVELS = 64
_FEW_SAMPLES = 10  # effective samples below which a conditional mean is rough


@short_repr
class Imputed(NamedTuple):
    """Imputed examples in the stored unit. Observed entries are as they were."""

    mean: np.ndarray  # (examples, ...): the conditional mean, or the most probable class
    imputations: np.ndarray  # (imputations, examples, ...)
    effective_sample_size: np.ndarray  # (examples,)
    pareto_k: np.ndarray  # (examples,): tail shape of the importance weights
    mask: np.ndarray  # (examples, ...), True where an entry is observed


def impute_rows(
    vae: VAE,
    params: Params,
    rows: Example,
    to_input: ToInput,
    settings: ImputationSettings,
    seed: int,
    report: Report = lambda done: None,
) -> Imputation:
    """Imputes stored examples with masks in one compiled program, and returns arrays of NumPy, in the likelihood's unit.

    The probabilities of the candidates are not returned, because those of many categories would not fit in memory.

    Args:
      vae, params: the model.
      rows: examples with masks, as stored.
      to_input: turns a batch of them into floats for the model.
      settings: numbers of draws.
      seed: seed of the draws.
      report: called with the number of examples done.
    """
    memory_bytes = 2**26 if jax.default_backend() == "cpu" else 2**30

    def imputed(params: Params, part: Example, first: Array) -> Imputation:
        key, data = stream(seed, Stream.IMPUTATION), DataSlice(part, first)
        imputation = impute_dataset(key, vae, params, data, settings, to_input=to_input, memory_bytes=memory_bytes)
        return imputation._replace(probabilities=None)

    return map_parts(imputed, params, rows, report)


def best_values(vae: VAE, imputation: Imputation) -> np.ndarray:
    """Returns the most probable class of entries that are 0 or 1 or categories, and the conditional mean of others.

    Where `imputation` has no modes, all entries are means.

    Args:
      vae: the model.
      imputation: of examples, with a leading axis.
    """
    if imputation.mode is None:
        return np.asarray(imputation.mean)
    is_class = np.array([kind == "class" for kind in entry_kinds(vae.likelihood, vae.data_shape)]).reshape(vae.data_shape)
    return np.where(is_class, imputation.mode, imputation.mean)


def num_few_samples(effective_sample_size: ArrayLike, num_samples: int) -> int:
    """Returns the number of examples with fewer than 10 effective samples, or fewer than all samples where there are fewer.

    Args:
      effective_sample_size: of each example.
      num_samples: importance samples of each example.
    """
    return int(np.sum(np.asarray(effective_sample_size) < min(_FEW_SAMPLES, num_samples)))


def few_samples(few: int, count: int, num_samples: int) -> str:
    """Returns a sentence on examples whose importance weights are concentrated on few samples.

    Args:
      few: from `num_few_samples`.
      count: number of all examples.
      num_samples: importance samples of each example.
    """
    verb = "has" if few == 1 else "have"
    return f"{few} of {count} rows {verb} fewer than {_FEW_SAMPLES} effective samples of {num_samples}: raise `num_samples`."


def num_heavy_tails(pareto_k: ArrayLike, num_samples: int) -> int:
    """Returns the number of examples whose importance weights have a tail too heavy for their errors to be trusted.

    Args:
      pareto_k: tail shape of the weights of each example.
      num_samples: importance samples of each example.
    """
    return int(np.sum(np.asarray(pareto_k) > pareto_k_limit(num_samples)))


def heavy_tails(heavy: int, count: int) -> str:
    """Returns a sentence on examples for which the encoder is too narrow a proposal.

    Args:
      heavy: from `num_heavy_tails`.
      count: number of all examples.
    """
    verb = "has" if heavy == 1 else "have"
    return (
        f"{heavy} of {count} rows {verb} importance weights with a heavy tail, so their means may be further off than the "
        "samples show. Raise `num_samples`, or train longer or with the objective iwae."
    )


def observed_entries(file: NewData) -> np.ndarray:
    """Returns True where an entry of new data is observed, (examples, ...)."""
    event, mask = event_of(file.examples), mask_of(file.examples)
    return np.ones(event.shape, bool) if mask is None else np.asarray(mask[:])


def impute_file(
    model: TrainedModel,
    file: NewData,
    num_samples: int,
    num_imputations: int,
    seed: int = 0,
    report: Report = lambda done: None,
) -> Imputed:
    """Imputes the missing entries of a file (see `evaluation.impute`).

    Args:
      model: from `load_model`.
      file: from `read_new_data(model, path, missing="nan")`.
      num_samples: importance samples of each example.
      num_imputations: random imputations of each example.
      seed: seed of the draws.
      report: called with the number of examples done.

    Returns:
      `Imputed`. Levels are rounded in `imputations`, and not in `mean`. With nothing missing no sample is drawn, and the
      effective sample sizes are `num_samples`.

    Raises:
      UserError: sparse data, a likelihood that cannot leave out missing entries, or an imputation that is not finite.
    """
    vae, events = model.vae, file.stored
    if not isinstance(events, np.ndarray):
        raise UserError(f"{file.name}: expected a dense array in memory. Sparse data have no missing entries.", field="data")
    mask = observed_entries(file)
    mean_type = np.float32 if events.dtype != np.int32 else np.float64  # which hold all stored numbers exactly
    if mask.all():
        copies = np.broadcast_to(events, (num_imputations, *events.shape))
        no_weights = np.full(len(events), -np.inf, np.float32)
        return Imputed(events.astype(mean_type), copies, np.full(len(events), num_samples, np.float32), no_weights, mask)
    likelihood, shape = vae.likelihood, vae.data_shape
    check_imputes(likelihood)
    candidates = class_values(likelihood, shape)
    if candidates is not None and len(candidates) > _MAX_LEVELS and not likelihood.groups:
        candidates = None
    settings = ImputationSettings(num_samples, num_imputations, candidates)
    rows = file.examples.map(jnp.asarray)
    result = impute_rows(vae, model.params, rows, file.to_input, settings, seed, report)
    best = best_values(vae, result)
    finite = np.isfinite(best).reshape(len(best), -1).all(axis=1) & np.isfinite(result.effective_sample_size)
    if not finite.all():
        rows = np.flatnonzero(~finite)
        raise UserError(
            f"{len(rows)} of {len(best)} rows have importance weights that are not finite, the first with index {rows[0]}. "
            "Their observed values are far from the training data.",
            fix="Leave these rows out.",
        )
    unit = stored_scale(model.config, likelihood, model.description.max_level)
    mean = np.where(mask, events, best * np.float32(unit)).astype(mean_type)
    draws = np.moveaxis(np.asarray(result.imputations), 1, 0) * np.float32(unit)
    if events.dtype.kind != "f":
        draws = np.rint(draws)
    imputations = np.where(mask, events, draws).astype(events.dtype)
    return Imputed(mean, imputations, np.asarray(result.effective_sample_size), np.asarray(result.pareto_k), mask)
