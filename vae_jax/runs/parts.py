"""Applies compiled functions to equal parts of a data set, and reports progress after each."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_jax.data import SparseArray
from vae_jax.model import Params

_NUM_PARTS = 20  # parts of a data set; no number depends on it

Examples = TypeVar("Examples")
Result = TypeVar("Result")
Report = Callable[[int], None]  # number of examples done


def map_parts(
    function: Callable[[Params, Examples, Array], Result], params: Params, data: Examples, report: Callable[[int], None]
) -> Result:
    """Applies a function to equal parts of the data in one compiled program and concatenates the results.

    Args:
      function: (params, part, index of the part's first example) -> arrays with a leading axis of examples.
      params: parameters of the model.
      data: arrays with a leading axis of examples, or a `SparseArray`.
      report: called with the number of examples done.
    """
    is_sparse = lambda examples: isinstance(examples, SparseArray)  # noqa: E731
    count = len(jax.tree.leaves(data, is_leaf=is_sparse)[0])
    size = -(-count // _NUM_PARTS)
    compiled, results = jax.jit(function), []
    for first in range(0, count, size):
        # The last part overlaps with the one before. The shared examples are computed twice, with the same keys, and cut off.
        start = min(first, count - size)
        part = jax.tree.map(lambda leaf, start=start: leaf[start : start + size], data, is_leaf=is_sparse)
        result = jax.device_get(compiled(params, part, jnp.int32(start)))
        results.append(jax.tree.map(lambda leaf, start=start, first=first: leaf[first - start :], result))
        report(min(first + size, count))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *results)
