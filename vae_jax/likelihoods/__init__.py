"""Log-likelihoods log p(x|z) of one example, in nats, and the bundles of them that go into a `VAE`.

Every `*_log_prob` takes the decoder outputs first and then `x`: arrays of one event (any shape), without a batch axis.
It returns a scalar, to be maximized, summed over the event. Every likelihood is normalized, constants included, so any two are
comparable on the same data. The arithmetic is at least float32, and the result has the dtype of the inputs.
"""

from vae_jax.likelihoods.base import DISCRETE, DecoderOutput, Likelihood, Support, from_log_prob, outside_support
from vae_jax.likelihoods.binary import bernoulli, bernoulli_log_prob, bernoulli_log_prob_from_probs
from vae_jax.likelihoods.counts import negative_binomial, negative_binomial_log_prob, poisson, poisson_log_prob
from vae_jax.likelihoods.levels import (
    categorical,
    categorical_log_prob,
    discretized_logistic,
    discretized_logistic_log_prob,
)
from vae_jax.likelihoods.mixtures import (
    logistic_mixture,
    logistic_mixture_log_prob,
    logistic_mixture_rgb,
    logistic_mixture_rgb_log_prob,
)
from vae_jax.likelihoods.real import (
    gaussian,
    gaussian_log_prob,
    laplace,
    laplace_log_prob,
    student_t,
    student_t_log_prob,
)
from vae_jax.likelihoods.unit_interval import (
    continuous_bernoulli,
    continuous_bernoulli_log_prob,
    continuous_bernoulli_mean,
)

__all__ = [
    "DISCRETE",
    "DecoderOutput",
    "Likelihood",
    "Support",
    "bernoulli",
    "bernoulli_log_prob",
    "bernoulli_log_prob_from_probs",
    "categorical",
    "categorical_log_prob",
    "continuous_bernoulli",
    "continuous_bernoulli_log_prob",
    "continuous_bernoulli_mean",
    "discretized_logistic",
    "discretized_logistic_log_prob",
    "from_log_prob",
    "gaussian",
    "gaussian_log_prob",
    "laplace",
    "laplace_log_prob",
    "logistic_mixture",
    "logistic_mixture_log_prob",
    "logistic_mixture_rgb",
    "logistic_mixture_rgb_log_prob",
    "negative_binomial",
    "negative_binomial_log_prob",
    "outside_support",
    "poisson",
    "poisson_log_prob",
    "student_t",
    "student_t_log_prob",
]
