"""Every objective trains on conditions and missing entries, alone and as a member of a sweep, and resumes bit for bit."""

import dataclasses

import chex
import jax
import numpy as np
import pytest
from conditional_data import KINDS, built

from vae_jax import sweep, training
from vae_jax.config import registry
from vae_jax.evaluation import evaluate
from vae_jax.model import bind
from vae_jax.objectives import elbo
from vae_jax.runs import postmortem
from vae_jax.training.placement import place

FAST = {("elbo", "both", "conditional"), ("optimal_sigma", "both", "normal")}
# Objectives of one example, of several draws, of a batch, with a state, and with a scale that sees the mask.
ON_EVERY_KIND = ("elbo", "iwae", "beta_tcvae", "factor_vae", "optimal_sigma")
PRIORS = {"vamp": {"prior_components": 3}, "mixture": {"prior_components": 3}, "hierarchical": {"prior_latent_dim": 2}}


def grid():
    """All objectives on examples with conditions and masks, some with one of the two, and some with all priors they take."""
    objectives = registry.entries("objective")
    for name, entry in objectives.items():
        for kind in KINDS if name in ON_EVERY_KIND else ("both",):
            yield name, kind, "normal"
        for prior, bundle in registry.entries("prior").items():
            if name in ON_EVERY_KIND and prior != "normal" and (entry.any_prior or bundle.any_objective):
                yield name, "both", prior


CASES = [pytest.param(*case, marks=() if case in FAST else pytest.mark.slow, id="-".join(case)) for case in grid()]


def fit(parts, **changes):
    return training.fit(parts.vae, parts.data, **(parts.fit_arguments | changes))


def state(progress):
    return jax.device_get((progress.state, progress.best))


def assert_finite(tree):
    for leaf in jax.tree.leaves(jax.device_get(tree)):
        assert np.isfinite(leaf).all()


def test_the_fast_cases_are_cases():
    assert set(grid()) >= FAST


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "kind", "prior"), CASES)
def test_it_trains_resumes_and_is_a_member(objective, kind, prior):
    parts = built(kind, objective, prior=prior, **PRIORS.get(prior, {}))
    whole = fit(parts)
    assert whole.status == "finished"
    assert_finite((whole.progress.state, [epoch.train for epoch in whole.progress.history], whole.test))
    start = training.init_state(parts.vae, parts.optimizer, training.run_keys(0).init, parts.objective)
    trained, first = (jax.tree.leaves(jax.device_get(one.params)) for one in (whole.progress.state, start))
    changed = [bool(np.any(a != b)) for a, b in zip(trained, first, strict=True)]
    # Every array of parameters has a gradient; the scale of optimal_sigma is set when parameters are evaluated.
    assert changed.count(False) == (objective == "optimal_sigma")
    first = fit(parts, on_progress=lambda progress: True)
    assert (first.status, len(first.progress.history)) == ("interrupted", 1)
    resumed = fit(parts, start=first.progress)
    chex.assert_trees_all_equal(state(resumed.progress), state(whole.progress))
    # Two members of one program, and the first is this run.
    hyperparams = parts.fit_arguments["hyperparams"]
    rates = hyperparams._replace(learning_rate=np.float32([hyperparams.learning_rate, 1e-2]))
    options = training.FitOptions.from_keywords(parts.fit_arguments)
    layout = place(2, "map", devices=jax.local_devices()[:1])
    members = training.fit_members(parts.vae, parts.data, options, seeds=[0, 5], hyperparams=rates, placement=layout)
    member = jax.tree.map(lambda leaf: np.asarray(leaf)[0], jax.device_get(members.progress.members))
    chex.assert_trees_all_equal((member.state, member.best), state(whole.progress))
    assert members.tests[0] == whole.test
    assert members.tests[1] != whole.test


@pytest.fixture(scope="module")
def parts():
    """Conditions, missing entries, and a prior that depends on the condition."""
    options = {"validation_fraction": 0.2}
    return built("both", prior="conditional", prior_hidden=(), dataset_options=options, batch_size=16)


@pytest.fixture(scope="module")
def alone(parts):
    return fit(parts)


