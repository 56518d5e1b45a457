"""summary.json: the result of a run, in nats per example at beta = 1."""

import json
import math

import jax
import numpy as np

from vae_jax.build import Built
from vae_jax.config import settings_of
from vae_jax.evaluation import bits_per_dim, encode_dataset
from vae_jax.evaluation.posterior_collapse import active_units, collapse
from vae_jax.likelihoods import DISCRETE
from vae_jax.model import Params, num_parameters
from vae_jax.runs.notation import facts
from vae_jax.storage.atomic import JsonObject
from vae_jax.storage.directories import PathLike, as_path
from vae_jax.training import Fit

_MEANS = ("test_elbo", "test_log_likelihood", "test_kl", "test_elbo_standard_error")
_NUMBERS = (*_MEANS, "train_examples_per_second", "epochs", "steps", "wall_seconds", "num_test_examples")


def summarize(built: Built, fit: Fit, num_used: int, wall_seconds: float) -> JsonObject:
    """Returns the content of summary.json.

    Args:
      built: data and model of the run.
      fit: result of `training.fit`.
      num_used: training examples that were used in each epoch.
      wall_seconds: duration of the run, all of its processes included.
    """
    history = fit.progress.history
    seconds = sum(epoch.seconds for epoch in history)
    test = fit.test if fit.epoch else None  # None: the run diverged in its first epoch
    summary: JsonObject = {
        "status": fit.status,
        "test_elbo": test and test.elbo,
        "test_log_likelihood": test and test.log_likelihood,
        "test_kl": test and test.kl,
        "test_elbo_standard_error": test and test.elbo_standard_error,
        "num_test_examples": len(built.dataset.test),
        "num_parameters": num_parameters(built.vae),
        "unit": "nats per example, beta = 1",
        "beta": built.config.beta,
        "seed": built.config.seed,
        "epochs": len(history),
        "evaluated_epoch": fit.epoch,
        "steps": int(fit.progress.state.step),
        "train_examples_per_second": num_used * len(history) / seconds if seconds else None,
        "wall_seconds": wall_seconds,
    }
    if test and (bits := test_bits_per_dim(built, test.elbo)) is not None:
        summary["test_bits_per_dim"] = bits
    if test:
        summary |= _code_usage(built, fit.params)
    summary |= facts(built)
    if built.data.log_jacobian:
        summary["log_jacobian"] = built.data.log_jacobian
    if built.vae.likelihood.shared_start:
        name = "log_dispersion" if "dispersion" in settings_of("likelihood", built.config.likelihood) else "log_scale"
        summary[name] = [float(value) for value in built.vae.likelihood.shared_values(fit.params["likelihood"])]
    if built.data.validation is not None:
        # In earlier epochs a schedule had not ended, so they counted neither for the best nor for early stopping.
        summary["validation_counted_from_epoch"] = fit.first_epoch
    if int(fit.progress.best.epoch):
        summary |= {"best_epoch": int(fit.progress.best.epoch), "best_validation_elbo": float(fit.progress.best.elbo)}
    if fit.problem is not None:
        summary["problem"] = fit.problem
    if fit.status == "diverged":
        summary["diverged_at_step"] = int(fit.progress.state.step)
    return summary


def _code_usage(built: Built, params: Params) -> JsonObject:
    """Returns the number of active units and the collapsed units, measured on the test set."""
    encode = jax.jit(lambda params, test: encode_dataset(built.vae, params, test, to_input=built.data.eval_input))
    mean, log_scale = encode(params, built.data.test)
    usage: JsonObject = {"latent_dim": built.vae.latent_dim, "active_units": int(active_units(mean))}
    if built.vae.prior is None:
        usage["collapsed_units"] = np.flatnonzero(collapse(mean, log_scale).collapsed).tolist()
    return usage


def test_bits_per_dim(built: Built, test_elbo: float) -> float | None:
    """Returns the bound -ELBO in bits per dimension for discrete data, and None for densities, for which it is undefined.

    With missing entries it is in bits per observed entry: the nats of all test examples over the number of their observed
    entries. It is None where no entry is observed.
    """
    if not (built.vae.likelihood.support in DISCRETE or built.data.log_jacobian):
        return None
    if (mask := built.dataset.test_mask) is None:
        return bits_per_dim(test_elbo, math.prod(built.dataset.data_shape))
    observed = int(np.count_nonzero(mask))
    return bits_per_dim(test_elbo, observed / len(mask)) if observed else None


def read_summary(path: PathLike) -> JsonObject | None:
    """Reads summary.json of a run directory.

    Returns:
      None if the file does not exist yet or was altered; resuming the run writes it again. Means that were not finite are
      null in the file and NaN here.
    """
    path = as_path(path)
    try:
        summary = json.loads((path / "summary.json").read_text())
        whole = isinstance(summary["status"], str) and all(isinstance(summary[name], int | float | None) for name in _NUMBERS)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return {**summary, **{name: math.nan for name in _MEANS if summary[name] is None}} if whole else None
