"""The rows of the battery in test_mathematics: every function of the mathematics with its oracle and its arguments."""

import itertools
from typing import Any, NamedTuple

import numpy as np
import oracles

from vae_jax import divergences, likelihoods, priors


class Row(NamedTuple):
    """A function of the package, its oracle, and a generator of random arguments (as float64 arrays of one event).

    The leading axis of every argument runs over the dimensions of the event (pixels, for RGB); axes behind it stay with
    their dimension (components, classes, channels). Functions that do not add up over dimensions are not `separable`.
    """

    function: Any
    oracle: Any
    draw: Any  # (rng, size) -> arguments
    extreme: Any  # arguments of one event at the extremes; where not separable, a list of such
    differentiable: tuple[int, ...]  # arguments to differentiate
    epsilons: int = 12  # bound on the error in float32 and float64; 25 in float32 are 3e-6
    extreme_rtol: float = 3e-6
    separable: bool = True

    def extremes(self):
        """The arguments at the extremes, one dimension at a time where that is possible."""
        if not self.separable:
            return self.extreme
        return [tuple(a[i : i + 1] for a in self.extreme) for i in range(len(self.extreme[0]))]


def _grid(*values):
    return tuple(np.array(list(itertools.product(*values)), np.float64).T)


def _choices(shapes, values, seed=0):
    """Random picks of the values, for arguments of the given shapes."""
    rng = np.random.default_rng(seed)
    return tuple(rng.choice(np.array(v, np.float64), shape) for shape, v in zip(shapes, values, strict=True))


def _binary(rng, n):
    return rng.integers(0, 2, n).astype(np.float64)


def _levels(rng, *shape):
    """Levels of 0 to 255, both ends among them."""
    levels = rng.integers(0, 256, shape).astype(np.float64)
    levels[0], levels[1:2] = 0, 255
    return levels


def _counts(rng, mean):
    return rng.poisson(mean).astype(np.float64)


def _poisson(rng, n):
    log_rate = rng.uniform(-4, 5.5, n)
    return log_rate, _counts(rng, np.exp(log_rate))


def _negative_binomial(rng, n):
    log_mean, log_dispersion = rng.uniform(-3, 5, n), rng.uniform(-3, 6, n)
    dispersion = np.exp(log_dispersion)
    return log_mean, log_dispersion, _counts(rng, np.exp(log_mean) * rng.gamma(dispersion) / dispersion)


def _zero_inflated(rng, n):
    log_mean, log_dispersion, x = _negative_binomial(rng, n)
    return rng.normal(0, 2, n), log_mean, log_dispersion, np.where(rng.uniform(size=n) < 0.3, 0, x)


def _multinomial(rng, n):
    logits = rng.normal(0, 2, n := min(n, 20))
    return logits, rng.multinomial(rng.integers(1, 200), np.exp(logits) / np.exp(logits).sum()).astype(np.float64)


def _logistic(rng, *shape):
    return rng.uniform(-0.2, 1.2, shape), rng.uniform(-2.5, 0.5, shape)


def _cholesky(rng, k):
    return np.tril(rng.normal(0, 0.3, (k, k)), -1) + np.diag(np.exp(rng.normal(0, 0.3, k)))


def _full_gaussians(rng, n):
    k = min(n, 6)
    return rng.normal(0, 1, k), _cholesky(rng, k), rng.normal(0, 1, k), _cholesky(rng, k)


def _gaussian_mixture(rng, n):
    k = min(n, 6)
    return rng.normal(0, 2, k), rng.normal(0, 1, 4), rng.normal(0, 2, (4, k)), rng.normal(0, 0.5, (4, k))


