"""Data are checked before they are preprocessed, and again as the model sees them: every example of every split."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax import data, likelihoods, model, training
from vae_jax.data.held_out import dequantize_levels
from vae_jax.errors import UserError
from vae_jax.training.checks import check_values

SHAPE = (2, 3, 1)
GREY = np.random.default_rng(0).uniform(size=(3000, *SHAPE)).astype(np.float32)


def dataset(train, validation=None, test=None, max_level=None):
    return data.Dataset("mine", train, validation, GREY[:5] if test is None else test, None, max_level, "by hand")


def with_row(row, value):
    """The gray images with one number of one example changed."""
    images = GREY.copy()
    images[row, 1, 2] = value
    return images


WRONG = [
    (255 * GREY, r"expects pixels in \[0, 1\].*got .* to 25\d.*Divide them by 255"),
    (2 * GREY - 1, r"\[0, 1\].*got -0.9\d+ to 0.9\d+.*\(x \+ 1\) / 2"),
    (1000 * GREY - 1, r"\[0, 1\].*\(x - x.min\(\)\) / \(x.max\(\) - x.min\(\)\)"),
    (1000 * GREY, r"\[0, 1\].*Divide them by their largest value"),
    (with_row(2999, 1.01), r"\[0, 1\].*got .* to 1.00999999"),
    (with_row(2999, np.nan), "expected finite numbers"),
]


@pytest.mark.parametrize("binarization", ["dynamic", "fixed", "threshold"])
@pytest.mark.parametrize(("images", "message"), WRONG, ids=range(len(WRONG)))
def test_prepare_binarizes_probabilities_only(binarization, images, message):
    with pytest.raises(UserError, match=message):
        data.prepare(dataset(images), binarization=binarization)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_prepare_looks_at_every_split(split):
    arrays = {"train": GREY, "validation": GREY[:9], "test": GREY[:9]} | {split: 2 * GREY}
    with pytest.raises(UserError, match=r"\[0, 1\].* to 1.99"):
        data.prepare(dataset(**arrays), binarization="dynamic")


@pytest.mark.parametrize("low", [0.0, 1e-7])
@pytest.mark.parametrize("binarization", ["dynamic", "threshold"])
def test_prepare_takes_what_is_right(binarization, low):
    prepared = data.prepare(dataset(np.clip(GREY, low, 1.0)), binarization=binarization)
    assert set(np.unique(prepared.test)) == {0, 1}


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (GREY, {"dequantize": True}, "expects integer levels, got float data"),
        (GREY, {"counts": True}, r"expected counts \(whole numbers >= 0\), got .* to 0.\d+ with fractions"),
        (np.round(9 * GREY) - 1, {"counts": True}, r"expected counts .* got -1 to 8"),
        (with_row(7, np.inf), {}, "expected finite numbers"),
    ],
    ids=["dequantize", "fractions", "negative", "infinite"],
)
def test_prepare_checks_data_that_are_not_binarized(images, options, message):
    with pytest.raises(UserError, match=message):
        data.prepare(dataset(images), **options)


@pytest.mark.parametrize("options", [{}, {"binarization": "dynamic"}, {"dequantize": True}, {"counts": True}], ids=str)
def test_levels_above_their_maximum_are_refused(options):
    """Levels up to 255 that are said to end at 16 would be images 16 times too bright."""
    levels = np.arange(256, dtype=np.uint8).repeat(6).reshape(256, *SHAPE)
    with pytest.raises(UserError, match=r"integer levels from 0 to max_level 16, got 0 to 255"):
        data.prepare(dataset(levels, test=levels, max_level=16), **options)


@pytest.mark.parametrize("split", ["training", "validation", "test"])
@pytest.mark.parametrize(("value", "message"), [(4.0, r"\[0, 1\], got .* to 4"), (np.nan, "first in example 2999")])
def test_fit_sees_the_last_example(split, value, message):
    """Six thousand images whose last ones are on a scale of 0 to 4 once gave an "ELBO" of +81."""
    arrays = {"train": GREY, "validation": GREY[:5], "test": GREY[:5]}
    prepared = data.prepare(dataset(**arrays))
    prepared = prepared._replace(**{split.replace("training", "train"): jnp.asarray(with_row(2999, value))})
    vae = model.mlp_vae(SHAPE, likelihoods.continuous_bernoulli(), latent_dim=1, hidden=())
    with pytest.raises(UserError, match=f"{split} data: .*{message}"):
        training.fit(vae, prepared, epochs=1, batch_size=100, seed=0)


def test_fit_sees_levels_between_those_of_the_likelihood():
    vae = model.mlp_vae(SHAPE, likelihoods.discretized_logistic(5), latent_dim=1, hidden=())
    fine = data.prepare(dataset(np.round(4 * GREY) / 4, test=GREY[:1] * 0))
    check_values(vae, fine)
    with pytest.raises(UserError, match=r"5 levels k / 4"):
        check_values(vae, fine._replace(train=fine.train.at[2999].set(0.3)))


def test_fit_sees_what_the_training_input_makes():
    """A `train_input` of the user's own is part of what is checked."""
    prepared = data.prepare(dataset(np.round(GREY), test=np.round(GREY[:5])))
    vae = model.mlp_vae(SHAPE, likelihoods.bernoulli(), latent_dim=1, hidden=())
    check_values(vae, prepared)
    with pytest.raises(UserError, match="training data: bernoulli expects binary data"):
        check_values(vae, prepared._replace(train_input=lambda key, batch: batch.astype(jnp.float32) / 2))


