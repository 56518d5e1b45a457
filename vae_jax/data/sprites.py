"""Sprites like those of dSprites, computed from their factors when an image is needed. Nothing is downloaded or stored.

The five factors have the order and number of dSprites (Matthey et al. 2017): shape (square, ellipse, heart), scale 1/2 to 1,
orientation, x, y. They form a grid of 737,280 binary images of 64 x 64. The shapes, their sizes and the margins differ from
dSprites, so reconstruction terms can be compared among runs on these images, but never with published results on dSprites.

An orientation i is the angle 2 pi i / 40. The full turn is left out, so no two of the 40 are the same angle. A square looks the
same after a quarter of a turn and an ellipse after half of one, so their orientation cannot be inferred from the image, and
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
DRAWS = 65_536  # images that are drawn in an epoch of `sprites`
_TEST = 10_000
_SIZE = 64
# At scale 1, in pixels: half the side of the square, the longer half axis of the ellipse (twice the other), and a quarter of
# the heart's width where its arcs begin. No pixel is further from the center than 15.8, and a center is at least 16.5 from
# a border.
_EXTENTS = np.array([10.75, 15.5, 6.0])
_MARGIN = 16.5
# Integers throughout, in 1/256 of a pixel and 1/16384 for sines. No device or compiler can round them differently, so images
# have the same bits everywhere, and the symmetries of the shapes are exact. The largest number is below 2^31.
_PIXEL, _TURN = 256, 2**14


def _to_integers(values: ArrayLike, unit: int) -> np.ndarray:
    return np.rint(np.asarray(values, np.float64) * unit).astype(np.int32)


def _fill(shape: Array, extent: Array, cos: Array, sin: Array, x: Array, y: Array) -> Array:
    """Returns the levels of an image from integers: 1 where the center of a pixel lies in the shape or on its edge."""
    # One axis of pixels until the end. With two, XLA on CPU puts the flattening for an MLP into the same loop, computes the row
    # of each pixel by a division there, and does not vectorize, which is 14 times slower.
    pixel = jnp.arange(_SIZE**2, dtype=jnp.int32)
    across, down = ((index * _PIXEL + _PIXEL // 2) - center for index, center in ((pixel % _SIZE, x), (pixel // _SIZE, y)))
    # The pixel in the frame of the shape. Division rounds towards zero, alike on both sides of the center.
    u = jnp.abs(jax.lax.div(across * cos - down * sin, jnp.int32(_TURN)))  # all three shapes are symmetric in u
    v = jax.lax.div(across * sin + down * cos, jnp.int32(_TURN))
    square = jnp.maximum(u, jnp.abs(v)) <= extent
    ellipse = u * u + 4 * v * v <= extent * extent
    # A square on its corner, its center 5/8 of the extent below the heart's centroid, and a disc on each upper side.
    w = v - (5 * extent) // 8
    heart = (u + jnp.abs(w) <= 2 * extent) | ((u - extent) ** 2 + (w + extent) ** 2 <= 2 * extent * extent)
    inside = jnp.where(shape == 0, square, jnp.where(shape == 1, ellipse, heart))
    return inside.astype(jnp.uint8).reshape(_SIZE, _SIZE, 1)


def render(factors: Array) -> Array:
    """Renders the image of one point of the grid.

    The shapes in their frame (u, v), with v downwards and the extent a in pixels (10.75, 15.5 and 6, times the scale), are

        square   max(|u|, |v|) <= a
        ellipse  u^2 + 4 v^2 <= a^2
        heart    |u| + |w| <= 2 a   or   (|u| - a)^2 + (w + a)^2 <= 2 a^2,   w = v - 5a/8

    The frame is turned counter-clockwise by 2 pi orientation / 40 about (16.5 + x, 16.5 + y) pixels, x to the right, y down. A
    step in x or y moves the image by one pixel.

    Args:
      factors: (5,), integers: shape, scale (0 to 5 for 0.5 to 1.0), orientation, x, y. Each is at least 0 and below its entry
        in FACTOR_SIZES, which is not checked.

    Returns:
      Levels 0 and 1, uint8, (64, 64, 1), with the same bits on every device. The whole shape lies inside the image.

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
            "Apply jax.vmap to a batch. For continuous values use render_at."
        )
    shape, scale, orientation, x, y = factors.astype(jnp.int32)
    angles = 2 * np.pi * np.arange(FACTOR_SIZES[2]) / FACTOR_SIZES[2]
    extents = _to_integers(_EXTENTS[:, np.newaxis] * (5 + np.arange(FACTOR_SIZES[1])) / 10, _PIXEL)
    cos, sin = (jnp.asarray(_to_integers(turn(angles), _TURN))[orientation] for turn in (np.cos, np.sin))
    offset = int(_MARGIN * _PIXEL)
    return _fill(shape, jnp.asarray(extents)[shape, scale], cos, sin, x * _PIXEL + offset, y * _PIXEL + offset)


