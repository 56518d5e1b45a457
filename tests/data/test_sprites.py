"""Sprites: the renderer against geometry in float64, the grid, the draws, and training on images that are nowhere stored.

Nine p-values of `budget.py`: on correct code these tests fail by chance with a probability below 9e-9.
"""

import hashlib
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from budget import accept, accept_frequencies
from scipy import ndimage, stats

from vae_jax import data, likelihoods
from vae_jax.data import sprites

SIZES = (3, 6, 40, 32, 32)
TURNED = np.array(list(itertools.product(range(3), range(6), range(40))))  # shape, scale, orientation


@pytest.fixture(scope="module")
def render():
    compiled = jax.jit(jax.vmap(sprites.render))
    return lambda rows: np.asarray(compiled(np.asarray(rows, np.uint8)))[..., 0]


@pytest.fixture(scope="module")
def centered(render):
    """Every shape in every size and orientation, its center on the pixel (32, 32)."""
    return render(np.hstack([TURNED, np.full((len(TURNED), 2), 16)]))


def random_rows(count, seed=0):
    return np.random.default_rng(seed).integers(0, SIZES, (count, 5))


# An oracle of another kind: the corners, foci and centers of the shapes are turned, and pixels stay where they are.


def oracle(row, grown):
    """Which pixels' centers lie in the shape with its extent grown by so many pixels, in float64."""
    shape, scale, orientation, x, y = (int(value) for value in row)
    extent = (10.75, 15.5, 6.0)[shape] * np.linspace(0.5, 1, 6)[scale] + grown
    angle = 2 * np.pi * orientation / 40
    down, across = np.mgrid[0.5:64, 0.5:64]
    # Counter-clockwise as seen, rows running downwards: minus the angle in (x, y).
    pixels = (across - (16.5 + x)) + 1j * (down - (16.5 + y))
    turn = np.exp(-1j * angle)

    def polygon(*corners):
        corners = np.array(corners) * turn
        edges = np.roll(corners, -1) - corners
        sides = [(np.conj(edge) * (pixels - corner)).imag >= 0 for corner, edge in zip(corners, edges, strict=True)]
        return np.all(sides, axis=0)

    def disc(center, radius):
        return np.abs(pixels - center * turn) <= radius

    if shape == 0:
        return polygon(*(extent * np.array([-1 - 1j, 1 - 1j, 1 + 1j, -1 + 1j])))
    if shape == 1:  # the sum of the distances to the foci is the longer axis
        focus = math.sqrt(extent**2 - (extent / 2) ** 2)
        return np.abs(pixels - focus * turn) + np.abs(pixels + focus * turn) <= 2 * extent
    low = 5 / 8 * extent - 5 / 8 * grown  # growing does not move the center
    corners = polygon(*(2 * extent * np.array([-1j, 1, 1j, -1]) + 1j * low))
    ears = [extent * np.array(side - 1j) + 1j * low for side in (-1, 1)]
    return corners | disc(ears[0], math.sqrt(2) * extent) | disc(ears[1], math.sqrt(2) * extent)


def test_the_images_are_the_shapes_of_geometry(render):
    """Within the rounding of 1/256 of a pixel here and there: between the shape 0.01 pixels smaller and as much larger."""
    rows = np.concatenate([random_rows(240), np.hstack([TURNED[::7], np.full((len(TURNED[::7]), 2), 16)])])
    images = render(rows)
    inner = np.array([oracle(row, -0.01) for row in rows])
    outer = np.array([oracle(row, 0.01) for row in rows])
    assert np.all(inner <= images)
    assert np.all(images <= outer)
    assert outer.sum() - inner.sum() < 0.006 * images.sum()  # so that there is nothing much to choose


def test_images_are_bits_of_one_size_alone_and_in_a_batch(render):
    rows = random_rows(6)
    images = render(rows)
    assert set(np.unique(images)) == {0, 1}
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        for row, image in zip(rows, images, strict=True):
            alone = sprites.render(jnp.asarray(row, jnp.int32))
            assert alone.shape == (64, 64, 1)
            assert alone.dtype == jnp.uint8
            np.testing.assert_array_equal(alone[..., 0], image)


