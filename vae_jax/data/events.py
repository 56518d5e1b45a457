"""Shapes of examples: an event is a vector (columns,), a series (time, channels) or an image (height, width, channels)."""

import math
from typing import Literal

import numpy as np

from vae_jax.errors import UserError

Event = Literal["auto", "image", "series", "vector"]
EVENTS: tuple[Event, ...] = ("auto", "image", "series", "vector")
_KINDS: dict[int, Literal["vector", "series", "image"]] = {1: "vector", 2: "series", 3: "image"}


def event_kind(data_shape: tuple[int, ...]) -> Literal["vector", "series", "image"]:
    """Returns the kind of an event by the number of its axes.

    Example:
      >>> event_kind((30,)), event_kind((100, 3)), event_kind((28, 28, 1))
      ('vector', 'series', 'image')
    """
    return _KINDS[len(data_shape)]


def is_image(shape: tuple[int, ...]) -> bool:
    """Returns whether an event of this shape is an image. A single row or a single column of numbers is not."""
    return len(shape) == 3 and min(shape[:2]) > 1


def event_shape(name: str, shape: tuple[int, ...], event: Event = "auto") -> tuple[int, ...]:
    """Returns the shape of an array of examples after each of them has been given the shape of an event.

    Args:
      name: the data set, for messages.
      shape: of the array as stored, (examples, ...).
      event: "auto" takes two axes as vectors, three as gray images, and four as images. "image" also takes two axes, as square
        gray images. "series" takes (examples, time) and (examples, time, channels). "vector" takes any shape and flattens it.

    Returns:
      (examples, columns), (examples, time, channels) or (examples, height, width, channels), with the same number of entries.

    Raises:
      UserError: a shape that cannot be meant, or an empty array.
    """
    if 0 in shape:
        raise UserError(f"{name}: expected at least one example and one entry in each, got shape {shape}.")
    num_axes = len(shape)
    match event:
        case "vector" if num_axes >= 1:
            return (shape[0], math.prod(shape[1:]))
        case "series" if num_axes in (2, 3):
            return shape if num_axes == 3 else (*shape, 1)
        case "image" if num_axes == 2 and math.isqrt(shape[1]) ** 2 == shape[1]:
            side = math.isqrt(shape[1])
            return (shape[0], side, side, 1)
        case "image" | "auto" if num_axes in (3, 4):
            return shape if num_axes == 4 else (*shape, 1)
        case "auto" if num_axes == 2:
            return shape
    raise UserError(f"{name}: expected {_expected(event)}, got shape {shape}. {_fix(shape, event)}")


def _expected(event: Event) -> str:
    if event == "series":
        return "series with 2 or 3 axes (examples, time[, channels])"
    if event == "vector":
        return "at least one axis, that of the examples"
    images = "images with 3 or 4 axes (examples, height, width[, channels])"
    return images if event == "image" else f"vectors with 2 axes (examples, columns), or {images}"


def _fix(shape: tuple[int, ...], event: Event) -> str:
    match len(shape):
        case 0:
            return "It holds a single number."
        case 1:
            return 'For examples of one number each, save x[:, None], or use `event="vector"`.'
        case 2:
            return "Save x.reshape(-1, height, width)."
        case _ if event == "series":
            return "Merge axes, such as x.reshape(len(x), x.shape[1], -1)."
        case _:
            return (
                "Merge axes: for videos, x.reshape(-1, *x.shape[-3:]) makes an example of each frame. "
                'With `event="vector"` each example becomes one vector.'
            )


def as_event(name: str, array: np.ndarray, event: Event = "auto") -> np.ndarray:
    """Returns an array of examples in the shape of `event_shape`, without a copy."""
    return array.reshape(event_shape(name, array.shape, event))
