"""Evaluates a run under artificial missingness: hides test entries, imputes them, and compares with other methods."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_jax._numerics.keys import Stream, stream
from vae_jax.build import Built
from vae_jax.data import SparseArray, is_image
from vae_jax.errors import UserError
from vae_jax.evaluation import standard_error
from vae_jax.evaluation.hidden_entries import METRICS, Scores, Table, baselines, hide, score_all
from vae_jax.evaluation.imputation import ImputationSettings, check_imputes, class_values, entry_kinds
from vae_jax.example import Example, event_of, mask_of
from vae_jax.runs.directory import Run
from vae_jax.runs.imputed_rows import (
    best_values,
    few_samples,
    heavy_tails,
    impute_rows,
    num_few_samples,
    num_heavy_tails,
)
from vae_jax.runs.parts import Report
from vae_jax.runs.trained.stored_unit import stored_scale
from vae_jax.storage.atomic import JsonObject

_MAX_TRAIN = 10_000  # training examples that the other methods are fitted to


class HiddenEntries(NamedTuple):
    """Settings of an evaluation under artificial missingness."""

    share: float  # of the observed test entries that are hidden, in (0, 1)
    seed: int = 0
    num_samples: int = 1000


def masked_input(built: Built, rows: Example) -> Example:
    """Returns stored examples with masks as the model takes them, also where the data of the run are complete."""
    if isinstance(built.data.test, Example):
        return built.data.eval_input(rows)
    assert rows.mask is not None
    event = jnp.where(rows.mask, rows.event, jnp.zeros((), rows.event.dtype))
    return Example(built.data.eval_input(event), None, rows.mask)


def assess_hidden_entries(run: Run, settings: HiddenEntries, report: Report) -> JsonObject:
    """Hides test entries of a run completely at random, imputes them, and scores this and other methods.

    Args:
      run: from `runs.load_run`.
      settings: the share and seed of the hidden entries (see `hide`), and the importance samples of each example.
      report: called with the number of examples done.

    Returns:
      Numbers for evaluation.json: for each method the scores of each kind of entry with standard errors over examples, and of
      each column of a table in the unit of the data; log p(x_observed) of the test examples with hidden entries; and `notes`,
      sentences for the user.

    Raises:
      UserError: data or a likelihood that cannot have missing entries, or a share that hides nothing.
    """
    built = run.built
    check_imputes(built.vae.likelihood)
    test = built.data.test
    if isinstance(event_of(test), SparseArray):
        raise UserError(f"{built.dataset.name}: sparse data have no missing entries. Save them densely.", field="hide")
    if built.config.dequantize:
        raise UserError(
            "dequantized data have no missing entries, because the nats of the discrete data count every entry.", field="hide"
        )
    before = np.ones(test.shape, bool) if mask_of(test) is None else np.asarray(mask_of(test))
    hidden = hide(settings.seed, before, settings.share)
    condition = test.condition if isinstance(test, Example) else None
    rows = Example(event_of(test), condition, jnp.asarray(before & ~hidden))
    candidates = class_values(built.vae.likelihood, built.vae.data_shape)
    draws = ImputationSettings(settings.num_samples, candidates=candidates)
    to_input = lambda rows: masked_input(built, rows)  # noqa: E731
    imputed = impute_rows(built.vae, run.params, rows, to_input, draws, settings.seed, report)
    table = _table(built, before, hidden)
    best = best_values(built.vae, imputed)
    others, notes = baselines(table)
    unit = 1.0 if table.scale else stored_scale(built.config, built.vae.likelihood, built.dataset.max_level)
    values = {"vae": unit * np.asarray(best, np.float64).reshape(table.test.shape), **others}
    numbers = _numbers(built, table, score_all(table, values))
    if is_image(built.dataset.data_shape) and candidates is not None:  # the mean of binary pixels is a gray image
        real = table._replace(kinds=("real",) * len(table.kinds), scale=1.0)
        grays = {"vae": np.asarray(imputed.mean, np.float64).reshape(table.test.shape)}
        grays["mean"] = np.where(real.observed, real.test, np.nanmean(real.train, axis=0))
        for name, scores in score_all(real, grays).items():
            numbers["methods"][name] |= _scores(scores)
    few = num_few_samples(imputed.effective_sample_size, settings.num_samples)
    if few:
        notes.append(few_samples(few, len(hidden), settings.num_samples))
    heavy = num_heavy_tails(imputed.pareto_k, settings.num_samples)
    if heavy:
        notes.append(heavy_tails(heavy, len(hidden)))
    log_px = np.asarray(imputed.log_px, np.float64)
    numbers |= {
        "share": settings.share,
        "seed": settings.seed,
        "num_samples": settings.num_samples,
        "num_hidden": int(hidden.sum()),
        "num_examples": len(hidden),
        "log_px_observed_mean": float(log_px.mean()),
        "log_px_observed_standard_error": standard_error(log_px),
        "effective_sample_size": float(np.median(imputed.effective_sample_size)),
        "few_effective_samples": few,
        "heavy_tails": heavy,
        "notes": notes,
    }
    return numbers


def _table(built: Built, before: np.ndarray, hidden: np.ndarray) -> Table:
    """Returns training and test examples as rows: tables in the unit of the data, images as the likelihood sees them."""
    kinds = entry_kinds(built.vae.likelihood, built.vae.data_shape)
    size = math.prod(built.vae.data_shape)
    shows_pixels = is_image(built.dataset.data_shape)
    unit = 1.0 if shows_pixels else stored_scale(built.config, built.vae.likelihood, built.dataset.max_level)
    count = min(len(built.data.train), _MAX_TRAIN)
    index = np.linspace(0, len(built.data.train) - 1, count).astype(np.int64)

    @jax.jit
    def inputs(key: Array, index: Array, test: Array | Example) -> tuple[Array | Example, Array]:
        return built.data.train_input(key, built.data.train_rows(index)), event_of(built.data.eval_input(test))

    train, test = inputs(stream(built.config.test_seed, Stream.BASELINES), jnp.asarray(index), built.data.test)
    observed = mask_of(train)
    train_rows = np.array(event_of(train), np.float64).reshape(count, size) * unit
    if observed is not None:
        train_rows[~np.asarray(observed).reshape(count, size)] = np.nan
    test_rows = np.array(test, np.float64).reshape(len(hidden), size) * unit
    test_rows[~before.reshape(len(hidden), size)] = np.nan
    scale = float(np.nanstd(train_rows - np.nanmean(train_rows, axis=0))) or 1.0 if shows_pixels else None
    return Table(train_rows, test_rows, hidden.reshape(len(hidden), size), kinds, scale)


def _scores(scores: Scores) -> JsonObject:
    """Returns the scores of a method by metric, with their standard errors."""
    numbers: JsonObject = {}
    for kind, one in scores.by_kind.items():
        numbers |= {METRICS[kind]: one.value, f"{METRICS[kind]}_standard_error": one.standard_error}
    return numbers


def _numbers(built: Built, table: Table, scores: Mapping[str, Scores]) -> JsonObject:
    """Returns the scores of all methods, and those of each column of a table with names."""
    methods: JsonObject = {name: _scores(one) for name, one in scores.items()}
    names = built.dataset.column_names
    if names and len(names) == len(table.kinds):
        for method, one in scores.items():
            methods[method]["by_column"] = {
                name: {METRICS[kind]: float(value)}
                for name, kind, value in zip(names, table.kinds, one.by_column, strict=True)
                if not np.isnan(value)
            }
    counts = {METRICS[kind]: one.num_entries for kind, one in scores["vae"].by_kind.items()}
    return {"methods": methods, "num_entries": counts}
