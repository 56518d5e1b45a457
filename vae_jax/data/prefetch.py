"""Batches of images on disk in the order of an epoch, read ahead by Grain for all members of a program."""

from collections.abc import Callable, Generator, Sequence

import numpy as np
from jax import Array

from vae_jax.data.on_disk import Rows

CHUNK_BYTES = 2**22
_NUM_READERS = 4  # threads that read one item each: a disk is faster with several requests at once


class Chunks:
    """Random-access source for Grain. Its items hold the batches of a few steps for a set of members that are trained together.

    Members with the same order of examples share their batches. Item i * len(sets) + j holds the batches of the steps
    i * steps to (i + 1) * steps - 1, for the orders in `sets[j]`. Its shape is (orders of the set, steps, batch_size, numbers
    of a row). Steps past the end of an order hold arbitrary bytes.

    Args:
      rows: the training images.
      orders: indices of rows, (steps of the epoch, batch_size), one array for each order of the examples.
      sets: indices into `orders`.
      steps: steps in an item.
    """

    def __init__(self, rows: Rows, orders: Sequence[np.ndarray], sets: Sequence[Sequence[int]], steps: int):
        self._rows, self._orders, self._sets, self._steps = rows, orders, sets, steps

    def __len__(self) -> int:
        return -(-len(self._orders[0]) // self._steps) * len(self._sets)

    def __getitem__(self, index: int) -> np.ndarray:
        number, position = divmod(index, len(self._sets))
        chosen = self._sets[position]
        width = self._rows.size // len(self._rows)
        item = np.empty((len(chosen), self._steps, self._orders[0].shape[1], width), self._rows.dtype)
        for part, order in zip(item, chosen, strict=True):
            row_index = self._orders[order][number * self._steps : (number + 1) * self._steps].ravel()
            self._rows.gather(row_index, part.reshape(-1, width)[: len(row_index)])
        return item


def steps_of_chunk(rows: Rows, batch_size: int, num_orders: int = 1) -> int:
    """Returns the number of steps whose batches make up an item of a few megabytes: at least one, at most an epoch.

    Items for several orders may be up to four times as large, so that a program is not called for each single step.
    """
    batch_bytes = rows.size // len(rows) * rows.dtype.itemsize * batch_size * num_orders
    return max(1, min(CHUNK_BYTES * min(num_orders, 4) // batch_bytes, len(rows) // batch_size))


def chunks(
    rows: Rows,
    orders: Sequence[np.ndarray],
    sets: Sequence[Sequence[int]],
    steps: int,
    put: Callable[[np.ndarray, int], Array],
) -> Generator[Array]:
    """Yields the batches of an epoch on the device, those of several steps at a time, for one set of orders after another.

    Reading runs ahead of the caller, and copies to the device run while the device computes. To profit from this, let the
    device compute on one chunk while asking for the next. The order of an epoch is a function of its key, so a resumed run
    needs only the rest of it: the state of Grain's iterator is never saved. Errors of reading a row are raised here. Close the
    iterator where it is not read to its end.

    Args:
      rows, orders, sets, steps: see `Chunks`. All orders have the same length.
      put: (item, index of its set) -> the item on the devices that need it.

    Yields:
      Results of `put`: for the first steps one for each set, and so on.
    """
    if not len(orders[0]):
        return
    import grain  # takes a second, which only streaming needs

    options = grain.ReadOptions(num_threads=_NUM_READERS, prefetch_buffer_size=_NUM_READERS)
    ahead = iter(grain.MapDataset.source(Chunks(rows, orders, sets, steps)).to_iter_dataset(options))
    try:
        for number, item in enumerate(ahead):
            # Runs while the device computes on the chunk before. Grain's device_put would add two threads, which hang when one
            # of them fails.
            yield put(item, number % len(sets))
    finally:
        ahead.close()
