"""Applies a compiled program to new data, some rows at a time, while a thread reads the next ones."""

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_jax.errors import UserError
from vae_jax.evaluation import DataSlice
from vae_jax.evaluation.dataset_means import effective_batch_size
from vae_jax.example import Examples, event_of
from vae_jax.runs.trained.new_data import NewData

Result = TypeVar("Result")
Report = Callable[[int], None]  # number of rows done

_CHUNK_BYTES = 2**23  # of stored examples in a chunk: more do not make programs faster
_MOST_ROWS = 8192
_MOST_ENTRIES = 2**20  # of examples that the encoder sees together on CPU
_AHEAD = 2  # chunks that are read before they are needed


def chunk_rows(data_shape: tuple[int, ...], batch_size: int | None, most: int = _MOST_ROWS) -> tuple[int, int]:
    """Returns the number of rows in a chunk, and how many of them are computed together.

    Args:
      data_shape: shape of one example.
      batch_size: number of rows that the user asks for; None: as many as fill some megabytes.
      most: largest default.

    Returns:
      Rows in a chunk, and rows computed together, of which the first is a multiple. On CPU the second is always 128, as in
      evaluation, so that no bit depends on `batch_size`.

    Raises:
      UserError: a batch size below 1.
    """
    if batch_size is not None and batch_size < 1:
        raise UserError(field="batch_size", expected="a whole number >= 1", got=batch_size)
    usual = max(1, min(most, _CHUNK_BYTES // max(1, math.prod(data_shape))))
    rows = usual if batch_size is None else batch_size
    at_once = effective_batch_size(rows)
    return -(-rows // at_once) * at_once, at_once


def encoded_together(data_shape: tuple[int, ...]) -> int:
    """Returns the number of rows that the encoder sees together on CPU, a multiple of 128 that no option changes.

    A thousand vectors of 784 numbers are encoded a quarter faster than in parts of 128.
    """
    return 128 * max(1, min(8, _MOST_ENTRIES // (128 * max(1, math.prod(data_shape)))))


def over_batches(
    function: Callable[[DataSlice], Result], examples: Examples, first: Array, count: Array, at_once: int
) -> Result:
    """Computes `function` for the first rows of a chunk, some of them together, inside one program.

    The number of rows that are computed is `count`, rounded up, so that a short chunk takes no more time than it needs.

    Args:
      function: (`DataSlice` of `at_once` rows) -> arrays with a leading axis of rows.
      examples: the chunk, padded to its full size.
      first: index of its first row in the data set.
      count: number of rows that are not padding.
      at_once: rows computed together (static).

    Returns:
      The arrays of `function` for all rows of the chunk; those past `count` are arbitrary.
    """
    num_rows = event_of(examples).shape[0]
    num_batches = -(-num_rows // at_once)

    def compute(i: Array | int) -> Result:
        index = i * at_once + jnp.arange(at_once)
        return function(DataSlice(examples[jnp.where(index < count, index, 0)], first + i * at_once))

    def add(i: Array, results: Result) -> Result:
        write = lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new, i * at_once, 0)  # noqa: E731
        return jax.tree.map(write, results, compute(i))

    shapes = jax.eval_shape(compute, 0)
    empty = jax.tree.map(lambda leaf: jnp.zeros((num_batches * at_once, *leaf.shape[1:]), leaf.dtype), shapes)
    results = jax.lax.fori_loop(0, -(-count // at_once), add, empty)
    return jax.tree.map(lambda leaf: leaf[:num_rows], results)


def map_chunks(
    program: Callable[[Examples, Array, Array], Result], data: NewData, rows: int, report: Report = lambda done: None
) -> Iterator[Result]:
    """Yields the results of a program for one chunk of rows after the other, as arrays on the host.

    A thread reads ahead, and the device computes on one chunk while the results of the one before are used. Memory does not
    grow with the number of rows.

    Args:
      program: compiled (chunk, index of its first row, number of its rows) -> arrays with a leading axis of rows. Every chunk
        has the same shape.
      data: the examples.
      rows: rows in a chunk.
      report: called with the number of rows done.

    Yields:
      Results of consecutive chunks in the order of the data, without padding.
    """
    count = data.num_examples
    with ThreadPoolExecutor(1, "reader") as reader:
        starts, ahead, running = iter(range(0, count, rows)), deque(), deque()

        def read_next() -> None:
            first = next(starts, None)
            if first is not None:
                ahead.append((first, reader.submit(_read, data.examples, first, rows)))

        for _ in range(_AHEAD):
            read_next()
        while ahead or running:
            if ahead:
                first, chunk = ahead.popleft()
                size = min(rows, count - first)
                running.append((first + size, size, program(chunk.result(), jnp.int32(first), jnp.int32(size))))
                read_next()
            if len(running) > 1 or not ahead:
                done, size, results = running.popleft()
                yield jax.tree.map(lambda leaf, size=size: np.asarray(leaf)[:size], results)
                report(done)


def _read(examples: Examples, first: int, rows: int) -> Examples:
    """Reads a chunk into memory, and fills it up with copies of its first row."""

    def padded(array: Any) -> np.ndarray:
        part = np.asarray(array[first : first + rows])
        missing = rows - len(part)
        return np.concatenate([part, np.repeat(part[:1], missing, axis=0)]) if missing else part

    return examples.map(padded) if hasattr(examples, "map") else padded(examples)


def joined(parts: Iterator[Result]) -> Result:
    """Concatenates the results of all chunks."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
