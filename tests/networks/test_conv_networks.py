"""Convolutional encoders and decoders: the layers of the literature, examples kept apart, training, sweeps."""

import dataclasses
import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conv_models import CHANNELS, KINDS, SHAPE, SMALL, kinds, random_params, shapes_of, small_vae
from speed import slow_but

from vae_jax import likelihoods, model, networks, objectives, training
from vae_jax.build import build
from vae_jax.config import Config, Hyperparams
from vae_jax.divergences import kl_to_standard_normal
from vae_jax.errors import UserError
from vae_jax.sweep import grid
from vae_jax.sweep.in_memory import run_group
from vae_jax.sweep.members import groups
from vae_jax.training import Callbacks
from vae_jax.training.placement import place

# The layers.


@pytest.mark.parametrize("colors", [1, 3])
def test_the_nets_for_64_x_64_are_those_of_disentanglement_lib(colors):
    encoder, decoder = shapes_of(model.conv_vae((64, 64, colors), likelihoods.bernoulli(), latent_dim=10))
    kernels = [(4, 4, colors, 32), (4, 4, 32, 32), (2, 2, 32, 64), (2, 2, 64, 64), (4 * 4 * 64, 256), (256, 10), (256, 10)]
    # both heads are one layer
    layers = [*kernels[:-2], (256, 20)]
    assert sorted(encoder.values()) == sorted([*layers, *((kernel[-1],) for kernel in layers)])
    assert sum(map(math.prod, encoder.values())) == sum(math.prod(kernel) + kernel[-1] for kernel in kernels)
    layers = [(10, 256), (256, 1024), (4, 4, 64, 64), (4, 4, 64, 32), (4, 4, 32, 32), (4, 4, 32, colors)]
    assert sorted(decoder.values()) == sorted([*layers, *((kernel[-1],) for kernel in layers)])
    if colors == 1:  # added up by hand
        assert sum(map(math.prod, encoder.values())) == 544 + 16_416 + 8_256 + 16_448 + 262_400 + 2 * 2_570
        assert sum(map(math.prod, decoder.values())) == 2_816 + 263_168 + 65_600 + 32_800 + 16_416 + 513


@pytest.mark.parametrize(
    ("shape", "channels"),
    [
        ((2, 6, 1), (32,)),
        ((4, 4, 1), (32,)),
        ((8, 8, 1), (32,)),
        ((12, 12, 1), (32,)),
        ((16, 16, 1), (32, 64)),
        ((28, 28, 1), (32, 64)),
        ((32, 32, 3), (32, 32, 64)),
        ((64, 64, 3), (32, 32, 64, 64)),
        ((96, 96, 1), (32, 32, 64, 64)),
        ((128, 128, 3), (32, 32, 32, 64, 64)),
        ((28, 20, 1), (32, 64)),
        ((64, 12, 1), (32,)),
    ],
    ids=str,
)
def test_the_default_channels(shape, channels):
    assert networks.default_channels(shape) == channels
    encoder, decoder = shapes_of(model.conv_vae(shape, likelihoods.bernoulli()))
    last = tuple(n >> len(channels) for n in shape[:2])
    assert encoder["encoder/Dense_0/kernel"] == (math.prod(last) * channels[-1], 256)
    assert decoder["decoder/Dense_1/kernel"] == (256, math.prod(last) * channels[-1])


