"""Examples on which a model with finite parameters cannot be evaluated: training ends, and the example is named."""

import warnings
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax import data, likelihoods, model, training
from vae_jax.config import Hyperparams
from vae_jax.evaluation import Evaluation, Means, NotFiniteWarning, are_finite, find_not_finite, not_finite_rows
from vae_jax.evaluation.not_finite import describe_not_finite
from vae_jax.example import Example
from vae_jax.networks import Network
from vae_jax.runs import metrics_file as record
from vae_jax.sweep.blocks import recorded_progress
from vae_jax.training import FitOptions, MemberState


def cubes():
    """q(z|x) = N(a x^3, 1) with a = 0 at first: finite for x = 1e12 until a moves, and for all others."""
    encoder = Network(lambda key: {"a": jnp.zeros(())}, lambda params, x: (params["a"] * x**3, jnp.zeros(1)))
    decoder = Network(lambda key: {"b": jnp.ones(())}, lambda params, z: params["b"] * z)
    return model.make_vae(encoder, decoder, likelihoods.gaussian(1.0), (1,))


def prepared(validation=False, row=None, value=1e12):
    """Twenty test examples, one of which is an outlier."""
    rng = np.random.default_rng(0)
    train, test, held = (rng.normal(size=(n, 1)).astype(np.float32) for n in (32, 20, 20))
    if row is not None:
        (held if validation else test)[row] = value
    dataset = data.Dataset("numbers", train, held if validation else None, test, None, None, "by hand")
    return data.prepare(dataset, binarization="none")


OPTIONS = {"epochs": 3, "batch_size": 16}


@pytest.mark.parametrize("split", ["test", "validation"])
def test_training_ends_at_the_first_evaluation_and_names_the_example(split):
    epochs, fed = [], prepared(validation=split == "validation", row=13)
    with pytest.warns(NotFiniteWarning, match=rf"{split} example 13, counted from 0, has an ELBO that is not finite"):
        fit = training.fit(cubes(), fed, seed=0, on_epoch=lambda metrics: epochs.append(metrics["epoch"]), **OPTIONS)
    assert (fit.status, epochs, len(fit.progress.history)) == ("not finite", [1], 1)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(fit.params)))
    assert np.isfinite(fit.test.elbo) == (split == "validation")
    assert "go from 1e+12 to 1e+12, those of the other examples from -" in fit.problem
    assert f"remove this row of the {split} set" in fit.problem
    # Continued, it is where it was: no further epoch, the same words.
    with pytest.warns(NotFiniteWarning, match="example 13"):
        again = training.fit(cubes(), fed, seed=0, start=fit.progress, **OPTIONS)
    assert (again.status, again.problem, len(again.progress.history)) == ("not finite", fit.problem, 1)


