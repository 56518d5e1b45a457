"""Checks that data suit their preprocessing and a likelihood, from a few values that represent all of them."""

import math
from collections.abc import Iterator

import numpy as np

from vae_jax.data.checks import MISSING_FIX
from vae_jax.data.dataset import Dataset
from vae_jax.data.events import is_image
from vae_jax.data.on_disk import Rows, chunks, slices, value_range
from vae_jax.data.sparse import SparseRows
from vae_jax.errors import UserError
from vae_jax.likelihoods import Likelihood, outside_support

_USE_GAUSSIAN, _USE_COUNTS = '`likelihood="gaussian"`', '`likelihood="negative_binomial"`'
_NOT_COUNTS = f"Use {_USE_GAUSSIAN} for data that are not counts."
_RAW_COUNTS = (
    'Where they are normalized counts, load the raw ones, such as `array="layers/counts"` or `array="raw/X"` of an .h5ad file.'
)


def representative_values(images: np.ndarray | Rows | SparseRows, mask: np.ndarray | None = None) -> np.ndarray:
    """Returns a few numbers that lie in the support of a likelihood if and only if all numbers of the images do.

    These are the levels that occur in uint8 images. For other types they are the lowest number, the highest, and one with a
    fraction if there is any. Missing entries do not count.

    Args:
      images: the examples.
      mask: True where an entry of an array in memory is observed.
    """
    if isinstance(images, Rows | SparseRows):
        return images.scan.values
    if mask is not None:
        observed = (images[part][mask[part]] for part in slices(images))
        parts = [representative_values(numbers) for numbers in observed if numbers.size]
        return np.unique(np.concatenate(parts)) if parts else np.zeros(1, images.dtype)
    if images.dtype == np.uint8:
        present = np.zeros(256, bool)
        for chunk in chunks(images):
            present |= np.bincount(chunk.ravel(), minlength=256) > 0
        return np.flatnonzero(present).astype(np.uint8)
    fractions = (chunk[chunk != np.round(chunk)] for chunk in chunks(images))
    first_fraction = next((numbers[:1] for numbers in fractions if len(numbers)), ())
    return np.array([*value_range(images), *first_fraction], images.dtype)


values = representative_values  # the name in `vae_jax.data`


def _range_of_all(dataset: Dataset) -> tuple[float, float]:
    """Returns the lowest and the highest observed number of all parts; both are NaN where one is."""
    ranges = [value_range(array, mask) for array, mask in _parts(dataset)]
    return float(np.min([low for low, _ in ranges])), float(np.max([high for _, high in ranges]))


def _representatives_of_all(dataset: Dataset) -> np.ndarray:
    return np.unique(np.concatenate([representative_values(array, mask) for array, mask in _parts(dataset)]))


def _parts(dataset: Dataset) -> Iterator[tuple[np.ndarray | Rows | SparseRows, np.ndarray | None]]:
    """Yields the array of each part, and its mask where it is in memory."""
    for part, array in dataset.images_by_part().items():
        mask = getattr(dataset, f"{part}_mask")
        yield array, mask if isinstance(array, np.ndarray) else None


def check_preprocessing(dataset: Dataset, binarization: str, dequantize: bool, counts: bool) -> None:
    """Checks all examples of all splits against the assumptions of `prepare`.

    Args:
      dataset: the data.
      binarization, dequantize, counts: the arguments of `prepare`.

    Raises:
      UserError: numbers that are not finite, levels above `max_level`, data to binarize that are not probabilities in [0, 1],
        data to dequantize that are not integer levels, counts with fractions or below 0.
    """
    if dataset.rendering:
        return  # rendered images are 0 or 1
    name, top = dataset.name, dataset.max_level
    low, high = _range_of_all(dataset)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UserError(
            f"{name}: expected finite numbers, got NaN or infinite values. Remove or replace the rows that have them. "
            f"{MISSING_FIX}"
        )
    if top is not None and (low < 0 or high > top):
        raise UserError(
            f"{name}: expected integer levels from 0 to max_level {top}, got {low:.9g} to {high:.9g}. "
            "Give the data set the max_level that its levels have."
        )
    if dequantize and top is None:
        raise UserError(f"{name}: dequantization expects integer levels, got float data. Leave out `dequantize=True`.")
    if binarization != "none" and top is None and (low < 0 or high > 1):
        raise UserError(
            f"{name}: binarization expects {'pixels' if is_image(dataset.data_shape) else 'numbers'} in [0, 1], as "
            f"probabilities, got {low:.9g} to {high:.9g}. {_without_binarization(dataset, low, high)}"
        )
    if counts and top is None:
        numbers = _representatives_of_all(dataset)
        fractions = " with fractions" if np.any(numbers != np.round(numbers)) else ""
        if low < 0 or fractions:
            raise UserError(
                f"{name}: expected counts (whole numbers >= 0), got {low:.9g} to {high:.9g}{fractions}. {_not_counts(dataset)}"
            )


