"""Independent float64 (or mpmath) values of every formula; nothing here imports the package."""

import mpmath
import numpy as np
from scipy import special, stats


def bernoulli(logits, x):
    """Sum of x log sigma(l) + (1 - x) log sigma(-l)."""
    logits, x = np.asarray(logits, np.float64), np.asarray(x, np.float64)
    return float(np.sum(x * special.log_expit(logits) + (1 - x) * special.log_expit(-logits)))


def gaussian(mean, log_scale, x):
    """SciPy's normal density."""
    mean, log_scale, x = (np.asarray(a, np.float64) for a in (mean, log_scale, x))
    return float(np.sum(stats.norm.logpdf(x, mean, np.exp(log_scale) * np.ones_like(x))))


def continuous_bernoulli(logits, x):
    """log(lambda^x (1 - lambda)^(1 - x) C(lambda)) with the normaliser as it is defined, in 50 digits."""
    total = mpmath.mpf(0)
    with mpmath.workdps(50):
        for logit, value in zip(np.ravel(logits), np.ravel(x), strict=True):
            logit, value = mpmath.mpf(float(logit)), mpmath.mpf(float(value))
            integral = mpmath.mpf(1) if logit == 0 else mpmath.expm1(logit) / logit  # of exp(l x) over [0, 1]
            total += logit * value - mpmath.log(integral)
        return float(total)


def kl_diagonal_gaussians(mean_q, log_scale_q, mean_p, log_scale_p):
    """The textbook form, in 60 digits, where its cancellation does no harm."""
    with mpmath.workdps(60):
        total = mpmath.mpf(0)
        for values in zip(*(np.ravel(a) for a in (mean_q, log_scale_q, mean_p, log_scale_p)), strict=True):
            mq, sq, mp, sp = (mpmath.mpf(float(v)) for v in values)
            ratio = mpmath.exp(2 * (sq - sp))
            total += (ratio + (mq - mp) ** 2 * mpmath.exp(-2 * sp) - 1 - 2 * (sq - sp)) / 2
        return float(total)


def kl_to_standard_normal(mean, log_scale):
    """The same against N(0, 1)."""
    zeros = np.zeros_like(np.asarray(mean, np.float64))
    return kl_diagonal_gaussians(mean, log_scale, zeros, zeros)