def test_a_step_in_x_or_y_moves_the_image_by_one_pixel_and_nothing_is_cut_off(render, centered):
    """With all shapes at all four corners: what is in between is further from the border."""
    middle = np.array([16, 16])
    for x, y in itertools.product((0, 31), repeat=2):
        at_corner = render(np.hstack([TURNED, np.tile([x, y], (len(TURNED), 1))]))
        np.testing.assert_array_equal(at_corner.sum(axis=(1, 2)), centered.sum(axis=(1, 2)))
        np.testing.assert_array_equal(at_corner, np.roll(centered, (y - middle[1], x - middle[0]), axis=(1, 2)))
    rows = random_rows(200, seed=1)
    there = centered[np.ravel_multi_index(rows[:, :3].T, SIZES[:3])]
    moved = [np.roll(image, (y - 16, x - 16), axis=(0, 1)) for image, (x, y) in zip(there, rows[:, 3:], strict=True)]
    np.testing.assert_array_equal(render(rows), moved)


def test_a_quarter_of_a_turn_is_one_and_hearts_mirror(centered):
    """Exactly; a heart points down at first, to the right after a quarter, being turned counter-clockwise."""
    patches = centered[:, 16:49, 16:49].reshape(3, 6, 40, 33, 33)  # its center in the middle
    for orientation in range(40):
        turned = np.rot90(patches[:, :, orientation], axes=(2, 3))
        np.testing.assert_array_equal(patches[:, :, (orientation + 10) % 40], turned)
        mirrored = patches[:, :, orientation, :, ::-1]
        np.testing.assert_array_equal(patches[:, :, -orientation % 40], mirrored)
    heart = patches[2, 5, 0]
    rows = heart.sum(axis=1)
    assert np.argmax(rows) < 16  # widest above the center
    assert rows[rows > 0][-1] < 4  # and ends in a tip below


def test_every_shape_is_in_one_piece_without_holes(centered):
    eight = np.ones((3, 3))
    for image in centered:
        assert ndimage.label(image)[1] == 1
        assert ndimage.label(1 - image, eight)[1] == 1


@pytest.mark.slow
def test_areas_are_those_of_the_shapes_and_grow_with_the_square_of_the_scale():
    """Pixels counted over 40 orientations and 64 places within a pixel: within 0.5%."""
    scales, places = np.linspace(0.5, 1, 6), (np.arange(8) + 0.5) / 8 / 31 + 0.5
    values = np.array(list(itertools.product(range(3), scales, 2 * np.pi * np.arange(40) / 40, places, places)))
    count = jax.jit(lambda values: jax.lax.map(lambda v: sprites.render_at(*v).sum(), values, batch_size=1024))
    counts = np.asarray(count(tuple(values.T))).reshape(3, 6, -1).mean(axis=2)
    at_one = np.array([4 * 10.75**2, math.pi * 15.5**2 / 2, (8 + 2 * math.pi) * 6**2])
    np.testing.assert_allclose(counts, at_one[:, None] * scales**2, rtol=0.005)


def test_images_differ_but_for_the_symmetries_of_square_and_ellipse(centered):
    """Cut out at their borders, shapes agree only for a quarter turn of a square, half a turn of an ellipse; the rest follows
    from what a step in x or y does: 1024 x 6 x (10 + 20 + 40) = 430,080 different images.
    """
    seen = {}
    for (shape, scale, orientation), image in zip(TURNED.tolist(), centered, strict=True):
        rows, columns = (np.flatnonzero(image.any(axis=axis)) for axis in (1, 0))
        cut = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        seen.setdefault((cut.shape, cut.tobytes()), []).append((shape, scale, orientation))
    assert len(seen) == 6 * (10 + 20 + 40)
    for group in seen.values():
        shape, scale, orientation = group[0]
        period = (10, 20, 40)[shape]
        assert group == [(shape, scale, turned) for turned in range(orientation, 40, period)]


def test_the_images_are_those_of_this_version():
    """A change of the images needs another number in `_rendering`: a run must notice that its data are no longer the same."""
    images = jax.jit(jax.vmap(sprites.render))(np.hstack([TURNED, np.full((len(TURNED), 2), 16)]).astype(np.uint8))
    digest = hashlib.sha256(np.packbits(np.asarray(images)).tobytes()).hexdigest()
    assert (sprites.sprites().rendering.name, digest[:16]) == ("sprites 1", "595d59fef4d4c823")


