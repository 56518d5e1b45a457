"""Exact dataset means: every example once, independent of the batch size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax import likelihoods, model
from vae_jax.divergences import kl_to_standard_normal
from vae_jax.evaluation import DataSlice, Evaluation, encode_dataset, evaluate, map_examples, means
from vae_jax.objectives import elbo

SHAPE, COUNT = (3, 3, 1), 150  # a whole batch and a part, as they are on CPU


@pytest.fixture(scope="module")
def trained():
    vae = model.mlp_vae(SHAPE, likelihoods.bernoulli(), latent_dim=2, hidden=(8,))
    params = jax.tree.map(lambda leaf: 3 * leaf, vae.init(jax.random.key(0)))
    x = (jax.random.uniform(jax.random.key(1), (COUNT, *SHAPE)) < 0.5).astype(jnp.float32)
    return vae, params, x


@pytest.mark.parametrize("num_samples", [1, 4])
def test_it_is_the_plain_loop_over_examples_and_draws(trained, num_samples):
    vae, params, x = trained
    key = jax.random.key(9)
    got = evaluate(key, vae, params, x, batch_size=10, num_samples=num_samples)
    for i in (0, 127, 128, 149):
        draws = [
            elbo(
                jax.random.fold_in(jax.random.fold_in(key, i), k),
                lambda one: vae.encode(params, one),
                lambda z: vae.decode(params, z),
                vae.likelihood.log_prob,
                x[i],
            )
            for k in range(num_samples)
        ]
        np.testing.assert_allclose(got.log_likelihood[i], np.mean([d.log_likelihood for d in draws]), rtol=1e-5)
        np.testing.assert_allclose(got.kl[i], draws[0].kl, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 7, 149, 1000])
def test_the_batch_size_changes_no_bit(trained, batch_size):
    vae, params, x = trained
    whole = evaluate(jax.random.key(0), vae, params, x, batch_size=COUNT)
    parts = evaluate(jax.random.key(0), vae, params, x, batch_size=batch_size)
    assert parts.kl.shape == (COUNT,)
    assert means(parts) == means(whole)
    mean, log_scale = encode_dataset(vae, params, x, batch_size=batch_size)
    np.testing.assert_allclose(jax.vmap(kl_to_standard_normal)(mean, log_scale), whole.kl, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 7, 22, 23, 1000])
def test_every_example_counts_once(batch_size):
    data = jnp.arange(10.0, 33.0)
    index, doubled = map_examples(lambda index, x: (index, 2 * x), DataSlice(data, 5), lambda x: x + 1, batch_size)
    assert index.tolist() == list(range(5, 28))
    assert doubled.tolist() == (2 * (data + 1)).tolist()


def test_the_jacobian_is_added_to_each_log_likelihood(trained):
    vae, params, x = trained
    plain = evaluate(jax.random.key(0), vae, params, x)
    shifted = evaluate(jax.random.key(0), vae, params, x, log_jacobian=-50.0)
    np.testing.assert_allclose(shifted.log_likelihood, plain.log_likelihood - 50, rtol=1e-6)
    np.testing.assert_array_equal(shifted.kl, plain.kl)


def test_means_are_of_float64_and_the_error_is_over_examples():
    rng = np.random.default_rng(0)
    log_likelihood, kl = -rng.gamma(3.0, 30.0, 999).astype(np.float32), rng.gamma(2.0, 10.0, 999).astype(np.float32)
    got = means(Evaluation(jnp.asarray(log_likelihood), jnp.asarray(kl)))
    values = log_likelihood.astype(np.float64) - kl.astype(np.float64)
    assert got.num_examples == 999
    assert got.elbo == pytest.approx(values.mean(), rel=1e-14)
    assert got.elbo == got.log_likelihood - got.kl
    assert got.elbo_standard_error == pytest.approx(values.std(ddof=1) / np.sqrt(999), rel=1e-12)


def test_the_second_call_does_not_compile(trained):
    vae, params, x = trained
    traces = []

    @jax.jit
    def run(params):
        traces.append(1)
        return evaluate(jax.random.key(0), vae, params, x, batch_size=5)

    first, second = run(params), run(jax.tree.map(lambda leaf: leaf + 1, params))
    assert len(traces) == 1
    assert not np.allclose(first.kl, second.kl)