def check_support(dataset: Dataset, likelihood: Likelihood, binarization: str, dequantize: bool = False) -> None:
    """Checks all examples of all splits, after their preprocessing, against the support of a likelihood.

    Args:
      dataset: the data.
      likelihood: the likelihood that is to model them.
      binarization: the argument of `prepare`. Binarized data suit every likelihood.
      dequantize: the argument of `prepare`. Dequantized data suit densities only.

    Raises:
      UserError: data that the likelihood is not a distribution over.
    """
    check_preprocessing(dataset, binarization, dequantize, counts=False)
    if binarization != "none":
        return
    if dequantize:
        if likelihood.support not in ("real", "unit_interval"):
            numbers = "zeros and ones" if likelihood.support == "binary" else "the integers themselves"
            raise UserError(
                f"dequantized data need a density, and {likelihood.name} takes {numbers}. Leave out `dequantize=True`.",
                field="dequantize",
            )
        return
    if likelihood.support == "real":
        return
    if likelihood.support == "levels" and dataset.max_level is None:
        raise UserError(f"{dataset.name}: {likelihood.name} expects integer levels, got {_numbers_without_levels(dataset)}")
    scale = None if likelihood.support == "counts" else dataset.max_level
    rendered = np.arange(2, dtype=np.uint8)  # the only levels of rendered images
    representatives = rendered if dataset.rendering else _representatives_of_all(dataset)
    on_scale = representatives.astype(np.float32) / (scale or 1)
    if problem := outside_support(likelihood, on_scale):
        is_counts = likelihood.support == "counts"
        fix = _not_counts(dataset) if is_counts else _fix(likelihood, float(on_scale.min()), float(on_scale.max()))
        raise UserError(f"{dataset.name}: {problem}. {fix}")


def _numbers_without_levels(dataset: Dataset) -> str:
    """Returns a phrase for numbers that are not levels, and a sentence that says how they can be modeled."""
    low, high = _range_of_all(dataset)
    if dataset.train.dtype == np.float32:
        fix = "For images in [0, 1] save (x * 255).round().astype(np.uint8), or use" if low >= 0 and high <= 1 else "Use"
        return f"floats. {fix} {_USE_GAUSSIAN}."
    fix = f"Use {_USE_GAUSSIAN}."
    if low >= 0:
        levels = f" or `max_level={high:.0f}` for levels," if high <= 65535 else ""
        fix = f"Use {_USE_COUNTS} for counts,{levels} or {_USE_GAUSSIAN}."
    return f"whole numbers from {low:.0f} to {high:.0f} without a highest level. {fix}"


def _without_binarization(dataset: Dataset, low: float, high: float) -> str:
    """Returns a sentence that says how numbers that are not probabilities can be modeled."""
    if dataset.train.dtype == np.int32 and low >= 0:
        return f'Use {_USE_COUNTS} for counts, or {_USE_GAUSSIAN}, with `binarize="none"`.'
    return f'{_rescale(low, high)}, or use {_USE_GAUSSIAN} with `binarize="none"`.'


def _fix(likelihood: Likelihood, low: float, high: float) -> str:
    """Returns a sentence that says how data from low to high can be modeled."""
    is_outside = low < 0 or high > 1
    match likelihood.support:
        case "binary" if is_outside:
            return f'{_rescale(low, high)} and add `binarize="dynamic"`, or use {_USE_GAUSSIAN}.'
        case "binary":
            return 'Use `binarize="dynamic"` (or "fixed" or "threshold"), or `likelihood="continuous_bernoulli"`.'
        case "unit_interval":
            return f'{_rescale(low, high)}, or use {_USE_GAUSSIAN} with `binarize="none"`.'
        case "levels":
            return f"Use `max_level={(likelihood.num_levels or 2) - 1}`, or {_USE_GAUSSIAN}."
    return _NOT_COUNTS


def _not_counts(dataset: Dataset) -> str:
    """Returns the ways out for data that are not counts; vectors may be gene counts that were normalized."""
    return f"{_RAW_COUNTS} {_NOT_COUNTS}" if len(dataset.data_shape) == 1 else _NOT_COUNTS


def _rescale(low: float, high: float) -> str:
    """Returns a clause that says how to bring numbers from low to high into [0, 1]."""
    if low >= 0:
        return f"Divide them by {'255' if high <= 255 else 'their largest value'}"
    return "Use (x + 1) / 2 of them" if low >= -1 and high <= 1 else "Use (x - x.min()) / (x.max() - x.min()) of them"
