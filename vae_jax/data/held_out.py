"""Input of a model for examples that are evaluated: scaled, or binarized or dequantized once, the same each time."""

import functools
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_jax._numerics.threefry import random_bits16
from vae_jax.data.conditions.columns import Condition
from vae_jax.data.on_disk import Rows
from vae_jax.data.sparse import SparseMatrix, SparseRows, sparse_rows
from vae_jax.errors import UserError
from vae_jax.example import Example, Examples

# (key, images as levels or floats) -> floats of the same shape
Draw = Callable[[Array, Array], Array]
CHUNK = 1024  # examples drawn at once where a whole split is drawn


class HeldOutInput(NamedTuple):
    """Preprocessing of evaluated examples.

    Attributes:
      draw: draws an array of images; None where they stay as they are stored.
      dtype: the type in which drawn images are kept.
      to_input: (batch of stored or drawn events on the device) -> floats for the model.
    """

    draw: Draw | None
    dtype: type[np.generic]
    to_input: Callable[[Array], Array]


@functools.lru_cache(maxsize=32)  # so that programs that are compiled for it serve several files
def held_out_input(max_level: int | None, binarization: str, dequantize: bool, counts: bool) -> HeldOutInput:
    """Returns the preprocessing of evaluated examples; the arguments are those of `prepare`."""
    if dequantize:
        assert max_level is not None
        return HeldOutInput(partial(dequantize_levels, max_level=max_level), np.float32, as_float)
    if binarization == "none" or max_level == 1:  # zeros and ones stay the same under any binarization
        return HeldOutInput(None, np.float32, lambda levels: scale(levels, None if counts else max_level))
    if binarization == "threshold":
        return HeldOutInput(lambda key, batch: (scale(batch, max_level) >= 0.5).astype(jnp.float32), np.uint8, as_float)
    return HeldOutInput(partial(binarize, max_level=max_level), np.uint8, as_float)


def as_stored(rows: Examples) -> Examples:
    """Returns the rows themselves: the images of a data set that are not rendered."""
    return rows


@functools.lru_cache(maxsize=8)
def _compiled(draw: Draw, images: Callable[[Examples], Array | np.ndarray]) -> Callable[[Array, Examples], Array]:
    return jax.jit(lambda key, rows: draw(key, jnp.asarray(images(rows))))


