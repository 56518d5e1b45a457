"""Conditional models from settings: p(z|c), and priors that do not depend on the condition and say so."""

from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from vae_jax import data
from vae_jax.build import build
from vae_jax.cli.train import print_plan
from vae_jax.config import Config
from vae_jax.errors import UserError
from vae_jax.model import mlp_vae
from vae_jax.report.run.content import _training as training_rows
from vae_jax.runs.in_words import describe_prior

SUMMARY = {"status": "finished", "epochs": 1, "train_examples_per_second": 0, "wall_seconds": 1.0}
RNG = np.random.default_rng(0)
TABLE = RNG.normal(3.0, 1.0, (20, 4)).astype(np.float32)
LABELS = np.arange(20) % 2


def with_labels(table=TABLE, **options):
    return data.from_arrays(table, labels=LABELS, condition=LABELS, split="last", name="cells", **options)


def settings(**options):
    return Config(likelihood="gaussian", hidden=(3,), latent_dim=2, batch_size=4, **options)


def said(built, capsys):
    """The plan that the script prints, and the row of the report."""
    print_plan(built, Path("out"))
    rows = {row.name: row.value for row in training_rows(SimpleNamespace(built=built, refitted=None), SUMMARY)}
    return capsys.readouterr().out, rows["prior"]


def test_p_of_z_given_c_is_built_from_its_settings(capsys):
    built = build(settings(prior="conditional", prior_hidden=(5,)), dataset=with_labels())
    assert built.vae.prior is None
    assert built.vae.conditional_prior is not None
    params = jax.jit(built.vae.init)(jax.random.key(0))["prior"]
    assert sorted(leaf.shape for leaf in jax.tree.leaves(params)) == [(2, 5), (4,), (5,), (5, 4)]
    hidden, heads = np.tanh(params["_Hidden_0"]["Dense_0"]["kernel"][1]), params["Dense_0"]
    mean, log_scale = built.vae.conditional_prior.apply(params, np.array([0.0, 1.0], np.float32))
    np.testing.assert_allclose([*mean, *log_scale], hidden @ heads["kernel"] + heads["bias"], rtol=1e-5, atol=1e-6)
    plan, row = said(built, capsys)
    assert "prior conditional, " in plan
    assert row == "conditional"


def test_p_of_z_given_c_without_a_condition_is_refused():
    with pytest.raises(UserError, match=r'`prior="conditional"` is p\(z\|c\), and there is no condition'):
        build(settings(prior="conditional"), dataset=data.from_arrays(TABLE, split="last"))


@pytest.mark.parametrize("prior", ["normal", "mixture", "vamp", "hierarchical"])
def test_other_priors_say_that_they_do_not_depend_on_the_condition(prior, capsys):
    options = {"mixture": {"prior_components": 4}, "vamp": {"prior_components": 4}, "hierarchical": {"prior_latent_dim": 2}}
    built = build(settings(prior=prior, **options.get(prior, {})), dataset=with_labels())
    plan, row = said(built, capsys)
    assert f"prior {prior} (does not depend on the condition), " in plan
    assert row == f"{prior} (does not depend on the condition)"
    assert describe_prior(Config(prior=prior)) == prior  # without a condition there is nothing to say


def test_pseudo_inputs_start_at_training_examples_with_missing_entries_at_the_mean():
    missing = RNG.random(TABLE.shape) < 0.4
    dataset = with_labels(np.where(missing, np.nan, TABLE), missing="nan")
    built = build(settings(prior="vamp", prior_components=4, mask_input=True), dataset=dataset)
    start = jax.jit(built.vae.init)(jax.random.key(0))["prior"]
    assert {name: leaf.shape for name, leaf in start.items()} == {"event": (4, 4), "condition": (4, 2)}
    mean, train = dataset.train_mean, np.asarray(dataset.train)
    for event, condition in zip(start["event"], start["condition"], strict=True):
        is_mean = np.isclose(event, mean, atol=1e-5)
        rows = [
            i
            for i in range(len(train))
            if np.array_equal(np.asarray(event)[dataset.train_mask[i]], train[i][dataset.train_mask[i]])
        ]
        (row,) = [i for i in rows if np.all(is_mean[~dataset.train_mask[i]])]
        np.testing.assert_array_equal(condition, np.eye(2)[LABELS[row]])


def test_the_encoder_of_a_built_model_has_room_for_the_mask():
    dataset = with_labels(np.where(RNG.random(TABLE.shape) < 0.4, np.nan, TABLE), missing="nan")
    vae = build(settings(mask_input=True), dataset=dataset).vae
    assert (vae.mask_input, vae.condition_dim) == (True, 2)
    shapes = jax.eval_shape(vae.init, jax.random.key(0))["encoder"]
    assert shapes["_Hidden_0"]["Dense_0"]["kernel"].shape == (2 * 4 + 2, 3)
    same = mlp_vae((4,), vae.likelihood, latent_dim=2, hidden=(3,), condition_dim=2, mask_input=True)
    assert jax.tree.structure(jax.eval_shape(same.init, jax.random.key(0))["encoder"]) == jax.tree.structure(shapes)
