"""The numbers of a run are those of the parameters that it reports, of every test example once, with the right errors."""

import math
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from vae_jax import data, runs, training
from vae_jax.build import build
from vae_jax.config import Config, Hyperparams
from vae_jax.evaluation import Annealing, Evaluation, log_px_from_weights, log_px_means
from vae_jax.evaluation.dataset_means import means
from vae_jax.evaluation.importance import LogPx
from vae_jax.runs import evaluate_run
from vae_jax.runs.parts import map_parts
from vae_jax.runs.summary_file import summarize
from vae_jax.runs.summary_file import test_bits_per_dim as bits_of  # pytest would collect its own name
from vae_jax.sweep.members import groups
from vae_jax.sweep.statistics import rows
from vae_jax.training import optimizers

DECAY, SHAPE, DIFFERENT, COPIES = 0.5, (2, 2, 3), 5, 5


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Small images of three channels; the test set is five of them, over and over, so that equal images lie far apart."""
    rng = np.random.default_rng(0)
    train, validation = rng.integers(0, 2, (24, *SHAPE)), rng.integers(0, 2, (8, *SHAPE))
    test = np.tile(rng.integers(0, 2, (DIFFERENT, *SHAPE)), (COPIES, 1, 1, 1))
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(path, x_train=255 * np.concatenate([train, validation]), x_test=255 * test)
    config = Config(
        dataset=str(path),
        binarize="threshold",
        hidden=(8,),
        latent_dim=3,
        batch_size=24,
        epochs=6,
        ema_decay=DECAY,
        validation_fraction=0.25,
        early_stopping=2,
        learning_rate=0.02,
    )
    return build(config)


def better_and_then_worse(learning_rate):
    """Two steps down the gradient of the loss and long ones up it, so that the second step is the best."""
    return optax.chain(optax.adam(learning_rate), optax.scale_by_schedule(lambda step: jnp.where(step < 2, 1.0, -8.0)))


@pytest.fixture(scope="module")
def averaged(built):
    """A run with a moving average, one step to an epoch, that gets worse; and the raw parameters after each of its steps."""
    seen = []
    optimizer = optimizers.with_params_ema(better_and_then_worse, DECAY)
    fit = training.fit(
        built.vae,
        built.data,
        **built.fit_arguments | {"optimizer": optimizer},
        on_progress=lambda progress: seen.append(jax.tree.map(np.array, progress.state.params)),
    )
    return fit, seen


def average(seen, epoch):
    """The exponential moving average after this epoch, from the parameters after every step; the weights add up to one."""
    weights = np.array([DECAY ** (epoch - 1 - i) for i in range(epoch)])
    return jax.tree.map(
        lambda *leaves: np.tensordot(weights / weights.sum(), np.stack(leaves[:epoch]).astype(np.float64), 1), *seen
    )


@pytest.fixture(scope="module")
def kl_of(built):
    """The mean KL of a split, which has no noise, at these parameters."""

    @jax.jit
    def encode(params, x):
        return jax.vmap(lambda x: built.vae.encode(params, x))(x)

    def kl(params, split):
        mean, log_scale = (np.asarray(a, np.float64) for a in encode(jax.tree.map(jnp.float32, params), np.float32(split)))
        return float(np.mean(np.sum((mean**2 + np.exp(2 * log_scale) - 1) / 2 - log_scale, axis=1)))

    return kl


def test_with_a_moving_average_every_reported_number_is_of_the_average(built, averaged, kl_of):
    fit, seen = averaged
    for record in fit.progress.history:
        for split, reported in ((built.data.test, record.test), (built.data.validation, record.validation)):
            assert reported.kl == pytest.approx(kl_of(average(seen, record.epoch), split), rel=1e-4)
            if record.epoch > 1:  # the average after the first step is the parameters themselves
                assert reported.kl != pytest.approx(kl_of(seen[record.epoch - 1], split), rel=1e-3)


def test_the_best_is_the_average_of_the_best_epoch_and_what_is_reported(averaged):
    fit, seen = averaged
    elbos = [record.validation.elbo for record in fit.progress.history]
    best = 1 + int(np.argmax(elbos))
    assert 1 < best < len(elbos)
    assert (fit.status, fit.epoch, int(fit.progress.best.epoch)) == ("stopped early", best, best)
    for params in (fit.params, fit.progress.best.params):
        chex.assert_trees_all_close(params, jax.tree.map(jnp.float32, average(seen, best)), rtol=1e-5, atol=1e-6)
    assert float(fit.progress.best.elbo) == pytest.approx(elbos[best - 1], rel=1e-6)
    assert fit.test == fit.progress.history[best - 1].test


def test_without_early_stopping_the_average_after_the_last_epoch_is_reported(built, averaged):
    fit, seen = averaged
    stacked = jax.tree.map(lambda leaf: leaf[None], training.MemberState(fit.progress.state, fit.progress.best))
    last = training.params_to_evaluate_members(stacked, 1, built.objective, early_stopping=0)
    last = jax.tree.map(lambda leaf: leaf[0], last)
    chex.assert_trees_all_close(last, jax.tree.map(jnp.float32, average(seen, len(seen))), rtol=1e-5, atol=1e-6)


def test_of_epochs_that_are_equally_good_the_first_is_the_best(built):
    """With a learning rate of zero every epoch is."""
    still = Hyperparams(learning_rate=0.0)
    fit = training.fit(built.vae, built.data, **built.fit_arguments | {"optimizer": optax.adam, "hyperparams": still})
    assert len({record.validation.elbo for record in fit.progress.history}) == 1
    assert (int(fit.progress.best.epoch), fit.epoch) == (1, 1)
    assert (fit.status, len(fit.progress.history)) == ("stopped early", 3)  # two epochs without a better one


def with_codes_of(vae):
    """The model with an encoder of which as many dimensions follow the image as its parameters say; the others are N(0, 1)."""

    def encode(params, x):
        follows = jnp.arange(vae.latent_dim) < params["used"]
        return jnp.where(follows, 3 * x.ravel()[: vae.latent_dim], 0.0), jnp.zeros(vae.latent_dim)

    return vae._replace(encode=encode)


def test_active_and_collapsed_units_are_of_the_parameters_that_are_reported(built, averaged):
    """In the summary of a run and in the row of a member of a sweep, whose last parameters use no dimension at all."""
    coded = built._replace(vae=with_codes_of(built.vae))
    reported, last = ({"used": jnp.int32(used)} for used in (2, 0))
    progress = averaged[0].progress._replace(state=averaged[0].progress.state._replace(params=last))
    fit = averaged[0]._replace(params=reported, progress=progress)
    summary = summarize(coded, fit, 24, 1.0)
    assert (summary["active_units"], summary["collapsed_units"], summary["evaluated_epoch"]) == (2, [2], fit.epoch)
    stack = lambda tree: jax.tree.map(lambda leaf: leaf[None], tree)  # noqa: E731
    status, stacked = (fit.status,), stack(training.MemberState(progress.state, progress.best))
    members = training.MembersProgress(stacked, (progress.history,), status, len(progress.history))
    [group] = groups([built.config])
    [row] = rows(group, coded, training.MembersFit(members, status, stack(reported), (fit.epoch,), (fit.test,), None))
    assert (row["active_units"], row["evaluated_epoch"]) == (2, fit.epoch)
    np.testing.assert_array_equal(np.array(row["kl_per_dimension"]) > 0.1, [True, True, False])


@pytest.fixture(scope="module")
def assessed(built, averaged):
    """Everything that is measured of a run, with as little work as it takes; and what was measured."""
    settings = Annealing(num_temperatures=1, num_chains=2)
    run = runs.Run(Path(), built, averaged[0].epoch, averaged[0].params, None, [], [])
    options = evaluate_run.EvaluationOptions(
        num_samples=30, elbo_samples=2, annealing=settings, gap_steps=1, num_annealed=21, num_simulated=3
    )
    return evaluate_run.assess(run, options)


def test_every_example_is_assessed_once_with_draws_of_its_own(assessed, built):
    """25 examples in parts of two, of which the last part has one: twenty-one likewise."""
    numbers, examples = assessed
    assert (numbers["num_test_examples"], numbers["ais"]["num_examples"], numbers["gaps"]["num_examples"]) == (25, 21, 21)
    for name in ("log_likelihood", "kl", "log_px", "log_px_half", "standard_error"):
        assert examples[name].shape == (25,), name
    for name in ("ais_log_px", "best_elbo", "approximation_gap"):
        assert examples[name].shape == (21,), name
    for name in ("log_likelihood", "log_px", "ais_log_px", "best_elbo"):
        values = examples[name]
        assert len(np.unique(values)) == len(values), name  # images that are equal are not drawn with the same noise
    np.testing.assert_allclose(examples["kl"].reshape(COPIES, DIFFERENT), np.tile(examples["kl"][:DIFFERENT], (COPIES, 1)))


def test_standard_errors_are_those_of_a_mean(assessed):
    """SciPy's, whose degrees of freedom are one less than the examples, on so few that this is seen."""
    numbers, examples = assessed
    elbo = examples["log_likelihood"].astype(np.float64) - examples["kl"]
    for found, name, values in (
        (numbers, "test_elbo", elbo),
        (numbers, "log_px", examples["log_px"]),
        (numbers["ais"], "log_px", examples["ais_log_px"]),
        (numbers["gaps"], "approximation_gap", examples["approximation_gap"]),
        (numbers["gaps"], "amortization_gap", examples["amortization_gap"]),
        (numbers["gaps"], "best_elbo", examples["best_elbo"]),
    ):
        values = np.asarray(values, np.float64)
        mean = found[f"{name}_mean"] if name == "log_px" else found[name]
        assert mean == pytest.approx(values.mean(), rel=1e-6, abs=1e-6), name
        assert found[f"{name}_standard_error"] == pytest.approx(stats.sem(values), rel=1e-6), name
    bounds = numbers["bdmc"]
    assert bounds["num_examples"] == 3
    assert bounds["gap"] == pytest.approx(bounds["upper"] - bounds["lower"], abs=1e-4)


