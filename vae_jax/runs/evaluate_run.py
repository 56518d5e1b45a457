"""Evaluates a trained run: the ELBO, log p(x) with its errors, use of the latent code, and the gaps of the encoder."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from vae_jax._numerics.keys import Stream, stream
from vae_jax._numerics.short_repr import short_repr
from vae_jax.divergences import kl_per_dimension
from vae_jax.evaluation import (
    Annealed,
    Annealing,
    Bounds,
    DataSlice,
    Evaluation,
    Gaps,
    GapSettings,
    LogPx,
    ais_dataset,
    bdmc_simulated,
    encode_dataset,
    evaluate,
    gaps_dataset,
    importance_log_px,
    log_px_means,
    means,
    not_finite_rows,
)
from vae_jax.evaluation.annealed_importance import check_start
from vae_jax.evaluation.dataset_means import layer_kls
from vae_jax.evaluation.kl_decomposition import KLDecomposition
from vae_jax.evaluation.posterior_collapse import Collapse, active_units, collapse
from vae_jax.example import condition_of
from vae_jax.model import Params, prior_log_prob
from vae_jax.runs.directory import Run
from vae_jax.runs.hidden_entries import HiddenEntries, assess_hidden_entries
from vae_jax.runs.kl_parts import kl_parts
from vae_jax.runs.label_accuracy import label_accuracy
from vae_jax.runs.notation import facts
from vae_jax.runs.parts import map_parts
from vae_jax.runs.posterior_facts import describe_posterior
from vae_jax.runs.prior_comparison import compare_priors
from vae_jax.runs.summary_file import test_bits_per_dim
from vae_jax.storage.atomic import JsonObject, as_json
from vae_jax.training import evaluation_key

Progress = Callable[[str, int, int], None]  # (name of the estimate, examples done, examples in all)


@short_repr
class Assessment(NamedTuple):
    """The content of evaluation.json, and the values of every test example."""

    numbers: JsonObject
    examples: dict[str, np.ndarray]  # (examples,) each, nats


class EvaluationOptions(NamedTuple):
    """Estimates that `assess` computes, and their sizes."""

    num_samples: int = 1000  # K of the importance-weighted log p(x)
    elbo_samples: int = 10  # draws of z for the ELBO; 1 repeats the number in summary.json
    batch_size: int = 1000  # examples at once for the ELBO
    annealing: Annealing | None = None  # None: no annealed importance sampling
    gap_steps: int = 0  # optimizer steps of the local posterior for the approximation and amortization gaps; 0: no gaps
    num_annealed: int | None = None  # annealing and gaps use the first `num_annealed` test examples; None: all
    num_simulated: int = 0  # examples simulated from the model on which annealing is bounded from both sides (BDMC); 0: none
    probe_codes: int = 10_000  # most training codes, and most test codes, that predict labels where there are any; 0: no labels
    memory_bytes: int | None = None  # for the importance samples decoded at once, see `importance_log_px`
    hidden: HiddenEntries | None = None  # None: no test entries are hidden and imputed


class _Estimates(NamedTuple):
    """Numbers and values of every example that one estimator contributes."""

    numbers: JsonObject
    examples: dict[str, ArrayLike]


def assess(
    run: Run,
    options: EvaluationOptions = EvaluationOptions(),  # noqa: B008 (a NamedTuple cannot be changed)
    progress: Progress = lambda name, done, total: None,
) -> Assessment:
    """Evaluates a run on its test set.

    Annealed importance sampling is left out by default: for each example it decodes as often as temperatures x chains x
    leapfrog steps.

    Args:
      run: from `runs.load_run`.
      options: the estimates and their sizes.
      progress: called with the name of the current estimate, the examples done, and the examples in all.

    Returns:
      Numbers in nats per example with their standard errors; the README explains each. Where the data have labels, the accuracy
      of labels predicted from codes (see `label_accuracy`). None stands for a number that is not
      defined, such as the standard error over a single example, or not finite, such as the upper end of the interval of
      log p(x) if only a lower end is known (see `evaluation.log_px_means`).
    """
    test = run.built.data.test
    if options.annealing is not None:
        check_start("assess", run.built.vae, options.annealing)  # before hours of other estimates
    elbo = _evaluate_elbo(run, options)
    log_px = _evaluate_log_px(run, options, progress)
    numbers, examples = _elbo_and_log_px_numbers(run, options, elbo, log_px)
    code_numbers, posterior_means = _evaluate_code(run, options)
    numbers |= code_numbers | label_accuracy(run, posterior_means, options.probe_codes)
    if run.refitted is not None:
        numbers["refit"] = _compare_priors(run, options, log_px, progress)
    if len(bad := not_finite_rows(elbo.log_likelihood, elbo.kl, log_px.log_px)):
        numbers["not_finite_examples"] = bad.tolist()

    part = test[: options.num_annealed]
    best_log_px = np.asarray(log_px.log_px[: len(part)], np.float64)
    if options.annealing is not None:
        annealed = _evaluate_annealing(run, options.annealing, part, progress)
        numbers["ais"] = _annealing_numbers(annealed, options.annealing)
        examples |= {f"ais_{name}": values for name, values in annealed._asdict().items()}
        best_log_px = np.maximum(best_log_px, np.asarray(annealed.log_px, np.float64))
        if options.num_simulated:
            numbers["bdmc"] = _bound_numbers(_simulate_bounds(run, options.annealing, options.num_simulated))
    if options.gap_steps:
        gaps = _evaluate_gaps(run, options.gap_steps, (part, jnp.asarray(best_log_px, jnp.float32)), progress)
        numbers["gaps"] = _gap_numbers(gaps, options.gap_steps)
        examples |= {name: getattr(gaps, name) for name in ("approximation_gap", "amortization_gap", "best_elbo")}
    if options.hidden is not None:
        report = lambda done: progress("hidden entries", done, len(test))  # noqa: E731
        numbers["hidden_entries"] = assess_hidden_entries(run, options.hidden, report)
    numbers |= facts(run.built)
    numbers |= {
        "evaluated_epoch": run.epoch,
        "seed": run.built.config.seed,
        "test_seed": run.built.config.test_seed,
        "unit": "nats per example, beta = 1; standard errors over the test examples unless said otherwise",
    }
    return Assessment(as_json(numbers), {name: np.asarray(values) for name, values in examples.items()})


class _InputOptions(TypedDict):
    """Keywords by which every estimator converts stored examples and their densities."""

    to_input: Callable[[Array], Array]
    log_jacobian: float


def _key(run: Run, use: Stream) -> Array:
    return stream(run.built.config.test_seed, use)


def _input_options(run: Run) -> _InputOptions:
    return {"to_input": run.built.data.eval_input, "log_jacobian": run.built.data.log_jacobian}


def _evaluate_elbo(run: Run, options: EvaluationOptions) -> Evaluation:
    """Computes the terms of the ELBO for every test example."""
    settings = {"batch_size": options.batch_size, "num_samples": options.elbo_samples, **_input_options(run)}

    @jax.jit
    def elbo(params: Params, test: Array) -> Evaluation:
        return evaluate(evaluation_key(run.built.config.test_seed), run.built.vae, params, test, **settings)

    return elbo(run.params, run.built.data.test)


def _evaluate_log_px(run: Run, options: EvaluationOptions, progress: Progress) -> LogPx:
    """Estimates log p(x) of every test example by importance sampling."""
    memory_bytes, num_samples = options.memory_bytes, options.num_samples
    if memory_bytes is None:
        memory_bytes = 2**26 if jax.default_backend() == "cpu" else 2**30

    def log_px(params: Params, part: Array, first: Array) -> LogPx:
        key, settings = _key(run, Stream.LOG_PX), {"num_samples": num_samples, "memory_bytes": memory_bytes}
        return importance_log_px(key, run.built.vae, params, DataSlice(part, first), **settings, **_input_options(run))

    test = run.built.data.test
    return map_parts(log_px, run.params, test, lambda done: progress("log p(x)", done, len(test)))


def _elbo_and_log_px_numbers(run: Run, options: EvaluationOptions, elbo: Evaluation, log_px: LogPx) -> _Estimates:
    """Returns the means of the ELBO and of log p(x), and their values for every example."""
    test_means, log_px_mean = means(elbo), log_px_means(log_px, options.num_samples)
    numbers: JsonObject = {
        "test_elbo": test_means.elbo,
        "test_elbo_standard_error": test_means.elbo_standard_error,
        "test_log_likelihood": test_means.log_likelihood,
        "test_kl": test_means.kl,
        "rate": test_means.kl,
        "distortion": -test_means.log_likelihood,
        "elbo_samples": options.elbo_samples,
        "num_test_examples": len(run.built.data.test),
        "log_px_mean": log_px_mean.log_px,
        "log_px_standard_error": log_px_mean.standard_error,
        "log_px_monte_carlo_error": log_px_mean.monte_carlo_error,
        "log_px_bias": log_px_mean.bias,
        "log_px_interval": list(log_px_mean.interval),
        "pareto_k_above_limit": log_px_mean.pareto_k_above_limit,
        "effective_sample_size": log_px_mean.effective_sample_size,
        "pareto_k_above_0.7": log_px_mean.pareto_k_above,
        "num_samples": options.num_samples,
        "test_bits_per_dim": test_bits_per_dim(run.built, test_means.elbo),
        "log_px_bits_per_dim": test_bits_per_dim(run.built, log_px_mean.log_px),
    }
    return _Estimates(numbers, {"log_likelihood": elbo.log_likelihood, "kl": elbo.kl, **log_px._asdict()})


def _evaluate_code(run: Run, options: EvaluationOptions) -> tuple[JsonObject, np.ndarray]:
    """Measures active units, posterior collapse and the parts of the KL on the test set; returns the posterior means too."""
    vae, data = run.built.vae, run.built.data
    count, key_parts = len(data.test), _key(run, Stream.KL_DECOMPOSITION)
    log_prior = prior_log_prob(vae, run.params)

    @jax.jit
    def code(params: Params, test: Array) -> tuple[Array, Array, Collapse, KLDecomposition | None]:
        mean, log_scale = encode_dataset(vae, params, test, to_input=data.eval_input, batch_size=options.batch_size)
        settings = options.batch_size, log_prior
        parts = kl_parts(key_parts, vae, params, (test, data.eval_input), (mean, log_scale), *settings)
        kl = jax.vmap(kl_per_dimension)(mean, log_scale)
        return mean, jnp.mean(kl, axis=0), collapse(mean, log_scale), parts

    posterior_means, kl, collapsed, parts = code(run.params, data.test)
    thresholds = np.array([1e-4, 1e-3, 1e-2, 1e-1, 1.0])
    curve = active_units(posterior_means, thresholds)
    is_standard_normal = vae.prior is None  # only then is there a KL of each dimension in closed form
    numbers: JsonObject = {
        "latent_dim": vae.latent_dim,
        "active_units": int(active_units(posterior_means)),
        "active_units_by_threshold": {f"{t:g}": int(n) for t, n in zip(thresholds, curve, strict=True)},
        "kl_per_dimension": np.asarray(kl, np.float64).tolist() if is_standard_normal else None,
        "collapsed_units": np.flatnonzero(collapsed.collapsed).tolist() if is_standard_normal else None,
    }
    for name in ("mutual_information", "mutual_information_upper", "total_correlation", "dimension_wise_kl"):
        values = getattr(parts, name) if parts else None
        numbers[name], numbers[f"{name}_standard_error"] = (None, None) if values is None else _mean(values)
    numbers |= {"mutual_information_cap": math.log(count), "aggregate_draws": len(parts.kl) if parts else 0}
    if vae.posterior is not None:
        numbers["posterior"] = describe_posterior(vae.posterior)
        if vae.posterior.sample_and_kl is not None and vae.prior is None:
            numbers["kl_per_layer"] = _layer_kls(run, options).tolist()
    return numbers, np.asarray(posterior_means)


def _layer_kls(run: Run, options: EvaluationOptions) -> np.ndarray:
    """Returns the mean KL of each layer over the test set, from one draw for each example."""
    vae, data, key = run.built.vae, run.built.data, evaluation_key(run.built.config.test_seed)
    settings = {"to_input": data.eval_input, "batch_size": options.batch_size}
    kls = jax.jit(lambda params, test: layer_kls(key, vae, params, test, **settings))(run.params, data.test)
    return np.asarray(kls, np.float64).mean(axis=0)


def _decompose(run: Run, options: EvaluationOptions) -> KLDecomposition | None:
    """Decomposes the KL of the test set. The draws of z do not depend on the prior."""
    vae, data = run.built.vae, run.built.data

    @jax.jit
    def parts(params: Params, test: Array) -> KLDecomposition | None:
        moments = encode_dataset(vae, params, test, to_input=data.eval_input, batch_size=options.batch_size)
        key = _key(run, Stream.KL_DECOMPOSITION)
        log_prior = prior_log_prob(vae, params)
        return kl_parts(key, vae, params, (test, data.eval_input), moments, options.batch_size, log_prior)

    return parts(run.params, data.test)


def _compare_priors(run: Run, options: EvaluationOptions, log_px: LogPx, progress: Progress) -> JsonObject:
    """Compares the refitted prior with that of the training, on the same draws of z."""
    before = run.as_trained()
    report: Progress = lambda name, done, total: progress(f"{name} under the prior of the training", done, total)  # noqa: E731
    log_px_before = _evaluate_log_px(before, options, report)
    old, new = (_decompose(one, options) for one in (before, run))
    parts = None if old is None or new is None else [old, new]
    return compare_priors(run, (log_px_before.log_px, log_px.log_px), parts, options.elbo_samples)


def _evaluate_annealing(run: Run, annealing: Annealing, part: Array, progress: Progress) -> Annealed:
    """Estimates log p(x) of examples by annealed importance sampling."""

    def annealed(params: Params, part: Array, first: Array) -> Annealed:
        key = _key(run, Stream.ANNEALING)
        return ais_dataset(key, run.built.vae, params, DataSlice(part, first), annealing, **_input_options(run))

    return map_parts(annealed, run.params, part, lambda done: progress("annealed importance sampling", done, len(part)))


def _simulate_bounds(run: Run, annealing: Annealing, num_simulated: int) -> Bounds:
    """Bounds log p(x) of examples simulated from the model, for a conditional model given conditions of the test set."""
    key, vae, data, conditions = _key(run, Stream.SIMULATED), run.built.vae, run.built.data, None
    if data.condition is not None:
        first = np.arange(num_simulated) % len(data.test)  # the conditions of the test set from its start, again and again
        conditions = condition_of(data.eval_input(data.test[first]))
    bounds = jax.jit(lambda params, c: bdmc_simulated(key, vae, params, num_simulated, annealing, conditions=c))
    return bounds(run.params, conditions)


def _evaluate_gaps(run: Run, gap_steps: int, part: tuple[Array, Array], progress: Progress) -> Gaps:
    """Fits a local posterior to each of the examples, which come with their log p(x)."""

    def gaps(params: Params, part: tuple[Array, Array], first: Array) -> Gaps:
        (x, log_px), settings = part, GapSettings(num_steps=gap_steps)
        key = _key(run, Stream.GAPS)
        return gaps_dataset(key, run.built.vae, params, DataSlice(x, first), log_px, settings, **_input_options(run))

    return map_parts(gaps, run.params, part, lambda done: progress("local posteriors", done, len(part[0])))


def _mean(values: ArrayLike) -> tuple[float, float]:
    """Returns the mean and its standard error in float64; the error of a single value is NaN."""
    array = np.asarray(values, np.float64)
    with np.errstate(invalid="ignore"):
        return float(array.mean()), float(array.std(ddof=1) / math.sqrt(len(array))) if len(array) > 1 else math.nan


def _means_with_errors(values: dict[str, ArrayLike]) -> dict[str, float]:
    """Returns the mean of each of the values, followed by its standard error."""
    numbers: dict[str, float] = {}
    for name, array in values.items():
        numbers[name], numbers[f"{name}_standard_error"] = _mean(array)
    return numbers


def _annealing_numbers(annealed: Annealed, settings: Annealing) -> JsonObject:
    mean, standard_error = _mean(annealed.log_px)
    monte_carlo = float(np.sqrt(np.sum(np.square(np.asarray(annealed.standard_error, np.float64))))) / len(annealed.log_px)
    return {
        "log_px_mean": mean,
        "log_px_standard_error": standard_error,
        "log_px_monte_carlo_error": monte_carlo,
        "effective_sample_size": float(np.median(annealed.effective_sample_size)),
        "acceptance_rate": float(np.mean(annealed.acceptance_rate)),
        "num_examples": len(annealed.log_px),
        **settings._asdict(),
    }


def _bound_numbers(bounds: Bounds) -> JsonObject:
    values: dict[str, ArrayLike] = {"lower": bounds.lower.log_px, "upper": bounds.upper.log_px, "gap": bounds.gap}
    return {**_means_with_errors(values), "num_examples": len(bounds.gap)}


def _gap_numbers(gaps: Gaps, steps: int) -> JsonObject:
    names: Sequence[str] = ("approximation_gap", "amortization_gap", "elbo", "best_elbo")
    values = {name: getattr(gaps, name) for name in names}
    return {**_means_with_errors(values), "num_examples": len(gaps.elbo), "steps": steps}
