"""What a report shows of a run, computed once: numbers, images, codes."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax._numerics.keys import Stream, stream
from vae_jax._numerics.short_repr import short_repr
from vae_jax.build import Built
from vae_jax.config import Config
from vae_jax.divergences import kl_per_dimension
from vae_jax.evaluation import encode_dataset
from vae_jax.model import VAE, sample_prior
from vae_jax.runs import Run
from vae_jax.runs.in_words import describe_objective
from vae_jax.runs.summary_file import test_bits_per_dim

_SHOWN = 24  # test images with their reconstructions
_SAMPLES = 64
_SIDE = 15  # of the manifold


@short_repr
class Pictures(NamedTuple):
    """Images in [0, 1], (n, height, width, channels), and codes."""

    originals: np.ndarray
    reconstructions: np.ndarray  # E[x|z] at the posterior mean
    prior_means: np.ndarray  # E[x|z], z ~ p(z)
    prior_samples: np.ndarray  # x ~ p(x|z), z ~ p(z)
    manifold: np.ndarray | None  # E[x|z] over a grid of prior quantiles; for two latent dimensions
    posterior_means: np.ndarray  # (examples, latent)
    posterior_log_scales: np.ndarray  # (examples, latent)
    kl_per_dimension: np.ndarray  # (latent,), mean over the test set
    codes: np.ndarray  # posterior means of the originals
    views: "Views"  # what made them


@short_repr
class Views(NamedTuple):
    """Images of a model on [0, 1], as functions of its parameters: compiled once for all of them."""

    originals: np.ndarray  # test images as the model saw them
    stored: np.ndarray  # the same as the data set has them
    codes: Callable[[Any], jax.Array]  # params -> posterior means of the originals
    means: Callable[[Any, jax.Array], np.ndarray]  # (params, z (n, latent)) -> E[x|z]
    shown: Callable[[Any], np.ndarray]  # puts other images on the same scale
    places: np.ndarray  # of the originals in the test set
    scale: str  # what black and white are, and which channels are left out: for captions, with a space in front


def views(built: Built, count: int = _SHOWN, first: Sequence[int] = ()) -> Views:
    """How test images, those numbered in `first` and then `count` of all, and whatever is decoded, are shown."""
    vae, data = built.vae, built.data
    # Spread over the test set: neighbours are often alike (video frames, sorted classes).
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

    def shown(images: Any) -> np.ndarray:
        return (np.asarray(images, np.float64) - low) / max(high - low, 1e-12)

    stored = np.asarray(built.dataset.images(built.dataset.test[index]))
    channels = built.dataset.data_shape[-1] if len(built.dataset.data_shape) == 3 else 1
    return Views(
        shown(x),
        stored / built.dataset.max_level if built.dataset.max_level else shown(stored),
        lambda params: encode(params, x)[0],
        lambda params, z: shown(mean(params, z)),
        shown,
        index,
        _scale_words(built, low, high, channels),
    )


def _scale_words(built: Built, low: float, high: float, channels: int) -> str:
    """Says which values are black and white, where the model knows others, and which channels are not shown."""
    words = "" if channels in (1, 3) else f" Of {channels} channels the first is shown."
    if built.dataset.max_level is None or built.vae.likelihood.support == "counts":
        which = "largest count" if built.vae.likelihood.support == "counts" else "range"
        ends = f"Black is {low:z.4g} and white {high:z.4g}".replace("-", "−")
        return f"{words} {ends}, the {which} of the test images shown; others are cut there."
    if built.vae.likelihood.support == "real":
        return f"{words} Black is 0 and white the highest level; means and draws beyond are cut there."
    return words


def reconstructions(built: Built, params: Any) -> tuple[np.ndarray, np.ndarray]:
    """Some test images as stored, and E[x|z] at the posterior means of what the model saw of them; on [0, 1]."""
    seen = views(built)
    return seen.stored, seen.means(params, seen.codes(params))


def prior_codes(vae: VAE, params: Any, key: jax.Array, count: int) -> jax.Array:
    """Draws of z from the prior, (count, latent); from N(0, I) the same ones for all parameters."""
    if vae.prior is None:
        return jax.random.normal(key, (count, vae.latent_dim))
    return jax.vmap(lambda key: sample_prior(vae, params, key))(jax.random.split(key, count))


def posteriors(built: Built, params: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mean, log_scale) of q(z|x) for the test set, each (examples, latent), and the mean KL of each dimension to N(0, 1)."""

    @jax.jit
    def encode(params: Any, test: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        mean, log_scale = encode_dataset(built.vae, params, test, to_input=built.data.eval_input)
        return mean, log_scale, jnp.mean(jax.vmap(kl_per_dimension)(mean, log_scale), axis=0)

    mean, log_scale, kl = (np.asarray(values) for values in encode(params, built.data.test))
    return mean, log_scale, kl


def pictures(run: Run) -> Pictures:
    """Runs the trained model forwards for the figures; the same draws each time."""
    vae, params = run.built.vae, run.params
    mean, log_scale, kl = posteriors(run.built, params)
    sample = jax.jit(jax.vmap(lambda key, z: vae.likelihood.sample(key, vae.decode(params, z))))
    key_z, key_x = jax.random.split(stream(run.built.config.test_seed, Stream.REPORT_SAMPLES))
    z, seen = prior_codes(vae, params, key_z, _SAMPLES), views(run.built)
    manifold = None
    if vae.latent_dim == 2 and vae.prior is None:
        quantiles = jax.scipy.stats.norm.ppf((jnp.arange(_SIDE) + 0.5) / _SIDE)
        across, down = jnp.meshgrid(quantiles, -quantiles)
        manifold = seen.means(params, jnp.stack([across.ravel(), down.ravel()], axis=-1))
    codes = seen.codes(params)
    return Pictures(
        seen.originals,
        seen.means(params, codes),
        seen.means(params, z),
        seen.shown(sample(jax.random.split(key_x, _SAMPLES), z)),
        manifold,
        mean,
        log_scale,
        kl,
        np.asarray(codes),
        seen,
    )


def _kl_words(config: Config) -> str:
    if config.prior == "normal":
        return ", summed over latent dimensions"
    return f"; p(z) is learned, of {config.prior_components} components, and the KL estimated with the draws of z"


def numbers(run: Run) -> list[tuple[str, str, str]]:
    """Rows of (name, value, remark) for the table at the top."""
    config = run.built.config
    last = next((line for line in run.metrics if line["epoch"] == run.epoch), {})  # of the parameters shown
    summary = run.summary or {
        **{name: last.get(name, float("nan")) for name in ("test_elbo", "test_log_likelihood", "test_kl")},
        "test_elbo_standard_error": last.get("test_elbo_standard_error", float("nan")),
        "num_test_examples": last.get("test_num_examples", 0),
        "status": "not finished",
        "epochs": run.epoch,
        "train_examples_per_second": last.get("train_examples_per_second"),
        "wall_seconds": last.get("wall_seconds", 0.0),
    }
    error = summary["test_elbo_standard_error"]
    count = summary["num_test_examples"]
    over = "one test example" if count == 1 else f"± standard error over {count} test examples"
    rows = [
        (
            "test ELBO",
            f"{summary['test_elbo']:z.3f}" + ("" if math.isnan(error) else f" ± {error:.3f}"),
            f"nats per example, β = 1, one draw of z per example; {over}",
        ),
        ("log-likelihood", f"{summary['test_log_likelihood']:z.3f}", "E log p(x|z), nats per example, summed over pixels"),
        ("KL", f"{summary['test_kl']:z.3f}", f"KL(q(z|x) ‖ p(z)), nats per example{_kl_words(config)}"),
    ]
    if (bits := test_bits_per_dim(run.built, summary["test_elbo"])) is not None:
        pixels = math.prod(run.built.dataset.data_shape)
        rows.append(("bits per dimension", f"{bits:z.4f}", f"−ELBO / ({pixels} log 2): an upper bound, of the discrete data"))
    for key, name in (("log_scale", "learned scale"), ("log_dispersion", "learned dispersion")):
        if key in summary:
            value = ", ".join(f"{np.exp(value):.4f}" for value in summary[key])
            rows.append((name, value, f"of the {config.likelihood} likelihood, shared by all pixels"))
    rows += [
        ("trained on", describe_objective(config), f"{config.likelihood}, seed {config.seed}"),
        ("epochs", f"{summary['epochs']} of {config.epochs}", str(summary["status"])),
    ]
    if "best_epoch" in summary:
        remark = f"validation ELBO {summary['best_validation_elbo']:z.3f}"
        if (first := summary.get("validation_counted_from_epoch", 1)) > 1:
            stopping = "best epoch and early stopping" if config.early_stopping else "best epoch"
            remark += f"; {stopping} counted from epoch {first}, when every warm-up had ended"
        rows.append(("best epoch", str(summary["best_epoch"]), remark))
    if summary["train_examples_per_second"]:
        rows.append(("training speed", f"{summary['train_examples_per_second']:,.0f}", "examples per second"))
    rows.append(("wall time", f"{summary['wall_seconds']:.1f} s", "training, evaluation and checkpoints"))
    return rows
