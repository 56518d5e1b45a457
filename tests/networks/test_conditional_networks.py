"""Convolutional networks with a condition: scale and shift of channels, and networks without one as they were."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conv_models import KINDS, SHAPE, kinds, random_params, small_vae

from vae_jax.example import Example

SERIES = (9, 2)
CONDITION = jnp.array([0.5, -1.0, 2.0, 0.0])
DIM = len(CONDITION)


def vae_given(kind, shape=SHAPE, **settings):
    return small_vae(kind, shape=shape, condition_dim=DIM, **settings)


def outputs(vae, params, x, z, c):
    encoder, decoder = vae
    return jax.jit(lambda: (encoder(params["encoder"], x, *c), decoder(params["decoder"], z, *c)))()


def networks_of(vae):
    """(encoder, decoder) as functions of the parameters of each, and of a condition where there is one."""
    encode = lambda params, x, *c: vae.encode({"encoder": params}, Example(x, *c))  # noqa: E731
    return encode, lambda params, z, *c: vae.decode({"decoder": params}, z, *c)


def folded(params, c, dense="Dense_0"):
    """The parameters of the network without a condition that computes the same at this condition. It needs GroupNorm."""
    if "GroupNorm_0" in params:
        scale, shift = jnp.split(c @ params["Dense_0"]["kernel"], 2)
        norm = params["GroupNorm_0"]
        return {"GroupNorm_0": {"scale": norm["scale"] * (1 + scale), "bias": norm["bias"] * (1 + scale) + shift}}
    new = {}
    for name, node in params.items():
        if name == dense:
            kernel, for_condition = node["kernel"][:-DIM], node["kernel"][-DIM:]
            new[name] = {"kernel": kernel, "bias": node["bias"] + c @ for_condition}
        else:
            new[name] = folded(node, c, "") if isinstance(node, dict) else node
    return new


@pytest.mark.slow
@pytest.mark.parametrize("shape", [SHAPE, SERIES], ids=["image", "series"])
def test_at_one_condition_it_is_a_network_with_other_norms_and_biases(shape):
    given, plain = vae_given("resnet", shape), small_vae("resnet", shape=shape)
    params = random_params(given)
    x, z = jax.random.uniform(jax.random.key(1), shape), jnp.array([0.5, -1.0, 2.0])
    same = {part: folded(params[part], CONDITION) for part in params}
    got = jax.tree.leaves(outputs(networks_of(given), params, x, z, (CONDITION,)))
    expected = jax.tree.leaves(outputs(networks_of(plain), same, x, z, ()))
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(jnp.abs(b).max()))
    wrong = jax.tree.leaves(outputs(networks_of(plain), {p: folded(params[p], -CONDITION) for p in params}, x, z, ()))
    assert not any(np.allclose(a, b, rtol=1e-2) for a, b in zip(wrong, expected, strict=True))


def is_modulation(path):
    names = [entry.key for entry in path]
    return "Dense_0" in names[2:]


@pytest.mark.slow
@kinds
def test_scale_and_shift_start_as_the_identity_and_learn(kind):
    """Without the weights from c to the dense layers, all conditions give the same at the start, and gradients are not zero."""
    vae = vae_given(kind)
    params = jax.jit(vae.init)(jax.random.key(0))
    modulations = [leaf for path, leaf in jax.tree.leaves_with_path(params) if is_modulation(path)]
    assert len(modulations) == {"conv": 4, "resnet": 20, "resnet without norm": 12}[kind]
    assert not any(np.any(leaf) for leaf in modulations)
    for part in ("encoder", "decoder"):
        kernel = params[part]["Dense_0"]["kernel"]
        params[part]["Dense_0"]["kernel"] = kernel.at[-DIM:].set(0.0)
    x, z = jax.random.uniform(jax.random.key(1), SHAPE), jnp.array([0.5, -1.0, 2.0])
    both = jax.jit(lambda params, c: outputs(networks_of(vae), params, x, z, (c,)))
    for a, b in zip(*(jax.tree.leaves(both(params, c)) for c in (CONDITION, 3 * CONDITION + 1)), strict=True):
        np.testing.assert_array_equal(a, b)
    gradients = jax.jit(
        jax.grad(lambda params: sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(both(params, CONDITION))))
    )(random_params(vae))
    moved = [leaf for path, leaf in jax.tree.leaves_with_path(gradients) if is_modulation(path)]
    assert all(np.isfinite(leaf).all() and np.any(leaf != 0) for leaf in moved)


@pytest.mark.parametrize("kind", ["conv", "resnet without norm"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_nothing_is_promoted_with_a_condition(kind, dtype):
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        vae = vae_given(kind, dtype=dtype, train_mean=0.3)
        params = jax.eval_shape(vae.init, jax.random.key(0))
        encode, decode = networks_of(vae)
        shapes = jax.eval_shape(
            lambda p, x, c: decode(p["decoder"], encode(p["encoder"], x, c)[0], c), params, jnp.zeros(SHAPE), CONDITION
        )
    assert (shapes.shape, shapes.dtype) == (SHAPE, jnp.float32)


def test_bfloat16_with_a_condition_is_near_float32():
    exact, half = (vae_given("resnet without norm", dtype=dtype) for dtype in ("float32", "bfloat16"))
    params, x, z = random_params(exact), jax.random.uniform(jax.random.key(1), SHAPE), jnp.array([0.5, -1.0, 2.0])
    expected, got = (jax.tree.leaves(outputs(networks_of(vae), params, x, z, (CONDITION,))) for vae in (exact, half))
    for a, b in zip(expected, got, strict=True):
        assert b.dtype == jnp.float32
        np.testing.assert_allclose(b, a, atol=0.05 * float(jnp.abs(a).max()))
        assert not np.array_equal(a, b)


# Without a condition: names and shapes of all parameters, and sums that change with the key of any of them or with any layer.
# They were recorded before networks took conditions, when the bits were compared as well.
RECORDED = {
    "conv": ("f6904996f352f2a3", [589.282717, 7.56062973, 1.21566319, -93.1619919]),
    "resnet": ("da2e2d717f5e8c57", [1402.96505, -2.65006801, -2.42777336, -9.28623111]),
    "resnet without norm": ("5b19dd8e64eab451", [2722.4764, -1.90350354, -3.5870645, -175.301664]),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "shape"), [("conv", SHAPE), ("resnet", SERIES), ("resnet without norm", (9, 7, 3))], ids=KINDS
)
def test_networks_without_a_condition_are_as_before(kind, shape):
    vae = small_vae(kind, shape=shape)
    params = jax.jit(vae.init)(jax.random.key(0))
    names = [f"{jax.tree_util.keystr(path)} {leaf.shape}" for path, leaf in jax.tree.leaves_with_path(params)]
    leaves = jax.tree.leaves(params)
    first = float(np.sum([np.sum(np.cos(7 * np.asarray(leaf, np.float64))) for leaf in leaves]))
    params = jax.tree.map(lambda leaf, noise: leaf + noise, params, random_params(vae))
    x, z = jnp.linspace(-1, 1, int(np.prod(shape))).reshape(shape), jnp.array([0.5, -1.0, 2.0])
    both = jax.tree.leaves(outputs(networks_of(vae), params, x, z, ()))
    sums = [float(np.sum(np.asarray(leaf, np.float64))) for leaf in both]
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
    expected = RECORDED[kind]
    assert digest == expected[0]
    np.testing.assert_allclose([first, *sums], expected[1], rtol=2e-5)
