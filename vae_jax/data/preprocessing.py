"""Conversion of stored levels to the input of a model: binarized, scaled or dequantized, once or anew at every step."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_jax._numerics.keys import Stream, stream
from vae_jax._numerics.short_repr import short_repr
from vae_jax.config import fixed_needs_memory
from vae_jax.data.conditions.columns import Condition
from vae_jax.data.dataset import Dataset
from vae_jax.data.held_out import Draw, DrawnRows, HeldOutInput, as_float, held_out_input, with_companions
from vae_jax.data.moments import CountInput, Moments, column_moments, train_moments
from vae_jax.data.on_disk import Rows
from vae_jax.data.pipeline_checks import check_pipeline_argument
from vae_jax.data.sparse import SparseRows
from vae_jax.data.sparse_on_device import to_device
from vae_jax.data.split import Rendering
from vae_jax.data.support import check_preprocessing
from vae_jax.errors import UserError, unknown
from vae_jax.example import Example, Examples, event_of

Binarization = Literal["dynamic", "fixed", "threshold", "none"]


@short_repr
class Prepared(NamedTuple):
    """A data set on the device, ready for training and evaluation.

    With a condition or missing entries, `train`, `validation` and `test` are `Example`s, whose arrays have a leading axis of
    examples. `train_input` and `eval_input` then take and return batches that are `Example`s too.

    Attributes:
      train: training set as stored, (examples, height, width, channels), or rows of integers to render, (examples, numbers);
        `Rows` where the images stay on disk; a `SparseArray`, whose batches are dense, for sparse matrices.
      validation: validation set, or None. Images that are binarized or dequantized are drawn once, so that results repeat.
      test: test set, drawn once as well.
      train_input: (key, batch of `train`) -> floats, the input of the model, (batch, height, width, channels). What is drawn
        anew at every step is drawn here. It can be jitted.
      eval_input: (batch of `validation` or `test`) -> floats, the input of the model. It can be jitted.
      log_jacobian: nats to add to each example's log-likelihood so that it counts the discrete data; 0 unless dequantized.
      description: a phrase that says how the input of the model comes about.
      moments: moments of the training data where these are counts or floats; None for integer levels scaled to [0, 1], and
        for binarized and dequantized data.
      rendered: whether `train_input` computes images of zeros and ones from the stored rows.
      condition: the columns on which a model is conditioned; None: there is no condition.
      has_missing: whether entries are missing.
    """

    # A `SparseArray` stands in for an array here: whatever takes examples indexes it by arrays of indices, or by slices.
    train: Examples
    validation: Examples
    test: Examples
    train_input: Callable[[Array, Examples], Examples]
    eval_input: Callable[[Examples], Examples]
    log_jacobian: float
    description: str
    moments: Moments | None = None
    rendered: bool = False
    condition: Condition | None = None
    has_missing: bool = False

    @property
    def condition_dim(self) -> int:
        """Length of the condition that a model takes; 0 without one."""
        return self.condition.dim if self.condition else 0

    @property
    def is_on_disk(self) -> bool:
        """True if the training examples stay on disk."""
        return isinstance(event_of(self.train), Rows)

    def train_rows(self, index: Array) -> Examples:
        """Returns a few training examples as stored, for uses outside of training. It can be jitted.

        Args:
          index: indices of examples, of any shape.

        Returns:
          The rows, of shape (*index.shape, ...), or an `Example` of them.
        """

        def take(rows: Examples) -> Array:
            if not isinstance(rows, Rows):
                return jnp.asarray(rows)[index] if isinstance(rows, np.ndarray) else rows[index]
            shape = jax.ShapeDtypeStruct((*index.shape, *rows.shape[1:]), rows.dtype)
            return jax.pure_callback(lambda index: rows[np.asarray(index)], shape, index)

        return self.train.map(take) if isinstance(self.train, Example) else take(self.train)


def prepare(
    dataset: Dataset,
    *,
    binarization: Binarization = "none",
    dequantize: bool = False,
    counts: bool = False,
    count_input: CountInput = "log1p",
    mixed: bool = False,
    seed: int = 0,
) -> Prepared:
    """Puts a data set on the device, with the functions that turn its batches into the input of a model.

    Args:
      dataset: the result of `load`. Training images that it leaves on disk stay there.
      binarization: "dynamic": the training set is drawn anew at every step, on the device, test and validation set once.
        "fixed": all are drawn once. "threshold": 1 where the pixel is at least 1/2. "none": scaled to [0, 1]. Binary data are
        the same under each.
      dequantize: add uniform noise of one level, anew at every step. `log_jacobian` then turns densities on [0, 1] into nats
        of the discrete data, log P(level) >= E_u[log p(x)] - D log(max_level + 1) (Theis et al. 2016, equation 3).
      counts: leave integer levels as they are, for likelihoods of counts, rather than scale them to [0, 1].
      count_input: how the encoder sees counts. "log1p": log(1 + x), standardized by its moments, because counts spread over
        orders of magnitude. "standardized": x itself, standardized. The likelihood is that of x in both cases. The choice
        stands in `Prepared.moments`.
      mixed: the columns of vectors have likelihoods of their own (see `likelihoods.columns`). `Prepared.moments` then has those
        of each column, over its observed entries, and those of log(1 + x) for columns that are counts.
      seed: seed of everything that is drawn once. It is independent of the seed of a run, so that runs are compared on the
        same test set.

    Returns:
      The data set on the device.

    Raises:
      UserError: data of any split that do not suit the preprocessing; see `support.check_preprocessing`.
    """
    check_pipeline_argument("data.prepare", dataset, Dataset)
    if binarization not in (kinds := ("dynamic", "fixed", "threshold", "none")):
        raise unknown("binarization", binarization, kinds)
    if dequantize and binarization != "none":
        raise UserError(
            'dequantized data cannot be binarized as well. Leave one of both out: `dequantize=True`, or use `binarize="none"`.',
            field="dequantize",
        )
    if count_input not in (kinds := get_args(CountInput)):
        raise unknown("count_input", count_input, kinds)
    check_preprocessing(dataset, binarization, dequantize, counts)
    if dequantize and isinstance(dataset.train, SparseRows):
        raise UserError(
            f"{dataset.name}: dequantization adds noise to every number, so sparse data would not stay sparse. Leave out "
            "`dequantize=True`.",
            field="dequantize",
        )
    if isinstance(dataset.train, Rows) and binarization == "fixed":
        raise fixed_needs_memory()
    if dequantize and dataset.has_missing:
        raise UserError(
            f"{dataset.name}: dequantization and missing values exclude each other, because the nats of the discrete data "
            "count every entry. Use a likelihood of integer levels, such as discretized_logistic.",
            field="dequantize",
        )
    if dequantize:
        prepared = _dequantized(dataset, seed)
    elif binarization == "none" or dataset.max_level == 1:  # zeros and ones stay the same under any binarization
        prepared = _scaled(dataset, counts, count_input)
    else:
        prepared = _binarized(dataset, binarization, seed)
    if mixed:
        description = "columns as stored, seen by the encoder standardized, one-hot, or as log(1 + x) of counts"
        prepared = prepared._replace(moments=column_moments(dataset), description=description)
    if dataset.condition is None and not dataset.has_missing:
        return prepared
    return _with_companions(prepared, dataset)


def _with_companions(prepared: Prepared, dataset: Dataset) -> Prepared:
    """Adds conditions and masks to examples that are prepared without them."""

    def joined(part: str) -> Example | None:
        event = getattr(prepared, part)
        if event is None:
            return None
        companions = (getattr(dataset, f"{part}_{name}") for name in ("condition", "mask"))
        # Beside rows on disk they stay on the host, from where they are read with the rows.
        keep = (lambda array: array) if isinstance(event, Rows) else jnp.asarray
        return Example(event, *(None if array is None else keep(array) for array in companions))

    to_input = with_companions(prepared.eval_input, dataset.condition, dataset.missing_on_disk)
    rendering = dataset.rendering
    is_drawn = dataset.condition is not None and rendering is not None and rendering.draw is not None

    def train_input(key: Array, rows: Example) -> Example:
        drawn = _drawn_rows(rendering, key, rows.event)[1] if is_drawn else None  # the rows that the images are rendered from
        stored = None if drawn is None else dataset.condition_of_rendered(drawn)
        return to_input(rows, stored, lambda event: prepared.train_input(key, event))

    description = prepared.description
    if dataset.condition is not None:
        description += f"; given {dataset.condition.describe()}"
    if dataset.has_missing:
        description += f"; {dataset.missing_fraction:.1%} of the entries are missing"
    return prepared._replace(
        train=joined("train"),
        validation=joined("validation"),
        test=joined("test"),
        train_input=train_input,
        eval_input=lambda rows: to_input(rows),
        description=description,
        condition=dataset.condition,
        has_missing=dataset.has_missing,
    )


def _dequantized(dataset: Dataset, seed: int) -> Prepared:
    top = dataset.max_level
    assert top is not None
    held_out = held_out_input(top, "none", dequantize=True, counts=False)
    assert held_out.draw is not None
    train = _on_device(dataset.train)
    validation, test = _draw_held_out(dataset, held_out, seed)
    return Prepared(
        train=train,
        validation=validation,
        test=test,
        train_input=_draw_anew(dataset, held_out.draw),
        eval_input=held_out.to_input,
        log_jacobian=-math.prod(dataset.data_shape) * math.log(top + 1),
        description=f"dequantized uniformly (test set once, seed {seed}); nats of the discrete data",
    )


def _scaled(dataset: Dataset, counts: bool, count_input: CountInput) -> Prepared:
    top = dataset.max_level
    held_out = held_out_input(top, "none", dequantize=False, counts=counts)
    description = f"levels 0 to {top} scaled to [0, 1]" if top else "floats as they are"
    if top is None and dataset.train.dtype == np.int32:
        description = "whole numbers as they are"
    if counts:
        description = "counts, seen by the encoder as log(1 + x)" if count_input == "log1p" else "counts"
    elif top == 1:
        description = "binary as stored"
    return Prepared(
        train=_on_device(dataset.train),
        validation=None if dataset.validation is None else _on_device(dataset.validation),
        test=_on_device(dataset.test),
        train_input=_draw_anew(dataset, lambda key, levels: held_out.to_input(levels)),
        eval_input=lambda rows: held_out.to_input(jnp.asarray(dataset.images(rows))),
        log_jacobian=0.0,
        description=description,
        moments=train_moments(dataset, counts, count_input) if counts or top is None else None,
        rendered=dataset.rendering is not None,
    )


def _binarized(dataset: Dataset, binarization: Binarization, seed: int) -> Prepared:
    """Prepares data that are binarized anew at every step, once, or at 1/2; test and validation set always once."""
    top, train_input = dataset.max_level, lambda key, batch: as_float(batch)
    held_out = held_out_input(top, binarization, dequantize=False, counts=False)
    assert held_out.draw is not None
    if binarization == "threshold":
        description = "binarized at 1/2"
    else:
        when = "anew at every step" if binarization == "dynamic" else "once"
        description = f"binarized {when} (test set once, seed {seed})"
    if binarization == "dynamic":
        train, train_input = _on_device(dataset.train), _draw_anew(dataset, held_out.draw)
    elif isinstance(dataset.train, Rows) and dataset.missing_on_disk:
        # As bytes the rows would not show which entries are missing.
        train, train_input = dataset.train, _draw_anew(dataset, held_out.draw)
    elif isinstance(dataset.train, Rows):
        train = dataset.train.converted(lambda images: (images / np.float32(top or 1) >= 0.5).astype(np.uint8))
    else:
        train = _draw_once(dataset, held_out, stream(seed, Stream.FIXED_TRAIN_SET), dataset.train)
    validation, test = _draw_held_out(dataset, held_out, seed)
    return Prepared(
        train=train,
        validation=validation,
        test=test,
        train_input=train_input,
        eval_input=held_out.to_input,
        log_jacobian=0.0,
        description=description,
    )


def _on_device(examples: np.ndarray | Rows | SparseRows) -> Examples:
    """Puts a split on the device; `Rows` stay on disk."""
    if isinstance(examples, SparseRows):
        return to_device(examples)
    return examples if isinstance(examples, Rows) else jnp.asarray(examples)


def _draw_anew(dataset: Dataset, draw: Draw) -> Callable[[Array, Array], Array]:
    """Returns the function (key, batch of the training set as stored) -> input, which draws at every step."""
    rendering = dataset.rendering

    def train_input(key: Array, rows: Array) -> Array:
        key, rows = _drawn_rows(rendering, key, rows)
        return draw(key, jnp.asarray(dataset.images(rows)))

    return train_input


def _drawn_rows(rendering: Rendering | None, key: Array, rows: Array) -> tuple[Array, Array]:
    """Returns the key that is left, and the rows to render, which are drawn anew where the data set draws its images."""
    if not rendering or not rendering.draw:
        return key, rows
    key, key_rows = jax.random.split(key)
    return key, jax.vmap(rendering.draw, in_axes=(None, 0))(key_rows, rows)


def _draw_held_out(dataset: Dataset, held_out: HeldOutInput, seed: int) -> tuple[Examples, Examples]:
    """Draws the validation set, where there is one, and the test set."""
    validation = None
    if dataset.validation is not None:
        validation = _draw_once(dataset, held_out, stream(seed, Stream.VALIDATION_SET), dataset.validation)
    return validation, _draw_once(dataset, held_out, stream(seed, Stream.TEST_SET), dataset.test)


def _draw_once(dataset: Dataset, held_out: HeldOutInput, key: Array, rows: np.ndarray | SparseRows) -> Examples:
    """Draws a whole split, with a key for each chunk of a fixed size."""
    assert held_out.draw is not None
    return _on_device(DrawnRows(rows, held_out.draw, key, held_out.dtype, dataset.images).in_memory(dataset.name))
