"""A user's Linen or NNX module with a condition as its second argument: checked at construction, wrong calls named."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from vae_jax import likelihoods, model, networks
from vae_jax.example import Example

SHAPE, LATENT, DIM = (4, 6, 4), 3, 2
SIZE = 4 * 6 * 4
BERNOULLI = likelihoods.bernoulli()
X, Z, C = jnp.linspace(0.0, 1.0, SIZE).reshape(SHAPE), jnp.arange(3.0), jnp.array([1.0, -2.0])


class Plain(linen.Module):
    @linen.compact
    def __call__(self, x):
        h = linen.Dense(2 * LATENT)(x.reshape(-1))
        return h[:LATENT], h[LATENT:]


class Given(linen.Module):
    layer: linen.Module | None = None

    @linen.compact
    def __call__(self, x, c):
        h = x if self.layer is None else self.layer(x)
        h = linen.Dense(2 * LATENT)(jnp.concatenate([h.reshape(-1), c]))
        return h[:LATENT], h[LATENT:]


class PlainDecoder(linen.Module):
    @linen.compact
    def __call__(self, z):
        return linen.Dense(SIZE)(z).reshape(SHAPE)


class NnxGiven(nnx.Module):
    def __init__(self, condition_dim=DIM, layer=None, *, rngs):
        self.dense = nnx.Linear(LATENT + condition_dim, SIZE, rngs=rngs)
        self.layer = nnx.data(layer)

    def __call__(self, z, c):
        h = self.dense(jnp.concatenate([z, c])).reshape(SHAPE)
        return h if self.layer is None else self.layer(h)


class NnxPlain(nnx.Module):
    def __init__(self, *, rngs):
        self.dense = nnx.Linear(LATENT, SIZE, rngs=rngs)

    def __call__(self, z):
        return self.dense(z).reshape(SHAPE)


def rngs():
    return nnx.Rngs(0)


def encoder(**settings):
    return networks.from_linen(Given(**settings), SHAPE, condition_dim=DIM)


def decoder(**settings):
    return networks.from_nnx(NnxGiven(rngs=rngs(), **settings))


def test_modules_with_a_condition_compute_what_they_say():
    vae = model.make_vae(encoder(), decoder(), BERNOULLI, SHAPE, condition_dim=DIM)
    params = vae.init(jax.random.key(0))
    dense = params["encoder"]["Dense_0"]
    mean, log_scale = vae.encode(params, Example(X, C))
    joined = np.concatenate([np.ravel(X), C])
    np.testing.assert_allclose(
        np.concatenate([mean, log_scale]), joined @ dense["kernel"] + dense["bias"], rtol=1e-5, atol=1e-6
    )
    dense = params["decoder"]["dense"]
    expected = (np.concatenate([Z, C]) @ dense["kernel"] + dense["bias"]).reshape(SHAPE)
    np.testing.assert_allclose(vae.decode(params, Z, C), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(vae.decode(params, Z, condition=C), vae.decode(params, Z, C))
    batch = Example(jnp.stack([X, 1 - X]), jnp.stack([C, -C]))
    means, _ = jax.vmap(vae.encode, in_axes=(None, 0))(params, batch)
    np.testing.assert_allclose(means[1], vae.encode(params, batch[1])[0], rtol=1e-5, atol=1e-6)


def linen_plain(**options):
    return networks.from_linen(Plain(), SHAPE, **options)


def linen_decoder(**options):
    return networks.from_linen(PlainDecoder(), (LATENT,), **options)


MISTAKES = {  # encoder, decoder, condition_dim of make_vae, message
    "one argument": (
        lambda: linen_plain(condition_dim=DIM),
        decoder,
        DIM,
        "from_linen: Plain.__call__(self, x) takes one argument, but there is a condition of length 2. Give it a",
    ),
    "adapted without a condition": (linen_plain, decoder, DIM, "got one of shape (2,). Pass condition_dim=2 to from_linen."),
    "two arguments adapted without": (
        lambda: networks.from_linen(Given(), SHAPE),
        decoder,
        DIM,
        "Given.__call__(self, x, c) takes two arguments, but there is no condition. Pass condition_dim= to make_vae and to",
    ),
    "two arguments, no condition": (
        encoder,
        linen_decoder,
        0,
        "expected a condition of length 2, for which the module was adapted, got none. Pass condition_dim=2 to make_vae, or",
    ),
    "another length": (encoder, decoder, 3, "got shape (3,). Pass the same condition_dim to from_linen and make_vae."),
    "decoder of one argument": (
        encoder,
        lambda: linen_decoder(condition_dim=DIM),
        DIM,
        "PlainDecoder.__call__(self, z) takes one argument, but there is a condition of length 2.",
    ),
    "NNX of one argument": (
        encoder,
        lambda: networks.from_nnx(NnxPlain(rngs=rngs())),
        DIM,
        "from_nnx: NnxPlain.__call__(self, z) takes one argument, but there is a condition of length 2. Give it a second",
    ),
    "NNX of two arguments, no condition": (
        linen_plain,
        decoder,
        0,
        "from_nnx: NnxGiven.__call__(self, z, c) takes two arguments, but there is no condition. Pass condition_dim= to",
    ),
    "NNX for another length": (
        encoder,
        lambda: decoder(condition_dim=5),
        DIM,
        "and one condition of shape (2,). Make it for 3 latent dimensions and ONE code, without a batch axis. Its second "
        "argument is the condition, of shape (2,).",
    ),
    "a function of one argument": (
        encoder,
        lambda: networks.Network(lambda key: {}, lambda params, z: jnp.zeros(SHAPE)),
        DIM,
        "expected the decoder to be a function (params, z, c), because condition_dim is 2, got (params, z). Give it",
    ),
    "a function of two arguments": (
        lambda: networks.Network(lambda key: {}, lambda params, x, c: (jnp.zeros(3), jnp.zeros(3))),
        linen_decoder,
        0,
        "expected the encoder to be a function (params, x), because there is no condition, got (params, x, c). Pass",
    ),
    "not a length": (encoder, decoder, (2,), "condition_dim: expected the length of the condition as a whole number"),
    "a boolean": (encoder, decoder, True, "or 0 without one, got True"),
    "below 0": (encoder, decoder, -1, "got -1"),
}


@pytest.mark.parametrize(("encoder", "decoder", "dim", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_module_that_does_not_take_the_condition_is_refused(encoder, decoder, dim, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        model.make_vae(encoder(), decoder(), BERNOULLI, SHAPE, condition_dim=dim)
    assert "\n" not in str(caught.value)


def test_the_advised_fixes_serve():
    for kind in (linen_plain(), linen_plain(condition_dim=0)):
        model.make_vae(kind, linen_decoder(), BERNOULLI, SHAPE)
    function = networks.Network(lambda key: {}, lambda params, z, c: jnp.zeros(SHAPE) + c[0])
    vae = model.make_vae(encoder(), function, BERNOULLI, SHAPE, condition_dim=np.int64(DIM))
    assert float(vae.decode({"decoder": {}}, Z, C)[0, 0, 0]) == 1


# Layers that are wrong for one example are still named, also where a user's layer takes the condition.


class Modulated(nnx.GroupNorm):
    def __call__(self, x, c):
        return super().__call__(x) + c[0]


class Dropped(nnx.Dropout):
    def __call__(self, inputs, c):
        return super().__call__(inputs * c[0])


class LinenDropped(linen.Dropout):
    @linen.compact
    def __call__(self, inputs, c):
        return linen.Dropout(self.rate, deterministic=self.deterministic)(inputs) * c[0]


class WithLayer(nnx.Module):
    def __init__(self, layer):
        self.layer = layer

    def __call__(self, x, c):
        return self.layer(x, c)


class LinenWithLayer(linen.Module):
    layer: linen.Module

    def __call__(self, x, c):
        return self.layer(x, c)


LAYERS = {
    "GroupNorm": (lambda: encoder(layer=linen.GroupNorm(2)), "reduction_axes=(-3, -2, -1)"),
    "InstanceNorm": (lambda: encoder(layer=linen.InstanceNorm()), "LayerNorm(reduction_axes=(-3, -2), feature_axes=-1)"),
    "Dropout": (lambda: encoder(layer=linen.Dropout(0.5, deterministic=False)), "active Dropout"),
    "BatchNorm": (lambda: encoder(layer=linen.BatchNorm(use_running_average=True)), "the collection batch_stats as well"),
    "a subclass of Dropout": (
        lambda: networks.from_linen(LinenWithLayer(LinenDropped(0.5, deterministic=False)), SHAPE, condition_dim=DIM),
        "active Dropout",
    ),
    "a subclass of GroupNorm, NNX": (
        lambda: networks.from_nnx(WithLayer(Modulated(4, 2, rngs=rngs()))),
        "a batch axis of one: norm(x[None])[0]",
    ),
}


@pytest.mark.parametrize(("make", "message"), LAYERS.values(), ids=LAYERS)
def test_layers_wrong_for_one_example_are_named_with_two_arguments(make, message):
    def shapes(key):
        network = make()
        return network.apply(network.init(key), X, C)

    with pytest.raises(ValueError, match=re.escape(message)):
        jax.eval_shape(shapes, jax.random.key(0))


def test_layers_that_take_the_condition_work():
    inactive = networks.from_linen(LinenWithLayer(LinenDropped(0.5, deterministic=True)), SHAPE, condition_dim=DIM)
    np.testing.assert_allclose(inactive.apply({}, X, 3 * C), 3 * X, rtol=1e-6)
    dropped = networks.from_nnx(WithLayer(Dropped(0.5, deterministic=True, rngs=rngs())))
    np.testing.assert_allclose(dropped.apply(dropped.init(jax.random.key(0)), X, 3 * C), 3 * X, rtol=1e-6)
    active = networks.from_nnx(WithLayer(Dropped(0.5, rngs=rngs())))
    linen_active = networks.from_linen(LinenWithLayer(LinenDropped(0.5)), SHAPE, condition_dim=DIM, rngs=("dropout",))
    for network in (active, linen_active):
        np.testing.assert_allclose(network.apply({}, X, 3 * C), 3 * X, rtol=1e-6)
        drawn = network.apply({}, X, 3 * C, key=jax.random.key(0))
        np.testing.assert_allclose(drawn, np.where(drawn != 0, 6 * X, 0), rtol=1e-6)
        assert 0.3 < np.mean(drawn == 0) < 0.7
    with pytest.raises(ValueError, match="a batch axis of one"):
        model.make_vae(encoder(), decoder(layer=nnx.GroupNorm(4, 2, rngs=rngs())), BERNOULLI, SHAPE, condition_dim=DIM)
