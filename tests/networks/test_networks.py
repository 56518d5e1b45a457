"""Networks and the VAE bundle: Linen and NNX modules of the user's own, shapes, bfloat16, output bias."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

from vae_jax import likelihoods, model, networks, training
from vae_jax.config import Hyperparams

SHAPE, LATENT, WIDTH = (4, 3, 1), 2, 5


class LinenEncoder(linen.Module):
    @linen.compact
    def __call__(self, x):
        h = jnp.tanh(linen.Dense(WIDTH, name="hidden")(x.reshape(-1)))
        return linen.Dense(LATENT, name="mean")(h), linen.Dense(LATENT, name="log_scale")(h)


class LinenDecoder(linen.Module):
    @linen.compact
    def __call__(self, z):
        return linen.Dense(12, name="out")(jnp.tanh(linen.Dense(WIDTH, name="hidden")(z))).reshape(SHAPE)


class NnxEncoder(nnx.Module):
    def __init__(self, *, rngs):
        self.hidden = nnx.Linear(12, WIDTH, rngs=rngs)
        self.mean = nnx.Linear(WIDTH, LATENT, rngs=rngs)
        self.log_scale = nnx.Linear(WIDTH, LATENT, rngs=rngs)

    def __call__(self, x):
        h = jnp.tanh(self.hidden(x.reshape(-1)))
        return self.mean(h), self.log_scale(h)


class NnxDecoder(nnx.Module):
    def __init__(self, *, rngs):
        self.hidden = nnx.Linear(LATENT, WIDTH, rngs=rngs)
        self.out = nnx.Linear(WIDTH, 12, rngs=rngs)

    def __call__(self, z):
        return self.out(jnp.tanh(self.hidden(z))).reshape(SHAPE)


def linen_vae():
    encoder = networks.from_linen(LinenEncoder(), SHAPE)
    decoder = networks.from_linen(LinenDecoder(), (LATENT,))
    return model.make_vae(encoder, decoder, likelihoods.bernoulli(), SHAPE)


def nnx_vae(as_function=False):
    def make(cls):
        return networks.from_nnx((lambda rngs: cls(rngs=rngs)) if as_function else cls(rngs=nnx.Rngs(0)))

    return model.make_vae(make(NnxEncoder), make(NnxDecoder), likelihoods.bernoulli(), SHAPE)


def test_linen_and_nnx_of_the_same_weights_take_the_same_first_step():
    linen_, nnx_ = linen_vae(), nnx_vae()
    params = linen_.init(jax.random.key(1))
    chex.assert_trees_all_equal_shapes(params, nnx_.init(jax.random.key(1)))  # the names agree, so the weights fit
    x = (jax.random.uniform(jax.random.key(2), (8, *SHAPE)) < 0.5).astype(jnp.float32)
    results = []
    for vae in (linen_, nnx_):
        step = jax.jit(training.make_train_step(vae))
        state = training.TrainState(jnp.int32(0), params, optax.adam(0.0).init(params))
        results.append(step(state, jax.random.key(3), x, Hyperparams(jnp.float32(1), jnp.float32(1e-2))))
    (linen_state, linen_metrics), (nnx_state, nnx_metrics) = results
    chex.assert_trees_all_close(linen_metrics, nnx_metrics, rtol=1e-6)
    chex.assert_trees_all_close(linen_state.params, nnx_state.params, rtol=1e-5, atol=1e-7)
    assert not np.allclose(linen_state.params["encoder"]["mean"]["kernel"], params["encoder"]["mean"]["kernel"])


def test_an_nnx_module_starts_at_its_own_weights_and_a_function_of_rngs_at_the_keys():
    module, function = nnx_vae(), nnx_vae(as_function=True)
    chex.assert_trees_all_equal(module.init(jax.random.key(0)), module.init(jax.random.key(1)))
    first, second = function.init(jax.random.key(0)), function.init(jax.random.key(1))
    assert not np.allclose(first["decoder"]["out"]["kernel"], second["decoder"]["out"]["kernel"])
    many = jax.vmap(function.init)(jax.random.split(jax.random.key(0), 3))  # seeds of a sweep
    assert many["decoder"]["out"]["kernel"].shape == (3, WIDTH, 12)


class _LinenBatchNorm(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.BatchNorm(use_running_average=True)(x)


class _NnxBatchNorm(nnx.Module):
    def __init__(self):
        self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.norm(x)


def test_batch_statistics_are_refused():
    with pytest.raises(ValueError, match="Batch statistics"):
        networks.from_linen(_LinenBatchNorm(), (3,))
    with pytest.raises(ValueError, match="batch statistics"):
        networks.from_nnx(_NnxBatchNorm())


@pytest.mark.parametrize("hidden", [(), (7,), (7, 5, 3)])
def test_mlp_of_any_widths(hidden):
    vae = model.mlp_vae(SHAPE, likelihoods.gaussian(), latent_dim=3, hidden=hidden, activation="tanh")
    params = vae.init(jax.random.key(0))
    widths = [*hidden, 3]
    mean, log_scale = vae.encode(params, jnp.zeros(SHAPE))
    assert mean.shape == log_scale.shape == (3,)
    assert vae.decode(params, mean).shape == SHAPE
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    sizes_in = [12, *widths[:-1], 2 * 3]
    encoder = sum((a + 1) * b for a, b in itertools.pairwise(sizes_in))
    sizes_out = [3, *reversed(hidden), 12]
    assert count == encoder + sum((a + 1) * b for a, b in itertools.pairwise(sizes_out))


def test_bfloat16_arithmetic_keeps_parameters_and_outputs_in_float32():
    exact = model.mlp_vae(SHAPE, likelihoods.bernoulli(), hidden=(32,), latent_dim=4)
    half = model.mlp_vae(SHAPE, likelihoods.bernoulli(), hidden=(32,), latent_dim=4, dtype="bfloat16")
    params = half.init(jax.random.key(0))
    x = jax.random.uniform(jax.random.key(1), SHAPE)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert half.encode(params, x)[0].dtype == half.decode(params, jnp.zeros(4)).dtype == jnp.float32
    assert "bf16" in jax.jit(half.encode).lower(params, x).as_text()
    np.testing.assert_allclose(half.encode(params, x)[0], exact.encode(params, x)[0], rtol=0.1, atol=0.02)


def test_the_output_bias_starts_at_the_training_mean():
    mean = jnp.linspace(0.1, 0.9, 12).reshape(SHAPE)
    for likelihood in (likelihoods.bernoulli(), likelihoods.continuous_bernoulli(), likelihoods.gaussian()):
        vae = model.mlp_vae(SHAPE, likelihood, hidden=(4,), latent_dim=2, train_mean=mean)
        params = vae.init(jax.random.key(0))
        np.testing.assert_allclose(likelihood.mean(vae.decode(params, jnp.zeros(2))), mean, atol=1e-5)


def test_standardised_data_keep_the_likelihood_of_the_original_scale():
    """The same weights with and without: the encoder sees (x - 100)/50, the decoder's output is 100 + 50 h."""
    plain = model.mlp_vae(SHAPE, likelihoods.gaussian(), hidden=(4,), latent_dim=2)
    scaled = model.mlp_vae(SHAPE, likelihoods.gaussian(), hidden=(4,), latent_dim=2, standardize=(100.0, 50.0))
    params, x = plain.init(jax.random.key(0)), 100 + 50 * jax.random.normal(jax.random.key(1), SHAPE)
    chex.assert_trees_all_close(scaled.encode(params, x), plain.encode(params, (x - 100) / 50), rtol=1e-6)
    z = jnp.ones(2)
    np.testing.assert_allclose(scaled.decode(params, z), 100 + 50 * plain.decode(params, z), rtol=1e-6)