def test_between_the_grids_points(render):
    """At the grid's points the same bits; half a pixel away, the average of the two neighbors' areas."""
    values = (TURNED[:, 0], (5 + TURNED[:, 1]) / 10, 2 * np.pi * TURNED[:, 2] / 40)
    places = np.random.default_rng(0).integers(0, 32, (len(TURNED), 2))
    got = jax.jit(jax.vmap(sprites.render_at))(*values, *(places.T / 31))[..., 0]
    np.testing.assert_array_equal(got, render(np.hstack([TURNED, places])))
    there, left, right = (sprites.render_at(0, 0.7, 0.0, x / 31, 0.5) for x in (10.5, 10, 11))
    middle = np.flatnonzero(np.asarray(there).any(axis=(0, 2))).mean()
    edges = [np.flatnonzero(np.asarray(image).any(axis=(0, 2))).mean() for image in (left, right)]
    assert middle == np.mean(edges)
    assert int(np.asarray(sprites.render_at(2, 0.75, 1.0, 0.3, 0.3)).sum()) == pytest.approx(0.75**2 * 514.2, rel=0.02)


def test_factors_of_another_kind_are_refused():
    for wrong in (jnp.zeros((3, 5), jnp.uint8), jnp.zeros(4, jnp.uint8), jnp.zeros(5)):
        with pytest.raises(ValueError, match=r"expected the 5 integers of one image, got shape .*Apply jax.vmap to a batch"):
            sprites.render(wrong)


# The grid and the draws


def test_the_grid_is_that_of_dsprites_with_y_fastest():
    grid = sprites.grid()
    assert grid.shape == (737_280, 5)
    assert grid.dtype == np.uint8
    assert grid.flags.c_contiguous
    bases = np.array([6 * 40 * 32 * 32, 40 * 32 * 32, 32 * 32, 32, 1])
    np.testing.assert_array_equal(grid @ bases, np.arange(len(grid)))
    assert np.all(grid < SIZES)
    assert grid.max(axis=0).tolist() == [2, 5, 39, 31, 31]


@pytest.fixture(scope="module")
def draws():
    draw = jax.jit(jax.vmap(sprites.draw, in_axes=(None, 0)))
    numbers = np.arange(200_000, dtype=np.uint32)[:, None]
    return [np.asarray(draw(jax.random.key(key), numbers)).astype(int) for key in (0, 1)]


