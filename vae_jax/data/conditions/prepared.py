"""`with_condition`: conditions for data that were prepared without them."""

import dataclasses
from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_jax.data.conditions.columns import make_condition
from vae_jax.data.in_memory import condition_columns
from vae_jax.data.on_disk import Rows
from vae_jax.data.pipeline_checks import check_pipeline_argument
from vae_jax.data.preprocessing import Prepared
from vae_jax.errors import UserError
from vae_jax.example import Example, Examples, event_of, mask_of

PreparedCondition = Mapping[str, Examples]  # by part: an array, a dictionary of arrays by the name of the column, or a table


def with_condition(prepared: Prepared, condition: PreparedCondition) -> Prepared:
    """Adds a condition to data that were prepared without one.

    `training.fit(..., condition=)` does the same. Call this function first where the model needs the length of the condition,
    or where the data are evaluated later.

    Args:
      prepared: data without a condition.
      condition: the conditions of each part of the data; keys train, test, and validation where there is one. Each is an array
        (examples,) or (examples, columns), a dictionary of (examples,) arrays by the name of the column, or a table. Whole
        numbers, booleans and words are categories, which become one-hot vectors, and other numbers are standardized by their
        mean and standard deviation over the training set.

    Returns:
      The prepared data, with `condition` and `condition_dim`.

    Raises:
      UserError: data that have a condition already, parts that do not match, a category that is not in the training set, or
        numbers that are not finite.

    Example:
      >>> from vae_jax import data, likelihoods, model
      >>> digits = data.load("digits")
      >>> prepared = data.prepare(digits, binarization="dynamic")
      >>> prepared = with_condition(prepared, {"train": digits.train_labels, "test": digits.test_labels})
      >>> prepared.condition_dim
      10
      >>> vae = model.mlp_vae(digits.data_shape, likelihoods.bernoulli(), condition_dim=prepared.condition_dim)
    """
    check_pipeline_argument("data.with_condition", prepared, Prepared)
    if prepared.condition is not None:
        raise UserError(
            f"the data have a condition already: {prepared.condition.describe()}.",
            field="condition",
            fix="Leave out this one, or prepare the data without a condition.",
        )
    if prepared.rendered:
        raise UserError(
            "the images of this data set are computed from their factors, and training may draw new ones at every step.",
            field="condition",
            fix="Pass stored images with their conditions: data.from_arrays(images, condition=...).",
        )
    by_part = _columns_by_part(prepared, condition)
    made, stored = make_condition("the data", by_part)

    def joined(part: str) -> Example | None:
        examples = getattr(prepared, part)
        if examples is None:
            return None
        # Beside rows on disk they stay on the host, from where they are read with the rows.
        array = stored[part] if isinstance(event_of(examples), Rows) else jnp.asarray(stored[part])
        return Example(event_of(examples), array, mask_of(examples))

    def to_input(rows: Example, event_input: Callable[[Examples], Examples]) -> Example:
        x = event_input(dataclasses.replace(rows, condition=None) if prepared.has_missing else rows.event)
        return Example(event_of(x), made.expand(rows.condition), mask_of(x))

    def train_input(key: Array, rows: Example) -> Example:
        return to_input(rows, lambda event: prepared.train_input(key, event))

    return prepared._replace(
        train=joined("train"),
        validation=joined("validation"),
        test=joined("test"),
        train_input=train_input,
        eval_input=lambda rows: to_input(rows, prepared.eval_input),
        description=f"{prepared.description}; given {made.describe()}",
        condition=made,
    )


def _columns_by_part(prepared: Prepared, condition: PreparedCondition) -> dict[str, dict[str, np.ndarray]]:
    """Returns the columns of each part by name. Raises `UserError` unless there is a row for each example of each part."""
    examples = {"train": prepared.train, "validation": prepared.validation, "test": prepared.test}
    parts = {part: len(rows) for part, rows in examples.items() if rows is not None}
    listed = ", ".join(map(repr, parts))
    if not isinstance(condition, Mapping):
        raise UserError(
            field="condition",
            expected=f"a dictionary of arrays with the keys {listed}",
            got=f"a {type(condition).__name__}",
            fix="Pass the conditions of each part of the data, in the order of its examples.",
        )
    if set(condition) != set(parts):
        got = ", ".join(map(repr, condition)) or "none"
        raise UserError(field="condition", expected=f"the keys {listed}, which are the parts of the data", got=got)
    for part, given in condition.items():
        if isinstance(given, str) or given is None or not np.size(getattr(given, "shape", given)):
            expected = "an array (examples,) or (examples, columns)"
            raise UserError(field=f"condition[{part!r}]", expected=expected, got=f"{given!r:.60}")
    columns = condition_columns("condition", dict(condition))
    by_part = {part: columns[f"{part}_condition"] for part in parts}
    for part, count in parts.items():
        for name, values in by_part[part].items():
            if np.shape(values) != (count,):
                raise UserError(
                    field=f"condition[{part!r}]",
                    expected=f"one value for each of the {count} examples",
                    got=f"an array of shape {np.shape(values)} for the column {name!r}",
                )
    return by_part