def test_bits_are_per_channel_of_each_pixel(assessed, built):
    numbers, _ = assessed
    for of_bits, nats in (("test_bits_per_dim", "test_elbo"), ("log_px_bits_per_dim", "log_px_mean")):
        assert numbers[of_bits] == pytest.approx(-numbers[nats] / (2 * 2 * 3 * math.log(2)))
    # A uniform density on [0, 1] gives each of 256 levels of each channel the probability 1/256: 8 bits.
    gray = data.prepare(built.dataset, dequantize=True)
    assert bits_of(built._replace(data=gray), gray.log_jacobian) == pytest.approx(8.0)


@pytest.mark.parametrize("count", [1, 19, 20, 21, 25, 41])
def test_parts_of_a_data_set_give_what_the_whole_does(count):
    """Returns every value once, with the number of its example, from which its keys are made."""
    values, done = jnp.arange(3.0, 3.0 + count), []

    def of_part(params, part, first):
        return {"value": params * part, "number": first + jnp.arange(len(part))}

    found = map_parts(of_part, jnp.float32(2), values, done.append)
    np.testing.assert_array_equal(found["value"], 2 * values)
    np.testing.assert_array_equal(found["number"], np.arange(count))
    assert done == sorted(done)
    assert done[-1] == count


def estimates(log_px, half, error):
    """Estimates whose weights have light tails, so that the errors can be trusted."""
    given = {"log_px": log_px, "log_px_half": half, "standard_error": error, "pareto_k": [-0.2] * len(log_px)}
    return LogPx(*(np.float32(given.get(name, [50.0] * len(log_px))) for name in LogPx._fields))