@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        ((1, 8, 1), {}, "at least 2 x 2 pixels for convolutions, got 1 x 8 x 1"),
        ((8, 12, 1), {"channels": (4, 4, 4, 4)}, "at most 3 channels, one for each halving of 8 x 12 x 1, got 4"),
        ((64,), {}, r"\(height, width, channels\) or series \(time, channels\) for convolutions, got data of shape \(64,\)"),
        ((1, 3), {}, "series of at least 2 steps for convolutions, got 1 x 3"),
        ((9, 3), {"channels": (4,) * 5}, "at most 4 channels, one for each halving of 9 x 3, got 5"),
        (SHAPE, {"channels": ()}, r"channels >= 1 and num_blocks >= 0, got channels \(\)"),
        (SHAPE, {"channels": (4, 0)}, r"channels >= 1 .* got channels \(4, 0\)"),
        (SHAPE, {"num_blocks": -1}, "num_blocks -1"),
        (SHAPE, {"norm": "batch"}, "none or group, got 'batch'. Batch statistics would mix the examples"),
        (SHAPE, {"activation": "rellu"}, "relu, tanh"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else None,
)
def test_what_does_not_fit_is_refused(shape, settings, message):
    for make in (networks.conv_encoder, networks.conv_decoder):
        arguments = (shape, 2) if make is networks.conv_encoder else (2, shape)
        with pytest.raises(ValueError, match=message):
            make(*arguments, **settings)


@pytest.mark.parametrize("kernels", [(4,), (4, 4, 4), (4, 0)])
def test_kernels_are_one_for_each_layer(kernels):
    with pytest.raises(ValueError, match=r"kernels: expected one size >= 1 for each of 2 layers"):
        networks.conv_encoder(SHAPE, 2, channels=CHANNELS, kernels=kernels)


def test_without_dense_layers_the_heads_follow_the_convolutions():
    encoder, decoder = shapes_of(small_vae(dense=()))
    assert encoder["encoder/Dense_0/kernel"] == (2 * 3 * 8, 2 * 3)
    assert decoder["decoder/Dense_0/kernel"] == (3, 2 * 3 * 8)
    encoder, decoder = shapes_of(small_vae(dense=(7, 5)))
    assert [encoder[f"encoder/Dense_{i}/kernel"] for i in range(3)] == [(48, 7), (7, 5), (5, 6)]
    assert [decoder[f"decoder/Dense_{i}/kernel"] for i in range(3)] == [(3, 5), (5, 7), (7, 48)]


def test_kernels_of_other_sizes():
    network = networks.conv_encoder(SHAPE, 2, channels=CHANNELS, kernels=(3, 5))
    params = jax.eval_shape(network.init, jax.random.key(0))
    assert [params[f"_Conv_{i}"]["kernel"].shape for i in range(2)] == [(3, 3, 1, 4), (5, 5, 4, 8)]
    assert [leaf.shape for leaf in jax.eval_shape(network.apply, params, jnp.zeros(SHAPE))] == [(2,), (2,)]


@kinds
@pytest.mark.parametrize(("shape", "outputs"), [((8, 12, 1), 1), ((8, 12, 3), 1), ((12, 8, 1), 6), ((8, 4, 3), 20)], ids=str)
def test_the_shapes_of_outputs(kind, shape, outputs):
    settings = SMALL | KINDS[kind]
    latent = settings.pop("latent_dim")
    decoder = networks.conv_decoder(latent, shape, outputs_per_dim=outputs, **settings)
    output = jax.eval_shape(lambda: decoder.apply(decoder.init(jax.random.key(0)), jnp.zeros(latent)))
    assert (output.shape, output.dtype) == (shape if outputs == 1 else (*shape, outputs), jnp.float32)
    encoder = networks.conv_encoder(shape, latent, **settings)
    posterior = jax.eval_shape(lambda: encoder.apply(encoder.init(jax.random.key(0)), jnp.zeros(shape)))
    assert [(leaf.shape, leaf.dtype) for leaf in posterior] == [((latent,), jnp.float32)] * 2


