"""A held-out ELBO that had peaked before the end is reported, and nothing else is."""

from types import SimpleNamespace

import numpy as np
import pytest

from vae_jax.evaluation.overfitting import Overfit, describe_overfit, overfit
from vae_jax.report.run import page
from vae_jax.report.sweep import text
from vae_jax.sweep.results import Results, describe_overfitting


def curve(held_out, train=None, split="test", error=0.3):
    """Lines of metrics.jsonl."""
    train = np.linspace(-100, -80, len(held_out)) if train is None else train
    found = []
    for i, (own, other) in enumerate(zip(held_out, train, strict=True)):
        line = {"epoch": i + 1, "train_elbo": float(other), "test_elbo": float(own), "test_elbo_standard_error": error}
        if split == "validation":
            line |= {"validation_elbo": float(own), "validation_elbo_standard_error": error, "test_elbo": -1.0}
        found.append(line)
    return found


def peaked(epochs=300, best=119, top=-86.89, end=-94.33, noise=0.05, seed=0):
    """Rises to its top at epoch `best` and falls to `end`, with noise except at these two."""
    x = np.arange(1, epochs + 1)
    values = np.where(x <= best, top - 40 * np.exp(-x / 12) + 40 * np.exp(-best / 12), 0)
    values = np.where(x > best, top + (end - top) * (x - best) / (epochs - best), values)
    values -= np.abs(np.random.default_rng(seed).normal(0, noise, epochs))
    values[best - 1], values[-1] = top, end
    return values


def test_a_run_that_peaked_and_fell_is_named_with_both_numbers_and_the_remedy():
    found = overfit(curve(peaked()))
    assert found == Overfit("test", 119, -86.89, 300, -94.33)
    words = describe_overfit(found)
    assert (
        "the test ELBO was best after epoch 119 (-86.89) and is -94.33 after epoch 300, while the training ELBO rose" in words
    )
    assert "`validation_fraction=0.1` `early_stopping=10`" in words
    held_out = overfit(curve(peaked(), split="validation"))
    assert held_out is not None
    assert held_out.split == "validation"
    assert "Add `early_stopping=10`" in describe_overfit(held_out)
    assert "validation_fraction" not in describe_overfit(held_out)


def noisy(epochs=200, size=1.0, seed=0):
    rng = np.random.default_rng(seed)
    return -90 - 40 * np.exp(-np.arange(epochs) / 15) + rng.normal(0, size, epochs)


@pytest.mark.parametrize(
    "lines",
    [
        curve(noisy(size=0.02)),
        *(curve(noisy(size=2.0, seed=seed)) for seed in range(5)),  # the best of many noisy epochs is not a peak
        curve(peaked(end=-87.3)),  # a fall of little more than one standard error
        curve([*noisy(size=0.02)[:-1], -99.0]),  # one bad epoch, the last
        curve(peaked(), train=np.linspace(-80, -90, 300)),  # the training ELBO falls as well: the objective is a different one
        curve([-9.0, -8.0]),
        curve([*peaked()[:-1], float("nan")]),
        [{"epoch": i, "test_elbo": -1.0 - i, "test_elbo_standard_error": 0.1} for i in range(9)],  # without training values
        [],
    ],
)
def test_nothing_is_said_of_a_run_that_did_not_overfit(lines):
    assert overfit(lines) is None


def test_a_run_that_stopped_early_is_judged_by_the_epoch_that_it_reports():
    lines = curve(peaked(), split="validation")
    assert overfit(lines, epoch=119) is None
    assert overfit(lines, epoch=240) is not None
    one_example = curve(peaked(), error=float("nan"))  # has no standard error
    assert overfit(one_example) is not None


def sweep_of(curves, statuses=None):
    rows, lines = [], []
    for number, own in enumerate(curves):
        status = statuses[number] if statuses else "finished"
        rows.append({"member": number, "status": status, "evaluated_epoch": len(own), "test_elbo": -1.0})
        lines += [{"member": number, **line} for line in own]
    return Results(None, [], {}, rows, [], lines, [])


def test_the_members_of_a_sweep_that_overfit_are_counted_and_the_worst_is_named():
    fine, bad, worse = curve(noisy(size=0.02)), curve(peaked(end=-90.0)), curve(peaked())
    words = describe_overfitting(
        sweep_of([fine, bad, worse, worse], ["finished", "finished", "finished", "diverged at step 3"])
    )
    assert words is not None
    assert "in 2 of 3 members the test ELBO fell after its best epoch" in words
    assert "most of all in member 2, from -86.89 after epoch 119 to -94.33 after epoch 300" in words
    assert describe_overfitting(sweep_of([fine])) is None
    old = sweep_of([worse])
    del old.rows[0]["evaluated_epoch"]  # rows of an older sweep directory
    assert "in 1 of 1 members" in (describe_overfitting(old) or "")


def test_the_notes_of_both_reports_have_it():
    assert page._observations(SimpleNamespace(metrics=curve(peaked()), epoch=300))[0].startswith("Overfitting: the test ELBO")
    assert page._observations(SimpleNamespace(metrics=curve(peaked()), epoch=119)) == []
    point = SimpleNamespace(members=(0, 1))
    seen = SimpleNamespace(units=["bernoulli"], parts=[SimpleNamespace(settings=[SimpleNamespace(point=point)])])
    results = sweep_of([curve(peaked())])
    found = text.notes(results._replace(members=[None]), seen)
    assert [note for note in found if note.startswith("Overfitting: in 1 of 1 members")]
