"""Independent float64 (or mpmath) values of every formula; nothing here imports the package."""

import mpmath
import numpy as np
from scipy import special, stats

DIGITS = 60  # of the sums in mpmath: their cancellation costs up to 30


def _summed(term, *arguments):
    """Sum of `term` over the elements of the arguments (scalars go with all of them), in mpmath."""
    arrays = np.broadcast_arrays(*(np.asarray(a, np.float64) for a in arguments))
    with mpmath.workdps(DIGITS):
        values = zip(*(a.ravel() for a in arrays), strict=True)
        return float(sum(term(*(mpmath.mpf(float(v)) for v in row)) for row in values))


def bernoulli(logits, x):
    """Sum of x log sigma(l) + (1 - x) log sigma(-l)."""
    logits, x = np.asarray(logits, np.float64), np.asarray(x, np.float64)
    return float(np.sum(x * special.log_expit(logits) + (1 - x) * special.log_expit(-logits)))


def gaussian(mean, log_scale, x):
    """SciPy's normal density."""
    mean, log_scale, x = (np.asarray(a, np.float64) for a in (mean, log_scale, x))
    return float(np.sum(stats.norm.logpdf(x, mean, np.exp(log_scale) * np.ones_like(x))))


def laplace(loc, log_scale, x):
    """Log of exp(-|x - loc| / b) / (2 b)."""
    return _summed(
        lambda loc, log_scale, x: -abs(x - loc) / mpmath.exp(log_scale) - log_scale - mpmath.log(2), loc, log_scale, x
    )


def student_t(loc, log_scale, x, degrees_of_freedom=4.0):
    """The density of Student's t as it is defined, with gamma functions."""

    def term(loc, log_scale, x, df):
        z = (x - loc) / mpmath.exp(log_scale)
        constant = mpmath.loggamma((df + 1) / 2) - mpmath.loggamma(df / 2) - mpmath.log(df * mpmath.pi) / 2
        return constant - (df + 1) / 2 * mpmath.log(1 + z * z / df) - log_scale

    return _summed(term, loc, log_scale, x, degrees_of_freedom)


def continuous_bernoulli(logits, x):
    """log(lambda^x (1 - lambda)^(1 - x) C(lambda)) with the normaliser as it is defined."""

    def term(logit, value):
        integral = mpmath.mpf(1) if logit == 0 else mpmath.expm1(logit) / logit  # of exp(l x) over [0, 1]
        return logit * value - mpmath.log(integral)

    return _summed(term, logits, x)


def _bin_mass(loc, log_scale, level, num_bins):
    """A logistic's mass between the edges of a bin: the distribution function's difference, on the side where it is small."""
    half, scale = mpmath.mpf(1) / 2, mpmath.exp(log_scale)
    low = mpmath.ninf if level == 0 else ((level - half) / (num_bins - 1) - loc) / scale
    high = mpmath.inf if level == num_bins - 1 else ((level + half) / (num_bins - 1) - loc) / scale
    if low + high > 0:
        low, high = -high, -low
    return 1 / (1 + mpmath.exp(-high)) - 1 / (1 + mpmath.exp(-low))


def discretized_logistic(loc, log_scale, x, num_bins=256):
    """Log of the logistic's mass in the bin of level x; the bins at the ends reach to infinity."""
    return _summed(lambda loc, log_scale, x: mpmath.log(_bin_mass(loc, log_scale, x, num_bins)), loc, log_scale, x)


def _mp(array):
    return [mpmath.mpf(float(v)) for v in np.ravel(array)]


def _log_mixture(logits, densities):
    """Log sum_m softmax(logits)_m densities_m."""
    weights = [mpmath.exp(v) for v in _mp(logits)]
    return mpmath.log(mpmath.fsum(w * d for w, d in zip(weights, densities, strict=True)) / mpmath.fsum(weights))


def logistic_mixture(mixture_logits, loc, log_scale, x, num_bins=256):
    """A mixture of discretized logistics for each dimension; components on the last axis."""
    components = np.shape(loc)[-1]
    rows = (np.reshape(np.asarray(a, np.float64), (-1, components)) for a in (mixture_logits, loc, log_scale))
    with mpmath.workdps(DIGITS):
        total = mpmath.mpf(0)
        for logits, means, scales, level in zip(*rows, np.ravel(x), strict=True):
            pairs = zip(_mp(means), _mp(scales), strict=True)
            total += _log_mixture(logits, [_bin_mass(m, s, mpmath.mpf(float(level)), num_bins) for m, s in pairs])
        return float(total)


def logistic_mixture_rgb(mixture_logits, loc, log_scale, coefficients, x, num_bins=256):
    """PixelCNN++'s mixture over whole pixels: the mean of green depends on red, that of blue on both; x in [0, 1] there."""
    components = np.shape(loc)[-1]
    channels = (np.reshape(np.asarray(a, np.float64), (-1, 3, components)) for a in (loc, log_scale, coefficients))
    pixels = zip(np.reshape(mixture_logits, (-1, components)), *channels, np.reshape(x, (-1, 3)), strict=True)
    with mpmath.workdps(DIGITS):
        total = mpmath.mpf(0)
        for logits, means, scales, raw, levels in pixels:
            levels = _mp(levels)
            red, green = (level / (num_bins - 1) - mpmath.mpf(1) / 2 for level in levels[:2])
            masses = []
            for m in range(components):
                c = [mpmath.tanh(v) for v in _mp(raw[:, m])]
                shifts = (0, c[0] * red, c[1] * red + c[2] * green)
                triple = zip(_mp(means[:, m]), shifts, _mp(scales[:, m]), levels, strict=True)
                masses.append(mpmath.fprod(_bin_mass(mean + shift, s, k, num_bins) for mean, shift, s, k in triple))
            total += _log_mixture(logits, masses)
        return float(total)


