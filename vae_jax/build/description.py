"""`DataDescription`: everything that a model needs to know of its training data, without the examples."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_jax import data
from vae_jax._numerics.short_repr import short_repr
from vae_jax.config import Config, TrainingData
from vae_jax.data import Condition, ConditionColumn, Dataset, Moments, Prepared, column_proposals
from vae_jax.data.column_proposals import ColumnFacts
from vae_jax.data.column_types import ColumnType
from vae_jax.data.moments import pooled_mean
from vae_jax.example import Example
from vae_jax.storage.atomic import JsonObject


@short_repr
class DataDescription(NamedTuple):
    """Facts about the training data with which a trained model is made again, and reads new data, without them.

    Attributes:
      facts: what the factories of likelihoods, networks and priors take. Its `draw_inputs` draws training examples where there
        are any, and zeros where the description was read from a file.
      max_level: see `data.Dataset`.
      dtype: name of the type in which the examples are stored.
      moments: see `data.Prepared`.
      log_jacobian: see `data.Prepared`.
      description: how the input of the model comes about, in words.
      has_missing: whether entries are missing.
      is_rendered: whether the images of the data set are computed.
      is_sparse: whether the examples are the rows of a sparse matrix.
      condition: the columns on which the model is conditioned.
      column_names, column_types, label_names, factor_names: see `data.Dataset`.
    """

    facts: TrainingData
    max_level: int | None
    dtype: str
    moments: Moments | None
    log_jacobian: float
    description: str
    has_missing: bool = False
    is_rendered: bool = False
    is_sparse: bool = False
    condition: Condition | None = None
    column_names: tuple[str, ...] | None = None
    column_types: tuple[ColumnType, ...] | None = None
    label_names: tuple[str, ...] | None = None
    factor_names: tuple[str, ...] | None = None

    def to_json(self) -> JsonObject:
        """Returns the description as JSON values, from which `from_json` makes the same numbers again, bit for bit."""
        content = {name: value for name, value in self._asdict().items() if name != "facts"}
        facts = {name: value for name, value in self.facts._asdict().items() if name != "draw_inputs"}
        columns = self.condition and [column._asdict() for column in self.condition.columns]
        content["column_types"] = self.column_types and [kind._asdict() for kind in self.column_types]
        facts["columns"] = [column._asdict() for column in self.facts.columns]
        return _to_json({**content, "condition": columns, "moments": _moments_to_json(self.moments), "facts": facts})

    @classmethod
    def from_json(cls, content: JsonObject) -> "DataDescription":
        """Returns the description that `to_json` wrote."""
        values: dict[str, Any] = _from_json(content)
        facts = values["facts"]
        facts["columns"] = tuple(ColumnFacts(**column) for column in facts["columns"])
        shape, condition_dim = facts["data_shape"], facts["condition_dim"]
        if values["condition"] is not None:
            values["condition"] = Condition(tuple(ConditionColumn(**column) for column in values["condition"]))
        if values["column_types"] is not None:
            values["column_types"] = tuple(ColumnType(**kind) for kind in values["column_types"])
        values["moments"] = _moments_from_json(values["moments"])
        return cls(**{**values, "facts": TrainingData(**facts, draw_inputs=_drawing_zeros(shape, condition_dim))})


def describe_data(dataset: Dataset, prepared: Prepared, facts: TrainingData) -> DataDescription:
    """Returns the description of a data set as a model sees it, with facts from `training_data`."""
    mean = dataset.train_mean if dataset.has_missing else np.zeros(())
    unit = (dataset.max_level or 1) if prepared.moments is not None and dataset.max_level is not None else 1
    return DataDescription(
        facts=facts._replace(draw_inputs=_drawing(prepared, mean * unit)),
        max_level=dataset.max_level,
        dtype="float32" if dataset.rendering else str(dataset.train.dtype),
        moments=prepared.moments,
        log_jacobian=prepared.log_jacobian,
        description=prepared.description,
        has_missing=dataset.has_missing,
        is_rendered=dataset.rendering is not None,
        is_sparse=isinstance(dataset.test, data.SparseRows),
        condition=dataset.condition,
        column_names=dataset.column_names,
        column_types=dataset.column_types,
        label_names=dataset.label_names,
        factor_names=dataset.factor_names,
    )


def training_data(config: Config, dataset: Dataset, plans: tuple[column_proposals.ColumnPlan, ...] = ()) -> TrainingData:
    """Returns the facts about the training data that factories take, on the scale on which the likelihood sees the data."""
    is_binarized = config.binarization != "none"
    highest = 1 if is_binarized else dataset.max_level or 1
    if data.is_image(dataset.data_shape):
        mean_count = max(pooled_mean(dataset) * highest, 1e-3)
    else:
        mean_count = np.maximum(dataset.train_mean * highest, 1e-3)
    if is_binarized:
        std = 0.5
    elif dataset.max_level is None and not data.is_image(dataset.data_shape):
        std = data.train_moments(dataset, counts=False).std
    else:
        std = dataset.train_std

    def not_prepared(key: Array, count: int) -> Array:
        raise ValueError("the training data are prepared after the likelihood is made.")

    return TrainingData(
        name=dataset.name,
        data_shape=dataset.data_shape,
        num_levels=highest + 1,
        std=std,
        mean_count=mean_count,
        num_train=len(dataset.train),
        num_different=dataset.num_different,
        draw_inputs=not_prepared,
        mean_total=max(float(dataset.train_mean.sum(dtype=np.float64)) * highest, 1e-3),
        condition_dim=dataset.condition.dim if dataset.condition else 0,
        has_missing=dataset.has_missing,
        columns=column_proposals.column_facts(dataset, plans),
    )


def _drawing(prepared: Prepared, mean: np.ndarray) -> Callable[[Array, int], Array | Example]:
    """Returns the function (key, n) -> n different training examples as the encoder sees them."""

    def draw_inputs(key: Array, count: int) -> Array | Example:
        key_choice, key_input = jax.random.split(key)
        chosen = jax.random.choice(key_choice, len(prepared.train), (count,), replace=False)
        x = prepared.train_input(key_input, prepared.train_rows(chosen))
        if not isinstance(x, Example):
            return x
        # A pseudo-input has no missing entries: they start at the mean.
        event = x.event if x.mask is None else jnp.where(x.mask, x.event, mean)
        return event if x.condition is None else Example(event, x.condition)

    return draw_inputs


def _drawing_zeros(shape: tuple[int, ...], condition_dim: int) -> Callable[[Array, int], Array | Example]:
    """Returns a function (key, n) -> zeros of the shapes of n examples, for parameters that a file replaces."""

    def draw_inputs(key: Array, count: int) -> Array | Example:
        event = jnp.zeros((count, *shape))
        return Example(event, jnp.zeros((count, condition_dim))) if condition_dim else event

    return draw_inputs


def _moments_to_json(moments: Moments | None) -> JsonObject | None:
    return None if moments is None else {**moments._asdict(), "log1p": _moments_to_json(moments.log1p)}


def _moments_from_json(content: JsonObject | None) -> Moments | None:
    return None if content is None else Moments(**{**content, "log1p": _moments_from_json(content["log1p"])})


def _to_json(value: Any) -> Any:
    """Returns JSON values, with arrays and numbers of NumPy as objects that keep their types."""
    if isinstance(value, dict):
        return {name: _to_json(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(one) for one in value]
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        array = np.asarray(value)
        return {"dtype": str(array.dtype), "shape": list(array.shape), "values": array.ravel().tolist()}
    return value


def _from_json(value: Any) -> Any:
    """Returns what `_to_json` was given, with tuples for lists."""
    if isinstance(value, dict):
        if value.keys() == {"dtype", "shape", "values"}:
            dtype = np.dtype(value["dtype"])
            if dtype.kind not in "biuf":
                raise ValueError(f"expected numbers, got the type {dtype}")
            array = np.array(value["values"], dtype).reshape(value["shape"])
            return array if array.ndim else array[()]
        return {name: _from_json(one) for name, one in value.items()}
    return tuple(map(_from_json, value)) if isinstance(value, list) else value
