"""The catalog of what the public functions refuse, with the words that they refuse it in; the scripts' are in tests/system.

Shapes, types and options are looked at while a function is traced, so nothing of it is in the compiled program.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax import (
    conventions,
    data,
    divergences,
    evaluation,
    likelihoods,
    model,
    objectives,
    posteriors,
    priors,
    sweep,
    training,
)
from vae_jax.config import Config, Hyperparams
from vae_jax.errors import UserError
from vae_jax.evaluation import posterior_collapse
from vae_jax.objectives import batch as cross_batch

KEY, SHAPE = jax.random.key(0), (8, 8, 1)
zeros = jnp.zeros
encode = lambda x: (zeros(2), zeros(2))  # noqa: E731
decode = lambda z: zeros(3)  # noqa: E731


def iwae(**options):
    return objectives.iwae(KEY, encode, decode, likelihoods.bernoulli_log_prob, zeros(3), **options)


def vae(shape=SHAPE, likelihood=None, **options):
    return model.mlp_vae(shape, likelihood or likelihoods.bernoulli(), **{"latent_dim": 2, "hidden": (4,), **options})


def conv(shape=(28, 28, 1), **options):
    return model.conv_vae(shape, likelihoods.bernoulli(), latent_dim=2, **options)


def fit(of=None, **options):
    prepared = data.prepare(data.load("digits"), binarization=options.pop("binarization", "dynamic"))
    return training.fit(of or vae(), prepared, **{"epochs": 1, "batch_size": 100, "seed": 0, **options})


ONE = "The function takes ONE example: use jax.vmap for a batch."
RESHAPE = "They have equally many numbers: reshape or transpose one of them."
AS_LARGE = "Make the network's output as large as the example."
# name: (call, kind of error, its words)
CALLS = {
    "pixels and logits": (
        lambda: likelihoods.bernoulli_log_prob(zeros(3), zeros(4)),
        ValueError,
        "bernoulli_log_prob: expected one example with equal shapes, got logits (3,), x (4,). " + AS_LARGE,
    ),
    "a batch and an example": (
        lambda: likelihoods.bernoulli_log_prob(zeros((2, 3)), zeros(3)),
        ValueError,
        f"got logits (2, 3), x (3,). {ONE}",
    ),
    "a transposed image": (lambda: likelihoods.bernoulli_log_prob(zeros((2, 3)), zeros((3, 2))), ValueError, RESHAPE),
    "a flat image": (lambda: likelihoods.gaussian_log_prob(zeros(6), 0.0, zeros((3, 2, 1))), ValueError, RESHAPE),
    "words": (lambda: likelihoods.bernoulli_log_prob("pixels", zeros(3)), TypeError, ""),
    "complex numbers": (
        lambda: likelihoods.gaussian_log_prob(zeros(3) + 1j, 0.0, zeros(3)),
        TypeError,
        "expected real numbers, got complex64.",
    ),
    "probabilities": (
        lambda: likelihoods.bernoulli_log_prob_from_probs(zeros(3), zeros(4)),
        ValueError,
        "got probs (3,), x (4,)",
    ),
    "scale of another size": (
        lambda: likelihoods.gaussian_log_prob(zeros(3), zeros(2), zeros(3)),
        ValueError,
        "got mean (3,), log_scale (2,), x (3,)",
    ),
    "counts": (lambda: likelihoods.poisson_log_prob(zeros(3), zeros(4)), ValueError, "got log_rate (3,), x (4,)"),
    "classes": (
        lambda: likelihoods.categorical_log_prob(zeros((3, 5)), zeros(4)),
        ValueError,
        "equal shapes (logits with 1 more at the end), got logits (3, 5), x (4,)",
    ),
    "a negative scale": (
        lambda: likelihoods.gaussian(-1.0),
        ValueError,
        "gaussian: expected scale to be a positive number, 'shared', 'per_column' or 'per_pixel', got -1.0.",
    ),
    "a scale in words": (lambda: likelihoods.gaussian("wide"), ValueError, "'per_column' or 'per_pixel', got 'wide'."),
    "a scale of nan": (lambda: likelihoods.gaussian(float("nan")), ValueError, "got nan."),
    "a scale of zero": (lambda: likelihoods.laplace(0.0), ValueError, "laplace: expected scale to be a positive number"),
    "degrees of freedom": (
        lambda: likelihoods.student_t(1.0, degrees_of_freedom=-1),
        ValueError,
        "expected degrees_of_freedom to be a positive number, got -1.",
    ),
    "one level": (lambda: likelihoods.discretized_logistic(1), ValueError, "expected num_bins >= 2, got 1."),
    "one class": (lambda: likelihoods.categorical(1), ValueError, "categorical: expected num_bins >= 2, got 1."),
    "no component": (
        lambda: likelihoods.logistic_mixture(256, num_components=0),
        ValueError,
        "logistic_mixture: expected num_components >= 1, got 0.",
    ),
    "no component of colors": (
        lambda: likelihoods.logistic_mixture_rgb(256, num_components=0),
        ValueError,
        "logistic_mixture_rgb: expected num_components >= 1, got 0.",
    ),
    "a negative dispersion": (lambda: likelihoods.negative_binomial(-2.0), ValueError, "expected dispersion to be a positive"),
    "no function": (
        lambda: likelihoods.from_log_prob(3),
        UserError,
        "expected a likelihood (decoder_output, x) -> scalar nats of ONE example, got 3.",
    ),
    "one argument": (lambda: likelihoods.from_log_prob(lambda x: x), UserError, "of ONE example, got <lambda>(x)."),
    "a support of its own": (
        lambda: likelihoods.from_log_prob(lambda output, x: 0.0, support="gray"),
        ValueError,
        "expected support among binary, unit_interval, levels, counts, real, got 'gray'.",
    ),
    "mean and log_scale": (
        lambda: divergences.kl_to_standard_normal(zeros(3), zeros(4)),
        ValueError,
        "kl_to_standard_normal: expected one example with equal shapes, got mean (3,), log_scale (4,).",
    ),
    "two sizes of Gaussians": (
        lambda: divergences.kl_diagonal_gaussians(zeros(3), zeros(3), zeros(4), zeros(4)),
        ValueError,
        "got mean_q (3,), log_scale_q (3,), mean_p (4,), log_scale_p (4,)",
    ),
    "a factor that does not fit": (
        lambda: divergences.kl_full_gaussians(zeros(3), jnp.eye(2), zeros(3), jnp.eye(3)),
        ValueError,
        "expected one example with means (latent,) and factors (latent, latent), got (3,), (2, 2), (3,), (3, 3).",
    ),
    "no sample of a KL": (
        lambda: divergences.kl_monte_carlo(KEY, lambda key: zeros(2), lambda z: 0.0, lambda z: 0.0, num_samples=0),
        ValueError,
        "kl_monte_carlo: expected num_samples >= 1, got 0.",
    ),
    "groups that do not divide": (
        lambda: divergences.free_bits_per_group(zeros(5), 1.0, 2),
        ValueError,
        "expected num_groups to divide the latent dimensions of one example, got 2 groups for shape (5,).",
    ),
    "a posterior of two shapes": (
        lambda: posteriors.sample_posterior(KEY, zeros(3), zeros(4)),
        ValueError,
        "sample_posterior: expected equal shapes, got mean (3,) and log_scale (4,).",
    ),
    "a mixture of none": (lambda: priors.gaussian_mixture(2, num_components=0), ValueError, "num_components >= 1, got 0."),
    "no importance sample": (lambda: iwae(num_samples=0), ValueError, "expected num_samples >= 1, got 0."),
    "an unknown estimator": (
        lambda: iwae(num_samples=2, estimator="best"),
        ValueError,
        "expected estimator to be 'reparam', 'stl' or 'dreg', got 'best'.",
    ),
    "a KL of one example for the batch": (
        lambda: cross_batch.free_bits_batch_mean(zeros(3), 1.0),
        ValueError,
        "expected the KLs of a batch, shape (batch, latent), got (3,).",
    ),
    "no latent dimension": (
        lambda: vae(latent_dim=0),
        ValueError,
        "expected latent_dim >= 1 and widths >= 1, got latent_dim 0 and widths (4,).",
    ),
    "a layer without units": (lambda: vae(hidden=(8, 0)), ValueError, "got latent_dim 2 and widths (8, 0)."),
    "an unknown activation": (lambda: vae(activation="rellu"), ValueError, "expected an activation among relu, tanh"),
    "a likelihood for each pixel": (
        lambda: vae(likelihood=lambda output, x: x),
        ValueError,
        "to return a scalar (nats summed over one example), got (8, 8, 1). Sum over the event inside it; do not average.",
    ),
    "sides that cannot be halved": (
        lambda: conv((4, 9, 1), channels=(8, 8, 8)),
        ValueError,
        "expected at most 2 channels, one for each halving of 4 x 9 x 1, got 3.",
    ),
    "vectors for convolutions": (
        lambda: conv((49,)),
        ValueError,
        "expected images (height, width, channels) or series (time, channels) for convolutions, got data of shape (49,).",
    ),
    "batch statistics": (
        lambda: conv(norm="batch"),
        ValueError,
        "norm: expected none or group, got 'batch'. Batch statistics would mix the examples.",
    ),
    "no channel": (lambda: conv(channels=(0,)), ValueError, "expected channels >= 1"),
    "an unknown data set": (lambda: data.load("mnits"), UserError, "unknown data set 'mnits'. Did you mean 'mnist'"),
    "no such file": (lambda: data.load("nowhere/a.npy"), UserError, "no such file or folder"),
    "an unknown binarization": (
        lambda: fit(binarization="sometimes"),
        UserError,
        "unknown binarization 'sometimes'. Known: dynamic, fixed, threshold, none.",
    ),
    "gray data for bernoulli": (lambda: fit(binarization="none"), UserError, "bernoulli expects binary data, got gray values"),
    "a batch larger than the data": (
        lambda: fit(batch_size=10**6),
        UserError,
        "batch_size: expected at most the 1438 training examples, got 1000000.",
    ),
    "data of another shape": (
        lambda: fit(vae((9, 8, 1))),
        UserError,
        "training data: expected the shape (9, 8, 1) that the model is made for, got (8, 8, 1).",
    ),
    "an objective of one argument": (
        lambda: fit(objective=lambda x: x),
        UserError,
        "expected an objective (key, encode, decode, log_prob, x, hyperparams) -> Terms",
    ),
    "early stopping without validation": (
        lambda: fit(early_stopping=3),
        UserError,
        "early_stopping: the best epoch is chosen by validation data, and there are none. Hold out validation data with "
        "`validation_fraction=0.1`.",
    ),
    "a beta for each of three": (
        lambda: fit(hyperparams=Hyperparams(beta=np.ones(3))),
        UserError,
        "hyperparams.beta: expected a number or one for each of 1 members, got (3,).",
    ),
    "a width for widths": (lambda: Config(hidden=64).validate(), UserError, "hidden: expected tuple[int, ...], got 64."),
    "a number in words": (lambda: Config(beta="1").validate(), UserError, "beta: expected float, got '1'."),
    "no such choice": (
        lambda: Config(split="first").validate(),
        UserError,
        "split: expected Literal['random', 'last'], got 'first'.",
    ),
    "a setting that is not used": (lambda: Config(capacity=5.0).validate(), UserError, "`capacity` belongs to `objective`"),
    "an unknown setting": (
        lambda: sweep.grid(Config(), betta=(1, 2)),
        UserError,
        "unknown setting to sweep 'betta'. Did you mean 'beta'",
    ),
    "nothing to sweep": (
        lambda: sweep.grid(Config(), beta=()),
        UserError,
        "beta: expected at least one value to sweep, got none.",
    ),
    "the same member twice": (lambda: sweep.sweep([Config(), Config()]), UserError, "members 0 and 1 are the same run"),
    "no sample of log p(x)": (
        lambda: evaluation.importance_log_px(KEY, vae(), None, zeros((2, *SHAPE)), num_samples=0),
        ValueError,
        "importance_log_px: expected num_samples >= 1, got 0.",
    ),
    "means of one example": (
        lambda: posterior_collapse.active_units(zeros(3)),
        ValueError,
        "active_units: expected means (examples, latent), got shape (3,).",
    ),
    "a loss that nobody has": (
        lambda: conventions.implied("mse2", reconstruction_reduction="sum", kl_reduction="sum", data_dims=3, latent_dims=2),
        UserError,
        "unknown reconstruction 'mse2'. Did you mean 'mse'",
    ),
    "a reduction that nobody has": (
        lambda: conventions.implied("mse", reconstruction_reduction="average", kl_reduction="sum", data_dims=3, latent_dims=2),
        UserError,
        "unknown reduction 'average'. Known: sum, mean, batch_mean",
    ),
}


@pytest.mark.parametrize(("call", "kind", "words"), CALLS.values(), ids=CALLS)
def test_refused_in_words(call, kind, words):
    with pytest.raises(kind) as refused:
        call()
    assert words in str(refused.value)


def test_under_jit_as_well():
    """At trace time, before anything runs."""
    for arguments, words in (((zeros(3), zeros(4)), AS_LARGE), ((zeros((2, 3)), zeros(3)), ONE)):
        with pytest.raises(ValueError, match=words):
            jax.jit(likelihoods.bernoulli_log_prob).lower(*arguments)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (likelihoods.bernoulli_log_prob, (zeros(5), zeros(5))),
        (likelihoods.gaussian_log_prob, (zeros(5), zeros(5), zeros(5))),
        (likelihoods.categorical_log_prob, (zeros((5, 3)), zeros(5))),
        (divergences.kl_to_standard_normal, (zeros(5), zeros(5))),
        (divergences.kl_full_gaussians, (zeros(3), jnp.eye(3), zeros(3), jnp.eye(3))),
    ],
)
def test_nothing_of_the_checks_is_compiled(function, arguments):
    lowered = jax.jit(jax.grad(function)).lower(*arguments).as_text()
    assert not [word for word in ("callback", "assert", "print", "send", "infeed", "outfeed") if word in lowered]
