"""Whatever numbers, settings and bytes come: finite in, finite out; the order of pixels and latents does not matter; a batch is
its examples; what cannot be read is refused in words.
"""

import contextlib
import dataclasses
import functools
import json
import struct
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from speed import slow_but

from vae_jax import config, data, divergences, likelihoods, objectives, runs
from vae_jax.errors import UserError

quickly = settings(max_examples=40, deadline=None, derandomize=True)
SHAPE, BATCH = (2, 3), 3


def _arrays(shape, low, high):
    return hnp.arrays(np.float32, shape, elements=st.floats(low, high, width=32, allow_subnormal=False))


# Likelihoods: bundle, channels, and how far from 0 the decoder's outputs go. Where they are logits, anywhere in float32.
WIDE = 2.0**100
LIKELIHOODS = {
    "bernoulli": (likelihoods.bernoulli(), 1, WIDE),
    "continuous_bernoulli": (likelihoods.continuous_bernoulli(), 1, WIDE),
    "gaussian": (likelihoods.gaussian(0.1), 1, 1e6),
    "gaussian_shared": (likelihoods.gaussian("shared"), 1, 30),
    "gaussian_per_pixel": (likelihoods.gaussian("per_pixel"), 1, 30),
    "laplace_per_pixel": (likelihoods.laplace("per_pixel"), 1, 30),
    "student_t_shared": (likelihoods.student_t("shared"), 1, 30),
    "discretized_logistic": (likelihoods.discretized_logistic(256, scale="per_pixel"), 1, 30),
    "logistic_mixture": (likelihoods.logistic_mixture(256, num_components=3), 1, 30),
    "logistic_mixture_rgb": (likelihoods.logistic_mixture_rgb(256, num_components=2), 3, 30),
    "categorical": (likelihoods.categorical(5), 1, WIDE),
    "poisson": (likelihoods.poisson(), 1, 30),
    "negative_binomial": (likelihoods.negative_binomial("per_pixel"), 1, 30),
    "zero_inflated_negative_binomial": (
        likelihoods.zero_inflated_negative_binomial("per_column", initial_dispersion=np.ones(1)),
        1,
        30,
    ),
    "multinomial": (likelihoods.multinomial(), 1, 1e4),
    "poisson_observed": (likelihoods.poisson(exposure="observed"), 1, 30),
}
ELEMENTS = {
    "binary": st.sampled_from([0.0, 1.0]),
    "unit_interval": st.floats(0, 1, width=32, allow_subnormal=False),
    "counts": st.integers(0, 10_000).map(float),
    "real": st.floats(-1000, 1000, width=32, allow_subnormal=False),
}


def _examples(name):
    """Strategy of (decoder outputs, shared numbers, x) of a batch."""
    bundle, channels, reach = LIKELIHOODS[name]
    shape = (BATCH, *SHAPE, channels)
    per_dim = (bundle.outputs_per_dim,) if bundle.outputs_per_dim > 1 else ()
    top = (bundle.num_levels or 256) - 1
    levels = st.integers(0, top).map(lambda level: np.float32(level / top).item())
    elements = ELEMENTS.get(bundle.support, levels)
    return st.tuples(
        _arrays((*shape, *per_dim), -reach, reach),
        _arrays((len(bundle.shared_start),), -30, 30),
        hnp.arrays(np.float32, shape, elements=elements),
    )


@functools.cache
def _programs(name):
    """(value and gradient of one example, the same of a batch)."""
    bundle, *_ = LIKELIHOODS[name]

    def log_prob(output, shared, x):
        return bundle.log_prob((output, shared) if bundle.shared_start else output, x)

    one = jax.value_and_grad(log_prob)
    return jax.jit(one), jax.jit(jax.vmap(one, in_axes=(0, None, 0)))


@pytest.mark.parametrize("name", slow_but(("gaussian_per_pixel", "multinomial"), LIKELIHOODS))
def test_likelihoods(name):
    one, many = _programs(name)
    size = np.prod(SHAPE)

    @quickly
    @given(_examples(name), st.permutations(range(size)))
    def check(batch, order):
        outputs, shared, x = batch
        values, gradients = jax.device_get(many(outputs, shared, x))
        assert np.isfinite(values).all()
        assert np.isfinite(gradients).all()
        close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-3)
        for i in range(BATCH):
            close(one(outputs[i], shared, x[i])[0], values[i])
        permuted = (a.reshape(BATCH, size, *a.shape[3:])[:, np.array(order)].reshape(a.shape) for a in (outputs, x))
        moved, there = permuted
        close(many(moved, shared, there)[0], values)

    check()


