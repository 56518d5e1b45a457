"""Codes and known factors of the images of a run's data set, and the disentanglement scores computed from them."""

from collections.abc import Collection

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_jax._numerics.keys import Stream, stream
from vae_jax.build import Built
from vae_jax.data import Dataset
from vae_jax.disentanglement import all_metrics
from vae_jax.disentanglement.settings import Settings
from vae_jax.errors import UserError
from vae_jax.evaluation import encode_dataset
from vae_jax.example import Example
from vae_jax.model import Params


def check_factors(dataset: Dataset, num_rows: int) -> None:
    """Raises `UserError` unless the data set has known factors and enough images with them."""
    if dataset.rendering and dataset.rendering.draw:
        return
    if dataset.train_factors is None:
        raise UserError(
            f"{dataset.name}: the factors of its examples are not known. Expected sprites, sprites_grid, the files of "
            "dSprites, MPI3D, smallNORB or Cars3D, TFDS dsprites or shapes3d, or an .npz file with `factors`."
        )
    if num_rows > len(dataset.train):
        raise UserError(f"{dataset.name}: expected at least {num_rows} training examples, got {len(dataset.train)}.")


def codes_and_factors(built: Built, params: Params, key: Array, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Encodes images with known factors, for the metrics of `vae_jax.disentanglement`.

    If the images are rendered, they are drawn from all combinations of factors, otherwise from the training set without
    replacement. The literature does not hold out a test set for this either.

    Args:
      built: data and model.
      params: parameters to evaluate.
      key: for the choice of images.
      num_rows: number of images, >= 2.

    Returns:
      Encoder means (num_rows, latent), and integer factors (num_rows, factors). Factors with a single value are left out.

    Raises:
      UserError: the factors are not known, or there are fewer images.
    """
    dataset, data = built.dataset, built.data
    check_factors(dataset, num_rows)
    key_rows, key_input = jax.random.split(key)
    if dataset.rendering and dataset.rendering.draw:
        keys = jax.random.split(key_rows, num_rows)
        rows = jax.vmap(dataset.rendering.draw)(keys, jnp.zeros((num_rows, *dataset.train.shape[1:]), dataset.train.dtype))
        factors, to_input = np.asarray(rows), data.eval_input
        if data.condition is not None:
            rows = Example(rows, dataset.condition_of_rendered(rows))
    else:
        assert dataset.train_factors is not None
        index = np.asarray(jax.random.choice(key_rows, len(dataset.train), (num_rows,), replace=False))
        rows, factors = jax.tree.map(jnp.asarray, data.train_rows(jnp.asarray(index))), dataset.train_factors[index]
        to_input = lambda batch: data.train_input(key_input, batch)  # noqa: E731
    encode = jax.jit(lambda params, rows: encode_dataset(built.vae, params, rows, to_input=to_input)[0])
    return np.asarray(encode(params, rows)), factors[:, np.ptp(factors, axis=0) > 0].astype(np.int64)


def disentanglement_scores(
    built: Built, params: Params, seed: int, num_rows: int, settings: Settings, metrics: Collection[str]
) -> dict[str, float]:
    """Computes disentanglement metrics of a model on images with known factors.

    Args:
      built: data and model.
      params: parameters to evaluate.
      seed: for the choice of images and the draws of the metrics, >= 0. Models with the same seed see the same images.
      num_rows: number of images that are encoded, >= 2; the metrics draw from them.
      settings: sizes of the metrics.
      metrics: names from `disentanglement.METRICS`.

    Returns:
      Scores by name.
    """
    key_rows, key_metrics = jax.random.split(stream(seed, Stream.DISENTANGLEMENT))
    codes, factors = codes_and_factors(built, params, key_rows, num_rows)
    return all_metrics(key_metrics, codes, factors, settings, only=metrics)
