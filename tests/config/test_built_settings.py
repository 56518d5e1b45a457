"""Settings that `build` takes from the data: the number of examples, the start of learned scales, the number of steps."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vae_jax import likelihoods
from vae_jax.build import build, load_dataset, make_likelihood, training_data
from vae_jax.config import Config
from vae_jax.errors import UserError


@pytest.fixture(scope="module")
def digits():
    """With a validation set, so that training examples are neither a batch nor all that there are."""
    return load_dataset(Config(validation_fraction=0.1))


BATCH_OF_CODES = 16
NUMBERS = {
    "stratified": ({}, 1294),
    "weighted": ({"tc_weights": "weighted"}, 1294 * BATCH_OF_CODES),
    "images drawn anew": ({"dataset": "sprites"}, 737_280),  # all that there are, not the 65,536 of an epoch
}


@pytest.mark.parametrize(("settings", "number"), NUMBERS.values(), ids=NUMBERS)
def test_beta_tcvae_knows_the_number_of_training_examples(digits, settings, number):
    """Codes that lie far apart: each is its own example's alone, so q(z) is its weight times q(z|x), 1/N or 1/(N B)."""
    config = Config(objective="beta_tcvae", batch_size=BATCH_OF_CODES, **settings)
    dataset = load_dataset(config) if "dataset" in settings else digits
    objective = config.entry("objective").factory(config, training_data(config, dataset))
    log_prob = lambda output, x: jnp.zeros(())  # noqa: E731

    @jax.jit
    def terms_of(x):
        encode = lambda x: (x, jnp.zeros(1))  # noqa: E731
        return objective.terms(jax.random.key(0), encode, lambda z: z, log_prob, x, config.hyperparams, ())[0]

    terms = terms_of(100.0 * jnp.arange(BATCH_OF_CODES)[:, None])
    np.testing.assert_allclose(terms.extra["mutual_information"], math.log(number), rtol=1e-5)


@pytest.fixture(scope="module")
def real():
    """Real data whose standard deviation is 3, about a mean image that is not constant."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(500, 3, 3, 1))
    images *= 3 / np.sqrt(images.var(axis=0).mean())
    images += 10 * rng.normal(size=(3, 3, 1))
    train = images.astype(np.float32)
    return load_dataset(Config())._replace(name="real", train=train, validation=None, test=train[:20], max_level=None)


FAMILIES = {
    "gaussian": ({}, lambda sd: stats.norm(scale=sd)),
    "laplace": ({}, lambda sd: stats.laplace(scale=sd / stats.laplace.std())),
    "student_t": ({}, lambda sd: stats.t(4, scale=sd / stats.t(4).std())),
    "student_t of many": ({"degrees_of_freedom": 30.0}, lambda sd: stats.t(30, scale=sd / stats.t(30).std())),
    "student_t of few": ({"degrees_of_freedom": 2.0}, lambda sd: stats.t(2, scale=sd / 2)),  # which has no variance
}


@pytest.mark.parametrize("scale", ["shared", "per_column", "per_pixel"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_learned_scale_starts_at_the_standard_deviation_of_the_data(name, scale, real):
    """The density by SciPy, at a location of 1 and with the scale's own number as it is before training."""
    settings, family = FAMILIES[name]
    bundle = make_likelihood(Config(likelihood=name.split()[0], scale=scale, **settings), real)
    output = jnp.ones((4, 2)).at[:, 1].set(0.0) if scale == "per_pixel" else (jnp.ones(4), jnp.array(bundle.shared_start))
    x = jnp.array([-5.0, 0.0, 1.0, 8.0])
    # A scale of each pixel has a soft floor six nats below, which lifts it by 0.0025.
    expected = family(3.0).logpdf(np.asarray(x, np.float64) - 1).sum()
    assert float(jax.jit(bundle.log_prob)(output, x)) == pytest.approx(expected, abs=1e-3 if scale == "shared" else 2e-2)


def test_scales_of_levels_and_of_binary_data_start_at_theirs(digits):
    std = digits.train_std
    logistic = make_likelihood(Config(likelihood="discretized_logistic"), digits)
    acting = float(logistic.shared_values(jnp.array(logistic.shared_start))[0])
    assert stats.logistic(scale=math.exp(acting)).std() == pytest.approx(std, rel=0.05)  # but for its soft floor
    mixture = make_likelihood(Config(likelihood="logistic_mixture", num_components=3), digits)
    same = likelihoods.logistic_mixture(17, 3, initial_scale=std / stats.logistic.std())
    output, x = jnp.zeros((2, 9)), jnp.array([0.25, 1.0])
    found, expected = (float(jax.jit(bundle.log_prob)(output, x)) for bundle in (mixture, same))
    assert found == pytest.approx(expected, rel=1e-5)
    binary = make_likelihood(Config(likelihood="gaussian", scale="shared", binarize="fixed"), digits)
    assert math.exp(binary.shared_start[0]) == pytest.approx(0.5)  # the most that zeros and ones can have


EPOCHS, BATCH, STEPS = 3, 500, 6  # of 1,438 examples two whole batches an epoch, and a part that waits


def schedules(**settings):
    return build(Config(epochs=EPOCHS, batch_size=BATCH, hidden=(4,), latent_dim=2, **settings)).fit_arguments["schedules"]


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_a_learning_rate_that_falls_is_zero_where_the_run_ends(name):
    factor = schedules(learning_rate_schedule=name, learning_rate_warmup_steps=1)["learning_rate"]
    share = 1 / 5  # of the five steps after the warm-up the last is left
    before = share if name == "linear" else 0.5 * (1 + math.cos(math.pi * (1 - share)))
    found = [float(factor(step)) for step in (0, 1, STEPS - 1, STEPS)]
    np.testing.assert_allclose(found, [0, 1, before, 0], atol=1e-6)


def test_cycles_of_beta_fill_the_run():
    factor = schedules(beta_schedule="cyclical", beta_cycles=3)["beta"]
    np.testing.assert_allclose([float(factor(step)) for step in range(STEPS)], [0, 1, 0, 1, 0, 1], atol=1e-5)


@pytest.mark.parametrize(
    ("setting", "others"),
    [("beta_warmup_steps", {}), ("capacity_warmup_steps", {"objective": "capacity"}), ("learning_rate_warmup_steps", {})],
)
def test_a_warm_up_has_to_end_before_the_last_step(setting, others):
    name = setting.removesuffix("_warmup_steps")
    factor = schedules(**{setting: STEPS - 1}, **others)[name]
    np.testing.assert_allclose([float(factor(step)) for step in (0, 1, STEPS - 1)], [0, 1 / (STEPS - 1), 1], atol=1e-6)
    with pytest.raises(UserError, match=rf"{STEPS} steps, and the run has {STEPS}\b"):
        schedules(**{setting: STEPS}, **others)