def test_a_function_serves_as_a_likelihood():
    vae = model.mlp_vae(SHAPE, lambda output, x: -jnp.sum(jnp.abs(x - output)) - 12 * jnp.log(2.0), hidden=(4,))
    output = vae.decode(vae.init(jax.random.key(0)), jnp.zeros(10))
    np.testing.assert_array_equal(vae.likelihood.mean(output), output)


def test_the_shared_scale_is_a_parameter_of_its_own():
    vae = model.mlp_vae(SHAPE, likelihoods.gaussian("shared"), hidden=(4,), latent_dim=2)
    params = vae.init(jax.random.key(0))
    assert params["likelihood"].shape == (1,)
    output = vae.decode(params, jnp.zeros(2))
    gradient = jax.grad(lambda params: vae.likelihood.log_prob(vae.decode(params, jnp.zeros(2)), jnp.zeros(SHAPE)))(params)
    # d/ds log N(x; m, exp(s)) = sum((x - m)^2 exp(-2 s) - 1), at s = 0
    np.testing.assert_allclose(gradient["likelihood"][0], jnp.sum(output[0] ** 2) - 12, rtol=1e-5)


def test_what_does_not_fit_is_refused_with_both_shapes():
    encoder = networks.mlp_encoder(SHAPE, LATENT)
    decoder = networks.mlp_decoder(LATENT, SHAPE)
    flat = networks.mlp_decoder(LATENT, (12,))
    only_mean = encoder._replace(apply=lambda params, x: encoder.apply(params, x)[0])
    with pytest.raises(ValueError, match=r"\(mean, log_scale\)"):
        model.make_vae(only_mean, decoder, likelihoods.bernoulli(), SHAPE)
    with pytest.raises(ValueError, match=r"\(12,\).*\(4, 3, 1\)"):
        model.make_vae(encoder, flat, likelihoods.bernoulli(), SHAPE)
    with pytest.raises(ValueError, match=r"scalar.*\(4, 3, 1\)"):
        model.make_vae(encoder, decoder, lambda output, x: -((output - x) ** 2), SHAPE)
    with pytest.raises(ValueError, match="relu, tanh"):
        networks.mlp_encoder(SHAPE, LATENT, activation="rellu")