def test_members_side_by_side_have_nearly_the_same_numbers(parts, alone):
    """Two members under vmap with the settings of the run, of which the second has a different seed."""
    options = training.FitOptions.from_keywords(parts.fit_arguments)
    hyperparams = parts.fit_arguments["hyperparams"]
    layout = place(2, "vmap", devices=jax.local_devices()[:1])
    members = training.fit_members(parts.vae, parts.data, options, seeds=[0, 5], hyperparams=hyperparams, placement=layout)
    got = jax.tree.map(lambda leaf: np.asarray(leaf)[0], jax.device_get(members.progress.members.state.params))
    chex.assert_trees_all_close(got, jax.device_get(alone.progress.state.params), rtol=1e-3, atol=1e-4)
    assert members.tests[0].elbo == pytest.approx(alone.test.elbo, abs=1e-3)


def test_a_sweep_varies_settings_of_conditional_masked_runs(parts, alone):
    """Through `sweep.sweep`, with a traced number."""
    configs = [parts.config, dataclasses.replace(parts.config, beta=4.0), dataclasses.replace(parts.config, seed=3)]
    result = sweep.sweep(configs, strategy="map", dataset=parts.dataset)
    assert result.table["status"].tolist() == ["finished"] * 3
    assert result.table["test_elbo"][0] == alone.test.elbo
    assert len(set(result.table["test_elbo"].tolist())) == 3


def test_early_stopping_keeps_the_best_epoch(parts):
    """A learning rate that is too high for the validation ELBO to keep rising."""
    rate = parts.fit_arguments["hyperparams"]._replace(learning_rate=0.3)
    stopped = fit(parts, epochs=20, early_stopping=2, hyperparams=rate)
    assert stopped.status == "stopped early"
    best = int(stopped.progress.best.epoch)
    validation = [epoch.validation.elbo for epoch in stopped.progress.history]
    assert best == 1 + int(np.argmax(validation))
    assert len(validation) == best + 2
    chex.assert_trees_all_equal(jax.device_get(stopped.params), jax.device_get(stopped.progress.best.params))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::vae_jax.errors.DivergenceWarning")
def test_the_step_that_diverged_is_examined(parts):
    """The prior's scale overflows, for the examples of one category alone."""
    good = training.init_state(parts.vae, parts.optimizer, training.run_keys(0).init, parts.objective)
    params = jax.tree.map(np.array, jax.device_get(good.params))
    [kernel] = [leaf for leaf in jax.tree.leaves(params["prior"]) if leaf.ndim == 2]
    assert kernel.shape == (parts.data.condition_dim, 4)  # means and log_scales
    kernel[0] = 200  # of the first category: exp(-200) is 0 in float32, and its square root is divided by
    state = good._replace(params=params)
    record = postmortem.examine(parts, parts.config, state)
    assert record["term"] in ("log_likelihood", "kl")
    categories = np.asarray(parts.data.train.condition)[:, 0]
    indices = np.asarray(record["train_indices"])
    assert sorted(record["bad_examples"]) == sorted(indices[categories[indices] == 0].tolist())
    assert 0 < len(record["bad_examples"]) < len(indices)
    assert record["ranges"]["data"] == [0, 1]
    assert postmortem.locate(parts, parts.config, state, record)
    diverged = fit(parts, hyperparams=parts.fit_arguments["hyperparams"]._replace(learning_rate=3e38))
    assert diverged.status == "diverged"
    assert_finite(diverged.progress.state.params)
    config = dataclasses.replace(parts.config, learning_rate=3e38)
    assert postmortem.examine(parts, config, diverged.progress.state)["term"] is not None


def test_evaluation_is_that_of_each_example_alone(parts, alone):
    """Test examples with their own conditions and masks, in any batch."""
    key, test = training.evaluation_key(0), parts.data.test
    got = jax.jit(lambda params: evaluate(key, parts.vae, params, test, to_input=parts.data.eval_input))(alone.params)
    inputs = parts.data.eval_input(test)

    def one(index):
        model = bind(parts.vae, alone.params, inputs[index])
        draw = jax.random.fold_in(jax.random.fold_in(key, index), 0)
        return elbo(draw, model.encode, model.decode, model.log_prob, model.x)

    for index in (0, 3, len(test) - 1):
        terms = one(index)
        np.testing.assert_allclose(terms.log_likelihood, got.log_likelihood[index], rtol=1e-5)
        np.testing.assert_allclose(terms.kl, got.kl[index], rtol=1e-4, atol=1e-6)
