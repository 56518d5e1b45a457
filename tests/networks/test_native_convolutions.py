"""The convolutional networks against the same networks written with JAX's native convolutions."""

import chex
import jax
import jax.numpy as jnp
import pytest
from conv_models import KINDS, SHAPE, kinds, random_params, small_vae
from jax import lax

from vae_jax.networks import conv_ops as convolution

# The same networks, written with JAX's native convolutions.


def layer(params, h, stride=1, transpose=False):
    options = {"strides": (stride, stride), "padding": "SAME", "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    if transpose:
        return lax.conv_transpose(h[None], params["kernel"], **options)[0] + params["bias"]
    options["window_strides"] = options.pop("strides")
    return lax.conv_general_dilated(h[None], params["kernel"], **options)[0] + params["bias"]


def dense(params, h):
    return h @ params["kernel"] + params["bias"]


def ready(params, h):
    """relu(GroupNorm(h)), or relu(h) where there are no parameters for it: Wu and He 2018, groups of one example."""
    if params:
        channels = h.shape[-1]
        grouped = h.reshape(*h.shape[:2], min(8, channels), -1)  # of 4 and of 8 channels
        centered = grouped - grouped.mean(axis=(0, 1, 3), keepdims=True)
        grouped = centered / jnp.sqrt((centered**2).mean(axis=(0, 1, 3), keepdims=True) + 1e-6)
        h = grouped.reshape(h.shape) * params["GroupNorm_0"]["scale"] + params["GroupNorm_0"]["bias"]
    return jnp.maximum(h, 0)


def stage(params, i, h, num_blocks):
    for j in range(num_blocks):
        own = params[f"_Blocks_{i}"]
        norms = [own.get(f"_Normalized_{k}") for k in (2 * j, 2 * j + 1)]
        inner = layer(own[f"_Conv_{2 * j}"], ready(norms[0], h))
        h = h + layer(own[f"_Conv_{2 * j + 1}"], ready(norms[1], inner))
    return ready(params.get(f"_Normalized_{i}"), h)


def native_encoder(params, x, num_blocks):
    h = x
    for i in range(2):
        h = stage(params, i, layer(params[f"_Conv_{i}"], h, stride=2), num_blocks)
    heads = dense(params["Dense_1"], jnp.maximum(dense(params["Dense_0"], h.reshape(-1)), 0))
    return heads[:3], heads[3:]


def native_decoder(params, z, num_blocks):
    h = dense(params["Dense_1"], jnp.maximum(dense(params["Dense_0"], z), 0)).reshape(2, 3, 8)
    for i in range(2):
        h = layer(params[f"_Conv_{i}"], stage(params, i, h, num_blocks), stride=2, transpose=True)
    return h


def assert_native(kind, alter=lambda params: params):
    """Encoder and decoder are those above; `alter` is a mistake in ours."""
    vae, num_blocks = small_vae(kind), KINDS[kind].get("num_blocks", 0)
    params, x, z = random_params(vae), jax.random.uniform(jax.random.key(1), SHAPE), jnp.array([0.5, -1.0, 2.0])

    @jax.jit
    def both(params, x, z):
        changed = alter(params)
        expected = native_encoder(params["encoder"], x, num_blocks), native_decoder(params["decoder"], z, num_blocks)
        return (vae.encode(changed, x), vae.decode(changed, z)), expected

    ours, expected = both(params, x, z)
    assert min(float(jnp.std(leaf)) for leaf in jax.tree.leaves(expected)) > 1e-2
    chex.assert_trees_all_close(ours, expected, rtol=1e-4, atol=1e-4)


@kinds
def test_it_is_the_same_network_in_native_convolutions(kind):
    assert_native(kind)


def _without(name, value):
    """The parameters with all of this name at a value that does nothing."""

    def alter(params):
        change = lambda path, leaf: jnp.full_like(leaf, value) if path[-1].key == name else leaf  # noqa: E731
        return jax.tree_util.tree_map_with_path(change, params)

    return alter


@pytest.mark.parametrize("name", ["bias", "scale"])
def test_the_proof_fails_without_a_bias_or_scale(name):
    with pytest.raises(AssertionError):
        assert_native("resnet", _without(name, {"bias": 0, "scale": 1}[name]))


@pytest.mark.parametrize("function", ["conv", "conv_transpose"])
@pytest.mark.parametrize("twin", ["kernel turned", "output shifted by one"])
def test_the_proof_fails_on_a_broken_convolution(function, twin, monkeypatch):
    sound = getattr(convolution, function)

    def broken(x, kernel, **options):
        if twin == "kernel turned":
            return sound(x, kernel[::-1, ::-1], **options)
        return jnp.roll(sound(x, kernel, **options), 1, axis=0)

    monkeypatch.setattr(convolution, function, broken)
    with pytest.raises(AssertionError):
        assert_native("conv")
