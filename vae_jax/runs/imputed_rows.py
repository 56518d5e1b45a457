"""Imputes the missing entries of a file, in the unit of the data as they are stored."""

from typing import NamedTuple

import numpy as np

from vae_jax._numerics.short_repr import short_repr
from vae_jax.errors import UserError
from vae_jax.evaluation.imputation import ImputationSettings, check_imputes, class_values, entry_kinds
from vae_jax.runs.directory import Run
from vae_jax.runs.hidden_entries import impute_rows, stored_unit
from vae_jax.runs.incomplete_file import IncompleteFile
from vae_jax.runs.parts import Report

_MAX_CLASSES = 64  # whose probabilities are computed; beyond, levels are numbers, which have a mean


@short_repr
class Imputed(NamedTuple):
    """Imputed examples in the stored unit. Observed entries are as they were."""

    mean: np.ndarray  # (examples, ...): the conditional mean, or the most probable class
    imputations: np.ndarray  # (imputations, examples, ...)
    effective_sample_size: np.ndarray  # (examples,)
    mask: np.ndarray  # (examples, ...), True where an entry is observed


def impute_file(
    run: Run,
    file: IncompleteFile,
    num_samples: int,
    num_imputations: int,
    seed: int = 0,
    report: Report = lambda done: None,
) -> Imputed:
    """Imputes the missing entries of a file (see `evaluation.impute`).

    Args:
      run: from `runs.load_run`.
      file: from `read_incomplete_file`.
      num_samples: importance samples of each example.
      num_imputations: random imputations of each example.
      seed: seed of the draws.
      report: called with the number of examples done.

    Returns:
      `Imputed`. Levels are rounded in `imputations`, and not in `mean`. With nothing missing no sample is drawn, and the
      effective sample sizes are `num_samples`.

    Raises:
      UserError: the likelihood cannot leave out missing entries, or an imputation is not finite.
    """
    built, events, mask = run.built, file.events, file.mask
    mean_type = np.float32 if events.dtype != np.int32 else np.float64  # which hold all stored numbers exactly
    if mask.all():
        copies = np.broadcast_to(events, (num_imputations, *events.shape))
        return Imputed(events.astype(mean_type), copies, np.full(len(events), num_samples, np.float32), mask)
    likelihood, shape = built.vae.likelihood, built.vae.data_shape
    check_imputes(likelihood)
    candidates = class_values(likelihood, shape)
    if candidates is not None and len(candidates) > _MAX_CLASSES:
        candidates = None
    settings = ImputationSettings(num_samples, num_imputations, candidates)
    result = impute_rows(built.vae, run.params, file.rows, file.to_input, settings, seed, report)
    is_class = np.array([kind == "class" for kind in entry_kinds(likelihood, shape)]).reshape(shape)
    best = result.mean if result.mode is None else np.where(is_class, result.mode, result.mean)
    finite = np.isfinite(best).reshape(len(best), -1).all(axis=1) & np.isfinite(result.effective_sample_size)
    if not finite.all():
        rows = np.flatnonzero(~finite)
        raise UserError(
            f"{len(rows)} of {len(best)} rows have importance weights that are not finite, the first with index {rows[0]}. "
            "Their observed values are far from the training data.",
            fix="Leave these rows out.",
        )
    unit = stored_unit(built)
    mean = np.where(mask, events, best * np.float32(unit)).astype(mean_type)
    draws = np.moveaxis(np.asarray(result.imputations), 1, 0) * np.float32(unit)
    if events.dtype.kind != "f":
        draws = np.rint(draws)
    imputations = np.where(mask, events, draws).astype(events.dtype)
    return Imputed(mean, imputations, np.asarray(result.effective_sample_size), mask)