LOGITS = (-1e4, -104.0, -88.0, -20.0, 0.0, 1e-3, 17.0, 88.0, 104.0, 1e4)
SCALES = (-20.0, -1.0, 0.0, 1e-4, 20.0)
LOCS, NARROW_TO_WIDE, LEVELS = (-10.0, 0.0, 0.5, 10.0), (-20.0, -7.0, 0.0, 20.0), (0.0, 1.0, 100.0, 254.0, 255.0)
MIXTURE_LOGITS = (-1e4, -50.0, 0.0, 50.0, 1e4)
TINY, HUGE = np.exp(-15) * np.eye(2), np.exp(15) * np.eye(2)
CORRELATED = np.array([[1.0, 0.0], [0.9999, 0.0141]])

FUNCTIONS = {
    "bernoulli_log_prob": Row(
        likelihoods.bernoulli_log_prob,
        oracles.bernoulli,
        lambda rng, n: (rng.normal(0, 5, n), _binary(rng, n)),
        _grid(LOGITS, (0, 1)),
        (0,),
    ),
    "gaussian_log_prob": Row(
        likelihoods.gaussian_log_prob,
        oracles.gaussian,
        lambda rng, n: (rng.normal(0, 2, n), rng.normal(0, 1, n), rng.normal(0, 2, n)),
        _grid((-1, 0), SCALES, (-1, 0, 3)),
        (0, 1, 2),
    ),
    "continuous_bernoulli_log_prob": Row(
        likelihoods.continuous_bernoulli_log_prob,
        oracles.continuous_bernoulli,
        lambda rng, n: (rng.normal(0, 3, n), rng.uniform(0, 1, n)),
        _grid((*LOGITS, 0.4999, 0.5, 0.5001, -1e-6), (0, 0.3, 0.5, 1)),
        (0, 1),
    ),
    "laplace_log_prob": Row(
        likelihoods.laplace_log_prob,
        oracles.laplace,
        lambda rng, n: (rng.normal(0, 2, n), rng.normal(0, 1, n), rng.normal(0, 2, n)),
        _grid((-1, 0), SCALES, (-1, 0, 3, 1e4)),
        (0, 1, 2),
    ),
    "student_t_log_prob": Row(
        likelihoods.student_t_log_prob,
        oracles.student_t,
        lambda rng, n: (rng.normal(0, 2, n), rng.normal(0, 1, n), rng.normal(0, 2, n), rng.uniform(0.5, 30, n)),
        _grid((-1, 0), SCALES, (-1, 0, 3, 1e4), (0.1, 1, 4, 1e3, 1e6)),
        (0, 1, 2, 3),
        epsilons=25,
    ),
    "discretized_logistic_log_prob": Row(
        likelihoods.discretized_logistic_log_prob,
        oracles.discretized_logistic,
        lambda rng, n: (*_logistic(rng, n), _levels(rng, n)),
        _grid(LOCS, NARROW_TO_WIDE, LEVELS),
        (0, 1),
        epsilons=25,
        extreme_rtol=3e-4,
    ),
    "logistic_mixture_log_prob": Row(
        likelihoods.logistic_mixture_log_prob,
        oracles.logistic_mixture,
        lambda rng, n: (rng.normal(0, 1, (n, 3)), *_logistic(rng, n, 3), _levels(rng, n)),
        _choices([(40, 3)] * 3 + [(40,)], [MIXTURE_LOGITS, LOCS, NARROW_TO_WIDE, LEVELS]),
        (0, 1, 2),
        epsilons=25,
        extreme_rtol=3e-4,
    ),
    "logistic_mixture_rgb_log_prob": Row(
        likelihoods.logistic_mixture_rgb_log_prob,
        oracles.logistic_mixture_rgb,
        lambda rng, n: (rng.normal(0, 1, (n, 2)), *_logistic(rng, n, 3, 2), rng.normal(0, 1, (n, 3, 2)), _levels(rng, n, 3)),
        _choices(
            [(40, 2)] + [(40, 3, 2)] * 3 + [(40, 3)], [MIXTURE_LOGITS, LOCS, NARROW_TO_WIDE, (-20, -1, 0, 0.5, 20), LEVELS]
        ),
        (0, 1, 2, 3),
        epsilons=25,
        extreme_rtol=3e-4,
    ),
    "categorical_log_prob": Row(
        likelihoods.categorical_log_prob,
        oracles.categorical,
        lambda rng, n: (rng.normal(0, 3, (n, 5)), rng.integers(0, 5, n).astype(np.float64)),
        _choices([(40, 5), (40,)], [LOGITS, range(5)]),
        (0,),
        epsilons=25,
    ),
    "poisson_log_prob": Row(
        likelihoods.poisson_log_prob,
        oracles.poisson,
        _poisson,
        tuple(
            np.array(
                [(-1e4, 3), (-1e4, 0), (-20, 0), (-20, 255), (0, 0), (0, 1), (0, 1e4), (5.5, 0), (5.5, 255), (20, 0), (80, 10)]
                + [(np.log(x), x) for x in (1, 2, 3, 10, 1e2, 1e3, 1e4, 1e5, 1e6)]
            ).T
        ),
        (0,),
        epsilons=25,
    ),
    "negative_binomial_log_prob": Row(
        likelihoods.negative_binomial_log_prob,
        oracles.negative_binomial,
        _negative_binomial,
        _grid((-20, 0, 5, 20), (-20, -3, 0, 5, 20), (0, 1, 10, 255, 1e4)),
        (0, 1),
        epsilons=25,
    ),
    "zero_inflated_negative_binomial_log_prob": Row(
        likelihoods.zero_inflated_negative_binomial_log_prob,
        oracles.zero_inflated_negative_binomial,
        _zero_inflated,
        _choices([(60,)] * 4, [LOGITS, (-20, 0, 5, 20), (-20, -3, 0, 5, 20), (0, 0, 1, 10, 255, 1e4)]),
        (0, 1, 2),
        epsilons=25,
    ),
    "multinomial_log_prob": Row(
        likelihoods.multinomial_log_prob,
        oracles.multinomial,
        _multinomial,
        [_choices([(7,)] * 2, [LOGITS, counts], seed) for seed in range(3) for counts in ((0, 1), (0, 3, 255), (0, 1, 1e4))]
        + [(np.zeros(3), np.zeros(3)), (np.array([1e4, 0, -1e4]), np.zeros(3)), (np.zeros(1), np.full(1, 1e7))],
        (0,),
        epsilons=25,
        separable=False,
    ),
    "gaussian_mixture_log_prob": Row(
        priors.gaussian_mixture_log_prob,
        oracles.gaussian_mixture,
        _gaussian_mixture,
        [
            (np.full(2, z), np.array([0, logit]), np.array([[0.0, 0], [1, -1]]), np.array([[0.0, 0], [s, s]]))
            for z, logit, s in itertools.product((0.0, 1e4), (-1e4, 0, 1e4), (-20.0, 0, 20))
        ],
        (0, 1, 2, 3),
        epsilons=25,
        separable=False,
    ),
    "kl_to_standard_normal": Row(
        divergences.kl_to_standard_normal,
        oracles.kl_to_standard_normal,
        lambda rng, n: (rng.normal(0, 2, n), rng.normal(0, 1, n)),
        _grid((0, 1e-4, 1e4), (-20, -0.25, 0, 1e-4, 20)),
        (0, 1),
    ),
    "kl_diagonal_gaussians": Row(
        divergences.kl_diagonal_gaussians,
        oracles.kl_diagonal_gaussians,
        lambda rng, n: tuple(rng.normal(0, 1, (4, n))),
        _grid((0.5, 3), SCALES, (0.5,), SCALES),
        (0, 1, 2, 3),
    ),
    "kl_full_gaussians": Row(
        divergences.kl_full_gaussians,
        oracles.kl_full_gaussians,
        _full_gaussians,
        [
            (np.array([0.5, 3]), q, np.array([0.5, -1]), p)
            for q, p in itertools.product((TINY, np.eye(2), HUGE, CORRELATED), repeat=2)
        ],
        (0, 1, 2, 3),
        epsilons=25,
        separable=False,
    ),
}
