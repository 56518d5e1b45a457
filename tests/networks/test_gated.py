"""Gated dense layers and further outputs of encoders, against NumPy, and encoders of the user with a third output."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from scipy.special import expit

from vae_jax import likelihoods, model, networks, posteriors
from vae_jax.build import build
from vae_jax.config import Config

SHAPE, LATENT, HIDDEN = (3, 2, 1), 2, (5, 4)
KEY = jax.random.key(0)


def dense(layer, h):
    return h @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64)


def gated_by_hand(layers, h, activation):
    """Each layer is activation(h A + a) * sigmoid(h B + b), with (A B) in one kernel."""
    for layer in layers:
        linear, gate = np.split(dense(layer, h), 2)
        h = activation(linear) * expit(gate)
    return h


@pytest.mark.parametrize("activation", ["linear", "tanh"])
def test_gated_layers_are_those_of_numpy(activation):
    function = {"linear": lambda h: h, "tanh": np.tanh}[activation]
    x, c, z = (np.random.default_rng(0).normal(size=n) for n in (6, 2, LATENT))
    options = {"activation": activation, "gated": True, "condition_dim": 2}
    encoder = networks.mlp_encoder(SHAPE, LATENT, hidden=HIDDEN, num_extra=3, **options)
    decoder = networks.mlp_decoder(LATENT, SHAPE, hidden=HIDDEN, **options)
    for network, given in ((encoder, x), (decoder, z)):
        params = jax.tree.map(lambda leaf: leaf + 0.1, network.init(KEY))  # biases are not zero
        hidden = params["_Hidden_0"]
        layers = [hidden[f"Dense_{i}"] for i in range(2)]
        assert [layer["kernel"].shape[1] for layer in layers] == [2 * width for width in HIDDEN]
        h = gated_by_hand(layers, np.concatenate([given, c]), function)
        shaped = given.reshape(SHAPE) if network is encoder else given
        got = network.apply(params, jnp.float32(shaped), jnp.float32(c))
        if network is encoder:
            heads = np.split(dense(params["Dense_0"], h), 2)
            for output, expected in zip(got, [*heads, dense(params["Dense_1"], h)], strict=True):
                np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_allclose(got, dense(params["Dense_0"], h).reshape(SHAPE), rtol=1e-5, atol=1e-6)


def test_gated_layers_start_with_he_normal_kernels():
    encoder = networks.mlp_encoder((200,), LATENT, hidden=(300,), gated=True)
    layer = encoder.init(KEY)["_Hidden_0"]["Dense_0"]
    assert layer["kernel"].shape == (200, 600)
    np.testing.assert_array_equal(layer["bias"], 0)
    expected = np.sqrt(2 / 200)
    assert np.std(layer["kernel"]) == pytest.approx(expected, rel=0.02)  # 120,000 draws
    assert abs(np.mean(layer["kernel"])) < 5 * expected / layer["kernel"].size ** 0.5


def test_the_published_network_of_the_vamp_prior_has_its_number_of_weights():
    settings = {"hidden": (300, 300), "latent_dim": 40, "gated": True, "activation": "linear"}
    vae = build(Config(dataset="digits", **settings)).vae
    params = jax.eval_shape(vae.init, KEY)
    widths = [64, 300, 300]
    gates = sum(2 * (a * b + b) for a, b in itertools.pairwise(widths))
    assert sum(leaf.size for leaf in jax.tree.leaves(params["encoder"])) == gates + 2 * (300 * 40 + 40)


@pytest.mark.parametrize("make", [networks.mlp_encoder, networks.conv_encoder])
def test_further_numbers_start_near_zero_and_leave_mean_and_scale_as_they_are(make):
    shape, options = (8, 8, 1), {"hidden": (64,)} if make is networks.mlp_encoder else {"dense": (64,)}
    plain, wide = make(shape, LATENT, **options), make(shape, LATENT, num_extra=400, **options)
    x = jax.random.normal(KEY, shape)
    expected, got = (jax.jit(lambda n=n: n.apply(n.init(KEY), x))() for n in (plain, wide))
    assert [output.shape for output in got] == [(LATENT,), (LATENT,), (400,)]
    assert all(output.dtype == jnp.float32 for output in got)
    for output, same in zip(got[:2], expected, strict=True):
        np.testing.assert_allclose(output, same, rtol=1e-6)
    assert 0 < np.abs(got[2]).max() < 0.2


class LinenEncoder(linen.Module):
    num_extra: int = 1

    @linen.compact
    def __call__(self, x):
        h = linen.Dense(5)(x.reshape(-1))
        return linen.Dense(LATENT)(h), linen.Dense(LATENT)(h), linen.Dense(self.num_extra)(h)


class NnxEncoder(nnx.Module):
    def __init__(self, rngs, num_extra=1):
        self.out = nnx.Linear(6, 2 * LATENT + num_extra, rngs=rngs)

    def __call__(self, x):
        return tuple(jnp.split(self.out(x.reshape(-1)), [LATENT, 2 * LATENT]))


ENCODERS = {
    "linen": lambda num_extra: networks.from_linen(LinenEncoder(num_extra), SHAPE),
    "nnx": lambda num_extra: networks.from_nnx(lambda rngs: NnxEncoder(rngs, num_extra)),
}


def make_vae(encoder, posterior):
    decoder = networks.mlp_decoder(LATENT, SHAPE, hidden=(4,))
    return model.make_vae(encoder, decoder, likelihoods.bernoulli(), SHAPE, posterior=posterior)


@pytest.mark.parametrize("kind", ENCODERS)
def test_an_encoder_of_the_user_returns_a_third_array(kind):
    posterior = posteriors.full(LATENT)
    vae = make_vae(ENCODERS[kind](posterior.num_extra), posterior)
    params = jax.jit(vae.init)(KEY)
    bound = model.bind(vae, params, jnp.ones(SHAPE))
    mean, log_scale, extra = bound.encode(bound.x)
    moments = model.posterior_moments(vae, params, bound.x)
    assert extra.shape == (1,)
    np.testing.assert_array_equal(moments[0], mean)
    variance = np.exp(2 * log_scale) * (1 + np.array([0, extra[0] ** 2]))
    np.testing.assert_allclose(np.exp(2 * moments[1]), variance, rtol=1e-5)


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize(("num_extra", "posterior"), [(2, posteriors.full(LATENT)), (1, None)])
def test_a_third_array_of_the_wrong_length_is_refused(kind, num_extra, posterior):
    expected = r"\(1,\) for the posterior 'full'" if posterior else r"\(mean, log_scale\), each of shape"
    with pytest.raises(ValueError, match=expected):
        make_vae(ENCODERS[kind](num_extra), posterior)
