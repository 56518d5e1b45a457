"""Metrics that hold one factor fixed and ask which code gives it away: the scores of the beta-VAE and FactorVAE papers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jax import Array
from numpy.typing import ArrayLike, NDArray

from vae_jax.disentanglement.classifiers import without_convergence_warnings
from vae_jax.disentanglement.draws import Batches, Pairs, beta_vae_draws, factor_vae_draws
from vae_jax.disentanglement.settings import PUBLISHED, Codes, Settings, check_pair

_ENTRIES = 2**23  # of a table of codes at once, 64 MiB


class Votes(NamedTuple):
    """How often each code varied least while each factor was fixed, and which codes could vote."""

    train: NDArray[np.int64]  # (num_factors, active codes)
    evaluation: NDArray[np.int64]  # (num_factors, active codes)
    active: NDArray[np.bool_]  # (latent,)


def _in_parts(function: Callable[[slice], NDArray[Any]], num_points: int, entries: int) -> NDArray[Any]:
    """function(slice of points) for parts of all points that are small enough, concatenated."""
    step = max(1, _ENTRIES // entries)
    return np.concatenate([function(slice(start, start + step)) for start in range(0, num_points, step)])


def _differences(codes: Codes, pairs: Pairs) -> Codes:
    def part(points: slice) -> Codes:
        return np.mean(np.abs(codes[pairs.first[points]] - codes[pairs.second[points]]), axis=1)

    return _in_parts(part, len(pairs.factor), pairs.first.shape[1] * codes.shape[1])


def beta_vae_score(key: Array, codes: ArrayLike, factors: ArrayLike, settings: Settings = PUBLISHED) -> float:
    """Accuracy of a linear classifier that guesses the fixed factor from how far apart codes are that agree in it.

    A point is the mean of |code of first row - code of second row| over batch_size pairs of rows that agree in the point's
    factor (`beta_vae_draws`, which says how this relates to the published sampling). scikit-learn's LogisticRegression with its
    defaults (C = 1; multinomial, at most 100 steps of L-BFGS) is fitted to num_points points and scored on num_eval others.
    Where the steps do not suffice, the fit is used as it stands, and the warning about it is not passed on.

    Args:
      key: a new-style PRNG key.
      codes: (examples, latent >= 2), encoder means, finite.
      factors: (examples, num_factors >= 2), integers >= 0, each with two values or more.
      settings: num_points, num_eval and batch_size are used.

    Returns:
      Accuracy in [0, 1]. Constant codes reach chance, about 1 / num_factors. The order of the latent dimensions matters only
      through the solver's rounding.

    Source:
      Higgins et al. (2017), as computed by Locatello et al. (2019).
    """
    z, values = check_pair("beta_vae_score", codes, factors)
    train, evaluation = beta_vae_draws(key, values, settings)
    if np.ptp(train.factor) == 0:
        raise ValueError(
            f"beta_vae_score: expected points of two factors at least, got one in {settings.num_points}. Raise num_points."
        )
    from sklearn.linear_model import LogisticRegression

    with without_convergence_warnings():
        classifier = LogisticRegression().fit(_differences(z, train), train.factor)
    return float(np.mean(classifier.predict(_differences(z, evaluation)) == evaluation.factor))


def factor_vae_votes(key: Array, codes: ArrayLike, factors: ArrayLike, settings: Settings = PUBLISHED) -> Votes:
    """The votes behind `factor_vae_score`, whose arguments these are.

        vote = argmin_j Var_batch(code_j) / Var(code_j) over the codes j with a standard deviation >= least_std, not constant

    Variances divide by the count less one; the whole data's is of num_variance_points rows (`factor_vae_draws`).
    """
    z, values = check_pair("factor_vae_votes", codes, factors)
    rows, train, evaluation = factor_vae_draws(key, values, settings)
    variance = np.var(z[rows], axis=0, ddof=1)
    # A constant code has no ratio; its variance may be the rounding of its mean.
    active = (np.sqrt(variance) >= settings.least_std) & (variance > 0) & (np.ptp(z[rows], axis=0) > 0)
    z, variance, num_factors = z[:, active], variance[active], values.shape[1]
    num_active = len(variance)
    if num_active == 0:
        none = np.zeros((num_factors, 0), np.int64)
        return Votes(none, none, active)

    def count(batches: Batches) -> NDArray[np.int64]:
        def part(points: slice) -> NDArray[np.int64]:
            return np.argmin(np.var(z[batches.rows[points]], axis=1, ddof=1) / variance, axis=1)

        votes = _in_parts(part, len(batches.factor), batches.rows.shape[1] * num_active)
        table = np.bincount(batches.factor * num_active + votes, minlength=num_factors * num_active)
        return table.reshape(num_factors, num_active)

    return Votes(count(train), count(evaluation), active)


def factor_vae_score(key: Array, codes: ArrayLike, factors: ArrayLike, settings: Settings = PUBLISHED) -> float:
    """Accuracy of a majority vote that guesses the fixed factor from the code that varies least, relative to all data.

    Each of num_points batches casts a vote for (its factor, the code that varies least); a code then stands for the factor that
    it got most votes from (of equals the first), and the score is the share of the num_eval other votes that this gets right.

    Args:
      key, codes, factors: as in `beta_vae_score`; examples >= num_variance_points.
      settings: num_points, num_eval, num_variance_points, batch_size, least_std and replace are used.

    Returns:
      Accuracy in [0, 1]; 0 where no code is active. `factor_vae_votes` has the votes. The order of the latent dimensions
      matters only where two vary equally little: the first of them gets the vote.

    Source:
      Kim and Mnih (2018), as computed by Locatello et al. (2019).
    """
    votes = factor_vae_votes(key, codes, factors, settings)
    if not votes.active.any():
        return 0.0
    majority = np.argmax(votes.train, axis=0)
    right = votes.evaluation[majority, np.arange(len(majority))]
    return float(np.sum(right) / np.sum(votes.evaluation))
