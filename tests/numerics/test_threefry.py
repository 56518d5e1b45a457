"""Random bits: JAX's own generator, number for number, and 16 bits that are even."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import threefry_2x32

from vae_jax._numerics.threefry import normal, random_bits16, threefry


def test_threefry_gives_the_numbers_of_jax():
    key = jnp.array([0x1BD11BDA, 0xFFFFFFFF], jnp.uint32)
    counters = jnp.arange(1000, dtype=jnp.uint32) * jnp.uint32(0x9E3779B9)
    expected = np.asarray(threefry_2x32(key, counters)).reshape(2, 500)
    got = jax.jit(threefry)((key[0], key[1]), counters[:500], counters[500:])
    np.testing.assert_array_equal(np.asarray(got), expected)


def test_threefry_gives_the_published_numbers():
    """The known answers of the reference implementation (Random123) for counter and key of zeros and of ones."""
    for word, expected in ((0, (0x6B200159, 0x99BA4EFE)), (0xFFFFFFFF, (0x1CB996FC, 0xBB002BE7))):
        value = jnp.uint32(word)
        assert tuple(int(x) for x in threefry((value, value), value, value)) == expected


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_normals_are_those_of_jax(impl):
    key = jax.random.key(7, impl=impl)
    for shape in ((), (20,), (3, 50)):
        np.testing.assert_array_equal(normal(key, shape), jax.random.normal(key, shape))
    keys = jax.random.split(key, 5)
    draws = jax.jit(jax.vmap(lambda key: normal(key, (20,))))(keys)
    # inside one program the compiler may round otherwise
    np.testing.assert_allclose(draws, jax.vmap(lambda key: jax.random.normal(key, (20,)))(keys), rtol=1e-6, atol=1e-7)
    assert normal(key, (4,), jnp.bfloat16).dtype == jnp.bfloat16


def test_sixteen_bits_are_halves_of_the_words_of_jax():
    """So the public API can replace `random_bits16` once it is as fast."""
    key = jax.random.key(5)
    words = jax.random.bits(key, (2 * 8,), jnp.uint32)  # two words for every four numbers, rounded up
    expected = np.concatenate([words & 0xFFFF, words >> 16])[: 5 * 6]
    np.testing.assert_array_equal(random_bits16(key, (5, 6)).ravel(), expected)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
@pytest.mark.parametrize("shape", [(501, 501), (1,), (0,), (2, 3, 5)])
def test_random_bits_have_their_shape_and_differ_between_keys(shape, impl):
    draw = jax.jit(random_bits16, static_argnums=1)
    bits, other = (np.asarray(draw(jax.random.key(seed, impl=impl), shape)) for seed in (0, 1))
    assert bits.shape == shape
    assert bits.size == 0 or (bits.min() >= 0 and bits.max() < 65536)
    if bits.size > 10:
        assert np.mean(bits == other) < 0.5


def test_random_bits_fill_the_sixteen_bits_evenly():
    """Chi-square over the high and the low byte, each below its 1 - 1e-7 quantile (255 degrees of freedom: 385)."""
    bits = np.asarray(random_bits16(jax.random.key(1), (501, 501)))
    for byte in (bits >> 8, bits & 255):
        counts = np.bincount(byte.ravel(), minlength=256)
        assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 385


def test_no_two_numbers_come_from_the_same_bits():
    """Neighbours and the two halves are uncorrelated: 5.5 standard errors, 1 / sqrt(n) each; a repeated word would give 1."""
    bits = np.asarray(random_bits16(jax.random.key(2), (100_000,))).astype(float)
    bits = (bits - bits.mean()) / bits.std()
    for lag in (1, 2, 25_000, 50_000, 75_000):
        assert abs(np.mean(bits[:-lag] * bits[lag:])) < 5.5 / np.sqrt(len(bits) - lag)


def test_members_draw_what_each_would_alone():
    keys = jax.random.split(jax.random.key(3), 3)
    together = jax.vmap(lambda key: random_bits16(key, (7, 11)))(keys)
    for key, bits in zip(keys, together, strict=True):
        np.testing.assert_array_equal(random_bits16(key, (7, 11)), bits)
