"""Every likelihood and every objective that train.py names: built from a Config and trained; states saved and resumed."""

import dataclasses
import inspect
import math

import jax
import numpy as np
import optax
import pytest
from speed import slow_but

from vae_jax import likelihoods, runs, training
from vae_jax.build import build, load_dataset
from vae_jax.config import Config, Hyperparams, entries, from_dict, settings_of
from vae_jax.errors import UserError
from vae_jax.objectives import elbo
from vae_jax.runs.likelihood_comparison import plan
from vae_jax.runs.summary_file import test_bits_per_dim as bits_of  # pytest would collect its own name
from vae_jax.training import optimizers, schedules

SMALL = Config(epochs=2, hidden=(16,), latent_dim=4, batch_size=256)
NEEDED = {
    "geco": {"target_distortion": 20.0},
    "optimal_sigma": {"likelihood": "gaussian"},
    "miwae": {"num_groups": 2, "num_samples": 3, "estimator": "dreg"},
    "piwae": {"num_groups": 2, "num_samples": 3},
    "iwae": {"num_samples": 3, "estimator": "stl"},
    "ciwae": {"num_samples": 3, "elbo_weight": 0.1},
    "free_bits": {"free_bits_per": "group", "num_groups": 2},
}
EXTRA = {
    "geco": {"multiplier"},
    "optimal_sigma": {"log_scale"},
    "beta_tcvae": {"mutual_information", "total_correlation", "dimension_wise_kl"},
    "dip_vae_i": {"dip_penalty"},
    "dip_vae_ii": {"dip_penalty"},
    "info_vae": {"mmd"},
    "factor_vae": {"total_correlation", "discriminator_loss"},
}


def with_objective(objective):
    return build(dataclasses.replace(SMALL, objective=objective, **NEEDED.get(objective, {})))


# Beside the default: one state of its own, one importance-weighted, one across the batch, one with a network of its own.
@pytest.mark.parametrize("objective", slow_but(("geco", "miwae", "beta_tcvae", "factor_vae"), entries("objective")))
def test_each_objective_trains_and_has_its_terms_on_record(objective):
    built = with_objective(objective)
    fit = training.fit(built.vae, built.data, **built.fit_arguments)
    assert (fit.status, len(fit.progress.history)) == ("finished", 2)
    first, last = (epoch.train for epoch in fit.progress.history)
    assert set(last.extra) == EXTRA.get(objective, set())
    assert last.loss < first.loss or objective == "geco"  # whose loss changes with its multiplier
    assert fit.test.elbo == pytest.approx(fit.test.log_likelihood - fit.test.kl)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["geco", "optimal_sigma", "factor_vae"])
def test_what_an_objective_remembers_is_saved_and_resumed_bit_for_bit(objective, tmp_path):
    built = with_objective(objective)
    fit, summary = runs.train(built, tmp_path / "whole")
    assert jax.tree.leaves(fit.progress.state.objective_state)
    jax.tree.map(np.testing.assert_array_equal, runs.load_run(tmp_path / "whole").params, fit.params)
    runs.train(built, tmp_path / "parts", on_epoch=lambda line: line["epoch"] == 1)
    resumed, again = runs.train(built, tmp_path / "parts", resume=True)
    jax.tree.map(np.testing.assert_array_equal, resumed.progress.state, fit.progress.state)
    assert again["test_elbo"] == summary["test_elbo"]
    assert [e.train for e in resumed.progress.history] == [e.train for e in fit.progress.history]


VARIANTS = {
    "scale": ("auto", "shared", "per_column", "per_pixel"),
    "dispersion": ("shared", "2.0", "per_column", "per_pixel"),
    "exposure": ("none", "observed"),
    "count_input": ("standardized", "log1p"),
}
SETTINGS = [
    (name, setting, value)
    for name in entries("likelihood")
    for setting, values in VARIANTS.items()
    for value in values
    if setting in settings_of("likelihood", name)
] + [(name, "epochs", 2) for name in entries("likelihood") if name == "logistic_mixture" or not settings_of("likelihood", name)]


# One with a value of all pixels, one with a value of each, one that is a mixture.
QUICK = (
    ("gaussian", "scale", "shared"),
    ("zero_inflated_negative_binomial", "dispersion", "per_pixel"),
    ("negative_binomial", "exposure", "observed"),
    ("logistic_mixture", "epochs", 2),
)