@pytest.mark.parametrize("num_blocks", [0, 1, 3])
def test_blocks_and_norm_are_as_many_as_asked_for(num_blocks):
    for norm in ("none", "group"):
        encoder, decoder = shapes_of(small_vae(num_blocks=num_blocks, norm=norm))
        for shapes, blocks in ((encoder, CHANNELS), (decoder, CHANNELS[::-1])):
            assert [shape for name, shape in shapes.items() if "_Blocks" in name and "kernel" in name] == [
                (3, 3, channels, channels) for channels in blocks for _ in range(2 * num_blocks)
            ]
            norms = sum("GroupNorm" in name and "scale" in name for name in shapes)
            assert norms == (len(CHANNELS) * (2 * num_blocks + 1) if norm == "group" else 0)


# Where training starts.

BUNDLES = {
    "bernoulli": likelihoods.bernoulli(),
    "continuous_bernoulli": likelihoods.continuous_bernoulli(),
    "gaussian": likelihoods.gaussian(0.3),
    "gaussian_shared": likelihoods.gaussian("shared"),
    "student_t_per_pixel": likelihoods.student_t("per_pixel"),
    "discretized_logistic": likelihoods.discretized_logistic(8, scale="per_pixel"),
    "logistic_mixture": likelihoods.logistic_mixture(8, num_components=3),
    "logistic_mixture_rgb": likelihoods.logistic_mixture_rgb(8, num_components=2),
    "categorical": likelihoods.categorical(4),
    "poisson": likelihoods.poisson(),
    "negative_binomial_per_pixel": likelihoods.negative_binomial("per_pixel"),
}


QUICK = ("bernoulli", "gaussian_shared", "student_t_per_pixel", "logistic_mixture_rgb", "categorical")  # a kind of output each


@pytest.mark.parametrize("name", slow_but(QUICK, BUNDLES))
def test_the_output_bias_starts_each_pixel_at_the_training_mean(name):
    likelihood = BUNDLES[name]
    shape = (4, 6, 3 if "rgb" in name else 1)
    mean = jnp.linspace(0.1, 0.9, math.prod(shape)).reshape(shape)
    vae = model.conv_vae(shape, likelihood, channels=(4,), dense=(5,), latent_dim=2, train_mean=mean)
    at_origin = jax.jit(lambda key: likelihood.mean(vae.decode(vae.init(key), jnp.zeros(2))))  # the other biases are zero
    np.testing.assert_allclose(at_origin(jax.random.key(0)), mean, atol=2e-5)


def test_without_a_training_mean_there_is_one_bias_for_each_channel_of_the_output():
    _, decoder = shapes_of(small_vae(likelihood=likelihoods.gaussian("per_pixel"), shape=(8, 12, 3)))
    assert decoder["decoder/_Conv_1/bias"] == (6,)
    vae = small_vae(likelihood=likelihoods.gaussian("per_pixel"), shape=(8, 12, 3), train_mean=0.5)
    assert shapes_of(vae)[1]["decoder/_Conv_1/bias"] == (8, 12, 6)


def test_residual_blocks_start_as_the_identity():
    """The same key gives the same shared weights with and without blocks, and then the same outputs."""
    plain, residual = (small_vae(kind, channels=(4,)) for kind in ("conv", "resnet without norm"))
    with_blocks = jax.jit(residual.init)(jax.random.key(0))
    shared = {
        part: {name: leaves for name, leaves in with_blocks[part].items() if "Blocks" not in name} for part in with_blocks
    }
    chex.assert_trees_all_equal_shapes(shared, jax.eval_shape(plain.init, jax.random.key(1)))
    x, z = jax.random.uniform(jax.random.key(2), SHAPE), jnp.ones(3)
    outputs = lambda vae, params: jax.jit(lambda p: (vae.encode(p, x), vae.decode(p, z)))(params)  # noqa: E731
    chex.assert_trees_all_close(outputs(residual, with_blocks), outputs(plain, shared), rtol=1e-6, atol=1e-7)
    moved = jax.tree.map(lambda leaf: leaf + 0.1, with_blocks["encoder"]["_Blocks_0"])
    with_blocks["encoder"]["_Blocks_0"] = moved
    assert not np.allclose(outputs(residual, with_blocks)[0][0], outputs(plain, shared)[0][0], atol=1e-3)