def test_the_interval_of_log_p_has_two_biases_above_and_three_errors_to_both_sides():
    found = log_px_means(estimates([-10.0, -12.0, -11.0], [-10.5, -12.5, -11.8], [0.1, 0.2, 0.2]), 100)
    error = math.sqrt(0.1**2 + 0.2**2 + 0.2**2) / 3
    assert found.log_px == pytest.approx(-11)
    assert found.monte_carlo_error == pytest.approx(error, rel=1e-5)
    assert found.bias == pytest.approx(0.6, rel=1e-5)
    np.testing.assert_allclose(found.interval, (-11 - 3 * error, -11 + 3 * error + 2 * 0.6), rtol=1e-5)
    assert found.standard_error == pytest.approx(stats.sem([-10.0, -12.0, -11.0]), rel=1e-5)


def test_a_bias_below_zero_is_none():
    found = log_px_means(estimates([-10.0, -12.0], [-9.5, -12.0], [0.1, 0.1]), 100)
    error = math.sqrt(0.1**2 + 0.1**2) / 2
    assert found.bias == 0
    np.testing.assert_allclose(found.interval, (-11 - 3 * error, -11 + 3 * error), rtol=1e-5)


def test_errors_over_two_draws_or_two_examples_are_those_of_a_mean():
    """Uses the smallest samples, where a degree of freedom too many halves the variance."""
    weights = np.array([1.0, 3.0])
    found = jax.jit(log_px_from_weights)(jnp.log(jnp.asarray(weights, jnp.float32)))
    assert float(found.standard_error) == pytest.approx(stats.sem(weights) / weights.mean(), rel=1e-5)
    pair = means(Evaluation(jnp.array([-3.0, -5.0]), jnp.array([1.0, 2.0])))
    assert pair.elbo_standard_error == pytest.approx(stats.sem([-4.0, -7.0]))


def test_before_the_first_step_the_average_is_the_parameters_themselves():
    params = {"w": jnp.array([1.0, -2.0])}
    state = optimizers.with_params_ema(optax.sgd, 0.9)(0.1).init(params)
    chex.assert_trees_all_equal(optimizers.evaluation_params(params, state, jnp.int32(0)), params)
