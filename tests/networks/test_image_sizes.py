"""Convolutional networks for images of any size: odd sides halve upwards, and the decoder crops what the encoder extended."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from vae_jax import likelihoods, model, networks
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.errors import UserError

BERNOULLI = likelihoods.bernoulli()
KINDS = {"conv": {}, "resnet": {"num_blocks": 1, "norm": "group"}}


@pytest.mark.parametrize(
    ("shape", "channels", "last"),
    [
        ((27, 27, 1), (32, 64), (7, 7)),
        ((50, 50, 1), (32, 32, 64), (7, 7)),
        ((100, 100, 3), (32, 32, 64, 64), (7, 7)),
        ((101, 99, 1), (32, 32, 64, 64), (7, 7)),
        ((218, 178, 3), (32, 32, 32, 64, 64), (7, 6)),
        ((7, 8, 1), (32,), (4, 4)),
        ((3, 40, 1), (32,), (2, 20)),
        ((2, 3, 1), (32,), (1, 2)),
    ],
    ids=str,
)
def test_any_image_is_halved_until_its_shorter_side_is_below_8(shape, channels, last):
    assert networks.default_channels(shape) == channels
    params = jax.eval_shape(model.conv_vae(shape, BERNOULLI).init, jax.random.key(0))
    assert params["encoder"]["Dense_0"]["kernel"].shape == (math.prod(last) * channels[-1], 256)
    assert params["decoder"]["Dense_1"]["kernel"].shape == (256, math.prod(last) * channels[-1])


def test_the_parameters_of_celeba_images_are_counted_by_hand():
    """It was 159 million, when halving ended at the first odd side."""
    convolutions = [(4, 3, 32), (4, 32, 32), (2, 32, 32), (2, 32, 64), (2, 64, 64)]
    transposed = [(4, 64, 64), (4, 64, 32), (4, 32, 32), (4, 32, 32), (4, 32, 3)]
    dense = [(7 * 6 * 64, 256), (256, 20), (10, 256), (256, 7 * 6 * 64)]
    expected = sum(size**2 * a * b + b for size, a, b in convolutions + transposed) + sum((a + 1) * b for a, b in dense)
    assert model.num_parameters(model.conv_vae((218, 178, 3), BERNOULLI, latent_dim=10)) == expected == 1_566_743


@pytest.mark.parametrize(
    ("shape", "channels", "message"),
    [
        ((1, 28, 1), None, "expected images of at least 2 x 2 pixels for convolutions, got 1 x 28 x 1"),
        ((28, 1, 1), (4,), "at least 2 x 2 pixels"),
        ((4, 9, 1), (4, 4, 4), "expected at most 2 channels, one for each halving of 4 x 9 x 1, got 3"),
        ((5, 9, 1), (4,) * 4, "expected at most 3 channels"),
    ],
    ids=str,
)
def test_only_what_cannot_be_halved_is_refused(shape, channels, message):
    with pytest.raises(ValueError, match=message):
        networks.conv_encoder(shape, 2, channels=channels)
    with pytest.raises(ValueError, match=message):
        networks.conv_decoder(2, shape, channels=channels)
    for fits in ((5, 9, 1), (8, 5, 1)):
        networks.conv_encoder(fits, 2, channels=(4, 4, 4))


def native(params, h, stride, transpose=False):
    """Zeros around the image: on an odd side one more behind it, as XLA's "SAME" has it, and the mirror image cut again."""
    options = {"padding": "SAME", "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    if transpose:
        return lax.conv_transpose(h[None], params["kernel"], (stride, stride), **options)[0]
    return lax.conv_general_dilated(h[None], params["kernel"], (stride, stride), **options)[0] + params["bias"]


def test_odd_sides_are_those_of_native_convolutions():
    """Encoder and decoder against `lax`, with a bias for each pixel of the image."""
    shape, channels, latent = (9, 14, 2), (3, 4), 2
    vae = model.conv_vae(shape, BERNOULLI, latent_dim=latent, channels=channels, dense=(), train_mean=0.3)
    params = jax.eval_shape(vae.init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), jnp.float32), params)
    sizes = [shape[:2], *(tuple(-(-n // 2**times) for n in shape[:2]) for times in (1, 2))]

    def encoder(params, x):
        h = x
        for i in range(2):
            h = jnp.maximum(native(params[f"_Conv_{i}"], h, 2), 0)
            assert h.shape[:2] == sizes[i + 1]
        heads = h.reshape(-1) @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
        return heads[:latent], heads[latent:]

    def decoder(params, z):
        h = z @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
        h = h.reshape(*sizes[2], channels[-1])
        for i in range(2):
            height, width = sizes[1 - i]
            h = native(params[f"_Conv_{i}"], jnp.maximum(h, 0), 2, transpose=True)[:height, :width]
            h = h + params[f"_Conv_{i}"]["bias"]
        return h

    x, z = jax.random.uniform(jax.random.key(1), shape), jnp.array([0.5, -1.0])

    @jax.jit
    def both(params):
        theirs = encoder(params["encoder"], x), decoder(params["decoder"], z)
        return (vae.encode(params, x), vae.decode(params, z)), theirs

    assert params["decoder"]["_Conv_1"]["bias"].shape == shape
    ours, theirs = both(params)
    assert min(float(jnp.std(leaf)) for leaf in jax.tree.leaves(theirs)) > 1e-2
    chex.assert_trees_all_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "channels"), [((9, 14, 3), (4, 4, 4)), ((5, 7, 1), (4,)), ((13, 2, 1), (4,))], ids=str)
def test_the_output_has_the_shape_of_the_data(kind, shape, channels):
    likelihood = likelihoods.gaussian("per_pixel")
    vae = model.conv_vae(shape, likelihood, channels=channels, dense=(5,), latent_dim=2, train_mean=0.5, **KINDS[kind])
    params = jax.eval_shape(vae.init, jax.random.key(0))
    assert jax.eval_shape(vae.decode, params, jnp.zeros(2)).shape == (*shape, 2)


def test_the_advice_for_one_row_of_pixels_serves(tmp_path):
    np.save(tmp_path / "row.npy", np.tile(np.array([0, 1], np.uint8), (20, 1, 4))[..., None])
    row = Config(dataset=str(tmp_path / "row.npy"), network="conv", batch_size=4)
    with pytest.raises(UserError, match=r'`network="conv"`: expected images of at least 2 x 2 pixels .* Use `network="mlp"`\.'):
        build(row)
    assert build(Config(dataset=row.dataset, batch_size=4)).vae.data_shape == (1, 8, 1)