@pytest.mark.parametrize("kind", slow_but(("conv",), KINDS))
def test_the_posterior_starts_near_the_prior(kind):
    """Else the first KL, of hundreds of nats, drives the code into a collapse: with GroupNorm the heads start small."""
    vae = small_vae(kind, shape=(28, 28, 1), channels=(32, 64), dense=(256,), latent_dim=32)
    params = jax.jit(vae.init)(jax.random.key(0))
    x = jax.random.bernoulli(jax.random.key(1), 0.2, (8, 28, 28, 1)).astype(jnp.float32)
    mean, log_scale = jax.jit(jax.vmap(vae.encode, in_axes=(None, 0)))(params, x)
    assert float(jnp.mean(jax.vmap(kl_to_standard_normal)(mean, log_scale))) < 16
    assert float(jnp.max(jnp.std(mean, axis=0))) > 1e-4


# One example at a time.


@kinds
def test_an_example_does_not_see_the_others(kind):
    vae = small_vae(kind)
    params = random_params(vae)
    x = jax.random.uniform(jax.random.key(1), (3, *SHAPE))
    encode = jax.jit(lambda x: jax.vmap(vae.encode, (None, 0))(params, x))
    first = encode(x)
    shifted = encode(x.at[1].add(100.0))  # a constant, of another example
    for one, other in zip(first, shifted, strict=True):
        np.testing.assert_array_equal(one[::2], other[::2])
        assert not np.allclose(one[1], other[1])
    alone = jax.jit(vae.encode)
    for i in range(3):
        chex.assert_trees_all_close(alone(params, x[i]), tuple(part[i] for part in first), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", slow_but(("conv",), KINDS))
def test_the_objective_of_a_batch_is_a_loop_and_its_gradients_are_finite(kind):
    """And all parameters have one: at the starting point the first convolution of a block has none, behind a zero kernel."""
    vae = small_vae(kind, channels=(4,), num_blocks=int(kind != "conv"))
    objective = objectives.beta_elbo()
    x = jnp.stack([jnp.zeros(SHAPE), jnp.ones(SHAPE), (jax.random.uniform(jax.random.key(1), SHAPE) < 0.5).astype(float)])
    keys = jax.random.split(jax.random.key(2), 3)

    def loss(params, key, x):
        encode, decode = (lambda x: vae.encode(params, x)), (lambda z: vae.decode(params, z))
        return objective(key, encode, decode, vae.likelihood.log_prob, x, Hyperparams()).loss

    with_gradients = jax.value_and_grad(loss)
    one, batch = jax.jit(with_gradients), jax.jit(jax.vmap(with_gradients, (None, 0, 0)))
    for params, all_move in ((jax.jit(vae.init)(jax.random.key(0)), kind == "conv"), (random_params(vae), True)):
        values, gradients = batch(params, keys, x)
        chex.assert_tree_all_finite((values, gradients))
        for i in range(3):
            value, gradient = one(params, keys[i], x[i])
            np.testing.assert_allclose(values[i], value, rtol=1e-5)
            largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient))
            mine = jax.tree.map(lambda leaf, i=i: leaf[i], gradients)
            chex.assert_trees_all_close(mine, gradient, atol=1e-5 * largest, rtol=1e-4)
        assert all(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(gradients)) == all_move


