"""Binarization, dequantization and scaling of pixels, and the support that a likelihood needs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax import data, likelihoods
from vae_jax.errors import UserError

# Preprocessing


def _dataset(train, test=None, max_level=255):
    return data.Dataset("x", train, None, train if test is None else test, None, max_level, "by hand")


def test_binarization_has_the_pixels_as_means():
    """All 256 levels are within 5.5 standard errors of level/255; exactly 0 and 1 at the ends (false failure below 1e-5)."""
    levels = jnp.tile(jnp.arange(256, dtype=jnp.uint8), (40_000, 1))
    draws = data.binarize(jax.random.key(0), levels, 255)
    means, expected = np.asarray(draws).mean(0, dtype=np.float64), np.arange(256) / 255
    assert set(np.unique(draws)) == {0.0, 1.0}
    assert means[0] == 0
    assert means[255] == 1
    assert np.all(np.abs(means - expected) <= 5.5 * np.sqrt(expected * (1 - expected) / 40_000) + 2e-5)


def test_dynamic_binarization_changes_with_the_key_and_the_test_set_does_not():
    digits = data.load("digits")
    prepared, again = (data.prepare(digits, binarization="dynamic", seed=3) for _ in range(2))
    np.testing.assert_array_equal(prepared.test, again.test)
    assert set(np.unique(prepared.test)) == {0, 1}
    batch = prepared.train[:64]
    first, second = (prepared.train_input(jax.random.key(k), batch) for k in (0, 1))
    assert not np.array_equal(first, second)
    assert not np.array_equal(prepared.test, data.prepare(digits, binarization="dynamic", seed=4).test)


def test_fixed_threshold_and_scaled():
    digits = data.load("digits")
    fixed = data.prepare(digits, binarization="fixed")
    batch = fixed.train[:8]
    np.testing.assert_array_equal(fixed.train_input(jax.random.key(0), batch), fixed.train_input(jax.random.key(1), batch))
    threshold = data.prepare(digits, binarization="threshold")
    np.testing.assert_array_equal(threshold.train, digits.train >= 8)
    scaled = data.prepare(digits)
    np.testing.assert_allclose(scaled.eval_input(scaled.test), digits.test / 16, rtol=1e-6)


def test_dequantized_levels_stay_in_their_bin_and_have_the_right_jacobian():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 4, 4, 1)
    prepared = data.prepare(_dataset(levels), dequantize=True)
    x = prepared.train_input(jax.random.key(0), prepared.train)
    np.testing.assert_array_equal(np.floor(np.asarray(x, np.float64) * 256), levels)
    assert prepared.log_jacobian == pytest.approx(-16 * np.log(256))
    # A uniform density on [0, 1] gives each of 256 levels the probability 1/256.
    assert np.exp(prepared.log_jacobian / 16) == pytest.approx(1 / 256)


def test_binary_data_stay_as_they_are_under_any_binarization():
    images = np.random.default_rng(0).integers(0, 2, (50, 4, 4, 1), dtype=np.uint8)
    for binarization in ("none", "dynamic", "fixed", "threshold"):
        prepared = data.prepare(_dataset(images, max_level=1), binarization=binarization)
        for x in (prepared.eval_input(prepared.test), prepared.train_input(jax.random.key(0), prepared.train)):
            assert x.dtype == jnp.float32
            np.testing.assert_array_equal(x, images)
        assert prepared.description == "binary as stored"


def test_support_is_checked():
    gray = _dataset(np.full((4, 2, 2, 1), 100, np.uint8))
    with pytest.raises(UserError, match=r'gray values.*`binarize="dynamic"`.*continuous_bernoulli'):
        data.check_support(gray, likelihoods.bernoulli(), "none")
    data.check_support(gray, likelihoods.bernoulli(), "dynamic")
    data.check_support(_dataset(np.zeros((4, 2, 2, 1), np.uint8) + 255), likelihoods.bernoulli(), "none")
    wide = _dataset(np.full((4, 2, 2, 1), -1.5, np.float32), max_level=None)
    with pytest.raises(UserError, match=r"\[0, 1\], got -1.5"):
        data.check_support(wide, likelihoods.continuous_bernoulli(), "none")
    data.check_support(wide, likelihoods.gaussian(), "none")
    with pytest.raises(UserError, match=r"categorical expects integer levels, got floats"):
        data.check_support(wide, likelihoods.categorical(2), "none")
    with pytest.raises(UserError, match=r"poisson expects counts .*got -1.5 to -1.5 with fractions"):
        data.check_support(wide, likelihoods.poisson(), "none")
    with pytest.raises(UserError, match=r"dequantize: .* need a density, and categorical takes the integers"):
        data.check_support(gray, likelihoods.categorical(256), "none", dequantize=True)
    fine = _dataset(np.zeros((4, 2, 2, 1), np.uint8))
    with pytest.raises(UserError, match="gray values"):  # in the validation data alone
        data.check_support(fine._replace(validation=gray.train), likelihoods.bernoulli(), "none")
    with pytest.raises(UserError, match="integer levels"):
        data.prepare(wide, dequantize=True)