def render_at(shape: ArrayLike, scale: ArrayLike, angle: ArrayLike, x: ArrayLike, y: ArrayLike) -> Array:
    """Renders the image of factors between the points of the grid, rounded to 1/256 of a pixel.

    At the points of the grid it is the image that `render` returns.

    Args:
      shape: 0, 1 or 2 for square, ellipse or heart.
      scale: at most 1; the grid has 0.5 to 1.
      angle: in radians, counter-clockwise.
      x, y: position in [0, 1], from left to right and from top to bottom; the grid has i / 31.

    Returns:
      Levels 0 and 1, uint8, (64, 64, 1).

    Example: a position halfway between two points of the grid.
      >>> print(render_at(0, 1.0, 0.0, 0.5, 0.5).shape)
      (64, 64, 1)
    """

    def to_integers(value: Array, unit: int) -> Array:
        return jnp.rint(value * unit).astype(jnp.int32)

    shape, angle = jnp.asarray(shape, jnp.int32), jnp.asarray(angle, jnp.float32)
    extent = to_integers(jnp.asarray(_EXTENTS, jnp.float32)[shape] * jnp.asarray(scale, jnp.float32), _PIXEL)
    steps = FACTOR_SIZES[3] - 1
    x, y = (to_integers(_MARGIN + steps * jnp.asarray(value, jnp.float32), _PIXEL) for value in (x, y))
    return _fill(shape, extent, to_integers(jnp.cos(angle), _TURN), to_integers(jnp.sin(angle), _TURN), x, y)


def grid() -> np.ndarray:
    """Returns the factors of all images in the order of dSprites, y fastest: (737280, 5), uint8."""
    return np.indices(FACTOR_SIZES, np.uint8).reshape(len(FACTOR_SIZES), -1).T.copy()


def draw(key: Array, number: Array) -> Array:
    """Draws the factors of one image, uniformly over the grid.

    Args:
      key: a new-style PRNG key of a training step.
      number: (1,), uint32, the index of the draw among the draws with this key.

    Returns:
      Factors (5,), uint8.

    Example:
      >>> factors = jax.vmap(draw, in_axes=(None, 0))(jax.random.key(0), jnp.arange(4, dtype=jnp.uint32)[:, None])
      >>> print(factors.shape)
      (4, 5)
    """
    # The key of each draw comes from its index alone, so that each device draws its part of a batch.
    index = jax.random.randint(jax.random.fold_in(key, number[0]), (), 0, NUM_IMAGES, jnp.int32)
    return jnp.stack(jnp.unravel_index(index, FACTOR_SIZES)).astype(jnp.uint8)


@functools.cache
def mean_image() -> np.ndarray:
    """Computes the exact mean of all images of the grid, (64, 64, 1), float64, in [0, 1]."""
    center = np.array([16, 16], np.uint8)
    turned = np.indices(FACTOR_SIZES[:3], np.uint8).reshape(3, -1).T
    rows = np.hstack([turned, np.broadcast_to(center, (len(turned), 2))])
    total = np.asarray(jax.jit(jax.vmap(render))(rows)).sum(axis=0, dtype=np.float64)[..., 0]
    # A step in x or y moves an image by one pixel, so the sum over positions is a sliding sum over 32 rows and 32 columns.
    step = np.subtract.outer(np.arange(_SIZE), np.arange(_SIZE)) + center[0]
    slide = ((step >= 0) & (step < FACTOR_SIZES[3])).astype(np.float64)
    mean = (slide @ total @ slide.T)[..., np.newaxis] / NUM_IMAGES
    mean.flags.writeable = False
    return mean


def _rendering(is_drawn: bool) -> Rendering:
    # Increase the number whenever the images of `render` change, so that runs detect that their data have changed.
    drawing = draw if is_drawn else None
    return Rendering("sprites 1", render, (_SIZE, _SIZE, 1), mean_image, NUM_IMAGES, drawing, FACTOR_SIZES)


def _test_set() -> np.ndarray:
    chosen = np.random.default_rng(0).choice(NUM_IMAGES, _TEST, replace=False)
    return grid()[np.sort(chosen)]


def sprites() -> Split:
    """Returns sprites whose factors are drawn uniformly from the grid inside the train step; an epoch has 65,536 draws."""
    test = _test_set()
    return Split(
        np.arange(DRAWS, dtype=np.uint32)[:, np.newaxis],
        test=test,
        test_labels=test[:, 0],
        max_level=1,
        test_factors=test,
        factor_names=FACTOR_NAMES,
        rendering=_rendering(is_drawn=True),
        split=f"test images drawn once from the grid; each epoch draws {DRAWS} new images from it",
    )


def sprites_grid() -> Split:
    """Returns the whole grid, stored as its factors; an epoch has each image once."""
    train, test = grid(), _test_set()
    return Split(
        train,
        test=test,
        test_labels=test[:, 0],
        max_level=1,
        train_factors=train,
        test_factors=test,
        factor_names=FACTOR_NAMES,
        rendering=_rendering(is_drawn=False),
        split="test images drawn once from the grid, which is all trained on",
    )