@pytest.mark.parametrize(("name", "setting", "value"), slow_but(QUICK, SETTINGS), ids=str)
def test_each_likelihood_starts_at_the_training_mean_and_gets_better(name, setting, value):
    config = dataclasses.replace(SMALL, likelihood=name, output_bias="train_mean", **{setting: value})
    built = build(config)
    params = jax.jit(built.vae.init)(jax.random.key(0))
    # With the last layer's weights at zero what is left is its bias: the decoder then predicts the mean image.
    layers = params["decoder"]
    last = max(layers, key=lambda layer: int(layer.rsplit("_", 1)[-1]) if layer.startswith("Dense") else -1)
    layers[last]["kernel"] = 0 * layers[last]["kernel"]
    unit = 16 if built.vae.likelihood.support == "counts" else 1
    predicted = jax.jit(lambda params: built.vae.likelihood.mean(built.vae.decode(params, jax.numpy.zeros(4))))(params)
    # With exposure, zero inflation takes its share of the total: 1 - sigmoid(-3) is left.
    left = 1 / (1 + math.exp(-3)) if (name[:4], value) == ("zero", "observed") else 1
    np.testing.assert_allclose(predicted, built.dataset.train_mean * unit * left, atol=2e-3 * unit)
    fit = training.fit(built.vae, built.data, **built.fit_arguments)
    first, last = fit.progress.history
    assert fit.status == "finished"
    assert last.test.elbo > first.test.elbo
    bits = bits_of(built, last.test.elbo)
    if built.vae.likelihood.support in ("real", "unit_interval"):
        assert bits is None
    else:
        assert bits == pytest.approx(-last.test.elbo / (64 * math.log(2)))


@pytest.mark.slow
def test_colors_train_with_coupled_channels(tmp_path):
    rng = np.random.default_rng(0)
    base = rng.integers(0, 200, (64, 4, 4, 1))
    np.save(tmp_path / "rgb.npy", (base + rng.integers(0, 20, (64, 4, 4, 3))).astype(np.uint8))
    settings = {"dataset": str(tmp_path / "rgb.npy"), "batch_size": 16, "epochs": 30, "learning_rate": 0.01}

    def bits(likelihood):
        built = build(dataclasses.replace(SMALL, **settings, likelihood=likelihood, num_components=2))
        return bits_of(built, training.fit(built.vae, built.data, **built.fit_arguments).test.elbo)

    coupled, alone = bits("logistic_mixture_rgb"), bits("logistic_mixture")
    assert coupled < alone - 0.3  # green and blue are within 20 levels of red: knowing red saves bits
    assert 5 < coupled < 8
    mean = jax.numpy.full((4, 4, 3), 0.3)
    bundle = likelihoods.logistic_mixture_rgb(256, 2)
    np.testing.assert_allclose(bundle.mean(bundle.output_for_mean(mean)), mean, atol=1e-5)


@pytest.mark.slow
def test_geco_reaches_its_target():
    config = dataclasses.replace(
        SMALL, objective="geco", target_distortion=24.0, epochs=200, batch_size=128, hidden=(64,), learning_rate=3e-3
    )
    built = build(config)
    fit = training.fit(built.vae, built.data, **built.fit_arguments)
    last = fit.progress.history[-20:]
    assert np.mean([-epoch.train.log_likelihood for epoch in last]) == pytest.approx(24.0, abs=0.5)


def test_schedules_rise_as_they_say():
    steps = np.arange(0, 101)

    def factors(*arguments):
        return np.array([float(schedules.rise(*arguments)(step)) for step in steps])

    np.testing.assert_allclose(factors("linear", 50, 100, 4), np.minimum(steps / 50, 1), atol=1e-6)
    np.testing.assert_allclose(factors("cosine", 50, 100, 4), 0.5 * (1 - np.cos(np.pi * np.minimum(steps / 50, 1))), atol=1e-6)
    cyclical = factors("cyclical", 0, 100, 4)
    np.testing.assert_allclose(cyclical[:26], [*np.minimum(steps[:25] / 12.5, 1), 0], atol=1e-5)
    np.testing.assert_array_equal(factors("linear", 0, 100, 4), 1)
    np.testing.assert_array_equal(factors("cosine", 0, 100, 4), 1)


def test_burda_ends_at_a_tenth_however_short_the_run():
    """Against the stages counted one by one: those that end at the same step all count."""
    for total in (1, *range(20, 29), 200, 400, 3280):
        ends = [round(total * (3**i - 1) / 2 / 3280) for i in range(1, 8)]
        steps = np.arange(total)
        expected = 10 ** (-sum((steps >= end).astype(float) for end in ends) / 7)
        factors = jax.jit(schedules.learning_rate_schedule("burda", 0, total))(steps)
        np.testing.assert_allclose(factors, np.broadcast_to(expected, total), rtol=2e-6)
        assert factors[-1] == pytest.approx(0.1, rel=1e-6)