@pytest.mark.slow
@quickly
@given(_arrays((4, 5), -50, 50), _arrays((4, 5), -30, 30), st.permutations(range(5)), st.floats(0, 10, width=32))
def test_divergences(means, log_scales, order, free_bits):
    """(q's and p's) of two examples each."""
    order = np.array(order)
    per_dimension = np.asarray(jax.vmap(divergences.kl_per_dimension)(means, log_scales))
    assert np.isfinite(per_dimension).all()
    assert (per_dimension >= 0).all()
    standard = jax.vmap(divergences.kl_to_standard_normal)(means, log_scales)
    np.testing.assert_allclose(standard, per_dimension.sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(
        standard, [divergences.kl_to_standard_normal(*one) for one in zip(means, log_scales, strict=True)], rtol=1e-5
    )
    np.testing.assert_allclose(
        jax.vmap(divergences.kl_to_standard_normal)(means[:, order], log_scales[:, order]), standard, rtol=1e-5
    )
    two = jax.vmap(divergences.kl_diagonal_gaussians)(means[:2], log_scales[:2], means[2:], log_scales[2:])
    moved = jax.vmap(divergences.kl_diagonal_gaussians)(
        means[:2, order], log_scales[:2, order], means[2:, order], log_scales[2:, order]
    )
    assert (np.asarray(two) >= 0).all()
    np.testing.assert_allclose(moved, two, rtol=1e-5)
    freed = jax.vmap(lambda kl: divergences.free_bits_per_dimension(kl, free_bits))(per_dimension)
    assert (np.asarray(freed) >= standard * (1 - 1e-6)).all()


of = objectives.with_hyperparams
OBJECTIVES = {
    "elbo": of(objectives.elbo, "beta"),
    "capacity": of(objectives.capacity_elbo, "capacity", "gamma"),
    "free_bits": of(objectives.free_bits_elbo, "free_bits", "beta", num_groups=2),
    "iwae": of(objectives.iwae, num_samples=3),
    "iwae_dreg": of(objectives.iwae, num_samples=3, estimator="dreg"),
    "iwae_stl": of(objectives.iwae, num_samples=3, estimator="stl"),
    "miwae": of(objectives.miwae, num_groups=2, num_samples=2),
    "ciwae": of(objectives.ciwae, "elbo_weight", num_samples=3),
    "piwae": of(objectives.piwae, num_groups=2, num_samples=2),
}


@functools.cache
def _objective(name):
    """A linear VAE's terms and gradient for one example and for a batch; params are (encoder, decoder) matrices."""

    def loss(params, key, x, hyperparams):
        encoder, decoder = params
        encode = lambda x: tuple(jnp.split(encoder @ x, 2))  # noqa: E731
        terms = OBJECTIVES[name](key, encode, lambda z: decoder @ z, likelihoods.bernoulli_log_prob, x, hyperparams)
        return terms.loss, terms

    one = jax.grad(loss, has_aux=True)
    return jax.jit(one), jax.jit(jax.vmap(one, in_axes=(None, 0, 0, None)))


@pytest.mark.parametrize("name", slow_but(("elbo",), OBJECTIVES))
def test_objectives(name):
    one, many = _objective(name)

    @quickly
    @given(
        st.tuples(_arrays((4, 6), -3, 3), _arrays((6, 2), -1e3, 1e3)),
        hnp.arrays(np.float32, (BATCH, 6), elements=ELEMENTS["binary"]),
        st.integers(0, 2**32 - 1),
        st.floats(0, 100, width=32),
    )
    def check(params, x, seed, beta):
        keys = jax.random.split(jax.random.key(seed), BATCH)
        hyperparams = config.Hyperparams(
            beta=beta, learning_rate=1e-3, capacity=beta, gamma=beta, free_bits=beta, elbo_weight=0.3
        )
        gradients, terms = many(params, keys, x, hyperparams)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((gradients, terms)))
        for i in range(BATCH):
            alone = one(params, keys[i], x[i], hyperparams)[1]
            for got, expected in zip(jax.tree.leaves(terms), jax.tree.leaves(alone), strict=True):
                np.testing.assert_allclose(got[i], expected, rtol=1e-3, atol=1e-2)

    check()


# Settings and files.

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.sampled_from(["elbo", "gaussian", "shared", "", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "beta"]), inner, max_size=2),
    max_leaves=4,
)
FIELDS = [field.name for field in dataclasses.fields(config.Config)]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.dictionaries(st.sampled_from([*FIELDS, "betta"]), JSON, max_size=4))
def test_settings_are_read_or_refused(changes):
    """What config.json may hold: a configuration that is valid, or a `UserError`."""
    settings_of_run = {**dataclasses.asdict(config.Config()), **changes}
    with tempfile.TemporaryDirectory() as folder:
        content = {"config": settings_of_run, "data": {"sha256": ""}}
        Path(folder, "config.json").write_text(json.dumps(content))
        try:
            read, _ = runs.read_config(Path(folder))
        except UserError:
            return
    again = config.from_dict(json.loads(json.dumps(dataclasses.asdict(read))))
    assert again == read or read != read


def _mutated(whole):
    """Bytes with some changed, and perhaps the end missing."""
    change = st.tuples(st.integers(0, min(len(whole), 200) - 1), st.integers(0, 255))
    return st.tuples(st.lists(change, min_size=1, max_size=6), st.integers(0, len(whole)) | st.just(len(whole))).map(
        lambda drawn: _apply(whole, *drawn)
    )


def _apply(whole, changes, end):
    content = bytearray(whole)
    for place, value in changes:
        content[place] = value
    return bytes(content[:end])


def _saved(save, array):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.npz" if save is np.savez else "a.npy")
        save(path, array)
        return path.read_bytes()


IMAGES = np.arange(10 * 3 * 4, dtype=np.uint8).reshape(10, 3, 4)
FILES = {
    "train-images-idx3-ubyte": struct.pack(">HBB3I", 0, 8, 3, 10, 3, 4) + IMAGES.tobytes(),
    "a.npy": _saved(np.save, IMAGES),
    "a.npz": _saved(np.savez, IMAGES),
}


@pytest.mark.parametrize("name", FILES)
def test_files_are_read_or_refused(name):
    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(_mutated(FILES[name]))
    def check(content):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, name)
            path.write_bytes(content)
            with contextlib.suppress(UserError):
                got = data.load(folder if name.startswith("train") else str(path))
                assert got.train.ndim == 4
                assert np.isfinite(got.train).all()

    check()
