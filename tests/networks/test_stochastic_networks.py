"""Networks with dropout and other randomness: drawn with a key, off without one; what cannot be either is refused at once."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from budget import accept_mean
from flax import linen, nnx

from vae_jax import likelihoods, model, networks, priors

RATE, SIZE = 0.25, 6
X = jnp.linspace(0.5, 2.0, SIZE)
NORMAL = likelihoods.gaussian(1.0)


class Dropped(linen.Module):
    """Linear, with dropout as one of Flax's idioms says it."""

    idiom: str = "unset"
    deterministic: bool | None = None

    @linen.compact
    def __call__(self, x):
        h = linen.Dense(SIZE)(x)
        if self.idiom == "set by hand":
            return linen.Dropout(RATE, deterministic=False)(h)
        if self.idiom == "said in the call":
            return linen.Dropout(RATE)(h, deterministic=False)
        if self.idiom == "merged":
            return linen.Dropout(RATE)(h, linen.merge_param("deterministic", self.deterministic, None))
        if self.idiom == "remat":
            return linen.remat(linen.Dropout)(RATE)(h)
        if self.idiom == "has_rng":
            keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - RATE, h.shape) if self.has_rng("dropout") else None
            return h if keep is None else jnp.where(keep, h / (1 - RATE), 0)
        return linen.Dropout(RATE)(h)


class Train(linen.Module):
    @linen.compact
    def __call__(self, x, train: bool):
        return linen.Dropout(RATE, deterministic=not train)(linen.Dense(SIZE)(x))


class Deterministic(linen.Module):
    @linen.compact
    def __call__(self, x, *, deterministic=False):
        return linen.Dropout(RATE)(linen.Dense(SIZE)(x), deterministic=deterministic)


class NnxDropped(nnx.Module):
    def __init__(self, *, rngs, **options):
        self.dense, self.dropout = nnx.Linear(SIZE, SIZE, rngs=rngs), nnx.Dropout(RATE, rngs=rngs)
        self.options = options

    def __call__(self, x):
        return self.dropout(self.dense(x), **self.options)


class NnxTrain(NnxDropped):
    def __call__(self, x, train):
        return self.dropout(self.dense(x), deterministic=not train)


class NnxCalled(nnx.Module):
    """The stream is an argument of the call."""

    def __init__(self, *, rngs):
        self.dense, self.dropout = nnx.Linear(SIZE, SIZE, rngs=rngs), nnx.Dropout(RATE)

    def __call__(self, x, rngs):
        return self.dropout(self.dense(x), rngs=rngs)


class NnxLost(NnxCalled):
    def __call__(self, x):
        return self.dropout(self.dense(x))


class NnxFlag(nnx.Module):
    """Randomness without a layer, behind a flag that `eval()` sets."""

    def __init__(self, *, rngs):
        self.dense, self.rngs, self.deterministic = nnx.Linear(SIZE, SIZE, rngs=rngs), rngs, False

    def __call__(self, x):
        h = self.dense(x)
        return h if self.deterministic else jnp.where(self.rngs.bernoulli(1 - RATE, h.shape), h / (1 - RATE), 0)


def function_init(key):
    return {"Dense_0": {"kernel": jax.random.normal(key, (SIZE, SIZE)), "bias": jnp.ones(SIZE)}}


def function(params, x, *, key=None):
    h = x @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
    return h if key is None else jnp.where(jax.random.bernoulli(key, 1 - RATE, h.shape), h / (1 - RATE), 0)


def adapted(module: Any):
    return networks.from_linen(module, (SIZE,), rngs=("dropout",))