def categorical(logits, x):
    """Log of softmax(logits) at class x."""
    logits = np.asarray(logits, np.float64)
    logits, x = logits.reshape(-1, logits.shape[-1]), np.ravel(np.asarray(x)).astype(int)
    return float(np.sum(logits[np.arange(len(x)), x] - special.logsumexp(logits, axis=-1)))


def poisson(log_rate, x):
    """Log of rate^x exp(-rate) / x!."""
    return _summed(lambda log_rate, x: x * log_rate - mpmath.exp(log_rate) - mpmath.loggamma(x + 1), log_rate, x)


def negative_binomial(log_mean, log_dispersion, x):
    """Log of Gamma(x + r) / (Gamma(r) x!) (1 - p)^r p^x with p = mean / (mean + r)."""

    def term(log_mean, log_dispersion, x):
        mean, r = mpmath.exp(log_mean), mpmath.exp(log_dispersion)
        choose = mpmath.loggamma(x + r) - mpmath.loggamma(r) - mpmath.loggamma(x + 1)
        return choose + r * mpmath.log(r / (mean + r)) + x * mpmath.log(mean / (mean + r))

    return _summed(term, log_mean, log_dispersion, x)


def zero_inflated_negative_binomial(logit_zero, log_mean, log_dispersion, x):
    """Log of pi 1[x = 0] + (1 - pi) NB(x), with the probabilities themselves."""

    def term(logit_zero, log_mean, log_dispersion, x):
        mean, r = mpmath.exp(log_mean), mpmath.exp(log_dispersion)
        choose = mpmath.loggamma(x + r) - mpmath.loggamma(r) - mpmath.loggamma(x + 1)
        count = mpmath.exp(choose + r * mpmath.log(r / (mean + r)) + x * mpmath.log(mean / (mean + r)))
        inflated = 1 / (1 + mpmath.exp(-logit_zero))
        return mpmath.log((inflated if x == 0 else 0) + count / (1 + mpmath.exp(logit_zero)))

    return _summed(term, logit_zero, log_mean, log_dispersion, x)


def multinomial(logits, x):
    """Log of n! prod_d p_d^x_d / x_d! with p = softmax(logits)."""
    with mpmath.workdps(DIGITS):
        logits, x = _mp(logits), _mp(x)
        log_sum = mpmath.log(mpmath.fsum(mpmath.exp(v) for v in logits))
        terms = (count * (logit - log_sum) - mpmath.loggamma(count + 1) for logit, count in zip(logits, x, strict=True))
        return float(mpmath.loggamma(mpmath.fsum(x) + 1) + mpmath.fsum(terms))


def gaussian_mixture(z, mixture_logits, means, log_scales):
    """Log density at z of a mixture of diagonal Gaussians, by SciPy's normal density."""
    z, mixture_logits, means, log_scales = (np.asarray(a, np.float64) for a in (z, mixture_logits, means, log_scales))
    components = stats.norm.logpdf(z[None], means, np.exp(log_scales)).sum(axis=-1)
    return float(special.logsumexp(mixture_logits - special.logsumexp(mixture_logits) + components))


def kl_diagonal_gaussians(mean_q, log_scale_q, mean_p, log_scale_p):
    """The textbook form, in digits enough that its cancellation does no harm."""

    def term(mean_q, log_scale_q, mean_p, log_scale_p):
        ratio = mpmath.exp(2 * (log_scale_q - log_scale_p))
        return (ratio + (mean_q - mean_p) ** 2 * mpmath.exp(-2 * log_scale_p) - 1 - 2 * (log_scale_q - log_scale_p)) / 2

    return _summed(term, mean_q, log_scale_q, mean_p, log_scale_p)


def kl_to_standard_normal(mean, log_scale):
    """The same against N(0, 1)."""
    zeros = np.zeros_like(np.asarray(mean, np.float64))
    return kl_diagonal_gaussians(mean, log_scale, zeros, zeros)


def kl_full_gaussians(mean_q, cholesky_q, mean_p, cholesky_p):
    """1/2 [tr(Sp^-1 Sq) + (mp - mq)' Sp^-1 (mp - mq) - k + log det Sp / det Sq] with the covariances themselves."""
    with mpmath.workdps(200):  # condition numbers up to 1e60 are squared
        mean_q, mean_p = (mpmath.matrix(_mp(m)) for m in (mean_q, mean_p))
        factors = (mpmath.matrix([_mp(row) for row in np.asarray(c)]) for c in (cholesky_q, cholesky_p))
        covariance_q, covariance_p = (c * c.T for c in factors)
        precision, k = mpmath.inverse(covariance_p), len(mean_q)
        trace = mpmath.fsum((precision * covariance_q)[i, i] for i in range(k))
        distance = ((mean_p - mean_q).T * precision * (mean_p - mean_q))[0]
        return float((trace + distance - k + mpmath.log(mpmath.det(covariance_p) / mpmath.det(covariance_q))) / 2)
