"""Every number of a trained run: the ELBO, log p(x) with its errors, what the code carries, and how far off the encoder is."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_jax._numerics.keys import Stream, stream
from vae_jax._numerics.short_repr import short_repr
from vae_jax.build import Built
from vae_jax.divergences import kl_per_dimension
from vae_jax.errors import UserError
from vae_jax.evaluation import (
    Annealing,
    Bounds,
    DataSlice,
    GapSettings,
    ais_dataset,
    bdmc_simulated,
    encode_dataset,
    evaluate,
    gaps_dataset,
    importance_log_px,
    log_px_means,
    means,
    name_examples,
    not_finite_rows,
    pareto_k_limit,
)
from vae_jax.evaluation.kl_decomposition import KLDecomposition, decompose_kl
from vae_jax.evaluation.posterior_collapse import Collapse, active_units, collapse, describe_collapse
from vae_jax.model import prior_log_prob
from vae_jax.runs import Run
from vae_jax.runs.summary_file import test_bits_per_dim
from vae_jax.storage.atomic import as_json
from vae_jax.training import evaluation_key

_PIECES = 20  # the test set is done in so many parts, for the progress; they change no number


@short_repr
class Assessment(NamedTuple):
    """The content of evaluation.json, and values of every test example."""

    numbers: dict[str, Any]
    examples: dict[str, np.ndarray]  # (examples,) each, nats


def assess(
    run: Run,
    *,
    num_samples: int = 1000,
    elbo_samples: int = 10,
    batch_size: int = 1000,
    annealing: Annealing | None = None,
    gap_steps: int = 0,
    num_annealed: int | None = None,
    num_simulated: int = 0,
    memory_bytes: int | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, of: None,
) -> Assessment:
    """Evaluates a run on its test set.

    Args:
      run: from `runs.load_run`.
      num_samples: K of the importance-weighted log p(x).
      elbo_samples: draws of z for the ELBO; 1 repeats the number in summary.json.
      batch_size: examples at once for the ELBO, as of `evaluation.evaluate`.
      annealing: settings of annealed importance sampling, which is left out by default: it costs as many decodings for each
        example as temperatures x chains x leapfrog steps.
      gap_steps: steps of the local posterior's optimiser, for the approximation and amortisation gaps; 0 leaves them out.
      num_annealed: of the first so many test examples; all by default.
      num_simulated: examples simulated from the model on which annealing is bounded from both sides (BDMC); 0 leaves it out.
      memory_bytes: for the importance samples decoded at once, see `importance_log_px`.
      progress: called with what is being done, examples done, and examples in all.

    Returns:
      `Assessment`. Numbers are nats per example with standard errors beside them; see the README for each. None stands for one
      that is not defined, such as the standard error over a single example, or not finite, such as the upper end of the
      interval of log p(x) where only a lower one is known (`evaluation.log_px_means`).
    """
    vae, data, params = run.built.vae, run.built.data, run.params
    seed, test = run.built.config.test_seed, data.test
    count, options = len(test), {"to_input": data.eval_input, "log_jacobian": data.log_jacobian}
    if memory_bytes is None:
        memory_bytes = 2**26 if jax.default_backend() == "cpu" else 2**30
    log_prior = prior_log_prob(vae, params)

    @jax.jit
    def of_elbo(params: Any, test: Array) -> Any:
        return evaluate(evaluation_key(seed), vae, params, test, batch_size=batch_size, num_samples=elbo_samples, **options)

    @jax.jit
    def of_posterior(params: Any, test: Array) -> Any:
        mean, log_scale = encode_dataset(vae, params, test, to_input=data.eval_input, batch_size=batch_size)
        key_parts = stream(seed, Stream.KL_DECOMPOSITION)
        # Of a single example the aggregate posterior is its own: there is nothing to tell apart.
        parts = decompose_kl(key_parts, mean, log_scale, prior_log_prob=log_prior) if count > 1 else None
        kl = jax.vmap(kl_per_dimension)(mean, log_scale)
        return mean, jnp.mean(kl, axis=0), collapse(mean, log_scale), parts

    def of_log_px(params: Any, part: Array, first: Array) -> Any:
        weigh = {"num_samples": num_samples, "memory_bytes": memory_bytes}
        return importance_log_px(stream(seed, Stream.LOG_PX), vae, params, DataSlice(part, first), **weigh, **options)

    elbo = of_elbo(params, test)
    test_means = means(elbo)
    numbers: dict[str, Any] = {
        "test_elbo": test_means.elbo,
        "test_elbo_standard_error": test_means.elbo_standard_error,
        "test_log_likelihood": test_means.log_likelihood,
        "test_kl": test_means.kl,
        "rate": test_means.kl,
        "distortion": -test_means.log_likelihood,
        "elbo_samples": elbo_samples,
        "num_test_examples": count,
    }
    estimates = _in_pieces(of_log_px, params, test, lambda done: progress("log p(x)", done, count))
    log_px = log_px_means(estimates, num_samples)
    numbers |= {
        "log_px_mean": log_px.log_px,
        "log_px_standard_error": log_px.standard_error,
        "log_px_monte_carlo_error": log_px.monte_carlo_error,
        "log_px_bias": log_px.bias,
        "log_px_interval": list(log_px.interval),
        "pareto_k_above_limit": log_px.pareto_k_above_limit,
        "effective_sample_size": log_px.effective_sample_size,
        "pareto_k_above_0.7": log_px.pareto_k_above,
        "num_samples": num_samples,
    }
    numbers["test_bits_per_dim"] = test_bits_per_dim(run.built, test_means.elbo)
    numbers["log_px_bits_per_dim"] = test_bits_per_dim(run.built, log_px.log_px)
    numbers |= _of_code(count, vae.latent_dim, vae.prior is None, *of_posterior(params, test))
    examples = {"log_likelihood": elbo.log_likelihood, "kl": elbo.kl, **estimates._asdict()}
    if len(bad := not_finite_rows(elbo.log_likelihood, elbo.kl, estimates.log_px)):
        numbers["not_finite_examples"] = bad.tolist()

    def told(what: str, of: int) -> Callable[[int], None]:
        return lambda done: progress(what, done, of)

    part = test[:num_annealed]
    best = np.asarray(estimates.log_px[: len(part)], np.float64)
    if annealing is not None:

        def of_ais(params: Any, part: Array, first: Array) -> Any:
            return ais_dataset(stream(seed, Stream.ANNEALING), vae, params, DataSlice(part, first), annealing, **options)

        annealed = _in_pieces(of_ais, params, part, told("annealed importance sampling", len(part)))
        numbers["ais"] = _of_annealing(annealed, annealing)
        examples |= {f"ais_{name}": values for name, values in annealed._asdict().items()}
        best = np.maximum(best, np.asarray(annealed.log_px, np.float64))
        if num_simulated:
            key_simulated = stream(seed, Stream.SIMULATED)
            bounds = jax.jit(lambda params: bdmc_simulated(key_simulated, vae, params, num_simulated, annealing))
            numbers["bdmc"] = _of_bounds(bounds(params))
    if gap_steps:

        def of_gaps(params: Any, part: tuple[Array, Array], first: Array) -> Any:
            x, log_px = part
            settings = GapSettings(num_steps=gap_steps)
            return gaps_dataset(stream(seed, Stream.GAPS), vae, params, DataSlice(x, first), log_px, settings, **options)

        gaps = _in_pieces(of_gaps, params, (part, jnp.asarray(best, jnp.float32)), told("local posteriors", len(part)))
        numbers["gaps"] = _of_gaps(gaps, gap_steps)
        examples |= {name: getattr(gaps, name) for name in ("approximation_gap", "amortization_gap", "best_elbo")}
    numbers |= {
        "evaluated_epoch": run.epoch,
        "seed": run.built.config.seed,
        "test_seed": run.built.config.test_seed,
        "unit": "nats per example, beta = 1; standard errors over the test examples unless said otherwise",
    }
    return Assessment(as_json(numbers), {name: np.asarray(values) for name, values in examples.items()})


def _in_pieces(function: Callable[..., Any], params: Any, data: Any, done: Callable[[int], None]) -> Any:
    """`function(params, part, index of its first example)` over equal parts of the data, in one compiled program."""
    count = jax.tree.leaves(data)[0].shape[0]
    size = -(-count // _PIECES)
    compiled, found = jax.jit(function), []
    for first in range(0, count, size):
        # The last part overlaps the one before: its first examples are done twice, with the same keys, and cut off.
        start = min(first, count - size)
        part = jax.tree.map(lambda leaf, start=start: leaf[start : start + size], data)
        piece = jax.device_get(compiled(params, part, jnp.int32(start)))
        found.append(jax.tree.map(lambda leaf, start=start, first=first: leaf[first - start :], piece))
        done(min(first + size, count))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *found)


def _mean(values: Any) -> tuple[float, float]:
    """Mean and standard error in float64."""
    values = np.asarray(values, np.float64)
    with np.errstate(invalid="ignore"):
        return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def _of_code(
    count: int,
    latent_dim: int,
    closed_form: bool,
    posterior_means: Array,
    kl: Array,
    collapsed: Collapse,
    parts: KLDecomposition | None,
) -> dict[str, Any]:
    """Active units, collapse and the parts of the KL; per dimension only against N(0, I)."""
    thresholds = np.array([1e-4, 1e-3, 1e-2, 1e-1, 1.0])
    curve = active_units(posterior_means, thresholds)
    numbers: dict[str, Any] = {
        "latent_dim": latent_dim,
        "active_units": int(active_units(posterior_means)),
        "active_units_by_threshold": {f"{t:g}": int(n) for t, n in zip(thresholds, curve, strict=True)},
        "kl_per_dimension": np.asarray(kl, np.float64).tolist() if closed_form else None,
        "collapsed_units": np.flatnonzero(collapsed.collapsed).tolist() if closed_form else None,
    }
    for name in ("mutual_information", "mutual_information_upper", "total_correlation", "dimension_wise_kl"):
        numbers[name], numbers[f"{name}_standard_error"] = _mean(getattr(parts, name)) if parts else (None, None)
    return numbers | {"mutual_information_cap": math.log(count), "aggregate_draws": len(parts.kl) if parts else 0}


def _of_annealing(annealed: Any, settings: Annealing) -> dict[str, Any]:
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


def _of_bounds(bounds: Bounds) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, values in (("lower", bounds.lower.log_px), ("upper", bounds.upper.log_px), ("gap", bounds.gap)):
        found[name], found[f"{name}_standard_error"] = _mean(values)
    return {**found, "num_examples": len(bounds.gap)}


def _of_gaps(gaps: Any, steps: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("approximation_gap", "amortization_gap", "elbo", "best_elbo"):
        found[name], found[f"{name}_standard_error"] = _mean(getattr(gaps, name))
    return {**found, "num_examples": len(gaps.elbo), "steps": steps}


def interval_of(numbers: dict[str, Any]) -> tuple[float | None, float | None]:
    """Returns the ends of the interval of the mean log p(x) that are known; None for one that is not.

    An older version wrote an upper end for any weights, and no share above the limit that it holds for.
    """
    low, high = numbers["log_px_interval"]
    return low, high if "pareto_k_above_limit" in numbers else None


def _why_open(numbers: dict[str, Any]) -> str | None:
    """Says why the interval of log p(x) has no upper end, and what helps; None where it has one."""
    (low, high), share, num_samples = interval_of(numbers), numbers.get("pareto_k_above_limit"), numbers["num_samples"]
    if high is not None or "not_finite_examples" in numbers:
        return None
    if "pareto_k_above_limit" not in numbers:
        return "log p(x): an older version evaluated this run, whose upper ends do not always hold; evaluate it again."
    bound = "the estimate is a lower bound in expectation" if low is None else f"only a lower end is known, {low:.3f}"
    if share is None:
        why = f"{num_samples} samples say nothing of the tails of the importance weights. Use --num-samples 1000"
    else:
        why = (
            f"the importance weights of {share:.1%} of the examples have a Pareto shape k above "
            f"{pareto_k_limit(num_samples):.2g}, so the estimate may be too low by more than its errors say. Use more samples"
        )
    annealing = "annealing, which comes closer (--ais-temperatures 1000)"
    annealing = "compare the annealed estimate" if "ais" in numbers else annealing
    return f"log p(x): {bound}, because {why}, or {annealing}."


def remarks(numbers: dict[str, Any]) -> list[str]:
    """Returns what a reader of these numbers should know: collapse, and estimates that are bounds or not defined."""
    found = []
    if rows := numbers.get("not_finite_examples"):
        examples = name_examples("test", np.asarray(rows), numbers["num_test_examples"])
        found.append(
            f"the ELBO or log p(x) of {examples}, counted from 0, is not finite, so means over the test set are not defined. "
            "evaluation.npz has the values of every example. Look at the range of these rows of the test set."
        )
    if numbers["test_kl"] is not None:
        words = describe_collapse(len(numbers["collapsed_units"] or ()), numbers["latent_dim"], numbers["test_kl"])
        found += [words] if words else []
    if words := _why_open(numbers):
        found.append(words)
    if (information := numbers["mutual_information"]) is not None and information > numbers["mutual_information_cap"] - 1:
        found.append(
            f"mutual information: within 1 nat of its cap, log {numbers['num_test_examples']}: "
            "the test set is too small to say more."
        )
    return found


def representation(built: Built, params: Any, key: Array, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes and factors of images from a data set whose factors are known, for `disentanglement`.

    Args:
      built: model and data.
      params: to evaluate.
      key: of the choice of images: from all combinations of factors where they are computed, else from the training set
        (without replacement), as in the literature, which has no split.
      num_rows: how many.

    Returns:
      Encoder means (num_rows, latent), and factors (num_rows, factors); factors with a single value are left out.

    Raises:
      UserError: the factors are not known, or there are fewer images.
    """
    dataset, data = built.dataset, built.data
    key_rows, key_input = jax.random.split(key)
    if dataset.rendering and dataset.rendering.draw:
        keys = jax.random.split(key_rows, num_rows)
        rows = jax.vmap(dataset.rendering.draw)(keys, jnp.zeros((num_rows, *dataset.train.shape[1:]), dataset.train.dtype))
        factors, to_input = np.asarray(rows), data.eval_input
    elif dataset.train_factors is not None:
        if num_rows > len(dataset.train):
            raise UserError(f"{dataset.name}: expected at least {num_rows} training images, got {len(dataset.train)}.")
        index = np.asarray(jax.random.choice(key_rows, len(dataset.train), (num_rows,), replace=False))
        rows, factors = jnp.asarray(dataset.train[index]), dataset.train_factors[index]
        to_input = lambda batch: data.train_input(key_input, batch)  # noqa: E731
    else:
        raise UserError(
            f"{dataset.name}: the factors of its images are not known. Expected sprites, sprites_grid, TFDS dsprites or "
            "shapes3d, or an .npz file with `factors`."
        )
    encode = jax.jit(lambda params, rows: encode_dataset(built.vae, params, rows, to_input=to_input)[0])
    return np.asarray(encode(params, rows)), factors[:, np.ptp(factors, axis=0) > 0].astype(np.int64)