def test_long_runs_of_burda_have_the_bits_that_they_had():
    """If no stages collide, the schedule is optax's with seven equal factors."""
    for total in (3280, 10_000):
        stages = {round(total * (3**i - 1) / 2 / 3280): 10 ** (-1 / 7) for i in range(1, 8)}
        assert len(stages) == 7
        steps = np.arange(total)
        before = optax.piecewise_constant_schedule(1.0, stages)(steps)
        np.testing.assert_array_equal(schedules.learning_rate_schedule("burda", 0, total)(steps), before)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("adamw", {"prior": "vamp", "prior_components": 3}),
        ("lion", {"likelihood": "gaussian", "scale": "shared", "prior": "hierarchical", "prior_hidden": (4,)}),
        ("adamw", {"network": "resnet", "norm": "group", "channels": (2,), "dense": (4,), "output_bias": "train_mean"}),
    ],
)
def test_weights_decay_and_nothing_else(name, settings):
    """Without a gradient, an update is the decay alone; a bias for each pixel has three axes and is not a kernel either."""
    settings = settings if "network" in settings else {"hidden": (4,), **settings}
    built = build(Config(latent_dim=2, optimizer=name, **settings))
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), jax.eval_shape(built.vae.init, jax.random.key(0)))
    optimizer = optimizers.transformation(built.optimizer, 0.5)
    updates, _ = optimizer.update(jax.tree.map(np.zeros_like, params), optimizer.init(params), params)
    decay = inspect.signature(getattr(optax, name)).parameters["weight_decay"].default
    seen = set()
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        names = [entry.key for entry in path]
        decays = names[0] in ("encoder", "decoder") and names[-1] == "kernel"
        np.testing.assert_allclose(update, -0.5 * decay if decays else 0.0, rtol=1e-6)
        seen.add((names[0], names[-1] if len(names) > 1 else "", update.ndim))
    assert {("decoder", "kernel", 2), ("encoder", "bias", 1)} <= seen
    assert len(seen - {("encoder", "kernel", 2), ("decoder", "kernel", 2), ("encoder", "bias", 1), ("decoder", "bias", 1)}) >= 1


def test_schedules_reach_the_hyperparameters_by_name():
    built = build(dataclasses.replace(SMALL, objective="capacity", capacity=8.0, capacity_warmup_steps=5))
    schedule = built.fit_arguments["schedules"]["capacity"]
    assert [round(float(schedule(step)) * 8, 3) for step in (0, 1, 5, 9)] == [0, 1.6, 8, 8]
    with pytest.raises(ValueError, match=r"expected names among beta, learning_rate, .* got betta"):
        training.fit(built.vae, built.data, epochs=1, batch_size=64, seed=0, schedules={"betta": schedule})
    assert built.config.hyperparams == Hyperparams(capacity=8.0)


def test_defaults_that_depend_on_the_objective():
    assert Config(objective="capacity").hyperparams.gamma == 1000
    assert Config(objective="factor_vae").hyperparams.gamma == 10
    assert Config(objective="factor_vae", gamma=35.0).hyperparams.gamma == 35
    assert Config(objective="dip_vae_i", lambda_od=2.0).hyperparams.lambda_d == 20
    assert Config(objective="dip_vae_ii", lambda_od=2.0).hyperparams.lambda_d == 2


@pytest.mark.slow
def test_learned_and_optimal_scales_beat_a_fixed_one_on_frey_faces(shared_data):
    """By more than 500 nats of the discrete data after 40 epochs, as in Rybkin et al. (2021); in the end it is 1,100."""
    base = Config(dataset=str(shared_data / "freyfaces.npy"), split="last", hidden=(200,), batch_size=100, epochs=40)
    elbos = {}
    for name in ("gaussian:1.0", "gaussian:shared", "gaussian:optimal", "gaussian:per_pixel"):
        built = build(plan(base, name, load_dataset(base)).config)
        elbos[name] = training.fit(built.vae, built.data, **built.fit_arguments).test.elbo
    assert min(value for name, value in elbos.items() if name != "gaussian:1.0") > elbos["gaussian:1.0"] + 500


def test_the_scale_on_record_is_the_one_that_acts(tmp_path):
    built = build(dataclasses.replace(SMALL, likelihood="discretized_logistic"))
    fit, summary = runs.train(built, tmp_path / "run")
    floor = math.log(0.05 / 16)
    raw = float(fit.params["likelihood"][0])
    assert summary["log_scale"][0] == pytest.approx(floor + math.log1p(math.exp(raw - floor)), rel=1e-5)


@pytest.mark.parametrize(
    ("objective", "batch", "message"), [("beta_tcvae", 1, "a batch of 2"), ("factor_vae", 3, "at least 4")]
)
def test_a_batch_too_small_for_the_objective_writes_nothing(objective, batch, message, tmp_path):
    built = build(dataclasses.replace(SMALL, objective=objective, batch_size=batch))
    with pytest.raises(UserError, match=message):
        runs.train(built, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_names_of_extra_terms_do_not_overwrite_the_record():
    built = build(SMALL, objective=lambda *a: elbo(*a[:5])._replace(extra={"kl": a[4].sum()}))
    with pytest.raises(ValueError, match=r"extra terms: kl is taken; choose another name"):
        training.fit(built.vae, built.data, **built.fit_arguments)


def test_settings_that_are_not_used_are_read_as_those_of_this_version():
    """Another version may have recorded another default."""
    old = {**dataclasses.asdict(Config()), "norm": "group", "prior_hidden": [7], "gamma": 3.0}
    assert from_dict(old) == Config()
    used = from_dict({**old, "network": "resnet", "prior": "hierarchical"})
    assert (used.norm, used.prior_hidden, used.gamma) == ("group", (7,), None)
    used.validate()