class DrawnRows:
    """Examples that are drawn when they are read, in chunks with keys of their own, so that each row is always the same.

    Behaves like an array that is read by rows only, such as `Rows`.
    """

    def __init__(
        self,
        rows: np.ndarray | Rows | SparseRows,
        draw: Draw,
        key: Array,
        dtype: type[np.generic],
        images: Callable[[Examples], Array | np.ndarray] = as_stored,
    ):
        """Draws from `rows` as stored, which `images` turns into levels or floats."""
        self._rows, self._key, self.dtype = rows, key, np.dtype(dtype)
        self._draw = _compiled(draw, images)
        self._last: tuple[int, np.ndarray] | None = None
        event = jax.eval_shape(images, jax.ShapeDtypeStruct((1, *rows.shape[1:]), rows.dtype)).shape[1:]
        self.shape: tuple[int, ...] = (rows.shape[0], *event)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> int:
        """Number of numbers in all rows."""
        return math.prod(self.shape)

    __iter__ = None  # otherwise NumPy would collect all rows, one by one

    def __getitem__(self, key: slice | np.ndarray) -> np.ndarray:
        index = np.arange(*key.indices(len(self))) if isinstance(key, slice) else np.asarray(key)
        flat, out = index.ravel(), np.empty((index.size, *self.shape[1:]), self.dtype)
        for number in np.unique(flat // CHUNK).tolist():
            chosen = flat // CHUNK == number
            out[chosen] = self._chunk(number)[flat[chosen] - number * CHUNK]
        return out.reshape(*index.shape, *self.shape[1:])

    def _chunk(self, number: int) -> np.ndarray:
        if self._last is None or self._last[0] != number:
            self._last = (number, self.chunk(number))
        return self._last[1]

    def chunk(self, number: int) -> np.ndarray:
        """Draws the rows from number * 1024 on, with the key of this number."""
        rows = self._rows[number * CHUNK : (number + 1) * CHUNK]
        return np.asarray(self._draw(jax.random.fold_in(self._key, number), rows)).astype(self.dtype)

    def in_memory(self, name: str) -> np.ndarray | SparseRows:
        """Draws all rows; those of sparse rows stay sparse.

        Args:
          name: the data set, for messages.
        """
        drawn = (self.chunk(number) for number in range(-(-len(self) // CHUNK)))
        if not isinstance(self._rows, SparseRows):
            return np.concatenate(list(drawn))
        import scipy.sparse

        matrix = scipy.sparse.vstack([scipy.sparse.csr_array(chunk) for chunk in drawn], format="csr")
        return sparse_rows(name, cast(SparseMatrix, matrix))


def with_companions(
    event_input: Callable[[Array], Array], condition: Condition | None, nan_is_missing: bool = False
) -> Callable[..., Example]:
    """Returns the function (batch, stored conditions) -> input for examples with conditions and masks.

    Args:
      event_input: converts the events.
      condition: expands the stored conditions; None: there is no condition.
      nan_is_missing: NaN marks missing entries of the batch.
    """

    def to_input(rows: Example, stored: Array | None = None, event_input: Callable[[Array], Array] = event_input) -> Example:
        if not isinstance(rows, Example):
            raise UserError(
                "expected examples with their conditions and masks, got their events alone.",
                field="to_input",
                fix="Pass those of the prepared data, such as prepared.test, or a vae_jax.example.Example.",
            )
        event, mask = rows.event, rows.mask
        if nan_is_missing and jnp.issubdtype(event.dtype, jnp.floating):
            observed = ~jnp.isnan(event)
            mask = observed if mask is None else mask & observed
        if mask is not None:
            event = jnp.where(mask, event, jnp.zeros((), event.dtype))
        values = rows.condition if stored is None else stored
        return Example(event_input(event), None if condition is None else condition.expand(values), mask)

    return to_input


def binarize(key: Array, levels: Array, max_level: int | None) -> Array:
    """Draws Bernoulli variables with the pixels as means.

    P(1) = level / max_level to within 1/65536, and exactly 0 and 1 at the ends: a 16-bit integer is compared with
    level * 65536 / max_level.

    Args:
      key: a new-style PRNG key.
      levels: levels from 0 to `max_level`, or probabilities in [0, 1], of any shape.
      max_level: the highest level; None for probabilities.

    Returns:
      Zeros and ones, float32, of the same shape.
    """
    # Flat while it works: with a trailing axis of one channel XLA does not vectorize on CPU.
    flat = levels.reshape(-1)
    if max_level is None:
        threshold = (flat.astype(jnp.float32) * 65536).astype(jnp.int32)
    else:
        wide = jnp.int32 if max_level < 2**15 else jnp.uint32  # level * 65536 has up to 32 bits
        threshold = jax.lax.div(flat.astype(wide) * 65536 + max_level // 2, wide(max_level)).astype(jnp.int32)
    return (random_bits16(key, flat.shape) < threshold).astype(jnp.float32).reshape(levels.shape)


def dequantize_levels(key: Array, levels: Array, max_level: int) -> Array:
    """Returns (level + u) / (max_level + 1), u ~ U(0, 1): strictly between 0 and 1, and each level within its own bin.

    float32 rounds level + u up to the next level from level 128 on, and u itself may be 0. Both ends are kept open, because a
    density on (0, 1) such as the logit-normal is infinite there.
    """
    low = levels.astype(jnp.float32)
    inside = jnp.clip(low + jax.random.uniform(key, levels.shape), low + 2**-25, jnp.nextafter(low + 1, low))
    return inside / (max_level + 1)


def scale(levels: Array, max_level: int | None) -> Array:
    """Returns levels as floats in [0, 1]; other numbers as they are."""
    return levels.astype(jnp.float32) / (max_level or 1)


def as_float(batch: Array) -> Array:
    """Returns the numbers as float32."""
    return batch.astype(jnp.float32)
