"""Numbers, images and codes of a trained model, computed once for the report of a run."""

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
from vae_jax.runs import Run
from vae_jax.runs.in_words import describe_objective
from vae_jax.runs.summary_file import test_bits_per_dim

_NUM_SHOWN = 24  # test images with their reconstructions
_NUM_SAMPLES = 64
_MANIFOLD_SIDE = 15  # tiles
_MOST_SHOWN = 16  # learned scales; of more, the range is shown


@short_repr
class Pictures(NamedTuple):
    """Images in [0, 1], each (n, height, width, channels), and the codes of the test set."""

    originals: np.ndarray
    reconstructions: np.ndarray  # E[x|z] at the posterior mean
    prior_means: np.ndarray  # E[x|z], z ~ p(z)
    prior_samples: np.ndarray  # x ~ p(x|z), z ~ p(z)
    manifold: np.ndarray | None  # E[x|z] over a grid of prior quantiles; for two latent dimensions
    posterior_means: np.ndarray  # (examples, latent)
    posterior_log_scales: np.ndarray  # (examples, latent)
    kl_per_dimension: np.ndarray  # (latent,), mean over the test set
    codes: np.ndarray  # posterior means of the originals
    views: "Views"  # the functions that made these images


@short_repr
class Views(NamedTuple):
    """Test images on [0, 1], and compiled functions of the parameters that make more images on the same scale."""

    originals: np.ndarray  # test images as the model saw them
    stored: np.ndarray  # the same images as stored in the dataset
    codes: Callable[[Params], jax.Array]  # params -> posterior means of the originals
    means: Callable[[Params, jax.Array], np.ndarray]  # (params, z (n, latent)) -> E[x|z]
    to_unit_interval: Callable[[ArrayLike], np.ndarray]  # puts other images on the same scale
    places: np.ndarray  # indices of the originals in the test set
    scale: str  # a sentence for captions that says what black and white are; starts with a space, or is empty


def views(built: Built, count: int = _NUM_SHOWN, first: Sequence[int] = ()) -> Views:
    """Chooses test images and returns them with the functions that encode and decode them for display.

    Args:
      built: model and data.
      count: number of test images, spread evenly over the test set.
      first: indices of test images that come before these.
    """
    vae, data = built.vae, built.data
    # Spread over the test set, because neighbors are often alike (video frames, sorted classes).
    spread = np.linspace(0, len(data.test) - 1, min(count, len(data.test))).round()
    index = np.array([*first, *spread], int)
    x = data.eval_input(data.test[index])
    encode = jax.jit(jax.vmap(vae.encode, in_axes=(None, 0)))
    mean = jax.jit(jax.vmap(lambda params, z: vae.likelihood.mean(vae.decode(params, z)), in_axes=(None, 0)))
    low, high = 0.0, 1.0
    if vae.likelihood.support == "counts":
        high = float(x.max())
    elif built.dataset.max_level is None:
        low, high = float(x.min()), float(x.max())

    def to_unit_interval(images: ArrayLike) -> np.ndarray:
        return (np.asarray(images, np.float64) - low) / max(high - low, 1e-12)

    stored = np.asarray(built.dataset.images(built.dataset.test[index]))
    channels = built.dataset.data_shape[-1] if len(built.dataset.data_shape) == 3 else 1
    return Views(
        to_unit_interval(x),
        stored / built.dataset.max_level if built.dataset.max_level else to_unit_interval(stored),
        lambda params: encode(params, x)[0],
        lambda params, z: to_unit_interval(mean(params, z)),
        to_unit_interval,
        index,
        _describe_scale(built, low, high, channels),
    )


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
    """Returns test images as stored, and E[x|z] at their posterior means, both on [0, 1]."""
    shown = views(built)
    return shown.stored, shown.means(params, shown.codes(params))


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
    """Computes the images of the report. Random draws depend on the run's test seed alone, so they repeat."""
    vae, params = run.built.vae, run.params
    mean, log_scale, kl = posteriors(run.built, params)
    sample = jax.jit(jax.vmap(lambda key, z: vae.likelihood.sample(key, vae.decode(params, z))))
    key_z, key_x = jax.random.split(stream(run.built.config.test_seed, Stream.REPORT_SAMPLES))
    z, shown = prior_codes(vae, params, key_z, _NUM_SAMPLES), views(run.built)
    manifold = None
    if vae.latent_dim == 2 and vae.prior is None:
        quantiles = jax.scipy.stats.norm.ppf((jnp.arange(_MANIFOLD_SIDE) + 0.5) / _MANIFOLD_SIDE)
        across, down = jnp.meshgrid(quantiles, -quantiles)
        manifold = shown.means(params, jnp.stack([across.ravel(), down.ravel()], axis=-1))
    codes = shown.codes(params)
    return Pictures(
        shown.originals,
        shown.means(params, codes),
        shown.means(params, z),
        shown.to_unit_interval(sample(jax.random.split(key_x, _NUM_SAMPLES), z)),
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
            "The log-likelihood is E log p(x|z), summed over pixels.",
        ),
        Quantity("KL", f"{summary['test_kl']:z.3f}", "nats per example", f"The KL is KL(q(z|x) ‖ p(z)), {kl}"),
    ]
    if (bits := test_bits_per_dim(run.built, summary["test_elbo"])) is not None:
        pixels = math.prod(run.built.dataset.data_shape)
        remark = f"Bits per dimension are −ELBO / ({pixels} log 2), an upper bound for the discrete data."
        rows.append(Quantity("bits per dimension", f"{bits:z.4f}", "bits", remark))
    for key, name in (("log_scale", "learned scale"), ("log_dispersion", "learned dispersion")):
        if key in summary:
            values, columns = np.exp(summary[key]), getattr(config, key.removeprefix("log_"), "") == "per_column"
            value = ", ".join(f"{value:.4f}" for value in values)
            if len(values) > _MOST_SHOWN:
                value = f"{values.min():.4f} to {values.max():.4f}, median {np.median(values):.4f}"
            extent = "has one value for each column or channel" if columns else "is shared by all pixels"
            remark = f"The {name} belongs to the {config.likelihood} likelihood and {extent}."
            rows.append(Quantity(name, value, "", remark))
    return rows


def _training(config: Config, summary: Record) -> list[Quantity]:
    rows = [
        Quantity("objective", describe_objective(config)),
        Quantity("likelihood", config.likelihood),
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
