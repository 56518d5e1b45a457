"""A user's own networks: what is wrong ends in one sentence, Flax's layers mean one example, constants stay constants."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from vae_jax import likelihoods, model, networks

SHAPE, LATENT = (4, 6, 4), 3
SIZE = 4 * 6 * 4
BERNOULLI = likelihoods.bernoulli()


class Encoder(linen.Module):
    """Linen: flattened or as `rows` (the habit of a batch axis), after any layer."""

    rows: bool = False
    layer: linen.Module | None = None

    @linen.compact
    def __call__(self, x):
        h = x if self.layer is None else self.layer(x)
        h = linen.Dense(2 * LATENT)(h.reshape(h.shape[0], -1) if self.rows else h.reshape(-1))
        return h[..., :LATENT], h[..., LATENT:]


class OneOutput(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(LATENT)(x.reshape(-1))


class PerPixel(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(LATENT)(x), linen.Dense(LATENT)(x)


class Decoder(linen.Module):
    @linen.compact
    def __call__(self, z):
        return linen.Dense(SIZE)(z).reshape(SHAPE)


class NnxEncoder(nnx.Module):
    def __init__(self, layer=None, rows=False, *, rngs):
        self.dense, self.layer, self.rows = nnx.Linear(SIZE, 2 * LATENT, rngs=rngs), nnx.data(layer), rows

    def __call__(self, x):
        h = x if self.layer is None else self.layer(x)
        h = self.dense(h.reshape(h.shape[0], -1) if self.rows else h.reshape(-1))
        return h[:LATENT], h[LATENT:]


class NnxDecoder(nnx.Module):
    def __init__(self, latent_dim, *, rngs):
        self.dense = nnx.Linear(latent_dim, SIZE, rngs=rngs)

    def __call__(self, z):
        return self.dense(z).reshape(SHAPE)


def rngs():
    return nnx.Rngs(0)


def linen_network(**settings):
    return networks.from_linen(Encoder(**settings), SHAPE)


def nnx_network(layer=None, **settings):
    return networks.from_nnx(NnxEncoder(layer, rngs=rngs(), **settings))


GOOD_ENCODER, GOOD_DECODER = linen_network(), networks.from_linen(Decoder(), (LATENT,))


def changed(network, function):
    return network._replace(apply=lambda params, x: function(network.apply(params, x)))


WRONG_MODULES = {
    "a Linen class": (lambda: networks.from_linen(Encoder, SHAPE), "got the class Encoder. Make one: from_linen(Encoder(...)"),
    "a Linen class's size": (lambda: networks.from_linen(Decoder(), LATENT), "as a tuple, got 3. Write (3,)."),
    "NNX for Linen": (lambda: networks.from_linen(NnxDecoder(3, rngs=rngs()), SHAPE), "which is NNX: use from_nnx(module)"),
    "a function for Linen": (lambda: networks.from_linen(lambda x: x, SHAPE), "flax.linen.Module, got a function."),
    "an NNX class": (lambda: networks.from_nnx(NnxDecoder), "from_nnx(lambda rngs: NnxDecoder(..., rngs=rngs))"),
    "Linen for NNX": (lambda: networks.from_nnx(Encoder()), "use from_linen(module, input_shape)"),
    "a function of rngs to a number": (
        lambda: networks.from_nnx(lambda rngs: 3),
        "that returns an object of type int",
    ),
}


@pytest.mark.parametrize(("make", "message"), WRONG_MODULES.values(), ids=WRONG_MODULES)
def test_an_adapter_says_what_it_expects(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


ENCODERS = {
    "a module": (lambda: Encoder(), "encoder: expected a networks.Network (init, apply), got the module Encoder. Adapt it"),
    "an NNX class": (lambda: NnxEncoder, "networks.from_nnx(lambda rngs: NnxEncoder(..., rngs=rngs))"),
    "written for batches": (lambda: linen_network(rows=True), "got a tuple with shapes [(4, 3), (4, 3)]. The network sees ONE"),
    "for batches, NNX": (lambda: nnx_network(rows=True), "the encoder fails on one example of shape (4, 6, 4). It sees ONE"),
    "made for a batch": (lambda: networks.from_linen(Encoder(), (1, *SHAPE)), "expected an input of shape (1, 4, 6, 4)"),
    "pixel by pixel": (lambda: networks.from_linen(PerPixel(), SHAPE), "got a tuple with shapes [(4, 6, 3), (4, 6, 3)]"),
    "one array": (lambda: networks.from_linen(OneOutput(), SHAPE), "got an array of shape (3,) in place of a pair"),
    # Its leaves are sorted by name, log_scale first.
    "a dictionary": (lambda: changed(GOOD_ENCODER, lambda out: {"mean": out[0], "log_scale": out[1]}), "got a dict in place"),
    "integers": (lambda: changed(GOOD_ENCODER, lambda out: (out[0].astype(int), out[1])), "to return floats, got int32"),
    "Dropout": (lambda: linen_network(layer=linen.Dropout(0.5, deterministic=False)), "active Dropout"),
    "Dropout that does not say": (lambda: linen_network(layer=linen.Dropout(0.5)), "deterministic=True"),
    "Dropout without rngs, NNX": (lambda: nnx_network(nnx.Dropout(0.5)), "active Dropout"),
    "BatchNorm": (
        lambda: linen_network(layer=linen.BatchNorm(use_running_average=True)),
        "the collection batch_stats as well. A network is a function of its parameters and one example. Batch statistics",
    ),
    "GroupNorm": (lambda: linen_network(layer=linen.GroupNorm(2)), "GroupNorm(..., reduction_axes=(-3, -2, -1))"),
    "InstanceNorm": (lambda: linen_network(layer=linen.InstanceNorm()), "LayerNorm(reduction_axes=(-3, -2), feature_axes=-1)"),
    "GroupNorm, NNX": (lambda: nnx_network(nnx.GroupNorm(4, 2, rngs=rngs())), "a batch axis of one: norm(x[None])[0]"),
    "InstanceNorm, NNX": (lambda: nnx_network(nnx.InstanceNorm(4, rngs=rngs())), "a batch axis of one: norm(x[None])[0]"),
}
DECODERS = {
    "a function": (lambda: lambda z: z, "got a function. A function f without parameters becomes one by networks.Network("),
    "a tuple": (lambda: (1, 2), "got an object of type tuple"),
    "for 6 dimensions": (
        lambda: networks.from_linen(Decoder(), (6,)),
        "(3,), which is what the encoder gives. from_linen",
    ),
    "for 6 dimensions, NNX": (lambda: networks.from_nnx(NnxDecoder(6, rngs=rngs())), "Make it for 3 latent dimensions and ONE"),
    "for 6 dimensions, ours": (lambda: networks.mlp_decoder(6, SHAPE), "expected an input of shape (6,)"),
    "complex numbers": (lambda: changed(GOOD_DECODER, lambda out: out * 1j), "got complex64"),
    "parameters that fail": (
        lambda: GOOD_DECODER._replace(init=lambda key: key["a"]),
        "decoder's parameters cannot be made",
    ),
}


@pytest.mark.parametrize(("make", "message"), ENCODERS.values(), ids=ENCODERS)
def test_an_encoder_that_does_not_serve_is_refused_in_a_sentence(make, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        model.make_vae(make(), GOOD_DECODER, BERNOULLI, SHAPE)
    assert "\n" not in str(caught.value)
    assert "dot_general" not in str(caught.value)


@pytest.mark.parametrize(("make", "message"), DECODERS.values(), ids=DECODERS)
def test_a_decoder_that_does_not_serve_is_refused_in_a_sentence(make, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        model.make_vae(GOOD_ENCODER, make(), BERNOULLI, SHAPE)
    assert "\n" not in str(caught.value)
    assert "dot_general" not in str(caught.value)


def test_the_advice_for_a_function_without_parameters_serves():
    decoder = networks.Network(lambda key: {}, lambda params, z: jnp.zeros(SHAPE) + z[0])
    vae = model.make_vae(GOOD_ENCODER, decoder, BERNOULLI, SHAPE)
    np.testing.assert_array_equal(vae.decode({"decoder": {}}, jnp.full(LATENT, 2.0)), np.full(SHAPE, 2.0))


# One example, not a batch.


@functools.cache
def good_vae():
    return model.make_vae(GOOD_ENCODER, GOOD_DECODER, BERNOULLI, SHAPE)


BATCH = np.zeros((5, *SHAPE), np.float32)
PARAMS, CODES = {"encoder": {}, "decoder": {}}, np.zeros((5, 3))
CALLS = {
    "encode": (
        lambda vae: vae.encode(PARAMS, BATCH),
        "encode: expected one example of shape (4, 6, 4), got shape (5, 4, 6, 4).",
    ),
    "decode": (lambda vae: vae.decode(PARAMS, CODES), "use jax.vmap(vae.decode, in_axes=(None, 0))(params, batch)."),
    "log_prob": (
        lambda vae: vae.likelihood.log_prob(BATCH, BATCH),
        "jax.vmap(vae.likelihood.log_prob)(decoder_outputs",
    ),
    "another shape": (
        lambda vae: vae.encode(PARAMS, BATCH[0].ravel()),
        "expected one example of shape (4, 6, 4), got shape (96,).",
    ),
    "another code": (lambda vae: vae.decode(PARAMS, np.zeros(6)), "decode: expected one code of shape (3,), got shape (6,)."),
    "stored levels": (
        lambda vae: vae.encode(PARAMS, BATCH[0].astype(np.uint8)),
        "got uint8, as data are stored. For codes use",
    ),
    "levels to log_prob": (
        lambda vae: vae.likelihood.log_prob(BATCH[0], BATCH[0].astype(int)),
        "to_input=prepared.eval_input",
    ),
}


@pytest.mark.parametrize(("call", "message"), CALLS.values(), ids=CALLS)
def test_a_batch_or_stored_levels_are_refused_with_the_call_that_serves(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(good_vae())


def test_the_calls_of_the_messages_serve_and_booleans_and_counts_are_what_they_say():
    vae = good_vae()
    params = vae.init(jax.random.key(0))
    codes, _ = jax.vmap(vae.encode, in_axes=(None, 0))(params, BATCH)
    outputs = jax.vmap(vae.decode, in_axes=(None, 0))(params, codes)
    assert jax.vmap(vae.likelihood.log_prob)(outputs, BATCH).shape == (5,)
    x = np.arange(SIZE).reshape(SHAPE) % 2
    np.testing.assert_array_equal(vae.encode(params, x > 0)[0], vae.encode(params, x.astype(np.float32))[0])
    counting = model.make_vae(GOOD_ENCODER, GOOD_DECODER, likelihoods.poisson(), SHAPE)
    np.testing.assert_array_equal(counting.encode(params, 7 * x)[0], counting.encode(params, np.float32(7 * x))[0])


# Flax's layers on one example.


def grouped(x, groups):
    """GroupNorm of one example (Wu and He 2018), in NumPy."""
    h = np.asarray(x, np.float64).reshape(*x.shape[:-1], groups, -1)
    axes = (*range(x.ndim - 1), x.ndim)
    h = (h - h.mean(axes, keepdims=True)) / np.sqrt(h.var(axes, keepdims=True) + 1e-6)
    return h.reshape(x.shape)


class WithBatchAxis(nnx.Module):
    def __init__(self, norm):
        self.norm = norm

    def __call__(self, x):
        return self.norm(x[None])[0]


class LinenWithBatchAxis(linen.Module):
    norm: linen.Module

    @linen.compact
    def __call__(self, x):
        return self.norm(x[None])[0]


def adapted(layer, shape=SHAPE):
    network = networks.from_linen(layer, shape) if isinstance(layer, linen.Module) else networks.from_nnx(layer)
    return lambda x: network.apply(network.init(jax.random.key(0)), x)


NORMS = {
    "GroupNorm with axes": (lambda: linen.GroupNorm(2, reduction_axes=(-3, -2, -1)), 2),
    "GroupNorm with a batch axis": (lambda: LinenWithBatchAxis(linen.GroupNorm(2)), 2),
    "LayerNorm for InstanceNorm": (lambda: linen.LayerNorm(reduction_axes=(-3, -2), feature_axes=-1), 4),
    "GroupNorm, NNX": (lambda: WithBatchAxis(nnx.GroupNorm(4, 2, rngs=rngs())), 2),
    "InstanceNorm, NNX": (lambda: WithBatchAxis(nnx.InstanceNorm(4, rngs=rngs())), 4),
}


@pytest.mark.parametrize(("make", "groups"), NORMS.values(), ids=NORMS)
def test_the_advised_normalization_is_over_the_whole_example(make, groups):
    x = jax.random.normal(jax.random.key(1), SHAPE) + jnp.arange(4.0)[:, None, None]  # rows of different means
    np.testing.assert_allclose(adapted(make())(x), grouped(x, groups), atol=2e-5)


def test_normalization_within_entries_and_of_vectors_is_left_alone():
    x = jax.random.normal(jax.random.key(1), SHAPE)
    for layer in (linen.LayerNorm(), nnx.LayerNorm(4, rngs=rngs())):
        np.testing.assert_allclose(adapted(layer)(x), [[grouped(pixel, 1) for pixel in row] for row in x], atol=2e-5)
    np.testing.assert_allclose(adapted(linen.GroupNorm(2), (4,))(x[0, 0]), grouped(x[0, 0], 2), atol=2e-5)


class Pool(linen.Module):
    padding: str

    @linen.compact
    def __call__(self, x):
        return linen.avg_pool(x, (2, 3), (2, 2), self.padding, count_include_pad=False)


LAYERS = {
    "convolution": lambda: linen.Conv(3, (3, 2), strides=2),
    "convolution, NNX": lambda: nnx.Conv(4, 3, (3, 2), strides=2, rngs=rngs()),
    "transposed convolution": lambda: linen.ConvTranspose(3, (3, 2), strides=(2, 2)),
    "pooling": lambda: Pool("VALID"),
    "padded pooling": lambda: Pool("SAME"),
    "attention": lambda: linen.MultiHeadDotProductAttention(2),
}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_other_layers_give_one_example_what_they_give_a_batch_of_one(make):
    layer, x = make(), jax.random.normal(jax.random.key(1), SHAPE)
    if isinstance(layer, linen.Module):
        params = networks.from_linen(layer, SHAPE).init(jax.random.key(0))
        expected = layer.apply({"params": params}, x[None])[0]
    else:
        expected = layer(x[None])[0]
    np.testing.assert_allclose(adapted(layer)(x), expected, rtol=1e-5, atol=1e-6)


# What an NNX module holds besides its parameters.


class Holder(nnx.Module):
    """x times a parameter, plus constants of three kinds; `use` does something with the rest."""

    def __init__(self, use=lambda module, x: x, *, rngs):
        self.gain = nnx.Param(jnp.float32(2.0))
        self.shift, self.numpy, self.variable = jnp.arange(3.0), np.ones(3, np.float32), nnx.Variable(jnp.float32(10.0))
        self.rngs, self.dropout, self.use = rngs, nnx.Dropout(0.5, deterministic=True, rngs=rngs), use

    def __call__(self, x):
        return self.dropout(self.use(self, x)) * self.gain + self.shift + self.numpy + self.variable[...]


@pytest.mark.parametrize("as_function", [False, True])
def test_constants_stored_rngs_and_inactive_dropout_are_carried_along_untrained(as_function):
    network = networks.from_nnx((lambda rngs: Holder(rngs=rngs)) if as_function else Holder(rngs=rngs()))
    x = jnp.array([1.0, 2.0, 3.0])
    params = network.init(jax.random.key(0))
    assert list(params) == ["gain"]
    for _ in range(2):  # a second trace finds the same constants
        function = jax.jit(jax.vmap(jax.value_and_grad(lambda p, x: network.apply(p, x).sum()), (None, 0)))
        values, gradients = function(params, jnp.stack([x, -x]))
        np.testing.assert_allclose(values, [12 + 3 + 3 + 30, -12 + 3 + 3 + 30])
        np.testing.assert_allclose(gradients["gain"], [6, -6])


def _count(module, x):
    module.variable[...] += 1
    return x


USES = {
    "noise": (lambda module, x: x + module.rngs.normal(x.shape), "draws random numbers"),
    "a counter": (_count, "from_nnx: a call changed variable, but a network is a function of its parameters"),
}


@pytest.mark.parametrize(("use", "message"), USES.values(), ids=USES)
def test_what_an_nnx_module_remembers_from_call_to_call_is_named(use, message):
    network = networks.from_nnx(Holder(use, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(network.apply, network.init(jax.random.key(0)), jnp.zeros(3))


class Sampling(linen.Module):
    @linen.compact
    def __call__(self, x):
        return x + jax.random.normal(self.make_rng("noise"), x.shape)


class Remembers(linen.Module):
    @linen.compact
    def __call__(self, x):
        return x + self.variable("cache", "seen", lambda: jnp.zeros(())).value


def test_random_numbers_and_other_state_in_linen_are_named():
    with pytest.raises(ValueError, match="from_linen: the module draws random numbers"):
        networks.from_linen(Sampling(), (3,))
    with pytest.raises(ValueError, match=r"the collection cache as well.*What a module remembers"):
        networks.from_linen(Remembers(), (3,))