def test_one_member_ends_and_the_others_go_on():
    """The member that does not learn has a finite ELBO; its numbers are those it has without the other."""
    rates = Hyperparams(1.0, np.float32([1e-30, 0.1]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # several members: their status says it
        both = training.fit_members(cubes(), prepared(row=13), FitOptions(**OPTIONS), seeds=[0, 0], hyperparams=rates)
    alone = training.fit(cubes(), prepared(row=13), seed=0, hyperparams=Hyperparams(1.0, 1e-30), **OPTIONS)
    assert both.status == ("finished", "not finite")
    assert [len(history) for history in both.progress.histories] == [3, 1]
    assert both.tests[0] == alone.test
    assert (alone.status, alone.problem) == ("finished", None)


def test_finite_extremes_are_evaluated():
    fit = training.fit(cubes(), prepared(row=13, value=1e3), seed=0, **OPTIONS)
    assert (fit.status, fit.problem) == ("finished", None)


def test_words():
    terms = np.zeros(20, np.float32)
    rows = np.linspace(-1, 1, 20)[:, None]
    assert describe_not_finite("test", rows, Evaluation(terms, terms)) is None
    for value in (np.nan, np.inf, -np.inf):
        found = describe_not_finite("test", rows, Evaluation(terms, np.where(np.arange(20) % 3 == 1, value, terms)))
        assert found.examples == "test examples 1, 4, 7, 10, 13 and 2 more"
        assert "lower the learning rate" in found.sentence  # values as of the others: it is not the data
    bad = np.where(np.arange(20) == 19, -np.inf, terms)
    assert "lower the learning rate" in describe_not_finite("test", rows, Evaluation(bad, terms)).sentence
    rows[19] = 4.0
    found = describe_not_finite("validation", rows, Evaluation(bad, terms))
    assert found.sentence.startswith(
        "validation example 19, counted from 0, has an ELBO that is not finite (log-likelihood -inf, KL 0)"
    )
    assert "from 4 to 4, those of the other examples from -1 to 0.8947. Correct or remove this row" in found.sentence
    found = describe_not_finite("test", rows, Evaluation(terms + np.nan, terms))
    assert found.examples == "all 20 test examples"
    assert not_finite_rows(terms, bad, np.where(np.arange(20) == 2, np.nan, terms)).tolist() == [2, 19]
    good = Means(-1.0, -1.0, 0.0, np.nan, 1)  # one example: its error is not defined, its ELBO is
    assert are_finite(good, None)
    assert are_finite(good, good)
    assert not are_finite(good, good._replace(elbo=np.nan))
    assert not are_finite(good._replace(elbo=-np.inf), None)


def test_what_is_finite_when_computed_again_is_no_riddle():
    fed = prepared()
    vae = cubes()
    found = find_not_finite(0, vae, vae.init(jax.random.key(0)), fed)
    assert "finite one when computed again" in found.sentence


@pytest.mark.parametrize(("elbo", "is_whole"), [(np.nan, True), (-1.0, False)])
def test_a_block_of_a_sweep_goes_on_after_such_a_member(elbo, is_whole):
    """In the record of two epochs one member has only the first: whole if that one's ELBO was not finite."""

    def lines(member, *elbos):
        for i, elbo in enumerate(elbos):
            test = Means(elbo, -1.0, 0.0, 0.1, 20)
            epoch = training.Epoch(i + 1, 2 * i + 2, training.TrainMeans(1.0, -1.0, 0.0, {}), test, None, 0.5)
            yield {"member": member, **record.to_line(epoch, 32, 0.5)}

    group = SimpleNamespace(members=[0, 1], configs=[SimpleNamespace(early_stopping=0)] * 2)
    members = MemberState(SimpleNamespace(step=np.array([4, 2])), SimpleNamespace(epoch=np.array([0, 0])))
    found = [*lines(0, -1.0, -1.0), *lines(1, elbo)]
    if is_whole:
        assert [len(history) for history in recorded_progress(members, group, found, 2, 2).histories] == [2, 1]
    else:
        with pytest.raises(ValueError, match="lacks epochs of the checkpoint"):
            recorded_progress(members, group, found, 2, 2)


def test_missing_entries_and_stored_bytes_are_no_reason_to_blame_the_data():
    """The numbers that stand at missing entries are arbitrary, and differences of bytes do not fit into bytes."""
    events = np.full((4, 3), 200.0, np.float32)
    events[1], events[2, 0] = 210, 0.0
    mask = np.ones((4, 3), bool)
    mask[2, 0] = mask[1, 2] = False
    events[1, 2] = 1e9  # missing
    terms = Evaluation(np.float32([0, -np.inf, 0, 0]), np.zeros(4, np.float32))
    named = describe_not_finite("test", Example(events, mask=mask), terms)
    assert "go from 210 to 210, those of the other examples from 200 to 200" in named.sentence
    named = describe_not_finite("test", Example(events, mask=mask & (np.arange(4) != 1)[:, None]), terms)
    assert "No value of them is observed" in named.sentence
    stored = np.uint8([[0], [200], [1], [255]])
    assert "The model is at fault" in describe_not_finite("test", stored, terms).sentence
