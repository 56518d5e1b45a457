"""One-dimensional convolutions of series: the native ones in value and derivative, and the networks made from them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from vae_jax import likelihoods, model, networks
from vae_jax.networks import conv_ops

conv, conv_transpose = networks.conv, networks.conv_transpose
LAYOUT = ("NWC", "WIO", "NWC")


def native(x, kernel, *, stride=1, padding="SAME"):
    return lax.conv_general_dilated(x[None], kernel, (stride,), padding, dimension_numbers=LAYOUT)[0]


def native_transpose(x, kernel, *, stride=1, padding="SAME"):
    return lax.conv_transpose(x[None], kernel, (stride,), padding, dimension_numbers=LAYOUT)[0]


NATIVE = {conv: native, conv_transpose: native_transpose}
functions = pytest.mark.parametrize("function", [conv, conv_transpose], ids=lambda f: f.__name__)


def evaluated(function, x, kernel, stride, padding):
    """(y, gradients of <y, a fixed random array>, tangent of y in a fixed random direction)."""
    product = lambda x, kernel: function(x, kernel, stride=stride, padding=padding)  # noqa: E731
    rng = np.random.default_rng(1)
    tangents = tuple(jnp.asarray(rng.normal(size=a.shape)) for a in (x, kernel))
    y, pull = jax.vjp(product, x, kernel)
    gradients = pull(jnp.asarray(rng.normal(size=y.shape)))
    return {"y": y, "x": gradients[0], "kernel": gradients[1], "tangent": jax.jvp(product, (x, kernel), tangents)[1]}


def assert_native(function, series, kernel, stride, padding):
    """Values and derivatives are those of the native convolution, in float64."""
    rng = np.random.default_rng(0)
    drawn = [jnp.asarray(rng.normal(size=shape)) for shape in (series, kernel)]
    run = lambda f: jax.jit(functools.partial(evaluated, f, stride=stride, padding=padding))(*drawn)  # noqa: E731
    got, expected = run(function), run(NATIVE[function])
    assert expected["y"].dtype == jnp.float64
    for name, array in expected.items():
        assert got[name].shape == array.shape
        np.testing.assert_allclose(got[name], array, rtol=1e-10, atol=1e-10, err_msg=name)


# (series, kernel, stride, padding). Patches come first in the matrix product where stride channels < 4 features.
CASES = {
    "the layer of the networks": ((16, 2), (4, 2, 3), 2, "SAME"),
    "odd length": ((9, 2), (4, 2, 3), 2, "SAME"),
    "one channel": ((12, 1), (4, 1, 5), 2, "SAME"),
    "many channels": ((10, 33), (4, 33, 2), 2, "SAME"),
    "kernel 2": ((7, 2), (2, 2, 3), 2, "SAME"),
    "kernel 3, stride 1": ((6, 3), (3, 3, 4), 1, "SAME"),
    "product first, stride 1": ((6, 9), (3, 9, 2), 1, "SAME"),
    "kernel smaller than the stride": ((11, 2), (1, 2, 3), 3, "SAME"),
    "nothing padded": ((9, 2), (4, 2, 3), 2, "VALID"),
    "two steps": ((2, 2), (4, 2, 3), 2, "SAME"),
    "one step": ((1, 2), (4, 2, 3), 2, "SAME"),
    "padded unequally": ((6, 2), (4, 2, 3), 2, ((0, 3),)),
    "cut": ((8, 2), (3, 2, 3), 2, ((-1, 2),)),
}


@functions
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_it_is_the_native_convolution(function, case, x64):
    assert_native(function, *case)


@functions
def test_a_series_is_an_image_one_pixel_wide(function, x64):
    """Under `vmap` over examples and over kernels as well; the stride across the width is one."""
    rng = np.random.default_rng(0)
    x, kernels = jnp.asarray(rng.normal(size=(3, 9, 2))), jnp.asarray(rng.normal(size=(2, 4, 2, 5)))
    got = jax.jit(jax.vmap(jax.vmap(lambda x, k: function(x, k, stride=2), (0, None)), (None, 0)))(x, kernels)
    for i, j in np.ndindex(2, 3):
        np.testing.assert_allclose(got[i, j], NATIVE[function](x[j], kernels[i], stride=2), rtol=1e-10, atol=1e-10)


@functions
def test_a_kernel_longer_than_the_series_is_refused(function):
    with pytest.raises(ValueError, match="at least the kernel's size"):
        function(jnp.zeros((1, 2)), jnp.zeros((9, 2, 3)), padding=((0, 0),))


def test_pytorch_agrees(x64):
    """Conv1d and ConvTranspose1d with kernel 4, stride 2 and padding 1; the kernel of the latter is reversed."""
    torch = pytest.importorskip("torch")
    for function, cls, turn in ((conv, torch.nn.Conv1d, 1), (conv_transpose, torch.nn.ConvTranspose1d, -1)):
        module = cls(2, 3, 4, 2, 1, bias=False, dtype=torch.float64)
        x = np.random.default_rng(0).normal(size=(8, 2))
        expected = module(torch.tensor(x.T[None])).detach().numpy()[0].T
        axes = (2, 1, 0) if turn == 1 else (2, 0, 1)  # (out, in, taps), and (in, out, taps) where transposed
        kernel = module.weight.detach().numpy().transpose(axes)[::turn]
        padding = ((1, 1),) if function is conv else "SAME"
        np.testing.assert_allclose(function(jnp.asarray(x), jnp.asarray(kernel), stride=2, padding=padding), expected, 1e-10)


# The networks.


def shapes_of(vae):
    leaves = jax.tree_util.tree_leaves_with_path(jax.eval_shape(vae.init, jax.random.key(0)))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}


@pytest.mark.parametrize(
    ("shape", "channels", "last"),
    [((2, 3), (32,), 1), ((8, 1), (32,), 4), ((100, 3), (32, 32, 64, 64), 7), ((37, 2), (32, 32, 64), 5)],
    ids=str,
)
def test_the_default_layers_of_series(shape, channels, last):
    assert networks.default_channels(shape) == channels
    shapes = shapes_of(model.conv_vae(shape, likelihoods.gaussian("per_pixel")))
    kernels = [shapes[f"encoder/_Conv_{i}/kernel"] for i in range(len(channels))]
    inputs = (shape[-1], *channels[:-1])
    assert kernels == [(4 if i < 2 else 2, c, n) for i, (c, n) in enumerate(zip(inputs, channels, strict=True))]
    assert shapes["encoder/Dense_0/kernel"] == (last * channels[-1], 256)
    assert shapes[f"decoder/_Conv_{len(channels) - 1}/kernel"] == (4, channels[0], 2 * shape[-1])


@pytest.mark.parametrize("settings", [{}, {"num_blocks": 1, "norm": "group"}], ids=["conv", "resnet"])
@pytest.mark.parametrize("shape", [(16, 2), (11, 3)], ids=str)
def test_networks_take_series_of_even_and_odd_lengths(shape, settings, monkeypatch):
    """Every convolution of the networks has the shape of the native one, and a VAE has outputs of the shape of the series."""
    seen = []

    def spy(function):
        def call(x, kernel, *, stride=1, padding="SAME"):
            y = function(x, kernel, stride=stride, padding=padding)
            expected = jax.eval_shape(lambda x, k: NATIVE[function](x, k, stride=stride, padding=padding), x, kernel)
            assert y.shape == expected.shape
            seen.append((function, kernel.shape[0], stride))
            return y

        return call

    for function in NATIVE:
        monkeypatch.setattr(conv_ops, function.__name__, spy(function))
    vae = model.conv_vae(shape, likelihoods.gaussian("per_pixel"), latent_dim=2, channels=(4, 8), dense=(5,), **settings)
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    params = jax.eval_shape(vae.init, jax.random.key(0))
    mean, log_scale = jax.eval_shape(vae.encode, params, x)
    assert mean.shape == log_scale.shape == (2,)
    output = jax.eval_shape(vae.decode, params, mean)
    assert jax.eval_shape(vae.likelihood.mean, output).shape == shape
    assert jax.eval_shape(vae.likelihood.log_prob, output, x).shape == ()
    assert {(conv, 4, 2), (conv_transpose, 4, 2)} <= set(seen)
    assert ((conv, 3, 1) in seen) == bool(settings)


def test_an_output_bias_is_the_mean_series():
    mean = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    network = networks.conv_decoder(2, (6, 2), channels=(4,), dense=(), output_bias=mean)
    params = network.init(jax.random.key(0))
    zero = jax.tree.map(jnp.zeros_like, params)
    last = max(name for name in params if "Conv" in name)
    np.testing.assert_array_equal(network.apply({**zero, last: params[last]}, jnp.zeros(2)), mean)


def test_later_layers_see_neighbors_alone():
    """A step of a series reaches the outputs of the first layer that its kernel covers, and no others."""
    kernel = jnp.ones((4, 1, 1))
    reached = conv(jnp.zeros((16, 1)).at[5].set(1.0), kernel, stride=2)[:, 0]
    np.testing.assert_array_equal(np.flatnonzero(np.asarray(reached)), [2, 3])
