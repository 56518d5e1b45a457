"""Missing entries at the encoder: their values have no effect, and `mask_input` shows which entries are observed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax import likelihoods, model, networks
from vae_jax.data import Moments
from vae_jax.example import Example

SHAPES = {"vector": (5,), "series": (6, 2), "image": (4, 6, 1)}
LATENT = 2
# Moments of the training data on the scale of x: none, constants of the model, or parameters that come from the data.
MOMENTS = Moments(3.0, 2.0)
SCALES = ("no scale", "constants", "from data", "log1p")


def make(make_vae, shape, scale, mask_input, condition_dim=0):
    likelihood = likelihoods.poisson() if scale == "log1p" else likelihoods.gaussian(1.0)
    standardize = {"no scale": None, "constants": MOMENTS}.get(scale, "from_data")
    options = {"channels": (3,), "dense": (4,)} if make_vae is model.conv_vae else {"hidden": (4,)}
    vae = make_vae(
        shape,
        likelihood,
        latent_dim=LATENT,
        standardize=standardize,
        mask_input=mask_input,
        condition_dim=condition_dim,
        **options,
    )
    if standardize == "from_data":
        vae = model.with_moments(vae, MOMENTS._replace(log1p=Moments(0.7, 0.5)) if scale == "log1p" else MOMENTS)
    return vae


def example_and_mask(shape, seed=0):
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < 0.5
    assert 0 < mask.sum() < mask.size
    return rng.poisson(4.0, shape).astype(np.float32), mask


CASES = [
    *((model.mlp_vae, kind, scale) for kind in SHAPES for scale in SCALES),
    (model.conv_vae, "series", "from data"),
    (model.conv_vae, "image", "constants"),
]


@pytest.mark.parametrize("mask_input", [False, True])
@pytest.mark.parametrize(("make_vae", "kind", "scale"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_the_encoder_does_not_see_the_values_at_missing_entries(make_vae, kind, scale, mask_input):
    shape = SHAPES[kind]
    vae = make(make_vae, shape, scale, mask_input, condition_dim=3)
    x, mask = example_and_mask(shape)
    c = jnp.array([1.0, 0.0, -0.5])
    encode = jax.jit(lambda x, mask: vae.encode(vae.init(jax.random.key(0)), Example(x, c, mask)))
    expected = encode(x, mask)
    for value in (0.0, np.nan, 1e30, -1e30, np.inf):
        for a, b in zip(encode(np.where(mask, x, value).astype(np.float32), mask), expected, strict=True):
            np.testing.assert_array_equal(a, b)
    assert all(np.isfinite(part).all() for part in expected)
    moved = encode(x + mask, mask)  # observed entries have an effect
    assert not np.array_equal(moved[0], expected[0])


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("scale", SCALES)
def test_the_encoder_sees_zeros_on_the_standardized_scale_and_then_the_mask(kind, scale):
    """The network is replaced by one that returns what it sees."""
    shape = SHAPES[kind]
    seen_shape = (*shape[:-1], 2 * shape[-1])
    size = int(np.prod(seen_shape))
    encoder = networks.Network(lambda key: {}, lambda params, x: (x.reshape(-1), jnp.zeros(size)))
    decoder = networks.Network(lambda key: {}, lambda params, z: jnp.zeros(shape))
    likelihood = likelihoods.poisson() if scale == "log1p" else likelihoods.gaussian(1.0)
    vae = model.assemble_vae(
        encoder,
        lambda **_: decoder,
        shape,
        likelihood,
        train_mean=None,
        standardize={"no scale": None, "constants": MOMENTS}.get(scale, "from_data"),
        prior=None,
        mask_input=True,
    )
    vae = model.with_moments(vae, MOMENTS._replace(log1p=Moments(0.7, 0.5)) if scale == "log1p" else MOMENTS)
    x, mask = example_and_mask(shape)
    standardized = {"no scale": x, "log1p": (np.log1p(x) - 0.7) / 0.5}.get(scale, (x - 3) / 2)
    params = vae.init(jax.random.key(0))
    seen = vae.encode(params, Example(x, None, mask))[0].reshape(seen_shape)
    np.testing.assert_allclose(seen, np.concatenate([np.where(mask, standardized, 0), mask], axis=-1), rtol=1e-6, atol=1e-6)
    # Without a mask all entries are observed.
    for whole in (x, Example(x), Example(x, None, np.ones(shape, bool))):
        seen = vae.encode(params, whole)[0].reshape(seen_shape)
        expected = np.concatenate([standardized, np.ones(shape)], axis=-1)
        np.testing.assert_allclose(seen, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mask_input", [False, True])
def test_gradients_are_those_of_any_value_at_missing_entries(mask_input):
    """Those of the parameters, with a mask that hides NaN and infinity, and with everything hidden."""
    vae = make(model.mlp_vae, (5,), "from data", mask_input)
    params = vae.init(jax.random.key(0))
    x, mask = example_and_mask((5,))

    @jax.jit
    def gradient(x, mask):
        def log_prob(params):
            bound = model.bind(vae, params, Example(x, None, mask))
            mean, log_scale = bound.encode(bound.x)
            return bound.log_prob(bound.decode(mean + jnp.exp(log_scale)), bound.x)

        return jax.tree.leaves(jax.grad(log_prob)(params))

    expected = gradient(x, mask)
    for value in (np.nan, 1e30, np.inf):
        for a, b in zip(gradient(np.where(mask, x, value).astype(np.float32), mask), expected, strict=True):
            np.testing.assert_array_equal(a, b)
    for leaf in gradient(np.full(5, np.nan, np.float32), np.zeros(5, bool)):
        np.testing.assert_array_equal(leaf, np.zeros_like(leaf))
    assert any(np.any(leaf) for leaf in expected)


def test_a_network_without_room_for_the_mask_is_refused():
    encoder = networks.mlp_encoder((5,), LATENT)
    with pytest.raises(ValueError, match=r"shape \(10,\), which is that of the data with the mask behind it \(mask_input\)\."):
        model.make_vae(encoder, networks.mlp_decoder(LATENT, (5,)), likelihoods.gaussian(1.0), (5,), mask_input=True)
