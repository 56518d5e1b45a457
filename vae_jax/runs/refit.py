"""`refit_prior`: fits a prior to the aggregate posterior of a trained run, and saves it with the run."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_jax._numerics.keys import Stream, stream
from vae_jax.build import Built, PartOptions
from vae_jax.config import Config
from vae_jax.data import Dataset
from vae_jax.errors import UserError, unknown
from vae_jax.evaluation.dataset_means import standard_error
from vae_jax.evaluation.refitting import Kind, Progress, fit_mixture, fit_realnvp, split_draws
from vae_jax.example import Examples
from vae_jax.model import VAE, Params, posterior_params, prior_log_prob
from vae_jax.posteriors import DIAGONAL, posterior_log_prob
from vae_jax.runs.config_file import versions
from vae_jax.runs.directory import load_run
from vae_jax.runs.trained.refitted_file import PART, params_sha256, with_prior, write_refitted
from vae_jax.runs.trained.training_scores import training_scores
from vae_jax.storage.atomic import JsonObject
from vae_jax.storage.directories import PathLike, as_path, exclusive

KINDS: tuple[Kind, ...] = ("mixture", "realnvp")
_MAX_EXAMPLES, _MAX_DRAWS = 50_000, 20  # training examples, and draws of each where there are fewer
_PART = 1000  # training examples that are read and encoded at once


class RefitOptions(NamedTuple):
    """A family of priors and its size."""

    kind: Kind = "mixture"  # of Gaussians with full covariances, or "realnvp"
    max_components: int = 50  # of the mixture
    num_layers: int = 6  # couplings of the RealNVP
    hidden: tuple[int, ...] = (100, 100)  # widths of the perceptrons of its couplings

    @classmethod
    def from_config(cls, config: Config) -> "RefitOptions":
        """Returns the options that a configuration with `prior="refit"` names."""
        return cls(config.refit_kind, config.prior_components, config.prior_layers, config.prior_hidden)


def refit_prior(
    path: PathLike,
    options: RefitOptions = RefitOptions(),  # noqa: B008 (a NamedTuple cannot be changed)
    *,
    data_dir: str | None = None,
    dataset: Dataset | None = None,
    progress: Progress = lambda name, done, total: None,
    **parts: Unpack[PartOptions],
) -> JsonObject:
    """Fits a prior to the aggregate posterior of a run's training set, and writes it to prior.safetensors of the run directory.

        q(z) = 1/N sum_n q(z|x_n)

    Encoder and decoder stay as they are. The ELBO rises by what the marginal KL falls, E log p_new(z) - log p_old(z) over q(z),
    and log p(x) by about as much. The number of components, or of epochs, is the best one for a tenth of the examples, which is
    held out. A mixture is fitted to at most 20,000 draws, and a RealNVP to those of at most 50,000 examples. From then
    on `load_run` and `load_model` read the model with this prior, and with them evaluation, scores, samples and reports.
    Removing the file brings the prior of the training back.

    Args:
      path: the run directory. Its prior may be N(0, I) or a learned one.
      options: the family of the prior and its size.
      data_dir, dataset, **parts: see `load_run`.
      progress: called with what is fitted, the steps done and the steps in all.

    Returns:
      The record in the file: the size of the prior, the held-out log-likelihoods by size, and `marginal_kl_gain` in nats with
      its standard error over the held-out examples.

    Raises:
      UserError: an unknown kind, a prior with auxiliary dimensions, or too few training examples.

    Source:
      Hoffman & Johnson (2016), for the marginal KL. Ghosh et al. (2020) fit a mixture after training in this way.
    """
    if options.kind not in KINDS:
        raise unknown("kind", options.kind, KINDS)
    path = as_path(path)
    run = load_run(path, data_dir=data_dir, dataset=dataset, **parts)
    vae = run.built.vae if run.refitted is None else run.refitted.trained_vae
    check_refit(vae, options)
    with exclusive(path):
        return refit_model(path, run.built._replace(vae=vae), run.params, run.epoch, options, progress)


def check_refit(vae: VAE, options: RefitOptions) -> None:
    """Raises `UserError` for a model whose prior cannot be fitted."""
    if vae.prior is not None and vae.prior.num_auxiliary:
        raise UserError(
            f"the prior {vae.prior.name!r} has {vae.prior.num_auxiliary} latent dimensions of its own, which q(z|x) does not "
            "determine, so none can be fitted to q(z).",
            field="prior",
            fix='Train with `prior="normal"`.',
        )
    if options.kind == "realnvp" and vae.latent_dim < 2:
        raise UserError("a RealNVP needs two latent dimensions, and the model has 1.", field="kind", fix="Fit a mixture.")


def refit_model(
    path: Path,
    built: Built,
    params: Params,
    epoch: int,
    options: RefitOptions,
    progress: Progress = lambda name, done, total: None,
) -> JsonObject:
    """Fits a prior to a trained model and writes prior.safetensors into its directory; see `refit_prior`."""
    seed = built.config.seed
    draws = split_draws(_draw_codes(built, params), seed)
    if options.kind == "mixture":
        fitted = fit_mixture(draws, options.max_components, seed, progress)
        sizes: JsonObject = {"num_components": fitted.size}
    else:
        fitted = fit_realnvp(draws, options.num_layers, options.hidden, seed, progress=progress)
        sizes = {"num_layers": options.num_layers, "hidden": list(options.hidden), "num_epochs": fitted.size}
    trained = {name: value for name, value in params.items() if name != PART}
    vae, refitted = with_prior(built.vae, trained, fitted.prior, fitted.params)
    gain, error = _gain(built.vae, vae, refitted, draws.held_out, draws.num_draws)
    record: JsonObject = {
        "kind": options.kind,
        "latent_dim": vae.latent_dim,
        **sizes,
        "held_out_log_prob": {str(size): value for size, value in fitted.held_out.items()},
        "num_draws": fitted.num_draws,
        "num_held_out_draws": len(draws.held_out),
        "marginal_kl_gain": gain,
        "marginal_kl_gain_standard_error": error,
        "seed": seed,
        "epoch": epoch,
        "parameters_sha256": params_sha256(trained),
        "scores": training_scores(built._replace(vae=vae), refitted),
        "versions": versions(),
    }
    write_refitted(path, record, fitted.params)
    return record


def _draw_codes(built: Built, params: Params) -> np.ndarray:
    """Returns draws from q(z|x) of training examples, (examples, draws, latent)."""
    vae, data, num_train = built.vae, built.data, len(built.dataset.train)
    posterior = vae.posterior or DIAGONAL
    index = np.arange(num_train)
    if num_train > _MAX_EXAMPLES:
        index = np.sort(np.random.default_rng(built.config.seed).choice(num_train, _MAX_EXAMPLES, replace=False))
    num_draws = min(max(1, _MAX_EXAMPLES // num_train), _MAX_DRAWS)
    size = min(_PART, len(index))

    @jax.jit
    def draw(params: Params, key: Array, rows: Examples) -> Array:
        key_input, key_z = jax.random.split(key)
        x = data.train_input(key_input, rows)

        def one(key: Array, x: Examples) -> Array:
            q = posterior_params(vae, params, x)
            return jax.vmap(lambda key: posterior.sample(key, q))(jax.random.split(key, num_draws))

        return jax.vmap(one)(jax.random.split(key_z, size), x)

    codes = np.empty((len(index), num_draws, vae.latent_dim), np.float32)
    key = stream(built.config.seed, Stream.REFIT)
    for first in range(0, len(index), size):
        start = min(first, len(index) - size)  # the last part overlaps with the one before, so that one program serves all
        rows = jax.tree.map(jnp.asarray, data.train_rows(jnp.asarray(index[start : start + size])))
        codes[start : start + size] = draw(params, jax.random.fold_in(key, start), rows)
    return codes


def log_prior_gain(trained: VAE, refitted: VAE, params: Params) -> Callable[[Array], Array]:
    """Returns z -> log p_new(z) - log p_old(z) in nats, whose mean over q(z) is what the ELBO gains.

    Args:
      trained: the model with the prior of its training.
      refitted: the model with the refitted prior.
      params: of `refitted`.
    """
    old, new = prior_log_prob(trained, params), prior_log_prob(refitted, params)
    assert new is not None
    standard = lambda z: posterior_log_prob(jnp.zeros_like(z), jnp.zeros_like(z), z)  # noqa: E731
    return lambda z: new(z) - (old or standard)(z)


def _gain(trained: VAE, refitted: VAE, params: Params, held_out: np.ndarray, num_draws: int) -> tuple[float, float]:
    """Returns the mean gain over the held-out draws, and its standard error over their examples."""
    gains = jax.jit(lambda params, z: jax.lax.map(log_prior_gain(trained, refitted, params), z, batch_size=_PART))
    values = np.asarray(gains(params, jnp.asarray(held_out)), np.float64).reshape(-1, num_draws).mean(axis=1)
    return float(values.mean()), standard_error(values)
