"""Mean and spread of training data that are not pixels in [0, 1], such as floats and counts.

Networks and likelihoods start there.
"""

from typing import NamedTuple

import numpy as np

from vae_jax.data.dataset import Dataset
from vae_jax.data.events import event_kind, is_image
from vae_jax.data.on_disk import Rows, slices, sum_images
from vae_jax.data.sparse import SparseRows


class Moments(NamedTuple):
    """Mean and standard deviation of the training data as the model sees them, in the unit of the data.

    For images both are numbers, pooled over the pixels. For other events, whose columns may have different units, they are
    arrays with the shape of the event. Those of a series are pooled over time for each channel.

    Attributes:
      mean: the mean over examples (and over the pixels of images).
      std: the standard deviation; positive.
    """

    mean: float | np.ndarray
    std: float | np.ndarray


def train_moments(dataset: Dataset, counts: bool) -> Moments:
    """Computes the moments of the training set.

    Args:
      dataset: the data. Rendered data have the moments of all images that can be rendered.
      counts: whether the model sees stored levels (counts), or levels scaled to [0, 1].

    Returns:
      The mean and the standard deviation on the scale that the model sees.
    """
    unit = (dataset.max_level or 1) if counts else 1  # the data set's moments are of levels scaled to [0, 1]
    if is_image(dataset.data_shape):
        return Moments(float(dataset.train_mean.mean(dtype=np.float64)) * unit, dataset.train_std * unit)
    mean = dataset.train_mean.astype(np.float64) * unit
    if event_kind(dataset.data_shape) == "series":
        mean = np.broadcast_to(mean.mean(axis=0), mean.shape)
    scale = unit / (dataset.max_level or 1)
    return Moments(mean.astype(np.float32), _entry_std(dataset.train, mean / scale) * np.float32(scale))


def _entry_std(train: np.ndarray | Rows | SparseRows, mean: np.ndarray) -> np.ndarray:
    """Computes the standard deviation of each entry, or of each channel of a series, in a second pass.

    A single pass would subtract squares of large numbers, which hides a small spread. An entry that never varies gets its
    absolute value instead, or 1 where it is 0.
    """
    if isinstance(train, SparseRows):
        squares = train.sum_squared_deviations(mean)
    else:
        squares = sum((sum_images(np.square(train[part] - mean)) for part in slices(train)), np.zeros(mean.shape))
    variance = squares / len(train)
    if variance.ndim == 2:
        variance = np.broadcast_to(variance.mean(axis=0), variance.shape)
    std = np.sqrt(variance)
    constant = std <= 1e-6 * np.abs(mean)  # float32 has 24 bits
    size = np.where(mean == 0, 1.0, np.abs(mean))
    return np.where(constant, size, std).astype(np.float32)
