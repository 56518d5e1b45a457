"""From stored levels to what a likelihood takes: binarised, scaled or dequantised; drawn anew each step, or once."""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_jax._numerics.keys import Stream, stream
from vae_jax._numerics.short_repr import short_repr
from vae_jax._numerics.threefry import random_bits16
from vae_jax.config import fixed_needs_memory
from vae_jax.data.dataset import Dataset
from vae_jax.data.expect import check_given
from vae_jax.data.moments import Moments, train_moments
from vae_jax.data.on_disk import Rows
from vae_jax.data.values import check_treatment
from vae_jax.errors import UserError, unknown

_CHUNK = 1024  # examples treated at once where a whole split is drawn


@short_repr
class Prepared(NamedTuple):
    """A data set on the device, ready for training and evaluation."""

    train: Array | Rows  # (examples, height, width, channels), as stored; or (examples, ...) rows to render; `Rows` on disk
    validation: Array | None
    test: Array  # fixed: binarised or dequantised once, so that numbers repeat
    train_input: Callable[[Array, Array], Array]  # (key, batch of train) -> floats
    eval_input: Callable[[Array], Array]  # batch of validation or test -> floats
    log_jacobian: float  # nats to add to each example's log-likelihood so that it counts the discrete data
    description: str
    moments: Moments | None = None  # of training data on a scale of their own: floats as they are, counts
    rendered: bool = False  # `train_input` computes images of zeros and ones from the stored rows

    def train_rows(self, index: Array) -> Array:
        """Training examples as stored, of which a few are needed outside of training; inside jit as well."""
        rows = self.train
        if not isinstance(rows, Rows):
            return rows[index]
        shape = jax.ShapeDtypeStruct((*index.shape, *rows.shape[1:]), rows.dtype)
        return jax.pure_callback(lambda index: rows[np.asarray(index)], shape, index)