NETWORKS = {
    **{name: lambda name=name: adapted(Dropped(name)) for name in ("unset", "set by hand", "said in the call", "merged")},
    **{name: lambda name=name: adapted(Dropped(name)) for name in ("remat", "has_rng")},
    "train": lambda: adapted(Train()),
    "deterministic": lambda: adapted(Deterministic()),
    "NNX": lambda: networks.from_nnx(lambda rngs: NnxDropped(rngs=rngs)),
    "NNX, said in the call": lambda: networks.from_nnx(lambda rngs: NnxDropped(rngs=rngs, deterministic=False)),
    "NNX, an instance": lambda: networks.from_nnx(NnxDropped(rngs=nnx.Rngs(0))),
    "NNX, train": lambda: networks.from_nnx(lambda rngs: NnxTrain(rngs=rngs)),
    "NNX, rngs through Sequential": lambda: networks.from_nnx(
        lambda rngs: nnx.Sequential(nnx.Linear(SIZE, SIZE, rngs=rngs), nnx.Dropout(RATE))
    ),
    "NNX, rngs in the call": lambda: networks.from_nnx(lambda rngs: NnxCalled(rngs=rngs)),
    "NNX, a flag": lambda: networks.from_nnx(lambda rngs: NnxFlag(rngs=rngs)),
    "a function": lambda: networks.Network(function_init, function, is_stochastic=True),
}


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_a_key_draws_and_none_is_the_linear_layer(make):
    network = make()
    assert network.is_stochastic
    params = network.init(jax.random.key(0))
    dense = next(iter(params.values()))
    dense = dense.get(0, dense)  # Sequential has a list of layers
    linear = X @ dense["kernel"] + dense["bias"]
    np.testing.assert_array_equal(network.apply(params, X), linear)
    keys = jax.random.split(jax.random.key(1), 64)
    drawn = jax.vmap(lambda key: network.apply(params, X, key=key))(keys)
    kept = np.asarray(drawn != 0)
    np.testing.assert_allclose(drawn, np.where(kept, linear / (1 - RATE), 0), rtol=1e-6)
    accept_mean(kept, 1 - RATE, deviation=np.sqrt(RATE * (1 - RATE)))
    assert len(np.unique(kept, axis=0)) > 16  # masks differ from key to key
    np.testing.assert_array_equal(network.apply(params, X, key=keys[3]), network.apply(params, X, key=keys[3]))
    np.testing.assert_array_equal(network.apply(params, X), linear)


