"""Convolutions as matrix products: the native ones in value and derivative, and no native one in any program."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from vae_jax import likelihoods, model, networks, training
from vae_jax.config import Hyperparams
from vae_jax.networks import conv_ops as convolution
from vae_jax.networks.row_matmul import rows_product

conv, conv_transpose = networks.conv, networks.conv_transpose
LAYOUT = ("NHWC", "HWIO", "NHWC")


def native(x, kernel, *, stride=1, padding="SAME"):
    return lax.conv_general_dilated(x[None], kernel, (stride, stride), padding, dimension_numbers=LAYOUT)[0]


def native_transpose(x, kernel, *, stride=1, padding="SAME"):
    return lax.conv_transpose(x[None], kernel, (stride, stride), padding, dimension_numbers=LAYOUT)[0]


NATIVE = {conv: native, conv_transpose: native_transpose}


def evaluated(function, x, kernel, stride, padding):
    """(y, gradients of <y, a fixed random array>, tangent of y in a fixed random direction)."""
    product = lambda x, kernel: function(x, kernel, stride=stride, padding=padding)  # noqa: E731
    rng = np.random.default_rng(1)
    tangents = tuple(jnp.asarray(rng.normal(size=a.shape)) for a in (x, kernel))
    y, pull = jax.vjp(product, x, kernel)
    return {
        "y": y,
        "gradients": pull(jnp.asarray(rng.normal(size=y.shape))),
        "tangent": jax.jvp(product, (x, kernel), tangents)[1],
    }


def drawn(*case_shapes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape)) for shape in case_shapes]


@functools.cache
def expected_of(function, image, kernel, stride, padding):
    return jax.jit(lambda x, k: evaluated(NATIVE[function], x, k, stride, padding))(*drawn(image, kernel))


def assert_native(function, image, kernel, stride, padding, ours=None):
    """Values and derivatives are those of the native convolution that `function` replaces, in float64."""
    expected = expected_of(function, image, kernel, stride, padding)
    got = jax.jit(lambda x, k: evaluated(ours or function, x, k, stride, padding))(*drawn(image, kernel))
    assert got["y"].shape == expected["y"].shape
    assert expected["y"].dtype == jnp.float64
    for name in expected:
        for one, other in zip(jax.tree.leaves(got[name]), jax.tree.leaves(expected[name]), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10, err_msg=name)


# (image, kernel, stride, padding). Patches come first in the matrix product where stride^2 channels < 4 features.
CASES = {
    "odd sides, stride 2": ((5, 7, 2), (4, 4, 2, 3), 2, "SAME"),
    "even and odd side": ((8, 9, 2), (2, 2, 2, 3), 2, "SAME"),
    "kernel 3, stride 2": ((6, 7, 2), (3, 3, 2, 3), 2, "SAME"),
    "kernel that is not square": ((7, 6, 2), (2, 5, 2, 3), 2, "SAME"),
    "kernel smaller than the stride": ((8, 7, 2), (1, 2, 2, 3), 3, "SAME"),
    "stride 3": ((9, 7, 2), (4, 4, 2, 3), 3, "SAME"),
    "stride 3, nothing padded": ((9, 8, 2), (5, 2, 2, 3), 3, "VALID"),
    "nothing padded": ((6, 7, 2), (4, 3, 2, 3), 2, "VALID"),
    "nothing padded, kernel smaller than the stride": ((7, 8, 2), (1, 1, 2, 3), 2, "VALID"),
    "stride 1": ((5, 6, 2), (3, 4, 2, 3), 1, "SAME"),
    "stride 1, nothing padded": ((5, 6, 2), (3, 4, 2, 3), 1, "VALID"),
    "the whole image": ((5, 6, 2), (5, 6, 2, 3), 1, "VALID"),
    "one pixel": ((1, 1, 2), (4, 4, 2, 3), 2, "SAME"),
    "padded unequally": ((6, 5, 2), (4, 3, 2, 3), 2, ((0, 3), (2, 1))),
    "padded by more than the kernel": ((5, 5, 2), (2, 3, 2, 3), 3, ((4, 0), (1, 6))),
    "cut": ((8, 8, 2), (3, 3, 2, 3), 2, ((-1, 2), (1, -2))),
    "product first": ((6, 7, 9), (3, 2, 9, 2), 1, "SAME"),
    "product first, stride 2": ((7, 6, 5), (4, 3, 5, 1), 2, "SAME"),
    "product first, nothing padded": ((7, 6, 8), (3, 4, 8, 1), 1, "VALID"),
}
functions = pytest.mark.parametrize("function", [conv, conv_transpose], ids=lambda f: f.__name__)


def shapes(function, case):
    """Of image and kernel; with many channels also where the product has stride^2 times the features."""
    image, kernel, stride, _ = case
    if function is conv_transpose and kernel[2] > 4:
        kernel = (*kernel[:2], 4 * stride**2 + 1, 1)
    return (*image[:2], kernel[2]), kernel


@functions
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_it_is_the_native_convolution(function, case, x64):
    assert_native(function, *shapes(function, case), *case[2:])


@functions
def test_both_orders_of_the_product_are_among_the_cases(function, monkeypatch):
    patches_first, correlate = [], convolution._correlate

    def spy(x, kernel):
        patches_first.append(kernel.shape[2] < 4 * kernel.shape[3])
        return correlate(x, kernel)

    monkeypatch.setattr(convolution, "_correlate", spy)
    for case in CASES.values():
        arguments = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes(function, case))
        jax.eval_shape(lambda x, k, case=case: function(x, k, stride=case[2], padding=case[3]), *arguments)
    assert len(patches_first) == len(CASES)
    assert min(sum(patches_first), len(CASES) - sum(patches_first)) >= 3


def used(shape, **settings):
    """What the networks for such images call, as (function, image, kernel, stride, padding), each once."""
    seen = {}

    def spy(function):
        def call(x, kernel, *, stride=1, padding="SAME"):
            seen[(function, x.shape, kernel.shape, stride, padding)] = None
            return function(x, kernel, stride=stride, padding=padding)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for function in NATIVE:
            patch.setattr(convolution, function.__name__, spy(function))
        vae = model.conv_vae(shape, likelihoods.bernoulli(), **settings)
        params = jax.eval_shape(vae.init, jax.random.key(0))
        jax.eval_shape(lambda params, x: vae.decode(params, vae.encode(params, x)[0]), params, jnp.zeros(shape))
    return list(seen)


@pytest.mark.parametrize(
    "shape",
    [(28, 28, 1), (8, 12, 1), *(pytest.param(shape, marks=pytest.mark.slow) for shape in ((32, 32, 3), (64, 64, 3)))],
    ids=str,
)
def test_all_that_the_networks_use_is_native(shape, x64):
    cases = used(shape, num_blocks=1)
    halvings = len(networks.default_channels(shape))
    assert len(cases) >= 3 * halvings
    assert {(f, kernel[:2], stride) for f, _, kernel, stride, _ in cases} >= {(conv, (3, 3), 1), (conv_transpose, (4, 4), 2)}
    for case in cases:
        assert_native(*case)


@pytest.mark.parametrize("size", [(8, 8), (7, 6)], ids=str)
def test_they_are_pytorchs(size, x64):
    """Conv2d and ConvTranspose2d with kernel 4, stride 2 and padding 1, with gradients; the latter's kernel turned."""
    torch = pytest.importorskip("torch")
    for function, cls, turn in ((conv, torch.nn.Conv2d, 1), (conv_transpose, torch.nn.ConvTranspose2d, -1)):
        module = cls(2, 3, 4, 2, 1, bias=False, dtype=torch.float64)
        torch_x = torch.tensor(np.random.default_rng(0).normal(size=(1, 2, *size)), requires_grad=True)
        expected = module(torch_x)
        cotangent = np.random.default_rng(1).normal(size=expected.shape)
        expected.backward(torch.tensor(cotangent))
        # (out, in, rows, columns), and (in, out, rows, columns) where transposed
        axes = (2, 3, 1, 0) if turn == 1 else (2, 3, 0, 1)
        ours = lambda weight: weight.detach().numpy().transpose(axes)[::turn, ::turn]  # noqa: B023, E731
        pixels = lambda a: np.moveaxis(a, 1, -1)[0]  # noqa: E731
        explicit = ((1, 1), (1, 1)) if function is conv else "SAME"
        product = lambda x, k: function(x, k, stride=2, padding=explicit)  # noqa: B023, E731
        y, pull = jax.vjp(jax.jit(product), jnp.asarray(pixels(torch_x.detach().numpy())), jnp.asarray(ours(module.weight)))
        np.testing.assert_allclose(y, pixels(expected.detach().numpy()), rtol=1e-10, atol=1e-10)
        gradient_x, gradient_kernel = pull(jnp.asarray(pixels(cotangent)))
        np.testing.assert_allclose(gradient_x, pixels(torch_x.grad.numpy()), rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(gradient_kernel, ours(module.weight.grad), rtol=1e-10, atol=1e-10)


@functions
def test_vmap_is_a_loop_over_examples_and_over_members(function, x64):
    rng = np.random.default_rng(0)
    x, kernels = jnp.asarray(rng.normal(size=(3, 4, 6, 5, 2))), jnp.asarray(rng.normal(size=(3, 4, 3, 2, 7)))
    one = jax.jit(lambda x, kernel: function(x, kernel, stride=2))
    members = jax.jit(jax.vmap(jax.vmap(one, (0, None))))(x, kernels)  # each with its own examples and kernel
    shared = jax.jit(jax.vmap(jax.vmap(one, (0, None)), (None, 0)))(x[0], kernels)  # each with its own kernel
    for i, j in itertools.product(range(3), range(4)):
        np.testing.assert_allclose(members[i, j], one(x[i, j], kernels[i]), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(shared[i, j], one(x[0, j], kernels[i]), rtol=1e-12, atol=1e-12)


@functions
def test_bfloat16_and_float32_keep_their_dtype_and_are_close(function):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(6, 6, 8)), rng.normal(size=(4, 4, 8, 3))
    with jax.enable_x64(True):
        exact = np.asarray(NATIVE[function](jnp.asarray(x), jnp.asarray(kernel), stride=2))
        largest = np.abs(NATIVE[function](jnp.abs(x), jnp.abs(kernel), stride=2)).max()
    for dtype in (jnp.float32, jnp.bfloat16):
        y = jax.jit(lambda x, k: function(x, k, stride=2))(jnp.asarray(x, dtype), jnp.asarray(kernel, dtype))
        assert y.dtype == dtype
        np.testing.assert_allclose(np.asarray(y, np.float64), exact, atol=4 * float(jnp.finfo(dtype).eps) * largest)


@functions
@pytest.mark.parametrize("word", ["same", "SAME_LOWER", "CIRCULAR", ""])
def test_unknown_padding_is_refused(function, word):
    with pytest.raises(ValueError, match=f'expected "SAME", "VALID" or pairs of integers, got {word!r}'):
        function(jnp.zeros((6, 6, 1)), jnp.zeros((4, 4, 1, 1)), padding=word)


def test_a_kernel_that_does_not_fit_is_refused():
    for stride in (1, 2):
        with pytest.raises(ValueError, match=r"at least the kernel's size, got \(3, 6, 1\) for a kernel \(4, 4, 1, 2\)"):
            conv(jnp.zeros((3, 6, 1)), jnp.zeros((4, 4, 1, 2)), stride=stride, padding="VALID")
    with pytest.raises(ValueError, match="at least the kernel's size"):
        conv_transpose(jnp.zeros((6, 1, 1)), jnp.zeros((4, 4, 1, 2)), stride=2, padding=((0, 0), (0, 2)))


TWINS = {
    "kernel turned": lambda f, x, kernel, **options: f(x, kernel[::-1, ::-1], **options),
    "kernel's axes swapped": lambda f, x, kernel, **options: f(x, kernel.transpose(1, 0, 2, 3), **options),
    "output one pixel to the side": lambda f, x, kernel, **options: jnp.roll(f(x, kernel, **options), 1, axis=1),
    "input one pixel down": lambda f, x, kernel, **options: f(jnp.roll(x, 1, axis=0), kernel, **options),
    "last tap forgotten": lambda f, x, kernel, **options: f(x, kernel.at[-1].set(0), **options),
    "edges repeated, not zero": lambda f, x, kernel, **options: f(
        jnp.pad(x, ((1, 1), (1, 1), (0, 0)), "edge"), kernel, **options | {"padding": "VALID"}
    ),
    "gradient of the kernel forgotten": lambda f, x, kernel, **options: f(x, lax.stop_gradient(kernel), **options),
    "gradient of the image forgotten": lambda f, x, kernel, **options: f(lax.stop_gradient(x), kernel, **options),
}


@functions
@pytest.mark.parametrize("twin", TWINS.values(), ids=TWINS)
def test_the_proof_fails_on_a_broken_copy(function, twin, x64):
    case = ((6, 6, 2), (4, 4, 2, 3), 2, "SAME")
    with pytest.raises(AssertionError):
        assert_native(function, *case, ours=lambda x, kernel, **options: twin(function, x, kernel, **options))


# What a program contains, read from its text.

WORDS = re.compile(r"stablehlo\.convolution|\bconvolution\(")  # as lowered, as compiled (where a path may have the word)


def step_of(network, **settings):
    """A train step on 8 x 8 images, and its arguments for one member and for three."""
    settings = {"latent_dim": 2, "channels": (4,), "dense": (8,), "num_blocks": int(network == "resnet"), **settings}
    vae = model.conv_vae((8, 8, 1), likelihoods.bernoulli(), **settings)
    step = training.make_train_step(vae, optimizer=optax.adam)

    def arguments(key):
        state = training.init_state(vae, optax.adam, key)
        return state, key, jnp.zeros((5, 8, 8, 1)), Hyperparams(beta=jnp.float32(1), learning_rate=jnp.float32(1e-3))

    one = jax.eval_shape(arguments, jax.random.key(0))
    many = jax.eval_shape(jax.vmap(arguments), jax.random.split(jax.random.key(0), 3))
    return step, one, many


KINDS = [("conv", "none"), ("resnet", "group"), ("resnet", "none")]


@pytest.mark.parametrize(("network", "norm"), KINDS)
def test_no_lowered_program_has_a_convolution_and_under_vmap_products_are_batched(network, norm):
    step, one, many = step_of(network, norm=norm)
    alone = jax.jit(step).lower(*one).as_text()
    members = jax.jit(jax.vmap(step)).lower(*many).as_text()
    layers = 6 + (4 if network == "resnet" else 0)
    for text in (alone, members):
        assert not WORDS.search(text)
        # each layer and its two gradients; the first needs none of the images
        assert len(re.findall(r"stablehlo\.dot_general", text)) == 3 * layers - 1
    for product in re.findall(r"stablehlo\.dot_general.*", members):
        assert re.search(r"batching_dims = \[0\] x \[0\]", product), product
        assert re.search(r": \(tensor<3x[\dx]+f32>, tensor<3x[\dx]+f32>\) -> tensor<3x", product), product


@pytest.mark.parametrize(("network", "norm"), [KINDS[0], *(pytest.param(*kind, marks=pytest.mark.slow) for kind in KINDS[1:])])
def test_no_compiled_program_has_a_convolution(network, norm):
    step, one, many = step_of(network, norm=norm)
    for function, arguments in ((step, one), (jax.vmap(step), many)):
        assert not WORDS.search(jax.jit(function).lower(*arguments).compile().as_text())


def test_the_native_convolution_would_be_found_and_is_grouped_under_vmap():
    x, kernels = jnp.zeros((3, 6, 6, 2)), jnp.zeros((3, 4, 4, 2, 5))
    lowered = jax.jit(jax.vmap(native)).lower(x, kernels)
    assert WORDS.search(lowered.as_text())
    if jax.default_backend() == "cpu":  # a GPU's compiler makes one so small into something else
        assert WORDS.search(lowered.compile().as_text())
    assert re.search(r"(feature|batch)_group_count = 3", lowered.as_text())


def test_the_product_of_rows_is_the_plain_product_in_every_nesting():
    """Value, both gradients, per-example gradients of the kernel, members, forward over reverse: against `x @ kernel`."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, kernel = jnp.asarray(rng.normal(size=(5, 7, 3))), jnp.asarray(rng.normal(size=(3, 4)))
        kernels = jnp.asarray(rng.normal(size=(2, 3, 4)))

        def results(product):
            loss = lambda x, kernel: jnp.sum(jnp.sin(product(x, kernel)))  # noqa: E731
            batch = lambda kernel, x: jnp.mean(jax.vmap(loss, (0, None))(x, kernel))  # noqa: E731
            return {
                "value": jax.vmap(product, (0, None))(x, kernel),
                "gradient of the batch": jax.grad(batch, (0, 1))(kernel, x),
                "gradient of each example": jax.vmap(jax.grad(loss, (0, 1)), (0, None))(x, kernel),
                "members": jax.vmap(jax.grad(batch), (0, None))(kernels, x),
                "members with batches of their own": jax.vmap(jax.grad(batch))(kernels, jnp.stack([x, 2 * x])),
                "one example, kernels batched": jax.vmap(loss, (None, 0))(x[0], kernels),
                "examples on the last axis": jax.vmap(product, (2, None), 1)(jnp.moveaxis(x, 0, 2), kernel),
                "hessian": jax.hessian(lambda kernel: batch(kernel, x))(kernel),
                "forward": jax.jvp(lambda kernel: batch(kernel, x), (kernel,), (kernels[0],)),
                "second over forward": jax.grad(lambda x: jax.jvp(lambda k: loss(x, k), (kernel,), (kernels[0],))[1])(x[0]),
            }

        ours, plain = jax.jit(lambda: results(rows_product))(), jax.jit(lambda: results(lambda x, kernel: x @ kernel))()
    for name, expected in plain.items():
        jax.tree.map(
            lambda a, b, name=name: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12, err_msg=name), ours[name], expected
        )


def test_the_gradient_of_a_kernel_contracts_over_one_axis():
    """Over (example, row) XLA would copy an operand. The plain product shows that the test can see it."""

    def axes(product):
        batch = lambda kernel, x: jnp.sum(jnp.sin(jax.vmap(product, (0, None))(x, kernel)))  # noqa: E731
        jaxpr = jax.make_jaxpr(jax.grad(batch))(jnp.ones((3, 4)), jnp.ones((5, 7, 3)))
        dots = [eqn for eqn in jaxpr.jaxpr.eqns if eqn.primitive.name == "dot_general"]
        return max(len(eqn.params["dimension_numbers"][0][0]) for eqn in dots)

    assert axes(rows_product) == 1
    assert axes(lambda x, kernel: x @ kernel) == 2
