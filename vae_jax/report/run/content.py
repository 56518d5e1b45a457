"""Numbers, examples and codes of a trained model, computed once for the report of a run."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from vae_jax._numerics.keys import Stream, stream
from vae_jax._numerics.short_repr import short_repr
from vae_jax.build import Built
from vae_jax.config import Config
from vae_jax.divergences import kl_per_dimension
from vae_jax.evaluation import encode_dataset
from vae_jax.model import VAE, Params, sample_prior
from vae_jax.report.html import Quantity, Record
from vae_jax.report.run.events.panels import displayed_kind, displayed_shape
from vae_jax.runs import Run
from vae_jax.runs.in_words import describe_objective, describe_prior
from vae_jax.runs.summary_file import test_bits_per_dim

_NUM_SHOWN = 24  # test examples with their reconstructions
_NUM_SAMPLES = 64
_MANIFOLD_SIDE = 15  # tiles
_MOST_SHOWN = 4  # learned scales; of more, the range is shown
_MAX_POINTS, _MAX_NUMBERS = 1000, 10_000_000  # test examples and samples in figures of vectors, and their numbers in all


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
    views: "Views"  # the functions that made these examples


@short_repr
class Views(NamedTuple):
    """Test examples for display, and compiled functions of the parameters that make more of them on the same scale.

    Images are on [0, 1]. Series and vectors keep their numbers, and an image of one row or column becomes one of these.
    """

    originals: np.ndarray  # test examples as the model saw them
    stored: np.ndarray  # the same examples as stored in the dataset
    codes: Callable[[Params], jax.Array]  # params -> posterior means of the originals
    means: Callable[[Params, jax.Array], np.ndarray]  # (params, z (n, latent)) -> E[x|z]; given a total, the mean one
    # (params, z (n, latent), rows (n,)) -> E[x|z]; given a total, that of the original with this index
    means_like: Callable[[Params, jax.Array, np.ndarray], np.ndarray]
    to_displayed: Callable[[ArrayLike], np.ndarray]  # puts other examples on the same scale
    places: np.ndarray  # indices of the originals in the test set
    scale: str  # a sentence for captions that says what black and white are; starts with a space, or is empty
    # (params, keys (n,), z (n, latent), rows (n,)) -> draws of p(x|z); given a total, that of the original with this index
    samples: Callable[[Params, jax.Array, jax.Array, np.ndarray], np.ndarray]


def views(built: Built, count: int = _NUM_SHOWN, first: Sequence[int] = ()) -> Views:
    """Chooses test examples and returns them with the functions that encode and decode them for display.

    Args:
      built: model and data.
      count: number of test examples, spread evenly over the test set.
      first: indices of test examples that come before these.
    """
    vae, data = built.vae, built.data
    # Spread over the test set, because neighbors are often alike (video frames, sorted classes).
    spread = np.linspace(0, len(data.test) - 1, min(count, len(data.test))).round()
    index = np.array([*first, *spread], int)
    x = data.eval_input(data.test[index])
    encode = jax.jit(jax.vmap(vae.encode, in_axes=(None, 0)))
    mean = jax.jit(jax.vmap(lambda params, z: vae.likelihood.mean(vae.decode(params, z)), in_axes=(None, 0)))
    sample = jax.jit(jax.vmap(lambda params, key, z: vae.likelihood.sample(key, vae.decode(params, z)), in_axes=(None, 0, 0)))
    means_like = lambda params, z, rows: mean(params, z)  # noqa: E731
    samples_like = lambda params, keys, z, rows: sample(params, keys, z)  # noqa: E731
    if (given := vae.likelihood.mean_given) and (draw_given := vae.likelihood.sample_given):
        mean_given = jax.jit(jax.vmap(lambda params, z, x: given(vae.decode(params, z), x), in_axes=(None, 0, 0)))
        in_axes = (None, 0, 0, 0)
        sample_given = jax.jit(jax.vmap(lambda params, key, z, x: draw_given(key, vae.decode(params, z), x), in_axes=in_axes))
        means_like = lambda params, z, rows: mean_given(params, z, x[rows])  # noqa: E731
        samples_like = lambda params, keys, z, rows: sample_given(params, keys, z, x[rows])  # noqa: E731
    to_displayed, scale = _display(built, x)
    stored = np.asarray(built.dataset.images(built.dataset.test[index]))
    top = built.dataset.max_level
    if top and (displayed_kind(built.dataset.data_shape) == "image" or vae.likelihood.support != "counts"):
        stored = to_displayed.reshape(stored / top)
    else:
        stored = to_displayed(stored)
    return Views(
        to_displayed(x),
        stored,
        lambda params: encode(params, x)[0],
        lambda params, z: to_displayed(mean(params, z)),
        lambda params, z, rows: to_displayed(means_like(params, z, rows)),
        to_displayed,
        index,
        scale,
        lambda params, keys, z, rows: to_displayed(samples_like(params, keys, z, rows)),
    )


class _Display(NamedTuple):
    """Maps the numbers that the model sees to those that are drawn, (x - low) / (high - low), in the displayed shape."""

    low: float
    high: float
    shape: tuple[int, ...]

    def __call__(self, x: ArrayLike) -> np.ndarray:
        return self.reshape((np.asarray(x, np.float64) - self.low) / max(self.high - self.low, 1e-12))

    def reshape(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), *self.shape)


def _display(built: Built, x: jax.Array) -> tuple[_Display, str]:
    """Returns the display of examples like x, and a sentence for captions about black and white."""
    dataset, support = built.dataset, built.vae.likelihood.support
    shape = displayed_shape(dataset.data_shape)
    if len(shape) < 3:
        return _Display(0.0, 1.0, shape), ""
    low, high = 0.0, 1.0
    if support == "counts":
        high = float(x.max())
    elif dataset.max_level is None:
        low, high = float(x.min()), float(x.max())
    return _Display(low, high, shape), _describe_scale(built, low, high, shape[-1])


def _describe_scale(built: Built, low: float, high: float, channels: int) -> str:
    """Says which values are black and white where that is not obvious, and which channels are left out."""
    text = "" if channels in (1, 3) else f" Only the first of {channels} channels is shown."
    if built.dataset.max_level is None or built.vae.likelihood.support == "counts":
        kind = "largest count" if built.vae.likelihood.support == "counts" else "range"
        ends = f"Black is {low:z.4g} and white is {high:z.4g}".replace("-", "−")
        return f"{text} {ends}, the {kind} of the test images shown. Values beyond are clipped."
    if built.vae.likelihood.support == "real":
        return f"{text} Black is 0 and white is the highest level. Means and draws beyond are clipped."
    return text


def reconstructions(built: Built, params: Params) -> tuple[np.ndarray, np.ndarray]:
    """Returns test examples as stored, and E[x|z] at their posterior means, both as they are displayed."""
    shown = views(built, num_shown(built))
    codes = shown.codes(params)
    return shown.stored, shown.means_like(params, codes, np.arange(len(codes)))


def num_shown(built: Built) -> int:
    """Returns the number of test examples for the figures: up to a thousand vectors, for histograms."""
    if displayed_kind(built.dataset.data_shape) != "vector":
        return _NUM_SHOWN
    return max(_NUM_SHOWN, min(_MAX_POINTS, _MAX_NUMBERS // math.prod(built.dataset.data_shape)))


class Totals(NamedTuple):
    """Sentences for captions about the total of x, all empty unless the likelihood is given it. They start with a space."""

    reconstructed: str = ""  # for reconstructions
    sampled: str = ""  # for draws from the prior
    mean: str = ""  # for traversals and interpolations


def total_captions(built: Built) -> Totals:
    """Returns the sentences for captions that say which total of x the likelihood is given."""
    if built.vae.likelihood.mean_given is None:
        return Totals()
    return Totals(
        " The likelihood is given the total of each example, so E[x|z] is that of an example with the total of x.",
        " The likelihood is given a total, which is that of one of the test examples for each z.",
        " E[x|z] is that of an example with the mean total of the training data.",
    )


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
    )


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
    return [*_test_results(run, summary), *_training(run.built.config, summary)]


def _test_results(run: Run, summary: Record) -> list[Quantity]:
    config, error, count = run.built.config, summary["test_elbo_standard_error"], summary["num_test_examples"]
    spread = (
        "There is one test example, so there is no standard error."
        if count == 1
        else f"± is the standard error over {count} test examples."
    )
    kl = "summed over latent dimensions."
    if config.prior != "normal":
        components = config.prior_components
        kl = f"where p(z) is learned and has {components} components. It is estimated with the same draws of z as the ELBO."
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
        size = math.prod(run.built.dataset.data_shape)
        remark = f"Bits per dimension are −ELBO / ({size} log 2), an upper bound for the discrete data."
        rows.append(Quantity("bits per dimension", f"{bits:z.4f}", "bits", remark))
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
            remark = f"The {name} belongs to the {config.likelihood} likelihood and {extent}."
            if len(values) > _MOST_SHOWN:
                remark += f" All values are in summary.json, as natural logarithms ({key})."
            rows.append(Quantity(name, value, "", remark))
    return rows


def _entries(run: Run) -> str:
    """Returns the word for the entries of an example."""
    return {"image": "pixels", "series": "time steps and channels", "vector": "columns"}[
        displayed_kind(run.built.dataset.data_shape)
    ]


def _columns(run: Run) -> str:
    """Returns the word for the indices of the last axis of an example."""
    return "columns" if displayed_kind(run.built.dataset.data_shape) == "vector" else "channels"


def _training(config: Config, summary: Record) -> list[Quantity]:
    rows = [
        Quantity("objective", describe_objective(config)),
        Quantity("likelihood", config.likelihood),
        Quantity("prior", describe_prior(config)),
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
