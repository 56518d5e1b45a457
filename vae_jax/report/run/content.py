"""Numbers, examples and codes of a trained model, computed once for the report of a run."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax._numerics.keys import Stream, stream
from vae_jax._numerics.short_repr import short_repr
from vae_jax.build import Built
from vae_jax.config import CUSTOM, settings_of
from vae_jax.divergences import kl_per_dimension
from vae_jax.evaluation import ImputationSettings, class_values, encode_dataset
from vae_jax.model import VAE, Params, sample_prior
from vae_jax.report.html import Quantity, Record
from vae_jax.report.run.displayed_examples import NUM_SHOWN, Views, views
from vae_jax.report.run.events.panels import displayed_kind
from vae_jax.runs import Run
from vae_jax.runs.imputed_rows import best_values, impute_rows
from vae_jax.runs.in_words import describe_objective, describe_part, describe_prior
from vae_jax.runs.notation import Notation, facts
from vae_jax.runs.summary_file import test_bits_per_dim

_NUM_SAMPLES = 64
_NUM_IMPORTANCE_SAMPLES = 200  # of z for each test example with missing entries
_MANIFOLD_SIDE = 15  # tiles
_MOST_SHOWN = 4  # learned scales; of more, the range is shown
_MAX_POINTS, _MAX_NUMBERS = 1000, 10_000_000  # test examples and samples in figures of vectors, and their numbers in all


class ImputedExamples(NamedTuple):
    """Displayed test examples with imputed values in place of missing entries (see `evaluation.impute`)."""

    values: np.ndarray  # E[x_missing|x_observed], the most probable class in columns of a mixed table that have classes
    effective_sample_size: np.ndarray  # (examples,)

    def describe(self) -> str:
        """Returns the end of a sentence about the method, with the effective sample size."""
        return (
            f"by self-normalized importance sampling with {_NUM_IMPORTANCE_SAMPLES} draws of z for each example. The median "
            f"effective sample size is {np.median(self.effective_sample_size):.0f}."
        )


@short_repr
class Pictures(NamedTuple):
    """Examples for display, each (n, *displayed shape), and the codes of the test set.

    Images are in [0, 1]. Series and vectors have the numbers that the model sees.
    """

    originals: np.ndarray
    reconstructions: np.ndarray  # E[x|z] at the posterior mean
    prior_means: np.ndarray  # E[x|z], z ~ p(z)
    prior_samples: np.ndarray  # x ~ p(x|z), z ~ p(z)
    manifold: np.ndarray | None  # E[x|z] over a grid of prior quantiles; for two latent dimensions
    posterior_means: np.ndarray  # (examples, latent)
    posterior_log_scales: np.ndarray  # (examples, latent)
    kl_per_dimension: np.ndarray  # (latent,), mean over the test set
    codes: np.ndarray  # posterior means of the originals
    views: Views  # the functions that made these examples
    imputed: ImputedExamples | None  # the originals with imputed values; None where no entry is missing


def reconstructions(built: Built, params: Params) -> tuple[np.ndarray, np.ndarray]:
    """Returns test examples as stored, and E[x|z] at their posterior means, both as they are displayed."""
    shown = views(built, num_shown(built))
    codes = shown.codes(params)
    return shown.stored, shown.means_like(params, codes, np.arange(len(codes)))


def num_shown(built: Built) -> int:
    """Returns the number of test examples for the figures: up to a thousand vectors, for histograms."""
    if displayed_kind(built.dataset.data_shape) != "vector":
        return NUM_SHOWN
    return max(NUM_SHOWN, min(_MAX_POINTS, _MAX_NUMBERS // math.prod(built.dataset.data_shape)))


class Givens(NamedTuple):
    """Sentences for captions about what the model is given: the total of x, and the condition. They start with a space.

    They are empty for a model that is given neither.
    """

    reconstructed: str = ""  # for reconstructions
    sampled: str = ""  # for draws from the prior
    mean: str = ""  # for traversals and other codes of one example
    between: str = ""  # for interpolations


def given_captions(built: Built) -> Givens:
    """Returns the sentences for captions that say which total of x and which condition the model is given."""
    totals, conditions = Givens(), Givens()
    if built.vae.likelihood.mean_given is not None:
        mean = " E[x|z] is that of an example with the mean total of the training data."
        totals = Givens(
            " The likelihood is given the total of each example, so E[x|z] is that of an example with the total of x.",
            " The likelihood is given a total, which is that of one of the test examples for each z.",
            mean,
            mean,
        )
    if built.data.condition is not None:
        conditions = Givens(
            " Each example is encoded and decoded with its condition.",
            " The condition is that of one of the test examples for each z.",
            " The condition is that of this test example throughout.",
            " The condition is that of the first example of each pair, also at the other end.",
        )
    return Givens(*map("".join, zip(totals, conditions, strict=True)))


def prior_codes(vae: VAE, params: Params, key: jax.Array, count: int) -> jax.Array:
    """Draws z from the prior, (count, latent). For N(0, I) the draws do not depend on the parameters."""
    if vae.prior is None:
        return jax.random.normal(key, (count, vae.latent_dim))
    return jax.vmap(lambda key: sample_prior(vae, params, key))(jax.random.split(key, count))


def posteriors(built: Built, params: Params) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Encodes the test set.

    Returns:
      mean: of q(z|x), (examples, latent).
      log_scale: of q(z|x), (examples, latent).
      kl: mean over the test set of the KL of each latent dimension to N(0, 1), in nats, (latent,).
    """

    @jax.jit
    def encode(params: Params, test: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        mean, log_scale = encode_dataset(built.vae, params, test, to_input=built.data.eval_input)
        return mean, log_scale, jnp.mean(jax.vmap(kl_per_dimension)(mean, log_scale), axis=0)

    mean, log_scale, kl = (np.asarray(values) for values in encode(params, built.data.test))
    return mean, log_scale, kl


def pictures(run: Run) -> Pictures:
    """Computes the examples of the report. Random draws depend on the run's test seed alone, so they repeat."""
    vae, params = run.built.vae, run.params
    mean, log_scale, kl = posteriors(run.built, params)
    key_z, key_x = jax.random.split(stream(run.built.config.test_seed, Stream.REPORT_SAMPLES))
    count = num_shown(run.built)
    kind = displayed_kind(run.built.dataset.data_shape)
    num_samples = count if kind == "vector" else _NUM_SAMPLES
    z, shown = prior_codes(vae, params, key_z, num_samples), views(run.built, count)
    manifold = None
    if vae.latent_dim == 2 and vae.prior is None and kind == "image":
        quantiles = jax.scipy.stats.norm.ppf((jnp.arange(_MANIFOLD_SIDE) + 0.5) / _MANIFOLD_SIDE)
        across, down = jnp.meshgrid(quantiles, -quantiles)
        manifold = shown.means(params, jnp.stack([across.ravel(), down.ravel()], axis=-1))
    codes, rows = shown.codes(params), np.arange(num_samples) % len(shown.originals)
    return Pictures(
        shown.originals,
        shown.means_like(params, codes, np.arange(len(codes))),
        shown.means_like(params, z, rows),
        shown.samples(params, jax.random.split(key_x, num_samples), z, rows),
        manifold,
        mean,
        log_scale,
        kl,
        np.asarray(codes),
        shown,
        _imputed(run, shown),
    )


def _imputed(run: Run, shown: Views) -> ImputedExamples | None:
    """Imputes the missing entries of the displayed test examples; None where no entry is missing."""
    if not np.isnan(shown.originals).any():
        return None
    vae, data = run.built.vae, run.built.data
    candidates = class_values(vae.likelihood, vae.data_shape) if vae.likelihood.groups else None
    settings = ImputationSettings(_NUM_IMPORTANCE_SAMPLES, candidates=candidates)
    rows = data.test[shown.places]
    imputed = impute_rows(vae, run.params, rows, data.eval_input, settings, run.built.config.test_seed)
    return ImputedExamples(shown.to_displayed(best_values(vae, imputed)), np.asarray(imputed.effective_sample_size))


def _summary_so_far(run: Run) -> Record:
    """Returns the content of summary.json for a run that has not finished, from the last epoch of its metrics."""
    last = next((line for line in run.metrics if line["epoch"] == run.epoch), {})
    return {
        **{name: last.get(name, float("nan")) for name in ("test_elbo", "test_log_likelihood", "test_kl")},
        "test_elbo_standard_error": last.get("test_elbo_standard_error", float("nan")),
        "num_test_examples": last.get("test_num_examples", 0),
        "status": "not finished",
        "epochs": run.epoch,
        "train_examples_per_second": last.get("train_examples_per_second"),
        "wall_seconds": last.get("wall_seconds", 0.0),
    }


def quantities(run: Run) -> list[Quantity]:
    """Returns the rows of the table at the top of the report."""
    summary = run.summary or _summary_so_far(run)
    return [*_test_results(run, summary), *_training(run, summary)]


def _test_results(run: Run, summary: Record) -> list[Quantity]:
    config, error, count = run.built.config, summary["test_elbo_standard_error"], summary["num_test_examples"]
    spread = (
        "There is one test example, so there is no standard error."
        if count == 1
        else f"± is the standard error over {count} test examples."
    )
    kl = "summed over latent dimensions."
    if run.as_trained().built.vae.prior is not None:
        uses_components = "prior_components" in settings_of("prior", config.prior)
        components = f" and has {config.prior_components} components" if uses_components else ""
        kl = f"where p(z) is learned{components}. It is estimated with the same draws of z as the ELBO."
    rows = [
        Quantity(
            "test ELBO",
            f"{summary['test_elbo']:z.3f}" + ("" if math.isnan(error) else f" ± {error:.3f}"),
            "nats per example",
            f"The test ELBO has β = 1 and uses one draw of z per example. {spread}",
        ),
        Quantity(
            "log-likelihood",
            f"{summary['test_log_likelihood']:z.3f}",
            "nats per example",
            f"The log-likelihood is E log p(x|z), summed over {_entries(run)}.",
        ),
        Quantity("KL", f"{summary['test_kl']:z.3f}", "nats per example", f"The KL is KL(q(z|x) ‖ p(z)), {kl}"),
    ]
    if (bits := test_bits_per_dim(run.built, summary["test_elbo"])) is not None:
        size, name = f"{math.prod(run.built.dataset.data_shape)}", "bits per dimension"
        if run.built.dataset.test_mask is not None:
            size, name = "n", "bits per observed entry"
        remark = f"{name.capitalize()} are −ELBO / ({size} log 2), an upper bound for the discrete data."
        if size == "n":
            remark += " n is the mean number of observed entries of a test example."
        rows.append(Quantity(name, f"{bits:z.4f}", "bits", remark))
    for key, name in (("log_scale", "learned scale"), ("log_dispersion", "learned dispersion")):
        if key in summary:
            values, num_learned = np.exp(summary[key]), len(run.built.vae.likelihood.shared_start)
            value = ", ".join(f"{value:.4f}" for value in values)
            if len(values) > _MOST_SHOWN:
                value = f"{values.min():.4g} to {values.max():.4g}, median {np.median(values):.4g}"
            extent = f"is shared by all {_entries(run)}"
            if num_learned > 1:  # whatever the setting is: "auto" may mean one for each column
                extent = f"has one value for each of {len(values)} {_columns(run)}"
            elif len(values) > 1:
                extent = f"is one learned number times the spread of each of {len(values)} {_columns(run)}"
            remark = f"The {name} belongs to the {run.built.vae.likelihood.name} likelihood and {extent}."
            if len(values) > _MOST_SHOWN:
                remark += f" All values are in summary.json, as natural logarithms ({key})."
            rows.append(Quantity(name, value, "", remark))
    return rows


def givens(run: Run) -> list[Quantity]:
    """Returns rows on the condition, the missing entries and the prior p(z|c); none for a model without them."""
    numbers, notation = facts(run.built), Notation.of(run.built)
    shares = {part: numbers.get(f"missing_share_of_{part}") for part in ("train", "test")}
    rows = [
        ("condition c", numbers.get("conditioned_on", ""), ""),
        ("missing entries, test", "" if shares["test"] is None else f"{100 * shares['test']:.2f} %", _entries(run)),
        ("missing entries, training", "" if shares["train"] is None else f"{100 * shares['train']:.2f} %", _entries(run)),
    ]
    rows = [row for row in rows if row[1]]
    if not rows:
        return []
    remarks = [*notation.explain(), *[""] * len(rows)]
    quantities = [Quantity(name, value, unit, remark) for (name, value, unit), remark in zip(rows, remarks, strict=False)]
    rest = " ".join(filter(None, remarks[len(rows) - 1 :]))
    return [*quantities[:-1], quantities[-1]._replace(remark=rest)]


def _entries(run: Run) -> str:
    """Returns the word for the entries of an example."""
    return {"image": "pixels", "series": "time steps and channels", "vector": "columns"}[
        displayed_kind(run.built.dataset.data_shape)
    ]


def _columns(run: Run) -> str:
    """Returns the word for the indices of the last axis of an example."""
    return "columns" if displayed_kind(run.built.dataset.data_shape) == "vector" else "channels"


def _refitted(run: Run) -> str:
    """Returns a remark on the prior that was fitted after training, or "" where there is none."""
    if run.refitted is None:
        return ""
    kind = "mixture of Gaussians" if run.refitted.record["kind"] == "mixture" else "RealNVP"
    return (
        f"A {kind} was fitted to the codes of the training set after training. Samples come from it. The test ELBO above is "
        "that of the prior of the training."
    )


def _training(run: Run, summary: Record) -> list[Quantity]:
    config, records = run.built.config, run.built.parts.records()
    rows = [
        Quantity("objective", describe_objective(config, records)),
        Quantity("likelihood", describe_part(config, "likelihood", records)),
        Quantity("prior", describe_prior(config, records), "", _refitted(run)),
        *([Quantity("optimizer", describe_part(config, "optimizer", records))] if config.optimizer == CUSTOM else []),
        Quantity("seed", str(config.seed)),
        Quantity("status", str(summary["status"])),
        Quantity("epochs", f"{summary['epochs']} of {config.epochs}"),
    ]
    if "best_epoch" in summary:
        remark = f"The validation ELBO after the best epoch is {summary['best_validation_elbo']:z.3f} nats."
        if (first := summary.get("validation_counted_from_epoch", 1)) > 1:
            stopping = "The best epoch and early stopping count" if config.early_stopping else "The best epoch counts"
            remark += f" {stopping} from epoch {first}, when every warm-up had ended."
        rows.append(Quantity("best epoch", str(summary["best_epoch"]), "", remark))
    if summary["train_examples_per_second"]:
        rows.append(Quantity("training speed", f"{summary['train_examples_per_second']:,.0f}", "examples per second"))
    remark = "The wall time includes training, evaluation and checkpoints."
    rows.append(Quantity("wall time", f"{summary['wall_seconds']:.1f}", "seconds", remark))
    return rows