def test_draws_are_uniform_over_the_grid(draws):
    """Chi-square of each factor, of all 720 shapes as turned, and of the rank within the grid."""
    rows = draws[0]
    for column, size in enumerate(SIZES):
        accept_frequencies(np.bincount(rows[:, column], minlength=size), np.full(size, 1 / size))
    index = np.ravel_multi_index(rows.T, SIZES)
    accept_frequencies(np.bincount(index // 1024, minlength=720), np.full(720, 1 / 720))
    accept(stats.kstest((index + 0.5) / 737_280, "uniform").pvalue)


def test_draws_of_neighboring_numbers_and_of_other_keys_are_independent(draws):
    first, second = draws
    assert not np.array_equal(first, second)
    for one, other in ((first[:-1:2], first[1::2]), (first, second)):
        pairs = (one[:, 3] // 4) * 8 + other[:, 3] // 4  # in eighths of the frame
        accept_frequencies(np.bincount(pairs, minlength=64), np.full(64, 1 / 64))


# Data sets


def test_both_data_sets_know_their_factors():
    drawn, grid = data.load("sprites"), data.load("sprites_grid")
    assert drawn.train.shape == (65_536, 1)
    assert drawn.train_factors is None
    np.testing.assert_array_equal(grid.train_factors, sprites.grid())
    assert sum(array.nbytes for array in (grid.train, grid.test)) == 5 * (737_280 + 10_000)
    assert drawn.num_different == grid.num_different == 737_280
    for dataset in (drawn, grid):
        assert dataset.data_shape == (64, 64, 1)
        assert dataset.max_level == 1
        assert dataset.factor_names == ("shape", "scale", "orientation", "x_position", "y_position")
        assert dataset.test_factors.shape == (10_000, 5)
        assert len(np.unique(dataset.test_factors, axis=0)) == 10_000
        np.testing.assert_array_equal(dataset.test, dataset.test_factors)
        np.testing.assert_array_equal(dataset.test_labels, dataset.test_factors[:, 0])
        assert "from the grid" in dataset.split
        assert dataset.fingerprint() == data.load(dataset.name).fingerprint()
    np.testing.assert_array_equal(drawn.test, grid.test)  # so that their numbers can be compared
    assert drawn.fingerprint() != grid.fingerprint()
    renamed = drawn.rendering._replace(name="sprites 0")
    assert drawn.fingerprint() != drawn._replace(rendering=renamed).fingerprint()


def test_validation_is_drawn_or_held_out():
    drawn = data.load("sprites", validation_fraction=0.01)
    assert drawn.train.shape == (65_536, 1)  # draws never end
    assert drawn.validation.shape == (655, 5)
    assert "655 validation images" in drawn.split
    assert np.all(drawn.validation < SIZES)
    np.testing.assert_array_equal(drawn.validation, data.load("sprites", validation_fraction=0.01).validation)
    assert not np.array_equal(drawn.validation, data.load("sprites", validation_fraction=0.01, split_seed=1).validation)
    grid = data.load("sprites_grid", validation_fraction=0.01)
    assert (len(grid.train), len(grid.validation), len(grid.test)) == (737_280 - 7373, 7373, 10_000)
    np.testing.assert_array_equal(grid.train, grid.train_factors)
    everything = np.concatenate([grid.train, grid.validation]) @ np.array([245_760, 40_960, 1024, 32, 1])
    np.testing.assert_array_equal(np.sort(everything), np.arange(737_280))


def test_mean_and_standard_deviation_are_those_of_the_whole_grid(render):
    """By moving the sum of all shapes over the 1024 positions, one after another."""
    total = render(np.hstack([TURNED, np.zeros((len(TURNED), 2), int)])).sum(axis=0, dtype=np.int64)
    mean = sum(np.roll(total, shift, axis=(0, 1)) for shift in itertools.product(range(32), repeat=2)) / 737_280
    for name in ("sprites", "sprites_grid"):
        dataset = data.load(name)
        np.testing.assert_allclose(dataset.train_mean[..., 0], mean, rtol=1e-6)
        assert dataset.train_std == pytest.approx(math.sqrt(np.mean(mean * (1 - mean))), rel=1e-6)
    images = render(data.load("sprites").test)
    np.testing.assert_allclose(images.mean(), mean.mean(), rtol=0.02)


@pytest.mark.slow
def test_all_images_by_brute_force(render):
    """The mean of all 737,280, and how many of them are different."""
    grid, total, seen = sprites.grid(), np.zeros((64, 64)), set()
    for rows in np.split(grid, 90):
        images = render(rows)
        total += images.sum(axis=0)
        seen.update(hash(image.tobytes()) for image in np.packbits(images.reshape(len(rows), -1), axis=1))
    assert len(seen) == 430_080
    np.testing.assert_allclose(sprites.mean_image()[..., 0], total / len(grid), rtol=1e-12)


@pytest.mark.parametrize("name", ["sprites", "sprites_grid"])
def test_what_reaches_the_model_does_not_depend_on_the_binarization(name, render):
    dataset = data.load(name)
    dataset = dataset._replace(test=dataset.test[:50])
    expected = None
    for binarization in ("none", "dynamic", "fixed", "threshold"):
        data.check_support(dataset, likelihoods.bernoulli(), binarization)
        prepared = data.prepare(dataset, binarization=binarization)
        got = (
            jax.jit(prepared.train_input)(jax.random.key(0), prepared.train[::5000]),
            jax.jit(prepared.eval_input)(prepared.test),
        )
        expected = expected or got
        for mine, first in zip(got, expected, strict=True):
            assert mine.dtype == jnp.float32
            assert set(np.unique(mine)) == {0.0, 1.0}
            np.testing.assert_array_equal(mine, first)
    np.testing.assert_array_equal(expected[1][..., 0], render(dataset.test))
    if name == "sprites_grid":
        np.testing.assert_array_equal(expected[0][..., 0], render(dataset.train[::5000]))


def test_dequantized_and_counted(render):
    dataset = data.load("sprites")
    dataset = dataset._replace(test=dataset.test[:50])
    prepared = data.prepare(dataset, dequantize=True)
    for x, levels in (
        (prepared.eval_input(prepared.test), render(dataset.test)[..., None]),
        (jax.jit(prepared.train_input)(jax.random.key(0), prepared.train[:9]), None),
    ):
        x = np.asarray(x)
        assert x.min() >= 0
        assert x.max() < 1
        assert len(np.unique(x)) > x.size / 2
        if levels is not None:
            np.testing.assert_array_equal(x >= 0.5, levels)
    assert prepared.log_jacobian == pytest.approx(-4096 * math.log(2))
    counted = data.prepare(dataset, counts=True)
    np.testing.assert_array_equal(jax.jit(counted.eval_input)(counted.test)[..., 0], render(dataset.test))
    data.check_support(dataset, likelihoods.poisson(), "none")