def test_the_mean_over_masks_of_a_linear_network_is_the_network_without():
    """Inverted dropout before a linear layer is unbiased: the mean over keys is the output without one."""

    class Linear(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dense(1)(linen.Dropout(RATE)(x))[0]

    network = networks.from_linen(Linear(), (SIZE,), rngs=("dropout",))
    params = network.init(jax.random.key(0))
    weights = np.asarray(params["Dense_0"]["kernel"], np.float64)[:, 0]
    keys = jax.random.split(jax.random.key(1), 20_000)
    drawn = jax.jit(jax.vmap(lambda key: network.apply(params, X, key=key)))(keys)
    deviation = np.sqrt(RATE / (1 - RATE) * np.sum((weights * np.asarray(X)) ** 2))
    accept_mean(drawn, float(network.apply(params, X)), deviation, slack=1e-6)


class TwoStreams(linen.Module):
    @linen.compact
    def __call__(self, x):
        h = linen.Dropout(0.5)(x)
        return (h + jax.random.normal(self.make_rng("noise"), x.shape), h) if self.has_rng("noise") else (h, h)


def test_streams_of_a_module_differ_and_parameters_are_those_of_flax():
    network = networks.from_linen(TwoStreams(), (SIZE,), rngs=("dropout", "noise"))
    noisy, dropped = network.apply({}, X, key=jax.random.key(0))
    assert jnp.all(noisy != dropped)
    swapped = networks.from_linen(TwoStreams(), (SIZE,), rngs=("noise", "dropout")).apply({}, X, key=jax.random.key(0))
    assert not np.array_equal(swapped[0] - swapped[1], noisy - dropped)
    module, key = Train(), jax.random.key(3)
    jax.tree.map(np.testing.assert_array_equal, adapted(module).init(key), module.init(key, X, train=False)["params"])
    two = networks.from_nnx(lambda rngs: nnx.Sequential(nnx.Dropout(0.5, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)))
    kept = jax.vmap(lambda key: two.apply({}, jnp.ones(SIZE), key=key) > 0)(jax.random.split(key, 300))
    accept_mean(kept, 0.25, deviation=np.sqrt(0.25 * 0.75))  # 1/2 where both layers drop alike


def test_a_layer_that_is_off_by_hand_stays_off_and_attention_is_told():
    off = networks.from_linen(Dropped("merged", deterministic=True), (SIZE,), rngs=("dropout",))
    params = off.init(jax.random.key(0))
    np.testing.assert_array_equal(off.apply(params, X, key=jax.random.key(1)), off.apply(params, X))
    off = networks.from_nnx(lambda rngs: nnx.Dropout(RATE, deterministic=True, rngs=rngs))
    np.testing.assert_array_equal(off.apply({}, X, key=jax.random.key(1)), X)
    pairs = jnp.stack([X, -X])
    for network in (
        networks.from_linen(linen.MultiHeadDotProductAttention(2, dropout_rate=0.5), (2, SIZE), rngs=("dropout",)),
        networks.from_nnx(lambda rngs: nnx.MultiHeadAttention(2, SIZE, dropout_rate=0.5, decode=False, rngs=rngs)),
    ):
        params = network.init(jax.random.key(0))
        assert not np.allclose(network.apply(params, pairs, key=jax.random.key(1)), network.apply(params, pairs))
        np.testing.assert_array_equal(network.apply(params, pairs), network.apply(params, pairs))


# What is refused when it is adapted.


class Layer(linen.Module):
    layer: linen.Module
    only_train: bool = False

    @linen.compact
    def __call__(self, x, train=False):
        return self.layer(x) if train or not self.only_train else x


class Noise(linen.Module):
    @linen.compact
    def __call__(self, x):
        return x + jax.random.normal(self.make_rng("noise"), x.shape)


class Spectral(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.SpectralNorm(linen.Dense(SIZE))(x, update_stats=True)


class NnxNoise(nnx.Module):
    def __init__(self, *, rngs):
        self.rngs = rngs

    def __call__(self, x):
        return x + self.rngs.normal(x.shape)


def linen_of(layer, rngs=(), **options):
    return lambda: networks.from_linen(Layer(layer, **options), (SIZE,), rngs=rngs)


def nnx_of(make):
    return lambda: networks.from_nnx(lambda rngs: nnx.Sequential(nnx.Linear(SIZE, SIZE, rngs=rngs), make(rngs)))


NORM, DROPOUT = linen.BatchNorm(use_running_average=False), ("dropout",)
REFUSED = {
    "BatchNorm": (linen_of(NORM), "Batch statistics (layer) depend on other examples"),
    "BatchNorm that runs": (linen_of(linen.BatchNorm(use_running_average=True)), "Use LayerNorm, or GroupNorm with"),
    "BatchNorm inside": (linen_of(linen.Sequential([linen.Dense(3), NORM])), "Batch statistics (layer/layers_1)"),
    "BatchNorm in training": (linen_of(NORM, DROPOUT, only_train=True), "the collection batch_stats as well."),
    "SpectralNorm": (lambda: networks.from_linen(Spectral(), (SIZE,)), "use WeightNorm or LayerNorm, which keep nothing"),
    "BatchNorm, NNX": (nnx_of(lambda rngs: nnx.BatchNorm(SIZE, rngs=rngs)), "batch statistics (nnx.BatchStat, layers.1.mean)"),
    "BatchNorm that runs, NNX": (
        nnx_of(lambda rngs: nnx.BatchNorm(SIZE, use_running_average=True, rngs=rngs)),
        "Use LayerNorm, or GroupNorm with a batch axis of one: norm(x[None])[0].",
    ),
    "SpectralNorm, NNX": (
        nnx_of(lambda rngs: nnx.SpectralNorm(nnx.Linear(SIZE, SIZE, rngs=rngs), rngs=rngs)),
        "SpectralNorm remembers a singular vector from call to call",
    ),
    "GroupNorm": (lambda: networks.from_linen(linen.GroupNorm(2), (4, 4)), "for the batch"),
    "Dropout": (linen_of(linen.Dropout(0.5)), "Write from_linen(..., rngs=('dropout',)): it then draws in training"),
    "Dropout, another stream": (linen_of(linen.Dropout(0.5, rng_collection="mask")), "rngs=('mask',)"),
    "attention": (lambda: networks.from_linen(linen.MultiHeadDotProductAttention(2, dropout_rate=0.5), (2, 6)), "rngs=('drop"),
    "another name": (linen_of(linen.Dropout(0.5), ("mask",)), "Name all streams: rngs=('mask', 'dropout')."),
    "noise": (lambda: networks.from_linen(Noise(), (SIZE,)), "Write from_linen(..., rngs=('noise',)). Draw in training only"),
    "noise always": (
        lambda: networks.from_linen(Noise(), (SIZE,), rngs=("noise",)),
        "in evaluation as well, where a network is a function of its parameters and one example. Draw in training only: give "
        '`__call__` a parameter train and write `if train:`, or write `if self.has_rng("noise"):`.',
    ),
    "Dropout without a stream, NNX": (
        lambda: networks.from_nnx(lambda rngs: NnxLost(rngs=rngs)),
        "Write nnx.Dropout(rate, rngs=rngs)",
    ),
    "a string": (linen_of(linen.Dropout(0.5), "dropout"), "got 'dropout'. Write ('dropout',)."),
    "a number": (linen_of(linen.Dropout(0.5), 3), "the names of the streams that the module draws from in training"),
    "twice": (linen_of(linen.Dropout(0.5), ("dropout",) * 2), "the names of the streams"),
    "params": (linen_of(linen.Dropout(0.5), ("params",)), "Draw from another stream"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_serve_is_refused_when_it_is_adapted(make, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_normalization_without_state_and_unused_branches_are_accepted():
    networks.from_linen(Layer(NORM, only_train=True), (SIZE,))  # it is never called in training mode
    linen_of(linen.WeightNorm(linen.Dense(3)))()
    assert not nnx_of(lambda rngs: nnx.WeightNorm(nnx.Linear(SIZE, SIZE, rngs=rngs), rngs=rngs))().is_stochastic


# Models.

ENCODER = networks.Network(lambda key: {}, lambda params, x: (x[:2], x[2:4]))
CONDITIONAL = networks.Network(lambda key: {}, lambda params, x, c: (x[:2], x[2:4] + c))


def decoder(apply, **options):
    return networks.Network(lambda key: {}, apply, **options)


WRONG = {
    "no key": (
        decoder(lambda p, z: X * z[0], is_stochastic=True),
        0,
        "a function (params, z, *, key=None), because it is_stochastic",
    ),
    "no key, conditional": (decoder(lambda p, z, c: X, is_stochastic=True), 2, "a function (params, z, c, *, key=None)"),
    "not said": (decoder(lambda p, z, key=None: X * z[0]), 0, "networks.Network(init, apply, is_stochastic=True), or"),
    "other shapes": (
        decoder(lambda p, z, key=None: X * z[0] if key is None else X[:2], is_stochastic=True),
        0,
        "to return the same shapes with a key, as in training, as without one, got float32[2] and float32[6].",
    ),
    "fails in training": (
        decoder(lambda p, z, key=None: X * z[0] if key is None else p["a"], is_stochastic=True),
        0,
        "the decoder fails with a key, as in training.",
    ),
    "noise always, NNX": (networks.from_nnx(lambda rngs: NnxNoise(rngs=rngs)), 0, "if not self.deterministic"),
}


@pytest.mark.parametrize(("network", "dim", "message"), WRONG.values(), ids=WRONG)
def test_make_vae_says_what_a_stochastic_network_takes(network, dim, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        model.make_vae(CONDITIONAL if dim else ENCODER, network, NORMAL, (SIZE,), condition_dim=dim)


def test_priors_do_not_draw():
    network = networks.Network(lambda key: {}, lambda params, c, key=None: (c, c), is_stochastic=True)
    with pytest.raises(ValueError, match=r"the network of p\(z\|c\) draws random numbers"):
        model.make_vae(CONDITIONAL, CONDITIONAL, NORMAL, (SIZE,), priors.ConditionalGaussian(*network), condition_dim=2)
    with pytest.raises(ValueError, match="expected deterministic networks"):
        priors.hierarchical(2, 1, priors.ConditionalGaussian(*network), priors.ConditionalGaussian(*network))
