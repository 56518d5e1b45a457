"""Sprites like those of dSprites, computed from their factors wherever an image is needed: nothing to download or to store.

Five factors in the order and number of dSprites (Matthey et al. 2017): shape (square, ellipse, heart), scale 1/2 to 1,
orientation, x, y; a grid of 737,280 binary images of 64 x 64. Only "like": the shapes, their sizes and the margins are this
module's own. Numbers of reconstruction can be compared among runs on these images, never with the literature's on dSprites.

An orientation i is the angle 2 pi i / 40: the full turn is left out, so no two of the 40 are the same angle. A square looks the
same after a quarter of a turn and an ellipse after half of one, so for them the orientation cannot be told from the image, and
430,080 of the images are different: 1024 positions x 6 scales x (10 + 20 + 40) orientations. As in the literature there is no
split: the test set is drawn from the grid that is trained on.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from vae_jax.data.split import Rendering, Split

FACTOR_NAMES = ("shape", "scale", "orientation", "x_position", "y_position")
FACTOR_SIZES = (3, 6, 40, 32, 32)
SHAPES = ("square", "ellipse", "heart")
NUM_IMAGES = math.prod(FACTOR_SIZES)
DRAWS = 65_536  # images in an epoch of `sprites`; the draws never end
_TEST = 10_000
_SIZE = 64
# At scale 1, in pixels: half the side of the square, the longer half axis of the ellipse (twice the other), and a quarter of
# the heart's width where its arcs begin. No pixel is further from the centre than 15.8, and a centre 16.5 from a border.
_EXTENTS = np.array([10.75, 15.5, 6.0])
_MARGIN = 16.5
# Whole numbers throughout, in 1/256 of a pixel and 1/16384 for sines: no device or compiler could round them otherwise, so
# images are the same bits everywhere, and the symmetries of the shapes are exact. The largest number is below 2^31.
_PIXEL, _TURN = 256, 2**14


def _whole(values: ArrayLike, unit: int) -> np.ndarray:
    return np.rint(np.asarray(values, np.float64) * unit).astype(np.int32)


def _fill(shape: Array, extent: Array, cos: Array, sin: Array, x: Array, y: Array) -> Array:
    """Levels of the image, from whole numbers: 1 where a pixel's centre lies in the shape or on its edge."""
    # One axis of pixels until the end. With two, XLA on CPU puts the flattening for an MLP into the same loop, finds the row of
    # each pixel by a division there, and does not vectorise: 14 times slower.
    pixel = jnp.arange(_SIZE**2, dtype=jnp.int32)
    across, down = ((place * _PIXEL + _PIXEL // 2) - centre for place, centre in ((pixel % _SIZE, x), (pixel // _SIZE, y)))
    # The pixel in the shape's own frame. Division rounds towards zero, alike on both sides of the centre.
    u = jnp.abs(jax.lax.div(across * cos - down * sin, jnp.int32(_TURN)))  # all three are their own mirror image in u
    v = jax.lax.div(across * sin + down * cos, jnp.int32(_TURN))
    square = jnp.maximum(u, jnp.abs(v)) <= extent
    ellipse = u * u + 4 * v * v <= extent * extent
    # A square on its corner, its centre 5/8 of the extent below the heart's centroid, and a disc on each upper side.
    w = v - (5 * extent) // 8
    heart = (u + jnp.abs(w) <= 2 * extent) | ((u - extent) ** 2 + (w + extent) ** 2 <= 2 * extent * extent)
    inside = jnp.where(shape == 0, square, jnp.where(shape == 1, ellipse, heart))
    return inside.astype(jnp.uint8).reshape(_SIZE, _SIZE, 1)


def render(factors: Array) -> Array:
    """The image of one point of the grid.

    Shapes in their own frame (u, v), v downwards, a the extent in pixels (10.75, 15.5 and 6, times the scale):

        square   max(|u|, |v|) <= a
        ellipse  u^2 + 4 v^2 <= a^2
        heart    |u| + |w| <= 2 a   or   (|u| - a)^2 + (w + a)^2 <= 2 a^2,   w = v - 5a/8

    The frame is turned counter-clockwise by 2 pi orientation / 40 about (16.5 + x, 16.5 + y) pixels, x to the right, y down: a
    step in x or y moves the image by one pixel.

    Args:
      factors: (5,), integers: shape, scale (0 to 5: 0.5 to 1.0), orientation, x, y, each from 0 to below its number in
        FACTOR_SIZES (not checked).

    Returns:
      Levels 0 and 1, uint8, (64, 64, 1); the same bits on every device. The whole shape lies inside the frame.

    Example:
      >>> print(jax.vmap(render)(jnp.array([[0, 5, 0, 15, 15], [2, 0, 39, 31, 0]])).sum(axis=(1, 2, 3)))
      [441 127]

    Source:
      Factors, their order and numbers: dSprites (Matthey et al. 2017).
    """
    factors = jnp.asarray(factors)
    if factors.shape != (len(FACTOR_SIZES),) or not jnp.issubdtype(factors.dtype, jnp.integer):
        raise ValueError(
            f"factors: expected the 5 integers of one image, got shape {factors.shape} and dtype {factors.dtype}. "
            "vmap it over a batch; continuous values go to render_at."
        )
    shape, scale, orientation, x, y = factors.astype(jnp.int32)
    angles = 2 * np.pi * np.arange(FACTOR_SIZES[2]) / FACTOR_SIZES[2]
    extents = _whole(_EXTENTS[:, np.newaxis] * (5 + np.arange(FACTOR_SIZES[1])) / 10, _PIXEL)
    cos, sin = (jnp.asarray(_whole(turn(angles), _TURN))[orientation] for turn in (np.cos, np.sin))
    offset = int(_MARGIN * _PIXEL)
    return _fill(shape, jnp.asarray(extents)[shape, scale], cos, sin, x * _PIXEL + offset, y * _PIXEL + offset)


def render_at(shape: ArrayLike, scale: ArrayLike, angle: ArrayLike, x: ArrayLike, y: ArrayLike) -> Array:
    """The image of factors between the grid's points, rounded to 1/256 of a pixel; the grid's own images at its points.

    Args:
      shape: 0, 1 or 2: square, ellipse, heart.
      scale: up to 1; the grid has 0.5 to 1.
      angle: in radians, counter-clockwise.
      x, y: position in [0, 1], from left to right and from top to bottom; the grid has i / 31.

    Returns:
      Levels 0 and 1, uint8, (64, 64, 1).

    Example: halfway between two points of the grid.
      >>> print(render_at(0, 1.0, 0.0, 0.5, 0.5).shape)
      (64, 64, 1)
    """

    def whole(value: Array, unit: int) -> Array:
        return jnp.rint(value * unit).astype(jnp.int32)

    shape, angle = jnp.asarray(shape, jnp.int32), jnp.asarray(angle, jnp.float32)
    extent = whole(jnp.asarray(_EXTENTS, jnp.float32)[shape] * jnp.asarray(scale, jnp.float32), _PIXEL)
    steps = FACTOR_SIZES[3] - 1
    x, y = (whole(_MARGIN + steps * jnp.asarray(value, jnp.float32), _PIXEL) for value in (x, y))
    return _fill(shape, extent, whole(jnp.cos(angle), _TURN), whole(jnp.sin(angle), _TURN), x, y)


def grid() -> np.ndarray:
    """The factors of all images in the order of dSprites, y fastest: (737280, 5), uint8."""
    return np.indices(FACTOR_SIZES, np.uint8).reshape(len(FACTOR_SIZES), -1).T.copy()


def draw(key: Array, number: Array) -> Array:
    """The factors of one image, uniform over the grid.

    Args:
      key: a new-style PRNG key, of a step of training.
      number: (1,), uint32: which of the draws with this key.

    Returns:
      Factors (5,), uint8.

    Example:
      >>> factors = jax.vmap(draw, in_axes=(None, 0))(jax.random.key(0), jnp.arange(4, dtype=jnp.uint32)[:, None])
      >>> print(factors.shape)
      (4, 5)
    """
    # The key of each draw comes from its own number, so that a batch spread over devices is drawn where it is used.
    index = jax.random.randint(jax.random.fold_in(key, number[0]), (), 0, NUM_IMAGES, jnp.int32)
    return jnp.stack(jnp.unravel_index(index, FACTOR_SIZES)).astype(jnp.uint8)


@functools.cache
def mean_image() -> np.ndarray:
    """The mean of all images of the grid, exactly: (64, 64, 1), float64."""
    centre = np.array([16, 16], np.uint8)
    turned = np.indices(FACTOR_SIZES[:3], np.uint8).reshape(3, -1).T
    rows = np.hstack([turned, np.broadcast_to(centre, (len(turned), 2))])
    total = np.asarray(jax.jit(jax.vmap(render))(rows)).sum(axis=0, dtype=np.float64)[..., 0]
    # A step in x or y moves an image by one pixel, so the sum over positions is a sliding sum over 32 rows and 32 columns.
    step = np.subtract.outer(np.arange(_SIZE), np.arange(_SIZE)) + centre[0]
    slide = ((step >= 0) & (step < FACTOR_SIZES[3])).astype(np.float64)
    mean = (slide @ total @ slide.T)[..., np.newaxis] / NUM_IMAGES
    mean.flags.writeable = False
    return mean


def _rendering(drawn: bool) -> Rendering:
    # A change of what `render` makes needs another number here: runs then know that their data have changed.
    return Rendering("sprites 1", render, (_SIZE, _SIZE, 1), mean_image, NUM_IMAGES, draw if drawn else None)


def _test_set() -> np.ndarray:
    chosen = np.random.default_rng(0).choice(NUM_IMAGES, _TEST, replace=False)
    return grid()[np.sort(chosen)]


def sprites() -> Split:
    """Endless sprites: factors drawn uniformly from the grid inside the train step; 65,536 draws are called an epoch."""
    test = _test_set()
    return Split(
        np.arange(DRAWS, dtype=np.uint32)[:, np.newaxis],
        test=test,
        test_labels=test[:, 0],
        max_level=1,
        test_factors=test,
        factor_names=FACTOR_NAMES,
        rendering=_rendering(drawn=True),
        split=f"test images drawn once from the grid; each epoch draws {DRAWS} new images from it",
    )


def sprites_grid() -> Split:
    """The whole grid, each image once an epoch; stored as its factors."""
    train, test = grid(), _test_set()
    return Split(
        train,
        test=test,
        test_labels=test[:, 0],
        max_level=1,
        train_factors=train,
        test_factors=test,
        factor_names=FACTOR_NAMES,
        rendering=_rendering(drawn=False),
        split="test images drawn once from the grid, which is all trained on",
    )
