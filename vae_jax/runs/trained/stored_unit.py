"""Converts what a likelihood models to the unit and the type in which the data of a trained model are stored."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_jax.build import DataDescription
from vae_jax.build.model import sees_counts
from vae_jax.config import Config
from vae_jax.likelihoods import Likelihood


class StoredUnit(NamedTuple):
    """Unit of stored examples, and its relation to the numbers that the likelihood sees.

    Attributes:
      dtype: name of the stored type.
      top: the highest level; None where the data have no levels.
      scale: stored number = scale * number of the likelihood.
      is_count: whether the likelihood models the stored numbers as counts.
      is_dequantized: whether the likelihood models (level + u) / (top + 1), u in [0, 1).
    """

    dtype: str
    top: int | None
    scale: float
    is_count: bool
    is_dequantized: bool

    def to_stored(self, x: Array) -> Array:
        """Returns numbers of the likelihood in the stored unit, neither rounded nor cut at the range of the levels.

        Dequantized, level k is the interval from k / (top + 1) to (k + 1) / (top + 1), of which this takes the middle to k.
        """
        return x * (self.top + 1) - 0.5 if self.is_dequantized and self.top is not None else x * self.scale

    def _levels(self, x: Array) -> Array:
        """Returns numbers of the likelihood in the stored unit, within the range of the levels."""
        x = self.to_stored(x)
        return x if self.top is None or self.is_count else jnp.clip(x, 0, self.top)

    def convert_mean(self, mean: Array) -> Array:
        """Converts E[x|z]: levels are rounded to the stored type.

        Zeros and ones, and counts, have float32 expectations, because rounding would leave nothing of most of them.
        """
        levels = self._levels(mean)
        if self.top is None or self.top == 1 or self.is_count or np.dtype(self.dtype).kind == "f":
            return levels.astype(jnp.float32)
        return jnp.rint(levels).astype(self.dtype)

    def convert_draw(self, x: Array) -> Array:
        """Converts a draw from p(x|z) to the stored type; counts to int32, because they may exceed those of the data."""
        levels = self._levels(x)
        if np.dtype(self.dtype).kind == "f":
            return levels.astype(jnp.float32)
        return jnp.rint(levels).astype("int32" if self.is_count else self.dtype)

    def to_pixels(self, x: Array) -> Array:
        """Converts numbers of the likelihood to pixels: 0 to 255, uint8, without dithering.

        Floats without levels are taken to be in [0, 1].
        """
        return jnp.rint(255 * jnp.clip(self._levels(x) / (self.top or 1), 0, 1)).astype(jnp.uint8)


def stored_unit(config: Config, description: DataDescription, likelihood: Likelihood) -> StoredUnit:
    """Returns the unit of the data of a model."""
    top = description.max_level
    scale, is_count = stored_scale(config, likelihood, top), sees_counts(config, likelihood)
    return StoredUnit(description.dtype, top, scale, is_count, config.dequantize)


def stored_scale(config: Config, likelihood: Likelihood, max_level: int | None) -> float:
    """Returns the stored number that is 1 for the likelihood: the highest level, or 1 for counts and floats."""
    return 1.0 if sees_counts(config, likelihood) or max_level is None else float(max_level)