def test_bfloat16_arithmetic_keeps_parameters_and_outputs_in_float32():
    """With residual blocks and GroupNorm, so every kind of layer is there."""
    settings = {"channels": (4,), "num_blocks": 1}
    exact, half = small_vae("resnet", **settings), small_vae("resnet", dtype="bfloat16", **settings)
    assert {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(half.init, jax.random.key(0)))} == {jnp.dtype("float32")}
    params = random_params(half)
    x, z = jax.random.uniform(jax.random.key(1), SHAPE), jnp.array([0.5, -1.0, 2.0])
    outputs = [jax.jit(lambda params, vae=vae: (vae.encode(params, x), vae.decode(params, z))) for vae in (exact, half)]
    products = re.findall(r"dot_general.*", outputs[1].lower(params).as_text())
    assert len(products) == 10  # 3 convolutions and 2 dense layers in each
    assert all(re.search(r": \(tensor<[\dx]+bf16>, tensor<[\dx]+bf16>\)", product) for product in products)
    expected, got = (jax.tree.leaves(function(params)) for function in outputs)
    for a, b in zip(expected, got, strict=True):
        assert b.dtype == jnp.float32
        np.testing.assert_allclose(b, a, atol=0.03 * float(jnp.abs(a).max()))
        assert not np.array_equal(a, b)


@pytest.mark.parametrize(
    ("kind", "dtype"), [*((kind, "float32") for kind in KINDS), ("resnet without norm", "bfloat16")], ids=str
)
def test_nothing_is_promoted(kind, dtype):
    """Flax itself promotes in GroupNorm of bfloat16."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        vae = small_vae(kind, dtype=dtype, train_mean=0.3)
        params = jax.eval_shape(vae.init, jax.random.key(0))
        output = jax.eval_shape(lambda params, x: vae.decode(params, vae.encode(params, x)[0]), params, jnp.zeros(SHAPE))
    assert output.shape == SHAPE


# Training and sweeps, on the 8 x 8 digits.

BASE = Config(network="conv", channels=(4,), dense=(8,), latent_dim=2, epochs=2, batch_size=64, learning_rate=5e-3)


def sweep(members, strategy, **options):
    (group,) = groups(members)
    return run_group(group, build(members[0]), place(len(members), strategy), **options)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["conv", "resnet"])
def test_a_member_under_map_is_the_single_run_bit_for_bit(network):
    """Compiled once; and the loss falls."""
    members = grid(dataclasses.replace(BASE, network=network), beta=[0.5, 2.0])
    compilations, after_epoch = [], []

    def listen(name, seconds, **_):
        if name == "/jax/core/compile/backend_compile_duration":
            compilations.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        fit = sweep(members, "map", callbacks=Callbacks(lambda _: after_epoch.append(len(compilations))))
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert len(after_epoch) == 2
    assert after_epoch[0] == after_epoch[1] > 0  # nothing compiles once training has begun
    built = build(members[1])
    single = training.fit(built.vae, built.data, **built.fit_arguments)
    state = jax.tree.map(lambda leaf: np.asarray(leaf[1]), fit.progress.members.state)
    chex.assert_trees_all_equal(state, jax.tree.map(np.asarray, single.progress.state))
    assert (fit.tests[1], fit.status[1], "finished") == (single.test, single.status, single.status)
    losses = [epoch.train.loss for epoch in single.progress.history]
    assert losses[1] < losses[0] - 2  # nats


@pytest.mark.slow
@pytest.mark.parametrize("network", ["conv", "resnet"])
def test_members_under_vmap_agree_with_those_under_map_to_a_thousandth(network):
    members = grid(dataclasses.replace(BASE, network=network), beta=[0.5, 2.0])
    mapped, vmapped = sweep(members, "map").tests, sweep(members, "vmap").tests
    for one, other in zip(mapped, vmapped, strict=True):
        np.testing.assert_allclose(other[:3], one[:3], rtol=1e-3)
    assert mapped[0].kl > 2 * mapped[1].kl  # and the members are not alike


def test_build_fills_in_the_channels_and_names_the_flags():
    assert build(dataclasses.replace(BASE, channels=())).config.channels == (32,)
    assert build(Config()).config.channels == ()
    with pytest.raises(UserError, match=r'`network="conv"`: expected at most 3 channels, .* Use fewer `channels`, or `network'):
        build(dataclasses.replace(BASE, channels=(8, 8, 8, 8)))
