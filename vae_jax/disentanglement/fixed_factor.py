"""Metrics that guess a factor from rows in which it is fixed: the scores of the beta-VAE and FactorVAE papers."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from vae_jax.disentanglement.classifiers import without_convergence_warnings
from vae_jax.disentanglement.draws import Batches, Pairs, beta_vae_draws, factor_vae_draws
from vae_jax.disentanglement.settings import PUBLISHED, Codes, Settings, check_pair

_MAX_ENTRIES = 2**23  # of the codes gathered at once, 64 MiB


class Votes(NamedTuple):
    """Counts of how often each code varied least while each factor was fixed, over the active codes."""

    train: Int[np.ndarray, "num_factors num_active"]
    evaluation: Int[np.ndarray, "num_factors num_active"]
    active: Bool[np.ndarray, "latent"]  # codes that can vote


def _concatenated(function: Callable[[slice], np.ndarray], num_points: int, entries: int) -> np.ndarray:
    """Applies a function to consecutive slices of the points and concatenates the results.

    The slices are short enough that the function, which gathers `entries` numbers for each point, fits into memory.
    """
    step = max(1, _MAX_ENTRIES // entries)
    return np.concatenate([function(slice(start, start + step)) for start in range(0, num_points, step)])


def _differences(codes: Codes, pairs: Pairs) -> Float[np.ndarray, "points latent"]:
    """Returns the mean absolute difference of the codes of each point's pairs."""

    def part(points: slice) -> Float[np.ndarray, "points latent"]:
        return np.mean(np.abs(codes[pairs.first[points]] - codes[pairs.second[points]]), axis=1)

    return _concatenated(part, len(pairs.factor), pairs.first.shape[1] * codes.shape[1])


def beta_vae_score(
    key: Key[Array, ""],
    codes: Float[np.ndarray | Array, "examples latent"],
    factors: Int[np.ndarray | Array, "examples num_factors"],
    settings: Settings = PUBLISHED,
) -> float:
    """Computes the accuracy of a linear classifier that guesses the fixed factor from differences of codes.

    A point is the mean of |code of first row - code of second row| over batch_size pairs of rows with the same value of the
    point's factor. `beta_vae_draws` describes the sampling. scikit-learn's LogisticRegression with its defaults (C = 1,
    multinomial, at most 100 steps of L-BFGS) is fitted to num_points points and evaluated on num_eval others. A fit that stops
    at the maximum number of steps is used, without a warning.

    Args:
      key: a new-style PRNG key.
      codes: (examples, latent >= 2), encoder means, finite.
      factors: (examples, num_factors >= 2), integers >= 0, each with at least two values.
      settings: num_points, num_eval and batch_size are used.

    Returns:
      Accuracy in [0, 1], higher is better. Constant codes reach chance, about 1 / num_factors. The order of the latent
      dimensions matters only through the rounding of the solver.

    Source:
      Higgins et al. (2017), as computed by Locatello et al. (2019).
    """
    z, values = check_pair("beta_vae_score", codes, factors)
    train, evaluation = beta_vae_draws(key, values, settings)
    if np.ptp(train.factor) == 0:
        raise ValueError(
            f"beta_vae_score: expected points of at least two factors, got one in {settings.num_points}. Raise num_points."
        )
    from sklearn.linear_model import LogisticRegression

    with without_convergence_warnings():
        classifier = LogisticRegression().fit(_differences(z, train), train.factor)
    return float(np.mean(classifier.predict(_differences(z, evaluation)) == evaluation.factor))


def factor_vae_votes(
    key: Key[Array, ""],
    codes: Float[np.ndarray | Array, "examples latent"],
    factors: Int[np.ndarray | Array, "examples num_factors"],
    settings: Settings = PUBLISHED,
) -> Votes:
    """Counts the votes behind `factor_vae_score`, with the same arguments.

        vote = argmin_j Var_batch(code_j) / Var(code_j) over the codes j that are not constant, with Var(code_j) >= least_std^2

    Variances divide by the count minus one. Var(code_j) is computed on num_variance_points rows, see `factor_vae_draws`.
    """
    z, values = check_pair("factor_vae_votes", codes, factors)
    rows, train, evaluation = factor_vae_draws(key, values, settings)
    variance = np.var(z[rows], axis=0, ddof=1)
    # The ratio of a constant code is undefined. Its computed variance may be the rounding error of its mean.
    active = (np.sqrt(variance) >= settings.least_std) & (variance > 0) & (np.ptp(z[rows], axis=0) > 0)
    z, variance, num_factors = z[:, active], variance[active], values.shape[1]
    num_active = len(variance)
    if num_active == 0:
        none = np.zeros((num_factors, 0), np.int64)
        return Votes(none, none, active)

    def count(batches: Batches) -> Int[np.ndarray, "num_factors num_active"]:
        def part(points: slice) -> Int[np.ndarray, "points"]:
            return np.argmin(np.var(z[batches.rows[points]], axis=1, ddof=1) / variance, axis=1)

        votes = _concatenated(part, len(batches.factor), batches.rows.shape[1] * num_active)
        table = np.bincount(batches.factor * num_active + votes, minlength=num_factors * num_active)
        return table.reshape(num_factors, num_active)

    return Votes(count(train), count(evaluation), active)


def factor_vae_score(
    key: Key[Array, ""],
    codes: Float[np.ndarray | Array, "examples latent"],
    factors: Int[np.ndarray | Array, "examples num_factors"],
    settings: Settings = PUBLISHED,
) -> float:
    """Computes the accuracy of a majority vote that guesses the fixed factor from the code that varies least.

    Each of num_points batches casts a vote for the pair (its factor, the code with the least variance relative to all data). A
    code then predicts the factor with the most votes, the first one in case of a tie. The score is the share of correct
    predictions among num_eval further votes, see `factor_vae_votes`.

    Args:
      key, codes, factors: see `beta_vae_score`. At least num_variance_points examples are required.
      settings: num_points, num_eval, num_variance_points, batch_size, least_std and replace are used.

    Returns:
      Accuracy in [0, 1], higher is better, 0 if no code is active. The order of the latent dimensions matters only if two vary
      equally little: the first of them gets the vote.

    Source:
      Kim and Mnih (2018), as computed by Locatello et al. (2019).
    """
    votes = factor_vae_votes(key, codes, factors, settings)
    if not votes.active.any():
        return 0.0
    majority = np.argmax(votes.train, axis=0)
    right = votes.evaluation[majority, np.arange(len(majority))]
    return float(np.sum(right) / np.sum(votes.evaluation))
