"""Batches of images on disk in the order of an epoch, read ahead by Grain for all members of a program."""

import mmap
from collections.abc import Callable, Generator, Sequence

import numpy as np

from vae_jax.data.on_disk import Rows
from vae_jax.example import Example, Examples

CHUNK_BYTES = 2**22
_NUM_READERS = 4  # threads that read one item each: a disk is faster with several requests at once


class Chunks:
    """Random-access source for Grain. Item i holds the batches of steps i * steps to (i + 1) * steps - 1 of several orders.

    An item has a few megabytes and the shape (orders, steps, batch_size, numbers of a row). Steps past the end of the orders
    hold arbitrary bytes. For an `Example` of rows, an item is an `Example` of such arrays.
    """

    def __init__(self, rows: Rows | Example, orders: Sequence[np.ndarray], steps: int):
        self._rows, self._orders, self._steps = rows, orders, steps

    def __len__(self) -> int:
        return -(-len(self._orders[0]) // self._steps)

    def __getitem__(self, index: int) -> np.ndarray | Example:
        if isinstance(self._rows, Example):
            return self._rows.map(lambda array: self._batches(array, index))
        return self._batches(self._rows, index)

    def _batches(self, rows: Rows | np.ndarray, index: int) -> np.ndarray:
        """Returns the batches of one item, from rows on disk or from an array on the host."""
        width = rows.size // len(rows)
        item = _empty((len(self._orders), self._steps, self._orders[0].shape[1], width), rows.dtype)
        for part, order in zip(item, self._orders, strict=True):
            row_index = order[index * self._steps : (index + 1) * self._steps].ravel()
            out = part.reshape(-1, width)[: len(row_index)]
            if isinstance(rows, Rows):
                rows.gather(row_index, out)
            else:
                np.take(rows.reshape(len(rows), width), row_index, axis=0, out=out)
        return item


def _empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Returns an array in pages of its own, which go back to the system when it is freed.

    The C library would keep a part of them for each thread that has ever read: hundreds of megabytes in a sweep. JAX uses such
    an array in place on CPU, because it begins with a page.
    """
    size = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(mmap.mmap(-1, size), dtype).reshape(shape)


def row_bytes(rows: Rows | Example) -> int:
    """Returns the bytes of one example, with its condition and its mask."""
    arrays = [rows.event, rows.condition, rows.mask] if isinstance(rows, Example) else [rows]
    return sum(array.size // len(array) * array.dtype.itemsize for array in arrays if array is not None)


def steps_of_chunk(rows: Rows | Example, batch_size: int, num_orders: int = 1) -> int:
    """Returns the number of steps whose batches make up an item of a few megabytes: at least one, at most an epoch.

    Items for several orders may be up to four times as large, so that a program is not called for each single step.
    """
    batch_bytes = row_bytes(rows) * batch_size * num_orders
    return max(1, min(CHUNK_BYTES * min(num_orders, 4) // batch_bytes, len(rows) // batch_size))


def chunks(
    rows: Rows | Example,
    orders: Sequence[np.ndarray],
    steps: int,
    put: Callable[[Examples], Examples],
) -> Generator[Examples]:
    """Yields the batches of an epoch on the device, those of several steps at a time.

    Reading runs ahead of the caller, and copies to the device run while the device computes. To profit from this, let the
    device compute on one chunk while asking for the next. The order of an epoch is a function of its key, so a resumed run
    needs only the rest of it: the state of Grain's iterator is never saved. Errors of reading a row are raised here. Close the
    iterator where it is not read to its end.

    Args:
      rows: the training images.
      orders: indices of rows, (steps of the epoch, batch_size), of the members that train on these chunks.
      steps: steps in a chunk.
      put: puts an item, or each array of an `Example`, (orders, steps, batch_size, numbers of a row), on the devices that need
        it.

    Yields:
      The results of `put`.
    """
    if not len(orders[0]):
        return
    import grain  # takes a second, which only streaming needs

    options = grain.ReadOptions(num_threads=_NUM_READERS, prefetch_buffer_size=_NUM_READERS)
    ahead = iter(grain.MapDataset.source(Chunks(rows, orders, steps)).to_iter_dataset(options))
    try:
        for item in ahead:
            # Runs while the device computes on the chunk before. Grain's device_put would add two threads, which hang when one
            # of them fails.
            yield put(item)
    finally:
        ahead.close()