def test_fit_sees_all_numbers_on_disk_without_reading_them_again(tmp_path):
    np.save(tmp_path / "x.npy", with_row(2500, 3.0))
    streamed = data.load(tmp_path / "x.npy", stream=True, split="last", test_fraction=0.1)
    vae = model.mlp_vae(SHAPE, likelihoods.continuous_bernoulli(), latent_dim=1, hidden=())
    with pytest.raises(UserError, match=r"training data: .*to 3"):
        check_values(vae, data.prepare(streamed))


# Dequantized levels


@pytest.mark.parametrize("max_level", [1, 4, 16, 255])
@pytest.mark.parametrize("u", [0.0, 2**-24, 0.5, 1 - 2**-23, 1 - 2**-24])
def test_dequantized_levels_stay_inside_of_their_bins(monkeypatch, max_level, u):
    """At the ends of the uniform numbers, where float32 rounds level + u up to the next level, and 0 would be left."""
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape: jnp.full(shape, u, jnp.float32))
    levels = jnp.arange(max_level + 1, dtype=jnp.uint8)
    x = np.asarray(dequantize_levels(jax.random.key(0), levels, max_level), np.float64)
    assert np.all(x > 0)
    assert np.all(x < 1)
    np.testing.assert_array_equal(np.floor(x * (max_level + 1) + 1e-9), levels)
    logit_normal = -0.5 * np.log(x / (1 - x)) ** 2 - np.log(x) - np.log1p(-x)
    assert np.all(np.isfinite(logit_normal))


def test_other_dequantized_levels_are_as_before():
    """float32((level + u) / 256), to the last bit, wherever that is inside of the bin."""
    levels = jnp.asarray(np.random.default_rng(0).integers(0, 256, 200_000, dtype=np.uint8))
    u = jax.random.uniform(jax.random.key(5), levels.shape)
    plain = np.asarray((levels.astype(jnp.float32) + u) / 256)
    x = np.asarray(dequantize_levels(jax.random.key(5), levels, 255))
    inside = np.floor(plain.astype(np.float64) * 256) == np.asarray(levels)
    assert 0 < np.count_nonzero(~inside) < 2000
    np.testing.assert_array_equal(x[inside & (plain > 0)], plain[inside & (plain > 0)])


LEVELS = (np.arange(24, dtype=np.uint8) % 5).reshape(4, *SHAPE)
ADVICE = [
    (likelihoods.bernoulli(), {"binarization": "none"}, {"binarization": "dynamic"}, 'binarization="dynamic"'),
    (likelihoods.poisson(), {}, {"counts": True}, "counts=True"),
    (likelihoods.negative_binomial(), {"dequantize": True}, {"counts": True}, "counts=True"),
]


@pytest.mark.parametrize(("likelihood", "wrong", "right", "advice"), ADVICE, ids=lambda value: getattr(value, "name", ""))
def test_doing_what_the_message_says_solves_the_problem(likelihood, wrong, right, advice):
    vae = model.mlp_vae(SHAPE, likelihood, latent_dim=1, hidden=())
    images = dataset(LEVELS, test=LEVELS, max_level=4)
    with pytest.raises(UserError) as raised:
        check_values(vae, data.prepare(images, **wrong))
    assert advice in str(raised.value)
    check_values(vae, data.prepare(images, **right))
