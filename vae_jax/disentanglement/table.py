"""All disentanglement metrics of one model in one flat table."""

import math
from collections.abc import Callable, Collection

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key

from vae_jax.disentanglement.classifiers import dci, explicitness, sap
from vae_jax.disentanglement.draws import draw_rows
from vae_jax.disentanglement.fixed_factor import beta_vae_score, factor_vae_score
from vae_jax.disentanglement.mutual_information import average_mutual_information, mig, modularity
from vae_jax.disentanglement.settings import PUBLISHED, Codes, Labels, Settings, check_pair, check_settings
from vae_jax.disentanglement.unsupervised import gaussian_total_correlation, gaussian_wasserstein_correlation
from vae_jax.errors import unknown

Scores = dict[str, float]


def _mig(key: Array, codes: Codes, factors: Labels, settings: Settings) -> Scores:
    rows = draw_rows(key, len(codes), settings).train
    return {"mig": mig(codes[rows], factors[rows], settings.num_bins).score}


def _modularity(key: Array, codes: Codes, factors: Labels, settings: Settings) -> Scores:
    rows = draw_rows(key, len(codes), settings).train
    return {"modularity": modularity(codes[rows], factors[rows], settings.num_bins)}


def _dci(key: Array, codes: Codes, factors: Labels, settings: Settings) -> Scores:
    scores = dci(key, codes, factors, settings)
    return {
        "dci_disentanglement": scores.disentanglement,
        "dci_completeness": scores.completeness,
        "dci_informativeness": scores.informativeness,
    }


def _unsupervised(key: Array, codes: Codes, factors: Labels, settings: Settings) -> Scores:
    del factors
    drawn = codes[draw_rows(key, len(codes), settings).train]
    wasserstein = gaussian_wasserstein_correlation(drawn)
    return {
        "gaussian_total_correlation": gaussian_total_correlation(drawn),
        "gaussian_wasserstein_correlation": wasserstein.squared_distance,
        "gaussian_wasserstein_correlation_normalised": wasserstein.normalized,
        "average_mutual_information": average_mutual_information(drawn, settings.num_bins),
    }


# The position in this table determines a metric's random numbers, so new metrics go to the end.
_METRICS: dict[str, Callable[[Array, Codes, Labels, Settings], Scores]] = {
    "beta_vae": lambda *arguments: {"beta_vae_score": beta_vae_score(*arguments)},
    "factor_vae": lambda *arguments: {"factor_vae_score": factor_vae_score(*arguments)},
    "mig": _mig,
    "sap": lambda *arguments: {"sap": sap(*arguments)},
    "dci": _dci,
    "modularity": _modularity,
    "explicitness": lambda *arguments: {"explicitness": explicitness(*arguments)},
    "unsupervised": _unsupervised,
}
METRICS = tuple(_METRICS)

_SHARE, _AMOUNT = (0.0, 1.0), (0.0, math.inf)
RANGES: dict[str, tuple[float, float]] = {  # the smallest and the largest value that each score can have
    "beta_vae_score": _SHARE,
    "factor_vae_score": _SHARE,
    "mig": _SHARE,
    "sap": _SHARE,
    "dci_disentanglement": _SHARE,
    "dci_completeness": _SHARE,
    "dci_informativeness": _SHARE,
    "modularity": _SHARE,
    "explicitness": _SHARE,
    "gaussian_total_correlation": _AMOUNT,
    "gaussian_wasserstein_correlation": _AMOUNT,
    "gaussian_wasserstein_correlation_normalised": (0.0, 2.0),
    "average_mutual_information": _AMOUNT,
}


def all_metrics(
    key: Key[Array, ""],
    codes: Float[np.ndarray | Array, "examples latent"],
    factors: Int[np.ndarray | Array, "examples num_factors"],
    settings: Settings = PUBLISHED,
    *,
    only: Collection[str] = METRICS,
) -> Scores:
    """Computes every published metric of one model, each on rows drawn for it.

    Metric i of `METRICS` uses fold_in(key, i), so its score does not depend on the other metrics in `only`.

    Args:
      key: a new-style PRNG key.
      codes: (examples >= num_points, latent >= 2), encoder means, finite.
      factors: (examples, num_factors >= 2), integers >= 0, each with at least two values. Leave constant factors out.
      settings: sizes, the published ones by default.
      only: names from `METRICS`. By far the slowest metric at the published sizes is "dci".

    Returns:
      Scores by name. beta_vae_score, factor_vae_score, mig, sap, dci_disentanglement, dci_completeness, dci_informativeness,
      modularity and explicitness are at most 1, higher is better. gaussian_total_correlation (nats),
      gaussian_wasserstein_correlation (squared units of the codes), gaussian_wasserstein_correlation_normalised and
      average_mutual_information (nats) are 0 for independent codes. Constant codes score 0, except in beta_vae_score and
      dci_informativeness (chance) and in explicitness (0.5).

    Raises:
      UserError: for an unknown metric, codes that are not finite, constant factors, or too few rows.

    Example:
      >>> factors = np.stack(np.unravel_index(np.arange(120), (4, 5, 6)), axis=1)
      >>> settings = Settings(num_points=100, num_eval=20)
      >>> scores = all_metrics(jax.random.key(0), factors.astype(float), factors, settings, only=["mig", "sap"])
      >>> print(sorted(scores))
      ['mig', 'sap']
    """
    check_settings("all_metrics", settings)
    names = [only] if isinstance(only, str) else only
    for name in names:
        if name not in _METRICS:
            raise unknown("metric", name, METRICS)
    z, values = check_pair("all_metrics", codes, factors)
    scores: Scores = {}
    for i, (name, metric) in enumerate(_METRICS.items()):
        if name in names:
            scores |= metric(jax.random.fold_in(key, i), z, values, settings)
    return scores
