"""The shapes in the annotations of the mathematics: every public function has them, and they are true."""

import ast
import inspect
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float, jaxtyped
from paths import PACKAGE

from vae_jax import divergences, likelihoods, objectives, posteriors, priors
from vae_jax.objectives import batch

FOLDERS = ("likelihoods", "objectives", "posteriors", "priors")
MODULES = [
    PACKAGE / "divergences.py",
    *(p for name in FOLDERS for p in (PACKAGE / name).rglob("*.py")),
]
BARE = {"Array", "ArrayLike"}


@pytest.mark.parametrize("path", sorted(MODULES), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_public_functions_annotate_the_shapes_of_their_arrays(path):
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            arguments = node.args.args + node.args.kwonlyargs
            hints = {argument.arg: argument.annotation for argument in arguments} | {"return": node.returns}
            bare = [name for name, hint in hints.items() if isinstance(hint, ast.Name) and hint.id in BARE]
            assert not bare, f"{node.name}: {bare}"


def model_of(x):
    """(encode, decode, log_prob) of a model whose posterior and decoder do not depend on x."""
    return lambda x: (jnp.ones(2), jnp.zeros(2)), lambda z: jnp.outer(z, jnp.ones(3)), likelihoods.gaussian(0.5).log_prob, x


EVENT, VECTOR, SQUARE = np.ones((2, 3), np.float32), np.ones(2, np.float32), np.eye(2, dtype=np.float32)
MIXTURE, PIXELS, COLORS = np.ones((2, 3, 4), np.float32), np.ones((2, 4), np.float32), np.ones((2, 3), np.int32)
BATCH, KEY = np.ones((5, 2, 3), np.float32), jax.random.key(0)
CODES = np.ones((5, 2), np.float32)
CALLS = {
    "bernoulli": lambda check: check(likelihoods.bernoulli_log_prob)(EVENT, EVENT > 0),
    "probs": lambda check: check(likelihoods.bernoulli_log_prob_from_probs)(EVENT, EVENT.astype(np.uint8)),
    "continuous": lambda check: check(likelihoods.continuous_bernoulli_log_prob)(EVENT, EVENT),
    "mean": lambda check: check(likelihoods.continuous_bernoulli_mean)(EVENT),
    "gaussian": lambda check: check(likelihoods.gaussian_log_prob)(EVENT, 0.0, EVENT),
    "laplace": lambda check: check(likelihoods.laplace_log_prob)(EVENT, EVENT, EVENT),
    "student_t": lambda check: check(likelihoods.student_t_log_prob)(EVENT, np.float32(0), EVENT, 3),
    "poisson": lambda check: check(likelihoods.poisson_log_prob)(EVENT, EVENT.astype(int)),
    "negative_binomial": lambda check: check(likelihoods.negative_binomial_log_prob)(EVENT, 0.0, EVENT),
    "zero_inflated": lambda check: check(likelihoods.zero_inflated_negative_binomial_log_prob)(EVENT, EVENT, 0.0, EVENT),
    "multinomial": lambda check: check(likelihoods.multinomial_log_prob)(EVENT, EVENT.astype(int)),
    "logistic": lambda check: check(likelihoods.discretized_logistic_log_prob)(EVENT, 0.0, EVENT.astype(np.uint8)),
    "categorical": lambda check: check(likelihoods.categorical_log_prob)(MIXTURE, EVENT),
    "mixture": lambda check: check(likelihoods.logistic_mixture_log_prob)(MIXTURE, MIXTURE, MIXTURE, EVENT),
    "rgb": lambda check: check(likelihoods.logistic_mixture_rgb_log_prob)(PIXELS, MIXTURE, MIXTURE, MIXTURE, COLORS),
    "kl": lambda check: check(divergences.kl_to_standard_normal)(VECTOR, VECTOR),
    "kl diagonal": lambda check: check(divergences.kl_diagonal_gaussians)(VECTOR, VECTOR, VECTOR, VECTOR),
    "kl full": lambda check: check(divergences.kl_full_gaussians)(VECTOR, SQUARE, VECTOR, SQUARE),
    "kl per dimension": lambda check: check(divergences.kl_per_dimension)(VECTOR, VECTOR),
    "free bits": lambda check: check(divergences.free_bits_per_group)(VECTOR, 0.1, 2),
    "sample": lambda check: check(posteriors.sample_posterior)(KEY, VECTOR, VECTOR),
    "posterior": lambda check: check(posteriors.posterior_log_prob)(VECTOR, VECTOR, VECTOR),
    "gaussian mixture": lambda check: check(priors.gaussian_mixture_log_prob)(VECTOR, np.ones(5, np.float32), CODES, CODES),
    "vamp": lambda check: check(priors.vamp_log_prob)(VECTOR, lambda x: (x[:, 0], x[:, 0]), BATCH),
    "prior": lambda check: check(priors.kl_to_prior)(KEY, VECTOR, VECTOR, lambda z: -z.sum()),
    "log mean exp": lambda check: check(objectives.log_mean_exp_k)(EVENT),
    "elbo": lambda check: check(objectives.elbo)(KEY, *model_of(EVENT), beta=2.0),
    "capacity": lambda check: check(objectives.capacity_elbo)(KEY, *model_of(EVENT), capacity=2.0),
    "free bits elbo": lambda check: check(objectives.free_bits_elbo)(KEY, *model_of(EVENT), free_bits=0.5),
    "iwae": lambda check: check(objectives.iwae)(KEY, *model_of(EVENT), num_samples=3),
    "piwae": lambda check: check(objectives.piwae)(KEY, *model_of(EVENT), num_samples=3, num_groups=2),
    "ciwae": lambda check: check(objectives.ciwae)(KEY, *model_of(EVENT), num_samples=3, elbo_weight=0.5),
    "tcvae": lambda check: check(batch.beta_tc_elbo)(KEY, *model_of(BATCH), beta=2.0, num_examples=9),
    "kl parts": lambda check: check(batch.kl_parts)(CODES, CODES, CODES, 9),
    "weights": lambda check: check(batch.log_importance_weights)(5, 9, "stratified"),
    "dip": lambda check: check(batch.dip_elbo)(KEY, *model_of(BATCH), lambda_od=2.0, lambda_d=3.0, variant="ii"),
    "info": lambda check: check(batch.info_elbo)(KEY, *model_of(BATCH), mmd_weight=2.0),
    "batch mean": lambda check: check(batch.free_bits_batch_mean_elbo)(KEY, *model_of(BATCH), free_bits=2.0),
    "scale": lambda check: check(batch.optimal_log_scale)(BATCH, BATCH),
    "mmd": lambda check: check(batch.mmd)(CODES, CODES[:3]),
    "shuffle": lambda check: check(batch.permute_dimensions)(KEY, jnp.asarray(CODES)),
}


def checked(function):
    """The function, with a check that the shapes of its arguments and results are those of its annotations."""

    def call(*arguments, **keywords):
        arguments = [jnp.asarray(value) if isinstance(value, np.ndarray) else value for value in arguments]
        values = inspect.signature(function).bind(*arguments, **keywords).arguments
        hints = dict(function.__annotations__)
        with jaxtyped("context"):
            result = function(*arguments, **keywords)
            if hasattr(result, "_fields"):
                values |= result._asdict()
                hints |= type(result).__annotations__
            else:
                values["return"] = result
            for name, value in values.items():
                hint = hints.get(name)
                kinds = typing.get_args(hint) or (hint,)  # of a union
                if "jaxtyping" in repr(hint) and not callable(value) and not any(map(typing.get_origin, kinds)):
                    assert any(isinstance(value, kind) for kind in kinds), f"{name}: {value} is not {hint}"
        return result

    return call


@pytest.mark.parametrize("name", CALLS)
def test_the_annotated_shapes_are_true(name):
    jax.eval_shape(lambda: CALLS[name](checked))  # nothing is compiled


def test_a_wrong_shape_is_noticed():
    def kl(mean: Float[Array, "latent"], log_scale: Float[Array, "latent"]) -> Float[Array, ""]:
        return jnp.sum(mean) + jnp.sum(log_scale)

    checked(kl)(jnp.ones(2), jnp.ones(2))
    with pytest.raises(AssertionError, match="log_scale"):
        checked(kl)(jnp.ones(2), jnp.ones(3))
