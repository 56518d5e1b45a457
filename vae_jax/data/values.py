"""Checks that data suit a treatment and a likelihood, from a few values that stand for all of them."""

import math
from collections.abc import Iterable

import numpy as np

from vae_jax.data.dataset import Dataset
from vae_jax.data.on_disk import Rows, chunks
from vae_jax.errors import UserError
from vae_jax.likelihoods import Likelihood, outside_support

_NOT_COUNTS = "Use --likelihood gaussian for data that are not counts."


def values(images: np.ndarray | Rows) -> np.ndarray:
    """Returns a few numbers that lie in a likelihood's support if and only if all of the images' do.

    These are the levels that occur in uint8 images; of other numbers the lowest, the highest, and one with a fraction if there
    is any.
    """
    if isinstance(images, Rows):
        return images.scan.values
    if images.dtype == np.uint8:
        present = np.zeros(256, bool)
        for chunk in chunks(images):
            present |= np.bincount(chunk.ravel(), minlength=256) > 0
        return np.flatnonzero(present).astype(np.uint8)
    low, high = extremes([images])
    fractions = (chunk[chunk != np.round(chunk)] for chunk in chunks(images))
    return np.array([low, high, *next((found[:1] for found in fractions if len(found)), ())], images.dtype)


def extremes(arrays: Iterable[np.ndarray | Rows]) -> tuple[float, float]:
    """Returns the lowest and the highest stored number of all arrays; both are NaN where one is."""
    ends = [(array.scan.low, array.scan.high) if isinstance(array, Rows) else (array.min(), array.max()) for array in arrays]
    return float(np.min([low for low, _ in ends])), float(np.max([high for _, high in ends]))


def check_treatment(dataset: Dataset, binarization: str, dequantize: bool, counts: bool) -> None:
    """Checks all examples of all splits against what `prepare` assumes of them.

    Raises:
      UserError: numbers that are not finite; levels above `max_level`; data to binarize that are not probabilities in [0, 1];
        data to dequantize that are not integer levels; counts with fractions or below 0.
    """
    if dataset.rendering:
        return  # rendered images are 0 or 1
    name, top = dataset.name, dataset.max_level
    arrays = _arrays(dataset)
    low, high = extremes(arrays)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UserError(
            f"{name}: expected finite numbers, got NaN or infinite values. Remove or replace the rows that have them."
        )
    if top is not None and (low < 0 or high > top):
        raise UserError(
            f"{name}: expected integer levels from 0 to max_level {top}, got {low:.9g} to {high:.9g}. "
            "Give the data set the max_level that its levels have."
        )
    if dequantize and top is None:
        raise UserError(f"{name}: dequantization (--dequantize) expects integer levels, got float data. Leave it out.")
    if binarization != "none" and top is None and (low < 0 or high > 1):
        raise UserError(
            f"{name}: binarization expects pixels in [0, 1], as probabilities, got {low:.9g} to {high:.9g}. "
            f"{_rescaled(low, high)}, or use --likelihood gaussian with --binarize none."
        )
    if counts and top is None:
        found = values_of(arrays)
        fractions = " with fractions" if np.any(found != np.round(found)) else ""
        if low < 0 or fractions:
            raise UserError(
                f"{name}: expected counts (whole numbers >= 0), got {low:.9g} to {high:.9g}{fractions}. {_NOT_COUNTS}"
            )


def check_support(dataset: Dataset, likelihood: Likelihood, binarization: str, dequantize: bool = False) -> None:
    """Checks all examples of all splits against the support of a likelihood, after the treatment that is named.

    Raises:
      UserError: data outside of what the likelihood is a distribution over.
    """
    check_treatment(dataset, binarization, dequantize, counts=False)
    if binarization != "none":
        return
    if dequantize:
        if likelihood.support not in ("real", "unit_interval"):
            exactly = "zeros and ones" if likelihood.support == "binary" else "the integers themselves"
            raise UserError(f"--dequantize is for densities; {likelihood.name} takes {exactly}, exactly. Leave it out.")
        return
    if likelihood.support == "real":
        return
    if likelihood.support == "levels" and dataset.max_level is None:
        raise UserError(
            f"{dataset.name}: {likelihood.name} expects integer levels, got floats. For images in [0, 1] save "
            "(x * 255).round().astype(np.uint8), or use --likelihood gaussian."
        )
    scale = None if likelihood.support == "counts" else dataset.max_level
    arrays = [np.arange(2, dtype=np.uint8)] if dataset.rendering else _arrays(dataset)  # all that is ever rendered
    found = values_of(arrays).astype(np.float32) / (scale or 1)
    if problem := outside_support(likelihood, found):
        raise UserError(f"{dataset.name}: {problem}. {_fix(likelihood, float(found.min()), float(found.max()))}")


def values_of(arrays: Iterable[np.ndarray | Rows]) -> np.ndarray:
    """Returns `values` of several arrays at once."""
    return np.unique(np.concatenate([values(array) for array in arrays]))


def _arrays(dataset: Dataset) -> list[np.ndarray | Rows]:
    return [array for array in (dataset.train, dataset.validation, dataset.test) if array is not None]


def _fix(likelihood: Likelihood, low: float, high: float) -> str:
    """Names what makes data from low to high fit the likelihood."""
    outside = low < 0 or high > 1
    match likelihood.support:
        case "binary" if outside:
            return f"{_rescaled(low, high)} and add --binarize dynamic, or use --likelihood gaussian."
        case "binary":
            return "Add --binarize dynamic (or fixed or threshold), or use --likelihood continuous_bernoulli."
        case "unit_interval":
            return f"{_rescaled(low, high)}, or use --likelihood gaussian with --binarize none."
        case "levels":
            return f"Use --max-level {(likelihood.num_levels or 2) - 1}, or --likelihood gaussian."
    return _NOT_COUNTS


def _rescaled(low: float, high: float) -> str:
    """Names the arithmetic that brings numbers from low to high into [0, 1]."""
    if low >= 0:
        return f"Divide them by {'255' if high <= 255 else 'their largest value'}"
    return "Use (x + 1) / 2 of them" if low >= -1 and high <= 1 else "Use (x - x.min()) / (x.max() - x.min()) of them"
