"""Broken twins: what people get wrong. Each must fail the oracle test that the real formula passes.

A twin is a row's name and a function of the real function and its arguments.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import log_softmax, sigmoid
from jax.scipy.special import gammaln, logsumexp
from posterior_checks import with_log_q

from vae_jax import likelihoods

LOG_2PI = float(np.log(2 * np.pi))


def _logistic_twin(*, edges=True, half_width=1 / 510, density=False):
    """The discretized logistic by distribution functions, with something wrong."""

    def twin(_, loc, s, x):
        y, scale = x / 255, jnp.exp(s)
        high, low = sigmoid((y + half_width - loc) / scale), sigmoid((y - half_width - loc) / scale)
        if edges:
            high, low = jnp.where(x == 255, 1, high), jnp.where(x == 0, 0, low)
        if density:
            return jnp.sum(jnp.log(2 * half_width * sigmoid((y - loc) / scale) * sigmoid((loc - y) / scale) / scale))
        return jnp.sum(jnp.log(high - low))

    return twin


@jax.jit
def _components(loc, s, x):
    """Log P of each component: the shape of loc."""
    one = jax.vmap(lambda loc, s, x: likelihoods.discretized_logistic_log_prob(loc, s, x))
    return one(loc.ravel(), s.ravel(), jnp.broadcast_to(x[..., None], loc.shape).ravel()).reshape(loc.shape)


def _rgb_means(loc, coefficients, x, offset=0.5):
    """The means of the three channels, with coefficients as they come."""
    red, green = x[:, :1] / 255 - offset, x[:, 1:2] / 255 - offset
    c = coefficients
    return loc + jnp.stack([jnp.zeros_like(c[:, 0]), c[:, 0] * red, c[:, 1] * red + c[:, 2] * green], axis=1)


@functools.partial(jax.jit, static_argnames="per_channel")
def _rgb(logits, means, s, x, per_channel=False):
    terms = _components(means, s, x)
    if per_channel:
        return jnp.sum(logsumexp(log_softmax(logits)[:, None] + terms, axis=-1))
    return jnp.sum(logsumexp(log_softmax(logits) + jnp.sum(terms, axis=1), axis=-1))


@jax.jit
def _zero_inflated(logit_zero, log_mean, log_dispersion, x):
    """The zero-inflated negative binomial as scVI writes it, by sums of logarithms of gamma functions."""
    r, log_total = jnp.exp(log_dispersion), jnp.logaddexp(log_dispersion, log_mean)
    log_zero = r * (log_dispersion - log_total)
    count = log_zero + x * (log_mean - log_total) + gammaln(x + r) - gammaln(r) - gammaln(x + 1)
    return jnp.sum(jnp.where(x > 0, count, jnp.logaddexp(logit_zero, log_zero)) - jax.nn.softplus(logit_zero))


def _multinomial(logits, x):
    """The multinomial as it is defined."""
    return gammaln(jnp.sum(x) + 1) - jnp.sum(gammaln(x + 1)) + jnp.sum(x * log_softmax(logits))


@functools.partial(jax.jit, static_argnames=("root", "transposed"))
def _kl_full(mean_q, q, mean_p, p, *, root=False, transposed=False, log_determinant=1.0, constant=1.0):
    """KL of full covariances by dense algebra, with something wrong."""
    square = (lambda a: a.T @ a) if transposed else (lambda a: a if root else a @ a.T)
    precision = jnp.linalg.inv(square(p))
    distance = mean_p - mean_q
    log_ratio = 2 * jnp.sum(jnp.log(jnp.diag(p)) - jnp.log(jnp.diag(q)))
    quadratic = jnp.trace(precision @ square(q)) + distance @ precision @ distance
    return 0.5 * (quadratic - constant * mean_q.size + log_determinant * log_ratio)


def _t_constant(df):
    return gammaln((df + 1) / 2) - gammaln(df / 2)


def _common(name, row, functions=("sign", "mean for sum")):
    """What can go wrong with any of them."""
    twins = {"sign": lambda f, *a: -f(*a), "mean for sum": lambda f, *a: f(*a) / len(a[0])}
    return {f"{name}: {wrong}": (row, twins[wrong]) for wrong in functions}


MUTANTS = {
    **_common("bernoulli", "bernoulli_log_prob"),
    "bernoulli: outcomes swapped": ("bernoulli_log_prob", lambda f, logits, x: f(logits, 1 - x)),
    **_common("gaussian", "gaussian_log_prob"),
    "gaussian: no 2 pi": ("gaussian_log_prob", lambda f, m, s, x: f(m, s, x) + 0.5 * x.size * LOG_2PI),
    "gaussian: no log-determinant": ("gaussian_log_prob", lambda f, m, s, x: f(m, s, x) + jnp.sum(s)),
    "gaussian: log-variance for log-scale": ("gaussian_log_prob", lambda f, m, s, x: f(m, s / 2, x)),
    "gaussian: no half": ("gaussian_log_prob", lambda f, m, s, x: 2 * f(m, s, x)),
    **_common("continuous bernoulli", "continuous_bernoulli_log_prob"),
    "continuous bernoulli: no constant": (
        "continuous_bernoulli_log_prob",
        lambda f, logits, x: likelihoods.bernoulli_log_prob(logits, x),
    ),
    **_common("laplace", "laplace_log_prob"),
    "laplace: no log 2": ("laplace_log_prob", lambda f, m, s, x: f(m, s, x) + x.size * np.log(2)),
    "laplace: no log-scale": ("laplace_log_prob", lambda f, m, s, x: f(m, s, x) + jnp.sum(s)),
    "laplace: log-variance for log-scale": ("laplace_log_prob", lambda f, m, s, x: f(m, s / 2, x)),
    "laplace: the standard deviation for b": ("laplace_log_prob", lambda f, m, s, x: f(m, s - 0.5 * np.log(2), x)),
    "laplace: a half too many": (
        "laplace_log_prob",
        lambda f, m, s, x: f(m, s, x) + 0.5 * jnp.sum(jnp.abs(x - m) / jnp.exp(s)),
    ),
    **_common("student", "student_t_log_prob"),
    "student: no gamma functions": ("student_t_log_prob", lambda f, m, s, x, df: f(m, s, x, df) - jnp.sum(_t_constant(df))),
    "student: no df pi": ("student_t_log_prob", lambda f, m, s, x, df: f(m, s, x, df) + 0.5 * jnp.sum(jnp.log(df * np.pi))),
    "student: no pi": ("student_t_log_prob", lambda f, m, s, x, df: f(m, s, x, df) + 0.5 * x.size * np.log(np.pi)),
    "student: no log-scale": ("student_t_log_prob", lambda f, m, s, x, df: f(m, s, x, df) + jnp.sum(s)),
    "student: log-variance for log-scale": ("student_t_log_prob", lambda f, m, s, x, df: f(m, s / 2, x, df)),
    "student: df for df + 1": (
        "student_t_log_prob",
        lambda f, m, s, x, df: f(m, s, x, df) + 0.5 * jnp.sum(jnp.log1p(jnp.square((x - m) / jnp.exp(s)) / df)),
    ),
    "student: df ignored": ("student_t_log_prob", lambda f, m, s, x, df: f(m, s, x)),
    "student: variance one": ("student_t_log_prob", lambda f, m, s, x, df: f(m, s + 0.5 * jnp.log(df / (df + 2)), x, df)),
    **_common("logistic", "discretized_logistic_log_prob"),
    "logistic: edges without tails": ("discretized_logistic_log_prob", _logistic_twin(edges=False)),
    "logistic: bins of 1/256": ("discretized_logistic_log_prob", _logistic_twin(half_width=1 / 512)),
    "logistic: half-width of a whole bin": ("discretized_logistic_log_prob", _logistic_twin(half_width=1 / 255)),
    "logistic: density for mass": ("discretized_logistic_log_prob", _logistic_twin(density=True)),
    "logistic: level off by one": ("discretized_logistic_log_prob", lambda f, m, s, x: f(m, s, jnp.minimum(x + 1, 255))),
    "logistic: level k at k/256": (
        "discretized_logistic_log_prob",
        lambda f, m, s, x: f(m * 256 / 255, s + np.log(256 / 255), x),
    ),
    "logistic: scale of [-1, 1]": ("discretized_logistic_log_prob", lambda f, m, s, x: f(m, s - np.log(2), x)),
    "logistic: log-variance for log-scale": ("discretized_logistic_log_prob", lambda f, m, s, x: f(m, s / 2, x)),
    **_common("mixture", "logistic_mixture_log_prob"),
    "mixture: weights not normalized": (
        "logistic_mixture_log_prob",
        lambda f, w, m, s, x: f(w, m, s, x) + jnp.sum(logsumexp(w, axis=-1)),
    ),
    "mixture: equal weights": ("logistic_mixture_log_prob", lambda f, w, m, s, x: f(jnp.zeros_like(w), m, s, x)),
    "mixture: mean of the logs": (
        "logistic_mixture_log_prob",
        lambda f, w, m, s, x: jnp.sum(jax.nn.softmax(w) * _components(m, s, x)),
    ),
    "mixture: level off by one": ("logistic_mixture_log_prob", lambda f, w, m, s, x: f(w, m, s, jnp.minimum(x + 1, 255))),
    "mixture: log-variance for log-scale": ("logistic_mixture_log_prob", lambda f, w, m, s, x: f(w, m, s / 2, x)),
    **_common("rgb", "logistic_mixture_rgb_log_prob"),
    "rgb: weights not normalized": (
        "logistic_mixture_rgb_log_prob",
        lambda f, w, m, s, c, x: f(w, m, s, c, x) + jnp.sum(logsumexp(w, axis=-1)),
    ),
    "rgb: channels not coupled": ("logistic_mixture_rgb_log_prob", lambda f, w, m, s, c, x: f(w, m, s, jnp.zeros_like(c), x)),
    "rgb: a component for each channel": (
        "logistic_mixture_rgb_log_prob",
        lambda f, w, m, s, c, x: _rgb(w, _rgb_means(m, jnp.tanh(c), x), s, x, per_channel=True),
    ),
    "rgb: coefficients without tanh": (
        "logistic_mixture_rgb_log_prob",
        lambda f, w, m, s, c, x: _rgb(w, _rgb_means(m, c, x), s, x),
    ),
    "rgb: coupled to [0, 1], not to the center": (
        "logistic_mixture_rgb_log_prob",
        lambda f, w, m, s, c, x: _rgb(w, _rgb_means(m, jnp.tanh(c), x, offset=0.0), s, x),
    ),
    "rgb: coupled on the scale of [-1, 1]": (
        "logistic_mixture_rgb_log_prob",
        lambda f, w, m, s, c, x: _rgb(w, _rgb_means(m, 2 * jnp.tanh(c), x), s, x),
    ),
    "rgb: coefficients of blue swapped": (
        "logistic_mixture_rgb_log_prob",
        lambda f, w, m, s, c, x: f(w, m, s, c[:, jnp.array([0, 2, 1])], x),
    ),
    "rgb: channels in the other order": (
        "logistic_mixture_rgb_log_prob",
        lambda f, w, m, s, c, x: f(w, m[:, ::-1], s[:, ::-1], c, x[:, ::-1]),
    ),
    **_common("categorical", "categorical_log_prob"),
    "categorical: not normalized": (
        "categorical_log_prob",
        lambda f, logits, x: jnp.sum(jnp.take_along_axis(logits, x.astype(int)[:, None], axis=-1)),
    ),
    "categorical: class off by one": ("categorical_log_prob", lambda f, logits, x: f(logits, (x + 1) % logits.shape[-1])),
    **_common("poisson", "poisson_log_prob"),
    "poisson: no factorial": ("poisson_log_prob", lambda f, r, x: f(r, x) + jnp.sum(gammaln(x + 1))),
    "poisson: gamma off by one": ("poisson_log_prob", lambda f, r, x: f(r, x) + jnp.sum(jnp.log(jnp.maximum(x, 1)))),
    "poisson: rate for log-rate": ("poisson_log_prob", lambda f, r, x: f(jnp.log(jnp.abs(r)), x)),
    "poisson: no rate": ("poisson_log_prob", lambda f, r, x: f(r, x) + jnp.sum(jnp.exp(r))),
    **_common("negative binomial", "negative_binomial_log_prob"),
    "negative binomial: mean and dispersion swapped": ("negative_binomial_log_prob", lambda f, m, r, x: f(r, m, x)),
    "negative binomial: dispersion upside down": ("negative_binomial_log_prob", lambda f, m, r, x: f(m, -r, x)),
    "negative binomial: probability upside down": ("negative_binomial_log_prob", lambda f, m, r, x: f(2 * r - m, r, x)),
    "negative binomial: no factorial": ("negative_binomial_log_prob", lambda f, m, r, x: f(m, r, x) + jnp.sum(gammaln(x + 1))),
    "negative binomial: no gamma of the total count": (
        "negative_binomial_log_prob",
        lambda f, m, r, x: f(m, r, x) + jnp.sum(gammaln(jnp.exp(r))),
    ),
    "negative binomial: Poisson": ("negative_binomial_log_prob", lambda f, m, r, x: likelihoods.poisson_log_prob(m, x)),
    **_common("zero-inflated", "zero_inflated_negative_binomial_log_prob"),
    "zero-inflated: not inflated": (
        "zero_inflated_negative_binomial_log_prob",
        lambda f, z, m, r, x: likelihoods.negative_binomial_log_prob(m, r, x),
    ),
    "zero-inflated: odds upside down": ("zero_inflated_negative_binomial_log_prob", lambda f, z, m, r, x: f(-z, m, r, x)),
    "zero-inflated: positive counts keep all of their mass": (
        "zero_inflated_negative_binomial_log_prob",
        lambda f, z, m, r, x: f(z, m, r, x) + jnp.sum(jnp.where(x > 0, jax.nn.softplus(z), 0)),
    ),
    "zero-inflated: zeros of one kind only": (
        "zero_inflated_negative_binomial_log_prob",
        lambda f, z, m, r, x: jnp.sum(jnp.where(x > 0, 0, jax.nn.log_sigmoid(z))) + f(z, m, r, jnp.where(x > 0, x, 1)),
    ),
    "zero-inflated: mean of the mixture for that of the counts": (
        "zero_inflated_negative_binomial_log_prob",
        lambda f, z, m, r, x: f(z, m + jax.nn.softplus(z), r, x),
    ),
    "zero-inflated: mean and dispersion swapped": (
        "zero_inflated_negative_binomial_log_prob",
        lambda f, z, m, r, x: f(z, r, m, x),
    ),
    **_common("multinomial", "multinomial_log_prob"),
    "multinomial: the loss of Mult-VAE": ("multinomial_log_prob", lambda f, logits, x: jnp.sum(x * log_softmax(logits))),
    "multinomial: no factorials of the counts": (
        "multinomial_log_prob",
        lambda f, logits, x: f(logits, x) + jnp.sum(gammaln(x + 1)),
    ),
    "multinomial: no factorial of the total": (
        "multinomial_log_prob",
        lambda f, logits, x: f(logits, x) - gammaln(jnp.sum(x) + 1),
    ),
    "multinomial: not normalized": (
        "multinomial_log_prob",
        lambda f, logits, x: f(logits, x) + jnp.sum(x) * logsumexp(logits),
    ),
    "multinomial: independent Poissons": (
        "multinomial_log_prob",
        lambda f, logits, x: likelihoods.poisson_log_prob(log_softmax(logits) + jnp.log(jnp.sum(x)), x),
    ),
    **_common("gaussian mixture", "gaussian_mixture_log_prob"),
    "gaussian mixture: weights not normalized": (
        "gaussian_mixture_log_prob",
        lambda f, z, w, m, s: f(z, w, m, s) + logsumexp(w),
    ),
    "gaussian mixture: equal weights": ("gaussian_mixture_log_prob", lambda f, z, w, m, s: f(z, jnp.zeros_like(w), m, s)),
    "gaussian mixture: no 2 pi": ("gaussian_mixture_log_prob", lambda f, z, w, m, s: f(z, w, m, s) + 0.5 * z.size * LOG_2PI),
    "gaussian mixture: log-variance for log-scale": ("gaussian_mixture_log_prob", lambda f, z, w, m, s: f(z, w, m, s / 2)),
    "gaussian mixture: a component for each dimension": (
        "gaussian_mixture_log_prob",
        lambda f, z, w, m, s: sum(f(z[i : i + 1], w, m[:, i : i + 1], s[:, i : i + 1]) for i in range(z.size)),
    ),
    **_common("kl", "kl_to_standard_normal"),
    "kl: no half": ("kl_to_standard_normal", lambda f, m, s: 2 * f(m, s)),
    "kl: missing -1": ("kl_to_standard_normal", lambda f, m, s: f(m, s) + 0.5 * m.size),
    "kl: log-variance for log-scale": ("kl_to_standard_normal", lambda f, m, s: f(m, s / 2)),
    **_common("kl of two", "kl_diagonal_gaussians"),
    "kl of two: reversed": ("kl_diagonal_gaussians", lambda f, a, b, c, d: f(c, d, a, b)),
    "kl of two: scale of p forgotten": ("kl_diagonal_gaussians", lambda f, a, b, c, d: f(a, b, c, jnp.zeros_like(d))),
    "kl of two: no half": ("kl_diagonal_gaussians", lambda f, a, b, c, d: 2 * f(a, b, c, d)),
    **_common("kl of full", "kl_full_gaussians"),
    "kl of full: no half": ("kl_full_gaussians", lambda f, *a: 2 * f(*a)),
    "kl of full: reversed": ("kl_full_gaussians", lambda f, a, b, c, d: f(c, d, a, b)),
    "kl of full: no -k": ("kl_full_gaussians", lambda f, *a: _kl_full(*a, constant=0)),
    "kl of full: no log-determinants": ("kl_full_gaussians", lambda f, *a: _kl_full(*a, log_determinant=0)),
    "kl of full: log-determinants of the factors": ("kl_full_gaussians", lambda f, *a: _kl_full(*a, log_determinant=0.5)),
    "kl of full: sign of the log-determinants": ("kl_full_gaussians", lambda f, *a: _kl_full(*a, log_determinant=-1)),
    "kl of full: factor for covariance": ("kl_full_gaussians", lambda f, *a: _kl_full(*a, root=True, log_determinant=0.5)),
    "kl of full: upper for lower": ("kl_full_gaussians", lambda f, *a: _kl_full(*a, transposed=True)),
}
# The hand-written twins with nothing wrong: they pass, so that what fails above fails for the reason given.
SOUND = {
    "logistic": ("discretized_logistic_log_prob", _logistic_twin()),
    "mixture": (
        "logistic_mixture_log_prob",
        lambda f, w, m, s, x: jnp.sum(logsumexp(log_softmax(w) + _components(m, s, x), axis=-1)),
    ),
    "rgb": (
        "logistic_mixture_rgb_log_prob",
        lambda f, w, m, s, c, x: _rgb(w, _rgb_means(m, jnp.tanh(c), x), s, x),
    ),
    "kl of full": ("kl_full_gaussians", lambda f, *a: _kl_full(*a)),
    "zero-inflated": ("zero_inflated_negative_binomial_log_prob", lambda f, *a: _zero_inflated(*a)),
    "multinomial": ("multinomial_log_prob", lambda f, *a: _multinomial(*a)),
}


def _single_where(bundle, output, x, mask):
    """Lets NaN into the formula, so that the gradient of the branch that is not taken is 0 times NaN."""
    return jnp.sum(jnp.where(mask, bundle.log_prob_per_entry(output, x), 0))


def _filled(bundle, x, mask):
    return jnp.where(mask, x, likelihoods.INSIDE[bundle.support])


def _mean_for_sum(bundle, output, x, mask):
    return likelihoods.observed_log_prob(bundle, output, x, mask) / jnp.maximum(jnp.sum(mask), 1)


# Broken copies of `observed_log_prob`: functions of the likelihood and of its arguments.
MASK_MUTANTS = {
    "mask inverted": lambda bundle, output, x, mask: likelihoods.observed_log_prob(
        bundle, output, _filled(bundle, x, mask), ~mask
    ),
    "missing entries filled and counted": lambda bundle, output, x, mask: bundle.log_prob(output, _filled(bundle, x, mask)),
    "a single where": _single_where,
    "mean over the observed entries": _mean_for_sum,
    "scaled up to all entries": lambda *a: _mean_for_sum(*a) * a[-1].size,
    "examples with missing entries left out": lambda bundle, output, x, mask: jnp.where(
        jnp.all(mask), bundle.log_prob(output, _filled(bundle, x, mask)), 0.0
    ),
}


def _log_prob_of(change):
    """A posterior whose density takes other parameters than its draws."""
    return lambda posterior: posterior._replace(log_prob=lambda q, z: posterior.log_prob(change(q), z))


def _kl_of(change):
    return lambda posterior: posterior._replace(kl_to_standard_normal=lambda q: change(posterior.kl_to_standard_normal, q))


def _swapped_flows(q):
    return (*q[:3], q[3] | {"flow_0": q[3]["flow_1"], "flow_1": q[3]["flow_0"]})


def _flipped(extra):
    """The vectors of four reflections of two dimensions in the reverse order."""
    around = jnp.tile(jnp.eye(2), (2, 1))
    return (jnp.flip(extra.reshape(4, 2) + around, 0) - around).reshape(-1)


_NO_EXTRA = _log_prob_of(lambda q: (*q[:2], jnp.zeros_like(q[2]), *q[3:]))
# Broken copies of posteriors, and checks of `posterior_checks` that they fail.
POSTERIOR_MUTANTS = {
    "full: no log-determinant": ("full", with_log_q(lambda log_q, start, size: log_q - start)),
    "full: density of the diagonal one": ("full", _NO_EXTRA),
    "full: log-variance for log-scale": ("full", _log_prob_of(lambda q: (q[0], q[1] / 2, q[2]))),
    "full: KL of the diagonal one": ("full", _kl_of(lambda kl, q: kl((*q[:2], jnp.zeros_like(q[2]))))),
    "full: KL without the half": ("full", _kl_of(lambda kl, q: 2 * kl(q))),
    "full: moments of the diagonal one": ("full", lambda p: p._replace(moments=lambda key, q: q[:2])),
    "householder: reflections in the same order backward": (
        "householder",
        _log_prob_of(lambda q: (*q[:2], _flipped(q[2]))),
    ),
    "householder: density of the diagonal one": ("householder", _NO_EXTRA),
    "householder: moments of the diagonal one": ("householder", lambda p: p._replace(moments=lambda key, q: q[:2])),
    "planar: no log-determinants": ("planar", with_log_q(lambda log_q, start, size: start)),
    "planar: sign of the log-determinants": ("planar", with_log_q(lambda log_q, start, size: 2 * start - log_q)),
    "planar: mean for sum": ("planar", with_log_q(lambda log_q, start, size: log_q / size)),
    "iaf: no log-determinants": ("iaf", with_log_q(lambda log_q, start, size: start)),
    "iaf: sign of the log-determinants": ("iaf", with_log_q(lambda log_q, start, size: 2 * start - log_q)),
    "iaf: density without the context": ("iaf", _NO_EXTRA),
    "iaf: flows in the same order backward": ("iaf", _log_prob_of(_swapped_flows)),
}