def binarize(key: Array, levels: Array, max_level: int | None) -> Array:
    """Bernoulli draws with the pixels as means: float32 zeros and ones.

    P(1) = level / max_level to within 1/65536, and exactly 0 and 1 at the ends: a 16-bit integer is compared with
    level * 65536 / max_level. Floats (max_level None) are probabilities in [0, 1].
    """
    # Flat while it works: a trailing axis of one channel keeps XLA from vectorising on CPU.
    flat = levels.reshape(-1)
    if max_level is None:
        threshold = (flat.astype(jnp.float32) * 65536).astype(jnp.int32)
    else:
        threshold = jax.lax.div(flat.astype(jnp.int32) * 65536 + max_level // 2, jnp.int32(max_level))
    return (random_bits16(key, flat.shape) < threshold).astype(jnp.float32).reshape(levels.shape)


def _scale(levels: Array, max_level: int | None) -> Array:
    return levels.astype(jnp.float32) / (max_level or 1)


def _dequantize(key: Array, levels: Array, max_level: int) -> Array:
    """Returns (level + u) / (max_level + 1), u ~ U(0, 1): strictly between 0 and 1, and each level within its own bin.

    float32 rounds level + u up to the next level from level 128 on, and u itself may be 0. Both ends are kept open, because a
    density on (0, 1) such as the logit-normal is infinite there.
    """
    low = levels.astype(jnp.float32)
    inside = jnp.clip(low + jax.random.uniform(key, levels.shape), low + 2**-25, jnp.nextafter(low + 1, low))
    return inside / (max_level + 1)


def _once(draw: Callable[[Array, Array], Array], key: Array, data: np.ndarray, dtype: np.dtype) -> Array:
    """Applies a random treatment to a whole split, with a key for each chunk of a fixed size."""
    draw = jax.jit(draw)
    chunks = range(0, len(data), _CHUNK)
    return jnp.asarray(
        np.concatenate([np.asarray(draw(jax.random.fold_in(key, i), data[i : i + _CHUNK])).astype(dtype) for i in chunks])
    )


def prepare(
    dataset: Dataset,
    *,
    binarization: Literal["dynamic", "fixed", "threshold", "none"] = "none",
    dequantize: bool = False,
    counts: bool = False,
    seed: int = 0,
) -> Prepared:
    """Puts a data set on the device and says how its batches become floats.

    Args:
      dataset: what `load` gave. Training images that it leaves on disk stay there.
      binarization: "dynamic": the training set is drawn anew at every step, on the device, test and validation once;
        "fixed": all drawn once; "threshold": 1 where the pixel is at least 1/2; "none": scaled to [0, 1]. Binary data are all
        the same under each.
      dequantize: add uniform noise of one level, anew at every step; `log_jacobian` then turns densities on [0, 1] into nats
        of the discrete data, log P(level) >= E_u[log p(x)] - D log(max_level + 1) (Theis et al. 2016, equation 3).
      counts: leave integer levels as they are, for likelihoods of counts, rather than scale them to [0, 1].
      seed: seed of all that is drawn once; the run's own seed does not enter, so runs are compared on the same test set.

    Raises:
      UserError: for every example of every split, data that the treatment is not for: see `values.check_treatment`.
    """
    check_given("data.prepare", dataset, Dataset)
    if binarization not in (kinds := ("dynamic", "fixed", "threshold", "none")):
        raise unknown("binarization", binarization, kinds)
    if dequantize and binarization != "none":
        raise UserError("--dequantize and binarised data exclude each other. Leave one out, or add --binarize none.")
    check_treatment(dataset, binarization, dequantize, counts)
    key_train, key_validation = stream(seed, Stream.FIXED_TRAIN_SET), stream(seed, Stream.VALIDATION_SET)
    key_test = stream(seed, Stream.TEST_SET)
    top = dataset.max_level
    train_images = _train_images(dataset)
    if isinstance(dataset.train, Rows) and binarization == "fixed":
        raise fixed_needs_memory()

    def stored() -> Array | Rows:
        return dataset.train if isinstance(dataset.train, Rows) else jnp.asarray(dataset.train)

    def images(rows: Array) -> Array:
        return jnp.asarray(dataset.images(rows))

    def as_float(batch: Array) -> Array:
        return batch.astype(jnp.float32)

    def anew(draw: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
        return lambda key, rows: draw(*train_images(key, rows))

    def once(draw: Callable[[Array, Array], Array], key: Array, rows: np.ndarray, dtype: type[np.generic]) -> Array:
        return _once(lambda key, rows: draw(key, images(rows)), key, rows, np.dtype(dtype))

    if dequantize:
        assert top is not None
        draw = partial(_dequantize, max_level=top)
        return Prepared(
            train=stored(),
            validation=None if dataset.validation is None else once(draw, key_validation, dataset.validation, np.float32),
            test=once(draw, key_test, dataset.test, np.float32),
            train_input=anew(draw),
            eval_input=as_float,
            log_jacobian=-math.prod(dataset.data_shape) * math.log(top + 1),
            description=f"dequantised uniformly (test set once, seed {seed}); nats of the discrete data",
        )
    if binarization == "none" or top == 1:  # what is 0 or 1 already stays so under any binarisation
        scale = None if counts else top
        words = f"levels 0 to {top} scaled to [0, 1]" if top else "floats as they are"
        return Prepared(
            train=stored(),
            validation=None if dataset.validation is None else jnp.asarray(dataset.validation),
            test=jnp.asarray(dataset.test),
            train_input=anew(lambda key, levels: _scale(levels, scale)),
            eval_input=lambda rows: _scale(images(rows), scale),
            log_jacobian=0.0,
            description="counts" if counts else "binary as stored" if top == 1 else words,
            moments=train_moments(dataset, counts) if counts or top is None else None,
            rendered=dataset.rendering is not None,
        )
    if binarization == "threshold":
        draw = lambda key, batch: (_scale(batch, top) >= 0.5).astype(jnp.float32)  # noqa: E731
        words = "binarised at 1/2"
    else:
        draw = partial(binarize, max_level=top)
        words = f"binarised {'anew at every step' if binarization == 'dynamic' else 'once'} (test set once, seed {seed})"
    if binarization == "dynamic":
        train, train_input = stored(), anew(draw)
    elif isinstance(dataset.train, Rows):
        train = dataset.train.treated(lambda images: (images / np.float32(top or 1) >= 0.5).astype(np.uint8))
        train_input = lambda key, batch: as_float(batch)  # noqa: E731
    else:
        train, train_input = once(draw, key_train, dataset.train, np.uint8), lambda key, batch: as_float(batch)
    return Prepared(
        train=train,
        validation=None if dataset.validation is None else once(draw, key_validation, dataset.validation, np.uint8),
        test=once(draw, key_test, dataset.test, np.uint8),
        train_input=train_input,
        eval_input=as_float,
        log_jacobian=0.0,
        description=words,
    )


def _train_images(dataset: Dataset) -> Callable[[Array, Array], tuple[Array, Array]]:
    """(key, batch as stored) -> (a key for what comes next, images as levels or floats); drawn or rendered where they are."""

    def images(key: Array, rows: Array) -> tuple[Array, Array]:
        if dataset.rendering and dataset.rendering.draw:
            key, key_rows = jax.random.split(key)
            rows = jax.vmap(dataset.rendering.draw, in_axes=(None, 0))(key_rows, rows)
        return key, jnp.asarray(dataset.images(rows))

    return images
