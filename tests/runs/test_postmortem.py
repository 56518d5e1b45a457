"""What is said of a step that diverged: the first part that is not finite, and the examples where it is so."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax import likelihoods, runs, sweep, training
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.errors import DivergenceWarning
from vae_jax.runs import postmortem
from vae_jax.sweep.directory import run_sweep
from vae_jax.sweep.results import load_states, load_sweep

CONFIG = Config(epochs=2, hidden=(8,), latent_dim=2, batch_size=64, binarize="threshold")


def start(built):
    return training.init_state(built.vae, built.optimizer, training.run_keys(built.config.seed).init, built.objective)


def corner(x):
    return x[3, 3, 0] > 0.5  # a pixel that some digits have and others have not


def nan_at_the_corner(logits, x):
    return likelihoods.bernoulli_log_prob(logits, x) + jnp.where(corner(x), jnp.nan, 0.0)


def infinite_slope(logits, x):
    """Finite everywhere; the derivative of the root at 0 is not."""
    return likelihoods.bernoulli_log_prob(logits, x) + jnp.sum(jnp.sqrt(jnp.abs(logits - logits)))


def test_it_names_the_examples():
    built = build(CONFIG, likelihood=nan_at_the_corner)
    found = postmortem.examine(built, built.config, start(built))
    keys = training.run_keys(0)
    order = np.asarray(training.epoch_order(keys, 0, len(built.dataset.train), 64))[0]
    expected = [int(i) for i in order if built.dataset.train[i][3, 3, 0] >= built.dataset.max_level / 2]
    assert 0 < len(expected) < 64
    assert (found["term"], sorted(found["bad_examples"])) == ("log_likelihood", sorted(expected))
    assert found["train_indices"] == order.tolist()
    assert found["key_data"] == np.asarray(jax.random.key_data(jax.random.fold_in(keys.step, 0))).tolist()
    assert found["bad_leaves"] == []
    assert found["ranges"]["data"] == [0, 1]


@pytest.mark.slow
def test_it_names_the_term():
    built = build(CONFIG)
    good = start(built)

    def of(state, built=built, **hyperparams):
        return postmortem.examine(built, dataclasses.replace(built.config, **hyperparams), state)

    assert of(good)["term"] is None
    wide = jax.tree.map(lambda leaf: leaf, good.params)
    bias = wide["encoder"]["Dense_0"]["bias"]  # of both heads: means, then log_scales
    wide["encoder"]["Dense_0"]["bias"] = bias.at[-1].set(60.0)  # exp(2 * 60) overflows float32
    found = of(good._replace(params=wide))
    assert (found["term"], len(found["bad_examples"])) == ("kl", 64)
    assert found["ranges"]["log_scale of q(z|x)"][1] == pytest.approx(60, abs=10)
    plain = build(dataclasses.replace(CONFIG, optimizer="sgd"))
    found = of(start(plain), plain, beta=1e20, learning_rate=1e30)
    assert found["term"] == "update"
    assert found["bad_leaves"]
    lost = good._replace(params={**good.params, "decoder": jax.tree.map(lambda leaf: leaf * jnp.nan, good.params["decoder"])})
    found = of(lost)
    assert found["term"] == "parameters"
    assert all(name.startswith("decoder/") for name in found["bad_leaves"])
    assert found["bad_leaves"]
    steep = build(CONFIG, likelihood=infinite_slope)
    found = of(start(steep), steep)
    assert (found["term"], found["bad_examples"]) == ("gradient", [])
    assert found["bad_leaves"]


@pytest.fixture(scope="module")
def plain():
    built = build(CONFIG)
    return built, start(built)


ORDER = ("parameters", "data", "log_likelihood", "kl", "loss", "gradient", "update")  # as a step computes them


@pytest.mark.parametrize("first", ORDER)
def test_the_first_term_that_is_not_finite_is_the_cause_of_those_after_it(first, plain, monkeypatch):
    """From one term on nothing is finite: the advice is for that term, and the examples are its own."""
    bad = ORDER[ORDER.index(first) :]

    def make_parts(built, state, step):
        def parts(params):
            values = {name: jnp.ones(64) for name in (*ORDER, *postmortem._INFERENCE)}
            one = 5 if first in ("data", "log_likelihood", "kl", "loss") else 0
            return {name: value.at[one].set(jnp.nan) if name in bad else value for name, value in values.items()}

        return parts

    monkeypatch.setattr(postmortem, "_make_parts", make_parts)
    built, state = plain
    found = postmortem.examine(built, built.config, state)
    assert found["term"] == first
    of_examples = first in ("data", "log_likelihood", "kl", "loss")
    assert found["bad_examples"] == ([found["train_indices"][5]] if of_examples else [])
    assert bool(found["bad_leaves"]) != of_examples


def test_the_advice_is_about_its_term():
    assert tuple(postmortem.ADVICE) == ORDER
    for term, word in {
        "parameters": "checkpoint",
        "data": "data",
        "log_likelihood": "decoder",
        "kl": "encoder",
        "loss": "weight",
        "gradient": "derivative",
        "update": "learning rate",
    }.items():
        assert word in postmortem.ADVICE[term]


@pytest.mark.slow
def test_it_names_the_operation_and_its_line():
    """Of NaN, of infinity, of a derivative; and none of a step that is finite."""

    def of(state, built, config=None):
        step = (built, config or built.config, state)
        return postmortem.locate(*step, postmortem.examine(*step))

    marked = build(CONFIG, likelihood=nan_at_the_corner)
    line = nan_at_the_corner.__code__.co_firstlineno + 1
    found = of(start(marked), marked)
    assert re.match(rf"\w+ gives NaN at test_postmortem.py:{line} \(nan_at_the_corner\): return likelihoods", found), found
    steep = build(CONFIG, likelihood=infinite_slope)
    assert re.fullmatch(r"\w+ gives (NaN|infinity), in the gradient or the update", of(start(steep), steep))
    plain = build(dataclasses.replace(CONFIG, optimizer="sgd"))
    assert of(start(plain), plain) is None
    far = dataclasses.replace(plain.config, beta=1e20, learning_rate=1e30)
    assert of(start(plain), plain, far).endswith("gives infinity, in the gradient or the update")


def test_the_step_is_that_of_the_run(tmp_path):
    """The numbers of the first step of the second epoch are those that training has there."""
    built = build(CONFIG)
    steps, seen = len(built.dataset.train) // 64, []
    train_step = training.make_train_step(
        built.vae,
        optimizer=built.optimizer,
        objective=built.objective,
        train_input=built.data.train_input,
        schedules=built.fit_arguments["schedules"],
    )
    keys, state = training.run_keys(0), start(built)
    order = [training.epoch_order(keys, epoch, len(built.dataset.train), 64) for epoch in range(2)]
    step = jax.jit(train_step)
    for i in range(steps + 1):
        seen.append(state)
        batch = built.data.train_rows(order[i // steps][i % steps])
        state, metrics = step(state, jax.random.fold_in(keys.step, i), batch, CONFIG.hyperparams)
    found = postmortem.examine(built, built.config, seen[-1])
    assert (found["step"], found["epoch"]) == (steps, 2)
    assert found["ranges"]["kl"][0] <= float(metrics.kl) <= found["ranges"]["kl"][1]
    after = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(state.params)])
    assert found["ranges"]["update"] == pytest.approx([after.min(), after.max()], rel=1e-5)


@pytest.mark.slow
def test_a_run_and_a_lane_say_the_same(tmp_path):
    config = dataclasses.replace(CONFIG, optimizer="sgd", learning_rate=1e30)
    built = build(config)
    with pytest.warns(DivergenceWarning):
        fit, _ = runs.train(built, tmp_path / "run")
    assert fit.status == "diverged"
    again, state = runs.load_last_good(tmp_path / "run")
    alone = postmortem.examine(again, again.config, state)
    assert alone["term"] is not None
    run_sweep(sweep.grid(config, learning_rate=(1e-3, 1e30)), tmp_path / "sweep")
    results = load_sweep(tmp_path / "sweep")
    assert results.rows[1]["status"] == f"diverged at step {alone['step']}"
    ((of_group, state),) = load_states(results, [1]).values()
    lane = postmortem.examine(of_group, results.members[1], state)
    assert lane == alone
    (record,) = (tmp_path / "sweep" / "blocks").glob("*/diverged-1.json")
    written = json.loads(record.read_text())
    assert (written["term"], written["train_indices"]) == (alone["term"], alone["train_indices"])
    assert json.loads((tmp_path / "run" / "diverged.json").read_text())["term"] == alone["term"]
